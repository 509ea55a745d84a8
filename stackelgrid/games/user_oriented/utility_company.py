"""The utility company's revenue, cost and utility [UO-7], and its capacity [UO-8].

Prices are money per kWh, loads kW per slot of one hour, both (T,).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stackelgrid.games.user_oriented.local_response import Array


@dataclass(frozen=True)
class UtilityCompany:
    """The leader's parameters. Arrays are (T,); `mu` is money per kWh per kW, already divided by the mean load."""

    wholesale_price: Array
    mu: Array
    load_min: Array
    load_max: Array
    price_min: float
    price_max: float

    def deviation_charge(self, load: Array) -> float:
        """Give the charge on deviation, sum mu_t (L_t - mean L)^2, money."""
        return float(self.mu @ (load - load.mean()) ** 2)

    def utility(self, price: Array, load: Array) -> float:
        """Give U_c [UO-7], money."""
        return float((price - self.wholesale_price) @ load) - self.deviation_charge(load)

    def marginal_cost(self, load: Array) -> Array:
        """Give grad C(L) [UO-C], (T,) money per kWh: the cost of one more kWh in each slot."""
        charge = 2 * self.mu * (load - load.mean())
        return np.asarray(self.wholesale_price + charge - charge.mean())

    @property
    def cost_curvature(self) -> Array:
        """The Hessian of C, (T, T), positive semidefinite."""
        off_mean = np.eye(len(self.mu)) - 1 / len(self.mu)
        return np.asarray(off_mean @ np.diag(2 * self.mu) @ off_mean)

    def violation(self, load: Array) -> float:
        """Give the distance of the load from the capacity [UO-8] in the worst slot, kW; zero within it."""
        return float(np.max([np.zeros_like(load), load - self.load_max, self.load_min - load]))
