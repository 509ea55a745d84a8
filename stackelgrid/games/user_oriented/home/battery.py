"""The stores of energy in a home, batteries and cars: limits [UO-3], wear [UO-4], and what is lost on the way."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.games.user_oriented.home.flows import Chain, Control
from stackelgrid.model import NonNegative, Positive
from stackelgrid.rounds.settings import PrivateModel
from stackelgrid.wire.arrays import Array

Efficiency = Annotated[float, Field(ge=0.01, le=1)]
"""The part that is stored of what is charged, or that comes out of what was stored."""


class Wear(PrivateModel):
    """The wear of a storage [UO-4], money per hour: fast * r_t^2 + deep * min(b_t - depth * B, 0)^2 (reading).

    `fast`, money per kW^2 h, is above zero, so that the home's best schedule is unique and its answer a function of the
    price; `deep`, money per kWh^2 h; `depth` is the share of the capacity below which a discharge counts as deep.
    """

    fast: Positive
    deep: NonNegative = 0.0
    depth: Annotated[float, Field(ge=0, le=1)] = 0.2


class Store(PrivateModel):
    """A store of energy: `final_kwh` is the least level at the end, when omitted the initial one."""

    name: str
    capacity_kwh: NonNegative
    initial_kwh: NonNegative
    charge_kw: NonNegative
    discharge_kw: NonNegative
    final_kwh: NonNegative | None = None
    charge_efficiency: Efficiency = 1.0
    discharge_efficiency: Efficiency = 1.0
    wear: Wear

    @property
    def least_final_kwh(self) -> float:
        """The least level at the end, kWh."""
        return self.initial_kwh if self.final_kwh is None else self.final_kwh

    def move(self, kwh: float, rate: float, slot_hours: float) -> float:
        """Give its energy, kWh, after a slot of net charging at a `rate`, kW, within its capacity."""
        inside = rate * self.charge_efficiency if rate > 0 else rate / self.discharge_efficiency
        return float(np.clip(kwh + slot_hours * inside, 0.0, self.capacity_kwh))

    def wear_of(self, rate: Array, level: Array) -> Array:
        """Give the wear [UO-4] of each slot, (T,) money per hour, at net charging `rate` and `level` at its end."""
        below = np.minimum(level - self.wear.depth * self.capacity_kwh, 0.0)
        return self.wear.fast * rate**2 + self.wear.deep * below**2

    def build_chain(self, here: Array, taken: Array, least: Array, *, behind_inverter: bool = False) -> Chain:
        """Build its energy as a chain [UO-3]: `here` (1 or 0) it runs, `taken` kWh leave, `least` kWh are left.

        In a slot it may charge c and discharge d in turn, and b_t = b_{t-1} + Δ (charge_efficiency c -
        d / discharge_efficiency). The wear is of both, fast (c^2 + d^2).
        """
        charge, discharge = (
            Control(
                np.zeros(len(here)), most * here, self.wear.fast, draw, gain * here, behind_inverter=behind_inverter
            )
            for most, draw, gain in (
                (self.charge_kw, 1.0, self.charge_efficiency),
                (self.discharge_kw, -1.0, -1 / self.discharge_efficiency),
            )
        )
        return Chain(
            initial=self.initial_kwh,
            keep=1.0,
            drift=-taken,
            lower=least,
            upper=np.full(len(here), self.capacity_kwh),
            controls=[charge, discharge],
            soft_lower=np.full(len(here), self.wear.depth * self.capacity_kwh),
            stiffness=self.wear.deep,
        )

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if self.initial_kwh > self.capacity_kwh:
            raise ValueError(f"initial_kwh {self.initial_kwh} is above capacity_kwh {self.capacity_kwh}; lower it")
        if self.least_final_kwh > self.capacity_kwh:
            raise ValueError(f"final_kwh {self.least_final_kwh} is above capacity_kwh {self.capacity_kwh}; lower it")
        return self
