"""The DRA's problem in the storage market: how much of its homes' stored energy to sell, and when to charge it.

Its batteries count as one [SM-12], of usable capacity E, power P and efficiency eta each way. In each hour it faces the
line that the leader announced around its last bid x0 [SM-3] (reading: Cournot competition on announced linear curves),

    max over q, u   sum_t (rho_t - s_t (x_t - x0_t)) x_t - a q_t^2 - wear q_t,       x = q - u           [SM-9]
    s.t.            0 <= q_t <= cap_t,   0 <= u_t,   q_t + u_t <= P
                    e_t = e_{t-1} + eta u_t - q_t / eta,   0 <= e_t <= E,   e_T >= e_0                   [SM-10]

q is sold, u charged, MW; e is stored at the end of the hour, MWh; rho in $/MWh, s in $/MWh per MW, a in $/MW^2h. It is
strictly concave for a, s > 0: a QP in DAQP. The best response satisfies, with m_t the value of a MWh in store,

    rho_t - s_t (2 x_t - x0_t) = wear + 2 a q_t + m_t / eta + (caps)     where it sells:  marginal cost below the price
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import daqp
import numpy as np

from stackelgrid.errors import SolverError
from stackelgrid.wire.arrays import Array

_PRIMAL_TOLERANCES = (1e-11, 1e-9, 1e-7)
_ROUNDING = 1e-12
"""A bid below this part of the power is the solver's rounding, and no bid."""


@dataclass(frozen=True)
class Fleet:
    """The batteries of a DRA as one that each of them can follow in proportion to its capacity.

    `installed` is the sum of the capacities, MWh, of which `usable` can be run together; `initial` of that is stored at
    the start. `power` MW, `efficiency` each way.
    """

    installed: float
    usable: float
    initial: float
    power: float
    efficiency: float

    @classmethod
    def none(cls) -> Fleet:
        """Give a fleet of no batteries."""
        return cls(0.0, 0.0, 0.0, 0.0, 1.0)

    @classmethod
    def of(cls, parts: Sequence[Fleet]) -> Fleet:
        """Combine fleets into one that all batteries can follow [SM-12].

        Of each MWh installed it has the power, stored energy and room of the weakest of them (derived), so that a
        battery that starts fuller, or loses less, never runs empty or over before the fleet does.
        """
        parts = [part for part in parts if part.installed > 0]
        if not parts:
            return cls.none()
        installed = sum(part.installed for part in parts)
        initial = installed * min(part.initial / part.installed for part in parts)
        headroom = installed * min((part.usable - part.initial) / part.installed for part in parts)
        power = installed * min(part.power / part.installed for part in parts)
        return cls(installed, initial + headroom, initial, power, min(part.efficiency for part in parts))

    def level(self, charge: Array, sold: Array) -> Array:
        """Give the energy stored at the end of each hour [SM-10], (T,) MWh."""
        return np.asarray(self.initial + np.cumsum(self.efficiency * charge - sold / self.efficiency))


@dataclass(frozen=True)
class Terms:
    """The terms that the leader announced: `price`, `slope` and `sales_cap`, all (T,)."""

    price: Array
    slope: Array
    sales_cap: Array


@dataclass(frozen=True)
class Bid:
    """`charge` and `sold`, (T,) MW, and m, the `energy_value` of a MWh in store when they were chosen, (T,) $/MWh."""

    charge: Array
    sold: Array
    energy_value: Array

    @classmethod
    def nothing(cls, slots: int) -> Bid:
        """Give the bid of a DRA that neither sells nor charges."""
        return cls(np.zeros(slots), np.zeros(slots), np.zeros(slots))

    @property
    def net(self) -> Array:
        """x, (T,) MW: sold less charged."""
        return self.sold - self.charge

    def towards(self, other: Bid, step: float) -> Bid:
        """Give the bid that is the part `step` of the way to another; it is feasible when both are."""
        return Bid(
            (1 - step) * self.charge + step * other.charge,
            (1 - step) * self.sold + step * other.sold,
            (1 - step) * self.energy_value + step * other.energy_value,
        )


class BatteryMarket:
    """A DRA's side of the market: its `fleet`, the `quadratic` cost a and the `wear` of a MWh sold, all private."""

    def __init__(self, fleet: Fleet, quadratic: float, wear: float, slots: int) -> None:
        self.fleet, self.quadratic, self.wear, self.slots = fleet, quadratic, wear, slots
        hours, until = np.eye(slots), np.tril(np.ones((slots, slots)))
        eta = fleet.efficiency
        self._rows = np.vstack([np.hstack([hours, hours]), np.hstack([-until / eta, eta * until])])
        lowest = np.full(slots, -fleet.initial)
        lowest[-1] = 0.0
        self._lower = np.concatenate([np.zeros(2 * slots), np.zeros(slots), lowest])
        self._room = np.concatenate([np.full(slots, fleet.power), np.full(slots, fleet.usable - fleet.initial)])

    def payoff(self, terms: Terms, last: Bid, bid: Bid) -> float:
        """Give what a bid earns on the announced line around the `last` one [SM-9], dollars."""
        price = terms.price - terms.slope * (bid.net - last.net)
        return float(price @ bid.net - self.quadratic * bid.sold @ bid.sold - self.wear * bid.sold.sum())

    def best_response(self, terms: Terms, last: Bid) -> Bid:
        """Solve for the bid of the largest payoff [SM-9]. Raise `SolverError` when none is found.

        There always is one, but at absurd prices the solver fails for lack of precision.
        """
        if self.fleet.power <= 0 or self.fleet.usable <= 0:
            return Bid.nothing(self.slots)
        s, steep = np.diag(2 * terms.slope), np.diag(2 * (terms.slope + self.quadratic))
        hessian = np.block([[steep, -s], [-s, s]])
        anchored = terms.price + terms.slope * last.net
        linear = np.concatenate([self.wear - anchored, anchored])
        cap = np.minimum(terms.sales_cap, self.fleet.power)
        upper = np.concatenate([cap, np.full(self.slots, self.fleet.power), self._room])
        for tolerance in _PRIMAL_TOLERANCES:
            z, _, flag, info = daqp.solve(
                hessian, linear, self._rows, upper, self._lower, primal_tol=tolerance, dual_tol=1e-12, iter_limit=5000
            )
            if flag > 0:
                return self._within_limits(z, cap, info["lam"][3 * self.slots :])
        raise SolverError("best bid of a DRA", f"DAQP exit {flag}")

    def supply_slope(self, price: Array, bid: Bid) -> Array:
        """Give k [SM-11], (T,): the price over the marginal cost of a MWh sold; 1 where none is sold.

        The cost includes energy, losses and wear. The supply function q(rho) = (rho / k - b) / (2 a), b the cost of the
        first MWh, passes through the bid. In equilibrium k >= 1: nobody sells below cost.
        """
        marginal = 2 * self.quadratic * bid.sold + self.wear + bid.energy_value / self.fleet.efficiency
        sells = (bid.sold > 1e-9 * self.fleet.power) & (marginal > 1e-6 * np.abs(price))
        return np.asarray(np.where(sells, np.maximum(price, 0) / np.where(sells, marginal, 1.0), 1.0))

    def _within_limits(self, z: Array, cap: Array, multipliers: Array) -> Bid:
        """Round the solver's bid into its limits; the multipliers of the level give the value of a MWh in store."""
        power = self.fleet.power
        bids = np.clip(z[: self.slots], 0, cap), np.clip(z[self.slots :], 0, power)
        sold, charge = (np.where(bid > _ROUNDING * power, bid, 0.0) for bid in bids)
        return Bid(charge, sold, np.asarray(-np.cumsum(multipliers[::-1])[::-1]))
