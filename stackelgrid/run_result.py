"""result.json: what came out of a run, in the terms of its game."""

from __future__ import annotations

import math
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, RootModel, field_validator, model_validator

from stackelgrid.model import Finite, SchemaVersion, StrictModel
from stackelgrid.registry import find
from stackelgrid.run_record import Outcome


class Missing(StrictModel):
    """A member that a round went on without, what was done, and why, in words.

    It is `held`, `excluded` or `quarantined`; a group of homes whose answers are masked may be `not summed`.
    """

    round: int
    node: str
    action: str
    why: str = ""


class RepeatedRequest(StrictModel):
    """The number of members that a coordinator asked again in a round of the leader."""

    round: int
    by: str
    members: int


class RoundTraffic(StrictModel):
    """The questions that a home was asked in a round of the leader, and its messages and bytes; None: in no round."""

    round: int | None
    questions: int
    messages: int
    bytes: int


class PlayedPrivacy(StrictModel):
    """What homes disclosed in a run, and to whom; see `stackelgrid.rounds.settings.PrivacySettings`.

    `sensitivity` is `none` also in a game that asks for none; `questions_per_session` is None where homes count no
    questions. Where sums were masked, `keys` says who vouches for the keys: `certificates`, or nobody (`unsigned`).
    """

    sums: Literal["off", "committee"]
    sensitivity: Literal["full", "none"]
    minimum_group: int
    price_band: tuple[Finite, Finite] | None
    questions_per_session: int | None
    keys: Literal["certificates", "unsigned"] | None = None


class FaultOccurrence(StrictModel):
    """The number of times that a fault of the plan struck in a round of the leader, None for between rounds.

    `fault` is its number in the plan. It struck a `node`, or messages `from_` some `to` others, or else the broker.
    """

    fault: int
    kind: str
    round: int | None
    times: int
    node: str = ""
    from_: Annotated[list[str], Field(alias="from")] = []
    to: list[str] = []


class Certificate(RootModel[dict[str, Any]]):
    """The content of a certificate, by key. Any number may be missing: each game and method has its own."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="after")
    def _check_common_keys(self) -> Self:
        if not isinstance(self.root.get("method", ""), str | None):
            raise ValueError(f"method is {self.root['method']!r}, not a text")
        for key in ("feasible", "passed"):
            if not isinstance(self.root.get(key), bool | None):
                raise ValueError(f"{key} is {self.root[key]!r}, neither true nor false")
        return self

    @property
    def method(self) -> str | None:
        """The method, in words."""
        return self.root.get("method")

    @property
    def feasible(self) -> bool | None:
        """True when every limit of every player is kept; None when that was not checked."""
        return self.root.get("feasible")

    @property
    def passed(self) -> bool | None:
        """The verdict; None when nothing in it is judged."""
        return self.root.get("passed")

    def number(self, key: str) -> float | None:
        """Give the number that `key` leads to, with dots into what is nested; None where there is none.

        Raises `ValueError` for what is no finite number.
        """
        value: Any = self.root
        for step in key.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"certificate.{key} is {value!r}, not a finite number")
        return float(value)

    @property
    def numbers(self) -> dict[str, float]:
        """Every number in it that is not nested, by key."""
        content = self.root.items()
        return {key: value for key, value in content if isinstance(value, int | float) and not isinstance(value, bool)}


Found = TypeVar("Found", bound=Outcome)
OutcomeOrEmpty = Annotated[
    Found | None,
    BeforeValidator(lambda outcome: None if outcome == {} else outcome),
    PlainSerializer(lambda outcome: {} if outcome is None else outcome.content(), return_type=dict[str, Any]),
]
"""An outcome, None in files as an empty mapping."""


class SessionResult(StrictModel, Generic[Found]):
    """The result of one session of several.

    It begins at `start`, looks at `slots` slots and binds `binding` of them. `questions`, `messages` and `bytes` are
    those of its rounds. `states` are those in which leader and homes went into it, by name. The rest is as in
    `RunResult`.
    """

    start: str
    slots: int
    binding: int
    settled: bool
    complete: bool
    stopped: str = ""
    rounds: int
    questions: int
    messages: int
    bytes: int
    homes_settled: int
    newcomers: list[str] = []
    states: dict[str, Any] = {}
    outcome: OutcomeOrEmpty[Found]
    certificate: Certificate | None


class RunResult(StrictModel, Generic[Found]):
    """The content of result.json.

    A run of several sessions has them in `sessions`: then `settled` and `complete` say whether all of them were,
    numbers are sums, and `outcome` and `certificate` are those of each session alone.

    - `settled`: whether the leader's stopping rule was met, `complete`: on a round that everybody answered;
    - `stopped`: why the leader ended it before the rounds ran out, or skipped a session; empty where it did not;
    - `rounds`: of the leader, `inner_rounds`: of the aggregator that played most rounds with its homes, `questions`:
      that one home was asked;
    - `messages`, `bytes`: messages that the nodes sent and bytes of their payloads; `rejected`: messages ignored, by
      reason; `traffic`: questions, messages and bytes by round;
    - `homes`: how many there are, `homes_settled`: how many reported a schedule, `newcomers`: those of
      a grid among them that are not in the scenario;
    - `privacy`: what homes disclosed, None of a run of before there were levels;
    - `calibrated`: the scenario's keys that were fitted, each with the figures that it was fitted to;
    - `outcome`: None when not a single round was finished, `certificate`: None when none was made;
    - `faults`: how often each kind of fault struck, `failures`: nodes that died, and why.
    """

    schema_version: SchemaVersion = 1
    game: str
    scenario: str
    seed: int
    transport: str
    broker: str
    settled: bool
    complete: bool
    stopped: str = ""
    rounds: int
    inner_rounds: int
    questions: int = 0
    elapsed_s: Finite
    messages: int
    bytes: int
    rejected: dict[str, int] = {}
    homes: int
    homes_settled: int
    newcomers: list[str] = []
    processes: int
    money: str
    privacy: PlayedPrivacy | None = None
    calibrated: dict[str, str] = {}
    outcome: OutcomeOrEmpty[Found]
    certificate: Certificate | None
    missing: list[Missing] = []
    asked_again: list[RepeatedRequest] = []
    traffic: list[RoundTraffic] = []
    sessions: list[SessionResult[Found]] = []
    faults: dict[str, int] = {}
    struck: list[FaultOccurrence] = []
    failures: dict[str, str] = {}

    @field_validator("game")
    @classmethod
    def _check_installed(cls, game: str) -> str:
        find(game)
        return game

    @property
    def certifiable(self) -> bool:
        """True when every home is in the outcome, that of one session at least, and nobody else was in the game.

        A reference without some of them would certify another game.
        """
        if self.sessions:
            return any(self.of_session(number + 1).certifiable for number in range(len(self.sessions)))
        return self.complete and self.homes_settled == self.homes and not self.newcomers

    def of_session(self, number: int) -> Self:
        """Give the result of one of several sessions as that of a run of its own."""
        session = self.sessions[number - 1]
        own = {key: getattr(session, key) for key in session.model_fields_set & type(self).model_fields.keys()}
        return self.model_copy(update={**own, "sessions": []})

    def with_certificate(self, certificate: dict[str, Any]) -> Self:
        """Give the same result with a certificate in place of the one it has."""
        return self.model_copy(update={"certificate": Certificate(certificate)})

    def __reduce__(self) -> tuple[Any, ...]:
        # A class that is made for an outcome's model has no name by which pickle would find it.
        return parse, (self.content(),)

    def content(self) -> dict[str, Any]:
        """Give what result.json holds, ready for JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def parse(content: Any) -> RunResult[Any]:
    """Check the content of a result.json, the outcome by the model of its game. Raises `pydantic.ValidationError`."""
    outcome: Any = find(RunResult[Any].model_validate(content).game).load("outcome")
    result: RunResult[Any] = RunResult[outcome].model_validate(content)
    return result
