"""The messages of a run. They are the same in every game; the models of `body` are the game's own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, FailFast, Field, SerializeAsAny, model_validator

from stackelgrid.wire.fingerprint import Fingerprint
from stackelgrid.wire.names import Name

MAX_ROUND = 1_000_000
MAX_NAMES = 10_000
MAX_REASON = 500

Round = Annotated[int, Field(ge=1, le=MAX_ROUND)]
SessionNumber = Annotated[int, Field(ge=1, le=MAX_ROUND, exclude_if=lambda number: number == 1)]
"""The number of a session, from 1. The first, of a run that may have no other, is not written."""
Names = Annotated[list[Name], FailFast()]
"""Names of nodes or classes. The first that is none is reported, and no other."""


class Body(BaseModel):
    """Base of a game's part of a message. Unknown keys, wrong types and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @property
    def slots(self) -> int | None:
        """Give the number of slots that the body is for, or None when it is for no certain number."""
        return None

    @property
    def questions(self) -> Collection[bytes]:
        """Give what a home discloses itself by when it answers; it answers a limited number of different ones."""
        return ()

    @property
    def price_range(self) -> tuple[float, float] | None:
        """Give the least and the largest price that it asks for or settles, or None if it has none."""
        return None

    @property
    def asks_sensitivity(self) -> bool:
        """Tell whether a home that answers says how its load follows the price."""
        return False

    @property
    def peak_kw(self) -> float | None:
        """Give the largest power that the homes draw or feed in, in any slot, in kW, or None if the body has none."""
        return None

    def find_objection(self, question: Body, max_kw: float | None) -> str | None:
        """Give what in this answer to `question` no sender with connections of `max_kw` can mean, or None.

        `max_kw` is None where the connections are unknown.
        """
        return None

    @property
    def fresh(self) -> bool:
        """Tell whether every home's part of the answer is of the round in which it is sent."""
        return True


SignalBody = TypeVar("SignalBody", bound=Body)
AnswerBody = TypeVar("AnswerBody", bound=Body)
SettlementBody = TypeVar("SettlementBody", bound=Body)


class Message(BaseModel):
    """Base of all messages: the keys that each of them has.

    A message of another `schema` is refused. `run` and `sender` must agree with the topic.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    purpose: ClassVar[str]

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    run: Name
    sender: Name


class OfSession(Message):
    """Base of the messages of a session: of which one they are."""

    session: SessionNumber = 1


class Signal(OfSession, Generic[SignalBody]):
    """A coordinator's question to its members in round `round`. It is retained for members that connect later.

    `again` names the members whose answer is missing: only they answer again. `fingerprint` is of what is played.
    """

    purpose = "signal"

    fingerprint: Fingerprint | None = None
    round: Round
    again: Annotated[Names, Field(max_length=MAX_NAMES)] = []
    body: SerializeAsAny[SignalBody]


class Answer(OfSession, Generic[AnswerBody]):
    """A member's answer to its coordinator's signal of round `round`."""

    purpose = "answer"

    round: Round
    body: SerializeAsAny[AnswerBody]


class Settlement(OfSession, Generic[SettlementBody]):
    """A coordinator's decision at the end of a session, from the answers of round `round`.

    It is retained; each member acknowledges it. `settled` is false when the rounds ran out first. `complete` tells
    whether every member answered round `round`. `fingerprint` is of what was played.
    """

    purpose = "settlement"

    fingerprint: Fingerprint | None = None
    round: Round
    settled: bool
    complete: bool
    body: SerializeAsAny[SettlementBody]


class Receipt(OfSession):
    """A member's confirmation of the settlement of round `round`, for its own members too except those in `missing`."""

    purpose = "receipt"

    round: Round
    missing: Annotated[Names, Field(max_length=MAX_NAMES)] = []


class Refusal(OfSession):
    """A coordinator's refusal of what one member sent in round `round`, to that member alone.

    `reason` is for a person to read. After a `final` one the coordinator ignores whatever the member answers.
    """

    purpose = "refusal"

    round: Round
    reason: Annotated[str, Field(max_length=MAX_REASON)]
    final: bool = False


class Presence(Message):
    """A member's state of connection. It is retained; `offline` is the member's last will.

    An aggregator is `gathering` while its own members come, and `online` once it can answer.
    """

    purpose = "presence"

    state: Literal["online", "offline", "gathering"]


class Heartbeat(Message):
    """A member's sign of life between the sessions of a grid, for observers alone. It is retained.

    `at` is when it was sent, `version` that of its software, `session` the one that it is in. What it carries out
    reaches until `plan_until`.
    """

    purpose = "heartbeat"

    at: AwareDatetime
    version: Annotated[str, Field(max_length=64)]
    session: Annotated[int, Field(ge=1, le=MAX_ROUND)]
    state: Literal["waiting", "round", "settled", "over", "lost"]
    plan_until: AwareDatetime | None = None


# --- who takes part ---


class RegisteredMember(BaseModel):
    """One member of a coordinator: a node's name, how many homes are behind it and what their connections carry."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Name
    homes: Annotated[int, Field(ge=1)] = 1
    max_kw: Annotated[float | None, Field(gt=0)] = None


RegisteredMembers = Annotated[list[RegisteredMember], FailFast(), Field(max_length=MAX_NAMES)]
RosterNumber = Annotated[int, Field(ge=1, le=2**53)]
"""The number of a roster, larger than those of all before it in the run."""


class Roster(Message):
    """The registrar's list of the aggregators and of the homes of each, to the leader. It is retained.

    It holds from the next session on.
    """

    purpose = "roster"

    number: RosterNumber
    aggregators: Annotated[dict[Name, RegisteredMembers], Field(max_length=MAX_NAMES)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        homes = [home.name for members in self.aggregators.values() for home in members]
        _check_names([*self.aggregators, *homes])
        return self


class AggregatorRoster(OfSession):
    """The leader's list of one aggregator's `members` from `session` on, out of the roster of that `number`.

    It is retained, and comes before the first signal of the session.
    """

    purpose = "roster"

    number: RosterNumber
    members: RegisteredMembers

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_names([member.name for member in self.members])
        return self


class Place(Message):
    """The registrar's word to one home: the aggregator that it belongs to, and what its connection carries.

    It is retained.
    """

    purpose = "place"

    number: RosterNumber
    aggregator: Name
    max_kw: Annotated[float | None, Field(gt=0)] = None


def _check_names(names: list[str]) -> None:
    """Raise `ValueError` where one name stands for two nodes, or there are more than a run can have."""
    if len(names) > MAX_NAMES:
        raise ValueError(f"{len(names)} nodes, at most {MAX_NAMES} can be in a roster")
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"{twice} is there twice")
