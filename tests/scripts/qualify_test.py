#!/usr/bin/env python3
"""papilio-qualify as real processes: judge and candidate on this host, and on a shaped line between two network
namespaces where those can be made. Usage: qualify_test.py SOURCE_ROOT PROGRAM... (those that were built)"""

import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

# For anything that should come at once: generous, because machines that run tests are busy.
PATIENCE_S = 60
DONE, NOT_SO, USAGE, RUNTIME = 0, 1, 2, 3
ROOT = pathlib.Path(sys.argv[1])
QUALIFY = next((os.path.abspath(path) for path in sys.argv[2:] if pathlib.Path(path).name == "papilio-qualify"), "")
SHORT = ["--seconds", "2"]
EASY = ["--min-up", "1Kbps", "--min-down", "1Kbps", "--max-rtt", "5s"]  # whatever else the machine is doing


def qualify(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([QUALIFY, *arguments], capture_output=True, text=True, timeout=PATIENCE_S,
                          stdin=subprocess.DEVNULL, check=False)


class Judge:
    """papilio-qualify serve on a port of its choice."""

    def __init__(self, test: unittest.TestCase, *arguments: str) -> None:
        if "--shortest" not in arguments:
            arguments += ("--shortest", "1.5s")  # the tests here are
        self.child = subprocess.Popen([QUALIFY, "serve", "--listen", "127.0.0.1:0", *arguments], text=True,
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        test.addCleanup(self.end)
        found = re.fullmatch(r"judge ([0-9a-f]{64}) listens on (\S+).*\n", self.child.stdout.readline())
        test.assertIsNotNone(found)
        self.id, self.address = found.groups()

    def end(self) -> int:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGINT)
        self.child.communicate(timeout=PATIENCE_S)
        return self.child.returncode


class Qualify(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def state(self, name: str) -> list[str]:
        return ["--state-dir", str(self.folder / name)]

    def test_a_line_that_will_do_and_its_certificate(self) -> None:
        judge = Judge(self, *self.state("judge"))
        result = qualify("run", "--peer", judge.address, *SHORT, *EASY, "--run-id", "a run", *self.state("node"),
                         "--json", "-")
        self.assertEqual(result.returncode, DONE, result.stderr)
        report = json.loads(result.stdout)
        self.assertEqual({"qualified", "up_bps", "down_bps", "rtt_ms", "jitter_ms", "retransmits", "reduce_gbs",
                          "reasons", "peers"} - set(report), set())
        self.assertIs(report["qualified"], True)
        self.assertEqual(set(report["rtt_ms"]), {"min", "median", "p99"})
        self.assertGreater(report["up_bps"], 0)
        self.assertGreater(report["down_bps"], 0)
        self.assertGreater(report["reduce_gbs"], 0)
        self.assertEqual(report["reasons"], [])
        self.assertEqual(len(report["peers"]), 1)
        peer = report["peers"][0]
        self.assertEqual(peer["judge"], judge.id)
        self.assertIn("QUALIFIED", result.stderr)

        shown = qualify("show", peer["certificate"], "--json", "-")
        self.assertEqual(shown.returncode, DONE, shown.stderr)
        certificate = json.loads(shown.stdout)
        self.assertEqual(certificate["judge"], judge.id)
        self.assertEqual(certificate["peer"], report["id"])
        self.assertEqual(certificate["run_id"], "a run")
        self.assertEqual(certificate["up_bps"], report["up_bps"])
        self.assertTrue(certificate["valid"])

        damaged = bytearray(pathlib.Path(peer["certificate"]).read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (self.folder / "damaged").write_bytes(damaged)
        shown = qualify("show", str(self.folder / "damaged"))
        self.assertEqual(shown.returncode, NOT_SO)
        self.assertIn("NOT GENUINE", shown.stdout)
        self.assertEqual(qualify("show", str(self.folder / "missing")).returncode, USAGE)

        # The key is the node's own, for its owner's eyes only, and the same the next time.
        key = self.folder / "node" / "identity.pem"
        self.assertEqual(key.stat().st_mode & 0o777, 0o600)
        key.chmod(0o644)
        result = qualify("run", "--peer", judge.address, *SHORT, *self.state("node"))
        self.assertEqual(result.returncode, USAGE)
        self.assertIn("chmod 600", result.stderr)

    def test_a_judge_that_wants_more_time_says_so(self) -> None:
        judge = Judge(self, "--shortest", "3s")
        result = qualify("run", "--peer", judge.address, *SHORT, *EASY)
        self.assertEqual(result.returncode, RUNTIME, result.stderr)
        self.assertIn("ask for more --seconds", result.stderr)

    def test_a_certificate_that_cannot_be_kept(self) -> None:
        judge = Judge(self)
        (self.folder / "node").mkdir(mode=0o700)
        (self.folder / "node" / "certificates").write_text("in the way")
        result = qualify("run", "--peer", judge.address, *SHORT, *EASY, *self.state("node"), "--json", "-")
        self.assertEqual(result.returncode, RUNTIME, result.stderr)
        self.assertIs(json.loads(result.stdout)["qualified"], True)
        self.assertIn(str(self.folder / "node" / "certificates"), result.stderr)

    def test_a_line_that_will_not_do(self) -> None:
        judge = Judge(self)
        result = qualify("run", "--peer", judge.address, *SHORT, "--min-up", "900Gbps", "--min-down", "1Kbps",
                         "--max-rtt", "5s", "--json", str(self.folder / "report"))
        self.assertEqual(result.returncode, NOT_SO, result.stderr)
        self.assertIn("NOT QUALIFIED", result.stdout)
        report = json.loads((self.folder / "report").read_text())
        self.assertIs(report["qualified"], False)
        self.assertEqual(len(report["reasons"]), 1)
        self.assertIn("up ", report["reasons"][0])
        self.assertIn("900 Gbit/s", report["reasons"][0])

    def test_a_judge_with_a_minimum_of_its_own_signs_nothing_below(self) -> None:
        judge = Judge(self, "--min-down", "900Gbps")
        result = qualify("run", "--peer", judge.address, *SHORT, *EASY, "--json", "-", *self.state("node"))
        self.assertEqual(result.returncode, DONE, result.stderr)
        peer = json.loads(result.stdout)["peers"][0]
        self.assertIs(peer["certified"], False)
        self.assertIn("900 Gbit/s", peer["note"])
        self.assertFalse((self.folder / "node" / "certificates").exists())

    def test_a_certificate_expires(self) -> None:
        judge = Judge(self, "--valid-for", "1s")
        result = qualify("run", "--peer", judge.address, *SHORT, *EASY, *self.state("node"), "--json", "-")
        self.assertEqual(result.returncode, DONE, result.stderr)
        file = json.loads(result.stdout)["peers"][0]["certificate"]
        deadline = time.monotonic() + PATIENCE_S
        while (shown := qualify("show", file)).returncode == DONE and time.monotonic() < deadline:
            pass
        self.assertEqual(shown.returncode, NOT_SO)
        self.assertIn("EXPIRED", shown.stdout)

    def test_several_judges_one_of_them_gone(self) -> None:
        judges = [Judge(self), Judge(self)]
        gone = Judge(self)
        gone.end()
        peers = [argument for each in [judges[0], gone, judges[1]] for argument in ("--peer", each.address)]
        result = qualify("run", *peers, *SHORT, *EASY, *self.state("node"), "--json", "-")
        self.assertEqual(result.returncode, DONE, result.stderr)
        report = json.loads(result.stdout)
        self.assertEqual([peer.get("judge") for peer in report["peers"]], [judges[0].id, None, judges[1].id])
        self.assertIn("no judge at", report["peers"][1]["failure"])
        rates = sorted(peer["up_bps"] for peer in report["peers"] if "up_bps" in peer)
        self.assertEqual(report["up_bps"], rates[0])
        self.assertEqual(len(list((self.folder / "node" / "certificates").iterdir())), 2)

    def test_nobody_there(self) -> None:
        judge = Judge(self)
        self.assertEqual(judge.end(), DONE)
        result = qualify("run", "--peer", judge.address, *SHORT)
        self.assertEqual(result.returncode, RUNTIME)
        self.assertIn(judge.address, result.stderr)
        self.assertIn("papilio-qualify serve", result.stderr)

    def test_without_encryption_figures_but_no_certificate(self) -> None:
        judge = Judge(self, "--security", "none")
        result = qualify("run", "--peer", judge.address, *SHORT, *EASY, "--security", "none", "--json", "-")
        self.assertEqual(result.returncode, DONE, result.stderr)
        peer = json.loads(result.stdout)["peers"][0]
        self.assertIs(peer["certified"], False)
        self.assertIn("--security tls", peer["note"])

    def test_one_side_with_and_one_without_encryption(self) -> None:
        for serve, run in (("tls", "none"), ("none", "tls")):
            judge = Judge(self, "--security", serve)
            result = qualify("run", "--peer", judge.address, *SHORT, "--security", run)
            self.assertEqual(result.returncode, RUNTIME)
            self.assertIn("--security", result.stderr)

    def test_both_backends(self) -> None:
        for transport in ("uv", "auto"):
            judge = Judge(self, "--transport", transport)
            result = qualify("run", "--peer", judge.address, *SHORT, *EASY, "--transport", transport)
            self.assertEqual(result.returncode, DONE, result.stderr)

    def test_one_at_a_time_a_few_wait_the_rest_come_again(self) -> None:
        judge = Judge(self, "--waiting", "1")
        command = [QUALIFY, "run", "--peer", judge.address, *EASY, "--seconds"]
        first = subprocess.Popen([*command, "5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(first.communicate)
        while "round trips" not in (line := first.stdout.readline()):
            self.assertTrue(line)
        second = subprocess.Popen([*command, "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(second.communicate)
        while "waiting: 1 ahead" not in (line := second.stdout.readline()):
            self.assertTrue(line)
        third = qualify("run", "--peer", judge.address, *SHORT)
        self.assertEqual(third.returncode, RUNTIME, third.stdout)
        self.assertIn("try again in", third.stderr)
        self.assertEqual(first.wait(PATIENCE_S), DONE)
        self.assertEqual(second.wait(PATIENCE_S), DONE)

    def test_who_was_tested_a_moment_ago_comes_again_later(self) -> None:
        judge = Judge(self)
        self.assertEqual(qualify("run", "--peer", judge.address, *SHORT, *EASY, *self.state("node")).returncode, DONE)
        again = qualify("run", "--peer", judge.address, *SHORT, *self.state("node"), "--json", "-")
        self.assertEqual(again.returncode, RUNTIME)
        self.assertIn("tested a moment ago", again.stderr)
        self.assertGreater(json.loads(again.stdout)["peers"][0]["retry_after_s"], 0)

    def test_an_interrupt_ends_it_in_time(self) -> None:
        judge = Judge(self)
        child = subprocess.Popen([QUALIFY, "run", "--peer", judge.address, "--seconds", "30"], text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(child.communicate)
        while "up:" not in (line := child.stdout.readline()):
            self.assertTrue(line)
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.wait(PATIENCE_S), RUNTIME)
        self.assertIn("interrupted", child.stderr.read())
        self.assertEqual(judge.end(), DONE)

    def test_a_judge_that_is_killed_in_the_middle(self) -> None:
        judge = Judge(self)
        child = subprocess.Popen([QUALIFY, "run", "--peer", judge.address, "--seconds", "30"], text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(child.communicate)
        while "up:" not in (line := child.stdout.readline()):
            self.assertTrue(line)
        judge.child.kill()
        self.assertEqual(child.wait(PATIENCE_S), RUNTIME)
        self.assertIn("was lost", child.stderr.read())

    def test_a_terminal_sees_it_live(self) -> None:
        judge = Judge(self)
        ours, theirs = pty.openpty()
        child = subprocess.Popen([QUALIFY, "run", "--peer", judge.address, *SHORT, *EASY], stdin=theirs, stdout=theirs,
                                 stderr=theirs)
        os.close(theirs)
        output = b""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and select.select([ours], [], [], PATIENCE_S)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:  # what a terminal says when its last process is gone
                break
            if not part:
                break
            output += part
        os.close(ours)
        self.assertEqual(child.wait(PATIENCE_S), DONE)
        text = output.decode()
        self.assertRegex(text, r"\r\x1b\[K  \[#*\.+\] +\d\.\d s  up  up ")
        self.assertIn("both at once", text)
        self.assertTrue(text.rstrip().endswith("QUALIFIED"))

    def test_mistakes_are_told(self) -> None:
        for arguments, message in ((["run"], "--peer"),
                                   (["run", "--peer", "nowhere"], "nowhere"),
                                   (["run", "--peer", "127.0.0.1:1", "--seconds", "1"], "--seconds 1"),
                                   (["run", "--peer", "127.0.0.1:1", "--seconds", "soon"], "'soon"),
                                   (["run", "--peer", "127.0.0.1:1", "--min-up", "100"], "--min-up"),
                                   (["run", "--peer", "127.0.0.1:1", "--flows", "17"], "--flows"),
                                   (["run", "--peer", "127.0.0.1:1", "--state-dir", "/dev/null/x"], "/dev/null/x"),
                                   (["serve"], "--listen"),
                                   (["serve", "--listen", "127.0.0.1:0", "--every", "2h"], "--every 2h"),
                                   (["serve", "--listen", "127.0.0.1:0", "--valid-for", "0s"], "--valid-for 0s"),
                                   (["serve", "--listen", "127.0.0.1:0", "--shortest", "2m"], "--shortest 2m"),
                                   (["show"], "FILE"),
                                   ([], "papilio-qualify")):
            result = qualify(*arguments)
            self.assertEqual(result.returncode, USAGE, (arguments, result.stderr))
            self.assertIn(message, result.stderr, arguments)


def can_make_namespaces() -> bool:
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("ip", "tc")):
        return False
    name = f"papilioq{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return made


class ShapedLine(unittest.TestCase):
    """bench/qualify on a slow line that any machine can fill. How right it is, is the benchmark's business; here, that
    up is not taken for down, and that a line below the minimum is refused."""

    def test_up_and_down_are_told_apart(self) -> None:
        if not can_make_namespaces():
            print("\nleft out: bench/qualify cannot make its hosts here", flush=True)
            result = subprocess.run([sys.executable, "-B", str(ROOT / "bench" / "qualify")], capture_output=True,
                                    text=True, timeout=PATIENCE_S, check=False)
            self.assertIn(result.returncode, (USAGE, RUNTIME))
            return
        result = subprocess.run([sys.executable, "-B", str(ROOT / "bench" / "qualify"), "--qualify", QUALIFY,
                                 "--lines", "10mbit/30mbit,30mbit/10mbit", "--rtts", "0", "--seconds", "4",
                                 "--tolerance", "0.3", "--rtt-tolerance", "100ms", "--json", "-"],
                                capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
        self.assertEqual(result.returncode, DONE, result.stderr)
        rows = json.loads(result.stdout)["lines"]
        self.assertLess(rows[0]["report"]["up_bps"], rows[0]["report"]["down_bps"])
        self.assertGreater(rows[1]["report"]["up_bps"], rows[1]["report"]["down_bps"])
        self.assertFalse(rows[0]["report"]["qualified"])  # below 100 Mbit/s
        self.assertEqual(len(rows[0]["report"]["reasons"]), 2)
        left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=False).stdout
        self.assertNotIn(f"papilioq{os.getpid()}", left)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
