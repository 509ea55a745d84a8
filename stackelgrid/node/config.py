"""A node's configuration file: JSON, checked before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stackelgrid.games import Game, UnknownGameError, find
from stackelgrid.rounds import RoundPolicy
from stackelgrid.wire.messages import Name


class Rounds(BaseModel):
    """How a coordinator treats members whose answer is missing; see `stackelgrid.rounds.RoundPolicy`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    deadline_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 5.0
    tries: Annotated[int, Field(ge=1, le=100)] = 3
    missing: Literal["hold", "exclude", "fail"] = "hold"
    gather_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 60.0
    return_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 10.0
    quarantine_after: Annotated[int, Field(ge=0, le=1000)] = 3

    def policy(self) -> RoundPolicy:
        """The same, for a coordinator."""
        return RoundPolicy(**self.model_dump())


class Members(BaseModel):
    """One member of a coordinator: a node's name, how many homes are behind it and what their connections carry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    homes: Annotated[int, Field(ge=1)] = 1
    max_kw: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None


class NodeConfig(BaseModel):
    """What every node needs to know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Name
    name: Name
    game: str
    slots: Annotated[int, Field(ge=1, le=1000)]
    broker: str = "mqtt://127.0.0.1:1883"


class ConfigError(Exception):
    """A configuration file that cannot be used; the message names file, key, value and mend."""


class _Played(BaseModel):
    game: str


Config = TypeVar("Config", bound=NodeConfig)


def load(path: Path, of_game: Callable[[Game], type[Config]]) -> Config:
    """Read and check a configuration file, by the model that `of_game` has for the game it names.

    Files it names are relative to its own folder. Raises `ConfigError`.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name an existing file with --config") from None
    try:
        config = of_game(find(_Played.model_validate_json(text).game)).model_validate_json(text)
    except UnknownGameError as error:
        raise ConfigError(f"{path}: game: {error}") from None
    except ValidationError as error:
        raise ConfigError(explain(str(path), error)) from None
    files = {name: path.parent / value for name, value in config if isinstance(value, Path)}
    return config.model_copy(update=files)


def explain(source: str, error: ValidationError) -> str:
    """One line per mistake: file, key, what is wrong, the value found."""
    lines = []
    for mistake in error.errors(include_url=False):
        key = ".".join(str(step) for step in mistake["loc"]) or "(whole file)"
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            message = "unknown key; remove it or correct its spelling"
        shown = repr(mistake["input"])
        value = f" (found {shown})" if len(shown) <= 80 and mistake["type"] != "missing" else ""
        lines.append(f"{source}: {key}: {message}{value}")
    return "\n".join(dict.fromkeys(lines))
