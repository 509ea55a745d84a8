"""The utility company's revenue, cost and utility [UO-7], and its capacity [UO-8].

Prices are money per kWh, loads kW, both (T,). Money is per hour of slot: times Δ it is that of the slots.

[UO-7] has two weights: w on revenue, mu on deviation. The best price is the same when both are divided by w > 0: a
search knows mu / w alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from stackelgrid.games.user_oriented.local_response import Array

LEAST_REVENUE_WEIGHT = 1e-4
"""The least weight that revenue has in a search.

A company that weighs the deviation alone would take any price at which the load is as flat as can be; so it takes, of
these, the one that earns most.
"""


@dataclass(frozen=True)
class UtilityCompany:
    """The leader's parameters, in units of the weight on revenue.

    Arrays are (T,); `mu` is money per kWh per kW, already divided by the mean load and by w. Of slots of the horizon
    that have passed before these, `passed_load` and `passed_mu` (P,) count in the deviation; none without replanning.
    """

    wholesale_price: Array
    mu: Array
    load_min: Array
    load_max: Array
    price_min: Array
    price_max: Array
    passed_load: Array = field(default_factory=lambda: np.zeros(0))
    passed_mu: Array = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        for bound in ("price_min", "price_max"):  # one number is a bound in all slots
            object.__setattr__(self, bound, np.zeros_like(self.mu) + getattr(self, bound))

    def deviation_charge(self, load: Array) -> float:
        """Give the charge on deviation, sum mu_t (L_t - mean L)^2, money over Δ."""
        if not len(self.passed_load):
            return float(self.mu @ (load - _average(load)) ** 2)
        whole = np.concatenate([self.passed_load, load])
        return float(self._whole_mu @ (whole - _average(whole)) ** 2)

    def earn(self, price: Array, load: Array) -> float:
        """Give revenue less the cost of the energy, money over Δ."""
        return float((price - self.wholesale_price) @ load)

    def utility(self, price: Array, load: Array) -> float:
        """Give U_c [UO-7] over w, money over Δ."""
        return self.earn(price, load) - self.deviation_charge(load)

    def marginal_cost(self, load: Array) -> Array:
        """Give grad C(L) [UO-C], (T,) money per kWh: the cost of one more kWh in each slot."""
        if not len(self.passed_load):
            charge = 2 * self.mu * (load - _average(load))
            return np.asarray(self.wholesale_price + charge - _average(charge))
        whole = np.concatenate([self.passed_load, load])
        charge = 2 * self._whole_mu * (whole - _average(whole))
        return np.asarray(self.wholesale_price + charge[len(self.passed_load) :] - _average(charge))

    @cached_property
    def cost_curvature(self) -> Array:
        """The Hessian of C, (T, T), positive semidefinite."""
        size, passed = len(self._whole_mu), len(self.passed_load)
        off_mean = np.eye(size) - 1 / size
        return np.asarray(off_mean @ np.diag(2 * self._whole_mu) @ off_mean)[passed:, passed:]

    @cached_property
    def _whole_mu(self) -> Array:
        return np.concatenate([self.passed_mu, self.mu])

    def violation(self, load: Array) -> float:
        """Give the distance of the load from the capacity [UO-8] in the worst slot, kW; zero within it."""
        if not self._has_capacity:
            return 0.0
        return float(max(0.0, np.max(load - self.load_max), np.max(self.load_min - load)))

    @cached_property
    def _has_capacity(self) -> bool:
        return bool(np.isfinite(self.load_min).any() or np.isfinite(self.load_max).any())


def _average(load: Array) -> np.float64:
    """Give the mean, sooner than `numpy.mean` does for a few numbers."""
    return np.float64(np.add.reduce(load) / len(load))
