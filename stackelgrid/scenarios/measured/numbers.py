"""Read numbers as meters and portals write them, and tell those that count up."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from stackelgrid.wire.arrays import LARGEST

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_PERHAPS_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([.,' ]\d{3})+([.,]\d*)?")
_FEWEST_READINGS = 4


def count_up(values: Sequence[float]) -> bool:
    """Say whether readings look like a meter's totals: they never fall, or once at a reset and rise nearly always."""
    steps = [after - before for before, after in itertools.pairwise(values)]
    falls, rises = sum(step < 0 for step in steps), sum(step > 0 for step in steps)
    return len(values) >= _FEWEST_READINGS and rises > 0 and (falls == 0 or (falls == 1 and rises >= 10 * falls))


def read_number(text: str, decimal: str, thousands: str) -> float:
    """Read a number with a `decimal` separator and, where they are separated, `thousands`."""
    if not text:
        raise ValueError("the cell is empty; fill it in, or choose another day")
    plain = text
    if thousands:
        group = re.escape(thousands)
        plain = plain.replace("\u00a0", " ").replace("\u202f", " ")
        if re.fullmatch(rf"[+-]?\d{{1,3}}({group}\d{{3}})+({re.escape(decimal)}\d*)?", plain):
            plain = plain.replace(thousands, "")
    if decimal == ",":
        plain = plain.replace(".", "?").replace(",", ".")
    if _NUMBER.fullmatch(plain) is None:
        raise ValueError(f"{text[:60]!r} is no number with decimal {decimal!r}; {_find_mend(text, decimal)}")
    number = float(plain)
    if abs(number) > LARGEST:
        raise ValueError(f"{text[:60]!r} is beyond {LARGEST:g}, the largest number anywhere in a game; correct it")
    return number


def _find_mend(text: str, decimal: str) -> str:
    """Say what to do with a cell that is no number. Another decimal is advised only where no thousands can be meant."""
    if _PERHAPS_THOUSANDS.fullmatch(text):
        return "if that separates thousands, give thousands in data"
    other = "," if decimal == "." else "."
    if decimal not in text and _NUMBER.fullmatch(text.replace(other, ".")):
        return f"set decimal: {other!r} in data"
    return "fill it in, or choose another day"
