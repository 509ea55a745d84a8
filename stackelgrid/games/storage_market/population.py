"""A population of the storage market, from which homes are drawn at random."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from stackelgrid.games.storage_market.home import Appliance, Battery, Interruptible, MarketHome, Uninterruptible
from stackelgrid.model import Positive, StrictModel
from stackelgrid.wire.arrays import Array

_KWH_PER_MWH = 1000.0
Hour = Annotated[int, Field(ge=1, le=1000)]
Shift = Annotated[int, Field(ge=0, le=1000)]
Share = Annotated[float, Field(gt=0, le=1)]


class Kind(StrictModel):
    """A kind of appliance that every home has: its `share` of the energy that can be scheduled.

    It runs for `hours` at full rate, `interruptible` or in a row. Before there was a price it started in the hour
    `preferred`; it may start up to `earlier` hours before that and end up to `later` hours after it would have ended,
    within the horizon. All four are bounds of uniform draws.
    """

    name: str
    share: Share
    interruptible: bool
    hours: tuple[Hour, Hour]
    preferred: tuple[Hour, Hour]
    earlier: tuple[Shift, Shift]
    later: tuple[Shift, Shift]

    def draw(self, energy: float, blocks_per_hour: int, slots: int, random: np.random.Generator) -> Appliance:
        """Draw an appliance that needs `energy` kWh."""
        hours, preferred, earlier, later = (
            int(random.integers(low, high + 1)) for low, high in (self.hours, self.preferred, self.earlier, self.later)
        )
        hours = min(hours, slots)
        preferred = min(preferred, slots - hours + 1)
        first, last = max(preferred - earlier, 1), min(preferred + hours - 1 + later, slots)
        window: dict[str, Any] = {"name": self.name, "first": first, "last": last, "preferred": preferred}
        if self.interruptible:
            blocks = hours * blocks_per_hour
            return Interruptible(blocks=blocks, block_kwh=energy / blocks, per_hour=blocks_per_hour, **window)
        return Uninterruptible(kind="uninterruptible", hours=hours, kw=energy / hours, **window)


class Population(StrictModel):
    """The homes to draw at random. Together their appliances need `flexible_share` of the day's expected energy.

    Each home is of a random `size`, has one appliance of each of the `kinds`, whose energy comes in `blocks_per_hour`,
    and a `battery`.
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

    def draw(self, seed: int, expected: Array) -> list[MarketHome]:
        """Draw the homes for a demand expected, (T,) MW; home n has the random stream [seed, n]."""
        streams = [np.random.default_rng([seed, number]) for number in range(self.homes)]
        sizes = np.array([random.uniform(*self.size) for random in streams])
        energy = self.flexible_share * _KWH_PER_MWH * expected.sum() * sizes / sizes.sum()
        shares = np.array([kind.share for kind in self.kinds])
        shares /= sum(shares)  # 1 but for rounding
        width = len(str(self.homes))
        return [
            MarketHome(
                id=f"h{number + 1:0{width}d}",
                horizon=len(expected),
                appliances=[
                    kind.draw(float(share * energy[number]), self.blocks_per_hour, len(expected), random)
                    for kind, share in zip(self.kinds, shares, strict=True)
                ],
                battery=self.battery,
            )
            for number, random in enumerate(streams)
        ]
