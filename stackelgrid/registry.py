"""Games and algorithms, found by name: those of `stackelgrid.games`, and those of other packages.

A game is an object `GAME` of class `Game`, in the `__init__` of its folder or under an entry point of the group
`stackelgrid.games` of any package that is installed. It names its parts as "module:attribute", and a process imports
only the parts that it needs: a meter never imports a leader, nor a leader the private model of a home.

An algorithm is an object of class `Algorithm`: one that a game names among its own, or one under an entry point of the
group `stackelgrid.algorithms`.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

from stackelgrid.errors import ConfigError
from stackelgrid.spelling import suggest
from stackelgrid.wire.codec import Bodies

GAMES = "stackelgrid.games"
"""The package whose folders are games, and the group of entry points of other packages' games."""

ALGORITHMS = "stackelgrid.algorithms"
"""The group of entry points of other packages' algorithms."""


class UnknownGameError(ValueError):
    """There is no game of that name; the message lists those that there are."""


class UnknownAlgorithmError(ValueError):
    """There is no algorithm of that name in the game; the message lists those that there are."""


class GameError(ConfigError):
    """A game or an algorithm that is installed and broken; the message names the part and the mend."""


@dataclass(frozen=True)
class Extension:
    """What a `package` adds to Stackelgrid, its parts named as "module:attribute"."""

    kind: ClassVar[str]

    package: str

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
                f"{self.kind} {self.package}: its {part} {where!r} cannot be loaded ({error}); "
                f"mend its {self.kind.upper()}"
            ) from None


@dataclass(frozen=True)
class Game(Extension):
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
      outcome. Only a game whose outcome depends on who missed a round has one: the soak then expects no more;
    - `precision`: how far apart the numbers of a settled outcome may be that was reached by other rounds, relative to
      the largest of a list;
    - `masked`: how homes' answers become numbers that add up under masks, a `stackelgrid.masks.form.MaskedForm`; None
      where each home is asked something of its own, so that sums say nothing;
    - `algorithms`: the `Algorithm` of each name that comes with the game; None where its leader plays one alone.
    """

    kind = "game"

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
    precision: float = 1e-6
    masked: str | None = None
    algorithms: str | None = None

    def bodies(self, level: str) -> Bodies:
        """Give the bodies of messages on the `upper` or the `lower` level."""
        bodies: Bodies = self.load(level)
        return bodies


@dataclass(frozen=True)
class Algorithm(Extension):
    """An algorithm by which the leader of a `game` finds its price, its parts named like those of a `Game`.

    - `leader`: makes the leader's half of what it is to solve; the game says which types these are;
    - `home`: makes the `HomeStrategy` of one EMC process from a list of homes; None where homes answer as in the game;
    - `loads_alone`: whether it asks homes for no sensitivity, so that it plays with homes that keep theirs;
    - `beyond`: the part of the largest price by which it may ask beyond the leader's bounds.
    """

    kind = "algorithm"

    title: str
    game: str
    leader: str
    home: str | None = None
    loads_alone: bool = False
    beyond: float = 0.0


@cache
def find(name: str) -> Game:
    """Find the game of a name. Raises `UnknownGameError`, and `GameError` for one that cannot be imported."""
    if name in _list_folders():
        found = import_module(f"{GAMES}.{name}").GAME
        where = f"{GAMES}.{name}:GAME"
    else:
        points = entry_points(group=GAMES, name=name)
        if not points:
            those = suggest(name, list_games()) or f"those are {', '.join(list_games())}"
            raise UnknownGameError(f"{name!r} is not a game that is installed; {those}")
        where, found = points[name].value, _load_entry_point("game", points[name])
    if not isinstance(found, Game):
        raise UnknownGameError(f"{name}: {where} is not a stackelgrid.registry.Game")
    return found


def list_games() -> list[str]:
    """List the games that there are."""
    return sorted({*_list_folders(), *(point.name for point in entry_points(group=GAMES))})


@cache
def find_algorithm(game: str, name: str) -> Algorithm:
    """Find an algorithm of a game. Raises `UnknownAlgorithmError`, and `GameError` for one that cannot be imported."""
    found = _list_algorithms(game).get(name)
    if isinstance(found, EntryPoint):
        found = _load_entry_point("algorithm", found)
        if not isinstance(found, Algorithm):
            raise GameError(f"algorithm {name}: it is not a stackelgrid.registry.Algorithm; mend or uninstall it")
    if found is None or found.game != game:
        names = list_algorithms(game)
        those = suggest(name, names) or f"name one of {', '.join(names)}"
        raise UnknownAlgorithmError(f"{name!r} is not an algorithm of {game} that is installed; {those}")
    return found


def find_homes(game: str, algorithm: str | None) -> Any:
    """Find what makes the `HomeStrategy` of an EMC process: the half of an algorithm, or else the game's own.

    Raises `UnknownAlgorithmError` also for an algorithm without a home's half.
    """
    if algorithm is None:
        return find(game).load("homes")
    found = find_algorithm(game, algorithm)
    if found.home is None:
        raise UnknownAlgorithmError(f"{algorithm!r} has no home's half; leave it out")
    return found.load("home")


def list_algorithms(game: str) -> list[str]:
    """List the algorithms of a game: its own, then those of other packages, also where one is broken."""
    return [*_list_algorithms(game)]


def list_extensions() -> list[str]:
    """List the packages that bring games or algorithms."""
    points = [*entry_points(group=GAMES), *entry_points(group=ALGORITHMS)]
    return sorted({point.dist.name for point in points if point.dist is not None})


def _list_algorithms(game: str) -> dict[str, Algorithm | EntryPoint]:
    """Find the algorithms that there are by name; a game's own come first and are not replaced."""
    own: dict[str, Algorithm] = {} if find(game).algorithms is None else find(game).load("algorithms")
    others = {point.name: point for point in entry_points(group=ALGORITHMS) if point.name not in own}
    return {**own, **dict(sorted(others.items()))}


def _load_entry_point(kind: str, point: EntryPoint) -> Any:
    """Import what an entry point names. Raises `GameError`."""
    try:
        return point.load()
    except (AttributeError, ImportError, SyntaxError, TypeError) as error:
        raise GameError(
            f"{kind} {point.name}: {point.value} cannot be imported ({error}); mend or uninstall it"
        ) from None


@cache
def _list_folders() -> frozenset[str]:
    return frozenset(each.name for each in pkgutil.iter_modules(import_module(GAMES).__path__) if each.ispkg)
