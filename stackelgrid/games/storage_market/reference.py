"""Independent references of the storage market, which owe the code of the nodes nothing.

The dispatch, the best schedules and each DRA's best bid are solved by cvxpy with Clarabel, the cheapest schedule of an
appliance by HiGHS through SciPy. How the price falls with sales is found by solving the dispatch once more for each
slot, all but the first time by DAQP, with matrices of its own.
MW, MWh, dollars, $/MWh, arrays (T,), unless said otherwise.
"""
# cvxpy passes its atoms on by star imports, which its types do not name, and is not typed throughout.
# mypy: disable-error-code="attr-defined,no-untyped-call"

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import daqp
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from stackelgrid.certify import CertificateError
from stackelgrid.games.storage_market.aggregator import DraCosts
from stackelgrid.games.storage_market.home import Appliance, Interruptible, MarketHome
from stackelgrid.games.storage_market.leader import UtilitySettings
from stackelgrid.wire.arrays import Array

KWH_PER_MWH = 1000.0
# Parts of the game, written once more so that the reference uses nothing of the leader's code.
_SLACK_CURVATURE = 0.01
_DIFFERENCE = 1e-3
"""MW by which the net demand changes to see what the price does."""
_MOST_ASCENTS, _MOST_TURNS = 8, 15
_TOLERANCES = {
    **dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-11),
    # What Clarabel may still call "almost solved" when rounding stops it before that.
    **dict.fromkeys(("reduced_tol_gap_abs", "reduced_tol_gap_rel", "reduced_tol_feas"), 1e-8),
}


@dataclass(frozen=True)
class FleetLimits:
    """A DRA's batteries as one: the level stays between `low` and `high` around the start, MWh; `power` MW.

    A slot has `slot_hours`, Δ. At the end it is at least `rise` above the start, MWh.
    """

    low: float
    high: float
    power: float
    efficiency: float
    slot_hours: float
    rise: float = 0.0

    def change(self, sold: Any, charge: Any) -> Any:
        """Give the level at the end of each slot less that at the start, (T,) MWh, of arrays or of cvxpy's."""
        rate = self.efficiency * charge - sold / self.efficiency
        return self.slot_hours * (np.cumsum(rate) if isinstance(rate, np.ndarray) else cp.cumsum(rate))

    @classmethod
    def of(cls, homes: Sequence[MarketHome], slot_hours: float) -> FleetLimits:
        """Give what every battery of these homes can follow in proportion to its capacity [SM-12]."""
        batteries = [home.battery for home in homes if home.battery is not None]
        if not batteries:
            return cls(0.0, 0.0, 0.0, 1.0, slot_hours)
        capacity = sum(battery.capacity_kwh for battery in batteries) / KWH_PER_MWH
        return cls(
            -capacity * min(battery.initial_kwh / battery.capacity_kwh for battery in batteries),
            capacity * min(1 - battery.initial_kwh / battery.capacity_kwh for battery in batteries),
            capacity * min(battery.power_kw / battery.capacity_kwh for battery in batteries),
            min(battery.efficiency for battery in batteries),
            slot_hours,
            capacity * max((battery.least_kwh - battery.initial_kwh) / battery.capacity_kwh for battery in batteries),
        )


# --- the dispatch ---


def best_dispatch(leader: UtilitySettings, net: Array, slot_hours: float) -> tuple[float, Array, dict[str, Any]]:
    """Solve the best dispatch [SM-1]: its cost, dollars, its price as the balance's dual, and how the solver ended.

    Raise `CertificateError`.
    """
    cost, balance, limits = _supply(leader, cp.Constant(net), slot_hours)
    problem = cp.Problem(cp.Minimize(cost), [balance, *limits])
    _solve(problem, "the dispatch")
    status = {"status": str(problem.status), "iterations": problem.solver_stats.num_iters}
    return slot_hours * float(problem.value), -np.asarray(balance.dual_value), status


class SupplyCurve:
    """The same for one net demand after another, in DAQP, many times as fast: slots in turn, generators within.

    Searching for a better bid takes thousands of dispatches.
    """

    def __init__(self, leader: UtilitySettings, slots: int, slot_hours: float) -> None:
        units, self.slot_hours = leader.generators, slot_hours
        self._step = len(units) + 2  # outputs, short, spilt
        slot = [(2 * u.quadratic, u.linear, u.max_mw) for u in units]
        slot += [(2 * _SLACK_CURVATURE, leader.lost_load_price, np.inf), (2 * _SLACK_CURVATURE, 0.0, np.inf)]
        self._weight, self._linear, most = np.tile(np.array(slot).T, slots)
        self._constant = slots * sum(u.constant for u in units)
        balance = np.kron(np.eye(slots), np.append(np.ones(len(units) + 1), -1))
        ramps = np.kron(np.diff(np.eye(slots), axis=0), np.eye(len(units), self._step))
        steepest = slot_hours * np.tile([u.ramp_mw for u in units], slots - 1)
        self._upper = np.concatenate([most, np.zeros(slots), steepest])
        self._lower = np.concatenate([np.zeros(len(most)), np.zeros(slots), -steepest])
        for number, unit in enumerate(units):
            if unit.output_mw is not None:
                self._upper[number] = min(unit.max_mw, unit.output_mw + slot_hours * unit.ramp_mw)
                self._lower[number] = max(0.0, unit.output_mw - slot_hours * unit.ramp_mw)
        self._balance = slice(len(most), len(most) + slots)
        self._rows, self._model = np.vstack([balance, ramps]), None

    def solve(self, net: Array) -> tuple[float, Array]:
        """Give the cost, dollars, and the price. Raise `CertificateError`."""
        self._upper[self._balance] = self._lower[self._balance] = net
        flag = -1
        if self._model is not None:
            self._model.update(bupper=self._upper, blower=self._lower)
            z, _, flag, info = self._model.solve()
        if flag <= 0:
            sense = np.zeros(len(self._upper), np.int32)
            sense[self._balance] = 5
            self._model = daqp.Model()
            self._model.settings = {"primal_tol": 1e-11, "dual_tol": 1e-12, "iter_limit": 50 * len(self._upper)}
            self._model.setup(np.diag(self._weight), self._linear, self._rows, self._upper, self._lower, sense)
            z, _, flag, info = self._model.solve()
        if flag <= 0:
            raise CertificateError(f"a dispatch: DAQP ended with {flag}; no certificate")
        cost = float(self._weight @ z**2 / 2 + self._linear @ z) + self._constant
        return self.slot_hours * cost, -np.array(info["lam"][self._balance])

    def differentiate(self, net: Array, step: float) -> Array:
        """Give by how much the price rises with the net demand, (T, T), from one more dispatch for each slot."""
        price, slots = self.solve(net)[1], np.eye(len(net))
        return np.array([(self.solve(net + step * slot)[1] - price) / step for slot in slots]).T


def _supply(leader: UtilitySettings, net: Any, slot_hours: float) -> tuple[Any, Any, list[Any]]:
    """Write the dispatch of the net demand for cvxpy: its cost over Δ, the balance and the limits."""
    units, slots = leader.generators, net.shape[0]
    generation = cp.Variable((len(units), slots), nonneg=True)
    short, spilt = cp.Variable(slots, nonneg=True), cp.Variable(slots, nonneg=True)
    cost: Any = leader.lost_load_price * cp.sum(short)
    cost += _SLACK_CURVATURE * (cp.sum_squares(short) + cp.sum_squares(spilt))
    limits: list[Any] = []
    for row, unit in enumerate(units):
        cost += unit.quadratic * cp.sum_squares(generation[row]) + unit.linear * cp.sum(generation[row])
        cost += unit.constant * slots
        if unit.output_mw is not None:
            limits += [cp.abs(generation[row, 0] - unit.output_mw) <= slot_hours * unit.ramp_mw]
        limits += [generation[row] <= unit.max_mw, cp.abs(cp.diff(generation[row])) <= slot_hours * unit.ramp_mw]
    return cost, cp.sum(generation, axis=0) + short - spilt == net, limits


def supply_cost(leader: UtilitySettings, generation: Array, short: Array, spilt: Array, slot_hours: float) -> float:
    """Give what a dispatch costs, dollars; `generation` (G, T)."""
    cost = leader.lost_load_price * short.sum() + _SLACK_CURVATURE * (short @ short + spilt @ spilt)
    for unit, output in zip(leader.generators, generation, strict=True):
        cost += unit.quadratic * output @ output + unit.linear * output.sum() + unit.constant * len(output)
    return slot_hours * float(cost)


def cheapest_supply(leader: UtilitySettings, fixed: Array, appliances: Sequence[Appliance], slot_hours: float) -> float:
    """Give the least supply cost, dollars, of the `fixed` net demand and `appliances` scheduled by one hand.

    Those that cannot be interrupted are, here: what integrality costs is the difference. Raise `CertificateError`.
    """
    window = np.zeros((len(appliances), len(fixed)))
    for row, appliance in zip(window, appliances, strict=True):
        row[appliance.first - 1 : appliance.last] = appliance.most_kw / KWH_PER_MWH
    drawn = cp.Variable(window.shape, nonneg=True)
    energy = np.array([appliance.energy_kwh for appliance in appliances]) / KWH_PER_MWH
    cost, balance, limits = _supply(leader, cp.sum(drawn, axis=0) + fixed, slot_hours)
    needs = cp.sum(drawn, axis=1) == energy / slot_hours
    _solve(problem := cp.Problem(cp.Minimize(cost), [balance, *limits, drawn <= window, needs]), "the best schedules")
    return slot_hours * float(problem.value)


# --- bids ---

Bid = tuple[Array, Array]
"""What a DRA sells and charges, (T,) each."""


@dataclass(frozen=True)
class Market:
    """The market as DRAs find it: the `load` before batteries, and all that a bid depends on, by DRA."""

    supply: SupplyCurve
    load: Array
    fleets: Mapping[str, FleetLimits]
    costs: Mapping[str, DraCosts]
    price_cap: float

    def price(self, bids: Mapping[str, Bid]) -> Array:
        """Give the price that follows from all bids."""
        return self.supply.solve(self.net(bids))[1]

    def net(self, bids: Mapping[str, Bid]) -> Array:
        """Give the net demand."""
        return self.load - sum((sold - charge for sold, charge in bids.values()), np.zeros(len(self.load)))

    def payoff(self, name: str, bids: Mapping[str, Bid]) -> float:
        """Give what a DRA earns at the price that truly follows from all bids, dollars."""
        price, (sold, charge), own = self.price(bids), bids[name], self.costs[name]
        paid = np.minimum(price, self.price_cap)
        earned = float(paid @ sold - price @ charge - own.quadratic * sold @ sold - own.wear * sold.sum())
        return self.supply.slot_hours * earned

    def total_cost(self, bids: Mapping[str, Bid]) -> float:
        """Give J [SM-7], dollars."""
        cost, price = self.supply.solve(self.net(bids))
        paid = np.minimum(price, self.price_cap)
        net_purchases = float(sum(paid @ sold - price @ charge for sold, charge in bids.values()))
        return cost + self.supply.slot_hours * net_purchases

    def regret(
        self, name: str, bids: Mapping[str, Bid], cap: Array, random: np.random.Generator, samples: int
    ) -> float:
        """Search for a bid of one DRA that earns more at the price that follows, and give how much more, dollars.

        Random bids anywhere, near its own and with energy moved between two slots; then, from its own and from the best
        of these, ascent along the price as differences show it, up and down.
        """
        now = best = self.payoff(name, bids)
        start = bids[name]
        for other in _draw_bids(self.fleets[name], bids[name], cap, random, samples):
            earned = self.payoff(name, {**bids, name: other})
            if earned > best or start is bids[name]:
                best, start = max(earned, best), other
        for begin in (bids[name], start):
            for step in (_DIFFERENCE, -_DIFFERENCE):
                best = max(best, self._ascend(name, {**bids, name: begin}, cap, step))
        return max(0.0, best - now)

    def _ascend(self, name: str, bids: Mapping[str, Bid], cap: Array, step: float) -> float:
        earned = self.payoff(name, bids)
        for _ in range(_MOST_ASCENTS):
            slope = self.supply.differentiate(self.net(bids), step)
            (sold, charge), (best_sold, best_charge) = bids[name], self._best_bid(name, bids, cap, slope)
            tries = []
            for part in (1.0, 0.3, 0.1, 0.01, 0.001):
                bid = (sold + part * (best_sold - sold), charge + part * (best_charge - charge))
                tries.append((self.payoff(name, {**bids, name: bid}), part, bid))
            more, _, bid = max(tries, key=lambda each: each[:2])
            if more <= earned + 1e-9:
                break
            earned, bids = more, {**bids, name: bid}
        return earned

    def clear(self, caps: Mapping[str, Array], bids: Mapping[str, Bid]) -> Mapping[str, Bid]:
        """Let DRAs bid in turn until bids repeat, each on the price as differences show it at the bids so far."""
        bids = {name: (np.minimum(sold, caps[name]), charge) for name, (sold, charge) in bids.items()}
        part = 1.0
        for number in range(_MOST_TURNS):
            before = bids
            slope = self.supply.differentiate(self.net(bids), _DIFFERENCE)
            for name in bids:
                new = self._best_bid(name, bids, caps[name], slope)
                moved = [old + part * (best - old) for old, best in zip(bids[name], new, strict=True)]
                bids = {**bids, name: (moved[0], moved[1])}
            change = max(float(np.abs(np.subtract(bids[name], before[name])).max()) for name in bids)
            if change < 1e-4 * max(fleet.power for fleet in self.fleets.values()):
                break
            part = 1.0 if number < 5 else 0.5
        return bids

    def _best_bid(self, name: str, bids: Mapping[str, Bid], cap: Array, slope: Array) -> Bid:
        """Solve for the best bid on a line of `slope` (T, T), where the cap on the price holds what is paid."""
        fleet, own, price = self.fleets[name], self.costs[name], self.price(bids)
        sold, charge = cp.Variable(len(cap), nonneg=True), cp.Variable(len(cap), nonneg=True)
        last_sold, last_charge = bids[name]
        # What a change of the price does to the payoff, to first order; the square makes it concave.
        uncapped = np.where(price > self.price_cap, 0.0, last_sold)
        felt = slope.T @ (uncapped - last_charge)
        steepness, directions = np.linalg.eigh((slope + slope.T) / 2)
        root = directions * np.sqrt(np.maximum(steepness, 0))
        moved = sold - charge - (last_sold - last_charge)
        gain = (np.minimum(price, self.price_cap) - felt) @ sold - (price - felt) @ charge
        gain -= cp.sum_squares(root.T @ moved)
        problem = cp.Problem(
            cp.Maximize(gain - own.quadratic * cp.sum_squares(sold) - own.wear * cp.sum(sold)),
            _bid_limits(fleet, cap, sold, charge),
        )
        _solve(problem, "a DRA's best bid")
        return np.maximum(np.asarray(sold.value), 0), np.maximum(np.asarray(charge.value), 0)


def _draw_bids(fleet: FleetLimits, bid: Bid, cap: Array, random: np.random.Generator, samples: int) -> Iterator[Bid]:
    """Draw bids within the limits: anywhere, near the present one, or with energy moved between two slots."""
    now = bid[0] - bid[1]
    for number in range(samples):
        scale = fleet.power * 10.0 ** -random.uniform(0, 5)
        if number % 3 == 0:
            net = random.uniform(-1, 1, len(now)) * fleet.power
        elif number % 3 == 1:
            net = now + random.uniform(-1, 1, len(now)) * scale
        else:
            net = now.copy()
            net[random.integers(len(now))] += scale
            net[random.integers(len(now))] -= scale
        drawn = _limit(fleet, cap, np.maximum(net, 0), np.maximum(-net, 0))
        if drawn is not None:
            yield drawn


def _limit(fleet: FleetLimits, cap: Array, sold: Array, charge: Array) -> Bid | None:
    """Reduce a bid to what the batteries can do; None when they end below where they began."""
    sold, charge = np.minimum(sold, np.minimum(cap, fleet.power)), np.minimum(charge, fleet.power)
    eta, hours, change = fleet.efficiency, fleet.slot_hours, 0.0
    for slot in range(len(sold)):
        charge[slot] = min(charge[slot], (fleet.high - change) / hours / eta, fleet.power - sold[slot])
        sold[slot] = min(sold[slot], ((change - fleet.low) / hours + eta * charge[slot]) * eta)
        change += hours * (eta * charge[slot] - sold[slot] / eta)
    # What is missing at the end is not sold in the last slots.
    for slot in reversed(range(len(sold))):
        unsold = min(max(fleet.rise - change, 0.0) / hours * eta, sold[slot])
        if unsold > 0:
            sold[slot] -= unsold
            change += hours * unsold / eta
    level = fleet.change(sold, charge)
    feasible = (
        level.min() >= fleet.low - 1e-12 and level.max() <= fleet.high + 1e-12 and level[-1] >= fleet.rise - 1e-12
    )
    return (sold, charge) if feasible else None


def _bid_limits(fleet: FleetLimits, cap: Array, sold: Any, charge: Any) -> list[Any]:
    change = fleet.change(sold, charge)
    return [
        sold <= cap,
        sold + charge <= fleet.power,
        change >= fleet.low,
        change <= fleet.high,
        change[-1] >= fleet.rise,
    ]


def _solve(problem: Any, name: str) -> None:
    problem.solve(solver=cp.CLARABEL, **_TOLERANCES)
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise CertificateError(f"{name}: Clarabel ended with {problem.status}; no certificate")


# --- appliances ---


def cheapest_cost(appliance: Appliance, price: Array, slot_hours: float = 1.0) -> float:
    """Give the least that an appliance's energy costs, price times kWh, by a program over slots or starts.

    Raise `CertificateError`.
    """
    window = price[appliance.first - 1 : appliance.last]
    if isinstance(appliance, Interruptible):
        cost, count, most, whole = window, appliance.energy_kwh / slot_hours, appliance.most_kw, 0
    else:
        run = round(appliance.hours / slot_hours)
        starts = range(len(window) - run + 1)
        cost = appliance.kw * np.array([window[start : start + run].sum() for start in starts])
        count, most, whole = 1.0, 1.0, 1
    one_sum = LinearConstraint(np.ones((1, len(cost))), count, count)
    solution = milp(cost, integrality=np.full(len(cost), whole), bounds=Bounds(0, most), constraints=one_sum)
    if not solution.success:
        raise CertificateError(f"the cheapest schedule of an appliance: HiGHS ended with {solution.message}")
    return slot_hours * float(solution.fun)
