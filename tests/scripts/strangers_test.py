#!/usr/bin/env python3
"""Strangers at the door of real nodes that are amid rounds: with the wrong certificate or none, with other protocols, by
the thousand, byte by byte, under another's name. Each is refused with a reason that is logged and counted, the node's
memory and descriptors stay bounded, and the members' rounds go on whole. And what a line sees of it all.
Usage: strangers_test.py PROGRAM... [TEST...]: fault-member, and papilio-qualify for certificates"""

import json
import os
import resource
import select
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "faults"))
import frames  # noqa: E402
import harness  # noqa: E402

PROGRAMS = {Path(path).name: os.path.abspath(path) for path in sys.argv[1:] if os.path.isfile(path)}
NAMES = [argument for argument in sys.argv[1:] if not os.path.isfile(argument)]
MEMBERS = 3
ELEMENTS = 64 << 10
MANY = 10_000
HELLO = 1
RUN = "a-run-with-a-name"
frames.FIELDS[HELLO] = {"peer": (0, "32s"), "fingerprint": (1, "16s"), "flows": (6, "H")}


def openssl(*arguments: str, cwd: Path, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, timeout=harness.PATIENCE_S, **kwargs)


class Recorder(harness.Proxy):
    """A line that remembers all that passes."""

    def __init__(self, target: str) -> None:
        self.seen: list[bytes] = []
        super().__init__(target)

    def damaged(self, data: bytes) -> bytes:
        self.seen.append(data)
        return data


class StrangersTest(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="papilio-strangers-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def start(self, *arguments: str, kind: type[harness.Proxy] | None = None) -> harness.Group:
        """A group that averages without end. With `kind`, all that the last says and hears goes through one of those."""
        place = harness.Loopback(MEMBERS)
        group = harness.Group(PROGRAMS["fault-member"], place, self.directory, ELEMENTS, ("--run-id", RUN, *arguments))
        group.__enter__()
        self.addCleanup(lambda: group.__exit__(None, None, None))
        if kind:
            self.line = kind(place.addresses[-1])
            self.addCleanup(self.line.close)
            group.reached_at[-1] = self.line.address
        for each in range(MEMBERS):
            behind = kind is not None and each == MEMBERS - 1
            group.start(each, "--group-size", str(MEMBERS), peers=[] if behind else None)
        for member in group.members:
            member.round(1)
        return group

    def address(self, group: harness.Group) -> tuple[str, int]:
        host, port = group.place.addresses[0].rsplit(":", 1)
        return host, int(port)

    def refused(self, group: harness.Group, reason: str) -> int:
        """How often so far, as the node itself counts."""
        return group.members[0].rounds()[-1].refused.get(reason, 0)

    def wait_until_counted(self, group: harness.Group, reason: str, count: int) -> None:
        give_up = time.monotonic() + harness.PATIENCE_S
        while self.refused(group, reason) < count:
            self.assertLess(time.monotonic(), give_up, f"{reason} was not counted\n{group.members[0].tail()}")
            group.members[0].rounds_after(group.members[0].rounds()[-1].epoch, 1)

    def expect_unharmed(self, group: harness.Group, since: int = 0) -> None:
        """The members' rounds went on whole, all the while; `since`: before that epoch, one may have begun without one of
        them, whose machine had its hands full, but nobody was harmed."""
        for member in group.members:
            member.rounds_after(member.rounds()[-1].epoch, 2)
            for round_ in member.rounds():
                if round_.epoch >= since:
                    self.assertEqual((round_.members, round_.coverage), (MEMBERS, 1), member.tail())
                self.assertEqual((round_.wrong, round_.cut_off(), round_.banned()), (0, {}, set()), member.tail())

    # ---- keys and certificates, by somebody else's program

    def make_key(self, name: str, kind: str = "ED25519") -> None:
        options = ("-pkeyopt", "rsa_keygen_bits:2048") if kind == "RSA" else ()
        openssl("genpkey", "-algorithm", kind, *options, "-out", f"{name}.key", cwd=self.directory, check=True)

    def make_certificate(self, name: str, kind: str = "ED25519") -> None:
        self.make_key(name, kind)
        openssl("req", "-x509", "-new", "-key", f"{name}.key", "-subj", "/CN=stranger", "-days", "30", "-out", f"{name}.pem",
                cwd=self.directory, check=True)

    def make_expired(self, name: str) -> None:
        self.make_key(name)
        (self.directory / "ca.conf").write_text(
            "[ca]\ndefault_ca=a\n[a]\ndatabase=ca.db\nserial=ca.serial\nnew_certs_dir=.\ndefault_md=default\npolicy=p\n"
            "[p]\ncommonName=supplied\n")
        (self.directory / "ca.db").write_text("")
        (self.directory / "ca.serial").write_text("01\n")
        openssl("req", "-new", "-key", f"{name}.key", "-subj", "/CN=stranger", "-out", f"{name}.csr", cwd=self.directory,
                check=True)
        made = openssl("ca", "-batch", "-selfsign", "-config", "ca.conf", "-keyfile", f"{name}.key", "-in", f"{name}.csr",
                       "-startdate", "20200101000000Z", "-enddate", "20210101000000Z", "-notext", "-out", f"{name}.pem",
                       cwd=self.directory)
        self.assertEqual(made.returncode, 0, made.stderr.decode())

    def make_forged(self, name: str) -> None:
        """Signed with another key than its own."""
        self.make_certificate("issuer")
        self.make_key(name)
        openssl("req", "-new", "-key", f"{name}.key", "-subj", "/CN=stranger", "-out", f"{name}.csr", cwd=self.directory,
                check=True)
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "issuer.pem", "-CAkey", "issuer.key", "-CAcreateserial",
                "-days", "30", "-out", f"{name}.pem", cwd=self.directory, check=True)

    def s_client(self, group: harness.Group, *arguments: str) -> str:
        host, port = self.address(group)
        done = openssl("s_client", "-connect", f"{host}:{port}", "-ign_eof", *arguments, cwd=self.directory, input=b"hello\n")
        return (done.stdout + done.stderr).decode(errors="replace")

    def dial(self, group: harness.Group, name: str) -> ssl.SSLSocket:
        """As a peer does it, with that certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        connection = socket.create_connection(self.address(group), timeout=harness.PATIENCE_S)
        secured = context.wrap_socket(connection)
        self.addCleanup(secured.close)
        return secured

    @staticmethod
    def read_to_end(connection: socket.socket) -> bytes:
        """What comes before the other side is done with it, however it ends that."""
        received = b""
        try:
            while data := connection.recv(1 << 16):
                received += data
        except (ConnectionError, ssl.SSLError):
            pass
        return received

    # ---- TLS

    def test_certificates_that_are_no_nodes(self) -> None:
        group = self.start()
        self.make_certificate("rsa", "RSA")
        self.make_expired("expired")
        self.make_forged("forged")
        cases = [
            ([], "certificate required", "it shows no certificate"),
            (["-cert", "rsa.pem", "-key", "rsa.key"], "alert", "not secure"),
            (["-cert", "expired.pem", "-key", "expired.key"], "alert", "its certificate has expired"),
            (["-cert", "forged.pem", "-key", "forged.key"], "alert", "its certificate is forged"),
            (["-tls1_2"], "alert protocol version", "it does not speak TLS 1.3"),
        ]
        for count, (arguments, told, logged) in enumerate(cases, 1):
            with self.subTest(logged):
                self.assertIn(told, self.s_client(group, *arguments))
                self.wait_until_counted(group, "not-secure", count)
        # One line for each kind of trouble within a while, and the rest is counted.
        group.members[0].wait_for_log("not secure: it shows no certificate")
        self.expect_unharmed(group)

    def test_a_key_of_its_own_and_then_nonsense(self) -> None:
        """Whoever has a key may speak; what it says has to be the protocol."""
        group = self.start()
        self.make_certificate("stranger")
        for count, words in enumerate((b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".ljust(200), os.urandom(4096),
                                       frames.PREAMBLE.pack(0x314c5050, frames.CONTRIBUTION, 2, 16, 1 << 31, 0).ljust(128, b"\0")), 1):
            connection = self.dial(group, "stranger")
            connection.sendall(words)
            self.assertEqual(self.read_to_end(connection), b"")
            self.wait_until_counted(group, "protocol-violation", count)
        self.expect_unharmed(group)

    def test_under_anothers_name(self) -> None:
        group = self.start()
        self.make_certificate("stranger")
        victim = bytes.fromhex(harness.peer_id_of(self.directory / "state-1"))
        hello = frames.Frame.make(HELLO, {"peer": victim, "fingerprint": bytes(16), "flows": 1}, b"", 2).bytes()
        connection = self.dial(group, "stranger")
        connection.sendall(hello)
        self.assertIn(b"hash of its own key", self.read_to_end(connection))
        self.wait_until_counted(group, "wrong-identity", 1)
        group.members[0].wait_for_log(f"refused \\(wrong-identity\\): the hello is from {victim.hex()[:8]}")
        self.expect_unharmed(group)

    # ---- below TLS

    def test_other_protocols_in_the_clear(self) -> None:
        group = self.start()
        hello = frames.Frame.make(HELLO, {"peer": bytes(32), "fingerprint": bytes(16), "flows": 1}, b"", 2).bytes()
        for count, words in enumerate((os.urandom(1 << 16), b"SSH-2.0-OpenSSH_9.2\r\n", bytes(1 << 12), hello), 1):
            with socket.create_connection(self.address(group), timeout=harness.PATIENCE_S) as connection:
                try:
                    connection.sendall(words)
                except ConnectionError:
                    pass
                received = self.read_to_end(connection)
            self.wait_until_counted(group, "not-secure", count)
        self.assertIn(b"encrypted connections only", received, "a node without encryption is told what is wrong")
        self.expect_unharmed(group)

    def test_ten_thousand_connections(self) -> None:
        """Opened and left: most are turned away, the rest is closed in time, and nobody else notices."""
        group = self.start("--door-local-handshakes", "256")
        before = group.members[0].rounds()[-1]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        at_once = min(MANY, hard - 500)
        opened, left, most_descriptors, most_bytes = 0, [], 0, 0
        while opened < MANY:
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(self.address(group))
            left.append(connection)
            opened += 1
            if len(left) >= at_once:
                left.pop(0).close()
            if opened % 500 == 0:
                seen = group.members[0].rounds()[-1]
                most_descriptors, most_bytes = max(most_descriptors, seen.descriptors), max(most_bytes, seen.resident_bytes)
        self.addCleanup(lambda: [connection.close() for connection in left])
        give_up = time.monotonic() + harness.PATIENCE_S
        turned_away = ("too-many-handshakes", "too-often", "too-many-here", "too-many-in-total")
        while (sum(self.refused(group, reason) for reason in turned_away)
               + self.refused(group, "no-hello-in-time") < MANY // 2):
            self.assertLess(time.monotonic(), give_up, group.members[0].tail())
            after = group.members[0].rounds_after(group.members[0].rounds()[-1].epoch, 1)[0]
            most_descriptors, most_bytes = max(most_descriptors, after.descriptors), max(most_bytes, after.resident_bytes)
        self.wait_until_counted(group, "no-hello-in-time", 1)
        print(f"{MANY} connections: at most {most_descriptors - before.descriptors} descriptors and "
              f"{(most_bytes - before.resident_bytes) / (1 << 20):.0f} MiB more")
        self.assertLess(most_descriptors, before.descriptors + 400)
        self.assertLess(most_bytes, before.resident_bytes + (64 << 20))
        self.expect_unharmed(group, since=max(member.rounds()[-1].epoch for member in group.members))

    def test_a_hello_byte_by_byte(self) -> None:
        group = self.start()
        self.make_certificate("stranger")
        hello = frames.Frame.make(HELLO, {"peer": bytes(32), "fingerprint": bytes(16), "flows": 1}, b"", 2).bytes()
        connection = self.dial(group, "stranger")
        give_up = time.monotonic() + harness.PATIENCE_S
        try:
            for each in range(len(hello)):
                self.assertLess(time.monotonic(), give_up)
                connection.sendall(hello[each:each + 1])
                if select.select([connection], [], [], 0.25)[0] and self.read_to_end(connection) == b"":
                    break  # it has lost patience
        except (ConnectionError, ssl.SSLError):
            pass
        self.wait_until_counted(group, "no-hello-in-time", 1)
        self.expect_unharmed(group)

    # ---- what a line sees

    def what_passes(self, *arguments: str) -> tuple[bytes, list[bytes]]:
        """All that passed to and from one member, and what must not be found in it."""
        group = self.start(*arguments, kind=Recorder)
        for member in group.members:
            member.rounds_after(member.rounds()[-1].epoch, 1)
        secrets = [RUN.encode()]
        for index in range(MEMBERS):
            peer = harness.peer_id_of(self.directory / f"state-{index}")
            secrets += [bytes.fromhex(peer), peer[:8].encode()]
            for epoch in range(2):
                secrets.append(gradient_begin(bytes.fromhex(peer), epoch))
        for member in group.members:
            member.leave()
        return b"".join(self.line.seen), secrets

    def test_a_line_sees_no_names_and_no_numbers(self) -> None:
        seen, secrets = self.what_passes()
        self.assertGreater(len(seen), 4 * ELEMENTS)
        self.assertEqual([secret for secret in secrets if secret in seen], [])
        self.assertNotIn(b"PPL1", seen)

    def test_without_encryption_a_line_sees_them(self) -> None:
        """That the test before this one would find what it looks for."""
        seen, secrets = self.what_passes("--security", "none")
        found = [secret for secret in secrets if secret in seen]
        self.assertIn(RUN.encode(), found)
        self.assertTrue(any(len(secret) == 32 for secret in found), "ids")
        self.assertTrue(any(len(secret) == GRADIENT_BYTES for secret in found), "values")

    # ---- who has not qualified

    def test_without_a_certificate_nobody_lets_it_in(self) -> None:
        port = harness.free_ports(1)[0]
        judge = subprocess.Popen([PROGRAMS["papilio-qualify"], "serve", "--listen", f"127.0.0.1:{port}", "--shortest", "1.5s", "--state-dir", "judge",
                                  "--every", "0"], cwd=self.directory, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(judge.stderr.close)
        self.addCleanup(judge.stdout.close)
        self.addCleanup(judge.wait)
        self.addCleanup(judge.terminate)
        wait_for_port(port)
        judge_id = harness.peer_id_of(self.directory / "judge")
        for index in range(MEMBERS):
            tested = subprocess.run([PROGRAMS["papilio-qualify"], "run", "--peer", f"127.0.0.1:{port}", "--state-dir",
                                     f"state-{index}", "--seconds", "5", "--json", "-", "--min-up", "1Mbps", "--min-down", "1Mbps"],
                                    cwd=self.directory, capture_output=True, text=True, timeout=harness.PATIENCE_S)
            self.assertEqual(tested.returncode, 0, tested.stderr)
            self.assertTrue(json.loads(tested.stdout)["qualified"])
        group = self.start("--judge", judge_id, "--min-up", "1Mbps", "--min-down", "1Mbps")
        late = self.start_outsider(group, judge_id)
        text = late.communicate(timeout=harness.PATIENCE_S)[1]
        self.assertNotEqual(late.returncode, 0)
        self.assertIn("not-qualified", text)
        for member in group.members:
            member.wait_for_log("refused \\(not-qualified\\): no-certificate")
        self.expect_unharmed(group)

    def start_outsider(self, group: harness.Group, judge_id: str) -> subprocess.Popen:
        dialled = [word for address in group.place.addresses for word in ("--peer", address)]
        return subprocess.Popen([PROGRAMS["fault-member"], "--listen", f"127.0.0.1:{harness.free_ports(1)[0]}", *dialled,
                                 "--elements", str(ELEMENTS), "--target-batch", str(MEMBERS), "--state-dir",
                                 str(self.directory / "outsider"), "--run-id", RUN, "--judge", judge_id, "--join-timeout", "3s"],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_port(port: int) -> None:
    give_up = time.monotonic() + harness.PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > give_up:
                raise
            threading.Event().wait(0.05)


# ---- the gradient of a fault-member (tests/faults/member.cc)

GRADIENT_BYTES = 64
MASK64 = (1 << 64) - 1


def mix(value: int) -> int:
    value = ((value ^ value >> 30) * 0xbf58476d1ce4e5b9) & MASK64
    value = ((value ^ value >> 27) * 0x94d049bb133111eb) & MASK64
    return value ^ value >> 31


def gradient_begin(peer: bytes, epoch: int) -> bytes:
    key = mix(int.from_bytes(peer[:8], "little") ^ mix(epoch + 1))
    values = []
    for element in range(GRADIENT_BYTES // 4):
        bits = (element * 2654435761 ^ key) & 0xffffffff
        bits = ((bits ^ bits >> 16) * 0x85ebca6b + (key >> 32)) & 0xffffffff
        bits = ((bits ^ bits >> 13) * 0xc2b2ae35) & 0xffffffff
        bits ^= bits >> 16
        signed = bits - (1 << 32) if bits >= 1 << 31 else bits
        values.append((signed >> 8) * 2.0 ** -23)
    return struct.pack(f"<{len(values)}f", *values)


if __name__ == "__main__":
    tests = unittest.TestSuite()
    loader = unittest.defaultTestLoader
    if NAMES:
        tests.addTests(StrangersTest(name) for name in NAMES)
    else:
        tests.addTests(loader.loadTestsFromTestCase(StrangersTest))
    sys.exit(0 if unittest.TextTestRunner(verbosity=2).run(tests).wasSuccessful() else 1)
