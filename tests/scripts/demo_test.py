#!/usr/bin/env python3
"""tools/demo_run.py against a stand-in for papilio-node whose behaviour is chosen per node: what the demo makes of
digests that agree or not, of a node that fails, of one that never ends, and that it leaves no process behind."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# Reads the flags that the demo gives, "trains", and reports. Node i behaves as the i-th word of BEHAVIOUR says.
STAND_IN = textwrap.dedent('''\
    #!{python}
    import argparse, json, os, signal, sys, threading, time
    parser = argparse.ArgumentParser()
    for flag in ("listen", "slot", "group-size", "steps", "transport", "codec", "json", "data", "model"):
        parser.add_argument("--" + flag)
    parser.add_argument("--peer", action="append", default=[])
    options = parser.parse_args()
    slot, steps = int(options.slot), int(options.steps)
    assert len(options.peer) == int(options.group_size) - 1 and options.listen not in options.peer
    behaviour = os.environ["BEHAVIOUR"].split()[slot]
    with open(os.path.join(os.environ["PIDS"], str(os.getpid())), "w"):
        pass
    class Left:  # not an Event: its lock would be taken twice where the signal comes in the middle of a wait
        told = False
        def wait(self, seconds=None):
            give_up = None if seconds is None else time.monotonic() + seconds
            while not self.told and (give_up is None or time.monotonic() < give_up):
                time.sleep(0.01)
            return self.told
    left = Left()
    signal.signal(signal.SIGINT, lambda *_: setattr(left, "told", True))
    if behaviour == "fails":
        print("the corpus is empty", file=sys.stderr)
        sys.exit(3)
    for step in range(steps):
        if behaviour != "silent":
            print("epoch", step, flush=True)
    if behaviour == "waits":
        left.wait()
    while behaviour == "outlives" and not left.wait(0.02):
        # Until one of the nodes is gone or stopped.
        states = []
        for pid in os.listdir(os.environ["PIDS"]):
            try:
                states.append(open("/proc/%s/stat" % pid).read().rsplit(")", 1)[1].split()[0])
            except OSError:
                states.append("gone")
        if "gone" in states or "T" in states:
            break
    if behaviour == "hangs":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Event().wait()
    losses = [3.0 - (step / steps if behaviour != "learns-nothing" else -step) for step in range(steps)]
    json.dump({{"peer_id": str(slot), "transport": "uv", "steps": steps, "losses": losses,
               "loss_first": losses[0], "loss_last": losses[-1], "seconds": 1.5, "bytes_sent": 10,
               "bytes_received": 10, "parameters": 7,
               "model_digest": "00000000000000%02x" % (slot if behaviour == "differs" else 255),
               "rounds": [{{"epoch": step, "seconds": 0.01, "coverage": 1.0, "members": 2, "banned": 0}}
                          for step in range(steps)]}}, open(options.json, "w"))
    ''')


class DemoTest(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        base = pathlib.Path(self.directory.name)
        self.program, self.pids = base / "node", base / "pids"
        self.program.write_text(STAND_IN.format(python=sys.executable))
        self.program.chmod(0o755)
        self.pids.mkdir()
        self.addCleanup(self.expect_no_process_left)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "tools/demo_run.py"), "--program", str(self.program), *arguments]

    def environment(self, behaviour: str) -> dict[str, str]:
        return os.environ | {"BEHAVIOUR": behaviour, "PIDS": str(self.pids)}

    def run_demo(self, behaviour: str, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(self.command("--nodes", str(len(behaviour.split())), *arguments), capture_output=True,
                              text=True, timeout=120, env=self.environment(behaviour), check=False)

    def expect_no_process_left(self) -> None:
        if not self.pids.is_dir():
            return
        for path in self.pids.iterdir():
            with self.assertRaises(ProcessLookupError):
                os.kill(int(path.name), 0)

    def test_agreement_is_success(self) -> None:
        result = self.run_demo("works works works", "--steps", "4", "--json", "-")
        self.assertEqual(result.returncode, 0, result.stderr)
        document = json.loads(result.stdout)  # nothing else is on standard output
        self.assertTrue(document["in_sync"])
        self.assertEqual(document["model_digests"], ["00000000000000ff"] * 3)
        self.assertEqual((document["nodes"], document["steps"], document["bytes_sent"]), (3, 4, 30))
        self.assertEqual((document["loss_first"], document["loss_last"], document["seconds"]), (3.0, 2.25, 1.5))
        self.assertEqual(document["rounds"][0],
                         {"epoch": 0, "seconds": 0.01, "coverage": 1.0, "members": 2, "banned": 0})

    def test_another_digest_is_not_success(self) -> None:
        result = self.run_demo("works differs", "--steps", "2")
        self.assertEqual(result.returncode, 1)
        self.assertIn("NOT hold the same model", result.stdout)

    def test_a_loss_that_does_not_fall_is_not_success(self) -> None:
        result = self.run_demo("learns-nothing learns-nothing", "--steps", "2")
        self.assertEqual(result.returncode, 1)
        self.assertIn("did NOT fall", result.stdout)

    def test_a_failing_node_ends_the_others_and_shows_why(self) -> None:
        result = self.run_demo("waits fails waits", "--steps", "2")
        self.assertEqual(result.returncode, 1)
        self.assertIn("node 1 failed with exit code 3", result.stdout)
        self.assertIn("the corpus is empty", result.stdout)

    def test_a_killed_node_is_not_waited_for(self) -> None:
        result = self.run_demo("outlives outlives waits", "--steps", "4", "--kill-one", "--json", "-")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("node 2 (process", result.stderr)
        self.assertIn("node 2 was killed after 2 rounds; the others did 1 more among 2", result.stderr)
        self.assertEqual(len(json.loads(result.stdout)["model_digests"]), 2)

    def test_a_stopped_node_continues_at_the_end(self) -> None:
        result = self.run_demo("outlives outlives waits", "--steps", "2", "--stop-one")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertIn("was stopped", result.stdout)
        self.assertIn("node 2 continues", result.stdout)

    def test_a_stopped_node_that_does_not_leave_is_told_and_ended(self) -> None:
        result = self.run_demo("outlives outlives hangs", "--steps", "2", "--stop-one")
        self.assertEqual(result.returncode, 1)
        self.assertIn("node 2, stopped and continued, does not leave", result.stdout)

    def test_a_run_too_short_to_harm_anyone_is_not_success(self) -> None:
        result = self.run_demo("works works silent", "--steps", "2", "--kill-one")
        self.assertEqual(result.returncode, 1)
        self.assertIn("give more --steps", result.stdout)

    def test_signals_end_everything(self) -> None:
        for sent in (signal.SIGINT, signal.SIGTERM):
            demo = subprocess.Popen(self.command("--nodes", "2", "--steps", "3"), stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, text=True, env=self.environment("waits hangs"))
            for line in demo.stdout:
                if line.startswith("epoch 2"):
                    break
            demo.send_signal(sent)
            _, errors = demo.communicate(timeout=60)
            self.assertEqual(demo.returncode, 130, errors)
            self.expect_no_process_left()

    def test_wrong_usage_names_flag_value_and_remedy(self) -> None:
        for arguments, parts in (
                (["--nodes", "0"], ["--nodes", "'0'", "1 to 64"]),
                (["--nodes", "four"], ["--nodes", "'four'"]),
                (["--nodes", "1", "--kill-one"], ["--nodes", "at least 2"]),
                (["--steps", "1"], ["--steps", "'1'"]),
                (["--steps"], ["--steps"]),
                (["--transport", "pigeon"], ["--transport", "'pigeon'", "auto, uring, uv"]),
                (["--data", "no-such-file"], ["--data", "no-such-file", "readable"]),
                (["--json", "no-such-directory/a.json"], ["--json", "no-such-directory"]),
                (["--stesp", "3"], ["--stesp"])):
            result = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(result.returncode, 2, arguments)
            for part in parts:
                self.assertIn(part, result.stderr)

    def test_the_page(self) -> None:
        result = subprocess.run([str(ROOT / "tools/demo"), "--help"], capture_output=True, text=True, timeout=60,
                                check=False)
        self.assertEqual(result.returncode, 0)
        for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES"):
            self.assertIn(heading + "\n", result.stdout)


if __name__ == "__main__":
    unittest.main()
