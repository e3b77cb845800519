#!/usr/bin/env python3
"""Every C++ file is as .clang-format would write it. Usage: check_format.py ROOT. To mend: tools/lint --format."""

import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from tree import tracked_files  # noqa: E402


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    root = pathlib.Path(sys.argv[1]).resolve()
    # Other versions disagree about details: 14 is Debian 12's.
    program = shutil.which("clang-format-14") or shutil.which("clang-format")
    if program is None:
        print("clang-format is missing; apt-get install clang-format")
        return 1
    files = [str(path) for path in tracked_files(root) if path.suffix in {".h", ".hpp", ".cc", ".cpp", ".cu", ".cuh"}]
    result = subprocess.run([program, "--dry-run", "-Werror", *files], cwd=root, check=False) if files else None
    return 0 if result is None or result.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
