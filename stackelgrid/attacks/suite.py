"""All attacks on homes of a scenario: each at each level, on groups of each size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stackelgrid.attacks import (
    absurd_prices,
    all_but_one,
    broken_masks,
    connection,
    drop_out,
    membership,
    one_answer,
    sparse_sum,
)
from stackelgrid.attacks.findings import LEVELS, Finding, Level
from stackelgrid.attacks.targets import Population
from stackelgrid.errors import ConfigError
from stackelgrid.rounds.settings import PrivacySettings
from stackelgrid.runner import run
from stackelgrid.scenarios import Scenario
from stackelgrid.wire.arrays import Array

SIZES = (15, 20, 50, 200)
"""Groups of so many homes."""
_HOMES = 200
"""Homes that are drawn, and cut into groups."""
_STRANGERS = 800
"""Homes in no group, which say what such homes are like."""


def play(scenario: Scenario, levels: Sequence[Level] = LEVELS, sizes: Sequence[int] = SIZES) -> Iterator[Finding]:
    """Play all attacks on a scenario of `user_oriented`, whose prices come from a run of it in memory.

    Raise `ConfigError` for a scenario with other homes than `targets` knows, or too few.
    """
    population = Population.of(scenario, max(_HOMES, *sizes))
    prices = negotiate(scenario)
    strangers = population.draw_strangers(scenario, _STRANGERS)
    price, flat = prices[1], population.flat
    for level in levels:
        for size in sizes:
            groups = population.cut(size)
            yield from one_answer.play(groups, level, flat, price)
            yield from connection.play(groups, level, price)
            yield from sparse_sum.play(groups, level, prices)
            yield from drop_out.play(groups, level, prices)
            yield from broken_masks.play(groups, level, flat, price)
            yield from absurd_prices.play(groups, level, flat, population.bounds)
            yield from all_but_one.play(groups, level, flat)
            if strangers:
                yield from membership.play(groups, level, price, strangers)


def negotiate(scenario: Scenario) -> list[Array]:
    """Play a scenario, and give the prices that the leader asks, (T,) each, one a round.

    Raise `ConfigError` where it settles before there are three.
    """
    prices: list[Array] = []
    run(scenario.change(privacy=PrivacySettings()), on_round=lambda record: prices.append(np.array(record["price"])))
    if len(prices) < 3:
        raise ConfigError(
            f"leader: it settles after {len(prices)} rounds, the attacks want three; give it another price"
        )
    return prices
