"""The leader as the certificate sees it: utility, cost and capacity. It shares no code with the leader's own.

Arrays are (T,); prices in money per kWh, loads in kW. Equation tags are those of docs/games/user_oriented.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stackelgrid.wire.arrays import Array

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Company:
    """The leader: wholesale price c, charge mu on deviation in money per kWh per kW, capacity, bounds of its price."""

    wholesale: Array
    mu: Array
    load_min: Array
    load_max: Array
    price_min: Array | float = -np.inf
    price_max: Array | float = np.inf
    passed_load: Array = field(default_factory=lambda: np.zeros(0))
    passed_mu: Array = field(default_factory=lambda: np.zeros(0))
    """The load and mu of slots of the horizon that have passed (P,): they count in the deviation."""

    def cost(self, load: Array) -> float:
        """Give the cost C(L) = c.L + sum mu_t (L_t - mean L)^2 [UO-C], money."""
        mean = (load.sum() + self.passed_load.sum()) / (len(load) + len(self.passed_load))
        before = float(self.passed_mu @ (self.passed_load - mean) ** 2)
        return before + float(self.wholesale @ load + self.mu @ (load - mean) ** 2)

    def utility(self, price: Array, load: Array) -> float:
        """Give U_c [UO-7], money."""
        return float(price @ load) - self.cost(load)

    def marginal_cost(self, load: Array) -> Array:
        """Give grad C(L) [UO-C], the derivative of the mean included, (T,) money per kWh."""
        slots = len(load) + len(self.passed_load)
        mean = (load.sum() + self.passed_load.sum()) / slots
        charge = 2 * self.mu * (load - mean)
        before = 2 * float(self.passed_mu @ (self.passed_load - mean))
        return np.asarray(self.wholesale + charge - (charge.sum() + before) / slots)

    def violation(self, load: Array) -> float:
        """Give the distance of the load from the capacity [UO-8] in the worst slot, kW; zero within it."""
        return float(np.max([np.zeros_like(load), load - self.load_max, self.load_min - load]))

    def split(self, price: Array, load: Array) -> tuple[Array, Array, Array]:
        """Split `price` less grad C(L) into multipliers, of the capacity and of its own bounds, and a residual [UO-B].

        All are money per kWh. The residual is the natural one of that complementarity problem: the difference itself
        where neither binds, and only a difference of the wrong sign where one does.
        """
        per_kw = max(float(np.max(np.abs(price))), 1e-12) / max(float(np.max(np.abs(load))), 1e-12)
        over, rounding = price - self.marginal_cost(load), _ROUNDING * float(np.max(np.abs(price)))
        at_most, at_least = price >= self.price_max - rounding, price <= self.price_min + rounding
        held = np.where((at_most & (over < 0)) | (at_least & (over > 0)), over, 0.0)
        wanted = load + (over - held) / per_kw
        nu = per_kw * (
            wanted - np.clip(wanted, self.load_min, self.load_max)
        )  # exactly zero where the capacity is slack
        return nu, held, over - held - nu

    def price_residual(self, price: Array, load: Array) -> float:
        """Give the largest distance of `price` from the one that [UO-B] demands, money per kWh."""
        return float(np.max(np.abs(self.split(price, load)[2])))

    def unused_worth(self, nu: Array, load: Array) -> float:
        """Give nu+ (L_max - L) + nu- (L_min - L) [UO-G], money: what the capacity left unused is worth."""
        bound = np.where(nu > 0, self.load_max, self.load_min)
        binds = nu != 0
        return float(nu[binds] @ (bound - load)[binds])

    def merits(self, prices: Array, loads: Array, steep: float) -> Array:
        """Give U_c at prices and loads (K, T), (K,) money, less `steep` for each kW beyond the capacity."""
        off_mean = loads - loads.mean(axis=1, keepdims=True)
        utility = ((prices - self.wholesale) * loads - self.mu * off_mean**2).sum(axis=1)
        beyond = np.maximum(np.maximum(loads - self.load_max, self.load_min - loads), 0)
        return np.asarray(utility - steep * beyond.max(axis=1))
