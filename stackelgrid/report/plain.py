"""The page of a game that has no report of its own: every number of its outcome, and every array drawn.

A key ending in a unit (`peak_kw`, `energy_kwh`, `sold_mw`) is shown in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

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
