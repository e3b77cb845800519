#!/usr/bin/env python3
"""Every program and script that a user runs: --help is a manual page, --version answers, and a mistake is told on
standard error with exit code 2. Programs that are no papilio-* are for measuring the machine: of them only the answers
are asked for, not the manner. Usage: usage_test.py SOURCE_ROOT [PROGRAM...]"""

import pathlib
import subprocess
import sys

SECTIONS = ("NAME\n", "SYNOPSIS\n", "DESCRIPTION\n", "OPTIONS\n", "EXIT STATUS\n")


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)


def problems_of(program: str, is_binary: bool) -> list[str]:
    found = []
    name = pathlib.Path(program).name
    is_ours = not is_binary or name.startswith("papilio-")
    help_page = run(program, "--help")
    if help_page.returncode != 0 or help_page.stderr:
        found.append(f"--help: exit code {help_page.returncode}, {help_page.stderr!r}")
    if is_ours:
        found += [f"--help: no section {section.strip()}" for section in SECTIONS if section not in help_page.stdout]
    wrong = run(program, "--no-such-flag")
    if not is_ours:
        if wrong.returncode != 2 or not wrong.stderr:
            found.append(f"--no-such-flag: exit code {wrong.returncode}, {wrong.stderr!r}")
    elif wrong.returncode != 2 or "--no-such-flag" not in wrong.stderr or wrong.stdout:
        found.append(f"--no-such-flag: exit code {wrong.returncode}, {wrong.stderr!r}, {wrong.stdout!r}")
    if is_binary:
        version = run(program, "--version")
        if version.returncode != 0 or not version.stdout.startswith(name + " "):
            found.append(f"--version: exit code {version.returncode}, {version.stdout!r}")
    if is_binary and is_ours:
        for flag in ("--log-level", "--json"):
            if flag not in help_page.stdout:
                found.append(f"--help does not know {flag}")
        loud = run(program, "--log-level", "loud")
        if loud.returncode != 2 or "'loud'" not in loud.stderr:
            found.append(f"--log-level loud: exit code {loud.returncode}, {loud.stderr!r}")
    return found


def problems_with_times_of(bench: str) -> list[str]:
    """papilio-bench hands its times on to a library that takes bare seconds."""
    found = []
    for value, code in (("50ms", 0), ("1.5s", 0), ("0.05", 2), ("0s", 2), ("soon", 2)):
        result = run(bench, "--min-time", value, "--list")
        if result.returncode != code or (code == 2) != ("--min-time" in result.stderr):
            found.append(f"--min-time {value}: exit code {result.returncode}, {result.stderr!r}")
    return found


def main() -> int:
    root, programs = pathlib.Path(sys.argv[1]), sys.argv[2:]
    scripts = [str(root / "tools" / name) for name in ("check", "demo", "fuzz", "lint")]
    found = [f"{name}: {problem}" for name in scripts for problem in problems_of(name, is_binary=False)]
    found += [f"{name}: {problem}" for name in programs for problem in problems_of(name, is_binary=True)]
    found += [f"{name}: {problem}" for name in programs if pathlib.Path(name).name == "papilio-bench"
              for problem in problems_with_times_of(name)]
    for flag, value in (("--sanitize", "soap"), ("--seeds", "0"), ("--seeds", "many"), ("--fuzz", "0")):
        result = run(scripts[0], flag, value)
        if result.returncode != 2 or f"'{value}'" not in result.stderr:
            found.append(f"tools/check {flag} {value}: exit code {result.returncode}, {result.stderr!r}")
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
