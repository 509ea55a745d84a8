"""The customers' answer as the leader sees it: observed rounds, and a local model of the load fitted to them [UO-F].

Prices are money per kWh, loads kW, both (T,); matrices are (T, T).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """The answer to one question: the total load at a price, and its derivative there.

    dL/dp = diag(slope) + coupling: `slope` (T,) acts within a slot, `coupling` (T, T) is the rest. `slope` is None
    where no derivative was asked. `homes` homes answered this very round, `load_only` of them without a derivative and
    `fixed` of these with an earlier load. `starts_changed` counts how often homes have changed the starts of their
    deferrable runs: while it stays, so does the function of the price that they answer with [UO-DH].
    """

    price: Array
    load: Array
    slope: Array | None
    coupling: Array
    homes: int = 1
    load_only: int = 0
    fixed: int = 0
    starts_changed: int = 0

    def is_of_same_homes(self, other: Observation) -> bool:
        """Tell whether as many homes answered as in another round, as many respond, and their runs begin as then."""
        return (self.homes, self.load_only, self.fixed, self.starts_changed) == (
            other.homes,
            other.load_only,
            other.fixed,
            other.starts_changed,
        )


@dataclass(frozen=True)
class LocalResponse:
    """The customers' answer near an observation [UO-F]: curved in each slot's own price, linear across slots.

    The elastic part follows L' = slope (p / p_k)^(-exponent - 1). This is exact for log (exponent 1), power (exponent
    1 / (1 - alpha)) and quadratic satisfaction (exponent -1). Below half the observed price it goes on as its tangent.
    """

    at: Observation
    exponent: Array

    def load(self, price: Array) -> Array:
        """Give the load at a price, (T,) kW."""
        start, step = self.at.price, price - self.at.price
        inside = np.maximum(price, self._floor)
        ratio = np.where(self._is_curved, inside / self._positive, 1.0)
        along = np.where(self._is_curved, start * (1 - ratio**-self._power) / self._power, step)
        if (price < inside).any():
            along = along + self._steepness(inside) * np.minimum(price - inside, 0)
        load = self.at.load + self._slope * along
        return np.asarray(load + self.at.coupling @ step if self._is_coupled else load)

    def jacobian(self, price: Array) -> Array:
        """Give dL/dp, (T, T), symmetric."""
        return np.asarray(np.diag(self._slope * self._steepness(np.maximum(price, self._floor))) + self.at.coupling)

    def curvature(self, price: Array) -> Array:
        """Give d^2 L_t / dp_t^2, (T,)."""
        inside = self._is_curved & (price > self._floor)
        steepness = self._slope * self._steepness(price) / np.where(inside, price, 1.0)
        return np.where(inside, -(self.exponent + 1) * steepness, 0.0)

    @property
    def _slope(self) -> Array:
        assert self.at.slope is not None
        return self.at.slope

    def _steepness(self, price: Array) -> Array:
        """Give L' over the observed slope, at prices of at least half the observed one."""
        ratio = np.where(self._is_curved, price / self._positive, 1.0)
        return np.asarray(np.maximum(ratio, 0.5) ** (-self.exponent - 1))

    # Each search asks thousands of loads of one response: what does not depend on the price is kept.

    @cached_property
    def _is_curved(self) -> NDArray[np.bool_]:
        return (self.at.price > 0) & (self.exponent > -1)

    @cached_property
    def _positive(self) -> Array:
        return np.where(self._is_curved, self.at.price, 1.0)

    @cached_property
    def _floor(self) -> Array:
        return np.where(self._is_curved, self.at.price / 2, -np.inf)

    @cached_property
    def _power(self) -> Array:
        return np.where(np.abs(self.exponent) < 1e-6, 1e-6, self.exponent)  # the logarithm, as the limit of powers

    @cached_property
    def _is_coupled(self) -> bool:
        return bool(self.at.coupling.any())


class ExponentEstimator:
    """Estimates the exponents of the local model from one round to the next; 1 (log satisfaction) before the first.

    `homes_changed` says that other homes answered or respond than in the round before: earlier observations are void.
    """

    def __init__(self) -> None:
        self._last: Observation | None = None
        self._exponent: Array | None = None
        self.homes_changed = False

    def update(self, observed: Observation) -> Array:
        """Give the exponents after one more round, (T,)."""
        last, self._last = self._last, observed
        self.homes_changed = last is not None and not observed.is_of_same_homes(last)
        assumed = np.ones_like(observed.price) if self._exponent is None else self._exponent
        if last is None or self.homes_changed:
            self._exponent = assumed
        else:
            self._exponent = estimate_exponent(last, observed, assumed)
        return self._exponent


def estimate_exponent(before: Observation, now: Observation, assumed: Array) -> Array:
    """Estimate each slot's exponent, (T,), from the slopes at two prices; where they do not show it, keep `assumed`."""
    if before.slope is None or now.slope is None:
        return assumed
    known = (
        (before.price > 0)
        & (now.price > 0)
        & (np.abs(now.price - before.price) > 1e-4 * np.abs(before.price))
        & (before.slope < 0)
        & (now.slope < 0)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = -1 - np.log(now.slope / before.slope) / np.log(now.price / before.price)
    return np.where(known, np.clip(np.where(known, exponent, 0.0), -1.0, 10.0), assumed)
