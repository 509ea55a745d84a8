"""A heat pump or a boiler with the room or the tank that it heats [UO-HP]."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.games.user_oriented.home.flows import Chain, Control
from stackelgrid.model import LARGEST, PER_SLOT, NonNegative, Positive, PositivePerSlot
from stackelgrid.rounds.settings import PrivateModel
from stackelgrid.wire.arrays import Array

Celsius = Annotated[float, Field(ge=-100, le=200)]
Heat = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
CelsiusPerSlot = Annotated[Celsius | list[Celsius], PER_SLOT]
HeatPerSlot = Annotated[Heat | list[Heat], PER_SLOT]


class Comfort(PrivateModel):
    """The band of temperature, from `min_c` to `max_c` at the end of each slot, in which nobody complains.

    Leaving it costs `price` times the square of the excess, money per K^2 and hour; when omitted it is never left.
    """

    min_c: CelsiusPerSlot
    max_c: CelsiusPerSlot
    price: Positive | None = None

    def price_of(self, celsius: Array) -> Array:
        """Give what a temperature outside the band costs in each slot, (T,) money per hour."""
        excess = np.maximum(self.min_c - celsius, 0.0) + np.maximum(celsius - self.max_c, 0.0)
        return (self.price or 0.0) * excess**2

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        least, most = np.atleast_1d(self.min_c), np.atleast_1d(self.max_c)
        if len(least) != len(most) and min(len(least), len(most)) > 1:
            raise ValueError("min_c and max_c have different lengths; give both one per slot")
        above = np.flatnonzero(least > most)
        if len(above):
            raise ValueError(f"min_c is above max_c in slot {above[0] + 1}; swap them")
        return self


class HeatPump(PrivateModel):
    """A heat pump, or with `cop` 1 a boiler: up to `max_kw` of power make `cop` times as much heat.

    The heat goes into a room or a tank of first order: it holds `heat_kwh_per_k`, loses `loss_kw_per_k` to what is
    outside at `outside_c`, and gains `gains_kw` of heat otherwise (below zero for hot water that is drawn). `fast` is
    the cost of power, money per kW^2 h, above zero so that the best schedule is unique (reading: a heat pump gives less
    heat per kWh at full power).
    """

    name: str = "heat_pump"
    max_kw: Positive
    cop: PositivePerSlot = 3.0
    heat_kwh_per_k: Positive
    loss_kw_per_k: NonNegative
    outside_c: CelsiusPerSlot
    gains_kw: HeatPerSlot = 0.0
    initial_c: Celsius
    comfort: Comfort
    fast: Positive = 1e-2

    def chain(self, horizon: int, slot_hours: float) -> Chain:
        """Give its temperature as a chain, exact for a power that stays the same within a slot."""
        at_once = slot_hours * self.loss_kw_per_k / self.heat_kwh_per_k
        keep = float(np.exp(-at_once))
        # The temperature that a kW of heat for an hour adds by the end of its slot: 1/C without losses.
        share = -float(np.expm1(-at_once)) / at_once if at_once > 1e-9 else 1.0
        rise = share / self.heat_kwh_per_k
        outside, gains, cop, low, high = (
            np.broadcast_to(np.asarray(value, float), (horizon,))
            for value in (self.outside_c, self.gains_kw, self.cop, self.comfort.min_c, self.comfort.max_c)
        )
        control = Control(np.zeros(horizon), np.full(horizon, self.max_kw), self.fast, 1.0, rise * cop)
        drift = slot_hours * rise * (self.loss_kw_per_k * outside + gains)
        if self.comfort.price is None:
            return Chain(self.initial_c, keep, drift, low, high, [control])
        widest = self._reach(keep, drift, slot_hours * rise * cop * self.max_kw)
        lower, upper = np.minimum(widest[0] - 1, low), np.maximum(widest[1] + 1, high)
        return Chain(self.initial_c, keep, drift, lower, upper, [control], low, high, self.comfort.price)

    def follow(self, power: Array, slot_hours: float) -> Array:
        """Give the temperature at the end of each slot, (T,), when it draws `power`, (T,) kW."""
        chain, celsius, found = self.chain(len(power), slot_hours), self.initial_c, np.zeros(len(power))
        (control,) = chain.controls
        assert control.gain is not None
        for slot in range(len(power)):
            celsius = chain.keep * celsius + chain.drift[slot] + slot_hours * control.gain[slot] * power[slot]
            found[slot] = celsius
        return found

    def _reach(self, keep: float, drift: Array, heating: Array) -> tuple[Array, Array]:
        """Give the temperature without any heating, and with all of it."""
        least, most = np.zeros(len(drift)), np.zeros(len(drift))
        low = high = self.initial_c
        for slot in range(len(drift)):
            low, high = keep * low + drift[slot], keep * high + drift[slot] + heating[slot]
            least[slot], most[slot] = low, high
        return least, most
