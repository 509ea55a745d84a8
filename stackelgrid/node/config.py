"""A node's configuration file: JSON, checked before anything is started."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from stackelgrid.model import StrictModel
from stackelgrid.registry import Game, UnknownGameError, find
from stackelgrid.rounds import RoundPolicy
from stackelgrid.transport.tls import Tls
from stackelgrid.wire.messages import Name


class Rounds(StrictModel):
    """How a coordinator treats members whose answer is missing; see `stackelgrid.rounds.RoundPolicy`."""

    deadline_s: Annotated[float, Field(ge=0.01, le=3600, allow_inf_nan=False)] = 5.0
    tries: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    missing: Literal["hold", "exclude", "fail"] = "hold"
    gather_s: Annotated[float, Field(gt=0, le=7200, allow_inf_nan=False)] = 60.0
    return_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 10.0
    quarantine_after: Annotated[int, Field(ge=0, le=1000)] = 3

    def policy(self) -> RoundPolicy:
        """The same, for a coordinator."""
        return RoundPolicy(**self.model_dump())


class Members(StrictModel):
    """One member of a coordinator: a node's name, how many homes are behind it and what their connections carry."""

    name: Name
    homes: Annotated[int, Field(ge=1)] = 1
    max_kw: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None


class NodeConfig(StrictModel):
    """What every node needs to know.

    `tls` is what it proves itself with to a broker at `mqtts://`. `reconnect_s` is how long a lost connection may stay
    away; null is for ever, and the first one may then take as long too.
    """

    run: Name
    name: Name
    game: str
    slots: Annotated[int, Field(ge=1, le=1000)]
    broker: str = "mqtt://127.0.0.1:1883"
    tls: Tls | None = None
    reconnect_s: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = 60.0


class ConfigError(Exception):
    """A configuration file that cannot be used; the message names file, key, value and mend."""


class _Played(BaseModel):
    game: str


Config = TypeVar("Config", bound=NodeConfig)


def load(path: Path, config_model: Callable[[Game], type[Config]]) -> Config:
    """Read and check a configuration file, by the model that `config_model` has for the game it names.

    Files it names are relative to its own folder. Raises `ConfigError`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name an existing file with --config") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error.reason}); write it anew, as JSON") from None
    try:
        config = config_model(find(_Played.model_validate_json(text).game)).model_validate_json(text)
    except UnknownGameError as error:
        raise ConfigError(f"{path}: game: {error}") from None
    except ValidationError as error:
        raise ConfigError(explain(str(path), error)) from None
    files: dict[str, Any] = {name: path.parent / value for name, value in config if isinstance(value, Path)}
    if config.tls is not None:
        files["tls"] = config.tls.resolve_in(path.parent)
    return config.model_copy(update=files)


_WANTED = {
    "missing": "missing; add it",
    "extra_forbidden": "unknown key; remove it or correct its spelling",
    "list_type": "give a list",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "string_type": "give a text",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "dict_type": "give a mapping of keys",
    "model_type": "give a mapping of keys",
    "model_attributes_type": "give a mapping of keys",
    "finite_number": "give a finite number",
}
_OF_ANOTHER_KIND = {"float_type", "float_parsing", "int_type", "int_parsing", "list_type", "model_type", "dict_type"}
_MEMBER_OF_A_UNION = re.compile(r"constrained-|float$|int$|str$|list\[|dict\[|function-|is-instance")
_FEW = 3
"""Mistakes of one kind in one list that are told one by one."""


def explain(source: str, error: ValidationError) -> str:
    """One line per mistake: file, key, what is wrong and what is wanted, the value found."""
    mistakes = [_Mistake.of(found) for found in error.errors(include_url=False)]
    lines: dict[str, None] = {}
    alike: Counter[tuple[str, str]] = Counter()
    for mistake in mistakes:
        if mistake.other_kind and any(mistake.is_told_by(other) for other in mistakes):
            continue
        line = f"{source}: {mistake.key or '(whole file)'}: {mistake.message}"
        above, _, last = mistake.key.rpartition(".")
        if last.isdigit():
            alike[above, mistake.message] += 1
            if alike[above, mistake.message] > _FEW:
                continue
        lines[line] = None
    more = [f"{source}: {key}: and {count - _FEW} more like it" for (key, _), count in alike.items() if count > _FEW]
    return "\n".join([*lines, *more])


@dataclass(frozen=True)
class _Mistake:
    """A mistake at `key`; one of `other_kind` says only that a value might have been of another kind."""

    key: str
    message: str
    kind: str
    other_kind: bool

    @classmethod
    def of(cls, found: ErrorDetails) -> _Mistake:
        steps = [step for step in found["loc"] if not (isinstance(step, str) and _MEMBER_OF_A_UNION.match(step))]
        in_a_union = len(steps) < len(found["loc"])
        kind, shown = found["type"], repr(found["input"])
        value = f" (found {shown})" if len(shown) <= 80 and kind != "missing" else ""
        message = _WANTED.get(kind, found["msg"].removeprefix("Value error, ").replace("Input should", "It must", 1))
        if in_a_union and kind in _OF_ANOTHER_KIND:
            message = "give a number, or a list of numbers, one per slot"
        return cls(".".join(map(str, steps)), message + value, kind, in_a_union and kind in _OF_ANOTHER_KIND)

    def is_told_by(self, other: _Mistake) -> bool:
        """Whether another mistake at the same place, or inside it, says what is really wrong."""
        inside = other.key == self.key or other.key.startswith(f"{self.key}.")
        return inside and not other.other_kind
