"""The outcome of the prosumer game: demand response, prices, profits and the utility's saving, slot by slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.games.prosumer.home import compute_cost
from stackelgrid.model import Finite
from stackelgrid.run_record import Outcome, RunRecord

if TYPE_CHECKING:
    from stackelgrid.games.prosumer.scenario import ProsumerScenario

BySlot = Annotated[list[Finite], Field(min_length=1)]
"""A number per slot, (T,)."""


class ProsumerOutcome(Outcome):
    """`outcome` of a prosumer game in result.json. Arrays are (T,): kW, money per kWh, money in a slot.

    - `dr_kw`: DR quantity by prosumer.
    - `pv_price`: lambda_PV [PR-13] by prosumer, what its provider pays it; 0 without trade.
    - `dr_price`: lambda_DR [PR-17] by prosumer, what the utility pays its provider; 0 without trade.
    - `provider_profit`: [PR-15], of all providers together; `providers` of each.
    - `utility_saving`: [PR-20]; `utility_saving_dr_only` the part of it that is not due to PV.
    - `system_load_kw`: P [PR-18]; `net_load_kw`: Q [PR-19].
    - `others`: S by prosumer, 1/kW.
    - `cost`: [PR-5] less [PR-6] by prosumer.
    - `trade`: whether any prosumer provides anything.

    Of the first B slots, those that bind, where somebody planned by a forecast [PR-IMB], (B,):

    - `metered_homes_kw`, `metered_dr_kw`: by prosumer, what its meter counted, load less PV output and DR, and its DR.
    - `metered_cost`: by prosumer, [PR-5] less [PR-6] for that; `metered_profit`: [PR-15] of all providers for it.
    - `metered_kw`: Q that came; `net_load_kw` is what was settled. `metered_saving`: [PR-20] with P that came.
    - `imbalance_kwh`: metered less settled of Q; `imbalance_price`: what the utility pays for it, or is paid
      where it is below zero; `supply_cost`: operating cost as settled and imbalance, all these slots together.
    """

    dr_kw: dict[str, BySlot]
    pv_price: dict[str, BySlot]
    dr_price: dict[str, BySlot]
    provider_profit: BySlot
    providers: dict[str, BySlot]
    utility_saving: BySlot
    utility_saving_dr_only: BySlot
    system_load_kw: BySlot
    net_load_kw: BySlot
    others: dict[str, BySlot]
    cost: dict[str, BySlot]
    trade: bool
    metered_homes_kw: dict[str, BySlot] | None = None
    metered_dr_kw: dict[str, BySlot] | None = None
    metered_cost: dict[str, BySlot] | None = None
    metered_profit: BySlot | None = None
    metered_kw: BySlot | None = None
    metered_saving: BySlot | None = None
    imbalance_kwh: BySlot | None = None
    imbalance_price: BySlot | None = None
    supply_cost: Finite | None = None

    def meter(self, foreseen: ProsumerScenario, came: ProsumerScenario, binding: int) -> Self:
        """Give the same with what the meters count in the slots that bind, when all is as it `came` [PR-IMB]."""
        bound, hours, leader = slice(binding), came.slot_hours, came.leader
        counted: dict[str, dict[str, list[float]]] = {"metered_homes_kw": {}, "metered_dr_kw": {}, "metered_cost": {}}
        profit, more_local = np.zeros(binding), np.zeros(binding)  # more PV output and DR than was settled
        for before, after in zip(foreseen.everyone, came.everyone, strict=True):
            name = after.id
            if name not in self.dr_kw:
                continue
            done = before.meter({"dr_kw": self.dr_kw[name]}, after)
            load, dr = (np.array(done[key][bound]) for key in ("load_kw", "dr_kw"))
            price, others = np.array(self.pv_price[name][bound]), np.array(self.others[name][bound])
            cost = hours * compute_cost(dr, price, others, np.array(after.alpha), -load - dr)
            counted["metered_homes_kw"][name], counted["metered_dr_kw"][name] = load.tolist(), dr.tolist()
            counted["metered_cost"][name] = cost.tolist()
            more_local += np.subtract(after.pv_kw, before.pv_kw)[bound] + (dr - self.dr_kw[name][bound])
            if name in self.dr_price:  # a provider that was lost after the settlement has left none
                profit += hours * (self.dr_price[name][bound] - price) * -load
        system, settled = np.array(leader.system_load_kw[bound]), np.array(self.net_load_kw[bound])
        in_event = leader.mark_event(came.session)[bound]
        unforeseen = system - self.system_load_kw[bound] - np.where(in_event, more_local, 0.0)
        price = leader.cost.of_one_more(settled + unforeseen)
        if leader.imbalance_price is not None:
            price = np.broadcast_to(leader.imbalance_price, len(self.net_load_kw))[bound]
        saving = hours * (leader.cost.evaluate(system) - leader.cost.evaluate(settled + unforeseen))
        return self.model_copy(
            update={
                **counted,
                "metered_profit": profit.tolist(),
                "metered_kw": (settled + unforeseen).tolist(),
                "metered_saving": saving.tolist(),
                "imbalance_kwh": (hours * unforeseen).tolist(),
                "imbalance_price": price.tolist(),
                "supply_cost": hours * float(leader.cost.evaluate(settled).sum() + price @ unforeseen),
            }
        )

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        slots = len(self.system_load_kw)
        for key, value in self:
            if key.startswith(("metered_", "imbalance_")):  # of the slots that bind
                continue
            arrays = value.items() if isinstance(value, dict) else [("", value)] if isinstance(value, list) else []
            for name, array in arrays:
                if len(array) != slots:
                    where = f"{key}.{name}" if name else key
                    raise ValueError(f"{where} has {len(array)} numbers, system_load_kw has {slots}")
        return self

    @classmethod
    def of(cls, scenario: ProsumerScenario, run_record: RunRecord) -> Self:
        """Build it from the last round, the settlement of each aggregator and the accounts of the homes."""
        last = run_record.rounds[-1]
        accounts = {home.id: run_record.homes[home.id] for home in scenario.everyone if home.id in run_record.homes}
        dr_price = {
            home.id: price
            for name, processes in scenario.households().items()
            if name in run_record.aggregators
            for home, price in zip(
                [home for process in processes for home in process],
                run_record.aggregators[name]["dr_price"],
                strict=True,
            )
            if home.id in accounts
        }
        profits = {name: account["profit"] for name, account in run_record.aggregators.items()}
        local = np.where(scenario.leader.mark_event(scenario.session), np.add(last["pv_kw"], last["dr_kw"]), 0.0)

        def collect(key: str) -> dict[str, list[float]]:
            return {name: account[key] for name, account in accounts.items()}

        return cls(
            dr_kw=collect("dr_kw"),
            pv_price=collect("pv_price"),
            dr_price=dr_price,
            provider_profit=np.sum([np.zeros(scenario.slots), *profits.values()], axis=0).tolist(),
            providers=profits,
            utility_saving=last["utility_saving"],
            utility_saving_dr_only=last["utility_saving_dr_only"],
            system_load_kw=scenario.leader.system_load_kw,
            net_load_kw=(np.array(scenario.leader.system_load_kw) - local).tolist(),
            others=collect("others"),
            cost=collect("cost"),
            trade=any(max(account["dr_kw"]) > 0 for account in accounts.values()),
        )

    def sum_dr_kw(self) -> list[float]:
        """Sum up the DR quantities of all prosumers, (T,) kW."""
        return [sum(provided) for provided in zip(*self.dr_kw.values(), strict=True)]
