#!/usr/bin/env python3
"""No file of the tree names a place of one machine: home directories, temporary directories, somebody's checkout. Such
a path works for its author only. Usage: check_paths.py ROOT, or --self-test."""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from tree import tracked_files  # noqa: E402

# An absolute path at its start: not a part of a longer one, of a URL or of a pattern.
MACHINE_PATH = re.compile(r"(?<![\w.\-/}>)*:])/(?:work|root|home|tmp|Users|mnt|var/tmp)(?![\w\-.])")


def find(text: str) -> list[int]:
    """Numbers of the lines that hold such a path."""
    return [number for number, line in enumerate(text.split("\n"), start=1) if MACHINE_PATH.search(line)]


def self_test() -> None:
    slash = "/"
    for planted in (f"{slash}work{slash}a", f"x\n'{slash}root'", f"cd {slash}home{slash}me", f'"{slash}tmp{slash}f"',
                    f"--file={slash}tmp{slash}f"):
        assert find(planted), planted
    for harmless in ("the tests/work we do", "https://example.org/home/a", "a/root/b", "${directory}/tmp", "/usr/share",
                     "/workers", "/tmpfs"):
        assert not find(harmless), harmless


def main() -> int:
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        print("self-test passed")
        return 0
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    root = pathlib.Path(sys.argv[1]).resolve()
    found = 0
    for path in tracked_files(root):
        try:
            text = (root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures and other data
        for number in find(text):
            print(f"{path}:{number}: names a place of one machine; use a relative path or a temporary directory")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
