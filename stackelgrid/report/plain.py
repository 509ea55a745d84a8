"""The report of a game that has none of its own: every number of its outcome, and every array, drawn and in tables.

A key ending in a unit (`peak_kw`, `energy_kwh`, `sold_mw`) is shown in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stackelgrid.columns import Cell, Columns, stack
from stackelgrid.report.parts import Plot, Row, Section
from stackelgrid.report.run_folder import RunFolder
from stackelgrid.report.words import quantity, split_key
from stackelgrid.run_record import Outcome
from stackelgrid.run_result import RunResult


def key_figures(result: RunResult[Any], outcome: Outcome) -> list[Row]:
    """List every single number of an outcome."""
    rows = []
    for key, value in outcome.content().items():
        name, unit = split_key(key)
        if _is_number(value):
            text = f"{value:,} {unit}".strip() if isinstance(value, int) else quantity(value, unit)
            rows.append((name.capitalize(), text))
    return rows


def sections(run: RunFolder, outcome: Outcome) -> Iterator[Section]:
    """Draw a number per slot as steps, alone or by name, and one number per name as bars or ranked."""
    from stackelgrid.report import drawing

    slots, plots = run.scenario.slots, []
    for key, value in _by_name(outcome.content()):
        words, unit = split_key(key)
        name = words.capitalize()
        label = f"{name} ({unit})" if unit else name
        if _is_series(value, slots):
            figure = drawing.steps([drawing.Curve(name, value)], label)
        elif _all(value, lambda each: _is_series(each, slots)):
            figure = drawing.many(value, label)
        elif _all(value, _is_number):
            figure = drawing.members({name: value}, label)
        else:
            continue
        plots.append(Plot(re.sub("[^A-Za-z0-9_-]", "-", key), figure, f"{name}: {key} of the outcome."))
    if plots:
        yield Section("Outcome", plots)


# --- tables ---


def list_numbers(scenario: Any, outcome: Outcome) -> dict[str, Cell]:
    """List every single number of an outcome by its key."""
    return {key: value for key, value in outcome.content().items() if _is_number(value)}


def tabulate_slots(scenario: Any, outcome: Outcome) -> Columns:
    """Tabulate every array with a number per slot, a row per slot."""
    slots = range(1, scenario.slots + 1)
    return {"slot": slots, **_list_series(outcome.content(), scenario.slots)}


def tabulate_schedules(scenario: Any, outcome: Outcome) -> Columns:
    """Tabulate every array of each home, a row per home and slot."""
    homes = outcome.content().get("homes", {})
    slots = range(1, scenario.slots + 1)
    return stack({"home": name, "slot": slots, **_list_series(home, scenario.slots)} for name, home in homes.items())


def tabulate_homes(scenario: Any, outcome: Outcome) -> Columns:
    """Tabulate every number of each home, a row per home."""
    homes = outcome.content().get("homes", {})
    return stack({"home": name, **{k: v for k, v in home.items() if _is_number(v)}} for name, home in homes.items())


def _list_series(content: Mapping[str, Any], slots: int) -> dict[str, list[float]]:
    return {key: value for key, value in content.items() if _is_series(value, slots)}


TABLES = {"slots": tabulate_slots, "schedules": tabulate_schedules, "homes": tabulate_homes}


# --- what an outcome holds ---


def _by_name(outcome: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give the items of an outcome; accounts by name, {name: {key: value}}, key by key, {name: value} each."""
    for key, value in outcome.items():
        if not _all(value, lambda account: isinstance(account, dict)):
            yield key, value
            continue
        for inner in dict.fromkeys(inner for account in value.values() for inner in account):
            yield f"{key}.{inner}", {name: account[inner] for name, account in value.items() if inner in account}


def _all(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and bool(value) and all(holds(each) for each in value.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_series(value: Any, slots: int) -> bool:
    return isinstance(value, list) and len(value) == slots and all(_is_number(each) for each in value)
