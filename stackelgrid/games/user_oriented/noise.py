"""The noise of the customers' answers: a solver that stops early, or an adapter that rounds to watts.

Two answers to one price should be equal. Where they differ, no search can find its price closer than that difference.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stackelgrid.games.user_oriented.local_response import Array, LocalResponse, Observation
from stackelgrid.games.user_oriented.search import relative_change

_EXACT = 1e-9
"""Homes solve their problems to this, relative; a smaller difference is no noise."""
_KEPT = 8


class NoiseFloor:
    """The differences between answers to one price, each (T,) kW: the largest that were seen."""

    def __init__(self) -> None:
        self.differences: list[Array] = []

    @property
    def load_kw(self) -> float:
        """The largest difference in any slot, kW; zero while none was seen."""
        return max((float(np.max(np.abs(difference))) for difference in self.differences), default=0.0)

    def compare(self, observed: Observation, others: Iterable[Observation], tolerance: float) -> None:
        """Compare an answer that has a sensitivity with `others` to the same price, within a relative `tolerance`."""
        model = LocalResponse(observed, np.ones_like(observed.price))
        for other in others:
            if other is observed or relative_change(other.price, observed.price) > tolerance:
                continue
            difference = other.load - model.load(other.price)
            if float(np.max(np.abs(difference))) > _EXACT * float(np.max(np.abs(observed.load))):
                self.differences.append(difference)
        self.differences = sorted(self.differences, key=lambda each: -float(np.max(np.abs(each))))[:_KEPT]
