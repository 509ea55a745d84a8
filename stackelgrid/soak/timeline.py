"""The life of each node as it saw it: what it received and sent, and the rounds that a coordinator played.

Faults lie between the nodes. So what a node sent tells what others may have received, and only what it received itself
tells how it had to act.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal, Protocol

from stackelgrid.node.config import Rounds
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.wire.codec import Description, describe
from stackelgrid.wire.messages import RegisteredMember


@lru_cache(maxsize=4096)
def read_json(payload: bytes) -> Any:
    """Read a payload, which many nodes received; None where it is empty or no JSON."""
    try:
        return json.loads(payload) if payload else None
    except ValueError:
        return None


@dataclass(frozen=True)
class Event:
    """An event in the life of a node, after so many virtual seconds; `life` counts its restarts.

    A message that it received or sent has a `topic` and a `payload`; `rejected` is why it refused what it received.
    `entry` is what it wrote into its ledger when it closed a round, and what it finds there last at a start.
    """

    seconds: float
    life: int
    kind: Literal["start", "receive", "tick", "send", "compute", "fetch", "close", "finish"]
    topic: str = ""
    payload: bytes = b""
    rejected: str | None = None
    entry: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def about(self) -> Description:
        """Purpose, coordinator, member and round by topic and header."""
        return describe(self.topic, self.payload)

    @property
    def content(self) -> Any:
        """The message as JSON; None for a topic that was cleared and for what is no message."""
        return read_json(self.payload)


class CoordinatorConfig(Protocol):
    """The part of a leader's or an aggregator's configuration that its rounds follow."""

    name: str
    members: list[RegisteredMember]
    rounds: Rounds


@dataclass(frozen=True)
class Ask:
    """A signal of a round after its first: the members that it asks again, all where none is named.

    `came` are those of whom the coordinator has just learnt that they are there, `unanswered` those without an answer.
    """

    seconds: float
    again: tuple[str, ...]
    came: frozenset[str]
    unanswered: frozenset[str]


@dataclass
class SeenRound:
    """A round as its coordinator saw it, from its first signal to its end; `closed` is None where it had none.

    `counted` has each member's first answer that was not refused; `quarantined` the members with too many refused ones.
    `away` are those that are not there at the end, with the time at which they first left, None where they never came.
    `returned` are those that came back without having answered, and when. `changed` is when a member last answered,
    left or was quarantined. `waited` has the seconds for which this and the rounds before it were open without an
    answer of the member.
    """

    coordinator: str
    life: int
    session: int
    number: int
    opened: float
    asks: list[Ask] = field(default_factory=list)
    counted: dict[str, Event] = field(default_factory=dict)
    quarantined: frozenset[str] = frozenset()
    away: dict[str, float | None] = field(default_factory=dict)
    returned: list[tuple[str, float]] = field(default_factory=list)
    changed: float = 0.0
    waited: Mapping[str, float] = field(default_factory=dict)
    closed: float | None = None
    entry: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """The members without an answer of their own to this round."""
        return [*self.entry["held"], *self.entry["excluded"]]


@dataclass
class SeenSettlement:
    """A settlement: when it was sent, who has confirmed it, when that last changed, and when it `ended`.

    One that the coordinator `dropped`, because it was called to the next session, has no end.
    """

    session: int
    round: int | None
    sent: list[float]
    receipts: dict[str, float] = field(default_factory=dict)
    waiting: frozenset[str] = frozenset()
    waited: Mapping[str, float] = field(default_factory=dict)
    changed: float = 0.0
    ended: float | None = None
    dropped: bool = False


@dataclass
class CoordinatorLife:
    """A coordinator from a start to its end or its next crash.

    `came` has the time at which each member was first there, `arrivals` the times at which one appeared, perhaps to
    gather its own members first; `gathered` is when the rounds began.
    `waited` has the seconds for which rounds were open without the answer of each member. `quarantined` are the members
    that its ledger, if it has one, has in quarantine from before.
    Of the messages that it could read, `stale` ones belonged to no open round and `repeated` ones to an answered one.
    """

    coordinator: str
    members: Collection[str]
    policy: Rounds
    number: int
    began: float
    quarantined: frozenset[str] = frozenset()
    came: dict[str, float] = field(default_factory=dict)
    arrivals: list[float] = field(default_factory=list)
    gathered: float | None = None
    rounds: list[SeenRound] = field(default_factory=list)
    settlements: list[SeenSettlement] = field(default_factory=list)
    waited: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    repeated: int = 0

    @property
    def settlement(self) -> SeenSettlement | None:
        """The settlement that is under way, None where there is none."""
        last = self.settlements[-1] if self.settlements else None
        return None if last is None or last.dropped or last.ended is not None else last


def read_coordinator(config: CoordinatorConfig, events: Iterable[Event]) -> list[CoordinatorLife]:
    """Read the lives of a coordinator from its events."""
    lives: list[CoordinatorLife] = []
    reader = None
    for event in events:
        if reader is None or event.life != reader.life.number:
            members = [member.name for member in config.members]
            known = frozenset(event.entry.get("quarantined", ()))
            lives.append(CoordinatorLife(config.name, members, config.rounds, event.life, event.seconds, known))
            reader = _CoordinatorReader(lives[-1])
        reader.read(event)
    return lives


_OF_ROUNDS = ("answer", "receipt", "presence")
"""What members send that rounds depend on; the rest is about masks."""


class _CoordinatorReader:
    """Reads one life of a coordinator."""

    def __init__(self, life: CoordinatorLife) -> None:
        self.life = life
        self._round: SeenRound | None = None
        self._decided: float | None = None  # when the leader began to decide on the round
        self._away: dict[str, float | None] = {}  # who was away then, and since when
        self._online: set[str] = set()
        self._left: dict[str, float] = {}
        self._just_came: tuple[float, str] = (0.0, "")
        self._refused: Counter[str] = Counter()
        self._quarantined = set(life.quarantined)
        self._gathering: set[str] = set()
        self._session = 1
        self._asked: set[int] = set()
        self._held: dict[str, int] = {}  # the round of the last answer of each

    def read(self, event: Event) -> None:
        """Take the next event."""
        ours = bool(event.topic) and event.about.coordinator == self.life.coordinator
        match event.kind:
            case "receive" if ours and event.payload and event.about.purpose in _OF_ROUNDS:
                self._receive(event)
            case "receive" if ours and event.about.purpose == "presence":
                self._receive_farewell(event)
            case "receive" if event.about.coordinator == LEADER and self.life.coordinator != LEADER:
                self._receive_call(event)
            case "compute" if self.life.settlement is not None:
                self._begin_session(self._session + 1, event.seconds)
            case "compute":
                self._decided, self._away = event.seconds, self._find_away()
                self._note_gathered(event)
                self._hold_counted()
            case "close" if self._round is not None:
                self._close(self._round, event)
            case "send" if ours and event.about.purpose == "signal" and event.payload:
                self._send_signal(event)
            case "send" if ours and event.about.purpose == "settlement":
                self._send_settlement(event)
            case "send" if event.about.purpose in ("presence", "receipt") or not event.payload:
                self._send_other(event)

    # --- what it receives ---

    def _receive(self, event: Event) -> None:
        member = event.about.sender
        if event.rejected not in (None, "refused"):
            return
        known = member in self.life.members and (member not in self._quarantined or event.about.purpose == "receipt")
        if not known:
            self.life.stale += event.rejected is None
        elif event.about.purpose == "presence":
            self._receive_presence(member, event)
        elif event.about.purpose == "receipt":
            self._receive_receipt(member, event)
        else:
            self._receive_answer(member, event)

    def _receive_presence(self, member: str, event: Event) -> None:
        state = event.content["state"]
        if state == "gathering" and self.life.coordinator != LEADER:
            return
        if member not in self.life.came and (member not in self._gathering or state != "gathering"):
            self.life.arrivals.append(event.seconds)
        if state == "gathering":
            self._gathering.add(member)
            return
        self.life.came.setdefault(member, event.seconds)
        if state == "offline":
            self._leave(member, event.seconds)
            self._left.setdefault(member, event.seconds)
            return
        if member not in self._online:
            self._just_came = (event.seconds, member)
            asked = self._round if self._decided is None and self.life.gathered is not None else None
            if asked is not None and member not in asked.counted:
                asked.returned.append((member, event.seconds))
        self._online.add(member)
        if self._round is None or member in self._round.counted:
            self._left.pop(member, None)

    def _receive_farewell(self, event: Event) -> None:
        """Note that a member has cleared its presence, which it does when it leaves."""
        member = event.about.sender
        if member in self.life.came.keys() | self._gathering | self._online and member not in self._quarantined:
            self.life.came.setdefault(member, event.seconds)
            self._leave(member, event.seconds)
            self._left.setdefault(member, event.seconds)

    def _receive_answer(self, member: str, event: Event) -> None:
        current, number = self._round if self._decided is None else None, event.about.round or 0
        if event.rejected is not None:
            self._refused[member] += 1
            if self._refused[member] == self.life.policy.quarantine_after:
                self._quarantined.add(member)
                self.life.came.setdefault(member, event.seconds)
                self._leave(member, event.seconds)
                if current is not None:
                    current.counted.pop(member, None)
        elif current is not None and number == current.number:
            self.life.repeated += member in current.counted
            if member not in current.counted:
                current.counted[member] = event
                current.changed = event.seconds
                self._online.add(member)
                self._left.pop(member, None)
        elif self._held.get(member, 0) < number and number in self._asked and not self._settles():
            self._held[member] = number
        else:
            self.life.stale += 1

    def _settles(self) -> bool:
        return self.life.settlement is not None

    def _receive_receipt(self, member: str, event: Event) -> None:
        settlement = self.life.settlement
        if settlement is None or event.about.round != settlement.round:
            self.life.stale += 1
            return
        settlement.receipts.setdefault(member, event.seconds)
        settlement.changed = event.seconds

    def _leave(self, member: str, now: float) -> None:
        self._online.discard(member)
        if self._round is not None:
            self._round.changed = now
        if self.life.settlement is not None:
            self.life.settlement.changed = now

    def _receive_call(self, event: Event) -> None:
        """Note that the leader calls an aggregator to a session."""
        called = event.payload and event.rejected is None and event.about.purpose in ("signal", "settlement")
        if called and event.about.session > self._session:
            self._begin_session(event.about.session, event.seconds)

    def _begin_session(self, number: int, now: float) -> None:
        """Note that what was open is over: a leader has ended its settlement, an aggregator drops what it has."""
        self._session = number
        settlement = self.life.settlement
        if settlement is not None and self.life.coordinator != LEADER:
            self._charge_settlement(settlement, now)
            settlement.dropped = True
        elif settlement is not None:
            self._end_settlement(settlement, now)
        if self._round is not None:
            self._charge(self._round, now)
            self._round = None
        self._asked.clear()
        self._held.clear()

    def _end_settlement(self, settlement: SeenSettlement, now: float) -> None:
        settlement.ended = now
        settlement.waiting = frozenset(self._online - settlement.receipts.keys())
        self._charge_settlement(settlement, now)

    def _charge_settlement(self, settlement: SeenSettlement, until: float) -> None:
        settlement.waited = self.life.waited.copy()
        for name in self.life.members:
            waited = settlement.receipts.get(name, until) - settlement.sent[0]
            self.life.waited[name] = self.life.waited.get(name, 0.0) + waited

    # --- what it does ---

    def _note_gathered(self, event: Event) -> None:
        if self.life.gathered is None:
            self.life.gathered = event.seconds

    def _send_signal(self, event: Event) -> None:
        if self.life.coordinator == LEADER:  # an aggregator that is back may be asked before
            self._note_gathered(event)
        current, number = self._round, event.content["round"]
        if current is None or number != current.number:
            if current is not None:
                self._charge(current, event.seconds)
            self._left = {name: at for name, at in self._left.items() if name not in self._online}
            session = event.about.session
            self._round = SeenRound(self.life.coordinator, self.life.number, session, number, event.seconds)
            self._decided = None
            self._asked.add(number)
            self.life.rounds.append(self._round)
            return
        again = tuple(event.content.get("again", ()))
        came = frozenset({self._just_came[1]} if self._just_came[0] == event.seconds else ())
        if not current.asks or (current.asks[-1].seconds, current.asks[-1].again) != (event.seconds, again):
            unanswered = frozenset(self.life.members) - current.counted.keys()
            current.asks.append(Ask(event.seconds, again, came, unanswered))

    def _charge(self, current: SeenRound, until: float) -> None:
        """Add up for how long a round that ends was open without the answer of each member."""
        for name in self.life.members:
            answered = current.counted.get(name)
            end = until if answered is None else answered.seconds
            self.life.waited[name] = self.life.waited.get(name, 0.0) + end - current.opened

    def _find_away(self) -> dict[str, float | None]:
        return {name: self._left.get(name) for name in self.life.members if name not in self._online}

    def _hold_counted(self) -> None:
        if self._round is not None:
            self._held |= dict.fromkeys(self._round.counted, self._round.number)

    def _close(self, current: SeenRound, event: Event) -> None:
        current.closed = event.seconds if self._decided is None else self._decided
        current.entry = event.entry
        self._hold_counted()
        current.quarantined = frozenset(self._quarantined)
        self._charge(current, current.closed)
        current.waited = self.life.waited.copy()
        current.away = self._find_away() if self._decided is None else self._away
        self._round, self._decided = None, None

    def _send_settlement(self, event: Event) -> None:
        if self._round is not None:
            self._charge(self._round, event.seconds)
        self._round = None
        about, settlement = event.about, self.life.settlement
        if about.coordinator == LEADER:  # one that is back may begin by a settlement from before
            self._note_gathered(event)
        if settlement is not None:
            if event.seconds > settlement.sent[-1]:
                settlement.sent.append(event.seconds)
        elif not any(each.session == about.session for each in self.life.settlements):
            seen = SeenSettlement(about.session, about.round, [event.seconds], changed=event.seconds)
            self.life.settlements.append(seen)

    def _send_other(self, event: Event) -> None:
        """Note the end of a phase: an aggregator is present once it has gathered, and confirms a settled run."""
        settlement = self.life.settlement
        if event.about.purpose == "presence" and event.payload:
            if event.content["state"] == "online":
                self._note_gathered(event)
        elif settlement is not None:
            self._end_settlement(settlement, event.seconds)
