"""The certificate of the storage market: what a run settled on, against independent references.

The dispatch is solved again as a whole, price by its dual; the bids are held against the market's potential, whose
minimum is the one equilibrium, and each DRA's against its own program and against bids drawn at random; theta against
other shares, each with its own equilibrium; all in cvxpy with Clarabel. Each home's schedule is held against an integer
program (HiGHS through SciPy). MW, MWh, dollars, $/MWh, arrays (T,), unless said otherwise.
"""
# cvxpy hands its atoms on by star imports, which its types do not tell, and is not typed throughout.
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
from stackelgrid.games.storage_market.home import Appliance, Battery, Interruptible, MarketHome
from stackelgrid.games.storage_market.leader import UtilitySettings
from stackelgrid.wire.arrays import Array

_FEASIBLE = 1e-6
_MEGA = 1000.0
_THETAS = (0.25, 0.5, 2.0, 4.0)
# Parts of the game, written down once more so that the reference owes the leader's code nothing.
_LEAST_SLOPE = 1e-3
_SLACK_CURVATURE = 0.01
_TOLERANCES = {
    **dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-11),
    # What Clarabel may still call "almost solved" when rounding stops it before that.
    **dict.fromkeys(("reduced_tol_gap_abs", "reduced_tol_gap_rel", "reduced_tol_feas"), 1e-8),
}


def certificate(
    homes: Mapping[str, Sequence[MarketHome]],
    costs: Mapping[str, DraCosts],
    leader: UtilitySettings,
    outcome: Mapping[str, Any],
    *,
    seed: int,
    samples: int,
) -> dict[str, Any]:
    """The certificate of an `outcome` as in result.json, ready for JSON; `homes` and `costs` by DRA.

    - `method`: what was done, in words.
    - `gap`: how far the market's potential (supply cost, DRAs' costs and the announced slopes) is above its minimum,
      the one equilibrium, relative; below zero only by the reference's tolerance, or where limits are violated.
    - `max_regret`: the largest relative gain that any one player has from deviating alone, of the three that follow.
    - `max_dra_regret`: of the DRAs, from another bid on the announced line: their program, and `samples` bids each.
    - `max_home_regret`: of the homes, from other schedules at the price, relative to what their appliances' energy
      costs. Homes keep a schedule that another would better by less than `inertia`, so this is up to that.
    - `leader_regret`: of the leader, from another theta, relative to its cost.
    - `dispatch_gap`: how far the supply cost is above that of the best dispatch, relative.
    - `price_residual`: the largest distance of the price from that dispatch's dual, $/MWh.
    - `bid_distance`: the largest distance of a bid from the equilibrium's, MW.
    - `balance_residual`: of generation and sales from demand, of homes' batteries from their DRA's bid, and of the load
      from what homes changed, MW.
    - `battery_residual`: of a battery's level from what it charged and delivered, MWh.
    - `violation`: the worst breach of a limit of a generator, a bid, a battery or an appliance, MW or MWh.
    - `feasible`: whether that, and energy not served, are within 1e-6 of the peak.

    `homes` are those that settled, all of them and no others. Raises `CertificateError`.
    """
    run = _Run.read(homes, leader, outcome)
    fleets = {name: _fleet(members) for name, members in homes.items()}
    bids = {name: (run.sold[name], run.charge[name]) for name in homes}

    dispatch = _optimum(leader, run.load + run.net_charge, {}, {}, {})
    market = _optimum(leader, run.load, fleets, costs, run.caps, run.slope)
    supply_cost = _supply_cost(leader, run)
    potential = supply_cost + sum(_own_cost(costs[name], run.slope, *bids[name]) for name in homes)
    gap = (potential - market.value) / max(1.0, abs(market.value))

    random = np.random.default_rng(seed)
    dra_regret = max(_dra_regret(run, name, fleets[name], costs[name], random, samples) for name in homes)
    home_regret = max(_home_regret(run, home) for members in homes.values() for home in members)
    total = supply_cost - float(run.price @ run.net_charge)
    other_totals = [_total(leader, run, fleets, costs, run.theta * factor) for factor in _THETAS]
    leader_regret = max(0.0, total - min(other_totals)) / max(1.0, abs(total))

    violation = max(_violation(leader, run, fleets), *(_home_violation(run, h) for m in homes.values() for h in m))
    size = max(1.0, float(np.abs(run.load).max()))
    return {
        "method": "Dispatch, equilibrium of the bids (minimum of their potential) and each DRA's best bid: cvxpy with "
        f"Clarabel; {samples} bids a DRA at random. Homes: an integer program (HiGHS). Leader: the equilibria at "
        f"{', '.join(f'{factor:g}' for factor in _THETAS)} times its theta.",
        "gap": gap,
        "max_regret": max(dra_regret, home_regret, leader_regret),
        "max_dra_regret": dra_regret,
        "max_home_regret": home_regret,
        "leader_regret": leader_regret,
        "inertia": run.inertia,
        "dispatch_gap": (supply_cost - dispatch.value) / max(1.0, abs(dispatch.value)),
        "price_residual": float(np.max(np.abs(run.price - dispatch.price))),
        "bid_distance": max(
            float(np.max(np.abs(np.subtract(mine, best))))
            for name in homes
            for mine, best in zip(bids[name], market.bids[name], strict=True)
        ),
        "balance_residual": _balance_residual(homes, leader, run),
        "battery_residual": max(_battery_residual(run, h) for members in homes.values() for h in members),
        "violation": violation,
        "feasible": max(violation, float(run.short.max())) <= _FEASIBLE * size,
        "supply_cost": supply_cost,
        "equilibrium_sold_mw": {name: best[0].tolist() for name, best in market.bids.items()},
        "thetas": {f"{run.theta * factor:g}": other for factor, other in zip(_THETAS, other_totals, strict=True)},
        "solver_status": {"dispatch": dispatch.solver, "equilibrium": market.solver},
    }


@dataclass(frozen=True)
class _Run:
    """What the outcome reports. `load` is demand before batteries, `generation` (G, T), bids and caps by DRA.

    Of each home `appliances`, (A, T) kWh, `load_kw` and, with a battery, `charge_kw`, `sold_kw`, `battery_kwh` and
    `spilt_kwh`.
    """

    price: Array
    load: Array
    generation: Array
    short: Array
    spilt: Array
    slope: Array
    sold: dict[str, Array]
    charge: dict[str, Array]
    caps: dict[str, Array]
    homes: dict[str, dict[str, Array]]
    theta: float
    inertia: float

    @property
    def net_charge(self) -> Array:
        """What all batteries charge less what they deliver."""
        return np.asarray(sum(self.charge.values()) - sum(self.sold.values()))

    @classmethod
    def read(
        cls, homes: Mapping[str, Sequence[MarketHome]], leader: UtilitySettings, outcome: Mapping[str, Any]
    ) -> _Run:
        """Raises `CertificateError` where the outcome lacks something or is not of these homes."""
        slots = len(leader.shape)
        ids = {home.id for members in homes.values() for home in members}
        told = outcome.get("homes", {})
        if ids != told.keys():
            named = ", ".join(sorted(ids ^ told.keys()))
            raise CertificateError(
                f"outcome.homes differs from the scenario in {named}; certify a run that all settled"
            )

        def numbers(record: Any, where: str, *shape: int) -> Array:
            found = np.array(record if isinstance(record, list | float | int) else np.nan, float)
            if found.shape != shape or not np.isfinite(found).all():
                wanted = " times ".join(map(str, shape)) or "one"
                raise CertificateError(f"outcome.{where} must be {wanted} finite number(s), it is {record}")
            return found

        def of_home(home: MarketHome) -> dict[str, Array]:
            keys = ["load_kw"] + (["charge_kw", "sold_kw", "battery_kwh", "spilt_kwh"] if home.battery else [])
            record = {key: numbers(told[home.id].get(key), f"homes.{home.id}.{key}", slots) for key in keys}
            shape = (len(home.appliances), slots) if home.appliances else (0,)
            where = f"homes.{home.id}.appliances_kwh"
            return record | {"appliances": numbers(told[home.id].get("appliances_kwh"), where, *shape)}

        def by_dra(key: str) -> dict[str, Array]:
            return {name: numbers(outcome.get(key, {}).get(name), f"{key}.{name}", slots) for name in homes}

        def hours(key: str) -> Array:
            return numbers(outcome.get(key), key, slots)

        generation = outcome.get("dispatch_mw", {})
        return cls(
            price=hours("price"),
            load=hours("load_mw"),
            generation=np.array(
                [numbers(generation.get(unit.id), f"dispatch_mw.{unit.id}", slots) for unit in leader.generators]
            ),
            short=hours("short_mw"),
            spilt=hours("spilt_mw"),
            slope=hours("slope"),
            sold=by_dra("sold_mw"),
            charge=by_dra("charge_mw"),
            caps=by_dra("sales_cap_mw"),
            homes={home.id: of_home(home) for members in homes.values() for home in members},
            theta=float(numbers(outcome.get("theta"), "theta")),
            inertia=float(numbers(outcome.get("inertia"), "inertia")),
        )

    def of_home(self, home: MarketHome, key: str) -> Array:
        """A home's numbers, kW or kWh an hour; zeros where it has no battery."""
        return self.homes[home.id].get(key, np.zeros(len(self.price)))


@dataclass(frozen=True)
class _Fleet:
    """A DRA's batteries as one: each level between `low` and `high` around the start, MWh, `power` MW."""

    low: float
    high: float
    power: float
    efficiency: float


def _fleet(homes: Sequence[MarketHome]) -> _Fleet:
    """What every battery can follow in proportion to its capacity."""
    batteries = [home.battery for home in homes if home.battery is not None]
    if not batteries:
        return _Fleet(0.0, 0.0, 0.0, 1.0)
    capacity = sum(battery.capacity_kwh for battery in batteries) / _MEGA
    return _Fleet(
        -capacity * min(battery.initial_kwh / battery.capacity_kwh for battery in batteries),
        capacity * min(1 - battery.initial_kwh / battery.capacity_kwh for battery in batteries),
        capacity * min(battery.power_kw / battery.capacity_kwh for battery in batteries),
        min(battery.efficiency for battery in batteries),
    )


# --- the dispatch and the equilibrium ---


@dataclass(frozen=True)
class _Optimum:
    """`value` in dollars, the `price` as the balance's dual, `bids` (sold, charge) by DRA."""

    value: float
    price: Array
    bids: dict[str, tuple[Array, Array]]
    solver: dict[str, Any]


def _optimum(
    leader: UtilitySettings,
    load: Array,
    fleets: Mapping[str, _Fleet],
    costs: Mapping[str, DraCosts],
    caps: Mapping[str, Array],
    slope: Array | None = None,
) -> _Optimum:
    """The best dispatch for `load` and, given fleets, the bids that together minimise the potential."""
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
        assert slope is not None
        sold, charge = bids[name] = cp.Variable(slots, nonneg=True), cp.Variable(slots, nonneg=True)
        limits += _bid_limits(fleet, caps[name], sold, charge)
        own = costs[name]
        cost += own.quadratic * cp.sum_squares(sold) + own.wear * cp.sum(sold)
        cost += cp.sum(cp.multiply(slope / 2, cp.square(sold - charge)))
        delivered = delivered + sold - charge
    balance = cp.sum(generation, axis=0) + short - spilt == load - delivered
    problem = cp.Problem(cp.Minimize(cost), [balance, *limits])
    _solve(problem, "the dispatch")
    return _Optimum(
        float(problem.value),
        -np.asarray(balance.dual_value),
        {name: (np.asarray(sold.value), np.asarray(charge.value)) for name, (sold, charge) in bids.items()},
        {"status": str(problem.status), "iterations": problem.solver_stats.num_iters},
    )


def _bid_limits(fleet: _Fleet, cap: Array, sold: Any, charge: Any) -> list[Any]:
    change = cp.cumsum(fleet.efficiency * charge - sold / fleet.efficiency)
    return [sold <= cap, sold + charge <= fleet.power, change >= fleet.low, change <= fleet.high, change[-1] >= 0]


def _solve(problem: Any, what: str) -> None:
    problem.solve(solver=cp.CLARABEL, **_TOLERANCES)
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise CertificateError(f"{what}: Clarabel ended with {problem.status}; no certificate")


def _supply_cost(leader: UtilitySettings, run: _Run) -> float:
    """Worked out anew from the generators' output, dollars."""
    cost = leader.lost_load_price * run.short.sum() + _SLACK_CURVATURE * (run.short @ run.short + run.spilt @ run.spilt)
    for unit, output in zip(leader.generators, run.generation, strict=True):
        cost += unit.quadratic * output @ output + unit.linear * output.sum() + unit.constant * len(output)
    return float(cost)


def _own_cost(costs: DraCosts, slope: Array, sold: Array, charge: Array) -> float:
    """A DRA's part of the potential, dollars."""
    own = costs.quadratic * sold @ sold + costs.wear * sold.sum()
    return float(own + slope / 2 @ (sold - charge) ** 2)


def _total(
    leader: UtilitySettings, run: _Run, fleets: Mapping[str, _Fleet], costs: Mapping[str, DraCosts], theta: float
) -> float:
    """J, supply cost and net purchases in the equilibrium at another theta, dollars."""
    sales = min(theta, 1.0) * np.maximum(run.load, 0)
    chord = _optimum(leader, run.load, {}, {}, {}).price - _optimum(leader, run.load - sales, {}, {}, {}).price
    slope = np.maximum(chord / np.where(sales > 0, sales, 1.0), _LEAST_SLOPE)
    power = sum(fleet.power for fleet in fleets.values())
    caps = {name: sales * (fleet.power / power if power > 0 else 0.0) for name, fleet in fleets.items()}
    found = _optimum(leader, run.load, fleets, costs, caps, slope)
    delivered = sum((sold - charge for sold, charge in found.bids.values()), np.zeros(len(run.load)))
    cleared = _optimum(leader, run.load - delivered, {}, {}, {})
    return cleared.value + float(cleared.price @ delivered)


# --- the DRAs ---


def _dra_regret(
    run: _Run, name: str, fleet: _Fleet, costs: DraCosts, random: np.random.Generator, samples: int
) -> float:
    """The largest relative gain of a DRA from another bid on its line: its program's, or that of a bid at random."""
    last = run.sold[name] - run.charge[name]

    def payoff(sold: Array, charge: Array) -> float:
        net = sold - charge
        own = costs.quadratic * sold @ sold + costs.wear * sold.sum()
        return float((run.price - run.slope * (net - last)) @ net - own)

    now = payoff(run.sold[name], run.charge[name])
    best = _best_bid(run, name, fleet, costs, last)
    others = [best, *_random_bids(run, name, fleet, best, random, samples)]
    return max(0.0, max(payoff(*bid) for bid in others) - now) / max(1.0, abs(now))


def _best_bid(run: _Run, name: str, fleet: _Fleet, costs: DraCosts, last: Array) -> tuple[Array, Array]:
    sold, charge = cp.Variable(len(last), nonneg=True), cp.Variable(len(last), nonneg=True)
    net = sold - charge
    earned = (run.price + run.slope * last) @ net - cp.sum(cp.multiply(run.slope, cp.square(net)))
    own = costs.quadratic * cp.sum_squares(sold) + costs.wear * cp.sum(sold)
    problem = cp.Problem(cp.Maximize(earned - own), _bid_limits(fleet, run.caps[name], sold, charge))
    _solve(problem, f"the best bid of {name}")
    return np.asarray(sold.value), np.asarray(charge.value)


def _random_bids(
    run: _Run, name: str, fleet: _Fleet, best: tuple[Array, Array], random: np.random.Generator, samples: int
) -> list[tuple[Array, Array]]:
    """Bids that keep the limits: what a battery can do of wishes anywhere, and of the settled bid a little changed."""
    found = []
    for number in range(samples):
        scale = fleet.power * 10.0 ** -random.uniform(0, 5)
        wish = random.uniform(-1, 1, len(run.price)) * (fleet.power if number % 2 else scale)
        if number % 2 == 0:
            wish = wish + run.sold[name] - run.charge[name]
        found.append(_kept(fleet, run.caps[name], np.maximum(wish, 0), np.maximum(-wish, 0)))
    return [bid for bid in found if bid is not None]


def _kept(fleet: _Fleet, cap: Array, sold: Array, charge: Array) -> tuple[Array, Array] | None:
    """The wish as far as the battery goes; None when it ends below where it began."""
    sold, charge = np.minimum(sold, np.minimum(cap, fleet.power)), np.minimum(charge, fleet.power)
    eta, change = fleet.efficiency, 0.0
    for hour in range(len(sold)):
        charge[hour] = min(charge[hour], (fleet.high - change) / eta, fleet.power - sold[hour])
        sold[hour] = min(sold[hour], (change + eta * charge[hour] - fleet.low) * eta)
        change += eta * charge[hour] - sold[hour] / eta
    # What is missing at the end is not sold in the last hours.
    for hour in reversed(range(len(sold))):
        given_back = min(max(-change, 0.0) * eta, sold[hour])
        if given_back > 0:
            sold[hour] -= given_back
            change += given_back / eta
    level = np.cumsum(eta * charge - sold / eta)
    kept = level.min() >= fleet.low - 1e-12 and level.max() <= fleet.high + 1e-12 and level[-1] >= -1e-12
    return (sold, charge) if kept else None


# --- the homes ---


def _home_regret(run: _Run, home: MarketHome) -> float:
    """What a home would save with the cheapest schedules at the price, relative to what it pays for its appliances."""
    load = run.of_home(home, "load_kw")
    pays = float(run.price @ load)
    best = sum(cheapest_cost(appliance, run.price) for appliance in home.appliances)
    return max(0.0, pays - best) / abs(pays) if pays else 0.0


def cheapest_cost(appliance: Appliance, price: Array) -> float:
    """What an appliance's energy costs at least, price times kWh, by an integer program over hours or starts."""
    window = price[appliance.first - 1 : appliance.last]
    if isinstance(appliance, Interruptible):
        cost, count, most = appliance.block_kwh * window, appliance.blocks, appliance.per_hour
    else:
        starts = range(len(window) - appliance.hours + 1)
        cost = appliance.kw * np.array([window[start : start + appliance.hours].sum() for start in starts])
        count, most = 1, 1
    one_sum = LinearConstraint(np.ones((1, len(cost))), count, count)
    found = milp(cost, integrality=np.ones(len(cost)), bounds=Bounds(0, most), constraints=one_sum)
    if not found.success:
        raise CertificateError(f"the cheapest schedule of an appliance: HiGHS ended with {found.message}")
    return float(found.fun)


def _home_violation(run: _Run, home: MarketHome) -> float:
    """The worst breach of an appliance's or the battery's limits, MWh."""
    schedules = run.homes[home.id]["appliances"]
    worst = [0.0, float(np.max(np.abs(sum(schedules, -run.of_home(home, "load_kw")))))]
    worst += [_misrun(appliance, drawn) for appliance, drawn in zip(home.appliances, schedules, strict=True)]
    if home.battery is not None:
        charge, sold, level = (run.of_home(home, key) for key in ("charge_kw", "sold_kw", "battery_kwh"))
        battery = home.battery
        worst += [float(np.max(charge + sold - battery.power_kw)), float(np.max(level - battery.capacity_kwh))]
        worst += [float(-min(charge.min(), sold.min(), level.min())), battery.initial_kwh - float(level[-1])]
    return max(worst) / _MEGA


def _misrun(appliance: Appliance, drawn: Array) -> float:
    """How far what an appliance drew is from a schedule that it can run, kWh."""
    outside = drawn.copy()
    outside[appliance.first - 1 : appliance.last] = 0
    worst = [float(np.max(np.abs(outside))), abs(float(drawn.sum()) - appliance.energy_kwh)]
    if isinstance(appliance, Interruptible):
        blocks = drawn / appliance.block_kwh
        worst += [appliance.block_kwh * float(np.max(np.abs(blocks - np.round(blocks))))]
        worst += [appliance.block_kwh * float(np.max(blocks - appliance.per_hour))]
    else:
        running = np.flatnonzero(drawn)
        in_a_row = len(running) == appliance.hours == running[-1] - running[0] + 1 if len(running) else False
        worst += [float(np.max(np.abs(drawn[running] - appliance.kw))) if in_a_row else appliance.kw]
    return max(worst)


def _battery_residual(run: _Run, home: MarketHome) -> float:
    """The largest error of e = e + eta u - q / eta - spilt, MWh."""
    if home.battery is None:
        return 0.0
    battery: Battery = home.battery
    charge, sold, level, spilt = (
        run.of_home(home, key) for key in ("charge_kw", "sold_kw", "battery_kwh", "spilt_kwh")
    )
    change = np.diff(level, prepend=battery.initial_kwh)
    due = battery.efficiency * charge - sold / battery.efficiency - spilt
    return float(np.max(np.abs(change - due))) / _MEGA


# --- together ---


def _balance_residual(homes: Mapping[str, Sequence[MarketHome]], leader: UtilitySettings, run: _Run) -> float:
    """Generation against demand, homes' batteries against bids, homes' loads against what the leader saw, MW."""
    served = run.generation.sum(axis=0) + run.short - run.spilt
    residuals = [np.abs(served - run.load - run.net_charge)]
    changed = np.zeros(len(run.load))
    for name, members in homes.items():
        residuals += [
            np.abs(sum((run.of_home(home, key) for home in members), np.zeros(len(run.load))) / _MEGA - bid)
            for key, bid in (("charge_kw", run.charge[name]), ("sold_kw", run.sold[name]))
        ]
        changed += (
            sum((run.of_home(h, "load_kw") - h.preferred_load() for h in members), np.zeros(len(changed))) / _MEGA
        )
    residuals.append(np.abs(run.load - leader.expected - changed))
    return float(np.max(residuals))


def _violation(leader: UtilitySettings, run: _Run, fleets: Mapping[str, _Fleet]) -> float:
    """The worst breach of a generator's limit, a cap, a fleet's power or level, MW or MWh."""
    worst = [0.0, float(-run.generation.min())]
    for unit, output in zip(leader.generators, run.generation, strict=True):
        worst += [float(output.max()) - unit.max_mw]
        worst += [float(np.max(np.abs(np.diff(output)), initial=0.0)) - unit.ramp_mw]
    for name, fleet in fleets.items():
        sold, charge = run.sold[name], run.charge[name]
        change = np.cumsum(fleet.efficiency * charge - sold / fleet.efficiency)
        worst += [float(np.max(sold - run.caps[name])), float(np.max(sold + charge)) - fleet.power]
        worst += [float(-min(sold.min(), charge.min())), -float(change[-1])]
        worst += [fleet.low - float(change.min()), float(change.max()) - fleet.high]
    return max(worst)
