#!/usr/bin/env python3
"""Bans between real processes: a banned node knocks and is told why; the ban survives restarts and kills of the node that
keeps it; `papilio-node bans` shows and clears it, also while that node runs; what its user can do wrong; and who
a node is.
Usage: bans_test.py PROGRAM... (nothing is tested unless papilio-node is among them)"""

import json
import os
import pathlib
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "faults"))

from harness import peer_id_of  # noqa: E402

PATIENCE_S = 60
DONE, NOT_SO, USAGE, RUNTIME = 0, 1, 2, 3
PROGRAMS = {pathlib.Path(path).name: os.path.abspath(path) for path in sys.argv[1:]}
NODE = PROGRAMS.get("papilio-node", "")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Process:
    """A child whose output is collected as it comes."""

    def __init__(self, test: unittest.TestCase, *arguments: str) -> None:
        self.child = subprocess.Popen([NODE, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True, errors="replace", cwd=test.directory)
        self.changed = threading.Condition()
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self.collect, daemon=True)
        self.thread.start()
        test.addCleanup(self.end, signal.SIGKILL)

    def collect(self) -> None:
        with self.child.stdout:
            for line in self.child.stdout:
                with self.changed:
                    self.lines.append(line)
                    self.changed.notify_all()

    def text(self) -> str:
        with self.changed:
            return "".join(self.lines)

    def wait_for(self, pattern: str) -> str:
        def found() -> str:
            return next((line for line in self.lines if re.search(pattern, line)), "")
        with self.changed:
            if not self.changed.wait_for(found, PATIENCE_S):
                raise AssertionError(f"no line with {pattern!r} came:\n{''.join(self.lines)}")
            return found()

    def exit_code(self) -> int:
        code = self.child.wait(PATIENCE_S)
        self.thread.join(PATIENCE_S)
        return code

    def end(self, with_signal: int) -> int:
        if self.child.poll() is None:
            self.child.send_signal(with_signal)
        return self.exit_code()


class BansTest(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def start_node(self, name: str, listen: int, peers: list[int], *arguments: str) -> Process:
        dialled = [word for port in peers for word in ("--peer", f"127.0.0.1:{port}")]
        return Process(self, "--listen", f"127.0.0.1:{listen}", *dialled, "--model", "tiny", "--batch", "2",
                       "--target-batch", "8", "--steps", "3", "--state-dir", name, *arguments)

    def id_of(self, name: str) -> str:
        return peer_id_of(pathlib.Path(self.directory) / name)

    def make_state(self, name: str) -> str:
        """A node's directory as a first start leaves it; its id."""
        node = self.start_node(name, free_ports(1)[0], [free_ports(1)[0]])
        node.wait_for("listening on")
        self.assertEqual(node.end(signal.SIGINT), DONE, node.text())
        return self.id_of(name)

    def ban(self, name: str, peer: str, seconds: int = 3600, evidence: str = "it froze for 12.3 s") -> None:
        """Writes a ban into the node's file, as the node itself would have."""
        now = int(time.time())
        database = sqlite3.connect(pathlib.Path(self.directory) / name / "bans.sqlite", timeout=PATIENCE_S)
        with database:
            database.execute("INSERT OR REPLACE INTO peers VALUES (?,0,0,?,1,1,?,0,'slow',?,?,?,?,NULL)",
                             (bytes.fromhex(peer), now, now + seconds, evidence, now, now, now + seconds))
        database.close()

    def bans(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([NODE, "bans", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              timeout=PATIENCE_S, cwd=self.directory, check=False)

    def listed(self, name: str) -> list[dict]:
        result = self.bans("list", "--state-dir", name, "--json", "-")
        self.assertEqual(result.returncode, DONE, result.stderr)
        return json.loads(result.stdout)["peers"]

    def test_a_node_says_who_it_is_and_stays_it(self) -> None:
        def answer(*arguments: str) -> subprocess.CompletedProcess:
            return subprocess.run([NODE, "id", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                                  timeout=PATIENCE_S, cwd=self.directory, check=False)
        first = answer("--state-dir", "new/state")
        self.assertEqual((first.returncode, first.stderr), (DONE, ""))
        self.assertRegex(first.stdout, r"\A[0-9a-f]{64}\n\Z")
        self.assertEqual(answer("--state-dir", "new/state").stdout, first.stdout)
        document = json.loads(answer("--state-dir", "new/state", "--json", "-").stdout)
        self.assertEqual(document["peer"], first.stdout.strip())
        self.assertNotEqual(answer("--state-dir", "other").stdout, first.stdout)
        key = pathlib.Path(self.directory) / "new/state/identity.pem"
        self.assertEqual(key.stat().st_mode & 0o777, 0o600)
        key.chmod(0o640)
        refused = answer("--state-dir", "new/state")
        self.assertEqual((refused.returncode, refused.stdout), (USAGE, ""))
        self.assertIn("identity.pem", refused.stderr)
        self.assertIn("chmod 600", refused.stderr)
        self.assertEqual(answer().returncode, USAGE)

    def test_a_banned_node_is_told_and_comes_back_when_it_is_forgiven(self) -> None:
        judge_port, offender_port = free_ports(2)
        self.make_state("judge")
        offender_id = self.make_state("offender")
        self.ban("judge", offender_id)
        judge = self.start_node("judge", judge_port, [], "--group-size", "2", "--json", "judge.json")
        judge.wait_for("listening on")
        offender = self.start_node("offender", offender_port, [judge_port])
        told = offender.wait_for("refuses this node: banned until")
        self.assertRegex(told, rf"127.0.0.1:{judge_port} refuses this node: banned until \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ "
                               r"\(slow: it froze for 12.3 s\); trying again every 30 s")
        judge.wait_for(rf"\({offender_id[:8]}\): refused \(banned\): until ")
        self.assertEqual(offender.end(signal.SIGINT), DONE, offender.text())

        # Killed and started again, the judge has not forgotten; the offender is still the same.
        judge.end(signal.SIGKILL)
        judge = self.start_node("judge", judge_port, [], "--group-size", "2", "--json", "judge.json")
        judge.wait_for("listening on")
        offender = self.start_node("offender", offender_port, [judge_port], "--join-timeout", "2s")
        offender.wait_for("refuses this node: banned until")
        self.assertEqual(offender.exit_code(), RUNTIME, offender.text())
        self.assertRegex(offender.text(), r"papilio-node: only 1 of 2 members are here.*refuses this node: banned until")

        self.assertEqual([each["peer"] for each in self.listed("judge")], [offender_id])
        cleared = self.bans("clear", "--state-dir", "judge", "--peer", offender_id[:8])
        self.assertEqual((cleared.returncode, cleared.stdout), (DONE, "1 peer forgiven\n"), cleared.stderr)
        judge.wait_for(f"{offender_id[:8]}: its bans and strikes were cleared")
        offender = self.start_node("offender", offender_port, [judge_port], "--json", "offender.json")
        for node in (judge, offender):
            self.assertEqual(node.exit_code(), DONE, node.text())
        for name in ("judge.json", "offender.json"):
            document = json.loads((pathlib.Path(self.directory) / name).read_text())
            self.assertEqual([each["banned"] for each in document["rounds"]], [0, 0, 0])
        self.assertEqual(self.listed("judge"), [])

    def test_the_table_and_the_document(self) -> None:
        self.make_state("state")
        for number, seconds in ((1, 600), (2, 7200), (3, 3600)):
            self.ban("state", f"{number:02x}" * 32, seconds, evidence="a \x1b[2Jtrick" if number == 1 else "too slow")
        listed = self.listed("state")
        self.assertEqual([each["peer"][:2] for each in listed], ["02", "03", "01"])
        first = listed[0]
        self.assertEqual({key: first[key] for key in ("banned", "reason", "strikes", "times_banned", "evidence")},
                         {"banned": True, "reason": "slow", "strikes": 0, "times_banned": 1, "evidence": "too slow"})
        for key in ("since", "until"):
            self.assertRegex(first[key], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        table = self.bans("list", "--state-dir", "state")
        self.assertEqual(table.returncode, DONE)
        self.assertEqual(len(table.stdout.splitlines()), 4, table.stdout)
        self.assertNotIn("\x1b", table.stdout)
        one = self.bans("list", "--state-dir", "state", "--peer", "0202020202")
        self.assertEqual(len(one.stdout.splitlines()), 2, one.stdout)
        self.assertEqual(self.bans("clear", "--state-dir", "state", "--peer", "03" * 32).returncode, DONE)
        self.assertEqual([each["peer"][:2] for each in self.listed("state")], ["02", "01"])
        everybody = self.bans("clear", "--state-dir", "state", "--json", "-")
        self.assertEqual(len(json.loads(everybody.stdout)["cleared"]), 2)
        self.assertEqual(self.bans("list", "--state-dir", "state").stdout, "nobody is banned or has strikes\n")

    def test_the_users_mistakes(self) -> None:
        pathlib.Path(self.directory, "state").mkdir()
        pathlib.Path(self.directory, "foreign").mkdir()
        pathlib.Path(self.directory, "foreign", "bans.sqlite").write_bytes(b"x" * 5000)
        pathlib.Path(self.directory, "twins").mkdir()
        self.make_state("twins")
        self.ban("twins", "ab" * 31 + "01")
        self.ban("twins", "ab" * 31 + "02")
        cases = [
            ([], USAGE, ["command is missing", "list, clear"]),
            (["lisst"], USAGE, ["'lisst'", "'list'"]),
            (["list"], USAGE, ["--state-dir", "required"]),
            (["list", "--state-dir", "not-there"], USAGE, ["'not-there'", "not a directory", "started with"]),
            (["list", "--state-dir", "state", "--peer", "xyz"], USAGE, ["--peer", "'xyz'", "hexadecimal"]),
            (["list", "--state-dir", "state", "--peer", "abc"], USAGE, ["--peer", "'abc'", "8 to 64"]),
            (["list", "--state-dir", "state", "--peer", "0" * 65], USAGE, ["--peer", "8 to 64"]),
            (["clear", "--state-dir", "twins", "--peer", "abababab"], USAGE, ["'abababab'", "2 ids", "more digits"]),
            (["list", "--state-dir", "foreign"], RUNTIME, ["foreign/bans.sqlite", "not a list of bans", "move it away"]),
            (["clear", "--state-dir", "foreign"], RUNTIME, ["foreign/bans.sqlite", "not a list of bans"]),
            (["list", "--state-dir", "state", "--json", "no/a.json"], USAGE, ["--json", "'no/a.json'", "directory"]),
        ]
        for arguments, code, parts in cases:
            result = self.bans(*arguments)
            self.assertEqual(result.returncode, code, f"{arguments}: {result.stderr}")
            for part in parts:
                self.assertIn(part, result.stderr, arguments)
        for command in ("list", "clear"):
            self.assertEqual(self.bans(command, "--state-dir", "state").returncode, DONE)
            self.assertEqual(self.bans(command, "--state-dir", "state", "--peer", "01234567").returncode, NOT_SO)
            self.assertEqual(self.bans(command, "--help").returncode, DONE)
        self.assertEqual(os.listdir(pathlib.Path(self.directory, "state")), [], "looking makes nothing")
        self.assertEqual(len(self.listed("twins")), 2)

    def test_one_directory_is_one_nodes(self) -> None:
        one, other = free_ports(2)
        first = self.start_node("state", one, [other])
        first.wait_for("listening on")
        second = self.start_node("state", other, [one])
        self.assertEqual(second.exit_code(), RUNTIME, second.text())
        self.assertRegex(second.text(), rf"papilio-node: state-dir: 'state' is in use by another node \(process "
                                        rf"{first.child.pid}\): end that one, or name another directory")
        first.end(signal.SIGKILL)
        third = self.start_node("state", other, [one])
        third.wait_for("listening on")
        pathlib.Path(self.directory, "state", "identity.pem").write_text("nonsense")
        third.end(signal.SIGKILL)
        fourth = self.start_node("state", other, [one])
        self.assertEqual(fourth.exit_code(), USAGE, fourth.text())
        self.assertRegex(fourth.text(), "papilio-node: state-dir: key file 'state/identity.pem' holds no Ed25519 private key")


if __name__ == "__main__":
    if not NODE:
        print("left out: bans (a build without training has no papilio-node)")
        sys.exit(77)
    tests = unittest.defaultTestLoader.loadTestsFromTestCase(BansTest)
    sys.exit(0 if unittest.TextTestRunner(verbosity=2).run(tests).wasSuccessful() else 1)
