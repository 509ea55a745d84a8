"""A scenario of the load call game, and what comes out of it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from stackelgrid.games.load_call.aggregator import LoadCallSettings, Terms
from stackelgrid.games.load_call.home import Consumer
from stackelgrid.games.load_call.leader import UtilitySettings
from stackelgrid.model import Positive, StrictModel
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios.scenario import Between, PopulatedScenario


class LargeConsumer(StrictModel):
    """One consumer of another size, as the paper has one: its baseline, kWh, and its alpha, money per kWh^2."""

    baseline_kwh: Positive
    alpha: Positive


class ConsumerPopulation(StrictModel):
    """How many consumers are drawn, and between which bounds, uniformly; the first of them is `large` if that is given.

    `baseline_kwh` is d, `alpha` and `beta` the coefficients of the dissatisfaction, money per kWh^2 and per kWh. Every
    consumer has its own random stream, derived from the scenario's seed and its number.
    """

    homes: Annotated[int, Field(ge=1, le=100_000)]
    baseline_kwh: Between = (80.0, 150.0)
    alpha: Between
    beta: Between
    large: LargeConsumer | None = None

    def draw(self, seed: int) -> list[Consumer]:
        """The consumers."""
        width = len(str(self.homes))
        return [self._consumer(f"c{number + 1:0{width}d}", seed, number) for number in range(self.homes)]

    def _consumer(self, name: str, seed: int, number: int) -> Consumer:
        random = np.random.default_rng([seed, number])
        baseline, alpha, beta = (float(random.uniform(*b)) for b in (self.baseline_kwh, self.alpha, self.beta))
        if number == 0 and self.large is not None:
            baseline, alpha = self.large.baseline_kwh, self.large.alpha
        return Consumer(id=name, baseline_kwh=baseline, alpha=alpha, beta=beta)


class LoadCallScenario(PopulatedScenario[ConsumerPopulation, Consumer]):
    """A load call game, ready to run. Either `population` or `homes` says who may be called."""

    # Three or four rounds of calls are usual, five the most seen of 10,000 consumers.
    inner_rounds: ClassVar[int] = 5

    game: Literal["load_call"]
    slots: Annotated[int, Field(ge=1, le=1000)] = 1
    leader: UtilitySettings
    aggregator: Terms

    def draw(self, population: ConsumerPopulation) -> list[Consumer]:
        """The consumers of a population."""
        return population.draw(self.seed)

    def verify(self) -> None:
        """Besides what holds for all games: there is one aggregator, and consumption enough to be shifted."""
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
        """Its terms, and the baselines that it has metered."""
        return LoadCallSettings(
            fairness=self.aggregator.fairness,
            reward=self.aggregator.reward,
            baseline_kwh={member: [home.baseline_kwh for home in homes] for member, homes in members.items()},
        )

    def outcome(self, run_record: RunRecord) -> dict[str, Any]:
        """The load call game's outcome; energies kWh.

        By home: `calls_kwh`, `shifted_kwh`, `rewards`, `bills` (rewards not deducted) and `baseline_bills` without a
        call, money. `achieved_kwh` is what the utility was told, `success_rate` its share of the target (1 for a target
        of 0), `commission` what is paid for it. `squared_deviation` is that of the calls from their mean, kWh^2, and
        `aggregator_utility` the commission less fairness times that. `call_rounds` is how often the aggregator called.
        """
        last = run_record.rounds[-1]
        target, achieved = self.leader.target_kwh, last["shifted_kwh"]
        by_home = {home.id: run_record.homes[home.id] for home in self.everyone if home.id in run_record.homes}

        def each(key: str) -> dict[str, float]:
            return {name: account[key] for name, account in by_home.items()}

        return {
            "target_kwh": target,
            "calls_kwh": each("call_kwh"),
            "shifted_kwh": each("shifted_kwh"),
            "achieved_kwh": achieved,
            "success_rate": achieved / target if target > 0 else 1.0,
            "commission": last["commission"],
            "squared_deviation": last["squared_deviation"],
            "aggregator_utility": last["commission"] - self.aggregator.fairness * last["squared_deviation"],
            "call_rounds": last["call_rounds"],
            "call_journal": [
                {key: record[key] for key in ("called_kwh", "shifted_kwh", "gap", "shown")}
                for record in run_record.below
            ],
            "rewards": each("reward"),
            "bills": each("bill"),
            "baseline_bills": each("baseline_bill"),
        }

    def certificate(self, outcome: dict[str, Any], samples: int) -> dict[str, Any]:
        """See `stackelgrid.games.load_call.certificate.certificate`; it samples nothing."""
        from stackelgrid.games.load_call.certificate import certificate

        return certificate(self.everyone, self.leader, self.aggregator, outcome)
