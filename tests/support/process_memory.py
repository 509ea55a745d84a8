"""The memory of a running process, and numbers in it: as float64, in fixed point, as text."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from stackelgrid.masks.fixed_point import FRACTION_BITS

DIGITS = 12
"""So many characters of a number as text are its own."""


def read_memory(pid: int) -> list[bytes]:
    """Read what a process has written to its memory, segment by segment, while it is stopped.

    Raise `PermissionError` where this user may not.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        return [_read_segment(pid, *bounds) for bounds in _list_writable(pid)]
    finally:
        os.kill(pid, signal.SIGCONT)


def _list_writable(pid: int) -> list[tuple[int, int]]:
    """List the segments that are readable and writable: first byte and end."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        where, access, *_ = line.split()
        if access.startswith("rw"):
            start, end = (int(part, 16) for part in where.split("-"))
            found.append((start, end))
    return found


def _read_segment(pid: int, start: int, end: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(start)
        parts, left = [], end - start
        while left > 0:
            try:
                part = memory.read(min(left, 2**24))
            except OSError:  # a guard page
                break
            if not part:
                break
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def find_numbers(memory: Sequence[bytes], answers: Sequence[Sequence[float]]) -> dict[str, int]:
    """Count how many numbers of some answers are in memory in each form.

    In fixed point, of which many bits are zero, a number counts with the next of its answer. Words are where numbers
    are kept, at multiples of eight bytes.
    """
    numbers = [number for answer in answers for number in answer]
    floats = np.array(numbers).view(np.uint64)
    fixed = [np.rint(np.ldexp(answer, FRACTION_BITS)).astype(np.int64).view(np.uint64) for answer in answers]
    pairs = [pair for words in fixed for pair in pairwise(words.tolist())]
    texts = {repr(number)[:DIGITS].encode() for number in numbers}
    any_text = re.compile(b"|".join(map(re.escape, texts)))
    found_floats, found_pairs, found_texts = set[int](), set[tuple[int, int]](), set[bytes]()
    for part in memory:
        words = np.frombuffer(part[: len(part) // 8 * 8], np.uint64)
        found_floats |= set(words[np.isin(words, floats)].tolist())
        places = np.flatnonzero(np.isin(words[:-1], [first for first, _ in pairs]))
        found_pairs |= set(zip(words[places].tolist(), words[places + 1].tolist(), strict=True)) & set(pairs)
        found_texts |= set(any_text.findall(part))
    return {"float64": len(found_floats), "fixed point": len(found_pairs), "text": len(found_texts)}
