"""A node's configuration file: JSON, checked before anything is started."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stackelgrid.calendar import MOST_SLOTS, Calendar, Session, list_sessions
from stackelgrid.errors import ConfigError
from stackelgrid.gates import Gates
from stackelgrid.model import StrictModel, explain
from stackelgrid.registry import Game, UnknownGameError, find
from stackelgrid.rounds import Offence, RoundPolicy
from stackelgrid.text_file import read_text
from stackelgrid.transport.tls import Tls
from stackelgrid.wire.codec import RegistrarLink
from stackelgrid.wire.fingerprint import Digest, Fingerprint
from stackelgrid.wire.messages import RegisteredMember
from stackelgrid.wire.names import Name


class Rounds(StrictModel):
    """The policy of a coordinator for members whose answer is missing; see `stackelgrid.rounds.RoundPolicy`."""

    deadline_s: Annotated[float, Field(ge=0.01, le=3600, allow_inf_nan=False)] = 5.0
    tries: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    missing: Literal["hold", "exclude", "fail"] = "hold"
    gather_s: Annotated[float, Field(gt=0, le=7200, allow_inf_nan=False)] = 60.0
    return_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 10.0
    quarantine_after: Annotated[int, Field(ge=0, le=1000)] = 3
    quarantine_for: list[Offence] = ["refused"]

    def policy(self) -> RoundPolicy:
        """Give the same for a coordinator."""
        return RoundPolicy(**self.model_dump())


def most_homes(members: Sequence[RegisteredMember]) -> int:
    """Give the largest number of homes behind one of `members`."""
    return max((member.homes for member in members), default=1)


class NodeConfig(StrictModel):
    """The settings of every node.

    `slots` are those of the whole run, which a `calendar` divides into sessions; without one there is one session.
    With `gates` the run is a grid, whose sessions open by the clock.
    `scenario` is a digest of what the run's nodes share; a node without it takes part in any game of its run. `tls` is
    the node's certificate for a broker at `mqtts://`. `reconnect_s` is the time within which a lost connection has to
    be made again; null is without limit, for the first connection too. The node keeps what it may know of its sessions
    in `history_file`, for `history_days` days.
    """

    run: Name
    name: Name
    game: str
    slots: Annotated[int, Field(ge=1)]
    calendar: Calendar | None = None
    gates: Annotated[Gates | None, Field(exclude_if=lambda gates: gates is None)] = None
    scenario: Digest | None = None
    broker: str = "mqtt://127.0.0.1:1883"
    tls: Tls | None = None
    reconnect_s: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = 60.0
    history_file: Path | None = None
    history_days: Annotated[int, Field(ge=1, le=36_600)] = 400

    @model_validator(mode="after")
    def _check_calendar(self) -> Self:
        if self.calendar is None and self.slots > MOST_SLOTS:
            raise ValueError(f"slots: {self.slots}, at most {MOST_SLOTS} can be played without a calendar; lower it")
        if self.calendar is not None and self.slots != self.calendar.slots:
            raise ValueError(f"slots: {self.slots}, the calendar has {self.calendar.slots}; make them equal")
        if self.gates is not None:
            self.gates.check(self.calendar)
        return self

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions of the run."""
        return list_sessions(self.calendar, self.slots)

    def find_gate(self, since: datetime) -> datetime | None:
        """Find when the first session after a time is to open, None where not this machine's clock says so."""
        if self.gates is None or self.gates.clock != "real":
            return None
        sessions, open_at = self.sessions, self.gates.open_at
        place = bisect_right(sessions, since, key=open_at)
        return open_at(sessions[place]) if place < len(sessions) else None

    @property
    def registrar(self) -> RegistrarLink | None:
        """The registrar of the run, who may change its members between two sessions: in a grid, that stays."""
        return None if self.gates is None else RegistrarLink(self.run)

    @property
    def session_slots(self) -> tuple[int, ...]:
        """The number of slots of each session."""
        return tuple(session.slots for session in self.sessions)

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The fingerprint of the game that the node takes part in."""
        if self.scenario is None:
            return None
        return Fingerprint(game=self.game, slots=self.slots, scenario=self.scenario)

    def terms(self) -> dict[str, Any]:
        """Give all that the course of the game depends on, as JSON: not places, and not how long to wait for whom.

        The members of a grid come and go.
        """
        files = {key for key, value in self if isinstance(value, Path)}
        members = set() if self.gates is None else {"members"}
        return self.model_dump(mode="json", exclude={*_NOT_OF_GAME, *members, *files})


_NOT_OF_GAME = ("broker", "tls", "reconnect_s", "history_file", "history_days", "rounds", "devices", "max_kw")
"""The keys that the course of a game does not depend on."""
_PROGRAMS = {"utility": "leader-node", "leader": "aggregator-node", "aggregator": "emc-node"}
"""The program whose configurations alone have a key."""


class _Outline(BaseModel):
    """A configuration of any role, before it is checked."""

    model_config = ConfigDict(extra="allow")

    game: str

    def find_program(self, model: type[NodeConfig]) -> str | None:
        """Find the program that this is a configuration for, None where that is the one of `model` or unknown."""
        found = [key for key in _PROGRAMS if key in (self.model_extra or {})]
        return None if not found or any(key in model.model_fields for key in found) else _PROGRAMS[found[0]]


Config = TypeVar("Config", bound=NodeConfig)


def load(path: Path, config_model: Callable[[Game], type[Config]], state: Path | None = None) -> Config:
    """Read a configuration file and check it by the model that `config_model` gives for the game it names.

    Files it names are relative to its own folder, those that the node writes to `state` if given. Raises `ConfigError`.
    """
    try:
        text = read_text(path, mend="name an existing file with --config")
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        outline = _Outline.model_validate_json(text)
        model = config_model(find(outline.game))
        if program := outline.find_program(model):
            raise ConfigError(f"{path}: is the configuration of another role; start it with {program}")
        config = model.model_validate_json(text)
    except UnknownGameError as error:
        raise ConfigError(f"{path}: game: {error}") from None
    except ValidationError as error:
        raise ConfigError(explain(str(path), error)) from None
    written = path.parent if state is None else state
    files: dict[str, Any] = {name: written / value for name, value in config if isinstance(value, Path)}
    if config.tls is not None:
        files["tls"] = config.tls.resolve_in(path.parent)
    return config.model_copy(update=files)
