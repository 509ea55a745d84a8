"""A scenario of the prosumer game."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.calendar import Session, cut
from stackelgrid.forecast import seed_noise
from stackelgrid.games.prosumer.aggregator import Conjecture, ProsumerSettings, SettlingSettings
from stackelgrid.games.prosumer.home import Prosumer, ProsumerForecast
from stackelgrid.games.prosumer.leader import UtilitySettings
from stackelgrid.model import NonNegative, NumberPerSlot, Positive, StrictModel
from stackelgrid.scenarios import Between, ForeseenScenario
from stackelgrid.wire.arrays import Array
from stackelgrid.wire.names import Name

Bus = Annotated[int, Field(ge=1)]
Shape = Annotated[NumberPerSlot, Field(min_length=1)]


class Kind(StrictModel):
    """The bounds of draws of prosumers of one tariff class; `pv_share` is PV capacity over peak load."""

    peak_kw: Between
    pv_share: Between
    pv_cost: Between
    alpha: Between
    cap_share: Between = (0.1, 0.1)

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        for key, upper in (("alpha", self.alpha[1]), ("cap_share", self.cap_share[1])):
            if upper > 1:
                raise ValueError(f"{key} goes up to {upper:g}; it is at most 1")
        return self


class ProsumerPopulation(StrictModel):
    """Prosumers drawn at random, each from its own stream: number 7 of 60 is number 7 of 500.

    `kinds` are taken in turn; a kind's name is its tariff class. `load_shape` is the load over its peak and `pv_shape`
    the output over the capacity, one number per slot.
    """

    homes: Annotated[int, Field(ge=1, le=100_000)]
    load_shape: Shape
    pv_shape: Shape
    kinds: Annotated[dict[Name, Kind], Field(min_length=1)]

    def draw(self, seed: int) -> list[Prosumer]:
        """Draw the prosumers."""
        width = len(str(self.homes))
        return [
            self._draw_one(f"h{number + 1:0{width}d}", number, np.random.default_rng([seed, number]))
            for number in range(self.homes)
        ]

    def _draw_one(self, name: str, number: int, random: np.random.Generator) -> Prosumer:
        tariff = list(self.kinds)[number % len(self.kinds)]
        kind = self.kinds[tariff]
        peak = random.uniform(*kind.peak_kw)
        return Prosumer(
            id=name,
            tariff=tariff,
            load_kw=(peak * np.array(self.load_shape)).tolist(),
            pv_kw=(peak * random.uniform(*kind.pv_share) * np.array(self.pv_shape)).tolist(),
            pv_cost=random.uniform(*kind.pv_cost),
            alpha=random.uniform(*kind.alpha),
            cap_share=random.uniform(*kind.cap_share),
        )


class Line(StrictModel):
    """A line between two buses, ohm."""

    start: Bus
    end: Bus
    r_ohm: NonNegative
    x_ohm: NonNegative


class Feeder(StrictModel):
    """The utility's radial feeder, for a power flow on the desk; no node receives it.

    Bus 1 is the substation, at 1 per unit. Without the event a bus draws `load_kw` and `load_kvar` times `load_shape`.
    """

    kv: Positive
    load_shape: Shape
    load_kw: Annotated[dict[Bus, NonNegative], Field(min_length=1)]
    load_kvar: dict[Bus, NonNegative]
    lines: list[Line]

    def find_unconnected(self) -> list[int]:
        """List the buses with a load, or at a line, that no lines connect to the substation."""
        ends = [{line.start, line.end} for line in self.lines]
        connected, grown = {1}, True
        while grown:
            reached = set().union(*(both for both in ends if both & connected))
            grown = not reached <= connected
            connected |= reached
        return sorted({*self.load_kw, *self.load_kvar}.union(*ends) - connected)

    def sum_load(self) -> Array:
        """Sum up the loads without the event, (T,) kW."""
        return sum(self.load_kw.values()) * np.array(self.load_shape)


class ProsumerScenario(ForeseenScenario[ProsumerPopulation, Prosumer]):
    """A prosumer game, ready to run: a utility, its DR providers (`aggregators`) and the prosumers of each.

    Either `population` or `homes` gives the prosumers; `aggregator` holds for every provider. `prosumers` take their
    price as given [PR-A], or anticipate how it falls with their own dr [PR-C]. By `forecast` they foresee their load
    and PV output, and the utility the load of its feeder.
    """

    # Two or three rounds of the simultaneous game are usual, eight the most seen of 500 populations.
    inner_rounds: ClassVar[int] = 8
    rules: ClassVar[type[ProsumerForecast]] = ProsumerForecast

    game: Literal["prosumer"]
    leader: UtilitySettings
    aggregator: SettlingSettings = SettlingSettings()
    prosumers: Conjecture = "price_taking"
    feeder: Feeder | None = None
    forecast: Annotated[ProsumerForecast | None, Field(exclude_if=lambda forecast: forecast is None)] = None

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        if self.population is not None:
            for key in ("load_shape", "pv_shape"):
                there = len(getattr(self.population, key))
                if there != self.slots:
                    raise ValueError(f"population.{key} has {there} numbers, slots is {self.slots}; give one per slot")
        return self

    def in_session(self, session: Session, states: Mapping[str, Mapping[str, Any]] | None = None) -> Self:
        """Give a session of the run as a scenario of its own, with the feeder's load of its slots."""
        alone = super().in_session(session, states)
        if alone is self or self.feeder is None:
            return alone
        return alone.model_copy(update={"feeder": cut(self.feeder, session)})

    def draw(self, population: ProsumerPopulation) -> list[Prosumer]:
        """Draw the prosumers of a population."""
        return population.draw(self.seed)

    def verify(self) -> None:
        """Raise `ValueError`, besides for what all games refuse, when horizons, tariffs or loads do not fit."""
        super().verify()
        first = self.sessions[0]
        try:
            self.leader.in_session(first).mark_event(first)
        except ValueError as error:
            raise ValueError(f"leader.{error}") from None
        for number, home in enumerate(self.everyone):
            if home.tariff not in self.leader.tariffs:
                known = ", ".join(self.leader.tariffs)
                raise ValueError(f"homes.{number}.tariff: {home.tariff!r} is none of leader.tariffs, which has {known}")
        _check_within(
            np.sum([home.load_kw for home in self.everyone], axis=0),
            np.array(self.leader.system_load_kw),
            "the prosumers draw {:g} kW in slot {}, leader.system_load_kw there is {:g}; it includes them, so raise it",
        )
        if self.feeder is not None:
            self._verify_feeder(self.feeder)

    def _verify_feeder(self, feeder: Feeder) -> None:
        if len(feeder.load_shape) != self.slots:
            raise ValueError(f"feeder.load_shape has {len(feeder.load_shape)} numbers, slots is {self.slots}")
        if not np.allclose(feeder.sum_load(), self.leader.system_load_kw, rtol=1e-6, atol=0):
            raise ValueError(
                "leader.system_load_kw is not the sum of feeder.load_kw times feeder.load_shape; make it so"
            )
        if unconnected := feeder.find_unconnected():
            more = f", nor are {len(unconnected) - 1} more" if len(unconnected) > 1 else ""
            raise ValueError(
                f"feeder.lines: bus {unconnected[0]} is not connected to the substation, bus 1{more}; add or mend the "
                "line that leads there"
            )
        at_bus: dict[int, Array] = {}
        for number, home in enumerate(self.everyone):
            if home.bus is not None and home.bus not in feeder.load_kw:
                raise ValueError(f"homes.{number}.bus: {home.bus} is no bus of feeder.load_kw")
            if home.bus is not None:
                at_bus[home.bus] = at_bus.get(home.bus, np.zeros(self.slots)) + home.load_kw
        for bus, load in at_bus.items():
            _check_within(
                load,
                feeder.load_kw[bus] * np.array(feeder.load_shape),
                f"the prosumers at bus {bus} draw {{:g}} kW in slot {{}}, feeder.load_kw.{bus} gives {{:g}}; raise it",
            )

    def connection_kw(self, home: Prosumer) -> float:
        """Give the most it may draw or feed in."""
        return home.connection_kw

    def leader_settings(self) -> UtilitySettings:
        """Give the utility its forecast of the feeder's load: the rule for loads, unless that is a prosumer's list."""
        if self.forecast is None or isinstance(self.forecast.load, list):
            return self.leader
        rule = seed_noise(self.forecast.load, self.seed, "leader/load")
        return self.leader.model_copy(update={"forecast": rule})

    def aggregator_settings(self, name: str, members: dict[str, list[Prosumer]]) -> ProsumerSettings:
        """Give every provider the same settings."""
        return ProsumerSettings(**self.aggregator.model_dump(), prosumers=self.prosumers)


def _check_within(load: Array, limit: Array, message: str) -> None:
    """Raise `ValueError` with the first slot in which `load` is above `limit` by more than rounding."""
    above = np.flatnonzero(load > limit * (1 + 1e-9))
    if len(above):
        raise ValueError(message.format(load[above[0]], above[0] + 1, limit[above[0]]))
