"""Scenario files: find, read and check them, with overrides, and write them back."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.model import explain, list_mistakes
from stackelgrid.registry import UnknownGameError, find
from stackelgrid.scenarios import yaml_file
from stackelgrid.scenarios.base import Scenario
from stackelgrid.scenarios.measured import BadReferenceError, spell_out, with_origins
from stackelgrid.scenarios.measured.declarations import DataSection
from stackelgrid.text_file import check_content


class ScenarioError(ConfigError):
    """A scenario that cannot be run; the message names file, key, value and mend.

    `mistakes` has each key that is wrong, with what is wrong and what is wanted.
    """

    def __init__(self, message: str, mistakes: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.mistakes = mistakes or [("", message)]


def list_shipped() -> dict[str, Path]:
    """List the case studies that come with the package, by name."""
    return yaml_file.list_shipped("cases")


def read_template(game: str) -> str:
    """Read the commented scenario that comes with a game, to begin one's own with. Raises `ScenarioError`."""
    try:
        template = files(find(game).package) / "template.yaml"
    except UnknownGameError as error:
        raise ScenarioError(str(error)) from None
    if not template.is_file():
        raise ScenarioError(f"{game}: the game comes without a template.yaml; its keys: stackelgrid schema {game}")
    return template.read_text("utf-8")


def load(
    source: str | Mapping[str, Any],
    overrides: Sequence[str] | None = None,
    seed: int | None = None,
    show: Callable[[str], None] = lambda sentence: None,
) -> Scenario:
    """Read a scenario: a shipped name, a YAML file or its content, with `KEY.PATH=VALUE` overrides and a seed.

    Paths inside it are relative to the file, of content to the working directory. `show` is given a sentence for each
    file of measured data: how its first number was read. Those of a shipped case are read as it says, unless an
    override changes its `data`: it is given none. Overrides are named in the title, which may say otherwise. Raises
    `ScenarioError`.
    """
    origins = _Origins(Path("scenario"), overrides or [], seed)
    if isinstance(source, Mapping):
        try:
            check_content(source)
        except ValueError as error:
            raise ScenarioError(f"scenario: {error}", [_split_key(str(error))]) from None
        raw = copy.deepcopy(dict(source))
    else:
        origins.shipped = source in list_shipped()
        try:
            origins.path = yaml_file.find(source, list_shipped(), "scenario")
            origins.text = yaml_file.read_document(origins.path)
            raw = yaml_file.parse_keys(origins.text, origins.path, "scenario")
        except ValueError as error:
            raise ScenarioError(str(error)) from None
    if overrides or seed not in (None, raw.get("seed", 0)):
        raw.pop("calibrated", None)  # the file was fitted as it is
    for override in overrides or []:
        apply_override(raw, override)
    _note_in_title(raw, overrides or [])
    if seed is not None:
        raw["seed"] = seed
    try:
        model: type[Scenario] = find(str(raw.get("game"))).load("scenario")
    except UnknownGameError as error:
        raise ScenarioError(f"{origins.locate('game')}: game: {error}", [("game", str(error))]) from None
    folder = origins.path.parent
    refusing: type[BaseModel] = DataSection
    try:
        raw = spell_out(raw, folder, model, _ignore if origins.known_data else show)
        refusing = model
        model.prepare(raw, folder)
        scenario = model.model_validate(raw)
        _refuse_coerced(raw, scenario.model_dump(by_alias=True))
        scenario.verify()
        scenario.rehearse()
    except ValidationError as error:
        found = with_origins(error, raw)
        told = explain(origins.locate, found, raw, refusing), list_mistakes(found, raw, refusing)
        raise ScenarioError(*told) from None
    except BadReferenceError as error:
        where = origins.locate(_find_key(str(error)), error.declared)
        raise ScenarioError(f"{where}: {error}", [_split_key(str(error))]) from None
    except ValueError as error:
        raise ScenarioError(f"{origins.locate(_find_key(str(error)))}: {error}", [_split_key(str(error))]) from None
    return scenario


@dataclass
class _Origins:
    """The places where the keys of a scenario were given: options of the command line, or lines of a file."""

    path: Path
    overrides: Sequence[str]
    seed: int | None
    text: str = ""
    shipped: bool = False

    @property
    def known_data(self) -> bool:
        """True when all measured data are those of a shipped case, read as it says."""
        return self.shipped and not any(override.startswith("data.") for override in self.overrides)

    def locate(self, key: str, declared: str = "") -> str:
        """Name the options that gave the value at `key`, or what it names (`declared`), or else its line in the file.

        A shipped file has no mistakes: what is wrong in it is so by the options, whichever key it is.
        """
        options = {override.partition("=")[0].strip(): f"--set {override}" for override in self.overrides}
        if self.seed is not None:
            options["seed"] = f"--seed {self.seed}"
        of_key = [
            option
            for changed, option in options.items()
            if any(_contains(given, changed) or _contains(changed, given) for given in (key, declared))
        ]
        if of_key or (self.shipped and options):
            return " ".join(of_key or options.values())
        return (
            f"{self.path}, line {yaml_file.find_line(self.text, key.split('.'))}"
            if self.text and key
            else str(self.path)
        )


def _ignore(sentence: str) -> None:
    """Show nothing."""


def _contains(outer: str, inner: str) -> bool:
    """Say whether the key `inner` is `outer`, or inside it."""
    return bool(outer) and f"{inner}.".startswith(f"{outer}.")


def _find_key(message: str) -> str:
    """Find the key with which a message begins."""
    match = re.match(r"[\w-]+(\.[\w-]+)*", message)
    return match[0] if match else ""


def _split_key(message: str) -> tuple[str, str]:
    """Split a message into the key with which it begins, empty where it does not, and the rest."""
    key = _find_key(message)
    return (key, message[len(key) + 2 :]) if message.startswith(f"{key}: ") else ("", message)


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


def apply_override(raw: dict[str, Any], override: str) -> None:
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


_NAMED, _LONGEST = 3, 40
"""Overrides that a title names, and letters of each."""


def _note_in_title(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Add what was changed to the title, so that it stays true of the run: "A street (calendar.days=2)"."""
    title = raw.get("title")
    changed = [each if len(each) <= _LONGEST else f"{each[: _LONGEST - 1]}…" for each in overrides]
    if not title or not isinstance(title, str) or not changed or any(each.startswith("title=") for each in changed):
        return
    more = len(changed) - _NAMED
    named = [*changed[:_NAMED], *([f"{more} more"] if more > 0 else [])]
    raw["title"] = f"{title} ({', '.join(named)})"


def _get_item(place: list[Any], key: str, override: str) -> Any:
    if not re.fullmatch(r"[0-9]{1,9}", key) or int(key) >= len(place):
        raise ScenarioError(f"--set {override}: {key} is no index of a list of {len(place)}; they count from 0")
    return place[int(key)]


def dump(scenario: Scenario) -> str:
    """Write a scenario as YAML, every value spelled out."""
    return yaml_file.dump(scenario)
