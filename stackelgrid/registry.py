"""The games, found by name: the folders of `stackelgrid.games`, and the games of other packages.

A game is an object `GAME` of class `Game`, in the `__init__` of its folder or under an entry point of the group
`stackelgrid.games` of any package that is installed. It names its parts as "module:attribute", and a process imports
only the parts that it needs: a meter never imports a leader, nor a leader the private model of a home.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from stackelgrid.errors import ConfigError
from stackelgrid.wire.codec import Bodies

GAMES = "stackelgrid.games"
"""The package whose folders are games, and the group of entry points of other packages' games."""


class UnknownGameError(ValueError):
    """There is no game of that name; the message lists those that there are."""


class GameError(ConfigError):
    """A game that is installed and broken; the message names the part and the mend."""


@dataclass(frozen=True)
class Game:
    """A Stackelberg game between a leader, aggregators and homes, its parts named as "module:attribute".

    A module is named as seen from the game's `package`: "leader:UtilitySettings" is in
    `package.leader`, ":REPORT" in the package itself.

    - `upper`: the bodies that travel between the leader and the aggregators, `lower` those between an aggregator and
      its homes, each a `stackelgrid.wire.codec.Bodies`;
    - `leader`: the leader's settings, a `stackelgrid.rounds.settings.LeaderSettings`;
    - `aggregator`: an aggregator's settings, a `stackelgrid.rounds.settings.AggregatorSettings`;
    - `home`: the private model of a home, a `stackelgrid.rounds.settings.HomeModel`;
    - `homes`: makes the `HomeStrategy` of one EMC process from a list of such homes;
    - `scenario`: the model of a scenario file, a `stackelgrid.scenarios.Scenario`;
    - `outcome`: the model of a run's outcome, a `stackelgrid.run_record.Outcome`;
    - `certificate`: makes a certificate from a scenario, an outcome and a number of samples;
    - `report`: a `stackelgrid.report.game.GameReport`; None for the plain page;
    - `published`: a `stackelgrid.claims.Paper`, the figures that the game's paper prints; None without a paper;
    - `small_scenario`: makes the content of a scenario for the soak test from a random generator and a home count;
    - `settled_price`: gives the price in a run's record, which the soak lets no liar move further than its load can;
    - `disagreement`: finds where a run's outcome disagrees with the schedules of its homes, from scenario, record and
      outcome. Only a game whose outcome depends on who missed a round has one: the soak then expects no more.
    """

    package: str
    title: str
    upper: str = "messages:UPPER"
    lower: str = "messages:LOWER"
    leader: str = "leader:UtilitySettings"
    aggregator: str = "aggregator:AggregatorSettings"
    home: str = "home:Home"
    homes: str = "home:Homes"
    scenario: str = "scenario:Scenario"
    outcome: str = "outcome:Outcome"
    certificate: str = "certificate:certify"
    report: str | None = None
    published: str | None = None
    small_scenario: str | None = None
    settled_price: str | None = None
    disagreement: str | None = None

    def load(self, part: str) -> Any:
        """Import a part by its name in this class: `game.load("leader")`.

        Raises `GameError` for a part that is not there. A missing package of another kind is reported as such.
        """
        where = getattr(self, part)
        module, _, attribute = where.partition(":")
        try:
            return getattr(import_module(f"{self.package}.{module}" if module else self.package), attribute)
        except (AttributeError, ImportError) as error:
            if isinstance(error, ModuleNotFoundError) and not f"{error.name}.".startswith(f"{self.package}."):
                raise
            raise GameError(
                f"game {self.package}: its {part} {where!r} cannot be loaded ({error}); mend its GAME"
            ) from None

    def bodies(self, level: str) -> Bodies:
        """Give the bodies of messages on the `upper` or the `lower` level."""
        bodies: Bodies = self.load(level)
        return bodies


@cache
def find(name: str) -> Game:
    """Find the game of a name. Raises `UnknownGameError`, and `GameError` for one that cannot be imported."""
    if name in _list_folders():
        found = import_module(f"{GAMES}.{name}").GAME
        where = f"{GAMES}.{name}:GAME"
    else:
        points = tuple(entry_points(group=GAMES, name=name))
        if not points:
            raise UnknownGameError(f"{name!r} is not a game that is installed; those are {', '.join(list_games())}")
        where = points[0].value
        try:
            found = points[0].load()
        except (AttributeError, ImportError, SyntaxError, TypeError) as error:
            raise GameError(f"game {name}: {where} cannot be imported ({error}); mend or uninstall it") from None
    if not isinstance(found, Game):
        raise UnknownGameError(f"{name}: {where} is not a stackelgrid.registry.Game")
    return found


def list_games() -> list[str]:
    """List the games that there are."""
    return sorted({*_list_folders(), *(point.name for point in entry_points(group=GAMES))})


@cache
def _list_folders() -> frozenset[str]:
    return frozenset(each.name for each in pkgutil.iter_modules(import_module(GAMES).__path__) if each.ispkg)
