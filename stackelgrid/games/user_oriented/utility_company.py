"""The utility company's own figures: what it earns and what supply costs it (equations 7 and 8).

Prices are money per kWh, loads kW per slot of one hour, both (T,).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stackelgrid.games.user_oriented.local_response import Array


@dataclass(frozen=True)
class UtilityCompany:
    """The leader's parameters. Arrays are (T,); `mu` in money per kWh per kW, already divided by the mean load."""

    wholesale_price: Array
    mu: Array
    load_min: Array
    load_max: Array
    price_min: float
    price_max: float

    def deviation_charge(self, load: Array) -> float:
        """sum mu_t (L_t - mean L)^2, money."""
        return float(self.mu @ (load - load.mean()) ** 2)

    def utility(self, price: Array, load: Array) -> float:
        """U_c, equation (7), money."""
        return float((price - self.wholesale_price) @ load) - self.deviation_charge(load)

    def marginal_cost(self, load: Array) -> Array:
        """grad C(L), money per kWh: what one more kWh in each slot costs the leader."""
        pull = 2 * self.mu * (load - load.mean())
        return np.asarray(self.wholesale_price + pull - pull.mean())

    @property
    def cost_curvature(self) -> Array:
        """Hessian of C, (T, T), positive semidefinite."""
        off_mean = np.eye(len(self.mu)) - 1 / len(self.mu)
        return np.asarray(off_mean @ np.diag(2 * self.mu) @ off_mean)

    def violation(self, load: Array) -> float:
        """How far the load is outside the capacity, kW, worst slot."""
        return float(np.max([np.zeros_like(load), load - self.load_max, self.load_min - load]))
