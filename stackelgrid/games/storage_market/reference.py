"""Independent references of the storage market, which owe the code of the nodes nothing.

The dispatch, the equilibrium of the bids and each DRA's best bid are solved by cvxpy with Clarabel, an appliance's
cheapest schedule as an integer program by HiGHS through SciPy. MW, MWh, dollars, $/MWh, arrays (T,), unless said
otherwise.
"""
# cvxpy passes its atoms on by star imports, which its types do not name, and is not typed throughout.
# mypy: disable-error-code="attr-defined,no-untyped-call"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from stackelgrid.certify import CertificateError
from stackelgrid.games.storage_market.aggregator import DraCosts
from stackelgrid.games.storage_market.home import Appliance, Interruptible, MarketHome
from stackelgrid.games.storage_market.leader import UtilitySettings
from stackelgrid.wire.arrays import Array

KWH_PER_MWH = 1000.0
# Parts of the game, written once more so that the reference uses nothing of the leader's code.
_LEAST_SLOPE = 1e-3
_SLACK_CURVATURE = 0.01
_TOLERANCES = {
    **dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-11),
    # What Clarabel may still call "almost solved" when rounding stops it before that.
    **dict.fromkeys(("reduced_tol_gap_abs", "reduced_tol_gap_rel", "reduced_tol_feas"), 1e-8),
}


@dataclass(frozen=True)
class FleetLimits:
    """A DRA's batteries as one: the level stays between `low` and `high` around the start, MWh; `power` MW."""

    low: float
    high: float
    power: float
    efficiency: float

    @classmethod
    def of(cls, homes: Sequence[MarketHome]) -> FleetLimits:
        """Give what every battery of these homes can follow in proportion to its capacity [SM-12]."""
        batteries = [home.battery for home in homes if home.battery is not None]
        if not batteries:
            return cls(0.0, 0.0, 0.0, 1.0)
        capacity = sum(battery.capacity_kwh for battery in batteries) / KWH_PER_MWH
        return cls(
            -capacity * min(battery.initial_kwh / battery.capacity_kwh for battery in batteries),
            capacity * min(1 - battery.initial_kwh / battery.capacity_kwh for battery in batteries),
            capacity * min(battery.power_kw / battery.capacity_kwh for battery in batteries),
            min(battery.efficiency for battery in batteries),
        )


# --- the dispatch and the equilibrium ---


@dataclass(frozen=True)
class Optimum:
    """`value` in dollars, the `price` as the balance's dual, `bids` (sold, charge) by DRA."""

    value: float
    price: Array
    bids: dict[str, tuple[Array, Array]]
    solver: dict[str, Any]


def dispatch(leader: UtilitySettings, load: Array) -> Optimum:
    """Solve the best dispatch [SM-1] for `load`. Raise `CertificateError`."""
    return equilibrium(leader, load, {}, {}, {}, np.zeros(len(load)))


def equilibrium(
    leader: UtilitySettings,
    load: Array,
    fleets: Mapping[str, FleetLimits],
    costs: Mapping[str, DraCosts],
    caps: Mapping[str, Array],
    slope: Array,
) -> Optimum:
    """Minimise the market's potential [SM-5] over dispatch and bids: its minimum is the one equilibrium.

    Raise `CertificateError`.
    """
    units, slots = leader.generators, len(load)
    generation = cp.Variable((len(units), slots), nonneg=True)
    short, spilt = cp.Variable(slots, nonneg=True), cp.Variable(slots, nonneg=True)
    cost: Any = leader.lost_load_price * cp.sum(short)
    cost += _SLACK_CURVATURE * (cp.sum_squares(short) + cp.sum_squares(spilt))
    limits: list[Any] = []
    for row, unit in enumerate(units):
        cost += unit.quadratic * cp.sum_squares(generation[row]) + unit.linear * cp.sum(generation[row])
        cost += unit.constant * slots
        limits += [generation[row] <= unit.max_mw, cp.abs(cp.diff(generation[row])) <= unit.ramp_mw]
    delivered: Any = np.zeros(slots)
    bids = {}
    for name, fleet in fleets.items():
        sold, charge = bids[name] = cp.Variable(slots, nonneg=True), cp.Variable(slots, nonneg=True)
        limits += _bid_limits(fleet, caps[name], sold, charge)
        own = costs[name]
        cost += own.quadratic * cp.sum_squares(sold) + own.wear * cp.sum(sold)
        cost += cp.sum(cp.multiply(slope / 2, cp.square(sold - charge)))
        delivered = delivered + sold - charge
    balance = cp.sum(generation, axis=0) + short - spilt == load - delivered
    problem = cp.Problem(cp.Minimize(cost), [balance, *limits])
    _solve(problem, "the dispatch")
    return Optimum(
        float(problem.value),
        -np.asarray(balance.dual_value),
        {name: (np.asarray(sold.value), np.asarray(charge.value)) for name, (sold, charge) in bids.items()},
        {"status": str(problem.status), "iterations": problem.solver_stats.num_iters},
    )


def total_cost(
    leader: UtilitySettings, load: Array, fleets: Mapping[str, FleetLimits], costs: Mapping[str, DraCosts], theta: float
) -> float:
    """Give J [SM-7] in the equilibrium at `theta`, dollars. Raise `CertificateError`."""
    sales = min(theta, 1.0) * np.maximum(load, 0)
    chord = dispatch(leader, load).price - dispatch(leader, load - sales).price
    slope = np.maximum(chord / np.where(sales > 0, sales, 1.0), _LEAST_SLOPE)
    power = sum(fleet.power for fleet in fleets.values())
    caps = {name: sales * (fleet.power / power if power > 0 else 0.0) for name, fleet in fleets.items()}
    bids = equilibrium(leader, load, fleets, costs, caps, slope).bids
    delivered = sum((sold - charge for sold, charge in bids.values()), np.zeros(len(load)))
    cleared = dispatch(leader, load - delivered)
    return cleared.value + float(cleared.price @ delivered)


def supply_cost(leader: UtilitySettings, generation: Array, short: Array, spilt: Array) -> float:
    """Give what a dispatch costs, dollars; `generation` (G, T)."""
    cost = leader.lost_load_price * short.sum() + _SLACK_CURVATURE * (short @ short + spilt @ spilt)
    for unit, output in zip(leader.generators, generation, strict=True):
        cost += unit.quadratic * output @ output + unit.linear * output.sum() + unit.constant * len(output)
    return float(cost)


def potential_of_bid(costs: DraCosts, slope: Array, sold: Array, charge: Array) -> float:
    """Give a bid's part of the market's potential [SM-5], dollars."""
    own = costs.quadratic * sold @ sold + costs.wear * sold.sum()
    return float(own + slope / 2 @ (sold - charge) ** 2)


# --- bids ---


@dataclass(frozen=True)
class BidProblem:
    """A DRA's problem [SM-9]: its bid on the line announced around its `last` net sales, with its `costs` and `cap`."""

    price: Array
    slope: Array
    last: Array
    cap: Array
    fleet: FleetLimits
    costs: DraCosts

    def payoff(self, sold: Array, charge: Array) -> float:
        """Give what a bid earns, dollars."""
        net = sold - charge
        own = self.costs.quadratic * sold @ sold + self.costs.wear * sold.sum()
        return float((self.price - self.slope * (net - self.last)) @ net - own)

    def best_bid(self) -> tuple[Array, Array]:
        """Solve for the bid (sold, charge) of the largest payoff. Raise `CertificateError`."""
        sold, charge = cp.Variable(len(self.last), nonneg=True), cp.Variable(len(self.last), nonneg=True)
        net = sold - charge
        earned = (self.price + self.slope * self.last) @ net - cp.sum(cp.multiply(self.slope, cp.square(net)))
        own = self.costs.quadratic * cp.sum_squares(sold) + self.costs.wear * cp.sum(sold)
        problem = cp.Problem(cp.Maximize(earned - own), _bid_limits(self.fleet, self.cap, sold, charge))
        _solve(problem, "a DRA's best bid")
        return np.asarray(sold.value), np.asarray(charge.value)

    def random_bids(self, random: np.random.Generator, samples: int) -> list[tuple[Array, Array]]:
        """Draw bids within the limits: net sales anywhere, and the last ones changed a little, in turn."""
        bids = []
        for number in range(samples):
            scale = self.fleet.power * 10.0 ** -random.uniform(0, 5)
            net = random.uniform(-1, 1, len(self.price)) * (self.fleet.power if number % 2 else scale)
            if number % 2 == 0:
                net = net + self.last
            bids.append(self._limit(np.maximum(net, 0), np.maximum(-net, 0)))
        return [bid for bid in bids if bid is not None]

    def _limit(self, sold: Array, charge: Array) -> tuple[Array, Array] | None:
        """Reduce a bid to what the batteries can do; None when they end below where they began."""
        fleet = self.fleet
        sold, charge = np.minimum(sold, np.minimum(self.cap, fleet.power)), np.minimum(charge, fleet.power)
        eta, change = fleet.efficiency, 0.0
        for hour in range(len(sold)):
            charge[hour] = min(charge[hour], (fleet.high - change) / eta, fleet.power - sold[hour])
            sold[hour] = min(sold[hour], (change + eta * charge[hour] - fleet.low) * eta)
            change += eta * charge[hour] - sold[hour] / eta
        # What is missing at the end is not sold in the last hours.
        for hour in reversed(range(len(sold))):
            unsold = min(max(-change, 0.0) * eta, sold[hour])
            if unsold > 0:
                sold[hour] -= unsold
                change += unsold / eta
        level = np.cumsum(eta * charge - sold / eta)
        feasible = level.min() >= fleet.low - 1e-12 and level.max() <= fleet.high + 1e-12 and level[-1] >= -1e-12
        return (sold, charge) if feasible else None


def _bid_limits(fleet: FleetLimits, cap: Array, sold: Any, charge: Any) -> list[Any]:
    change = cp.cumsum(fleet.efficiency * charge - sold / fleet.efficiency)
    return [sold <= cap, sold + charge <= fleet.power, change >= fleet.low, change <= fleet.high, change[-1] >= 0]


def _solve(problem: Any, name: str) -> None:
    problem.solve(solver=cp.CLARABEL, **_TOLERANCES)
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise CertificateError(f"{name}: Clarabel ended with {problem.status}; no certificate")


# --- appliances ---


def cheapest_cost(appliance: Appliance, price: Array) -> float:
    """Give the least that an appliance's energy costs, price times kWh, by an integer program over hours or starts.

    Raise `CertificateError`.
    """
    window = price[appliance.first - 1 : appliance.last]
    if isinstance(appliance, Interruptible):
        cost, count, most = appliance.block_kwh * window, appliance.blocks, appliance.per_hour
    else:
        starts = range(len(window) - appliance.hours + 1)
        cost = appliance.kw * np.array([window[start : start + appliance.hours].sum() for start in starts])
        count, most = 1, 1
    one_sum = LinearConstraint(np.ones((1, len(cost))), count, count)
    solution = milp(cost, integrality=np.ones(len(cost)), bounds=Bounds(0, most), constraints=one_sum)
    if not solution.success:
        raise CertificateError(f"the cheapest schedule of an appliance: HiGHS ended with {solution.message}")
    return float(solution.fun)
