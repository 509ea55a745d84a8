"""The five messages of a run, whatever the game; what they carry in `body` is the game's (see `user_oriented`)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

MAX_ROUND = 1_000_000
MAX_NAMES = 10_000

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""A run's or a node's id: it is a level of a topic, so no slashes, wildcards or spaces."""

Round = Annotated[int, Field(ge=1, le=MAX_ROUND)]


class Body(BaseModel):
    """Base of what a game puts into a message: unknown keys, wrong types and non-finite numbers are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @property
    def slots(self) -> int | None:
        """The horizon the body is made for; None when it has none."""
        return None

    @property
    def peak_kw(self) -> float | None:
        """The most that the homes behind it draw or feed in, in any slot, kW; None when it does not tell."""
        return None

    @property
    def fresh(self) -> bool:
        """Whether every number in it answers the round it is sent in."""
        return True


SignalBody = TypeVar("SignalBody", bound=Body)
AnswerBody = TypeVar("AnswerBody", bound=Body)
SettlementBody = TypeVar("SettlementBody", bound=Body)


class Message(BaseModel):
    """What every message says of itself.

    One of another `schema` is refused; `run` and `sender` must agree with the topic it came on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    purpose: ClassVar[str]

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    run: Name
    sender: Name


class Signal(Message, Generic[SignalBody]):
    """A coordinator asks its members in round `round`. Retained, so that a member that comes back finds it.

    `again` names the members whose answer is missing: they answer again, the others have been heard.
    """

    purpose = "signal"

    round: Round
    again: Annotated[list[Name], Field(max_length=MAX_NAMES)] = []
    body: SerializeAsAny[SignalBody]


class Answer(Message, Generic[AnswerBody]):
    """A member's answer to its coordinator's signal of round `round`."""

    purpose = "answer"

    round: Round
    body: SerializeAsAny[AnswerBody]


class Settlement(Message, Generic[SettlementBody]):
    """A coordinator's last word, decided on the answers of round `round`. Retained; each member acknowledges it.

    `settled` is false when the rounds ran out first; `complete` says whether every member answered round `round`.
    """

    purpose = "settlement"

    round: Round
    settled: bool
    complete: bool
    body: SerializeAsAny[SettlementBody]


class Receipt(Message):
    """A member has the settlement of round `round`, and so have its own members but those it lists as `missing`."""

    purpose = "receipt"

    round: Round
    missing: Annotated[list[Name], Field(max_length=MAX_NAMES)] = []


class Presence(Message):
    """Whether a node is there. Retained; `offline` is the node's last will."""

    purpose = "presence"

    state: Literal["online", "offline"]
