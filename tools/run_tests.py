#!/usr/bin/env python3
"""Runs the tests of a Meson build directory and counts single cases: a GoogleTest program counts its cases, any other
test counts one, and names what it could not try here in lines `left out: CASE (REASON)`. A program that dies counts every case it did not get to as failed, and one that fails after its cases
passed (a leak found at exit, say) counts one more. Exit 0: all passed, 1: not, 2: could not run them."""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Outcome:
    name: str
    seconds: float = 0
    passed: int = 0
    failed: list[str] = dataclasses.field(default_factory=list)  # names of cases, with the reason
    skipped: list[str] = dataclasses.field(default_factory=list)
    output: str = ""


class Runner:
    def __init__(self, timeout_factor: float, environment: dict[str, str], directory: pathlib.Path | None = None):
        """`directory`: where tests run that name no working directory; Meson's choice is the build directory."""
        self.directory = directory
        self.timeout_factor = timeout_factor
        self.environment = environment
        self.running: set[subprocess.Popen] = set()

    def run(self, test: dict) -> Outcome:
        outcome = Outcome(test["name"])
        started = time.monotonic()
        try:
            if test["protocol"] == "gtest":
                self.run_gtest(test, outcome)
            else:
                self.run_plain(test, outcome)
        except OSError as error:
            outcome.failed.append(f"{outcome.name}: cannot be started: {error}")
        outcome.seconds = time.monotonic() - started
        return outcome

    def run_plain(self, test: dict, outcome: Outcome) -> None:
        code, outcome.output, reason = self.execute(test, [])
        outcome.skipped += re.findall(r"^left out: (.*\S)", outcome.output, re.MULTILINE)
        if code == 0:
            outcome.passed = 1
        elif code == 77:  # the exit code that Meson takes for "skipped"
            outcome.skipped = outcome.skipped or [outcome.name]
        else:
            outcome.failed.append(f"{outcome.name}: {reason}")

    def run_gtest(self, test: dict, outcome: Outcome) -> None:
        expected = self.list_gtest(test)
        with tempfile.TemporaryDirectory() as directory:
            report = pathlib.Path(directory) / "report.json"
            code, outcome.output, reason = self.execute(test, [f"--gtest_output=json:{report}"])
            results = read_gtest_report(report) if report.exists() else read_gtest_lines(outcome.output)
        for case in expected:
            result = results.get(case, "not run")
            if result == "passed":
                outcome.passed += 1
            elif result == "skipped":
                outcome.skipped.append(case)
            elif result == "failed":
                outcome.failed.append(case)
            else:
                outcome.failed.append(f"{case}: {reason}" if result == "died" else f"{case}: not run ({reason})")
        if code != 0 and not outcome.failed:
            outcome.failed.append(f"{outcome.name}: {reason} although its cases passed")
        if not expected:
            outcome.failed.append(f"{outcome.name}: has no test cases")

    def list_gtest(self, test: dict) -> list[str]:
        _, output, _ = self.execute(test, ["--gtest_list_tests"])
        cases, suite = [], None
        for line in output.splitlines():
            text = line.split("#")[0].rstrip()
            if re.fullmatch(r"\S+\.", text):
                suite = text
            elif suite and re.fullmatch(r"  \S+", text):
                # A disabled case never runs; the house has none, and one that slips in shows up as not run.
                cases.append(suite + text.strip())
        return cases

    def execute(self, test: dict, arguments: list[str]) -> tuple[int, str, str]:
        """Exit code, output, and what the exit code means in words. A test that runs into its bound is killed with
        all its children."""
        more_seeds = max(1, int(os.environ.get("PAPILIO_SEEDS") or 60) / 60)  # tests/seeds.hpp
        bound_s = (test["timeout"] or 600) * self.timeout_factor * more_seeds
        environment = os.environ | self.environment | test["env"]
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                test["cmd"] + arguments, cwd=test["workdir"] or self.directory, env=environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            self.running.add(process)
            try:
                code = process.wait(timeout=bound_s)
                reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            except subprocess.TimeoutExpired:
                code, reason = 124, f"did not end within {bound_s:.0f} s"
            finally:
                kill_group(process)
                self.running.discard(process)
            output.seek(0)
            return code, output.read().decode(errors="replace"), reason

    def kill_all(self) -> None:
        for process in list(self.running):
            kill_group(process)


def kill_group(process: subprocess.Popen) -> None:
    """Ends the test's process group: also what a test left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def read_gtest_report(path: pathlib.Path) -> dict[str, str]:
    results = {}
    for suite in json.loads(path.read_text(errors="replace"))["testsuites"]:
        for case in suite["testsuite"]:
            name = f'{suite["name"]}.{case["name"]}'
            if case.get("failures"):
                results[name] = "failed"
            elif case["result"] == "SKIPPED":
                results[name] = "skipped"
            elif case["status"] == "RUN":
                results[name] = "passed"
    return results


def read_gtest_lines(output: str) -> dict[str, str]:
    """What a program that died had said until then."""
    words = {"RUN": "died", "OK": "passed", "FAILED": "failed", "SKIPPED": "skipped"}
    results = {}
    for match in re.finditer(r"\[ *(RUN|OK|FAILED|SKIPPED) *\] ([^\s,]+)", output):
        if "." in match.group(2):
            results[match.group(2)] = words[match.group(1)]
    return results


def sanitizer_environment() -> dict[str, str]:
    """Findings end the program; suppressions only for what is not ours, each with its reason."""
    suppressions = ROOT / "tests" / "suppressions"
    def options(text: str, name: str) -> str:
        path = suppressions / name
        return f"{text}:suppressions={path}" if path.exists() else text
    return {
        "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1",
        "LSAN_OPTIONS": options("print_suppressions=0", "leak.txt"),
        "TSAN_OPTIONS": options("halt_on_error=1:second_deadlock_stack=1", "thread.txt"),
        "UBSAN_OPTIONS": options("halt_on_error=1:print_stacktrace=1", "undefined.txt"),
    }


def load_tests(build: pathlib.Path, without_suites: set[str]) -> list[dict]:
    listing = subprocess.run(["meson", "introspect", "--tests", str(build)], capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        print(f"{build}/ is not a built Meson directory: {listing.stderr or listing.stdout}", file=sys.stderr)
        sys.exit(2)
    tests = json.loads(listing.stdout)
    # Suites read "project:suite".
    return [test for test in tests if not without_suites & {suite.split(":")[-1] for suite in test["suite"]}]


def programs_of(tests: list[dict], build: pathlib.Path) -> list[str]:
    """What has to be built for these tests, as ninja calls it."""
    inside = f"{build.resolve()}/"
    return sorted({part[len(inside):] for test in tests for part in test["cmd"] if part.startswith(inside)})


def describe(outcome: Outcome, build: pathlib.Path) -> str:
    cases = outcome.passed + len(outcome.failed)
    word = "FAILED" if outcome.failed else "ok    "
    return f"{word} {build.name}: {outcome.name} ({cases} case{'s' * (cases != 1)}, {outcome.seconds:.1f} s)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="a built Meson directory")
    parser.add_argument("--without-suite", action="append", default=[], help="leave the tests of this suite out")
    parser.add_argument("--timeout-factor", type=float, default=2, help="multiplies every test's own bound")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many tests at once")
    parser.add_argument("--tally", type=pathlib.Path, help="append a line 'PASSED FAILED' to this file")
    parser.add_argument("--programs", action="store_true", help="run nothing: name what these tests need built")
    arguments = parser.parse_args()

    tests = load_tests(arguments.build, set(arguments.without_suite))
    if arguments.programs:
        print("\n".join(programs_of(tests, arguments.build)))
        return 0
    runner = Runner(arguments.timeout_factor, sanitizer_environment(), arguments.build)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    outcomes: list[Outcome] = []

    def take(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(describe(outcome, arguments.build), flush=True)

    try:
        # Slowest first is unknown; those that want the machine for themselves come last, one by one.
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            together = [pool.submit(runner.run, test) for test in tests if test["is_parallel"]]
            try:
                for future in concurrent.futures.as_completed(together):
                    take(future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                runner.kill_all()
                raise
        for test in tests:
            if not test["is_parallel"]:
                take(runner.run(test))
    except KeyboardInterrupt:
        runner.kill_all()
        return 130

    for outcome in outcomes:
        if outcome.failed:
            print(f"\n===== {arguments.build.name}: {outcome.name}\n{shorten(outcome.output)}")
            print("\n".join(f"failed: {case}" for case in outcome.failed))
    for outcome in outcomes:
        for case in outcome.skipped:
            print(f"skipped: {case}")
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(len(outcome.failed) for outcome in outcomes)
    print(f"{arguments.build.name}/: {passed} passed, {failed} failed", flush=True)
    if arguments.tally:
        with arguments.tally.open("a") as tally:
            tally.write(f"{passed} {failed}\n")
    return 0 if failed == 0 and passed > 0 else 1


def shorten(output: str, limit: int = 20_000) -> str:
    """The whole output, or its beginning and its end."""
    if len(output) <= limit:
        return output
    return output[: limit // 4] + f"\n... {len(output) - limit} characters left out ...\n" + output[-limit * 3 // 4:]


if __name__ == "__main__":
    sys.exit(main())
