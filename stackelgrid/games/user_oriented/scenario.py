"""A scenario of the user-oriented pricing game."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from stackelgrid.forecast import Forecasts, seed_noise
from stackelgrid.games.user_oriented.aggregator import UserOrientedSettings
from stackelgrid.games.user_oriented.home import Home, HomeProblem
from stackelgrid.games.user_oriented.leader import DEFAULT_ALGORITHM, UtilitySettings
from stackelgrid.games.user_oriented.population import Population
from stackelgrid.registry import find_algorithm
from stackelgrid.rounds.settings import PrivacySettings
from stackelgrid.scenarios import ForeseenScenario


class UserOrientedScenario(ForeseenScenario[Population, Home]):
    """A user-oriented pricing game, ready to run. Its homes are drawn from a `population` or listed as `homes`.

    By `forecast` homes and leader foresee what the lists per slot hold.
    """

    horizons: ClassVar[bool] = True
    rules: ClassVar[type[Forecasts]] = Forecasts
    home_kw: ClassVar[float] = 100.0
    home_kwh_a_day: ClassVar[tuple[float, float]] = (0.1, 100.0)

    game: Literal["user_oriented"]
    leader: UtilitySettings
    privacy: PrivacySettings = PrivacySettings()
    forecast: Forecasts | None = None

    @cached_property
    def everyone(self) -> list[Home]:
        """All homes of the scenario, with their forecasts, and the public price for what they feed in."""
        paid = {"feed_in_price": self.leader.feed_in_price}
        return [
            home.model_copy(update=paid)
            if home.feeds_in and home.feed_in_price is None and self.leader.feed_in_price is not None
            else home
            for home in super().everyone
        ]

    @classmethod
    def prepare(cls, raw: dict[str, Any], folder: Path) -> None:
        """Make the path of the profiles absolute; in the file it is relative to `folder`."""
        super().prepare(raw, folder)
        population = raw.get("population")
        if isinstance(population, dict) and isinstance(population.get("profiles"), str):
            population["profiles"] = str((folder / population["profiles"]).resolve())

    def draw(self, population: Population) -> list[Home]:
        """Draw homes around measured profiles; at the flat price they draw the measured load."""
        times = None if self.calendar is None else self.calendar.times
        return population.draw(self.seed, self.leader.baseline_price, self.slots, times)

    def verify(self) -> None:
        """Raise `ValueError` also for homes with nothing, and when nobody draws at the flat price."""
        super().verify()
        most, wanted = self.privacy.questions_per_session, self.leader.questions_per_session
        if wanted > most:
            raise ValueError(
                f"leader.questions_per_session: {wanted}, but homes answer {most} (privacy.questions_per_session); "
                f"lower it to {most}"
            )
        begins = {(session.start.hour, session.start.minute) for session in self.sessions if session.start}
        for number, home in enumerate(self.everyone):
            if len(begins) > 1 and any(store.available for store in home.storage):
                raise ValueError(
                    f"homes.{number}.storage: available counts the slots of a session, and sessions begin at several "
                    "times of the day; describe the car as an ev with trips"
                )
            if not home.devices:
                raise ValueError(f"homes.{number}: neither inelastic, elastic nor storage; give it one or leave it out")
            paid = 0.0 if home.feed_in_price is None else float(np.max(home.feed_in_price))
            if paid > self.leader.baseline_price:
                raise ValueError(
                    f"homes.{number}.feed_in_price: {paid:g} is above leader.baseline_price "
                    f"{self.leader.baseline_price:g}: whoever buys and feeds in gains without end; lower it"
                )
        flat = np.full(self.slots, self.leader.baseline_price)
        at_earliest = (home.at_starts(home.earliest_starts) for home in self.everyone)
        if not any(HomeProblem(home).answer(flat).load.any() for home in at_earliest):
            raise ValueError(
                f"leader.baseline_price: at {self.leader.baseline_price:g} nobody draws or feeds in anything; "
                "lower it, or give homes a load: mu is per mean kW of that load"
            )

    def leader_settings(self) -> UtilitySettings:
        """Give the leader its forecast, and the scenario's seed, unless it has one of its own, or draws nothing.

        The seed tells which homes a population has: a leader that does not need it does not get it.
        """
        needs_seed = self.leader.algorithm != DEFAULT_ALGORITHM and self.leader.seed is None
        update: dict[str, Any] = {"seed": self.seed} if needs_seed else {}
        if self.forecast is not None:
            update["forecast"] = seed_noise(self.forecast.price, self.seed, "leader/price")
        return self.leader.model_copy(update=update) if update else self.leader

    def home_algorithm(self) -> str | None:
        """Name the leader's algorithm where it has a home's half."""
        return None if find_algorithm(self.game, self.leader.algorithm).home is None else self.leader.algorithm

    def check_privacy(self) -> None:
        """Raise `ValueError` also where the leader may ask for prices or sensitivities that homes refuse."""
        super().check_privacy()
        band, algorithm = self.privacy.price_band, find_algorithm(self.game, self.leader.algorithm)
        least, most = float(np.min(self.leader.price_min)), float(np.max(self.leader.price_max))
        beyond = algorithm.beyond * max(abs(least), abs(most))
        least, most = least - beyond, most + beyond
        if band is not None and (least < band[0] or most > band[1]):
            raise ValueError(
                f"privacy.price_band: {band[0]:g} to {band[1]:g}, but the leader may ask for {least:.8g} to {most:.8g} "
                "(leader.price_min, leader.price_max, leader.algorithm); make the band as wide"
            )
        if self.privacy.sensitivity == "none" and not algorithm.loads_alone:
            raise ValueError(
                f"leader.algorithm: {self.leader.algorithm} asks homes for sensitivities, which they keep "
                "(privacy.sensitivity: none); use leader.algorithm: loads_only"
            )

    def keep_sensitivities(self) -> tuple[Self, str]:
        """Give the scenario in which homes answer with loads alone, to `loads_only` where no algorithm is chosen."""
        leader = self.leader
        if not find_algorithm(self.game, leader.algorithm).loads_alone:
            if "algorithm" in leader.model_fields_set:
                return self, f"homes answer with sensitivities, for which leader.algorithm {leader.algorithm} asks"
            leader = leader.model_copy(update={"algorithm": "loads_only"})
        privacy = self.privacy.model_copy(update={"sensitivity": "none"})
        told = f"homes answer with loads alone (sensitivity none), to leader.algorithm {leader.algorithm}"
        return self.change(privacy=privacy, leader=leader), told

    @property
    def certified_at_any_size(self) -> bool:
        """True for `welfare`, whose certificate is made of sums over the homes."""
        return self.leader.objective == "welfare"

    def find_doubts(self) -> list[str]:
        """Ask also whether a wholesale price that no price may reach is in another unit."""
        doubts = super().find_doubts()
        wholesale, most = self.leader.company(self.slots).wholesale_price, np.max(self.leader.price_max)
        if above := int(np.sum(wholesale > most)):
            where = "" if above == self.slots else f" in {above} of {self.slots} slots"
            doubts.append(
                f"leader.wholesale_price: {wholesale.max():g} lies above price_max {most:g}{where}, so that each kWh "
                f"sold is a loss; is it per MWh? Prices are {self.money} per kWh"
            )
        return doubts

    def connection_kw(self, home: Home) -> float:
        """Give what the home says of itself, kW."""
        return home.connection_kw

    def aggregator_settings(self, name: str, members: dict[str, list[Home]]) -> UserOrientedSettings:
        """Tell the aggregator whether homes answer with their best responses, and with no more than these."""
        has_runs = any(home.deferrable for homes in members.values() for home in homes)
        return UserOrientedSettings(best_responses=self.home_algorithm() is None and not has_runs)

    def copy_data_to(self, folder: Path) -> Self:
        """Copy the profiles and their notice into `folder`, and give the scenario that names the copies."""
        if self.population is None:
            return self
        profiles = self.population.profiles
        for path in (profiles, profiles.with_suffix(".LICENSE.md")):
            if path.exists():
                shutil.copy(path, folder / path.name)
        return self.model_copy(
            update={"population": self.population.model_copy(update={"profiles": Path(profiles.name)})}
        )
