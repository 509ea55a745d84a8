"""A history in one screen: a line per session, or per day where there are many, and a total."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from stackelgrid.columns import Columns

MOST_LINES = 20
"""More sessions are shown by day, and of more days the last."""

Row = dict[str, Any]


def describe(sessions: Columns, bills: Columns, width: int) -> list[str]:
    """Describe the sessions of one node in lines of at most `width` letters: for a home with its bills.

    Empty where there is no session.
    """
    rows = to_rows(sessions)
    if not rows:
        return []
    first, last = rows[0], rows[-1]
    names = dict.fromkeys(row["run"] for row in rows)
    settled = sum(bool(row["settled"] and row["complete"]) for row in rows)
    node = " ".join(dict.fromkeys((first["role"], first["node"])))
    head = f"{node} of {', '.join(names)}: {_count(len(rows), 'session')}"
    head += f", {'all' if settled == len(rows) else settled} settled and complete"
    is_home = first["role"] == "home"
    if is_home:
        _add_bills(rows, bills)
    shown, left_out = _group(rows)
    columns = _HOME if is_home else _COORDINATOR
    wanted = {title: write for title, write in columns.items() if any(write(row) for row in shown)}
    table = [[*wanted], *([write(row) for write in wanted.values()] for row in shown)]
    total = {**_sum(rows), "label": "all"}
    if len(shown) > 1:
        table.append([write(total) for write in wanted.values()])
    lines = [head, f"{_day(first)} to {_day(last)}"] if _day(first) != _day(last) else [f"{head}, {_day(first)}"]
    if left_out:
        lines.append(f"the last {len(shown)} days are shown; {left_out} before them: --since, or --table sessions")
    return [line[:width] for line in [*lines, "", *_align(table)]]


def describe_mode(row: Row) -> str:
    """Describe what drives the storage of a home, in a line."""
    also = {"override": ", overridden", "limited": ", limited from outside"}
    words = "".join(word for key, word in also.items() if row[key])
    return f"storage: {row['mode']}{words}, since {row['at']:%Y-%m-%d %H:%M}"


def to_rows(columns: Columns) -> list[Row]:
    """Give the rows of a table."""
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _add_bills(rows: Iterable[Row], bills: Columns) -> None:
    """Add to a home's sessions what it has to pay, all homes of its process together."""
    by_session: dict[tuple[str, int], list[Row]] = {}
    for bill in to_rows(bills):
        by_session.setdefault((bill["run"], bill["session"]), []).append(bill)
    for row in rows:
        mine = by_session.get((row["run"], row["session"]), [])
        for key in ("bill", "metered_kwh", "metered_bill"):
            row[key] = _add(bill[key] for bill in mine)


def _group(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Give the lines to show, sessions or days, and how many days before them are left out."""
    if len(rows) <= MOST_LINES:
        return [{**row, "label": f"{row['session']:>4}  {_time(row)}"} for row in rows], 0
    days = [{**_sum([*of_day]), "label": day} for day, of_day in groupby(rows, _day)]
    return days[-MOST_LINES:], max(len(days) - MOST_LINES, 0)


def _sum(rows: Sequence[Row]) -> Row:
    """Sum sessions up in one row."""
    energy, peak = _add(row["energy_kwh"] for row in rows), max((row["peak_kw"] or 0.0 for row in rows), default=0.0)
    drawn = [row for row in rows if row["par"] and row["peak_kw"]]  # the rest has no mean load to measure a peak by
    hours = sum(row["energy_kwh"] / row["peak_kw"] * row["par"] for row in drawn)
    if drawn:  # slots are of one length
        hours *= sum(row["binding"] for row in rows if row["peak_kw"] is not None) / sum(
            row["binding"] for row in drawn
        )
    missing = dict.fromkeys(name for row in rows for name in (row["missing"] or "").split(",") if name)
    summed = {key: _add(row.get(key) for row in rows) for key in ("revenue", "bill", "metered_kwh", "metered_bill")}
    priced = [row for row in rows if row["mean_price"] is not None]
    prices = sum(row["mean_price"] * row["binding"] for row in priced)
    return {
        **summed,
        "energy_kwh": energy,
        "peak_kw": peak,
        "par": peak * hours / energy if energy is not None and energy > 0 else None,
        "mean_price": prices / sum(row["binding"] for row in priced) if priced else None,
        "rounds": _add(row["rounds"] for row in rows),
        "bytes": _add(row["bytes"] for row in rows),
        "missing": ",".join(missing),
        "settled": all(row["settled"] for row in rows),
        "complete": all(row["complete"] for row in rows),
    }


def _add(numbers: Iterable[float | None]) -> float | None:
    """Add those that are known, None where none is."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _write_end(row: Row) -> str:
    if not row["settled"]:
        return row.get("ended") or "not settled"
    return "" if row["complete"] else "incomplete"


def _number(key: str, digits: int) -> Callable[[Row], str]:
    return lambda row: "" if row.get(key) is None else f"{row[key]:,.{digits}f}"


_COMMON: Mapping[str, Callable[[Row], str]] = {
    "session": lambda row: row["label"],
    "price": _number("mean_price", 2),
    "kWh": _number("energy_kwh", 1),
    "peak kW": _number("peak_kw", 2),
}
_COORDINATOR: Mapping[str, Callable[[Row], str]] = {
    **_COMMON,
    "PAR": _number("par", 3),
    "revenue": _number("revenue", 2),
    "rounds": _number("rounds", 0),
    "kB": lambda row: "" if row["bytes"] is None else f"{row['bytes'] / 1000:,.0f}",
    "ended": _write_end,
    "missing": lambda row: (row["missing"] or "").replace(",", " "),
}
_HOME: Mapping[str, Callable[[Row], str]] = {
    **_COMMON,
    "bill": _number("bill", 2),
    "metered kWh": _number("metered_kwh", 1),
    "bill as metered": _number("metered_bill", 2),
    "ended": _write_end,
}
"""The columns of the screen; one that is empty in all rows is left out."""
_TEXTS = ("session", "ended", "missing")


def _align(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    texts = [title in _TEXTS for title in table[0]]
    return [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, texts, strict=True)
        ).rstrip()
        for row in table
    ]


def _begin(row: Row) -> datetime:
    begin: datetime = row["start"] or row["at"]
    return begin


def _day(row: Row) -> str:
    return f"{_begin(row):%Y-%m-%d}"


def _time(row: Row) -> str:
    return f"{_begin(row):%Y-%m-%d %H:%M}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
