"""A scenario of the load call game."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from stackelgrid.games.load_call.aggregator import AggregatorTerms, LoadCallSettings
from stackelgrid.games.load_call.home import Consumer
from stackelgrid.games.load_call.leader import UtilitySettings
from stackelgrid.model import Positive, StrictModel
from stackelgrid.scenarios import Between, PopulatedScenario


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


class LoadCallScenario(PopulatedScenario[ConsumerPopulation, Consumer]):
    """A load call game, ready to run. Either `population` or `homes` gives the consumers."""

    # Three or four rounds of calls are usual, five the most seen of 10,000 consumers.
    inner_rounds: ClassVar[int] = 5

    game: Literal["load_call"]
    slots: Annotated[int, Field(ge=1, le=1000)] = 1
    leader: UtilitySettings
    aggregator: AggregatorTerms

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
        baseline = sum(home.baseline_kwh for home in self.everyone)
        if self.leader.target_kwh > baseline:
            raise ValueError(
                f"leader.target_kwh: {self.leader.target_kwh:g} is above the {baseline:g} kWh that the baselines of "
                f"{len(self.everyone)} homes come to; lower it or add homes"
            )

    def aggregator_settings(self, name: str, members: dict[str, list[Consumer]]) -> LoadCallSettings:
        """Give the aggregator its terms, and the baselines that it has metered."""
        return LoadCallSettings(
            fairness=self.aggregator.fairness,
            reward=self.aggregator.reward,
            baseline_kwh={member: [home.baseline_kwh for home in homes] for member, homes in members.items()},
        )
