"""Read NEM12, the format of Australian interval meters (AEMO, Meter Data File Format Specification NEM12 & NEM13).

A record 200 names a meter's register, its unit and the length of its intervals; the records 300 below it are a day
each, in the market's time, which is UTC+10 all year; a 400 says which of that day's intervals were measured.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import datetime, timedelta

from stackelgrid.scenarios.measured.table import Row, Table
from stackelgrid.scenarios.measured.units import UNITS

_HEADER = ["nmi", "suffix", "meter", "time", "value"]
_KEYS = {"time": "time", "timezone": "Etc/GMT-10", "meter": "meter", "value": "value"}
_ENERGIES = {name.upper(): name for name in UNITS if name.endswith("Wh")}
_DAY = 24 * 60
_QUALITIES = {"A", "E", "F", "N", "S", "V"}
"""Actual, estimated, final substitute, null, substitute, and variable, which records 400 resolve."""
_NO_DATA = "N"
"""The quality of an interval for which there is no number."""


def is_nem12(text: str) -> bool:
    """Tell by its first record, or by the first of a meter where that was cut off."""
    first = text[:200].lstrip().split(",")
    return first[:2] == ["100", "NEM12"] or (first[0] == "200" and len(first) == 10)


def read_nem12(text: str) -> Table:
    """Read the active energies of a file: a row per interval, with register and time. Raises `ValueError`."""
    rows: list[Row] = []
    units: dict[str, str] = {}
    others: dict[str, str] = {}
    lengths: set[int] = set()
    register: list[str] = []
    day: list[Row] = []
    for number, cells in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), 1):
        match cells[:1]:
            case ["200"]:
                if len(cells) < 9 or not cells[8].isdecimal() or int(cells[8]) not in (5, 15, 30, 60):
                    raise ValueError(f"row {number}: no interval of 5, 15, 30 or 60 minutes; export it again")
                register = cells
                measured = units if cells[7].upper() in _ENERGIES else others
                lengths |= {int(cells[8])} if measured is units else set()
                measured[f"{cells[1]} {cells[4]}"] = _ENERGIES.get(cells[7].upper(), cells[7])
            case ["300"]:
                if not register:
                    raise ValueError(f"row {number}: a day without the record 200 of its meter; export it again")
                rows += day
                day = list(_list_day(number, cells, register)) if register[7].upper() in _ENERGIES else []
            case ["400"] if day and len(cells) >= 4 and cells[1].isdecimal() and cells[2].isdecimal():
                if cells[3][:1] == _NO_DATA:
                    absent = range(int(cells[1]), int(cells[2]) + 1)
                    minutes = int(register[8])
                    day = [row for row in day if _find_place(row, minutes) not in absent]
    rows += day
    if not rows:
        raise ValueError("it holds no energy of intervals; export it again")
    if len(set(units.values())) > 1:
        raise ValueError(f"its registers are in {' and '.join(sorted(set(units.values())))}; export them apart")
    findings = ["it is in the format NEM12, a row per day and register, in UTC+10"]
    findings += [f"{name} is in {unit} and left out" for name, unit in others.items()]
    keys = {**_KEYS, "unit": next(iter(units.values()))}
    if len(lengths) == 1:
        keys["interval"] = f"{lengths.pop()}min"
    return Table(_HEADER, 1, {}, rows, findings, keys)


def _list_day(number: int, cells: list[str], register: list[str]) -> Iterator[Row]:
    """List the intervals of a record 300."""
    minutes = int(register[8])
    count = _DAY // minutes
    try:
        begin = datetime.strptime(cells[1], "%Y%m%d")
    except (ValueError, IndexError):
        raise ValueError(f"row {number}: it has no day as 20250614; mend the row") from None
    quality = cells[count + 2][:1] if len(cells) > count + 2 else ""
    if quality not in _QUALITIES:
        raise ValueError(f"row {number}: no quality follows {count} intervals of {minutes} minutes; mend the row")
    if quality == _NO_DATA:
        return
    nmi, suffix = register[1], register[4]
    for place, cell in enumerate(cells[2 : count + 2]):
        yield number, [nmi, suffix, f"{nmi} {suffix}", str(begin + place * timedelta(minutes=minutes)), cell]


def _find_place(row: Row, minutes: int) -> int:
    """Find the number of an interval within its day, from 1."""
    at = datetime.fromisoformat(row[1][3])
    return (at.hour * 60 + at.minute) // minutes + 1
