"""A home as its owner describes it, made ready for the run that it takes part in.

The owner writes a day; a run has a calendar of days with 23, 24 or 25 hours, in slots of an hour or less.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from stackelgrid.calendar import Calendar
from stackelgrid.model import PER_SLOT, StrictModel
from stackelgrid.rounds.settings import HomeModel

HOURS = 24


def fit_to_calendar(home: dict[str, Any], model: type[HomeModel], calendar: Calendar) -> dict[str, Any]:
    """Give a described home with the slots of a run.

    A list per slot with 24 numbers is of the hours of a day: each slot of the run gets the number of its hour. The
    length of a slot, and in games that have it the horizon, are the run's unless the home has them.
    """
    hours = [time.hour for time in calendar.times]
    run: dict[str, Any] = {"slot_hours": calendar.slot_hours}
    if "horizon" in model.model_fields:
        run["horizon"] = calendar.slots
    return {**run, **(home if len(hours) == HOURS else _repeat(home, model, hours))}


def _repeat(content: dict[str, Any], model: type[StrictModel], hours: Sequence[int]) -> dict[str, Any]:
    """Repeat each day in `content`, which `model` has not read yet."""
    repeated = dict(content)
    for name, field in model.model_fields.items():
        value = content.get(name)
        if PER_SLOT in field.metadata and isinstance(value, list) and len(value) == HOURS:
            repeated[name] = [value[hour] for hour in hours]
        for part in _find_models(field.annotation):
            if isinstance(value, dict):
                repeated[name] = _repeat(value, part, hours)
            elif isinstance(value, list):
                repeated[name] = [_repeat(each, part, hours) if isinstance(each, dict) else each for each in value]
    return repeated


def _find_models(annotation: Any) -> Iterator[type[StrictModel]]:
    """Find the models that a field holds."""
    if inspect.isclass(annotation) and issubclass(annotation, StrictModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _find_models(argument)
