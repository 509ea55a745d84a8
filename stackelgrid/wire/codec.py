"""Between messages and bytes, and which topic carries what.

    stackelgrid/RUN/COORDINATOR/signal               a coordinator asks all its members; retained
    stackelgrid/RUN/COORDINATOR/settlement           its last word; retained
    stackelgrid/RUN/COORDINATOR/MEMBER/signal        the same where each member is asked something of its own,
    stackelgrid/RUN/COORDINATOR/MEMBER/settlement    on an addressed link; retained
    stackelgrid/RUN/COORDINATOR/MEMBER/answer        a member answers
    stackelgrid/RUN/COORDINATOR/MEMBER/receipt       a member has the settlement
    stackelgrid/RUN/COORDINATOR/MEMBER/presence      a member is there, or gone; retained, last will

A topic names the run, the sender and the purpose, so a broker's access rules can bind a node to its own; a
coordinator hears only its own members and a member only its own coordinator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from pydantic import ValidationError

from stackelgrid.wire.messages import Answer, Body, Message, Presence, Receipt, Settlement, Signal

ROOT = "stackelgrid"
MAX_BYTES = 16 * 1024 * 1024
"""A longer payload is refused unread."""


class BadMessageError(Exception):
    """A payload that is no message for this node. `reason` is one word to count it by, `detail` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Bodies:
    """What a game puts into a conversation's messages.

    On an `addressed` link each member has a signal and a settlement of its own that no other member hears.
    """

    signal: type[Body]
    answer: type[Body]
    settlement: type[Body]
    addressed: bool = False


@dataclass(frozen=True)
class Link:
    """One coordinator's conversation with its members: who talks, in which run, the game's bodies and horizon."""

    run: str
    coordinator: str
    bodies: Bodies
    slots: int

    @cached_property
    def root(self) -> str:
        """Where the conversation's topics begin."""
        return f"{ROOT}/{self.run}/{self.coordinator}"

    def topic(self, message: Message, member: str | None = None) -> str:
        """The topic that carries `message`; of a coordinator's on an addressed link, to `member`."""
        if isinstance(message, Signal | Settlement):
            return self.topic_to_member(message.purpose, member)
        return f"{self.root}/{message.sender}/{message.purpose}"

    def topic_to_member(self, purpose: str, member: str | None) -> str:
        """Where `member` hears its coordinator's signals or settlement."""
        return f"{self.root}/{member}/{purpose}" if self.bodies.addressed else f"{self.root}/{purpose}"

    def topics_from_coordinator(self, member: str) -> tuple[str, ...]:
        """What `member` subscribes to."""
        return tuple(self.topic_to_member(purpose, member) for purpose in ("signal", "settlement"))

    def topics_from_members(self) -> tuple[str, ...]:
        """What a coordinator subscribes to."""
        return tuple(f"{self.root}/+/{p}" for p in ("answer", "receipt", "presence"))

    def write(self, message: Message) -> bytes:
        """A message as compact JSON; floats keep all their digits."""
        return message.model_dump_json(by_alias=True, exclude_none=True).encode()

    def read(self, topic: str, payload: bytes) -> Message:
        """The message of a payload that arrived on `topic`.

        Raises `BadMessageError` with reason `foreign` (another run, topic or sender than it claims), `oversized`, or
        `malformed` (not JSON, unknown or missing keys, wrong types or lengths, numbers that are not finite).
        """
        parts = topic.split("/")
        if parts[:3] != [ROOT, self.run, self.coordinator] or len(parts) not in (4, 5):
            raise BadMessageError("foreign", f"topic {topic!r} is not of this conversation")
        model = _models(self.bodies).get((parts[-1], len(parts)))
        if model is None:
            raise BadMessageError("foreign", f"topic {topic!r} has no known purpose")
        if len(payload) > MAX_BYTES:
            raise BadMessageError("oversized", f"{len(payload)} bytes on {topic}, at most {MAX_BYTES} are read")
        try:
            message = model.model_validate_json(payload)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(step) for step in first["loc"]) or "payload"
            raise BadMessageError("malformed", f"{topic}: {where}: {first['msg']}") from None
        sender = parts[3] if isinstance(message, Answer | Receipt | Presence) else self.coordinator
        body = getattr(message, "body", None)
        if body is not None and body.slots not in (None, self.slots):
            raise BadMessageError("malformed", f"{topic}: body is for {body.slots} slots, the run has {self.slots}")
        if message.run != self.run or message.sender != sender:
            raise BadMessageError("foreign", f"{topic} carries a message of {message.sender} in run {message.run}")
        return message


@cache
def _models(bodies: Bodies) -> dict[tuple[str, int], type[Message]]:
    """What to read a payload as, by its topic's purpose and levels.

    Kept, because pydantic forgets a parametrised class that nobody holds and builds it anew, in milliseconds.
    """
    down = 5 if bodies.addressed else 4
    return {
        ("signal", down): Signal[bodies.signal],  # type: ignore[name-defined]
        ("settlement", down): Settlement[bodies.settlement],  # type: ignore[name-defined]
        ("answer", 5): Answer[bodies.answer],  # type: ignore[name-defined]
        ("receipt", 5): Receipt,
        ("presence", 5): Presence,
    }
