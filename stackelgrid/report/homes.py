"""The homes of a run one by one, from its tables: what each does slot by slot, and what it pays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from stackelgrid.columns import Columns
from stackelgrid.report.clock import name_day
from stackelgrid.report.days import name_total
from stackelgrid.report.words import number

_NUMBERS_AT_MOST = 40_000
"""Numbers on a page, which would be large with more: of many homes some are shown, evenly from first to last."""
_NOT_SHOWN = {"session", "home", "slot", "time", "binding", "stored_kwh"}
_PLACES = {"kW": 0, "kWh": 1, "°C": 2}
"""The order of the charts, by the unit."""


def describe_homes(tables: Mapping[str, Columns], money: str) -> dict[str, Any] | None:
    """Describe homes for a reader to choose among; None where no table has what each does.

    `slots` are the names of the slots, `homes` has for each name its `facts`, pairs of a label and a number in words,
    and its `charts`, each a unit and curves of a label and numbers by slot. `of` is how many homes there are.
    """
    schedules = tables.get("schedules", {})
    rows = _find_rows(schedules)
    if not rows:
        return None
    slots = len(next(iter(rows.values())))
    curves = {name: list(_list_curves(schedules, mine, money)) for name, mine in rows.items()}
    for name, found in _list_stores(tables.get("appliances", {})):
        curves[name].append(found)
    size = slots * max(map(len, curves.values()))
    every = max(1, -(-len(rows) * size // _NUMBERS_AT_MOST)) if size else 1
    shown = list(rows)[::every]
    facts = dict(_list_facts(tables, money))
    first = rows[shown[0]]
    return {
        "of": len(rows),
        "slots": [_name_slot(schedules, row) for row in first],
        "homes": {name: {"facts": facts.get(name, []), "charts": _group(curves[name])} for name in shown},
    }


def _find_rows(columns: Columns) -> dict[str, list[int]]:
    """Find the rows of each home, of the slots that bind."""
    rows: dict[str, list[int]] = {}
    binding = columns.get("binding")
    for row, name in enumerate(columns.get("home", ())):
        if binding is None or binding[row]:
            rows.setdefault(name, []).append(row)
    return rows


def _name_slot(columns: Columns, row: int) -> str:
    if "time" in columns:
        time: datetime = columns["time"][row]  # type: ignore[assignment]
        return f"{name_day(time)} {time:%H:%M}"
    return f"{columns['slot'][row] - 1}:00"


Line = tuple[str, str, list[float | None]]
"""A curve: its label, its unit, and its numbers."""


def _list_curves(columns: Columns, rows: list[int], money: str) -> Iterator[Line]:
    """List the curves of a home that are not zero all the time."""
    for key, column in columns.items():
        values = [column[row] for row in rows] if key not in _NOT_SHOWN else []
        if any(isinstance(value, float) and value for value in values):
            yield (*_spell(key, money), [_shorten(value) for value in values])


def _list_stores(columns: Columns) -> Iterator[tuple[str, Line]]:
    """List what the stores and rooms of each home hold, by home."""
    found: dict[tuple[str, str, str], list[float | None]] = {}
    binding = columns.get("binding")
    units = {key: unit for key, unit in (("stored_kwh", "kWh"), ("temperature_c", "°C")) if key in columns}
    appliances: list[Any] = list(columns.get("appliance", ()))
    for row, home in enumerate(columns.get("home", ())):
        for key, unit in units.items():
            value = columns[key][row]
            if value is not None and (binding is None or binding[row]):
                found.setdefault((home, appliances[row], unit), []).append(_shorten(value))
    for (home, appliance, unit), values in found.items():
        name = "electric vehicle" if appliance == "ev" else appliance.replace("_", " ")
        yield home, (name.capitalize(), unit, values)


def _list_facts(tables: Mapping[str, Columns], money: str) -> Iterator[tuple[str, list[list[str]]]]:
    """List the numbers of each home over the whole run."""
    columns = tables.get("savings") or tables.get("homes", {})
    for row, name in enumerate(columns.get("home", ())):
        values = {key: column[row] for key, column in columns.items() if key not in _NOT_SHOWN}
        yield (
            name,
            [
                [label, f"{number(value)} {unit}".strip()]
                for key, value in values.items()
                if isinstance(value, float)
                for label, unit in [_spell(key, money)]
            ],
        )


def _group(curves: list[Line]) -> list[dict[str, Any]]:
    """Group curves by unit, power first."""
    units = sorted(dict.fromkeys(unit for _, unit, _ in curves), key=lambda unit: _PLACES.get(unit, len(_PLACES)))
    return [{"unit": unit, "curves": [[name, v] for name, of, v in curves if of == unit]} for unit in units]


def _spell(key: str, money: str) -> tuple[str, str]:
    """Spell a column's name: its words, and its unit."""
    match = re.fullmatch(r"(.*?)(?: \((.*)\))?", name_total(key, money))
    assert match is not None
    return re.sub(r"\b([Pp]v|[Dd]r)\b", lambda word: word[0].upper(), match[1]), match[2] or ""


def _shorten(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
