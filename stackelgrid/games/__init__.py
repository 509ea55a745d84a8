"""The games, found by name through entry points: what each brings to whom.

A game is an object of class `Game` under an entry point of the group `stackelgrid.games`, in this package or in any
other that is installed. It names its parts as "module:attribute"; each is imported by whoever plays it and by nobody
else, so that a meter never imports a leader, nor a leader what a home keeps to itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from stackelgrid.wire.codec import Bodies

GROUP = "stackelgrid.games"


class UnknownGameError(ValueError):
    """There is no game of that name; the message lists those that there are."""


@dataclass(frozen=True)
class Game:
    """A Stackelberg game between a leader, aggregators and homes.

    What travels, as models: `upper` between the leader and the aggregators, `lower` between an aggregator and its
    homes. The rest is named as "module:attribute":

    - `leader`: the leader's settings, a model with `strategy(slots) -> LeaderStrategy`, `tolerance` and `max_rounds`;
    - `aggregator`: an aggregator's settings, a model with `strategy(slots, homes) -> AggregatorStrategy`, `homes` the
      number of homes behind each member by name;
    - `home`: what a home keeps to itself, a model with `id`;
    - `homes`: from a list of such homes to the `HomeStrategy` of one EMC process;
    - `scenario`: the model of a scenario file, a `stackelgrid.testbed.scenario.Scenario`;
    - `report`: a `stackelgrid.report.game.GameReport`, unless a plain page will do.
    """

    title: str
    upper: Bodies
    lower: Bodies
    leader: str
    aggregator: str
    home: str
    homes: str
    scenario: str
    report: str = "stackelgrid.report.game:PLAIN"


@cache
def find(name: str) -> Game:
    """The game of a name. Raises `UnknownGameError`."""
    for point in entry_points(group=GROUP, name=name):
        game = point.load()
        if not isinstance(game, Game):
            raise UnknownGameError(f"{name}: {point.value} is not a stackelgrid.games.Game")
        return game
    raise UnknownGameError(f"{name!r} is not a game that is installed; those are {', '.join(names())}")


def names() -> list[str]:
    """The games that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def part(where: str) -> Any:
    """Import what "module:attribute" names."""
    module, _, attribute = where.partition(":")
    return getattr(import_module(module), attribute)
