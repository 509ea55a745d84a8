"""A scenario of the storage market, and what comes out of it."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from stackelgrid.games.storage_market.aggregator import DraCosts
from stackelgrid.games.storage_market.home import Appliance, Battery, Interruptible, MarketHome, Uninterruptible
from stackelgrid.games.storage_market.leader import UtilitySettings
from stackelgrid.model import NonNegative, Positive, StrictModel
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios.scenario import PopulatedScenario
from stackelgrid.wire.arrays import Array

_MEGA = 1000.0
Hour = Annotated[int, Field(ge=1, le=1000)]
Shift = Annotated[int, Field(ge=0, le=1000)]
Share = Annotated[float, Field(gt=0, le=1)]


class Dra(StrictModel):
    """A DRA: how many of the scenario's `homes`, in their order, are its; its costs `quadratic` and `wear`."""

    homes: Annotated[int, Field(ge=1, le=100_000)]
    quadratic: Positive
    wear: NonNegative = 0.0


class Periods(StrictModel):
    """Hours are `valley` or `peak` where demand expected is below, or from, that part of its peak; else off-peak."""

    valley_below: Share = 0.7
    peak_from: Share = 0.95

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.valley_below > self.peak_from:
            raise ValueError(f"valley_below {self.valley_below:g} is above peak_from {self.peak_from:g}; swap them")
        return self

    def hours(self, expected: Array) -> dict[str, Array]:
        """The hours of each period as a mask, (T,)."""
        part = expected / expected.max()
        valley, peak = part < self.valley_below, part >= self.peak_from
        return {"valley": valley, "off_peak": ~valley & ~peak, "peak": peak}


class Kind(StrictModel):
    """A kind of appliance that every home has: its `share` of the energy that can be scheduled.

    It runs for `hours` at full rate, `interruptible` or in a row; before there was a price from the hour `preferred`
    on, now up to `earlier` hours sooner and `later` hours longer, within the horizon. All are bounds of uniform draws.
    """

    name: str
    share: Share
    interruptible: bool
    hours: tuple[Hour, Hour]
    preferred: tuple[Hour, Hour]
    earlier: tuple[Shift, Shift]
    later: tuple[Shift, Shift]

    def draw(self, energy: float, blocks_per_hour: int, slots: int, random: np.random.Generator) -> Appliance:
        """One of `energy` kWh."""
        hours, preferred, earlier, later = (
            int(random.integers(low, high + 1)) for low, high in (self.hours, self.preferred, self.earlier, self.later)
        )
        hours = min(hours, slots)
        preferred = min(preferred, slots - hours + 1)
        first, last = max(preferred - earlier, 1), min(preferred + hours - 1 + later, slots)
        window: dict[str, Any] = {"name": self.name, "first": first, "last": last, "preferred": preferred}
        if self.interruptible:
            blocks = hours * blocks_per_hour
            return Interruptible(blocks=blocks, block_kwh=energy / blocks, per_hour=blocks_per_hour, **window)
        return Uninterruptible(kind="uninterruptible", hours=hours, kw=energy / hours, **window)


class Population(StrictModel):
    """How homes are drawn: together their appliances need `flexible_share` of the day's expected energy.

    Each home is of a random `size`, has one appliance of each of the `kinds`, whose energy comes in `blocks_per_hour`,
    and a `battery`.
    """

    homes: Annotated[int, Field(ge=1, le=100_000)]
    flexible_share: Share
    size: tuple[Positive, Positive] = (0.8, 1.2)
    blocks_per_hour: Annotated[int, Field(ge=1, le=100)] = 2
    kinds: Annotated[list[Kind], Field(min_length=1)]
    battery: Battery | None = None

    @field_validator("kinds")
    @classmethod
    def _whole(cls, kinds: list[Kind]) -> list[Kind]:
        together = sum(kind.share for kind in kinds)
        if abs(together - 1) > 1e-9:
            raise ValueError(f"the shares of the kinds are {together:g} together; make them 1")
        return kinds

    def draw(self, seed: int, expected: Array) -> list[MarketHome]:
        """The homes; home n has the random stream [seed, n]. `expected` (T,) MW."""
        streams = [np.random.default_rng([seed, number]) for number in range(self.homes)]
        sizes = np.array([random.uniform(*self.size) for random in streams])
        energy = self.flexible_share * _MEGA * expected.sum() * sizes / sizes.sum()
        shares = np.array([kind.share for kind in self.kinds])
        shares /= sum(shares)  # 1 but for rounding
        width = len(str(self.homes))
        return [
            MarketHome(
                id=f"h{number + 1:0{width}d}",
                horizon=len(expected),
                appliances=[
                    kind.draw(float(share * energy[number]), self.blocks_per_hour, len(expected), random)
                    for kind, share in zip(self.kinds, shares, strict=True)
                ],
                battery=self.battery,
            )
            for number, random in enumerate(streams)
        ]


class StorageMarketScenario(PopulatedScenario[Population, MarketHome]):
    """A storage market, ready to run. Either `population` or `homes` says who lives there, `dras` whose they are."""

    horizons: ClassVar[bool] = True

    game: Literal["storage_market"]
    money: str = "dollars"
    leader: UtilitySettings
    dras: Annotated[list[Dra], Field(min_length=1)]
    periods: Periods = Periods()

    @classmethod
    def prepare(cls, raw: dict[str, Any], folder: Path) -> None:
        """As many aggregators as DRAs."""
        super().prepare(raw, folder)
        if isinstance(raw.get("dras"), list):
            raw.setdefault("aggregators", len(raw["dras"]))

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if self.aggregators != len(self.dras):
            raise ValueError(f"aggregators is {self.aggregators}, there are {len(self.dras)} dras; leave it out")
        return self

    def draw(self, population: Population) -> list[MarketHome]:
        """Homes whose appliances are part of the demand expected."""
        return population.draw(self.seed, self.leader.expected)

    def verify(self) -> None:
        """Besides what holds for all games: every home is a DRA's, and its appliances part of the demand expected."""
        super().verify()
        shared = sum(dra.homes for dra in self.dras)
        if shared != len(self.everyone):
            raise ValueError(
                f"dras: their homes are {shared} together, the scenario has {len(self.everyone)}; make them equal"
            )
        usual = sum((home.preferred_load() for home in self.everyone), np.zeros(self.slots)) / _MEGA
        above = usual - self.leader.expected
        if above.max() > 1e-9 * self.leader.peak_mw:
            hour = int(above.argmax())
            raise ValueError(
                f"leader.peak_mw: in hour {hour + 1} appliances usually draw {usual[hour]:g} MW, demand expected is "
                f"{self.leader.expected[hour]:g} MW with them; raise it or have less to schedule"
            )

    def households(self) -> dict[str, list[list[MarketHome]]]:
        """The homes by DRA, in their order, and process."""
        share, start = {}, 0
        for number, dra in enumerate(self.dras, start=1):
            mine = self.everyone[start : start + dra.homes]
            start += dra.homes
            size = self.homes_per_process
            share[f"a{number}"] = [mine[first : first + size] for first in range(0, len(mine), size)]
        return share

    def connection_kw(self, home: MarketHome) -> float:
        """The power of all its appliances at once."""
        return sum(appliance.most_kw for appliance in home.appliances)

    def aggregator_settings(self, name: str, members: dict[str, list[MarketHome]]) -> DraCosts:
        """A DRA's own costs."""
        dra = self.dras[int(name.removeprefix("a")) - 1]
        return DraCosts(quadratic=dra.quadratic, wear=dra.wear)

    def outcome(self, run_record: RunRecord) -> dict[str, Any]:
        """The storage market's outcome: MW, MWh, dollars, $/MWh; docs/games/storage_market.md says what each key is.

        `..._without` is the state without the market, when homes had rescheduled and no DRA had bid yet; `baseline_...`
        that before anybody did anything.
        """
        first, last = run_record.rounds[0], run_record.rounds[-1]
        without = list(takewhile(lambda record: record["phase"] == "schedule", run_record.rounds))[-1]
        price, demand, net = (np.array(last[key]) for key in ("price", "demand_mw", "net_demand_mw"))
        charge = {name: np.array(bid) for name, bid in last["charge_mw"].items()}
        sold = {name: np.array(bid) for name, bid in last["sold_mw"].items()}
        purchased = sum((price @ bid for bid in sold.values()), 0.0)
        charged = sum((price @ bid for bid in charge.values()), 0.0)
        return {
            "price": last["price"],
            "price_without": without["price"],
            "price_cap": self.leader.economic_dispatch().solve(demand).price.tolist(),
            "clearing_price": last["price"],
            "dispatch_mw": last["dispatch_mw"],
            "short_mw": last["short_mw"],
            "spilt_mw": last["spilt_mw"],
            "demand_mw": (demand + sum(charge.values(), np.zeros(self.slots))).tolist(),
            "load_mw": last["demand_mw"],
            "load_without_mw": without["demand_mw"],
            "baseline_load_mw": first["demand_mw"],
            "net_demand_mw": last["net_demand_mw"],
            "sold_mw": last["sold_mw"],
            "charge_mw": last["charge_mw"],
            "supply_slope": last["supply_slope"],
            "slope": last["slope"],
            "sales_cap_mw": {name: self._cap(last, run_record, name) for name in sold},
            "fleet": {name: account["fleet"] for name, account in run_record.aggregators.items()},
            "level_mwh": {name: account["level_mwh"] for name, account in run_record.aggregators.items()},
            "losses_mwh": {name: self._losses(account) for name, account in run_record.aggregators.items()},
            "payoff": {name: self._payoff(name, price, sold[name], charge[name]) for name in sold},
            "purchases": float(purchased),
            "net_purchases": float(purchased - charged),
            "theta": last["theta"],
            "groups": last["groups"],
            "inertia": last["inertia"],
            "supply_cost": last["supply_cost"],
            "supply_cost_without": without["supply_cost"],
            "baseline_supply_cost": first["supply_cost"],
            "total_cost": last["total_cost"],
            "par": _par(net),
            "par_without": _par(np.array(without["net_demand_mw"])),
            "baseline_par": _par(np.array(first["net_demand_mw"])),
            "peak_mw": float(net.max()),
            "peak_without_mw": max(without["net_demand_mw"]),
            "baseline_peak_mw": max(first["net_demand_mw"]),
            "energy_by_period": self._by_period(last["net_demand_mw"]),
            "energy_by_period_without": self._by_period(without["net_demand_mw"]),
            "baseline_energy_by_period": self._by_period(first["net_demand_mw"]),
            "cost_by_period": self._by_period(last["hourly_cost"]),
            "cost_by_period_without": self._by_period(without["hourly_cost"]),
            "baseline_cost_by_period": self._by_period(first["hourly_cost"]),
            "homes": {home.id: run_record.homes[home.id] for home in self.everyone if home.id in run_record.homes},
        }

    def certificate(self, outcome: dict[str, Any], samples: int) -> dict[str, Any]:
        """See `stackelgrid.games.storage_market.certificate.certificate`."""
        from stackelgrid.games.storage_market.certificate import certificate

        homes = {name: [home for process in shared for home in process] for name, shared in self.households().items()}
        costs = {name: self.aggregator_settings(name, {}) for name in homes}
        return certificate(homes, costs, self.leader, outcome, seed=self.seed, samples=samples)

    def _cap(self, record: dict[str, Any], run_record: RunRecord, name: str) -> list[float]:
        """What a DRA might sell, (T,) MW; nothing when it never told how much power it has."""
        power = run_record.aggregators.get(name, {}).get("fleet", {}).get("power", 0.0)
        return [cap * power for cap in record["sales_cap"]]

    @staticmethod
    def _losses(account: dict[str, Any]) -> float:
        """What a DRA's batteries lost, MWh: charged less sold less what is stored more than at the start."""
        stored = account["level_mwh"][-1] - account["fleet"]["initial"]
        return float(sum(account["charge_mw"]) - sum(account["sold_mw"]) - stored)

    def _payoff(self, name: str, price: Array, sold: Array, charge: Array) -> float:
        """What a DRA earns, dollars: sales less charging less its own costs."""
        costs = self.aggregator_settings(name, {})
        return float(price @ (sold - charge) - costs.quadratic * sold @ sold - costs.wear * sold.sum())

    def _by_period(self, hourly: list[float]) -> dict[str, float]:
        """Sums over the valley, off-peak and peak hours."""
        periods = self.periods.hours(self.leader.expected)
        return {period: float(np.array(hourly)[hours].sum()) for period, hours in periods.items()}


def _par(load: Array) -> float:
    """Peak over mean; 0 where nothing is drawn."""
    mean = float(load.mean())
    return float(load.max()) / mean if mean > 0 else 0.0
