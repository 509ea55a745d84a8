"""Schedules of a home's appliances: time-of-use scheduling (reading: energy within a window).

An interruptible appliance needs the energy E between the hours `first` and `last`, at most m of it an hour. Asked at a
price lambda it answers with the schedule y that is cheapest when leaving its present one x costs, too [SM-13]:

    min over y   sum_t lambda_t y_t + c / (2 m) (y_t - x_t)^2,      0 <= y_t <= m,   sum_t y_t = E

This is a quadratic program with a closed form: y_t = min(max(x_t - m lambda_t / c + nu, 0), m), and the sum, piecewise
linear in nu, gives nu. One that cannot be interrupted runs h hours in a row. With W_t what a run from hour t on costs,
it decides in each hour whether to start [SM-14]:

    V_t = min(W_t, V_{t+1}),      V_{last-h+2} infinite.

Hours count from 1, energy in kWh, prices and c in dollars per MWh.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.model import Positive
from stackelgrid.rounds.settings import PrivateModel
from stackelgrid.wire.arrays import Array

Hour = Annotated[int, Field(ge=1, le=1000)]


class Interruptible(PrivateModel):
    """`blocks` of `block_kwh` within the hours `first`..`last`, `per_hour` of them at most, or any part of that.

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
        """Give what it draws at `price` (T,), (T,) kWh: full rate in the cheapest hours."""
        window = slice(self.first - 1, self.last)
        left = self.energy_kwh - self.most_kw * np.arange(self.last - self.first + 1)
        consumption = np.zeros(len(price))
        consumption[window][np.argsort(price[window], kind="stable")] = np.clip(left, 0, self.most_kw)
        return consumption

    def proximal_schedule(self, price: Array, present: Array, weight: float) -> Array:
        """Give what it draws at `price` when leaving the `present` schedule costs, too, (T,) kWh [SM-13]."""
        window, most = slice(self.first - 1, self.last), self.most_kw
        wish = present[window] - most * (price[window] - price[window].mean()) / weight
        levels = np.sort(np.concatenate([-wish, most - wish]))
        sums = np.clip(wish + levels[:, None], 0, most).sum(axis=1)
        above = min(max(int(np.searchsorted(sums, self.energy_kwh)), 1), len(levels) - 1)
        low, high = sums[above - 1], sums[above]
        part = (self.energy_kwh - low) / (high - low) if high > low else 0.0
        level = levels[above - 1] + part * (levels[above] - levels[above - 1])
        drawn = np.clip(wish + level, 0, most)
        within = (drawn > 0) & (drawn < most)
        # Where leaving costs little, the wish is large: what its rounding takes from the energy is given back.
        drawn[within] += (self.energy_kwh - drawn.sum()) / max(1, within.sum())
        consumption = np.zeros(len(price))
        consumption[window] = np.clip(drawn, 0, most)
        return consumption

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
        start, least = 0, np.inf
        for hour in range(self.last - self.hours, self.first - 2, -1):
            paid = float(price[hour : hour + self.hours].sum())
            if paid <= least:
                start, least = hour, paid
        return self._from(start, len(price))

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
