"""The outcome of a storage market run: prices, dispatch, bids and costs, with each home's day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.games.storage_market.scenario import StorageMarketScenario
from stackelgrid.model import Finite, StrictModel
from stackelgrid.run_record import Outcome, RunRecord
from stackelgrid.wire.arrays import Array

BySlot = Annotated[list[Finite], Field(min_length=1)]
"""One number per slot, (T,)."""
ByDra = dict[str, BySlot]


class ByPeriod(StrictModel):
    """Sums over the slots of each period of the day; see `scenario.Periods`."""

    valley: Finite
    off_peak: Finite
    peak: Finite

    @property
    def total(self) -> float:
        """The sum over the day."""
        return self.valley + self.off_peak + self.peak


class FleetOutcome(StrictModel):
    """The batteries of a DRA as one: `installed`, `usable` and `initial` MWh, `power` MW, `efficiency` each way."""

    installed: Finite
    usable: Finite
    initial: Finite
    power: Finite
    efficiency: Finite


class HomeOutcome(StrictModel):
    """A home's settled day.

    `load_kw` is what its appliances draw together, `appliances_kwh` (A, T) the energy of each of them in the scenario's
    order, `bill` what it costs, dollars. A home with a battery has `charge_kw` and `sold_kw`, at the meter,
    `battery_kwh` stored at the end of each slot and `spilt_kwh` charged into a full battery and lost.
    """

    load_kw: BySlot
    appliances_kwh: list[BySlot]
    bill: Finite
    charge_kw: BySlot | None = None
    sold_kw: BySlot | None = None
    battery_kwh: BySlot | None = None
    spilt_kwh: BySlot | None = None


class StorageMarketOutcome(Outcome):
    """The state that a run settled. Powers MW, energies MWh, money dollars, prices $/MWh; arrays by slot are (T,).

    `..._without` is the state without the market, when homes had rescheduled and no DRA had bid yet; `baseline_...`
    that before anybody rescheduled.

    - `price`: paid for all that is drawn; `clearing_price`: what is paid for sales, the price or its
      cap; `price_without`; `price_cap`: the cap, and never more than the marginal price of the same load without
      batteries [SM-8].
    - `dispatch_mw`: output by generator; `short_mw`: load not served; `spilt_mw`: generation not taken.
    - `load_mw`: demand before batteries; `demand_mw`: with what they charge; `net_demand_mw`: what generators serve.
    - `sold_mw`, `charge_mw`: the bid by DRA; `sales_cap_mw`: the most that each may sell; `supply_slope`: k, price over
      marginal cost; `slope`: by how much the price falls in a slot when a MW more is sold in it, $/MWh per MW.
    - `fleet`: the batteries of each DRA; `level_mwh`: what they store at the end of each slot; `losses_mwh`: charged
      less sold less stored; `payoff`: sales less charging and own costs.
    - `purchases`: what all sales cost the leader, `net_purchases`: with what DRAs pay for charging taken off.
    - `theta`, `groups`, `inertia`: the share open to sales and the turns of runs, as the run ended.
    - `supply_cost`: of the generators and of lost load; `total_cost`: with net purchases.
    - `par`, `peak_mw`: peak over mean, and peak, of the net demand.
    - `energy_by_period`, `cost_by_period`: net demand and supply cost of the periods of the day.
    - `homes`: the settled day of each home.

    Where demand was foreseen, of the slots that bind, (B,) [SM-IMB]:

    - `metered_mw`: the net demand that came; `net_demand_mw` is what was settled.
    - `imbalance_mwh`: metered less settled, MWh; `imbalance_price`: what the leader pays for it, or is paid
      where it is below zero.
    - `metered_supply_cost`: of the generators as they were dispatched, of lost load, and of the imbalance.
    """

    price: BySlot
    price_without: BySlot
    price_cap: BySlot
    clearing_price: BySlot
    dispatch_mw: dict[str, BySlot]
    short_mw: BySlot
    spilt_mw: BySlot
    demand_mw: BySlot
    load_mw: BySlot
    load_without_mw: BySlot
    baseline_load_mw: BySlot
    net_demand_mw: BySlot
    sold_mw: ByDra
    charge_mw: ByDra
    supply_slope: ByDra
    slope: BySlot
    sales_cap_mw: ByDra
    fleet: dict[str, FleetOutcome]
    level_mwh: ByDra
    losses_mwh: dict[str, Finite]
    payoff: dict[str, Finite]
    purchases: Finite
    net_purchases: Finite
    theta: Finite
    groups: int
    inertia: Finite
    supply_cost: Finite
    supply_cost_without: Finite
    baseline_supply_cost: Finite
    total_cost: Finite
    par: Finite
    par_without: Finite
    baseline_par: Finite
    peak_mw: Finite
    peak_without_mw: Finite
    baseline_peak_mw: Finite
    energy_by_period: ByPeriod
    energy_by_period_without: ByPeriod
    baseline_energy_by_period: ByPeriod
    cost_by_period: ByPeriod
    cost_by_period_without: ByPeriod
    baseline_cost_by_period: ByPeriod
    homes: dict[str, HomeOutcome]
    metered_mw: BySlot | None = None
    imbalance_mwh: BySlot | None = None
    imbalance_price: BySlot | None = None
    metered_supply_cost: Finite | None = None

    def meter(self, foreseen: StorageMarketScenario, came: StorageMarketScenario, binding: int) -> Self:
        """Give the same with what was drawn in the slots that bind, when demand is as it `came` [SM-IMB].

        Homes, DRAs and generators carry out what they settled.
        """
        hours, leader = came.slot_hours, came.leader
        unforeseen = (leader.expected - foreseen.leader.expected)[:binding]
        if leader.imbalance_price is None:
            came_mw = np.array(self.net_demand_mw)
            came_mw[:binding] += unforeseen
            price = foreseen.leader.economic_dispatch(hours).solve(came_mw).price[:binding]
        else:
            price = np.full(binding, leader.imbalance_price)
        running = sum(unit.cost_of(np.array(self.dispatch_mw[unit.id]))[:binding].sum() for unit in leader.generators)
        lost = leader.lost_load_price * sum(self.short_mw[:binding])
        return self.model_copy(
            update={
                "metered_mw": (self.net_demand_mw[:binding] + unforeseen).tolist(),
                "imbalance_mwh": (hours * unforeseen).tolist(),
                "imbalance_price": price.tolist(),
                "metered_supply_cost": hours * float(running + lost + price @ unforeseen),
            }
        )

    @classmethod
    def of(cls, scenario: StorageMarketScenario, run_record: RunRecord) -> Self:
        """Build it from a run in which at least one round was finished."""
        first, last = run_record.rounds[0], run_record.rounds[-1]
        without = list(takewhile(lambda record: record["phase"] == "schedule", run_record.rounds))[-1]
        accounts = run_record.aggregators
        price, demand, net = (np.array(last[key]) for key in ("price", "demand_mw", "net_demand_mw"))
        sold, charge = ({name: np.array(bid) for name, bid in last[key].items()} for key in ("sold_mw", "charge_mw"))
        cap = np.inf if scenario.leader.price_cap is None else scenario.leader.price_cap
        paid = np.minimum(price, cap)
        hours = scenario.slot_hours
        purchases = hours * sum((paid @ bid for bid in sold.values()), 0.0)
        paid_for_charging = hours * sum((price @ bid for bid in charge.values()), 0.0)
        by_period = partial(sum_by_period, scenario)
        return cls(
            price=last["price"],
            price_without=without["price"],
            price_cap=np.minimum(scenario.leader.economic_dispatch(hours).solve(demand).price, cap).tolist(),
            clearing_price=paid.tolist(),
            dispatch_mw=last["dispatch_mw"],
            short_mw=last["short_mw"],
            spilt_mw=last["spilt_mw"],
            demand_mw=(demand + sum(charge.values(), np.zeros(scenario.slots))).tolist(),
            load_mw=last["demand_mw"],
            load_without_mw=without["demand_mw"],
            baseline_load_mw=first["demand_mw"],
            net_demand_mw=last["net_demand_mw"],
            sold_mw=last["sold_mw"],
            charge_mw=last["charge_mw"],
            supply_slope=last["supply_slope"],
            slope=last["slope"],
            sales_cap_mw={name: _sales_cap(last["sales_cap"], accounts.get(name)) for name in sold},
            fleet={name: account["fleet"] for name, account in accounts.items()},
            level_mwh={name: account["level_mwh"] for name, account in accounts.items()},
            losses_mwh={name: _losses(account, hours) for name, account in accounts.items()},
            payoff={
                name: hours * (float(paid @ sold[name] - price @ charge[name]) - own_cost(scenario, name, sold[name]))
                for name in sold
            },
            purchases=float(purchases),
            net_purchases=float(purchases - paid_for_charging),
            theta=last["theta"],
            groups=last["groups"],
            inertia=last["inertia"],
            supply_cost=last["supply_cost"],
            supply_cost_without=without["supply_cost"],
            baseline_supply_cost=first["supply_cost"],
            total_cost=last["total_cost"],
            par=_peak_to_average(net),
            par_without=_peak_to_average(np.array(without["net_demand_mw"])),
            baseline_par=_peak_to_average(np.array(first["net_demand_mw"])),
            peak_mw=float(net.max()),
            peak_without_mw=max(without["net_demand_mw"]),
            baseline_peak_mw=max(first["net_demand_mw"]),
            energy_by_period=by_period(last["net_demand_mw"]),
            energy_by_period_without=by_period(without["net_demand_mw"]),
            baseline_energy_by_period=by_period(first["net_demand_mw"]),
            cost_by_period=by_period(last["hourly_cost"]),
            cost_by_period_without=by_period(without["hourly_cost"]),
            baseline_cost_by_period=by_period(first["hourly_cost"]),
            homes={
                home.id: HomeOutcome.model_validate(run_record.homes[home.id])
                for home in scenario.everyone
                if home.id in run_record.homes
            },
        )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for path, numbers in _list_arrays("", self):
            if len(numbers) != len(self.price) and path not in _OF_BINDING:
                raise ValueError(f"{path} has {len(numbers)} numbers, price has {len(self.price)}")
        return self


_OF_BINDING = ("metered_mw", "imbalance_mwh", "imbalance_price")
"""The arrays of the slots that bind."""


def _list_arrays(path: str, value: Any) -> Iterator[tuple[str, list[float]]]:
    """List every array in `value`, by the dotted path to it."""
    parts: Iterable[tuple[Any, Any]] = ()
    match value:
        case StrictModel():
            parts = value
        case dict():
            parts = value.items()
        case [float(), *_]:
            yield path, value
        case list():
            parts = enumerate(value)
    for key, part in parts:
        yield from _list_arrays(f"{path}.{key}" if path else str(key), part)


def _sales_cap(per_power: list[float], account: dict[str, Any] | None) -> list[float]:
    """Give the most that a DRA may sell, (T,) MW; nothing when it is not known how much power it has."""
    power = 0.0 if account is None else account["fleet"]["power"]
    return [cap * power for cap in per_power]


def _losses(account: dict[str, Any], hours: float) -> float:
    """Give what a DRA's batteries lost, MWh: charged less sold less what they store more than at the start."""
    stored = account["level_mwh"][-1] - account["fleet"]["initial"]
    return float(hours * sum(account["charge_mw"]) - hours * sum(account["sold_mw"]) - stored)


def own_cost(scenario: StorageMarketScenario, name: str, sold: Array) -> float:
    """Give what selling costs a DRA besides the energy, dollars over Δ."""
    costs = scenario.aggregator_settings(name, {})
    return float(costs.quadratic * sold @ sold + costs.wear * sold.sum())


def sum_by_period(scenario: StorageMarketScenario, rate: Sequence[float] | Array) -> ByPeriod:
    """Sum a quantity, given per hour as each slot is, over the slots of the valley, off-peak and of the peak."""
    periods, hours = scenario.periods.mark(scenario.leader.expected, scenario.leader.peak_mw), scenario.slot_hours
    return ByPeriod(**{period: hours * float(np.array(rate)[slots].sum()) for period, slots in periods.items()})


def _peak_to_average(load: Array) -> float:
    """Divide the peak by the mean; 0 where nothing is drawn."""
    mean = float(load.mean())
    return float(load.max()) / mean if mean > 0 else 0.0
