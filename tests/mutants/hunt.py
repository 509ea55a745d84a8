"""Play soak runs in this process until one breaks a promise; print it and exit with 1. Seeds are the arguments.

With `--lines FIRST LAST FILE...` it prints the lines of these files that ran instead, one `FILE:LINE` each.
"""

from __future__ import annotations

import logging
import resource
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import stackelgrid

MOST_CPU_S = 600
"""Seconds of a processor after which the hunt is ended as one that hangs; a busy machine does not shorten it."""


def hunt(first: int, last: int) -> int:
    """Play the seeds; returns the exit code."""
    from stackelgrid.soak.tally import judge

    for seed in range(first, last):
        verdict = judge(seed)
        if verdict.violations:
            print(f"run {seed - first + 1}: {verdict.violations[0].strip().splitlines()[-1]}")
            return 1
    return 0


def find_lines(first: int, last: int, files: set[str]) -> set[str]:
    """Play the seeds and give the lines of the files that ran."""
    found: set[str] = set()
    tree = str(Path(stackelgrid.__file__).parents[1]) + "/"

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename.removeprefix(tree)
        if file not in files:
            return None
        found.add(f"{file}:{frame.f_lineno}")
        return trace

    sys.settrace(trace)
    try:
        hunt(first, last)
    finally:
        sys.settrace(None)
    return found


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S + 1))
    if sys.argv[1] == "--lines":
        print("\n".join(sorted(find_lines(int(sys.argv[2]), int(sys.argv[3]), set(sys.argv[4:])))))
        sys.exit(0)
    sys.exit(hunt(int(sys.argv[1]), int(sys.argv[2])))
