"""A scenario of the load call game."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from stackelgrid.calendar import MOST_SLOTS_OF_RUN, Session
from stackelgrid.games.load_call.aggregator import AggregatorTerms, History, LoadCallSettings
from stackelgrid.games.load_call.home import Consumer, LoadForecast
from stackelgrid.games.load_call.leader import UtilitySettings
from stackelgrid.model import Positive, StrictModel
from stackelgrid.scenarios import Between, ForeseenScenario
from stackelgrid.wire.arrays import Array


class LargeConsumer(StrictModel):
    """A consumer of another size, as the paper has one: its baseline, kWh, and its alpha, money per kWh^2."""

    baseline_kwh: Positive
    alpha: Positive


class ConsumerPopulation(StrictModel):
    """Consumers drawn at random: their number, and the bounds of uniform draws. The first is `large` if that is given.

    `baseline_kwh` is d, `alpha` and `beta` the coefficients of the dissatisfaction, money per kWh^2 and per kWh. Every
    consumer has its own random stream, derived from the scenario's seed and its number.
    """

    homes: Annotated[int, Field(ge=1, le=100_000)]
    baseline_kwh: Between = (80.0, 150.0)
    alpha: Between
    beta: Between
    large: LargeConsumer | None = None

    def draw(self, seed: int) -> list[Consumer]:
        """Draw the consumers."""
        width = len(str(self.homes))
        return [self._draw_one(f"c{number + 1:0{width}d}", seed, number) for number in range(self.homes)]

    def _draw_one(self, name: str, seed: int, number: int) -> Consumer:
        random = np.random.default_rng([seed, number])
        baseline, alpha, beta = (float(random.uniform(*b)) for b in (self.baseline_kwh, self.alpha, self.beta))
        if number == 0 and self.large is not None:
            baseline, alpha = self.large.baseline_kwh, self.large.alpha
        return Consumer(id=name, baseline_kwh=baseline, alpha=alpha, beta=beta)


class LoadCallScenario(ForeseenScenario[ConsumerPopulation, Consumer]):
    """A load call game, ready to run. Either `population` or `homes` gives the consumers.

    By `forecast` consumers and aggregator foresee the load of each consumer, of which its baseline is made.
    """

    # Three or four rounds of calls are usual, five the most seen of 10,000 consumers.
    inner_rounds: ClassVar[int] = 5
    rules: ClassVar[type[LoadForecast]] = LoadForecast

    game: Literal["load_call"]
    slots: Annotated[int, Field(ge=1, le=MOST_SLOTS_OF_RUN)] = 1
    leader: UtilitySettings
    aggregator: AggregatorTerms
    forecast: Annotated[LoadForecast | None, Field(exclude_if=lambda forecast: forecast is None)] = None

    @classmethod
    def prepare(cls, raw: dict[str, Any], folder: Path) -> None:
        """Tell each listed home that has a load when the event is."""
        super().prepare(raw, folder)
        homes, leader = raw.get("homes"), raw.get("leader")
        event = leader.get("event") if isinstance(leader, dict) else None
        for home in homes if isinstance(homes, list) and event is not None else []:
            if isinstance(home, dict) and home.get("load_kw") is not None:
                home.setdefault("event", event)

    @cached_property
    def everyone(self) -> list[Any]:
        """All consumers, in a run of one session without forecasts with their baselines in its event.

        Raises `ValueError`.
        """
        homes = super().everyone
        if len(self.sessions) > 1 or self.has_forecasts:
            return homes
        for number, home in enumerate(homes):
            try:
                home.check_slots(self.slots)
            except ValueError as error:
                raise ValueError(f"homes.{number}.{error}") from None
        return [home.in_session(self.session) for home in homes]

    def in_session(self, session: Session, states: Mapping[str, Mapping[str, Any]] | None = None) -> Self:
        """Give a session of the run as a scenario of its own, with the history that the aggregator has of consumers."""
        alone = super().in_session(session, states)
        (aggregator_name,) = self.topology.members
        history = (states or {}).get(aggregator_name)
        if not history:
            return alone
        aggregator = self.aggregator.model_copy(update={"history": History.model_validate(history)})
        return alone.model_copy(update={"aggregator": aggregator})

    @property
    def performance(self) -> Array:
        """The performance h of each consumer [LC-D], (n,)."""
        history, (members,) = self.aggregator.history, self.topology.members.values()
        if history is None:
            return np.ones(len(self.everyone))
        return np.array([h for process in members for h in history.rate(process)])

    def draw(self, population: ConsumerPopulation) -> list[Consumer]:
        """Draw the consumers of a population."""
        return population.draw(self.seed)

    def verify(self) -> None:
        """Raise `ValueError`, besides for what all games refuse, for several aggregators or a target out of reach."""
        super().verify()
        if self.aggregators != 1:
            raise ValueError(
                f"aggregators: {self.aggregators}; in this game one aggregator calls everybody, set it to 1"
            )
        if self.has_forecasts and any(session.binding < session.slots for session in self.sessions):
            raise ValueError(
                "forecast: a call is for the whole event that a session looks at, so that with calendar.every below "
                "the horizon hours are called for twice and metered once; leave every out"
            )
        for session in self.sessions:
            try:
                baseline = sum(_foresee_baseline(home, session) for home in self.everyone)
            except ValueError as error:
                raise ValueError(f"leader.{error}") from None
            if self.leader.target_kwh > baseline:
                which = "" if len(self.sessions) == 1 else f" in session {session.number}"
                raise ValueError(
                    f"leader.target_kwh: {self.leader.target_kwh:g} is above the {baseline:g} kWh that the baselines "
                    f"of {len(self.everyone)} homes come to{which}; lower it or add homes"
                )

    def aggregator_settings(self, name: str, members: dict[str, list[Consumer]]) -> LoadCallSettings:
        """Give the aggregator its terms, and the baselines that it has metered or foresees."""
        return LoadCallSettings(
            fairness=self.aggregator.fairness,
            reward=self.aggregator.reward,
            history=self.aggregator.history,
            baseline_kwh={member: [self._list_baselines(home) for home in homes] for member, homes in members.items()},
        )

    def _list_baselines(self, home: Consumer) -> float | list[float]:
        """Give a consumer's baseline, of several sessions that in each, kWh."""
        each = [_foresee_baseline(home, session) for session in self.sessions]
        return each if len(each) > 1 else each[0]


def _foresee_baseline(home: Consumer, session: Session) -> float:
    """Give the baseline that is foreseen for a session, kWh: the one that comes where nobody plans by a forecast."""
    return home.foresee(session).in_session(session).baseline_kwh
