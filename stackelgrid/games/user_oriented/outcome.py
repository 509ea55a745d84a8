"""The outcome of a run of the user-oriented pricing game, `outcome` in result.json.

Money is in the unit that the scenario names; slots have a length Δ, so that energy is kW times Δ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.games.user_oriented.home import DeviceRates, Home, HomeProblem, Schedule, pose_problem
from stackelgrid.games.user_oriented.home.appliances import ElasticAppliances
from stackelgrid.games.user_oriented.home.metering import read_rates
from stackelgrid.games.user_oriented.leader import compute_par
from stackelgrid.model import Finite, StrictModel
from stackelgrid.run_record import Outcome, RunRecord
from stackelgrid.wire.arrays import Array, Vector

if TYPE_CHECKING:
    from stackelgrid.calendar import Session
    from stackelgrid.games.user_oriented.scenario import UserOrientedScenario


@dataclass(frozen=True)
class ApplianceSchedule:
    """The schedule of one of a home's appliances: `load_kw` (T,).

    A storage or a car has `stored_kwh` (T,), a heat pump the `temperature_c` (T,) of its room, at the end of each slot.
    `kind` is the key under which the home has it. Over a home's appliances `load_kw` adds up to what its meter draws.
    """

    name: str
    kind: str
    load_kw: list[float]
    stored_kwh: list[float] | None = None
    temperature_c: list[float] | None = None


def schedule_appliances(home: Home, price: list[float], starts: Sequence[int | None] = ()) -> list[ApplianceSchedule]:
    """Give what each appliance of a home does at a price, (T,), its runs beginning in the slots `starts`."""
    problem = HomeProblem(home.at_starts(tuple(starts)))
    schedule = problem.answer(np.array(price))
    return [
        *(ApplianceSchedule(each.name, "inelastic", each.draw(len(price)).tolist()) for each in home.inelastic),
        *(
            ApplianceSchedule(each.name, "deferrable", each.draw(start, len(price)).tolist())
            for each, start in zip(home.deferrable, starts, strict=True)
        ),
        *(
            ApplianceSchedule(each.name, "elastic", rate.tolist())
            for each, rate in zip(home.elastic, schedule.x, strict=True)
        ),
        *(
            ApplianceSchedule(each.name, "storage", charging.tolist(), level.tolist())
            for each, charging, level in zip(home.storage, schedule.r, schedule.level, strict=True)
        ),
        *_schedule_devices(home, schedule.devices),
    ]


def _schedule_devices(home: Home, rates: DeviceRates | None) -> Iterator[ApplianceSchedule]:
    """Give what PV, cars and heat pumps do."""
    if rates is None:
        return
    for pv, used in zip(home.pv, rates.pv, strict=True):
        yield ApplianceSchedule(pv.name, "pv", (-used).tolist())
    for car, charging, level in zip(home.ev, rates.ev, rates.ev_level, strict=True):
        yield ApplianceSchedule(car.name, "ev", charging.tolist(), level.tolist())
    for pump, heating, celsius in zip(home.heat_pump, rates.heating, rates.temperature, strict=True):
        yield ApplianceSchedule(pump.name, "heat_pump", heating.tolist(), temperature_c=celsius.tolist())


def bill_by_slot(home: Home, price: Array, load: Array) -> Array:
    """Give what a home pays in each slot, (T,) money: for what it draws, less what it earns for feeding in [UO-FI]."""
    paid_back = price if home.feed_in_price is None else np.minimum(home.feed_in_price, price)
    return home.slot_hours * (price * np.maximum(load, 0.0) - paid_back * np.maximum(-load, 0.0))


def follow_flat_price(scenario: UserOrientedScenario, sessions: Sequence[Session]) -> tuple[Array, dict[str, float]]:
    """Give what the meters of all homes count, kW, in the slots that sessions bind, at the flat price, and their bills.

    Each home plans session after session as in the game, by what it foresees and from the state in which the one before
    has left it. Raises `ValueError` where that state does not allow what a later session asks for, and `SolverError`.
    """
    load, bills = np.zeros(sum(session.binding for session in sessions)), {}
    for home in scenario.everyone:
        try:
            drawn, bills[home.id] = _follow_home(home, scenario.leader.baseline_price, sessions)
        except ValueError as error:
            raise ValueError(f"home {home.id}: {error}") from None
        load += drawn
    return load, bills


def _follow_home(home: Home, price: float, sessions: Sequence[Session]) -> tuple[Array, float]:
    """Give what the meter of a home counts at a flat price in the slots that sessions bind, kW, and its bill, money."""
    state: dict[str, Any] | None = None
    load, bill = [], 0.0
    for session, later in zip(sessions, [*sessions[1:], None], strict=True):
        foreseen, came = home.foresee(session).in_session(session, state), home.in_session(session, state)
        flat = np.full(session.slots, price)
        done = foreseen.meter(_summarize_at(foreseen, flat), came)
        drawn = np.array(done["load_kw"])
        load.append(drawn[: session.binding])
        bill += float(bill_by_slot(came, flat, drawn)[: session.binding].sum())
        state = foreseen.advance(session if later is None else session.until(later), done)
    return np.concatenate(load), bill


def compute_utility(home: Home, price: float) -> float:
    """Give the utility of a home at a flat price, money [UO-5]: satisfaction less wear less bill."""
    return float(_summarize_at(home, np.full(home.horizon, price))["utility"])


def _list_baseline(scenario: UserOrientedScenario, home: Home) -> dict[str, Any]:
    """List the bill of a home at the flat price and, in a dated run, its utility, money."""
    before = _summarize_at(home, np.full(scenario.slots, scenario.leader.baseline_price))
    keys = ("bill",) if scenario.calendar is None else ("bill", "utility")
    return {f"baseline_{key}": before[key] for key in keys}


def _compute_leader_before(
    scenario: UserOrientedScenario, load: Array, homes: Mapping[str, HomeOutcome], balance_load: list[float] | None
) -> float | None:
    """Compute the leader's utility at the flat price, with the charge of its last search: bills less what it buys."""
    if scenario.calendar is None or len(homes) < len(scenario.everyone):
        return None
    leader, weight = scenario.leader, scenario.leader.revenue_weight
    bills = sum(home.baseline_bill or 0.0 for home in homes.values())
    mu = leader.charge(load, None if balance_load is None else np.array(balance_load))
    company = replace(leader.company(len(load)), mu=mu)
    bought = -company.earn(np.zeros_like(load), load)
    return weight * bills - scenario.slot_hours * (weight * bought + company.deviation_charge(load))


def _summarize_at(home: Home, price: Array) -> dict[str, Any]:
    problem = pose_problem(home)
    return problem.summarize(problem.answer(price))


_FINDINGS = ("unkept_capacity_kw", "least_violation_kw", "noise_kw", "noise_price", "balance_load_kw")
"""What the account of the last round may have besides."""


class HomeOutcome(StrictModel):
    """One home at the settled price.

    `load_kw` (T,) is what its meter draws, kW; `bill` money; `utility` satisfaction less wear less bill, money;
    `storage_kwh` (T,) the energy stored at the end of each slot in all its storage together, kWh, absent without any;
    `stores_kwh` a row for each, where there are several. Where devices are scheduled together also, (T,) kW, the net
    charging `storage_kw` and `ev_kw`, `pv_kw` used and `curtailed_kw`, `heat_pump_kw` and `feed_in_kw`, and a row for
    each, (T,) at the end of each slot, the energy `ev_kwh` of cars and the temperature `temperature_c`. `starts` are
    the slots, from 1, in which its deferrable runs begin, null for one that does not begin here. `baseline_bill`
    is its bill at the flat price, money, computed on the desk, and so is `baseline_utility` of a dated run. Where it
    planned by a forecast also, of the slots that bind, what its meter counted, `metered_kw`, what it pays for that,
    `metered_bill`, satisfaction less wear and discomfort less that, `metered_utility`, and `unserved_kw`, load that its
    connection did not carry.
    """

    load_kw: Vector
    bill: Finite
    utility: Finite
    storage_kwh: Vector | None = None
    stores_kwh: Annotated[list[Vector] | None, Field(exclude=True)] = None
    storage_kw: Vector | None = None
    ev_kw: Vector | None = None
    ev_kwh: list[Vector] | None = None
    pv_kw: Vector | None = None
    curtailed_kw: Vector | None = None
    feed_in_kw: Vector | None = None
    heat_pump_kw: Vector | None = None
    heat_pumps_kw: Annotated[list[Vector] | None, Field(exclude=True)] = None
    temperature_c: list[Vector] | None = None
    starts: list[int | None] = []
    baseline_bill: Finite | None = None
    baseline_utility: Finite | None = None
    metered_kw: Vector | None = None
    metered_bill: Finite | None = None
    metered_utility: Finite | None = None
    unserved_kw: Vector | None = None

    def meter(self, foreseen: Home, came: Home, price: Vector, binding: int) -> Self:
        """Give the same with what the meter counts in the binding slots, which came otherwise than was foreseen.

        The home pays the settled price for all that its meter counts, and is paid for what it feeds in [UO-FI].
        """
        account = {key: value for key, value in self if value is not None}
        done = foreseen.meter(account, came)
        load = np.array(done["load_kw"])
        bill = float(bill_by_slot(came, np.array(price), load)[:binding].sum())
        metered = {"metered_kw": load[:binding].tolist(), "metered_bill": bill}
        plan = HomeProblem(foreseen.at_starts(tuple(self.starts)))
        worth = list_worth(came, plan.answer(np.array(price)), done)
        metered["metered_utility"] = float(worth[:binding].sum()) - bill
        if "unserved_kw" in done:
            metered["unserved_kw"] = done["unserved_kw"][:binding]
        return self.model_copy(update=metered)


def list_worth(home: Home, plan: Schedule, done: Mapping[str, Any]) -> Array:
    """Give satisfaction less wear and discomfort of each slot, (T,) money, of a home that follows a plan.

    What it has `done` says how full storage and how warm rooms are. What cut PV costs is left out: it is no money, but
    the home's way to choose among plans.
    """
    worth = ElasticAppliances(home.elastic, home.horizon).utility(plan.x).sum(axis=0)
    levels = [] if not home.storage else done["stores_kwh"] if len(home.storage) > 1 else [done["storage_kwh"]]
    for store, level in zip(home.storage, np.array(levels), strict=True):
        here = store.slots(home.horizon)
        worth[here] -= store.wear_of(read_rates(store, here, level, home.slot_hours), level)[here]
    if plan.devices is not None:
        for car, rate, level in zip(home.ev, plan.devices.ev, plan.devices.ev_level, strict=True):
            worth -= car.wear_of(rate, level)
        rooms = done.get("temperature_c", ())
        for pump, power, celsius in zip(home.heat_pump, plan.devices.heating, rooms, strict=True):
            worth -= pump.fast * power**2 + pump.comfort.price_of(np.array(celsius))
    return np.asarray(home.slot_hours * worth)


class UserOrientedOutcome(Outcome):
    """The settled price and the load that answers it, beside the baseline, the answer to the flat price.

    | key | shape | unit | meaning |
    |---|---|---|---|
    | `price` | (T,) | money per kWh | the price of each slot |
    | `load_kw`, `baseline_load_kw` | (T,) | kW | total load at that price, and at the flat price |
    | `peak_kw`, `baseline_peak_kw` | | kW | the largest of these |
    | `par`, `baseline_par` | | | peak-to-average ratio, peak over mean; null where nobody draws |
    | `leader_utility` | | money | U_c, [UO-7], with what a feed-in price below the price saves |
    | `system_utility` | | money | that, with revenue at weight 1, and the utility of every home in `homes` |
    | `baseline_leader_utility` | | money | the same at the flat price; of a dated run in which every home reported |
    | `revenue` | | money | what all homes pay, sum p_t L_t Δ, and less for what is fed in at a price of its own |
    | `deviation` | | kW^2 | sum (L_t - mean L)^2 |
    | `capped_slots` | | | the slots, from 1, in which what is sold at `price_max` would not change with the price |
    | `homes` | by id | | homes that reported a schedule |
    | `unkept_capacity_kw`, `least_violation_kw` | | kW | given when no price keeps this capacity: the violation left |
    | `noise_kw` | | kW | given when the price is not known within the tolerance: answers to one price differ by this |
    | `noise_price` | | money per kWh | by so much the price moves with them |
    | `balance_load_kw` | (T,) | kW | the load from which an adaptive balance was recomputed; None where not |

    Of the first B slots, those that bind, where somebody planned by a forecast [UO-IMB]:

    | key | shape | unit | meaning |
    |---|---|---|---|
    | `metered_kw` | (B,) | kW | what the meters counted; `load_kw` is what was settled |
    | `imbalance_kwh` | (B,) | kWh | metered less settled, of the homes in `homes` |
    | `imbalance_price` | (B,) | money per kWh | what the company pays for that; it is paid where that is below zero |
    | `metered_revenue` | | money | what the homes in `homes` pay for what was metered |
    | `metered_utility` | | money | satisfaction less wear and discomfort less that, of these homes |
    | `supply_cost` | | money | what the company pays: settled load at the wholesale price, and the imbalance |
    """

    price: Vector
    load_kw: Vector
    baseline_load_kw: Vector
    peak_kw: Finite
    par: Finite | None
    baseline_peak_kw: Finite
    baseline_par: Finite | None
    leader_utility: Finite
    baseline_leader_utility: Finite | None = None
    system_utility: Finite
    revenue: Finite
    deviation: Finite
    capped_slots: list[int] = []
    homes: dict[str, HomeOutcome]
    unkept_capacity_kw: Finite | None = None
    least_violation_kw: Finite | None = None
    noise_kw: Finite | None = None
    noise_price: Finite | None = None
    balance_load_kw: Vector | None = None
    metered_kw: Vector | None = None
    imbalance_kwh: Vector | None = None
    imbalance_price: Vector | None = None
    metered_revenue: Finite | None = None
    metered_utility: Finite | None = None
    supply_cost: Finite | None = None

    def meter(self, foreseen: UserOrientedScenario, came: UserOrientedScenario, binding: int) -> Self:
        """Give the same with what the meters count, when homes and leader are as they `came` [UO-IMB]."""
        leader = came.leader
        homes = {
            after.id: self.homes[after.id].meter(before, after, self.price, binding)
            for before, after in zip(foreseen.everyone, came.everyone, strict=True)
            if after.id in self.homes
        }
        settled, hours = np.array(self.load_kw[:binding]), self.slot_hours
        unforeseen = np.zeros(binding)
        for home in homes.values():
            unforeseen += np.array(home.metered_kw) - home.load_kw[:binding]
        wholesale, price = (
            np.broadcast_to(value, len(self.price))[:binding]
            for value in (
                leader.wholesale_price,
                leader.wholesale_price if leader.imbalance_price is None else leader.imbalance_price,
            )
        )
        return self.model_copy(
            update={
                "homes": homes,
                "metered_kw": (settled + unforeseen).tolist(),
                "imbalance_kwh": (hours * unforeseen).tolist(),
                "imbalance_price": price.tolist(),
                **{
                    f"metered_{key}": sum(getattr(home, f"metered_{of_home}") for home in homes.values())
                    for key, of_home in (("revenue", "bill"), ("utility", "utility"))
                },
                "supply_cost": hours * float(wholesale @ settled + price @ unforeseen),
            }
        )

    @classmethod
    def of(cls, scenario: UserOrientedScenario, run_record: RunRecord) -> Self:
        """Build the outcome from the last round and from what the homes reported of the settlement."""
        last = run_record.rounds[-1]
        price, load, baseline = (np.array(last[key]) for key in ("price", "load_kw", "baseline_load_kw"))
        hours = scenario.slot_hours
        homes = {
            home.id: HomeOutcome(**run_record.homes[home.id], **_list_baseline(scenario, home))
            for home in scenario.everyone
            if home.id in run_record.homes
        }
        saved = sum(
            float(bill_by_slot(home, price, np.array(homes[home.id].load_kw)).sum())
            - hours * float(price @ homes[home.id].load_kw)
            for home in scenario.everyone
            if home.id in homes and home.feed_in_price is not None
        )
        utility = last["leader_utility"] + scenario.leader.revenue_weight * saved
        company = scenario.leader.company(scenario.slots)
        return cls(
            price=price.tolist(),
            load_kw=load.tolist(),
            baseline_load_kw=baseline.tolist(),
            peak_kw=float(load.max()),
            par=compute_par(load),
            baseline_peak_kw=float(baseline.max()),
            baseline_par=compute_par(baseline),
            leader_utility=utility,
            baseline_leader_utility=_compute_leader_before(scenario, baseline, homes, last.get("balance_load_kw")),
            system_utility=utility
            + (1 - scenario.leader.revenue_weight) * (hours * company.earn(price, load) + saved)
            + sum(home.utility for home in homes.values()),
            revenue=hours * float(price @ load) + saved,
            deviation=float(np.sum((load - load.mean()) ** 2)),
            capped_slots=last.get("capped_slots", []),
            homes=homes,
            **{key: last[key] for key in _FINDINGS if key in last},
        )

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        lengths = {"load_kw": len(self.load_kw), "baseline_load_kw": len(self.baseline_load_kw)}
        for name, home in self.homes.items():
            lengths[f"homes.{name}.load_kw"] = len(home.load_kw)
            if home.storage_kwh is not None:
                lengths[f"homes.{name}.storage_kwh"] = len(home.storage_kwh)
        for key, length in lengths.items():
            if length != len(self.price):
                raise ValueError(f"{key} has {length} numbers, price has {len(self.price)}")
        return self
