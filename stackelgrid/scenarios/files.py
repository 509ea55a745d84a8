"""Scenario files: find, read and check them, with overrides, and write them back."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.model import explain
from stackelgrid.registry import UnknownGameError, find
from stackelgrid.scenarios import yaml_file
from stackelgrid.scenarios.base import Scenario
from stackelgrid.scenarios.measured import spell_out, with_origins


class ScenarioError(ConfigError):
    """A scenario that cannot be run; the message names file, key, value and mend."""


def list_shipped() -> dict[str, Path]:
    """List the case studies that come with the package, by name."""
    return yaml_file.list_shipped("cases")


def load(source: str | Mapping[str, Any], overrides: Sequence[str] | None = None, seed: int | None = None) -> Scenario:
    """Read a scenario: a shipped name, a YAML file or its content, with `KEY.PATH=VALUE` overrides and a seed.

    Paths inside it are relative to the file, of content to the working directory. Raises `ScenarioError`.
    """
    if isinstance(source, Mapping):
        path, raw = Path("scenario"), copy.deepcopy(dict(source))
    else:
        try:
            path = yaml_file.find(source, list_shipped(), "scenario")
            raw = yaml_file.read(path, "scenario")
        except ValueError as error:
            raise ScenarioError(str(error)) from None
    for override in overrides or []:
        _apply(raw, override)
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
    """Raise `ValueError` where the models took a text or a truth value for a number."""
    if isinstance(raw, dict) and isinstance(checked, dict):
        for key in raw.keys() & checked.keys():
            _refuse_coerced(raw[key], checked[key], *above, str(key))
    elif isinstance(raw, list) and isinstance(checked, list | tuple) and len(raw) == len(checked):
        for number, pair in enumerate(zip(raw, checked, strict=True)):
            _refuse_coerced(*pair, *above, str(number))
    elif isinstance(raw, bool | str) and isinstance(checked, int | float) and type(checked) is not type(raw):
        raise ValueError(f"{'.'.join(above)}: give a number, without quotes (found {raw!r})")


def _apply(raw: dict[str, Any], override: str) -> None:
    """Apply one `KEY.PATH=VALUE` to `raw`; the value is read as YAML, list indices are numbers."""
    match = re.fullmatch(r"([^=]+)=(.*)", override, re.DOTALL)
    if match is None:
        raise ScenarioError(f"--set {override}: write KEY.PATH=VALUE, as in --set leader.mu=0.8")
    *parents, last = match[1].strip().split(".")
    place: Any = raw
    for key in parents:
        place = _get_item(place, key, override) if isinstance(place, list) else place.setdefault(key, {})
        if not isinstance(place, dict | list):
            raise ScenarioError(f"--set {override}: {key} is a value, it has no keys below it")
    try:
        value = yaml_file.parse(match[2])
    except ValueError as error:
        raise ScenarioError(f"--set {override}: the value is not YAML ({error}); put it in quotes") from None
    if isinstance(place, list):
        _get_item(place, last, override)
        place[int(last)] = value
    else:
        place[last] = value


def _get_item(place: list[Any], key: str, override: str) -> Any:
    if not key.isdigit() or int(key) >= len(place):
        raise ScenarioError(f"--set {override}: {key} is no index of a list of {len(place)}; they count from 0")
    return place[int(key)]


def dump(scenario: Scenario) -> str:
    """Write a scenario as YAML, every value spelled out."""
    return yaml_file.dump(scenario)
