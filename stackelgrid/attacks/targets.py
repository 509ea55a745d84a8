"""The homes under attack, what they answer, and what they keep to themselves.

The homes are those of a `user_oriented` scenario as the paper has them: load that no price changes, one elastic
appliance with a `log` satisfaction, and at most one battery or car [UO-1] to [UO-4].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stackelgrid.errors import ConfigError
from stackelgrid.games.user_oriented.messages import LoadResponse, Price
from stackelgrid.masks.fixed_point import write_words
from stackelgrid.masks.form import MaskedForm, Words
from stackelgrid.registry import find, find_homes
from stackelgrid.scenarios import Scenario
from stackelgrid.wire.arrays import Array, PackedArray

GAME = "user_oriented"
FORM: MaskedForm = find(GAME).load("masked")


@dataclass(frozen=True)
class Secrets:
    """What a home keeps to itself: `fixed` load, x_max, alpha and v x_max / omega of its appliance, (T,), and its wear.

    `wear` is eta_1 of [UO-4], None in a home without storage; `has_car` says that what it stores in is a car.
    """

    fixed: Array
    x_max: Array
    alpha: Array
    worth: Array
    wear: float | None
    has_car: bool

    def find_elastic_load(self, price: Array) -> Array:
        """Find what the appliance draws at a price [UO-10], (T,) kW."""
        return np.clip(self.worth / price - self.x_max / self.alpha, 0.0, self.x_max)


def make_question(prices: Sequence[Array], *, sensitivities: bool) -> Price:
    """Make the question that asks one price (T,) or several, with dL/dp for each or for none."""
    first, *others = prices
    return Price(
        price=first.tolist(),
        others=PackedArray.of(np.array(others)) if others else None,
        sensitivities=len(prices) if sensitivities else 0,
    )


class Target:
    """One home: what it answers, and its secrets, which no attack is given."""

    def __init__(self, home: Any, kw: float) -> None:
        self.name: str = home.id
        self.kw = kw
        self.secrets = _read_secrets(home)
        self._strategy = find_homes(GAME, None)([home])
        self._answers: dict[bytes, LoadResponse] = {}
        self._words: dict[tuple[bytes, int, bool], Words] = {}

    def answer(self, prices: Sequence[Array], *, sensitivities: bool = True) -> LoadResponse:
        """Answer a question of one price (T,) or several, as the home's process does."""
        question = make_question(prices, sensitivities=sensitivities)
        key = question.model_dump_json().encode()
        if key not in self._answers:
            self._answers[key] = self._strategy.answer(question)
        return self._answers[key]

    def write(self, price: Array, parties: int, *, sensitivities: bool) -> Words:
        """Write its answer in fixed point, as one of so many parties of a sum, before any mask is on it."""
        key = price.tobytes(), parties, sensitivities
        if key not in self._words:
            question = make_question([price], sensitivities=sensitivities)
            shape = FORM.shape(question)
            numbers = FORM.flatten(self.answer([price], sensitivities=sensitivities), shape)
            self._words[key] = write_words(numbers, FORM.bounds(shape, self.kw, question), parties)
        return self._words[key]

    def find_load(self, price: Array) -> Array:
        """Find what it draws at a price, (T,) kW."""
        return np.asarray(self.answer([price]).loads().sum(axis=0))

    def find_charging(self, price: Array) -> Array:
        """Find what its storage charges at a price, (T,) kW, below zero where it discharges."""
        return self.find_load(price) - self.secrets.fixed - self.secrets.find_elastic_load(price)


def choose(groups: Sequence[Sequence[Target]], most: int) -> Iterator[tuple[Sequence[Target], int]]:
    """Choose `most` homes or a few more, equally many of each group: give each with its group."""
    of_each = -(-most // len(groups))
    for group in groups:
        for home in range(min(of_each, len(group))):
            yield group, home


@dataclass(frozen=True)
class Population:
    """Homes of a scenario, the flat price before, the largest and least price that its leader asks, and the seed."""

    homes: Sequence[Target]
    flat: Array
    bounds: tuple[float, float]
    seed: int

    @classmethod
    def of(cls, scenario: Scenario, homes: int) -> Population:
        """Draw so many homes as a scenario draws its own, or take those that it lists.

        Raise `ConfigError` for homes that the attacks do not know.
        """
        if scenario.game != GAME:
            raise ConfigError(f"game: {scenario.game}, the attacks are on homes of {GAME}; name such a scenario")
        settings: Any = scenario
        everyone = scenario.everyone if settings.population is None else _draw(scenario, homes)
        flat = np.full(scenario.slots, float(settings.leader.baseline_price))
        bounds = float(np.min(settings.leader.price_min)), float(np.max(settings.leader.price_max))
        targets = [Target(home, scenario.connection_kw(home) or 0.0) for home in everyone]
        return cls(targets, flat, bounds, scenario.seed)

    def draw_strangers(self, scenario: Scenario, homes: int) -> list[Target]:
        """Draw so many homes as a scenario draws its own, none of them of this population.

        None where it lists its homes.
        """
        settings: Any = scenario
        if settings.population is None:
            return []
        drawn = _draw(scenario.change(seed=self.seed + 1), homes)
        return [Target(home, scenario.connection_kw(home) or 0.0) for home in drawn]

    def cut(self, size: int) -> list[list[Target]]:
        """Cut the homes at random into groups of `size`; those that remain are in none.

        Raise `ConfigError` where there are fewer.
        """
        if len(self.homes) < size:
            raise ConfigError(
                f"homes: {len(self.homes)}, a group of {size} has more; ask smaller groups, or draw homes"
            )
        order = np.random.default_rng([self.seed, size]).permutation(len(self.homes))
        return [
            [self.homes[number] for number in order[start : start + size]]
            for start in range(0, len(order) - size + 1, size)
        ]


def _draw(scenario: Any, homes: int) -> list[Any]:
    """Draw so many homes of the scenario's population."""
    population = scenario.population.model_copy(update={"homes": homes})
    return list(scenario.change(population=population).everyone)


def _read_secrets(home: Any) -> Secrets:
    """Read the secrets of a home. Raise `ConfigError` for one that has what no attack here knows."""
    appliances, stores = home.elastic, home.storage
    others = home.pv or home.ev or home.heat_pump or home.deferrable
    plain = len(appliances) == 1 and appliances[0].satisfaction.form == "log" and not np.any(appliances[0].min_kw)
    if others or not plain or len(stores) > 1 or home.draw_limit.max_kw is not None:
        raise ConfigError(
            f"home {home.id}: the attacks know homes with one appliance of a log satisfaction and at most one storage, "
            "without a draw limit; name a scenario with such homes, as user_oriented"
        )
    (appliance,) = appliances
    alpha, omega, x_max = (
        np.broadcast_to(np.asarray(each, float), (home.horizon,))
        for each in (appliance.satisfaction.alpha, appliance.satisfaction.omega, appliance.max_kw)
    )
    return Secrets(
        fixed=home.draw_inelastic(),
        x_max=x_max,
        alpha=alpha,
        worth=appliance.valuation * x_max / omega,
        wear=stores[0].wear.fast if stores else None,
        has_car=bool(stores) and stores[0].available is not None,
    )
