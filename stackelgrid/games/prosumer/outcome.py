"""The outcome of the prosumer game: demand response, prices, profits and the utility's saving, slot by slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from pydantic import Field, model_validator

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

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        slots = len(self.system_load_kw)
        for key, value in self:
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
