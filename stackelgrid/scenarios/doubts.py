"""Ask about homes whose powers no home has: their numbers are probably in another unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel


def doubt_homes(homes: Sequence[BaseModel], most_kw: float, kwh_a_day: tuple[float, float]) -> list[str]:
    """Ask about homes with a power above `most_kw`, or a load of more or fewer kWh a day than these.

    Both show watts taken for kilowatts, a factor of 1000, and energies of quarters taken for powers, a factor of 4.
    """
    doubts = [(number, doubt) for number, home in enumerate(homes) if (doubt := _doubt(home, most_kw, kwh_a_day))]
    if not doubts:
        return []
    number, doubt = doubts[0]
    others = f", and {len(doubts) - 1} more like it" if len(doubts) > 1 else ""
    return [f"homes.{number}: {doubt}{others}; are its numbers in W or Wh, or energies of intervals taken for kW?"]


def _doubt(home: BaseModel, most_kw: float, kwh_a_day: tuple[float, float]) -> str:
    """Say what of a home's powers no home has; nothing of one that may be."""
    powers = list(_list_powers(home.model_dump()))
    for key, power in powers:
        if power.max() > most_kw:
            return f"{key} is up to {power.max():,.6g} kW, a home has at most {most_kw:,g}"
    day = 24 * sum(power.mean() for key, power in powers if key.endswith("load_kw"))
    if day and not kwh_a_day[0] <= day <= kwh_a_day[1]:
        return f"its load_kw is {day:,.3g} kWh a day, a home has {kwh_a_day[0]:g} to {kwh_a_day[1]:,g}"
    return ""


def _list_powers(node: Any, key: str = "") -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.float64]]]]:
    """List the numbers of the keys that end in _kw."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _list_powers(value, f"{key}.{name}" if key else name)
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for number, value in enumerate(node):
            yield from _list_powers(value, f"{key}.{number}")
    elif key.endswith("_kw") and (isinstance(node, int | float) or (isinstance(node, list) and node)):
        yield key, np.asarray(node, float)
