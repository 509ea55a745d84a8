"""A scenario file: one game, its leader, its aggregators, its homes. Checked as a whole before anything is started."""

from __future__ import annotations

import re
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from emc_node.home import Home
from emc_node.program import InfeasibleHomeError
from emc_node.user_oriented import HomeProblem
from leader_node.config import UtilitySettings
from stackelgrid.node.config import ConfigError, Rounds, explain
from stackelgrid.testbed.population import Population


class ScenarioError(ConfigError):
    """A scenario that cannot be run; the message names file, key, value and mend."""


class Scenario(BaseModel):
    """A user-oriented pricing game, ready to run.

    Either `population` or `homes` says who lives there. `aggregators` share the homes in turn; `homes_per_process`
    homes share a process and its connection, and answer in one message.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    game: Literal["user_oriented"]
    title: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    money: str = "cents"
    slots: Annotated[int, Field(ge=1, le=1000)] = 24
    leader: UtilitySettings
    aggregators: Annotated[int, Field(ge=1, le=10_000)] = 1
    homes_per_process: Annotated[int, Field(ge=1, le=100_000)] = 1
    rounds: Rounds = Rounds()
    population: Population | None = None
    homes: list[Home] | None = None
    calibrated: dict[str, str] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.population is None) == (self.homes is None):
            raise ValueError("give either population or homes, not both and not neither")
        price = self.leader.wholesale_price
        if isinstance(price, list) and len(price) != self.slots:
            raise ValueError(f"leader.wholesale_price has {len(price)} numbers, the horizon has {self.slots} slots")
        seen: set[str] = set()
        for number, home in enumerate(self.homes or []):
            if home.id in seen:
                raise ValueError(f"homes.{number}.id: {home.id!r} is there twice; give each home its own id")
            seen.add(home.id)
            if re.fullmatch(r"leader|a\d+(-p\d+)?", home.id):
                raise ValueError(f"homes.{number}.id: {home.id!r} is a name of other nodes; give the home another id")
            if home.horizon != self.slots:
                raise ValueError(f"homes.{number}.horizon is {home.horizon}, slots is {self.slots}; make them equal")
        count = len(self.homes) if self.homes is not None else self.population.homes if self.population else 0
        if count < self.aggregators:
            raise ValueError(f"aggregators: {self.aggregators} for {count} homes; there must be a home for each")
        return self

    @cached_property
    def everyone(self) -> list[Home]:
        """Every home of the scenario, drawn or listed."""
        if self.homes is not None:
            return list(self.homes)
        assert self.population is not None
        return self.population.draw(self.seed, self.leader.baseline_price, self.slots)

    def households(self) -> dict[str, list[list[Home]]]:
        """The homes by aggregator and process."""
        share: dict[str, list[list[Home]]] = {}
        for number in range(self.aggregators):
            mine = self.everyone[number :: self.aggregators]
            size = self.homes_per_process
            share[f"a{number + 1}"] = [mine[start : start + size] for start in range(0, len(mine), size)]
        return share


def shipped() -> dict[str, Path]:
    """The case studies that come with the package, by name."""
    folder = Path(str(resources.files("scenarios")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(source: str, overrides: list[str] | None = None, seed: int | None = None) -> Scenario:
    """Read a scenario: a shipped name or a YAML file, with `KEY.PATH=VALUE` overrides and a seed.

    Paths inside it are relative to the file. Raises `ScenarioError`.
    """
    path = _find(source)
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{path}: not a text file; a scenario is YAML in UTF-8") from None
    except ValueError as error:  # a date that does not exist
        raise ScenarioError(f"{path}: {error}") from None
    if not isinstance(raw, dict):
        raise ScenarioError(f"{path}: a scenario is a mapping of keys, not {type(raw).__name__}")
    for override in overrides or []:
        _override(raw, override)
    if seed is not None:
        raw["seed"] = seed
    _anchor(raw, path.parent)
    _share_horizon(raw)
    try:
        scenario = Scenario.model_validate(raw)
    except ValidationError as error:
        raise ScenarioError(explain(str(path), error)) from None
    try:
        for home in scenario.everyone:
            HomeProblem(home)
    except (InfeasibleHomeError, ValueError) as error:
        raise ScenarioError(f"{path}: {error}") from None
    return scenario


def _find(source: str) -> Path:
    known = shipped()
    if source in known:
        return known[source]
    path = Path(source)
    if not path.is_file():
        raise ScenarioError(f"{source}: no such file, and no shipped scenario; those are {', '.join(known)}")
    return path


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
        value = yaml.safe_load(match[2])
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise ScenarioError(f"--set {override}: the value is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(place, list):
        _item(place, last, override)
        place[int(last)] = value
    else:
        place[last] = value


def _item(place: list[Any], key: str, override: str) -> Any:
    if not key.isdigit() or int(key) >= len(place):
        raise ScenarioError(f"--set {override}: {key} is no index of a list of {len(place)}; they count from 0")
    return place[int(key)]


def _anchor(raw: dict[str, Any], folder: Path) -> None:
    """Make the path of the profiles independent of where the command is run."""
    population = raw.get("population")
    if isinstance(population, dict) and isinstance(population.get("profiles"), str):
        population["profiles"] = str((folder / population["profiles"]).resolve())


def _share_horizon(raw: dict[str, Any]) -> None:
    """A home in a scenario lives over the scenario's slots; only a home file of its own has to say so."""
    homes = raw.get("homes")
    for home in homes if isinstance(homes, list) else []:
        if isinstance(home, dict):
            home.setdefault("horizon", raw.get("slots", Scenario.model_fields["slots"].default))


def dump(scenario: Scenario) -> str:
    """The scenario as YAML, every value spelled out."""
    content = scenario.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
