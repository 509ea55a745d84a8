"""A scenario of the user-oriented pricing game, and what comes out of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from stackelgrid.games.user_oriented.aggregator import UserOrientedSettings
from stackelgrid.games.user_oriented.home import Home, HomeProblem
from stackelgrid.games.user_oriented.leader import UtilitySettings
from stackelgrid.games.user_oriented.population import Population
from stackelgrid.scenarios.scenario import PopulatedScenario


class UserOrientedScenario(PopulatedScenario[Population, Home]):
    """A user-oriented pricing game, ready to run. Either `population` or `homes` says who lives there."""

    horizons: ClassVar[bool] = True

    game: Literal["user_oriented"]
    leader: UtilitySettings

    @classmethod
    def prepare(cls, raw: dict[str, Any], folder: Path) -> None:
        """Profiles are found from wherever the command is run."""
        super().prepare(raw, folder)
        population = raw.get("population")
        if isinstance(population, dict) and isinstance(population.get("profiles"), str):
            population["profiles"] = str((folder / population["profiles"]).resolve())

    def draw(self, population: Population) -> list[Home]:
        """Homes around measured profiles, which a flat price makes draw as measured."""
        return population.draw(self.seed, self.leader.baseline_price, self.slots)

    def verify(self) -> None:
        """Besides what holds for all games: every home can live within its limits."""
        super().verify()
        for home in self.everyone:
            HomeProblem(home)

    def connection_kw(self, home: Home) -> float:
        """The draw limit or, without one, the rated power of all that is behind the meter."""
        if home.draw_limit.max_kw is not None:
            return home.draw_limit.max_kw
        rated = sum(max(load.load_kw) for load in home.inelastic)
        rated += sum(float(np.max(appliance.max_kw)) for appliance in home.elastic)
        rated += sum(max(store.charge_kw, store.discharge_kw) for store in home.storage)
        return rated

    def aggregator_settings(self, name: str, members: dict[str, list[Home]]) -> UserOrientedSettings:
        """Aggregators are told nothing."""
        return UserOrientedSettings()

    def beside(self, folder: Path) -> Self:
        """With the profiles, and their notice, copied into `folder`."""
        if self.population is None:
            return self
        profiles = self.population.profiles
        for path in (profiles, profiles.with_suffix(".LICENSE.md")):
            if path.exists():
                shutil.copy(path, folder / path.name)
        return self.model_copy(
            update={"population": self.population.model_copy(update={"profiles": Path(profiles.name)})}
        )
