"""The codec between messages and bytes, and the topics that carry them.

    stackelgrid/RUN/COORDINATOR/signal               a coordinator's question to all its members; retained
    stackelgrid/RUN/COORDINATOR/settlement           its final decision; retained
    stackelgrid/RUN/COORDINATOR/MEMBER/signal        the same two on an addressed link,
    stackelgrid/RUN/COORDINATOR/MEMBER/settlement    where each member is asked something of its own; retained
    stackelgrid/RUN/COORDINATOR/MEMBER/answer        a member's answer
    stackelgrid/RUN/COORDINATOR/MEMBER/receipt       a member's confirmation of the settlement
    stackelgrid/RUN/COORDINATOR/MEMBER/refusal       the coordinator's refusal of what that member answered
    stackelgrid/RUN/COORDINATOR/MEMBER/presence      a member's state, online or offline; retained, last will
    stackelgrid/RUN/COORDINATOR/MEMBER/heartbeat     a member's sign of life in a grid, for observers; retained
    stackelgrid/RUN/LEADER/AGGREGATOR/roster         the aggregator's members from a session on; retained
    stackelgrid/RUN/registrar/roster                 all aggregators with their members, for the leader; retained
    stackelgrid/RUN/registrar/HOME/place             a home's aggregator, for the home; retained

On a link with private sums there are besides:

    stackelgrid/RUN/COORDINATOR/MEMBER/keys          a member's public keys; retained
    stackelgrid/RUN/COORDINATOR/committee            the roster of masks, to all its members; retained
    stackelgrid/RUN/COORDINATOR/MEMBER/shares        the secrets of a member's masks, sealed for the committee
    stackelgrid/RUN/COORDINATOR/MEMBER/entrusted     those of all, to one of the committee; retained
    stackelgrid/RUN/COORDINATOR/MEMBER/holding       its word that it has got them
    stackelgrid/RUN/COORDINATOR/MEMBER/list          the answers that stand in a sum, to one of the committee
    stackelgrid/RUN/COORDINATOR/MEMBER/signature     its signature of the list
    stackelgrid/RUN/COORDINATOR/MEMBER/quorum        the others' signatures, to one of the committee
    stackelgrid/RUN/COORDINATOR/MEMBER/masks         its sums of masks

A topic names the run, the sender and the purpose, so that a broker's access rules can restrict each node to its own
topics. A coordinator subscribes to its own members only, a member to its own coordinator only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.wire.fingerprint import Fingerprint
from stackelgrid.wire.masks import (
    COMMITTEE,
    MAX_GROUPS,
    MAX_SHARE,
    SUBSETS,
    EntrustedShares,
    ListSignature,
    MaskedAnswer,
    MaskKeys,
    MaskList,
    MaskRoster,
    MaskShares,
    MaskSums,
    Quorum,
    ShareReceipt,
)
from stackelgrid.wire.messages import (
    MAX_NAMES,
    AggregatorRoster,
    Answer,
    Body,
    Heartbeat,
    Message,
    OfSession,
    Place,
    Presence,
    Receipt,
    Refusal,
    Roster,
    Settlement,
    Signal,
)
from stackelgrid.wire.names import MAX_NAME_LENGTH
from stackelgrid.wire.roles import REGISTRAR

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
_ENTRY_BYTES = 3 * (MAX_NAME_LENGTH + 3)
"""A node's entry in a roster has fewer, the name of its aggregator included."""
_ENTRY_KEYS = 8
_KEYS = 1000
"""No message has more keys, objects and lists, without those that it may have for each vector and home."""
_PRICES = 100
"""No masked answer is to more prices. To each there is a load, a slope and the triangle of a matrix at most."""
_WORD_BYTES = 11
"""A word in base64 has fewer."""
MAX_DEPTH = 16
"""No message has objects and lists in each other more deeply."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DETAIL = 200
"""The characters of a reason that are kept; a sender chooses its own keys and topics."""


class _Most(NamedTuple):
    """What a payload may have so much of: bytes; keys, objects and lists; values."""

    bytes: int
    keys: int
    values: int


class BadMessageError(Exception):
    """A payload that is no message for this node. `reason` is one word, for counters; `detail` is for a log."""

    def __init__(self, reason: str, detail: str) -> None:
        detail = detail[:_DETAIL]
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class AnotherGameError(ConfigError):
    """A coordinator plays something else than this node is configured for; the message says what differs."""


class Channel(Protocol):
    """Messages of a run below one `root`: what a node reads from."""

    @property
    def coordinator(self) -> str:
        """Whose they are."""

    @property
    def root(self) -> str:
        """The beginning of its topics."""

    def read(self, topic: str, payload: bytes) -> Message:
        """Read a payload that arrived on `topic`. Raises `BadMessageError`, and `AnotherGameError` where it may."""


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
    the same. `listen` hears each message that is written or read. With `private_sums` members answer with masks on,
    whatever `bodies` has for an answer.
    """

    run: str
    coordinator: str
    bodies: Bodies
    slots: int | tuple[int, ...]
    homes: int | None = None
    fingerprint: Fingerprint | None = None
    listen: Callable[[Message], None] | None = field(default=None, compare=False)
    private_sums: bool = False

    def __post_init__(self) -> None:
        if self.private_sums:
            object.__setattr__(self, "bodies", replace(self.bodies, answer=MaskedAnswer))

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
        if isinstance(message, MaskRoster):
            return f"{self.root}/{message.purpose}"
        if isinstance(message, Refusal | AggregatorRoster | EntrustedShares | MaskList | Quorum):
            return f"{self.root}/{member}/{message.purpose}"
        return f"{self.root}/{message.sender}/{message.purpose}"

    def topic_to_member(self, purpose: str, member: str | None) -> str:
        """Give the topic on which `member` receives a signal or a settlement (`purpose`)."""
        return f"{self.root}/{member}/{purpose}" if self.bodies.addressed else f"{self.root}/{purpose}"

    def topics_from_coordinator(self, member: str) -> tuple[str, ...]:
        """Give the topics that `member` subscribes to."""
        asked = tuple(self.topic_to_member(purpose, member) for purpose in ("signal", "settlement"))
        topics = (*asked, f"{self.root}/{member}/refusal")
        if not self.private_sums:
            return topics
        return (
            *topics,
            f"{self.root}/committee",
            *(f"{self.root}/{member}/{p}" for p in ("entrusted", "list", "quorum")),
        )

    def topic_of_roster(self, member: str) -> str:
        """Give the topic on which `member` receives its own members."""
        return f"{self.root}/{member}/roster"

    def topics_from_members(self) -> tuple[str, ...]:
        """Give the topic filters that the coordinator subscribes to."""
        of_masks = ("keys", "shares", "holding", "signature", "masks") if self.private_sums else ()
        return tuple(f"{self.root}/+/{p}" for p in ("answer", "receipt", "presence", *of_masks))

    def max_bytes(self, purpose: str) -> int:
        """Give the length above which a payload is refused without being parsed.

        Whoever may publish could otherwise fill a node's memory: of 16 MiB of unknown keys a parser makes a gigabyte.
        """
        return self._find_most(purpose).bytes

    def _find_most(self, purpose: str) -> _Most:
        """Find what a payload of that purpose may have so much of."""
        if purpose in _MOST:
            return _MOST[purpose]
        if purpose == "answer" and self.private_sums:
            slots = self._most_slots
            words = _PRICES * (2 * slots + slots * (slots + 1) // 2)
            return _Most(min(MAX_BYTES, 64 * _KILOBYTE + _WORD_BYTES * words), _KEYS, _KEYS)
        names, numbers = self._count_most(purpose)
        rest = _KILOBYTE if purpose in ("presence", "receipt") else 64 * _KILOBYTE
        keys = _KEYS + _VECTORS * (MAX_NAMES if self.homes is None else self.homes)
        longest = rest + (MAX_NAME_LENGTH + 3) * names + _NUMBER_BYTES * numbers
        return _Most(min(MAX_BYTES, longest), keys, _KEYS + names + numbers)

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

    def write(self, message: Message) -> bytes:
        """Write a message as compact JSON; floats keep all their digits."""
        if self.listen is not None:
            self.listen(message)
        return _write(message)

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
        kind = (parts[-1], len(parts))
        model = message_models(self.bodies).get(kind) or (_MODELS_OF_MASKS.get(kind) if self.private_sums else None)
        if model is None:
            raise BadMessageError("foreign", f"topic {topic!r} has no known purpose")
        _require_size(topic, payload, self._find_most(parts[-1]))
        try:
            message = _parse(model, topic, payload)
        except BadMessageError:
            if issubclass(model, Signal | Settlement):  # of another game, it can have a body that is none in this one
                self._require_same_game(topic, _read_header(payload))
            raise
        if isinstance(message, Signal | Settlement):
            self._require_same_game(topic, message)
        sender = parts[3] if isinstance(message, _OF_MEMBER) else self.coordinator
        if isinstance(message, OfSession):
            self._check_session(topic, message)
        if message.run != self.run or message.sender != sender:
            raise BadMessageError("foreign", f"{topic} carries a message of {message.sender} in run {message.run}")
        if isinstance(message, Answer) and getattr(message.body, "round", message.round) != message.round:
            raise BadMessageError("malformed", f"{topic}: its mask is not of round {message.round}")
        if isinstance(message, Signal | Settlement) and self.fingerprint is not None and message.fingerprint is None:
            raise BadMessageError("foreign", f"{topic}: the message has no fingerprint")
        if self.listen is not None:
            self.listen(message)
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


_OF_MEMBER = (Answer, Receipt, Presence, MaskKeys, MaskShares, ShareReceipt, ListSignature, MaskSums)
_MODELS_OF_MASKS: dict[tuple[str, int], type[Message]] = {
    ("keys", 5): MaskKeys,
    ("committee", 4): MaskRoster,
    ("shares", 5): MaskShares,
    ("entrusted", 5): EntrustedShares,
    ("holding", 5): ShareReceipt,
    ("list", 5): MaskList,
    ("signature", 5): ListSignature,
    ("quorum", 5): Quorum,
    ("masks", 5): MaskSums,
}

_SMALL = _Most(_KILOBYTE, _KEYS, _KEYS)
_MOST_ENTRIES = _KEYS + _ENTRY_KEYS * MAX_NAMES
_MOST_IN_ROSTER = _Most(_KILOBYTE + _ENTRY_BYTES * MAX_NAMES, _MOST_ENTRIES, _MOST_ENTRIES)
_SHARE_BYTES = MAX_NAME_LENGTH + MAX_SHARE + 6
_NONCE_BYTES = MAX_NAME_LENGTH + 64
_MOST_SUMS = _KEYS + 4 * SUBSETS * MAX_GROUPS
_MOST = {
    "roster": _MOST_IN_ROSTER,
    "keys": _SMALL._replace(bytes=8 * _KILOBYTE),
    "committee": _Most(MAX_BYTES, _MOST_ENTRIES, _MOST_ENTRIES),
    "shares": _SMALL._replace(bytes=_KILOBYTE + _SHARE_BYTES * COMMITTEE),
    "entrusted": _Most(_KILOBYTE + _SHARE_BYTES * MAX_NAMES, _KEYS + MAX_NAMES, _KEYS + MAX_NAMES),
    "holding": _Most(_KILOBYTE + (MAX_NAME_LENGTH + 3) * MAX_NAMES, _KEYS, _KEYS + MAX_NAMES),
    "list": _Most(_KILOBYTE + _NONCE_BYTES * MAX_NAMES, _KEYS + MAX_NAMES, _KEYS + MAX_NAMES),
    "signature": _SMALL,
    "quorum": _SMALL._replace(bytes=2 * _KILOBYTE),
    "masks": _Most(MAX_BYTES, _MOST_SUMS, _MOST_SUMS),
}
"""What a message may have so much of whatever the link is; a roster may have every process of a run."""


@dataclass(frozen=True)
class RegistrarLink:
    """What the registrar of a run publishes: the roster for the leader, for each home its place."""

    run: str
    coordinator: str = REGISTRAR

    @property
    def root(self) -> str:
        """Give the beginning of its topics."""
        return f"{ROOT}/{self.run}/{self.coordinator}"

    @property
    def topic_of_roster(self) -> str:
        """Give the topic of the roster."""
        return f"{self.root}/roster"

    def topic_of_place(self, home: str) -> str:
        """Give the topic of a home's place."""
        return f"{self.root}/{home}/place"

    def write(self, message: Roster | Place) -> bytes:
        """Write a message as compact JSON."""
        return _write(message)

    def read(self, topic: str, payload: bytes) -> Roster | Place:
        """Read a payload that arrived on `topic`. Raises `BadMessageError` as `Link.read` does."""
        parts = topic.removeprefix(f"{self.root}/").split("/")
        match parts:
            case ["roster"]:
                _require_size(topic, payload, _MOST_IN_ROSTER)
                message: Roster | Place = _parse(Roster, topic, payload)
            case [_, "place"]:
                _require_size(topic, payload, _SMALL)
                message = _parse(Place, topic, payload)
            case _:
                raise BadMessageError("foreign", f"topic {topic!r} is not the registrar's")
        if (message.run, message.sender) != (self.run, REGISTRAR):
            raise BadMessageError("foreign", f"{topic} carries a message of {message.sender} in run {message.run}")
        return message


@dataclass(frozen=True)
class HeartbeatLink:
    """The heartbeats of all members in a run."""

    run: str

    def topic(self, coordinator: str, member: str) -> str:
        """Give the topic of a member's heartbeat."""
        return f"{ROOT}/{self.run}/{coordinator}/{member}/heartbeat"

    @property
    def topics(self) -> str:
        """Give the filter of all its topics."""
        return self.topic("+", "+")

    def write(self, heartbeat: Heartbeat) -> bytes:
        """Write a heartbeat as compact JSON."""
        return _write(heartbeat)

    def read(self, topic: str, payload: bytes) -> Heartbeat:
        """Read a payload that arrived on `topic`. Raises `BadMessageError` as `Link.read` does."""
        match topic.split("/"):
            case [_, self.run, _, member, "heartbeat"]:
                _require_size(topic, payload, _SMALL)
                heartbeat = _parse(Heartbeat, topic, payload)
            case _:
                raise BadMessageError("foreign", f"topic {topic!r} is no heartbeat's in run {self.run}")
        if (heartbeat.run, heartbeat.sender) != (self.run, member):
            raise BadMessageError("foreign", f"{topic} carries a message of {heartbeat.sender} in run {heartbeat.run}")
        return heartbeat


AnyMessage = TypeVar("AnyMessage", bound=Message)


def _write(message: Message) -> bytes:
    return message.model_dump_json(by_alias=True, exclude_none=True).encode()


def _parse(model: type[AnyMessage], topic: str, payload: bytes) -> AnyMessage:
    """Read a payload of a size that may be read. Raises `BadMessageError` for one that is `malformed`."""
    if _is_deep(payload):
        raise BadMessageError("malformed", f"{topic}: brackets do not close within {MAX_DEPTH} levels")
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "payload"
        raise BadMessageError("malformed", f"{topic}: {where}: {first['msg']}") from None


def _require_size(topic: str, payload: bytes, most: _Most) -> None:
    """Raise `BadMessageError` for a payload with more than that, without parsing it.

    A parser makes a hundred times its length of a payload of empty objects, and notes a mistake for each of them.
    """
    keys, values = sum(map(payload.count, (b":", b"{", b"["))), payload.count(b",")
    for count, limit, what in (
        (len(payload), most.bytes, "bytes"),
        (keys, most.keys, "keys, objects and lists"),
        (values, most.values, "values"),
    ):
        if count > limit:
            raise BadMessageError("oversized", f"{topic}: {count} {what}, at most {limit} are read")


def _is_deep(payload: bytes) -> bool:
    """Tell whether brackets remain when those that close are taken out, level by level from the innermost."""
    brackets = payload.translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return bool(brackets)


_OF_COORDINATOR = ("signal", "settlement", "refusal", "roster", "place", "committee", "entrusted", "list", "quorum")


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
        return self.purpose in _OF_COORDINATOR

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
        ("roster", 5): AggregatorRoster,
    }
