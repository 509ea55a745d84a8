"""Units of measurements and of a scenario's keys, and conversion of numbers per interval to numbers per slot.

Powers, prices and numbers per unit are averaged over a slot, energies summed. The scenario gets kW and money per kWh,
see `target_unit`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Unit:
    """A unit by `name`: `size` is how many kW, kWh, °C or `money` per kWh it is; "pu" has none."""

    name: str
    quantity: Literal["power", "energy", "price", "temperature", "pu"]
    size: Fraction
    money: str = ""

    @property
    def of_price(self) -> bool:
        """True for money per energy."""
        return self.quantity == "price"


UNITS = {
    "W": Unit("W", "power", Fraction(1, 1000)),
    "kW": Unit("kW", "power", Fraction(1)),
    "MW": Unit("MW", "power", Fraction(1000)),
    "Wh": Unit("Wh", "energy", Fraction(1, 1000)),
    "kWh": Unit("kWh", "energy", Fraction(1)),
    "MWh": Unit("MWh", "energy", Fraction(1000)),
    "°C": Unit("°C", "temperature", Fraction(1)),
    "pu": Unit("pu", "pu", Fraction(1)),
}
_MONEY = {"€": "EUR", "£": "GBP"}
_KEY_ENDS_IN = {"_kw": "kW", "_kwh": "kWh", "_mw": "MW", "_mwh": "MWh", "_c": "°C"}
_BELOW_ZERO = {"net", "gains"}
"""Words of powers that go both ways."""
_OF_PRICES = {"price", "prices", "cost", "costs", "tariff", "tariffs"}
_OF_SHAPES = {"shape", "shapes"}


def find_unit(name: str) -> Unit:
    """Find the unit of a name. Raises `ValueError` listing those that there are."""
    if name in UNITS:
        return UNITS[name]
    money, slash, energy = name.rpartition("/")
    if money.strip() and slash and energy in ("kWh", "MWh"):
        return Unit(name, "price", 1 / UNITS[energy].size, money.strip())
    raise ValueError(
        f"{name!r} is no unit here; write {', '.join(UNITS)} (per unit, taken as it is), or a price as in EUR/MWh"
    )


def read_unit(column: str) -> str | None:
    """Read the unit in a column's name, behind it or in brackets, whatever its capitals; None where there is none."""
    names = {name.lower(): name for name in UNITS if name != "pu"}
    for word in re.split(r"[\s()\[\]_,]+", column):
        if word.lower() in names:
            return names[word.lower()]
        money, slash, energy = word.partition("/")
        if money and slash and energy.lower() in ("kwh", "mwh"):
            return f"{_MONEY.get(money, money)}/{names[energy.lower()]}"
        if slash and money.lower() in names:  # as KWH/hh, per half-hour
            return names[money.lower()]
    return None


@dataclass(frozen=True)
class Kind:
    """The quantity of a scenario's `key`, read from the words between its underscores by one rule for all games.

    A unit at its end means power, energy or temperature; otherwise price, cost or tariff means a price, and shape means
    numbers relative to some power. A key with none of these words takes all of them.
    """

    key: str

    @classmethod
    def at(cls, path: Sequence[str]) -> Kind:
        """Find it by the innermost key on a path that has one: below leader.tariffs, every class is a price."""
        keys = [cls(step) for step in reversed(path) if not step.isdigit()]
        return next((kind for kind in keys if kind.is_known), keys[0])

    @cached_property
    def _words(self) -> set[str]:
        return set(self.key.split("_"))

    @property
    def unit(self) -> Unit | None:
        """The unit at its end, unless the key is per something."""
        if "per" in self._words:
            return None
        return next((UNITS[name] for end, name in _KEY_ENDS_IN.items() if self.key.endswith(end)), None)

    @property
    def of_price(self) -> bool:
        """True when it takes money per energy."""
        return self.unit is None and bool(self._words & _OF_PRICES)

    @property
    def of_shape(self) -> bool:
        """True when it takes numbers relative to some power."""
        return self.unit is None and not self.of_price and bool(self._words & _OF_SHAPES)

    @property
    def is_known(self) -> bool:
        """True when the key's words name a quantity."""
        return self.unit is not None or self.of_price or self.of_shape

    @property
    def from_zero_up(self) -> bool:
        """True when a reading below zero is a mistake: a load, an output, a limit or a shape, unless it is `net`."""
        of_power = self.unit is not None and self.unit.quantity != "temperature"
        return (of_power or self.of_shape) and not self._words & _BELOW_ZERO


_FLOWS = {"power", "energy"}
"""Quantities that the length of an interval turns into each other."""


def target_unit(kind: Kind, given: Unit, money: str) -> Unit:
    """Find the unit that a scenario's key takes, to convert numbers `given` in another.

    It is that at the key's end; otherwise kW for powers and energies, `money` per kWh for prices. Numbers per unit
    stay as they are. Raises `ValueError` when the key and the unit contradict.
    """
    if given.quantity == "pu":
        return given
    mend = f"the data in {given.name}; name other data, or correct their unit"
    wanted = given.quantity if kind.unit is None else kind.unit.quantity
    if kind.unit is not None and wanted != given.quantity and not {wanted, given.quantity} <= _FLOWS:
        raise ValueError(f"{kind.key} is in {kind.unit.name}, {mend}")
    if kind.of_shape and given.quantity not in _FLOWS:
        raise ValueError(f"{kind.key} is relative to a power, {mend}")
    if kind.of_price and not given.of_price:
        raise ValueError(f"{kind.key} takes prices, {mend}")
    if given.of_price:
        return Unit(f"{money}/kWh", "price", Fraction(1), money)
    return kind.unit or (given if given.quantity == "temperature" else UNITS["kW"])


def per_slot(
    values: Sequence[float],
    given: Unit,
    target: Unit,
    step: timedelta,
    slot: timedelta,
    late: timedelta = timedelta(),
) -> NDArray[np.float64]:
    """Convert numbers per interval of a `step`, in `given`, to numbers per `slot`, in `target`, keeping the energy.

    The first slot begins so `late` in the first interval. In an interval the power is constant, so that its pieces
    share an energy; pieces of a slot are summed if they are energies, else averaged. Energy is mean power x Δ.
    """
    piece = timedelta(seconds=math.gcd(*(round(span.total_seconds()) for span in (step, slot, late))))
    shares, pieces, first = step // piece, slot // piece, late // piece
    whole = np.repeat(np.array(values, float), shares)[first:]
    by_slot = whole[: len(whole) // pieces * pieces].reshape(-1, pieces).sum(axis=1)
    ratio = given.size / target.size
    if given.quantity == "energy":
        ratio /= shares
    else:
        by_slot = by_slot / pieces
    if {given.quantity, target.quantity} == {"energy", "power"}:
        hours = Fraction(slot // timedelta(seconds=1), 3600)
        ratio = ratio / hours if given.quantity == "energy" else ratio * hours
    return np.asarray(by_slot * ratio.numerator / ratio.denominator)
