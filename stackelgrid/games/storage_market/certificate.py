"""The certificate of the storage market: how far a settled outcome is from an equilibrium, against `reference`.

The dispatch is compared with the best one, its price with that one's dual; the bids with the equilibrium, and each
DRA's with its own best bid and with random ones; theta with other shares, each in its own equilibrium; each home's
schedule with an integer program. MW, MWh, dollars, $/MWh, arrays (T,), unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stackelgrid.certify import CertificateError
from stackelgrid.games.storage_market.home import Appliance, Interruptible, MarketHome
from stackelgrid.games.storage_market.leader import UtilitySettings
from stackelgrid.games.storage_market.outcome import HomeOutcome, StorageMarketOutcome
from stackelgrid.games.storage_market.reference import (
    KWH_PER_MWH,
    BidProblem,
    FleetLimits,
    cheapest_cost,
    dispatch,
    equilibrium,
    potential_of_bid,
    supply_cost,
    total_cost,
)
from stackelgrid.games.storage_market.scenario import StorageMarketScenario
from stackelgrid.wire.arrays import Array

_FEASIBLE = 1e-6
_THETAS = (0.25, 0.5, 2.0, 4.0)


def certify(scenario: StorageMarketScenario, outcome: StorageMarketOutcome, samples: int) -> dict[str, Any]:
    """Give the certificate of an outcome that all homes of the scenario settled, ready for JSON.

    - `method`: the references used, in words.
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

    Raise `CertificateError` for an outcome of another scenario, and when a reference finds no solution.
    """
    leader = scenario.leader
    members = {name: [home for process in shared for home in process] for name, shared in scenario.households().items()}
    everyone = [home for homes in members.values() for home in homes]
    costs = {name: scenario.aggregator_settings(name, {}) for name in members}
    fleets = {name: FleetLimits.of(homes) for name, homes in members.items()}
    _require_same_names(scenario, outcome)
    run = _Arrays.of(leader, everyone, outcome)
    bids = {name: (run.sold[name], run.charge[name]) for name in members}

    best_dispatch = dispatch(leader, run.load + run.net_charge)
    market = equilibrium(leader, run.load, fleets, costs, run.caps, run.slope)
    cost = supply_cost(leader, run.generation, run.short, run.spilt)
    potential = cost + sum(potential_of_bid(costs[name], run.slope, *bids[name]) for name in members)
    gap = (potential - market.value) / max(1.0, abs(market.value))

    random = np.random.default_rng(scenario.seed)
    dra_regret = max(
        _dra_regret(
            BidProblem(run.price, run.slope, sold - charge, run.caps[name], fleets[name], costs[name]),
            (sold, charge),
            random,
            samples,
        )
        for name, (sold, charge) in bids.items()
    )
    home_regret = max(_home_regret(run, home) for home in everyone)
    total = cost - float(run.price @ run.net_charge)
    other_totals = [total_cost(leader, run.load, fleets, costs, outcome.theta * factor) for factor in _THETAS]
    leader_regret = max(0.0, total - min(other_totals)) / max(1.0, abs(total))

    violation = max(_violation(leader, run, fleets), *(_home_violation(run, home) for home in everyone))
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
        "inertia": outcome.inertia,
        "dispatch_gap": (cost - best_dispatch.value) / max(1.0, abs(best_dispatch.value)),
        "price_residual": float(np.max(np.abs(run.price - best_dispatch.price))),
        "bid_distance": max(
            float(np.max(np.abs(np.subtract(mine, best))))
            for name in members
            for mine, best in zip(bids[name], market.bids[name], strict=True)
        ),
        "balance_residual": _balance_residual(members, leader, run),
        "battery_residual": max(_battery_residual(run, home) for home in everyone),
        "violation": violation,
        "feasible": max(violation, float(run.short.max())) <= _FEASIBLE * size,
        "supply_cost": cost,
        "equilibrium_sold_mw": {name: best[0].tolist() for name, best in market.bids.items()},
        "thetas": {f"{outcome.theta * factor:g}": other for factor, other in zip(_THETAS, other_totals, strict=True)},
        "solver_status": {"dispatch": best_dispatch.solver, "equilibrium": market.solver},
    }


def _require_same_names(scenario: StorageMarketScenario, outcome: StorageMarketOutcome) -> None:
    """Raise `CertificateError` unless the outcome is of this scenario, all its homes included."""
    dras = scenario.households().keys()
    names: list[tuple[str, Collection[str], Collection[str]]] = [
        ("homes", outcome.homes.keys(), {home.id for home in scenario.everyone}),
        ("dispatch_mw", outcome.dispatch_mw.keys(), {unit.id for unit in scenario.leader.generators}),
        ("sold_mw", outcome.sold_mw.keys(), dras),
        ("charge_mw", outcome.charge_mw.keys(), dras),
        ("sales_cap_mw", outcome.sales_cap_mw.keys(), dras),
    ]
    for key, found, expected in names:
        if set(found) != set(expected):
            different = ", ".join(sorted(set(found) ^ set(expected)))
            raise CertificateError(
                f"outcome.{key} differs from the scenario in {different}; certify a run that all settled"
            )
    if len(outcome.price) != scenario.slots:
        raise CertificateError(
            f"outcome.price has {len(outcome.price)} numbers, the scenario {scenario.slots} slots; certify its own run"
        )
    for home in scenario.everyone:
        day = outcome.homes[home.id]
        if len(day.appliances_kwh) != len(home.appliances) or (day.battery_kwh is None) != (home.battery is None):
            raise CertificateError(
                f"outcome.homes.{home.id} has other appliances than in the scenario, or another battery; "
                "certify the scenario's own run"
            )


@dataclass(frozen=True)
class _HomeArrays:
    """A home's day, kW or kWh an hour: `appliances` (A, T), all others (T,), zeros where it has no battery."""

    appliances: Array
    load: Array
    charge: Array
    sold: Array
    level: Array
    spilt: Array

    @classmethod
    def of(cls, day: HomeOutcome) -> _HomeArrays:
        zero = [0.0] * len(day.load_kw)
        hourly = (day.load_kw, day.charge_kw, day.sold_kw, day.battery_kwh, day.spilt_kwh)
        return cls(np.array(day.appliances_kwh), *(np.array(zero if each is None else each) for each in hourly))


@dataclass(frozen=True)
class _Arrays:
    """The outcome as arrays: `load` is demand before batteries, `generation` (G, T); bids and caps by DRA."""

    price: Array
    load: Array
    generation: Array
    short: Array
    spilt: Array
    slope: Array
    sold: dict[str, Array]
    charge: dict[str, Array]
    caps: dict[str, Array]
    homes: dict[str, _HomeArrays]

    @classmethod
    def of(cls, leader: UtilitySettings, homes: Sequence[MarketHome], outcome: StorageMarketOutcome) -> _Arrays:
        return cls(
            price=np.array(outcome.price),
            load=np.array(outcome.load_mw),
            generation=np.array([outcome.dispatch_mw[unit.id] for unit in leader.generators]),
            short=np.array(outcome.short_mw),
            spilt=np.array(outcome.spilt_mw),
            slope=np.array(outcome.slope),
            sold={name: np.array(bid) for name, bid in outcome.sold_mw.items()},
            charge={name: np.array(bid) for name, bid in outcome.charge_mw.items()},
            caps={name: np.array(cap) for name, cap in outcome.sales_cap_mw.items()},
            homes={home.id: _HomeArrays.of(outcome.homes[home.id]) for home in homes},
        )

    @property
    def net_charge(self) -> Array:
        """-Q [SM-2]: what all batteries charge less what they deliver."""
        return np.asarray(sum(self.charge.values()) - sum(self.sold.values()))


# --- regrets ---


def _dra_regret(problem: BidProblem, bid: tuple[Array, Array], random: np.random.Generator, samples: int) -> float:
    """Give the largest relative gain of a DRA from another bid on its line: the best one, or a random one."""
    now = problem.payoff(*bid)
    others = [problem.best_bid(), *problem.random_bids(random, samples)]
    return max(0.0, max(problem.payoff(*other) for other in others) - now) / max(1.0, abs(now))


def _home_regret(run: _Arrays, home: MarketHome) -> float:
    """Give what a home saves with the cheapest schedules, relative to what it pays for its appliances."""
    pays = float(run.price @ run.homes[home.id].load)
    best = sum(cheapest_cost(appliance, run.price) for appliance in home.appliances)
    return max(0.0, pays - best) / abs(pays) if pays else 0.0


# --- limits ---


def _violation(leader: UtilitySettings, run: _Arrays, fleets: Mapping[str, FleetLimits]) -> float:
    """Give the worst breach of a generator's limit, a cap, a fleet's power or level, MW or MWh."""
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


def _home_violation(run: _Arrays, home: MarketHome) -> float:
    """Give the worst breach of an appliance's or the battery's limits, MWh."""
    day = run.homes[home.id]
    worst = [0.0, float(np.max(np.abs(sum(day.appliances, -day.load))))]
    worst += [_schedule_error(*pair) for pair in zip(home.appliances, day.appliances, strict=True)]
    if home.battery is not None:
        battery = home.battery
        worst += [float(np.max(day.charge + day.sold - battery.power_kw))]
        worst += [float(np.max(day.level - battery.capacity_kwh)), battery.initial_kwh - float(day.level[-1])]
        worst += [float(-min(day.charge.min(), day.sold.min(), day.level.min()))]
    return max(worst) / KWH_PER_MWH


def _schedule_error(appliance: Appliance, consumption: Array) -> float:
    """Give how far an appliance's consumption, (T,) kWh, is from a schedule that it can run, kWh."""
    outside = consumption.copy()
    outside[appliance.first - 1 : appliance.last] = 0
    worst = [float(np.max(np.abs(outside))), abs(float(consumption.sum()) - appliance.energy_kwh)]
    if isinstance(appliance, Interruptible):
        blocks = consumption / appliance.block_kwh
        worst += [appliance.block_kwh * float(np.max(np.abs(blocks - np.round(blocks))))]
        worst += [appliance.block_kwh * float(np.max(blocks - appliance.per_hour))]
    else:
        running = np.flatnonzero(consumption)
        in_a_row = len(running) == appliance.hours == running[-1] - running[0] + 1 if len(running) else False
        worst += [float(np.max(np.abs(consumption[running] - appliance.kw))) if in_a_row else appliance.kw]
    return max(worst)


# --- balances ---


def _balance_residual(members: Mapping[str, Sequence[MarketHome]], leader: UtilitySettings, run: _Arrays) -> float:
    """Compare generation with demand, homes' batteries with bids, homes' loads with the leader's demand, MW."""
    served = run.generation.sum(axis=0) + run.short - run.spilt
    residuals = [np.abs(served - run.load - run.net_charge)]
    changed = zero = np.zeros(len(run.load))
    for name, homes in members.items():
        days = [run.homes[home.id] for home in homes]
        residuals += [
            np.abs(sum((day.charge for day in days), zero) / KWH_PER_MWH - run.charge[name]),
            np.abs(sum((day.sold for day in days), zero) / KWH_PER_MWH - run.sold[name]),
        ]
        shifts = (day.load - home.preferred_load() for home, day in zip(homes, days, strict=True))
        changed = changed + sum(shifts, zero) / KWH_PER_MWH
    residuals.append(np.abs(run.load - leader.expected - changed))
    return float(np.max(residuals))


def _battery_residual(run: _Arrays, home: MarketHome) -> float:
    """Give the largest error of a battery's level [SM-16], MWh."""
    if home.battery is None:
        return 0.0
    battery, day = home.battery, run.homes[home.id]
    change = np.diff(day.level, prepend=battery.initial_kwh)
    due = battery.efficiency * day.charge - day.sold / battery.efficiency - day.spilt
    return float(np.max(np.abs(change - due))) / KWH_PER_MWH
