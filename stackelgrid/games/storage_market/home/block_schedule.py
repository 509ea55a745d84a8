"""Schedules of a home's appliances: time-of-use scheduling by dynamic programming (reading: energy in equal blocks).

An interruptible appliance needs `blocks` of energy between the hours `first` and `last`, at most m of them an hour.
With s blocks still to come, the rest of the day costs at least [SM-13]

    V_t(s) = min over 0 <= u <= min(s, m) of  lambda_t u + V_{t+1}(s - u),    V_{last+1}(0) = 0,  else infinite,

per kWh of a block; u_t follows forwards. An appliance that cannot be interrupted decides on its starting hour alone
[SM-14]. Both are exact. Hours count from 1, energy in kWh, prices in dollars per MWh.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stackelgrid.model import Positive
from stackelgrid.rounds.settings import PrivateModel
from stackelgrid.wire.arrays import Array

Blocks = NDArray[np.int64]
Hour = Annotated[int, Field(ge=1, le=1000)]


class Interruptible(PrivateModel):
    """`blocks` of `block_kwh` within the hours `first`..`last`, `per_hour` of them at most.

    Before there was a price it ran at full rate from the hour `preferred` on.
    """

    kind: Literal["interruptible"] = "interruptible"
    name: str = "interruptible"
    blocks: Annotated[int, Field(ge=1, le=1000)]
    block_kwh: Positive
    first: Hour
    last: Hour
    per_hour: Annotated[int, Field(ge=1, le=1000)]
    preferred: Hour

    @property
    def hours(self) -> int:
        """The hours that it runs at full rate."""
        return -(-self.blocks // self.per_hour)

    @property
    def energy_kwh(self) -> float:
        """The energy that it needs."""
        return self.blocks * self.block_kwh

    @property
    def most_kw(self) -> float:
        """Its full rate."""
        return min(self.blocks, self.per_hour) * self.block_kwh

    def preferred_schedule(self, slots: int) -> Array:
        """Give what it draws before there is a price, (T,) kWh."""
        blocks = np.zeros(slots)
        left = self.blocks
        for hour in range(self.preferred - 1, self.preferred - 1 + self.hours):
            blocks[hour] = min(left, self.per_hour)
            left -= self.per_hour
        return blocks * self.block_kwh

    def cheapest_schedule(self, price: Array) -> Array:
        """Give what it draws at `price` (T,), (T,) kWh [SM-13]: backwards for V, then forwards for u."""
        window = range(self.first - 1, self.last)
        most = np.arange(self.per_hour + 1)
        to_come = np.arange(self.blocks + 1)
        after = to_come[:, None] - most  # (s, u) -> s - u
        possible = after >= 0
        value = np.where(to_come == 0, 0.0, np.inf)
        best: list[Blocks] = []
        for hour in reversed(window):
            cost = np.where(possible, price[hour] * most + value[np.maximum(after, 0)], np.inf)
            best.append(cost.argmin(axis=1))
            value = cost.min(axis=1)
        blocks = np.zeros(len(price))
        left = self.blocks
        for hour, choice in zip(window, reversed(best), strict=True):
            blocks[hour] = choice[left]
            left -= int(choice[left])
        return blocks * self.block_kwh

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        _require_window(self.name, self.first, self.last, self.preferred, self.hours)
        return self


class Uninterruptible(PrivateModel):
    """Runs `hours` in a row at `kw` within the hours `first`..`last`; before there was a price, from `preferred` on."""

    kind: Literal["uninterruptible"]
    name: str = "uninterruptible"
    hours: Hour
    kw: Positive
    first: Hour
    last: Hour
    preferred: Hour

    @property
    def energy_kwh(self) -> float:
        """The energy that it needs."""
        return self.hours * self.kw

    @property
    def most_kw(self) -> float:
        """Its rate."""
        return self.kw

    def preferred_schedule(self, slots: int) -> Array:
        """Give what it draws before there is a price, (T,) kWh."""
        return self._from(self.preferred - 1, slots)

    def cheapest_schedule(self, price: Array) -> Array:
        """Give what it draws at `price` (T,), (T,) kWh, from the starting hour that costs least [SM-14]."""
        paid = np.convolve(price[self.first - 1 : self.last], np.ones(self.hours), "valid")
        return self._from(self.first - 1 + int(paid.argmin()), len(price))

    def _from(self, start: int, slots: int) -> Array:
        consumption = np.zeros(slots)
        consumption[start : start + self.hours] = self.kw
        return consumption

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        _require_window(self.name, self.first, self.last, self.preferred, self.hours)
        return self


Appliance = Annotated[Interruptible | Uninterruptible, Field(discriminator="kind")]


def _require_window(name: str, first: int, last: int, preferred: int, hours: int) -> None:
    if last - first + 1 < hours:
        raise ValueError(
            f"appliance '{name}': it runs {hours} hours, its window {first}..{last} has {max(0, last - first + 1)}; "
            "widen the window or raise its rate"
        )
    if not first <= preferred <= last - hours + 1:
        raise ValueError(
            f"appliance '{name}': preferred {preferred} is outside {first}..{last - hours + 1}, from where its {hours} "
            "hours end within its window; move preferred"
        )
