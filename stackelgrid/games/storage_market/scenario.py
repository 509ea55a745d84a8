"""The scenario file of a storage market."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stackelgrid.calendar import Session
from stackelgrid.forecast import Forecast, ForecastRules, seed_noise
from stackelgrid.games.storage_market.aggregator import DraCosts, QuadraticCost, WearCost
from stackelgrid.games.storage_market.home import MarketHome
from stackelgrid.games.storage_market.leader import UtilitySettings
from stackelgrid.games.storage_market.population import Day, Population, Share
from stackelgrid.model import StrictModel
from stackelgrid.scenarios import ForeseenScenario
from stackelgrid.wire.arrays import Array

_KW_PER_MW = 1000.0


class Dra(StrictModel):
    """A DRA: `homes` is how many homes of the scenario, in their order, are its; `quadratic` and `wear` are its costs.

    A DRA is a demand response aggregator.
    """

    homes: Annotated[int, Field(ge=1, le=100_000)]
    quadratic: QuadraticCost
    wear: WearCost = 0.0


class Periods(StrictModel):
    """The periods of the day, by the demand expected as a part of its peak.

    A slot is in the valley below `valley_below`, in the peak from `peak_from` on, off-peak between.
    """

    valley_below: Share = 0.7
    peak_from: Share = 0.95

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.valley_below > self.peak_from:
            raise ValueError(f"valley_below {self.valley_below:g} is above peak_from {self.peak_from:g}; swap them")
        return self

    def mark(self, expected: Array, peak_mw: float) -> dict[str, NDArray[np.bool_]]:
        """Mark the slots of each period, (T,)."""
        part = expected / peak_mw
        valley, peak = part < self.valley_below, part >= self.peak_from
        return {"valley": valley, "off_peak": ~valley & ~peak, "peak": peak}


class DemandForecast(ForecastRules):
    """The rule by which the utility foresees the `load`, the demand before anybody reschedules. A list has kW."""

    without: ClassVar[Mapping[str, str]] = {
        "pv": "no home has PV here",
        "temperature": "nothing depends on the weather",
        "price": "the price is made in the market, of the load",
    }

    load: Forecast = "perfect"

    @property
    def of_homes(self) -> None:
        """None: homes know their appliances and batteries, and have no list per slot."""
        return None


class StorageMarketScenario(ForeseenScenario[Population, MarketHome]):
    """A storage market, ready to run: homes drawn from a `population` or listed as `homes`, and their `dras`.

    By `forecast` the utility foresees the demand expected.
    """

    horizons: ClassVar[bool] = True
    rules: ClassVar[type[DemandForecast]] = DemandForecast

    game: Literal["storage_market"]
    money: str = "dollars"
    leader: UtilitySettings
    dras: Annotated[list[Dra], Field(min_length=1)]
    periods: Periods = Periods()
    forecast: Annotated[DemandForecast | None, Field(exclude_if=lambda forecast: forecast is None)] = None

    @classmethod
    def prepare(cls, raw: dict[str, Any], folder: Path) -> None:
        """Make as many aggregators as there are DRAs."""
        super().prepare(raw, folder)
        if isinstance(raw.get("dras"), list):
            raw.setdefault("aggregators", len(raw["dras"]))

    @model_validator(mode="after")
    def _check_aggregators(self) -> Self:
        if self.aggregators != len(self.dras):
            raise ValueError(f"aggregators is {self.aggregators}, there are {len(self.dras)} dras; leave it out")
        return self

    def draw(self, population: Population) -> list[MarketHome]:
        """Draw homes whose appliances are part of the demand expected."""
        return population.draw(self.seed, self.leader.expected, Day.of(self.run))

    def verify(self) -> None:
        """Require, besides what all games do, a DRA for every home and appliances within the demand expected."""
        super().verify()
        try:
            if all(home.part is None for home in self.everyone):  # a session of a run may be without the run's peak
                self.leader.check_peak()
            checked = 0
            for session in self.sessions:
                if session.first >= checked:  # the others look at the same slots again
                    self.leader.in_session(session).check_ramps(session)
                    checked = session.first + session.slots
        except ValueError as error:
            raise ValueError(f"leader.{error}") from None
        usual = sum((home.usual_load() for home in self.everyone), np.zeros(self.slots)) / _KW_PER_MW
        self._check_usual(usual, self.leader.expected, 0, "raise it or have less to schedule")
        for session in self.sessions if self.has_forecasts else ():
            self._verify_foreseen(session, usual[session.window])

    def _verify_foreseen(self, session: Session, usual: Array) -> None:
        """Raise `ValueError` where what is foreseen for a session could not be served, or is less than usual."""
        foreseen = self.leader_settings().foresee(session).in_session(session)
        whose = f"session {session.number} foresees that, so choose a forecast that is nearer"
        try:
            foreseen.check_ramps(session)
        except ValueError as error:
            raise ValueError(f"leader.{error}, or else {whose}") from None
        self._check_usual(usual, foreseen.expected, session.first, whose)

    def _check_usual(self, usual: Array, expected: Array, first: int, mend: str) -> None:
        """Raise `ValueError` where appliances usually draw more than all demand expected, (T,) MW from a slot on."""
        above = usual - expected
        if above.max() > 1e-9 * self.leader.peak_mw:
            slot = int(above.argmax())
            raise ValueError(
                f"leader.peak_mw: in slot {first + slot + 1} appliances usually draw {usual[slot]:g} MW, demand "
                f"expected is {expected[slot]:g} MW with them; {mend}"
            )

    def leader_settings(self) -> UtilitySettings:
        """Give the leader its forecast."""
        if self.forecast is None:
            return self.leader
        rule = seed_noise(self.forecast.load, self.seed, "leader/load")
        return self.leader.model_copy(update={"forecast": rule})

    def _require_aggregators(self) -> None:
        """Raise `ValueError` unless the DRAs share all homes, and no home says otherwise."""
        shared = sum(dra.homes for dra in self.dras)
        if shared != len(self.everyone):
            raise ValueError(
                f"dras: their homes are {shared} together, the scenario has {len(self.everyone)}; make them equal"
            )
        for number, home in enumerate(self.everyone):
            if home.aggregator is not None:
                raise ValueError(f"homes.{number}.aggregator: dras say whose homes these are; leave it out")

    def households(self) -> dict[str, list[list[MarketHome]]]:
        """Share the homes, in their order, by DRA and process."""
        share, start = {}, 0
        for number, dra in enumerate(self.dras, start=1):
            mine = self.everyone[start : start + dra.homes]
            start += dra.homes
            size = self.homes_per_process
            share[f"a{number}"] = [mine[first : first + size] for first in range(0, len(mine), size)]
        return share

    def connection_kw(self, home: MarketHome) -> float:
        """Give the power of all its appliances and its battery at once."""
        return home.connection_kw

    def aggregator_settings(self, name: str, members: dict[str, list[MarketHome]]) -> DraCosts:
        """Give a DRA's own costs."""
        dra = self.dras[int(name.removeprefix("a")) - 1]
        return DraCosts(quadratic=dra.quadratic, wear=dra.wear)
