#!/usr/bin/env python3
"""tools/run_tests.py counts right: programs that speak GoogleTest's language and pass, fail, die, hang, leak."""

import os
import pathlib
import signal
import sys
import tempfile
import textwrap
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tools"))
import run_tests  # noqa: E402

# Three cases; BEHAVIOUR says what becomes of the second.
STAND_IN = textwrap.dedent('''\
    #!{python}
    import json, os, signal, sys
    behaviour = os.environ["BEHAVIOUR"]
    if "--gtest_list_tests" in sys.argv:
        print("Running main()\\nSuite.\\n  first\\n  second\\nTyped/Suite/0.  # TypeParam = int\\n  third")
        sys.exit(0)
    print("[ RUN      ] Suite.first\\n[       OK ] Suite.first (0 ms)\\n[ RUN      ] Suite.second", flush=True)
    if behaviour == "dies":
        os.kill(os.getpid(), signal.SIGABRT)
    if behaviour == "hangs":
        signal.pause()
    case = {{"name": "second", "status": "RUN", "result": "COMPLETED"}}
    if behaviour == "fails":
        case["failures"] = [{{"failure": "1 is not 2"}}]
    if behaviour == "skips":
        case["result"] = "SKIPPED"
    report = next(a.split(":", 1)[1] for a in sys.argv if a.startswith("--gtest_output=json:"))
    json.dump({{"testsuites": [
        {{"name": "Suite", "testsuite": [{{"name": "first", "status": "RUN", "result": "COMPLETED"}}, case]}},
        {{"name": "Typed/Suite/0", "testsuite": [{{"name": "third", "status": "RUN", "result": "COMPLETED"}}]}}]}},
        open(report, "w"))
    sys.exit(1 if behaviour in ("fails", "leaks") else 0)
    ''')


class RunTestsTest(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def outcome(self, behaviour: str, timeout: float = 60) -> run_tests.Outcome:
        program = pathlib.Path(self.directory.name) / "program"
        program.write_text(STAND_IN.format(python=sys.executable))
        program.chmod(0o755)
        return run_tests.Runner(1, {}).run({"name": "program", "protocol": "gtest", "cmd": [str(program)],
                                            "workdir": None, "env": {"BEHAVIOUR": behaviour}, "timeout": timeout})

    def plain(self, code: str) -> run_tests.Outcome:
        return run_tests.Runner(1, {}).run({"name": "plain", "protocol": "exitcode", "workdir": None, "env": {},
                                            "cmd": [sys.executable, "-c", code], "timeout": 60})

    def test_every_case_counts(self) -> None:
        outcome = self.outcome("passes")
        self.assertEqual((outcome.passed, outcome.failed, outcome.skipped), (3, [], []))

    def test_a_failing_case(self) -> None:
        outcome = self.outcome("fails")
        self.assertEqual((outcome.passed, outcome.failed), (2, ["Suite.second"]))

    def test_a_skipped_case_is_not_a_pass(self) -> None:
        outcome = self.outcome("skips")
        self.assertEqual((outcome.passed, outcome.failed, outcome.skipped), (2, [], ["Suite.second"]))

    def test_cases_after_a_crash_are_failures(self) -> None:
        outcome = self.outcome("dies")
        self.assertEqual(outcome.passed, 1)
        self.assertEqual(outcome.failed, [f"Suite.second: killed by {signal.SIGABRT.name}",
                                          f"Typed/Suite/0.third: not run (killed by {signal.SIGABRT.name})"])

    def test_a_hang_ends(self) -> None:
        outcome = self.outcome("hangs", timeout=2)
        self.assertEqual(outcome.passed, 1)
        self.assertIn("did not end within 2 s", outcome.failed[0])

    def test_failing_after_all_cases_passed_counts(self) -> None:
        outcome = self.outcome("leaks")
        self.assertEqual((outcome.passed, len(outcome.failed)), (3, 1))

    def test_plain_programs_count_one(self) -> None:
        self.assertEqual(self.plain("").passed, 1)
        self.assertEqual(len(self.plain("import sys; sys.exit(1)").failed), 1)
        self.assertEqual(self.plain("import sys; sys.exit(77)").skipped, ["plain"])

    def test_what_a_plain_program_left_out_is_named(self) -> None:
        told = "print('left out: a line that is cut (needs root)\\n  left out: quoted'); import sys; sys.exit({})"
        for code, passed in ((0, 1), (77, 0)):
            outcome = self.plain(told.format(code))
            self.assertEqual((outcome.passed, outcome.failed), (passed, []))
            self.assertEqual(outcome.skipped, ["a line that is cut (needs root)"])

    def test_a_missing_program_is_a_failure(self) -> None:
        outcome = run_tests.Runner(1, {}).run({"name": "gone", "protocol": "exitcode", "workdir": None, "env": {},
                                               "cmd": [os.path.join(self.directory.name, "gone")], "timeout": 1})
        self.assertEqual(len(outcome.failed), 1)


if __name__ == "__main__":
    unittest.main()
