#!/usr/bin/env python3
"""Enforces who may include whom (docs: the table of boxes in ARCHITECTURE.md). Usage: include_arrows.py ROOT, or
--self-test. Prints one line per violation, FILE:LINE: what is wrong; exit 1 if there is one."""

import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from tree import tracked_files  # noqa: E402

# Longest prefix first: engine/base before engine.
BOXES = ["engine/base", "engine/core", "engine/node", "engine/training", "kernels", "transport", "schemas", "tools",
         "bench", "tests"]

# box -> boxes it may include besides itself; a name with a dot is a single header.
ARROWS = {
    "engine/base": [],
    "engine/core": ["engine/base"],
    "kernels": ["engine/base"],
    "schemas": [],
    "transport": ["engine/base", "schemas"],
    "engine/node": ["engine/base", "engine/core", "transport", "kernels", "schemas"],
    "engine/training": ["engine/base", "engine/node/node.hpp"],
    "tools": ["engine/base", "engine/core", "engine/node", "engine/training", "transport", "kernels", "schemas"],
    "bench": BOXES,
    "tests": BOXES,
}

# The core takes `now` and events and answers actions: nothing in it can look at a clock, a socket or a thread.
CORE_STANDARD_HEADERS = frozenset("""
    algorithm array bit bitset cassert charconv chrono cmath compare concepts cstddef cstdint cstdlib cstring deque
    functional initializer_list iterator limits list map memory new numbers numeric optional queue ranges ratio set
    span stack string string_view tuple type_traits unordered_map unordered_set utility variant vector
    """.split())
CORE_FORBIDDEN = re.compile(
    r"\b(steady_clock|system_clock|high_resolution_clock|clock_gettime|gettimeofday|random_device|"
    r"std::(?:jthread|thread|mutex|atomic|async|future|condition_variable|this_thread)|thread_local|"
    r"getenv|srand|printf|fopen)\b|\b(rand|time)\s*\(")

TORCH = re.compile(r"^(torch|ATen|c10|caffe2)(/|$)")
TORCH_BOXES = {"engine/training", "tests", "bench"}

INCLUDE = re.compile(r'^\s*#\s*(?:include|import)\s*(["<])([^">]+)[">]')
SOURCE_SUFFIXES = {".h", ".hpp", ".cc", ".cpp", ".cu", ".cuh", ".inl"}


def box_of(path: str) -> str | None:
    if re.fullmatch(r"\w+_generated\.h", path):
        return "schemas"  # flatc's, written into the build directory
    return next((box for box in BOXES if path.startswith(box + "/")), None)


def without_comments(text: str) -> str:
    """Comments and the insides of string literals blanked (lines kept), so that only code is judged."""
    def blank(match: re.Match) -> str:
        return re.sub(r"[^\n]", " ", match.group(0)) if match.group(0).startswith("/") else '""'
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
    lines = [line if INCLUDE.match(line) else None for line in text.split("\n")]
    blanked = pattern.sub(blank, text).split("\n")
    return "\n".join(kept if kept is not None else line for kept, line in zip(lines, blanked))


def violations_of(name: str, text: str) -> list[tuple[int, str]]:
    box = box_of(name)
    if box is None:
        return [(1, "a source file outside every box; put it under one of " + ", ".join(BOXES))]
    found = []
    for number, line in enumerate(without_comments(text).split("\n"), start=1):
        match = INCLUDE.match(line)
        if match:
            found += [(number, problem) for problem in problems_of_include(box, match.group(1), match.group(2))]
        elif box == "engine/core" and (forbidden := CORE_FORBIDDEN.search(line)):
            found.append((number, f"engine/core may not use {forbidden.group(1) or forbidden.group(2)}: it is told the time and "
                                  "the events, and answers actions"))
    return found


def problems_of_include(box: str, quote: str, header: str) -> list[str]:
    target = box_of(header)
    if target is None:
        if quote == '"':
            return [f'"{header}" is not a path from the repository root']
        if TORCH.match(header) and box not in TORCH_BOXES:
            return [f"{box} may not include <{header}>: only engine/training knows LibTorch"]
        if box == "engine/core" and header not in CORE_STANDARD_HEADERS:
            return [f"engine/core may not include <{header}>: it is plain data and step functions over "
                    "the standard library's containers"]
        return []
    if quote == "<":
        return [f'<{header}> is ours: write it in quotes']
    if target == box or target in ARROWS[box] or header in ARROWS[box]:
        return []
    allowed = ", ".join(ARROWS[box]) or "nothing of ours"
    return [f'{box} may not include "{header}"; it may include {allowed}']


def check(root: pathlib.Path) -> list[str]:
    lines = []
    for path in tracked_files(root):
        if path.suffix in SOURCE_SUFFIXES:
            text = (root / path).read_text(encoding="utf-8", errors="replace")
            lines += [f"{path}:{number}: {problem}" for number, problem in violations_of(path.as_posix(), text)]
    return lines


def self_test() -> None:
    """A planted violation of every kind is caught, at its line; what is allowed passes."""
    allowed = {
        "engine/base/a.hpp": "#include <chrono>\n",
        "engine/core/a.cc": '#include "engine/base/a.hpp"\n#include <vector>\n// std::thread and steady_clock\n'
                            'const char* text = "std::mutex";\n',
        "transport/a.cc": '#include "schemas/frame_generated.h"\n#include <sys/socket.h>\n#include <thread>\n',
        "transport/b.cc": '#include "frame_generated.h"\n',
        "engine/node/a.cc": '#include "engine/core/a.hpp"\n#include "transport/io.hpp"\n#include "kernels/ops.h"\n',
        "engine/training/a.cc": '#include "engine/node/node.hpp"\n#include <torch/torch.h>\n',
        "tools/a.cc": '#include "tools/common/a.hpp"\n#include "engine/training/a.hpp"\n',
        "tests/a/b.cc": '#include "engine/core/a.hpp"\n#include "bench/a.hpp"\n#include <torch/torch.h>\n',
    }
    planted = {
        "engine/base/a.hpp": '\n#include "engine/core/a.hpp"\n',
        "engine/core/a.cc": '\n#include "transport/io.hpp"\n',
        "engine/core/b.cc": "\n  #  include <thread>\n",
        "engine/core/c.cc": "\nauto now = std::chrono::steady_clock::now();\n",
        "engine/core/d.cc": "\n#include <sys/socket.h>\n",
        "engine/core/e.cc": "\nstd::mutex lock; // why\n",
        "kernels/a.cc": '\n#include "transport/io.hpp"\n',
        "kernels/c.cc": '\n#include "frame_generated.h"\n',
        "kernels/b.cc": '\n#include "ops.h"\n',
        "transport/a.cc": '\n#include "engine/core/a.hpp"\n',
        "engine/node/a.cc": "\n#include <torch/torch.h>\n",
        "engine/training/a.cc": '\n#include "engine/node/loop.hpp"\n',
        "tools/a.cc": '\n#include "tests/a.hpp"\n',
        "tools/b.cc": "\n#include <c10/util/Half.h>\n",
        "engine/node/b.cc": '\n#include "bench/a.hpp"\n',
        "engine/node/c.cc": "\n#include <engine/base/a.hpp>\n",
        "elsewhere/a.cc": "",
    }
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        write_files(root, allowed)
        assert check(root) == [], check(root)
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        write_files(root, planted)
        found = [line.split(": ")[0] for line in check(root)]
        expected = sorted(f"{name}:{2 if text else 1}" for name, text in planted.items())
        assert sorted(found) == expected, (sorted(found), expected)


def write_files(root: pathlib.Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def main() -> int:
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        print("self-test passed")
        return 0
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    found = check(pathlib.Path(sys.argv[1]).resolve())
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
