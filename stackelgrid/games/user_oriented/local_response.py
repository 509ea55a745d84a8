"""What the leader knows of the customers' answer: rounds observed, and a local model drawn from them.

Prices are money per kWh, loads kW, both (T,); matrices are (T, T).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """What one round taught: the total load at a price, and how it bends there; `homes` homes answered afresh.

    `slope` (T,) is the part of dL/dp that acts within a slot, `coupling` (T, T) the rest.
    """

    price: Array
    load: Array
    slope: Array
    coupling: Array
    homes: int = 1


@dataclass(frozen=True)
class LocalResponse:
    """The customers' answer near an observation: curved in each slot's own price, linear across slots.

    The elastic part follows L' = slope (p / p_k)^(-bend-1), the family that holds log (bend 1), power (bend 1 / (1 -
    alpha)) and quadratic satisfaction (bend -1) exactly; below half the observed price its tangent goes on.
    """

    at: Observation
    bend: Array

    def load(self, price: Array) -> Array:
        """L(p), (T,)."""
        inside = np.maximum(price, self._floor)
        bend = np.where(np.abs(self.bend) < 1e-6, 1e-6, self.bend)  # the logarithm, as the limit of powers
        start = self.at.price
        ratio = np.where(self._curved, inside / np.where(self._curved, start, 1.0), 1.0)
        along_curve = np.where(self._curved, start * (1 - ratio**-bend) / bend, price - start)
        along_tangent = self._steepness(inside) * np.minimum(price - inside, 0)
        return np.asarray(
            self.at.load + self.at.slope * (along_curve + along_tangent) + self.at.coupling @ (price - start)
        )

    def jacobian(self, price: Array) -> Array:
        """dL/dp, (T, T), symmetric."""
        return np.asarray(np.diag(self.at.slope * self._steepness(np.maximum(price, self._floor))) + self.at.coupling)

    def curvature(self, price: Array) -> Array:
        """d^2 L_t / dp_t^2, (T,)."""
        inside = self._curved & (price > self._floor)
        steepness = self.at.slope * self._steepness(price) / np.where(inside, price, 1.0)
        return np.where(inside, -(self.bend + 1) * steepness, 0.0)

    @property
    def _curved(self) -> NDArray[np.bool_]:
        return (self.at.price > 0) & (self.bend > -1)

    @property
    def _floor(self) -> Array:
        return np.where(self._curved, self.at.price / 2, -np.inf)

    def _steepness(self, price: Array) -> Array:
        """L' over the slope observed, at prices of at least half the observed one."""
        ratio = np.where(self._curved, price / np.where(self._curved, self.at.price, 1.0), 1.0)
        return np.asarray(np.maximum(ratio, 0.5) ** (-self.bend - 1))


def learnt_bend(before: Observation, now: Observation, assumed: Array) -> Array:
    """The exponent of each slot's response, from the slopes at two prices; `assumed` where they tell nothing."""
    told = (
        (before.price > 0)
        & (now.price > 0)
        & (np.abs(now.price - before.price) > 1e-4 * np.abs(before.price))
        & (before.slope < 0)
        & (now.slope < 0)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = -1 - np.log(now.slope / before.slope) / np.log(now.price / before.price)
    return np.where(told, np.clip(np.where(told, bend, 0.0), -1.0, 10.0), assumed)
