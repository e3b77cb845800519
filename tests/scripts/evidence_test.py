#!/usr/bin/env python3
"""Evidence of real processes: three nodes train and keep signed reports; papilio-verify finds them genuine and of one mind,
finds every change, demands signers, and answers what its user does wrong.
Usage: evidence_test.py PROGRAM... (nothing is tested unless papilio-node and papilio-verify are among them)"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import unittest

PATIENCE_S = 120
DONE, NOT_SO, USAGE, RUNTIME = 0, 1, 2, 3
PROGRAMS = {pathlib.Path(path).name: os.path.abspath(path) for path in sys.argv[1:]}
NODE = PROGRAMS.get("papilio-node", "")
VERIFY = PROGRAMS.get("papilio-verify", "")
NODES, STEPS = 3, 4


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class EvidenceTest(unittest.TestCase):
    directory: pathlib.Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.temporary = tempfile.TemporaryDirectory()
        cls.directory = pathlib.Path(cls.temporary.name)
        ports = free_ports(NODES)
        # The last one keeps two files only.
        nodes = [cls.start_node(number, ports, "--evidence-files", "2" if number == NODES - 1 else "1000")
                 for number in range(NODES)]
        try:
            cls.outputs = [each.communicate(timeout=PATIENCE_S)[0] for each in nodes]
        finally:
            for each in nodes:
                each.kill()
        cls.codes = [each.returncode for each in nodes]
        cls.ids = [json.loads((cls.directory / f"node{number}.json").read_text())["peer_id"] if cls.codes[number] == DONE
                   else "" for number in range(NODES)]

    @classmethod
    def tearDownClass(cls) -> None:
        cls.temporary.cleanup()

    @classmethod
    def start_node(cls, number: int, ports: list[int], *arguments: str) -> subprocess.Popen:
        peers = [word for port in ports if port != ports[number] for word in ("--peer", f"127.0.0.1:{port}")]
        return subprocess.Popen(
            [NODE, "--listen", f"127.0.0.1:{ports[number]}", *peers, "--model", "tiny", "--batch", "2",
             "--target-batch", "12", "--steps", str(STEPS), "--state-dir", f"state{number}", "--evidence-dir",
             f"evidence/{number}", "--json", f"node{number}.json", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            cwd=cls.directory)

    def setUp(self) -> None:
        for code, output in zip(self.codes, self.outputs):
            self.assertEqual(code, DONE, output)

    def verify(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([VERIFY, *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              timeout=PATIENCE_S, cwd=self.directory, check=False)

    def reports(self, number: int) -> list[pathlib.Path]:
        return sorted((self.directory / "evidence" / str(number)).iterdir())

    def test_reports_are_genuine_and_of_one_mind(self) -> None:
        files = [each for number in range(NODES) for each in self.reports(number)]
        for number in range(NODES - 1):
            names = [each.name for each in self.reports(number)]
            self.assertEqual(names, [f"round-{round:08d}-{self.ids[number][:8]}.report"
                                     for round in range(1, STEPS + 1)])
        self.assertEqual(len(self.reports(NODES - 1)), 2)
        result = self.verify("--compare", "--json", "verified.json", *files)
        self.assertEqual(result.returncode, DONE, result.stdout + result.stderr)
        document = json.loads((self.directory / "verified.json").read_text())
        self.assertTrue(document["genuine"])
        self.assertEqual(document["contradictions"], [])
        self.assertEqual({each["signer"] for each in document["files"]}, set(self.ids))
        for each in document["files"]:
            self.assertEqual((each["kind"], each["genuine"], each["objection"]), ("round report", True, ""))
            content = each["content"]
            self.assertEqual({member["peer"] for member in content["roster"]["members"]}, set(self.ids))
            self.assertEqual({member["peer"] for member in content["members"]}, set(self.ids))
        by_round = {}
        for each in document["files"]:
            by_round.setdefault(each["content"]["round"], set()).add(each["content"]["digest"])
        self.assertEqual(sorted(by_round), list(range(1, STEPS + 1)))
        self.assertTrue(all(len(digests) == 1 for digests in by_round.values()), by_round)

    def test_every_change_is_found(self) -> None:
        whole = self.reports(0)[0].read_bytes()
        changed = self.directory / "changed.report"
        found = 0
        for at in range(16, len(whole), 97):
            changed.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
            result = self.verify(changed)
            self.assertIn(result.returncode, (DONE, NOT_SO), result.stderr)
            found += result.returncode == NOT_SO
        self.assertGreater(found, len(range(16, len(whole), 97)) * 0.9)
        for bytes_left in (0, 7, len(whole) // 2, len(whole) - 16):
            changed.write_bytes(whole[:bytes_left])
            self.assertEqual(self.verify(changed).returncode, NOT_SO)
        changed.write_bytes(whole)
        self.assertEqual(self.verify(changed).returncode, DONE)

    def test_signers_can_be_demanded(self) -> None:
        report = self.reports(0)[0]
        self.assertEqual(self.verify("--signer", self.ids[0], report).returncode, DONE)
        other = self.verify("--signer", self.ids[1], report)
        self.assertEqual(other.returncode, NOT_SO)
        self.assertIn("somebody else signed it", other.stdout)
        key = json.loads(self.verify("--json", "-", report).stdout)["files"][0]["key"]
        self.assertEqual(self.verify("--key", key, report).returncode, DONE)
        self.assertEqual(self.verify("--key", key[::-1], report).returncode, NOT_SO)
        self.assertEqual(self.verify("--signer", self.ids[0], report, self.reports(1)[0]).returncode, NOT_SO)

    def test_the_users_mistakes(self) -> None:
        report = str(self.reports(0)[0])
        cases = [
            ([], USAGE, ["FILE"]),
            (["--signer", "1f3a", report], USAGE, ["--signer", "'1f3a'", "64 hexadecimal"]),
            (["--key", "x" * 64, report], USAGE, ["--key", "64 hexadecimal"]),
            (["--json", "no/a.json", report], USAGE, ["--json", "'no/a.json'"]),
            (["not-there.report"], RUNTIME, ["'not-there.report'", "cannot be read"]),
            (["evidence"], RUNTIME, ["'evidence'", "cannot be read"]),
            ([report, "not-there.report"], RUNTIME, ["not-there.report"]),
        ]
        for arguments, code, parts in cases:
            result = self.verify(*arguments)
            self.assertEqual(result.returncode, code, f"{arguments}: {result.stderr}")
            for part in parts:
                self.assertIn(part, result.stderr, arguments)
        (self.directory / "a-file").write_text("x")
        node = subprocess.run([NODE, "--listen", "127.0.0.1:0", "--evidence-dir", "a-file"], capture_output=True,
                              text=True, timeout=PATIENCE_S, cwd=self.directory, check=False)
        self.assertEqual(node.returncode, USAGE)
        self.assertIn("--evidence-dir: 'a-file'", node.stderr)


if __name__ == "__main__":
    if not NODE or not VERIFY:
        print("left out: evidence (a build without training has no papilio-node)")
        sys.exit(77)
    tests = unittest.defaultTestLoader.loadTestsFromTestCase(EvidenceTest)
    sys.exit(0 if unittest.TextTestRunner(verbosity=2).run(tests).wasSuccessful() else 1)
