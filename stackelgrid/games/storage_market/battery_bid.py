"""The DRA's problem in the storage market: how much of its homes' stored energy to sell, and when to charge it.

Its batteries count as one [SM-12], of usable capacity E, power P and efficiency eta each way. The leader announced the
price near its last bid x0 [SM-3], all hours in one vector (reading: Cournot competition on announced curves), and at
times a cap c on what is paid for sales [SM-8]:

    price at x:  lambda(x) = rho - S (x - x0) - sum_j jump_j a_j max(a_j (x - x0) - room_j, 0),      x = q - u

    max over q, u   sum_t [min(lambda_t, c_t) q_t - lambda_t u_t - a q_t^2 - wear q_t] Δ                 [SM-9]
    s.t.            0 <= q_t <= cap_t,   0 <= u_t,   q_t + u_t <= P
                    e_t = e_{t-1} + (eta u_t - q_t / eta) Δ,   0 <= e_t <= E,   e_T >= e_end             [SM-10]

q is sold, u charged, MW; e is stored at the end of the slot, MWh, e_end what it was at the start of the run; rho in
$/MWh, S in $/MWh per MW, a in $/MW^2h. It is solved per hour, e in units of Δ.

Two of its terms are products, of the bid with how far a kink is crossed, and of q with how far the price is above the
cap. They are taken to first order around the last bid, with the slack of the kink or the cap as a variable of its own:
so the program is a QP, and at its fixed point no bid on either side of a kink or of the cap is better to first order.
The bid is then at rest: without kinks and cap the program is exact. A kink beyond which the DRA would earn more at the
margin makes the problem not concave: there, both sides are solved, and the better one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import daqp
import numpy as np
from numpy.typing import NDArray

from stackelgrid.errors import SolverError
from stackelgrid.wire.arrays import Array

_PRIMAL_TOLERANCES = (1e-11, 1e-9, 1e-7)
_ROUNDING = 1e-12
"""A bid below this part of the power is the solver's rounding, and no bid."""
_LEAST_CURVATURE = 1e-8
"""$/MWh per MW: DAQP needs curvature in every variable."""
_WALL = 1e4
"""$/MWh per MW: where a price is steeper, it jumps. Nobody knows what is beyond it, and a bid keeps clear of it."""
_CLEAR = 1e-6
_MANY_KINKS = 128
"""So many kinks are taken into the program at once; of more, those that matter."""
_BETTER = 1e-9
"""Dollars by which a bid on the other side of a kink has to be better."""


@dataclass(frozen=True)
class Fleet:
    """The batteries of a DRA as one that each of them can follow in proportion to its capacity.

    `installed` is the sum of the capacities, MWh, of which `usable` can be run together; `initial` of that is stored at
    the start. `power` MW, `efficiency` each way. At the end at least `rise` more is stored than at the start.
    """

    installed: float
    usable: float
    initial: float
    power: float
    efficiency: float
    rise: float = 0.0

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
        rise = installed * max(part.rise / part.installed for part in parts)
        return cls(installed, initial + headroom, initial, power, min(part.efficiency for part in parts), rise)

    def level(self, charge: Array, sold: Array, slot_hours: float) -> Array:
        """Give the energy stored at the end of each slot [SM-10], (T,) MWh."""
        return np.asarray(self.initial + slot_hours * np.cumsum(self.efficiency * charge - sold / self.efficiency))


@dataclass(frozen=True)
class Terms:
    """The terms that the leader announced: `price` (T,), its `slope` (T, T) and `kinks`; `sales_cap` (T,).

    The kinks, of the directions a_j (J, T), are `room` (J,) MW away, the price falls more by `jump` (J,) beyond them.
    `price_cap` (T,) is the most that is paid for a MWh sold, infinite where there is no cap.
    """

    price: Array
    slope: Array
    sales_cap: Array
    price_cap: Array
    kinks: Array
    room: Array
    jump: Array

    def at(self, change: Array) -> Array:
        """Give the price when a bid changes by `change` (T,), (T,)."""
        crossed = np.maximum(self.kinks @ change - self.room, 0)
        return np.asarray(self.price - self.slope @ change - (self.jump * crossed) @ self.kinks)


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

    def __init__(self, fleet: Fleet, quadratic: float, wear: float, slots: int, slot_hours: float = 1.0) -> None:
        self.fleet, self.quadratic, self.wear, self.slots, self.slot_hours = fleet, quadratic, wear, slots, slot_hours
        each, until = np.eye(slots), np.tril(np.ones((slots, slots)))
        eta = fleet.efficiency
        self._rows = np.vstack([np.hstack([each, each]), np.hstack([-until / eta, eta * until])])
        lowest = np.full(slots, -fleet.initial)
        # No more than there is room for, and can be charged.
        self._rise = min(fleet.rise, fleet.usable - fleet.initial, eta * fleet.power * slot_hours * slots)
        lowest[-1] = max(self._rise, lowest[-1])
        highest = np.full(slots, fleet.usable - fleet.initial)
        self._lower = np.concatenate([np.zeros(slots), lowest / slot_hours])
        self._room = np.concatenate([np.full(slots, fleet.power), highest / slot_hours])

    def reaches_end(self, bid: Bid) -> bool:
        """Tell whether a bid ends with what has to be stored then, but for rounding."""
        if self._rise <= 0:
            return True
        short = self.fleet.initial + self._rise - self.fleet.level(bid.charge, bid.sold, self.slot_hours)[-1]
        return bool(short <= 1e-9 * self.fleet.usable)

    def payoff(self, terms: Terms, last: Bid, bid: Bid) -> float:
        """Give what a bid earns at the announced price around the `last` one [SM-9], dollars."""
        price = terms.at(bid.net - last.net)
        own = self.quadratic * bid.sold @ bid.sold + self.wear * bid.sold.sum()
        return self.slot_hours * float(np.minimum(price, terms.price_cap) @ bid.sold - price @ bid.charge - own)

    def best_response(self, terms: Terms, last: Bid) -> Bid:
        """Solve for the bid of the largest payoff [SM-9]. Raise `SolverError` when none is found.

        There always is one, but at absurd prices the solver fails for lack of precision.
        """
        if self.fleet.power <= 0 or self.fleet.usable <= 0:
            return Bid.nothing(self.slots)
        # By how much a MW beyond each kink lowers what the whole bid earns. Where it raises it, both sides are tried.
        loss = terms.jump * (terms.kinks @ last.net + terms.room)
        loss[(terms.jump > _WALL) & (loss < 0)] = 0.0
        crossed = np.zeros(len(loss), bool)
        best = self._solve(terms, last, loss, crossed)
        # Earnings fall on the way to such a kink by half the curvature, and rise beyond it by no more than the gain.
        curvature = np.einsum("js,st,jt->j", terms.kinks, terms.slope, terms.kinks)
        within = terms.room + loss / (2 * curvature + _LEAST_CURVATURE)
        for kink in np.flatnonzero((loss < 0) & (terms.kinks @ (best.net - last.net) > within)):
            crossed[kink] = True
            try:
                other = self._solve(terms, last, loss, crossed)
            except SolverError:  # Kinks that are only known one by one may together make the price rise with sales.
                crossed[kink] = False
                continue
            crossed[kink] = self.payoff(terms, last, other) > self.payoff(terms, last, best) + _BETTER
            best = other if crossed[kink] else best
        return best

    def _solve(self, terms: Terms, last: Bid, loss: Array, crossed: NDArray[np.bool_]) -> Bid:
        """Solve [SM-9] beyond the `crossed` kinks and, of the others, with those that lose money.

        Of many, first those on which the last bid lies, and then those that the bid would cross: the others change
        nothing.
        """
        ahead = ~crossed & (loss > 0)
        if ahead.sum() <= _MANY_KINKS:
            return self._solve_with(terms, last, loss, crossed, ahead)
        taken = ahead & (terms.room <= _CLEAR * self.fleet.power)
        while True:
            bid = self._solve_with(terms, last, loss, crossed, taken)
            missed = ahead & ~taken & (terms.kinks @ (bid.net - last.net) > terms.room - self._keep_clear(terms))
            if not missed.any():
                return bid
            taken |= missed

    def _keep_clear(self, terms: Terms) -> Array:
        """Give how far a bid keeps from each kink, (J,) MW: where the price jumps."""
        return np.where(terms.jump > _WALL, _CLEAR * self.fleet.power, 0)

    def _solve_with(
        self, terms: Terms, last: Bid, loss: Array, crossed: NDArray[np.bool_], ahead: NDArray[np.bool_]
    ) -> Bid:
        """Solve it with the kinks `ahead`."""
        slots, power = self.slots, self.fleet.power
        slope, price, beyond = terms.slope, terms.price, terms.kinks[crossed]
        slope = slope + (beyond.T * terms.jump[crossed]) @ beyond
        price = price + (terms.jump * terms.room)[crossed] @ beyond
        kinks, capped = terms.kinks[ahead], np.isfinite(terms.price_cap)
        over = np.maximum(terms.price - terms.price_cap, 0)
        # The variables: q, u, by how much each kink is crossed, and how far the price is above each cap.
        net = np.hstack([np.eye(slots), -np.eye(slots)])
        curvature = 2 * net.T @ slope @ net
        curvature[:slots, :slots] += 2 * self.quadratic * np.eye(slots)
        slack = np.concatenate([2 * np.maximum(terms.jump[ahead], 0), np.zeros(capped.sum())]) + _LEAST_CURVATURE
        hessian = np.block(
            [
                [curvature + _LEAST_CURVATURE * np.eye(2 * slots), np.zeros((2 * slots, len(slack)))],
                [np.zeros((len(slack), 2 * slots)), np.diag(slack)],
            ]
        )
        anchored = price + slope @ last.net
        linear = np.concatenate([self.wear - anchored + over, anchored, loss[ahead], last.sold[capped]])
        fall = np.vstack([kinks, -slope[capped]]) @ net
        room = (terms.room - self._keep_clear(terms))[ahead]
        start = np.concatenate([kinks @ last.net + room, (terms.price_cap - anchored)[capped]])
        rows = np.block(
            [
                [self._rows, np.zeros((len(self._rows), len(slack)))],
                [fall, -np.eye(len(slack))],
            ]
        )
        cap = np.minimum(terms.sales_cap, power)
        upper = np.concatenate([cap, np.full(slots, power), np.full(len(slack), np.inf), self._room, start])
        lower = np.concatenate([np.zeros(2 * slots + len(slack)), self._lower, np.full(len(slack), -np.inf)])
        for tolerance in _PRIMAL_TOLERANCES:
            z, _, flag, info = daqp.solve(
                hessian, linear, rows, upper, lower, primal_tol=tolerance, dual_tol=1e-12, iter_limit=5000
            )
            if flag > 0:
                level = 3 * slots + len(slack)
                return self._within_limits(z[: 2 * slots], cap, info["lam"][level : level + slots])
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
