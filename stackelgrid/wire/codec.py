"""The codec between messages and bytes, and the topics that carry them.

    stackelgrid/RUN/COORDINATOR/signal               a coordinator's question to all its members; retained
    stackelgrid/RUN/COORDINATOR/settlement           its final decision; retained
    stackelgrid/RUN/COORDINATOR/MEMBER/signal        the same two on an addressed link,
    stackelgrid/RUN/COORDINATOR/MEMBER/settlement    where each member is asked something of its own; retained
    stackelgrid/RUN/COORDINATOR/MEMBER/answer        a member's answer
    stackelgrid/RUN/COORDINATOR/MEMBER/receipt       a member's confirmation of the settlement
    stackelgrid/RUN/COORDINATOR/MEMBER/refusal       the coordinator's refusal of what that member answered
    stackelgrid/RUN/COORDINATOR/MEMBER/presence      a member's state, online or offline; retained, last will

A topic names the run, the sender and the purpose, so that a broker's access rules can restrict each node to its own
topics. A coordinator subscribes to its own members only, a member to its own coordinator only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from pydantic import BaseModel, ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.wire.fingerprint import Fingerprint
from stackelgrid.wire.messages import (
    MAX_NAMES,
    Answer,
    Body,
    Message,
    OfSession,
    Presence,
    Receipt,
    Refusal,
    Settlement,
    Signal,
)
from stackelgrid.wire.names import MAX_NAME_LENGTH

ROOT = "stackelgrid"
MAX_BYTES = 16 * 1024 * 1024
"""No payload is longer. Most links have a tighter bound, see `Link.max_bytes`."""
_KILOBYTE = 1024
_NUMBER_BYTES = 32
"""A number in JSON with its comma has fewer."""
_VECTORS = 16
"""No message has more vectors, or matrices with a row per home."""
_MATRICES = 8
"""No message has more matrices with a row and a column per slot."""
_KEYS = 1000
"""No message has more keys, objects and lists, without those that it may have for each vector and home."""
MAX_DEPTH = 16
"""No message has objects and lists in each other more deeply."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DETAIL = 200
"""The characters of a reason that are kept; a sender chooses its own keys and topics."""


class BadMessageError(Exception):
    """A payload that is no message for this node. `reason` is one word, for counters; `detail` is for a log."""

    def __init__(self, reason: str, detail: str) -> None:
        detail = detail[:_DETAIL]
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class AnotherGameError(ConfigError):
    """A coordinator plays something else than this node is configured for; the message says what differs."""


@dataclass(frozen=True)
class Bodies:
    """A game's models for the bodies of the messages between a coordinator and its members.

    On an `addressed` link each member gets a signal and a settlement of its own, which no other member receives.
    """

    signal: type[Body]
    answer: type[Body]
    settlement: type[Body]
    addressed: bool = False


@dataclass(frozen=True)
class Link:
    """The exchange between one coordinator and its members: run, coordinator, the game's bodies, number of slots.

    `slots` has one number for each session where there are several. `homes` is the largest number of homes behind one
    member. It bounds how long a payload may be. Where there is a `fingerprint`, the coordinator's messages must have
    the same.
    """

    run: str
    coordinator: str
    bodies: Bodies
    slots: int | tuple[int, ...]
    homes: int | None = None
    fingerprint: Fingerprint | None = None

    @cached_property
    def sessions(self) -> tuple[int, ...]:
        """The number of slots of each session."""
        return (self.slots,) if isinstance(self.slots, int) else self.slots

    @cached_property
    def _most_slots(self) -> int:
        return max(self.sessions)

    @cached_property
    def root(self) -> str:
        """Give the beginning of the link's topics."""
        return f"{ROOT}/{self.run}/{self.coordinator}"

    def topic(self, message: Message, member: str | None = None) -> str:
        """Give the topic that carries `message`. Only what a coordinator sends to one member needs `member`."""
        if isinstance(message, Signal | Settlement):
            return self.topic_to_member(message.purpose, member)
        if isinstance(message, Refusal):
            return f"{self.root}/{member}/{message.purpose}"
        return f"{self.root}/{message.sender}/{message.purpose}"

    def topic_to_member(self, purpose: str, member: str | None) -> str:
        """Give the topic on which `member` receives a signal or a settlement (`purpose`)."""
        return f"{self.root}/{member}/{purpose}" if self.bodies.addressed else f"{self.root}/{purpose}"

    def topics_from_coordinator(self, member: str) -> tuple[str, ...]:
        """Give the topics that `member` subscribes to."""
        asked = tuple(self.topic_to_member(purpose, member) for purpose in ("signal", "settlement"))
        return (*asked, f"{self.root}/{member}/refusal")

    def topics_from_members(self) -> tuple[str, ...]:
        """Give the topic filters that the coordinator subscribes to."""
        return tuple(f"{self.root}/+/{p}" for p in ("answer", "receipt", "presence"))

    def max_bytes(self, purpose: str) -> int:
        """Give the length above which a payload is refused without being parsed.

        Whoever may publish could otherwise fill a node's memory: of 16 MiB of unknown keys a parser makes a gigabyte.
        """
        names, numbers = self._count_most(purpose)
        rest = _KILOBYTE if purpose in ("presence", "receipt") else 64 * _KILOBYTE
        return min(MAX_BYTES, rest + (MAX_NAME_LENGTH + 3) * names + _NUMBER_BYTES * numbers)

    def _count_most(self, purpose: str) -> tuple[int, int]:
        """Count the names and the numbers that a message may have."""
        homes = MAX_NAMES if self.homes is None else self.homes
        numbers = _MATRICES * self._most_slots**2 + _VECTORS * homes * self._most_slots
        match purpose:
            case "presence" | "refusal":
                return 0, 0
            case "receipt":
                return homes, 0
            case "signal":
                return MAX_NAMES, numbers
            case _:
                return homes, numbers

    def _find_excess(self, purpose: str, payload: bytes) -> str:
        """Find, without parsing, what no message has so much of; empty when there is nothing.

        A parser makes a hundred times its length of a payload of empty objects, and notes a mistake for each of them.
        """
        if len(payload) > (longest := self.max_bytes(purpose)):
            return f"{len(payload)} bytes, at most {longest} are read"
        keys = sum(map(payload.count, (b":", b"{", b"[")))
        if keys > (most := _KEYS + _VECTORS * (MAX_NAMES if self.homes is None else self.homes)):
            return f"{keys} keys, objects and lists, at most {most} are read"
        if (values := payload.count(b",")) > (most := _KEYS + sum(self._count_most(purpose))):
            return f"{values} values, at most {most} are read"
        return ""

    def write(self, message: Message) -> bytes:
        """Write a message as compact JSON; floats keep all their digits."""
        return message.model_dump_json(by_alias=True, exclude_none=True).encode()

    def read(self, topic: str, payload: bytes) -> Message:
        """Read a payload that arrived on `topic`.

        Raises `BadMessageError`. Its reason is `foreign` (not of this link, run and sender do not agree with the
        topic, or no fingerprint where one is wanted), `oversized`, or `malformed` (not JSON, unknown or missing keys,
        wrong types or lengths, numbers that are not finite). Raises `AnotherGameError` for a coordinator's message with
        another fingerprint.
        """
        parts = topic.split("/")
        if parts[:3] != [ROOT, self.run, self.coordinator] or len(parts) not in (4, 5):
            raise BadMessageError("foreign", f"topic {topic!r} is not of this link")
        model = message_models(self.bodies).get((parts[-1], len(parts)))
        if model is None:
            raise BadMessageError("foreign", f"topic {topic!r} has no known purpose")
        if excess := self._find_excess(parts[-1], payload):
            raise BadMessageError("oversized", f"{topic}: {excess}")
        if _is_deep(payload):
            raise BadMessageError("malformed", f"{topic}: brackets do not close within {MAX_DEPTH} levels")
        try:
            message = model.model_validate_json(payload)
        except ValidationError as error:
            if issubclass(model, Signal | Settlement):  # of another game, it can have a body that is none in this one
                self._require_same_game(topic, _read_header(payload))
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(step) for step in first["loc"]) or "payload"
            raise BadMessageError("malformed", f"{topic}: {where}: {first['msg']}") from None
        if isinstance(message, Signal | Settlement):
            self._require_same_game(topic, message)
        sender = parts[3] if isinstance(message, Answer | Receipt | Presence) else self.coordinator
        if isinstance(message, OfSession):
            self._check_session(topic, message)
        if message.run != self.run or message.sender != sender:
            raise BadMessageError("foreign", f"{topic} carries a message of {message.sender} in run {message.run}")
        if isinstance(message, Signal | Settlement) and self.fingerprint is not None and message.fingerprint is None:
            raise BadMessageError("foreign", f"{topic}: the message has no fingerprint")
        return message

    def _check_session(self, topic: str, message: OfSession) -> None:
        """Raise `BadMessageError` for a message of a session that the run has not, or with a body for another one."""
        if message.session > len(self.sessions):
            raise BadMessageError(
                "malformed", f"{topic}: it is of session {message.session}, the run has {len(self.sessions)}"
            )
        body, slots = getattr(message, "body", None), self.sessions[message.session - 1]
        if body is not None and body.slots not in (None, slots):
            of = "the run" if len(self.sessions) == 1 else f"session {message.session}"
            raise BadMessageError("malformed", f"{topic}: body is for {body.slots} slots, {of} has {slots}")

    def _require_same_game(self, topic: str, message: Signal[Body] | Settlement[Body] | _Header) -> None:
        """Raise `AnotherGameError` where `message` is the coordinator's, and of another game than this link is for."""
        own, other = self.fingerprint, message.fingerprint
        if own is None or other in (None, own) or (message.run, message.sender) != (self.run, self.coordinator):
            return
        raise AnotherGameError(
            f"{topic}: another run {self.run} is there, {own.describe_difference(other)}; provision this one under "
            "another name (--run), or clear what the broker retains of the other"
        )


def _is_deep(payload: bytes) -> bool:
    """Tell whether brackets remain when those that close are taken out, level by level from the innermost."""
    brackets = payload.translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return bool(brackets)


@dataclass(frozen=True, slots=True)
class Description:
    """The outside of a message: `member` is None where it goes to all members, `round` where it is of no round."""

    purpose: str
    coordinator: str
    member: str | None
    round: int | None
    session: int = 1

    @property
    def of_coordinator(self) -> bool:
        """True for what a coordinator sends to its members, false for what a member sends."""
        return self.purpose in ("signal", "settlement", "refusal")

    @property
    def sender(self) -> str:
        """The node that may send on this topic."""
        return self.coordinator if self.of_coordinator or self.member is None else self.member


class _Header(BaseModel):
    run: str | None = None
    sender: str | None = None
    fingerprint: Fingerprint | None = None
    round: int | None = None
    session: int = 1


def _read_header(payload: bytes) -> _Header:
    """Read the header of a message, of any run and with any body; what is none has an empty one."""
    try:
        return _Header.model_validate_json(payload)
    except ValidationError:
        return _Header()


def describe(topic: str, payload: bytes) -> Description:
    """Describe a message of any run by its topic and its header; the body is not looked at.

    A payload that is empty or no message is of no round. Raises `BadMessageError` for a topic of another form.
    """
    match topic.split("/"):
        case [_, _, coordinator, purpose]:
            member = None
        case [_, _, coordinator, member, purpose]:
            pass
        case _:
            raise BadMessageError("foreign", f"topic {topic!r} is not of a conversation")
    header = _read_header(payload)
    return Description(purpose, coordinator, member, header.round, header.session)


@cache
def message_models(bodies: Bodies) -> dict[tuple[str, int], type[Message]]:
    """Give the models of the payloads, by purpose and number of levels of the topic.

    They are cached: pydantic drops a parametrised class that nobody refers to and builds it again, in milliseconds.
    """
    down = 5 if bodies.addressed else 4
    return {
        ("signal", down): Signal[bodies.signal],  # type: ignore[name-defined]
        ("settlement", down): Settlement[bodies.settlement],  # type: ignore[name-defined]
        ("answer", 5): Answer[bodies.answer],  # type: ignore[name-defined]
        ("receipt", 5): Receipt,
        ("refusal", 5): Refusal,
        ("presence", 5): Presence,
    }
