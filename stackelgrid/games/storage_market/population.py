"""A population of the storage market, from which homes are drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from stackelgrid.calendar import Session
from stackelgrid.games.storage_market.home import Appliance, Battery, Interruptible, MarketHome, Uninterruptible
from stackelgrid.model import Positive, StrictModel
from stackelgrid.wire.arrays import Array

_KWH_PER_MWH = 1000.0
Hour = Annotated[int, Field(ge=1, le=1000)]
Shift = Annotated[int, Field(ge=0, le=1000)]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Day:
    """A day of `slots` slots, `per_hour` to the hour, from slot `first` of the run on, counted from 0."""

    first: int
    slots: int
    per_hour: int

    @classmethod
    def of(cls, session: Session) -> list[Day]:
        """List the days of a session, one where it has no date."""
        per_hour = round(1 / session.slot_hours)
        if session.times is None:
            return [cls(0, session.slots, per_hour)]
        dates = [time.date() for time in session.times]
        return [cls(dates.index(date), dates.count(date), per_hour) for date in sorted(set(dates))]


class Kind(StrictModel):
    """A kind of appliance that every home has: its `share` of the energy that can be scheduled.

    It runs for `hours` a day at full rate, `interruptible` or in a row. Before there was a price it started in the hour
    `preferred` of the day; it may start up to `earlier` hours before that and end up to `later` hours after it would
    have ended, within the day. All four are bounds of uniform draws.
    """

    name: str
    share: Share
    interruptible: bool
    hours: tuple[Hour, Hour]
    preferred: tuple[Hour, Hour]
    earlier: tuple[Shift, Shift]
    later: tuple[Shift, Shift]

    def draw(
        self, energy: Sequence[float], blocks_per_hour: int, days: Sequence[Day], random: np.random.Generator
    ) -> list[Appliance]:
        """Draw an appliance, one for each day; it needs `energy` kWh, by day."""
        drawn = (
            int(random.integers(low, high + 1)) for low, high in (self.hours, self.preferred, self.earlier, self.later)
        )
        hours, preferred, earlier, later = drawn
        return [
            self._on(day, kwh, blocks_per_hour, hours, preferred, earlier, later)
            for kwh, day in zip(energy, days, strict=True)
            if kwh > 0
        ]

    def _on(
        self, day: Day, energy: float, blocks_per_hour: int, hours: int, preferred: int, earlier: int, later: int
    ) -> Appliance:
        """Give the appliance of a day. Where the day is shorter, it runs less long or starts earlier."""
        per_hour = day.per_hour
        hours = min(hours, day.slots // per_hour)
        preferred = min((preferred - 1) * per_hour, day.slots - hours * per_hour)
        first = day.first + max(preferred - earlier * per_hour, 0) + 1
        last = day.first + min(preferred + (hours + later) * per_hour, day.slots)
        window: dict[str, Any] = {"name": self.name, "first": first, "last": last}
        window["preferred"] = day.first + preferred + 1
        if self.interruptible:
            blocks = hours * blocks_per_hour
            return Interruptible(blocks=blocks, block_kwh=energy / blocks, per_hour=blocks_per_hour, **window)
        return Uninterruptible(kind="uninterruptible", hours=hours, kw=energy / hours, **window)


class Population(StrictModel):
    """The homes to draw at random. Together their appliances need `flexible_share` of each day's expected energy.

    Each home is of a random `size`, has one appliance of each of the `kinds`, whose energy comes in `blocks_per_hour`,
    and a `battery`. A day is one of the run's place; of days of less than an hour they have nothing.
    """

    homes: Annotated[int, Field(ge=1, le=100_000)]
    flexible_share: Share
    size: tuple[Positive, Positive] = (0.8, 1.2)
    blocks_per_hour: Annotated[int, Field(ge=1, le=100)] = 2
    kinds: Annotated[list[Kind], Field(min_length=1)]
    battery: Battery | None = None

    @field_validator("kinds")
    @classmethod
    def _check_shares(cls, kinds: list[Kind]) -> list[Kind]:
        together = sum(kind.share for kind in kinds)
        if abs(together - 1) > 1e-9:
            raise ValueError(f"the shares of the kinds are {together:g} together; make them 1")
        return kinds

    def draw(self, seed: int, expected: Array, days: Sequence[Day]) -> list[MarketHome]:
        """Draw the homes for a demand expected, (T,) MW, in so many days; home n has the random stream [seed, n]."""
        streams = [np.random.default_rng([seed, number]) for number in range(self.homes)]
        sizes = np.array([random.uniform(*self.size) for random in streams])
        by_day = [
            expected[day.first : day.first + day.slots].sum() / day.per_hour * (day.slots >= day.per_hour)
            for day in days
        ]
        energy = np.array([self.flexible_share * _KWH_PER_MWH * mwh * sizes / sizes.sum() for mwh in by_day]).T
        shares = np.array([kind.share for kind in self.kinds])
        shares /= sum(shares)  # 1 but for rounding
        width = len(str(self.homes))
        return [
            MarketHome(
                id=f"h{number + 1:0{width}d}",
                horizon=len(expected),
                slot_hours=1 / days[0].per_hour,
                appliances=[
                    appliance
                    for kind, share in zip(self.kinds, shares, strict=True)
                    for appliance in kind.draw((share * energy[number]).tolist(), self.blocks_per_hour, days, random)
                ],
                battery=self.battery,
            )
            for number, random in enumerate(streams)
        ]
