"""The certificate of the storage market: how far a settled outcome is from an equilibrium, against `reference`.

The dispatch is compared with the best one, its price with that one's dual, the announced slope with differences;
homes' schedules with the cheapest ones and with those that one hand would choose; each DRA's bid with others, at the
price that truly follows; theta with other shares, and the caps with none, each in an equilibrium of its own. MW, MWh,
dollars, $/MWh, arrays (T,), unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stackelgrid.certify import CertificateError
from stackelgrid.games.storage_market.home import Appliance, Interruptible, MarketHome, Uninterruptible
from stackelgrid.games.storage_market.leader import UtilitySettings
from stackelgrid.games.storage_market.outcome import HomeOutcome, StorageMarketOutcome
from stackelgrid.games.storage_market.reference import (
    KWH_PER_MWH,
    Bid,
    FleetLimits,
    Market,
    SupplyCurve,
    best_dispatch,
    cheapest_cost,
    cheapest_supply,
    supply_cost,
)
from stackelgrid.games.storage_market.scenario import StorageMarketScenario
from stackelgrid.wire.arrays import Array

_FEASIBLE = 1e-6
_THETAS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.5, 2.0, 4.0)
_DIFFERENCE = 1e-5


def certify(scenario: StorageMarketScenario, outcome: StorageMarketOutcome, samples: int) -> dict[str, Any]:
    """Give the certificate of an outcome that all homes of the scenario settled, ready for JSON.

    - `method`: the references used, in words.
    - `gap`: how far the supply cost is above the least that the interruptible appliances allow, runs and bids as they
      are, relative; below zero only by the reference's tolerance, or where limits are violated.
    - `integrality_gap`: how far it is above the least if runs could be interrupted, too, relative.
    - `max_regret`: the largest relative gain that any one player has from deviating alone, of the three that follow.
    - `max_dra_regret`: of the DRAs, from another bid, at the price that truly follows from it.
    - `max_home_regret`: of the homes, from other schedules of their interruptible appliances at the price, relative to
      what all their appliances' energy costs.
    - `leader_regret`: of the leader, from another theta, relative to its cost, homes as they are.
    - `integrality_regret`: of the homes, from other starts of their runs, likewise; runs stay where a start saves less
      than `inertia`.
    - `dispatch_gap`: how far the supply cost is above that of the best dispatch, relative.
    - `price_residual`: the largest distance of the price from that dispatch's dual, $/MWh.
    - `slope_residual`: the largest distance of the announced slope from the two that differences up and down show.
    - `balance_residual`: of generation and sales from demand, of homes' batteries from their DRA's bid, and of the load
      from what homes changed, MW.
    - `battery_residual`: of a battery's level from what it charged and delivered, MWh.
    - `violation`: the worst breach of a limit of a generator, a bid, a battery or an appliance, MW or MWh.
    - `feasible`: whether that, and energy not served, are within 1e-6 of the peak.
    - `thetas`: the leader's cost at each theta tried. `best_other_theta`: the one of the least cost.
    - `without_caps`: supply cost, leader's cost and payoffs in the equilibrium without any cap, homes as they are.

    Raise `CertificateError` for an outcome of another scenario, and when a reference finds no solution.
    """
    leader = scenario.leader
    members = {name: [home for process in shared for home in process] for name, shared in scenario.households().items()}
    everyone = [home for homes in members.values() for home in homes]
    _require_same_names(scenario, outcome)
    hours = scenario.slot_hours
    run = _Arrays.of(leader, everyone, outcome)
    market = Market(
        SupplyCurve(leader, scenario.slots, hours),
        run.load,
        {name: FleetLimits.of(homes, hours) for name, homes in members.items()},
        {name: scenario.aggregator_settings(name, {}) for name in members},
        np.inf if leader.price_cap is None else leader.price_cap,
    )
    bids = {name: (run.sold[name], run.charge[name]) for name in members}
    net = run.load + run.net_charge

    best_cost, best_price, status = best_dispatch(leader, net, hours)
    cost = supply_cost(leader, run.generation, run.short, run.spilt, hours)
    scale = max(1.0, abs(cost))
    schedules = [pair for home in everyone for pair in zip(home.appliances, run.homes[home.id].appliances, strict=True)]

    random = np.random.default_rng(scenario.seed)
    dra_regret = max(
        market.regret(name, bids, run.caps[name], random, samples) / max(1.0, abs(market.payoff(name, bids)))
        for name in bids
    )
    home_regret = max(_home_regret(run, home, Interruptible) for home in everyone)
    total = market.total_cost(bids)
    thetas = {theta: _total_cost_at(market, bids, theta) for theta in _thetas(leader, outcome)}
    best_theta = min(thetas, key=thetas.__getitem__, default=outcome.theta)
    leader_regret = max(0.0, total - min(thetas.values(), default=total)) / max(1.0, abs(total))
    free_market = replace(market, price_cap=np.inf)
    free = free_market.clear({name: np.full(scenario.slots, np.inf) for name in bids}, bids)

    violation = max(_violation(leader, run, market.fleets, hours), *(_home_violation(run, home) for home in everyone))
    size = max(1.0, float(np.abs(run.load).max()))
    return {
        "method": "Dispatch and the best schedules by one hand: cvxpy with Clarabel. Each DRA's bid: ascent from it "
        f"and from the best of {samples} others at random, the dispatch solved anew for each (DAQP, Clarabel). Homes: "
        f"HiGHS. Leader: the equilibria at {len(thetas)} other thetas.",
        "gap": (cost - _least_cost(leader, net, schedules, (Interruptible,), hours)) / scale,
        "integrality_gap": (cost - _least_cost(leader, net, schedules, (Interruptible, Uninterruptible), hours))
        / scale,
        "max_regret": max(dra_regret, home_regret, leader_regret),
        "max_dra_regret": dra_regret,
        "max_home_regret": home_regret,
        "leader_regret": leader_regret,
        "integrality_regret": max(_home_regret(run, home, Uninterruptible) for home in everyone),
        "inertia": outcome.inertia,
        "dispatch_gap": (cost - best_cost) / max(1.0, abs(best_cost)),
        "price_residual": float(np.max(np.abs(run.price - best_price))),
        "slope_residual": _slope_residual(market.supply, net, run.slope),
        "balance_residual": _balance_residual(members, leader, run),
        "battery_residual": max(_battery_residual(run, home) for home in everyone),
        "violation": violation,
        "feasible": max(violation, float(run.short.max())) <= _FEASIBLE * size,
        "supply_cost": cost,
        "thetas": {f"{theta:.6g}": other for theta, other in thetas.items()},
        "best_other_theta": best_theta,
        "without_caps": {
            "supply_cost": market.supply.solve(market.net(free))[0],
            "total_cost": free_market.total_cost(free),
            "payoff": {name: free_market.payoff(name, free) for name in free},
        },
        "solver_status": {"dispatch": status},
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
    """A home's day, kW, `level` and `spilt` kWh: `appliances` (A, T), others (T,), zeros where it has no battery."""

    appliances: Array
    load: Array
    charge: Array
    sold: Array
    level: Array
    spilt: Array

    @classmethod
    def of(cls, day: HomeOutcome, slot_hours: float) -> _HomeArrays:
        zero = [0.0] * len(day.load_kw)
        by_slot = (day.load_kw, day.charge_kw, day.sold_kw, day.battery_kwh, day.spilt_kwh)
        appliances = np.array(day.appliances_kwh) / slot_hours
        return cls(appliances, *(np.array(zero if each is None else each) for each in by_slot))


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
            homes={home.id: _HomeArrays.of(outcome.homes[home.id], home.slot_hours) for home in homes},
        )

    @property
    def net_charge(self) -> Array:
        """-Q [SM-2]: what all batteries charge less what they deliver."""
        return np.asarray(sum(self.charge.values()) - sum(self.sold.values()))


# --- regrets ---


def _home_regret(run: _Arrays, home: MarketHome, kind: type[Appliance]) -> float:
    """Give what a home saves with the cheapest schedules of one kind of appliance, relative to what it pays for all."""
    day = run.homes[home.id]
    pays = abs(float(run.price @ day.load))
    chosen = [pair for pair in zip(home.appliances, day.appliances, strict=True) if isinstance(pair[0], kind)]
    hours = home.slot_hours
    saves = sum(
        float(run.price @ drawn) - cheapest_cost(appliance, run.price, hours) / hours for appliance, drawn in chosen
    )
    return max(0.0, saves) / pays if pays else 0.0


def _least_cost(
    leader: UtilitySettings,
    net: Array,
    schedules: Sequence[tuple[Appliance, Array]],
    kinds: tuple[type[Appliance], ...],
    slot_hours: float,
) -> float:
    """Give the least supply cost when appliances of these `kinds` are scheduled by one hand, the others as they are."""
    moved = [pair for pair in schedules if isinstance(pair[0], kinds)]
    fixed = net - sum((drawn for _, drawn in moved), np.zeros(len(net))) / KWH_PER_MWH
    return cheapest_supply(leader, fixed, [appliance for appliance, _ in moved], slot_hours)


def _thetas(leader: UtilitySettings, outcome: StorageMarketOutcome) -> list[float]:
    """List other thetas: around the run's one, or around the one at which its caps begin to bind."""
    sold = np.array(list(outcome.sold_mw.values()))
    caps = np.maximum(np.array([outcome.sales_cap_mw[name] for name in outcome.sold_mw]), 1e-12)
    binding = outcome.theta * min(float((sold / caps).max()), 1.0)
    return [theta for factor in _THETAS if 0 < (theta := factor * binding) <= leader.max_theta]


def _total_cost_at(market: Market, bids: Mapping[str, Bid], theta: float) -> float:
    """Give the leader's cost in the equilibrium at another theta."""
    power = sum(fleet.power for fleet in market.fleets.values())
    sales = theta * np.maximum(market.load, 0)
    shares = {name: fleet.power / power if power > 0 else 0.0 for name, fleet in market.fleets.items()}
    return market.total_cost(market.clear({name: sales * share for name, share in shares.items()}, bids))


def _slope_residual(supply: SupplyCurve, net: Array, slope: Array) -> float:
    """Give how far the announced slope is from between those on the two sides of the net demand, $/MWh per MW."""
    up, down = (np.diagonal(supply.differentiate(net, step)) for step in (_DIFFERENCE, -_DIFFERENCE))
    return float(np.maximum(np.minimum(up, down) - slope, slope - np.maximum(up, down)).max(initial=0.0))


# --- limits ---


def _violation(leader: UtilitySettings, run: _Arrays, fleets: Mapping[str, FleetLimits], slot_hours: float) -> float:
    """Give the worst breach of a generator's limit, a cap, a fleet's power or level, MW or MWh."""
    worst = [0.0, float(-run.generation.min())]
    for unit, output in zip(leader.generators, run.generation, strict=True):
        worst += [float(output.max()) - unit.max_mw]
        before = output[:1] if unit.output_mw is None else [unit.output_mw]
        worst += [float(np.max(np.abs(np.diff(output, prepend=before)))) - slot_hours * unit.ramp_mw]
    for name, fleet in fleets.items():
        sold, charge = run.sold[name], run.charge[name]
        change = fleet.change(sold, charge)
        worst += [float(np.max(sold - run.caps[name])), float(np.max(sold + charge)) - fleet.power]
        worst += [float(-min(sold.min(), charge.min())), fleet.rise - float(change[-1])]
        worst += [fleet.low - float(change.min()), float(change.max()) - fleet.high]
    return max(worst)


def _home_violation(run: _Arrays, home: MarketHome) -> float:
    """Give the worst breach of an appliance's or the battery's limits, MWh."""
    day = run.homes[home.id]
    worst = [0.0, float(np.max(np.abs(sum(day.appliances, -day.load))))]
    pairs = zip(home.appliances, day.appliances, strict=True)
    worst += [_schedule_error(*pair, home.slot_hours) for pair in pairs]
    if home.battery is not None:
        battery = home.battery
        worst += [float(np.max(day.charge + day.sold - battery.power_kw))]
        worst += [float(np.max(day.level - battery.capacity_kwh)), battery.least_kwh - float(day.level[-1])]
        worst += [float(-min(day.charge.min(), day.sold.min(), day.level.min()))]
    return max(worst) / KWH_PER_MWH


def _schedule_error(appliance: Appliance, consumption: Array, slot_hours: float) -> float:
    """Give how far an appliance's consumption, (T,) kW, is from a schedule that it can run, kW or kWh."""
    outside = consumption.copy()
    outside[appliance.first - 1 : appliance.last] = 0
    worst = [float(np.max(np.abs(outside))), abs(slot_hours * float(consumption.sum()) - appliance.energy_kwh)]
    if isinstance(appliance, Interruptible):
        worst += [float(consumption.max()) - appliance.most_kw, float(-consumption.min())]
    else:
        running = np.flatnonzero(consumption)
        count = round(appliance.hours / slot_hours)
        in_a_row = len(running) == count == running[-1] - running[0] + 1 if len(running) else False
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
        shifts = (day.load - home.usual_load() for home, day in zip(homes, days, strict=True))
        changed = changed + sum(shifts, zero) / KWH_PER_MWH
    residuals.append(np.abs(run.load - leader.expected - changed))
    return float(np.max(residuals))


def _battery_residual(run: _Arrays, home: MarketHome) -> float:
    """Give the largest error of a battery's level [SM-16], MWh."""
    if home.battery is None:
        return 0.0
    battery, day = home.battery, run.homes[home.id]
    change = np.diff(day.level, prepend=battery.initial_kwh)
    due = home.slot_hours * (battery.efficiency * day.charge - day.sold / battery.efficiency) - day.spilt
    return float(np.max(np.abs(change - due))) / KWH_PER_MWH
