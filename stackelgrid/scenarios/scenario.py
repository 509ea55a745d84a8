"""A scenario file: one game, its leader, its aggregators, its homes. Checked as a whole before anything is started."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from stackelgrid.certify import CertificateError
from stackelgrid.errors import ConfigError
from stackelgrid.model import Positive, StrictModel, explain
from stackelgrid.node.config import Rounds
from stackelgrid.registry import UnknownGameError, find
from stackelgrid.rounds.settings import AggregatorSettings, HomeModel, LeaderSettings
from stackelgrid.scenarios import yaml_file
from stackelgrid.scenarios.measured import spell_out, with_origins
from stackelgrid.scenarios.topology import RunTopology

if TYPE_CHECKING:
    from stackelgrid.run_record import RunRecord


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound {bounds[0]:g} comes first, then the upper {bounds[1]:g}; swap them")
    return bounds


Between = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
"""Bounds of a uniform draw, low and high."""


class ScenarioError(ConfigError):
    """A scenario that cannot be run; the message names file, key, value and mend."""


class Scenario(StrictModel):
    """Base of a game's scenario: what all games have in common, and what a game has to say.

    `aggregators` share the homes in turn; `homes_per_process` homes share a process and its connection, and answer in
    one message. `inner_rounds` is how many rounds an aggregator may play with its homes before it answers its leader.
    """

    model_config = ConfigDict(ignored_types=(cached_property,))

    inner_rounds: ClassVar[int] = 1

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    game: str
    title: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    money: str = "cents"
    slots: Annotated[int, Field(ge=1, le=1000)] = 24
    leader: LeaderSettings
    aggregators: Annotated[int, Field(ge=1, le=10_000)] = 1
    homes_per_process: Annotated[int, Field(ge=1, le=100_000)] = 1
    rounds: Rounds = Rounds()
    calibrated: dict[str, str] = {}

    @classmethod
    def prepare(cls, raw: dict[str, Any], folder: Path) -> None:
        """Complete the content of a file in `folder` before it is checked."""

    @cached_property
    def everyone(self) -> list[Any]:
        """Every home of the scenario, drawn or listed. Raises `ValueError`."""
        raise NotImplementedError

    def verify(self) -> None:
        """Raises `ValueError` with key, value and mend for what each part for itself could not know to be wrong."""
        try:
            self.leader.check_slots(self.slots)
        except ValueError as error:
            raise ValueError(f"leader.{error}") from None
        seen: set[str] = set()
        for number, home in enumerate(self.everyone):
            if home.id in seen:
                raise ValueError(f"homes.{number}.id: {home.id!r} is there twice; give each home its own id")
            seen.add(home.id)
            if re.fullmatch(r"leader|a\d+(-p\d+)?", home.id):
                raise ValueError(f"homes.{number}.id: {home.id!r} is a name of other nodes; give the home another id")
        if len(seen) < self.aggregators:
            raise ValueError(f"aggregators: {self.aggregators} for {len(seen)} homes; there must be a home for each")

    def households(self) -> dict[str, list[list[Any]]]:
        """The homes by aggregator and process."""
        share: dict[str, list[list[Any]]] = {}
        for number in range(self.aggregators):
            mine = self.everyone[number :: self.aggregators]
            size = self.homes_per_process
            share[f"a{number + 1}"] = [mine[start : start + size] for start in range(0, len(mine), size)]
        return share

    @cached_property
    def topology(self) -> RunTopology:
        """The nodes of a run of this scenario."""
        return RunTopology.of(self.households(), self.homes_per_process)

    def connection_kw(self, home: Any) -> float | None:
        """What a home's connection carries, kW: what its aggregator checks its answers against; None when unknown."""
        return None

    def aggregator_settings(self, name: str, members: dict[str, list[Any]]) -> AggregatorSettings:
        """What the aggregator `name` is told of the game; `members` are the homes behind each of its EMC processes."""
        raise NotImplementedError

    def beside(self, folder: Path) -> Self:
        """The same scenario with the data files it names copied into `folder`."""
        return self

    def outcome(self, run_record: RunRecord) -> Any:
        """`outcome` of result.json, of a run in which at least one round was finished."""
        outcome: Any = find(self.game).load("outcome").of(self, run_record)
        return outcome

    def certificate(self, outcome: Any, samples: int) -> dict[str, Any]:
        """How far a complete outcome is from an equilibrium; see `stackelgrid.certify`. Raises `CertificateError`."""
        game = find(self.game)
        try:
            known = game.load("outcome").model_validate(outcome) if isinstance(outcome, dict) else outcome
        except ValidationError as error:
            raise CertificateError(f"{explain('outcome', error)}; put the file back or run again") from None
        certificate: dict[str, Any] = game.load("certificate")(self, known, samples)
        return certificate


Drawn = TypeVar("Drawn", bound=BaseModel)
Resident = TypeVar("Resident", bound=HomeModel)


class PopulatedScenario(Scenario, Generic[Drawn, Resident]):
    """Base of a scenario whose homes are either drawn from a `population` or listed as `homes`.

    With `horizons`, a listed home has as its horizon the number of slots, whether it says so or not.
    """

    horizons: ClassVar[bool] = False

    population: Drawn | None = None
    homes: list[Resident] | None = None

    @classmethod
    def prepare(cls, raw: dict[str, Any], folder: Path) -> None:
        """Give each listed home the scenario's slots as its horizon."""
        homes = raw.get("homes")
        for home in homes if cls.horizons and isinstance(homes, list) else []:
            if isinstance(home, dict):
                home.setdefault("horizon", raw.get("slots", cls.model_fields["slots"].default))

    @model_validator(mode="after")
    def _populated(self) -> Self:
        if (self.population is None) == (self.homes is None):
            raise ValueError("give either population or homes, not both and not neither")
        for number, home in enumerate(self.homes or []):
            horizon = getattr(home, "horizon", self.slots)
            if horizon != self.slots:
                raise ValueError(f"homes.{number}.horizon is {horizon}, slots is {self.slots}; make them equal")
        return self

    def draw(self, population: Drawn) -> list[Resident]:
        """The homes of a population."""
        raise NotImplementedError

    @cached_property
    def everyone(self) -> list[Resident]:
        """Every home of the scenario, drawn or listed."""
        if self.homes is not None:
            return list(self.homes)
        assert self.population is not None
        return self.draw(self.population)


def shipped() -> dict[str, Path]:
    """The case studies that come with the package, by name."""
    return yaml_file.shipped("cases")


def load(source: str | Mapping[str, Any], overrides: Sequence[str] | None = None, seed: int | None = None) -> Scenario:
    """Read a scenario: a shipped name, a YAML file or its content, with `KEY.PATH=VALUE` overrides and a seed.

    Paths inside it are relative to the file, of content to the working directory. Raises `ScenarioError`.
    """
    if isinstance(source, Mapping):
        path, raw = Path("scenario"), copy.deepcopy(dict(source))
    else:
        try:
            path = yaml_file.find(source, shipped(), "scenario")
            raw = yaml_file.read(path, "scenario")
        except ValueError as error:
            raise ScenarioError(str(error)) from None
    for override in overrides or []:
        _override(raw, override)
    if seed is not None:
        raw["seed"] = seed
    try:
        model: type[Scenario] = find(str(raw.get("game"))).load("scenario")
    except UnknownGameError as error:
        raise ScenarioError(f"{path}: game: {error}") from None
    try:
        raw = spell_out(raw, path.parent, model)
        model.prepare(raw, path.parent)
        scenario = model.model_validate(raw)
        _refuse_coerced(raw, scenario.model_dump(by_alias=True))
        scenario.verify()
    except ValidationError as error:
        raise ScenarioError(explain(str(path), with_origins(error, raw))) from None
    except ValueError as error:
        raise ScenarioError(f"{path}: {error}") from None
    return scenario


def _refuse_coerced(raw: Any, checked: Any, *above: str) -> None:
    """Raises `ValueError` where the models took a text or a truth value for a number."""
    if isinstance(raw, dict) and isinstance(checked, dict):
        for key in raw.keys() & checked.keys():
            _refuse_coerced(raw[key], checked[key], *above, str(key))
    elif isinstance(raw, list) and isinstance(checked, list | tuple) and len(raw) == len(checked):
        for number, pair in enumerate(zip(raw, checked, strict=True)):
            _refuse_coerced(*pair, *above, str(number))
    elif isinstance(raw, bool | str) and isinstance(checked, int | float) and type(checked) is not type(raw):
        raise ValueError(f"{'.'.join(above)}: give a number, without quotes (found {raw!r})")


def _override(raw: dict[str, Any], override: str) -> None:
    """Apply one `KEY.PATH=VALUE`; the value is read as YAML, list indices are numbers."""
    match = re.fullmatch(r"([^=]+)=(.*)", override, re.DOTALL)
    if match is None:
        raise ScenarioError(f"--set {override}: write KEY.PATH=VALUE, as in --set leader.mu=0.8")
    *parents, last = match[1].strip().split(".")
    place: Any = raw
    for key in parents:
        place = _item(place, key, override) if isinstance(place, list) else place.setdefault(key, {})
        if not isinstance(place, dict | list):
            raise ScenarioError(f"--set {override}: {key} is a value, it has no keys below it")
    try:
        value = yaml_file.parse(match[2])
    except ValueError as error:
        raise ScenarioError(f"--set {override}: the value is not YAML ({error}); put it in quotes") from None
    if isinstance(place, list):
        _item(place, last, override)
        place[int(last)] = value
    else:
        place[last] = value


def _item(place: list[Any], key: str, override: str) -> Any:
    if not key.isdigit() or int(key) >= len(place):
        raise ScenarioError(f"--set {override}: {key} is no index of a list of {len(place)}; they count from 0")
    return place[int(key)]


def dump(scenario: Scenario) -> str:
    """The scenario as YAML, every value spelled out."""
    return yaml_file.dump(scenario)
