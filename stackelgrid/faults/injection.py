"""A node to which the faults of a plan happen, itself a node: what it hears, says and lives through.

The same wrapper is carried by every transport, so a fault is the same in memory and on MQTT. Messages are harmed on
their way from the broker to the receiver, lies are told on the way out. What only the world can do to a node, kill it
or stop it, is asked of its `FaultActuator`.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from stackelgrid.faults import lies
from stackelgrid.faults.plan import (
    Bandwidth,
    BrokerOutage,
    Corruption,
    Crash,
    Cut,
    Delay,
    Duplication,
    FaultPlan,
    Hang,
    Lie,
    Loss,
    Narrow,
    OnConnection,
    OnLink,
    Partition,
    Reordering,
    Slow,
    Stall,
)
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.transport.base import Action, Compute, FetchRetained, Finish, Publish

_ROUND = re.compile(rb'"round":(\d+)')
_SAID_BY_COORDINATOR = ("signal", "settlement")

Call = Callable[[float], Sequence[Action]]
OnFault = Callable[[dict[str, Any]], None]


@dataclass(order=True, slots=True)
class _Coming:
    """Something that happens at a time, in the order in which it was put off."""

    at: float
    order: int
    call: Call = field(compare=False)


class FaultActuator(Protocol):
    """What the world does to a node: real signals on a real process, or their like under a virtual clock."""

    def met(self, number: int) -> None:
        """Fault `number` of the plan happens now; not again after a restart."""

    def kill(self, number: int, crash: Crash) -> None:
        """End the node at once, by fault `number` of the plan. Does not return."""

    def stop(self, seconds: float) -> bool:
        """Stop the node for so long. Returns whether it is left to the node to stand still."""

    def disturb(self, number: int, fault: OnConnection | BrokerOutage) -> bool:
        """Harm the node's connection, or the broker itself. Returns whether it is left to the node to act cut off."""


class FaultInjectingNode:
    """`node` under `plan`.

    `spent` are the numbers of the faults that it lived through before a restart, `began` when it began. `happened` gets
    a record of each fault as it happens: its number in the plan, its kind, where, in which round and after how many
    seconds. A node that is back from a crash tells that too, as `restart`, in the first round that it hears of.
    """

    def __init__(
        self,
        node: Any,
        plan: FaultPlan,
        fate: FaultActuator,
        happened: OnFault,
        spent: Sequence[int] = (),
        began: float | None = None,
    ) -> None:
        self.node = node
        self.name: str = node.name
        self.mailbox: Mailbox = node.mailbox
        self._plan, self._fate, self._happened = plan, fate, happened
        self._began = began
        self._round: int | None = None  # the last that it was asked, or as the leader asked itself
        killed = spent[-1] if spent and isinstance(plan.faults[spent[-1]], Crash) else None
        self._back_from = killed  # the crash after which it has not yet heard of a round
        self._streams: dict[tuple[int, str], np.random.Generator] = {}
        self._bad: set[tuple[int, str]] = set()  # links in the bad state of a burst
        self._free_at: dict[tuple[int, str], float] = {}  # when a narrow link has carried what it was given
        self._latest: dict[str, float] = defaultdict(float)  # topic -> arrival of its last message
        self._coming: list[_Coming] = []
        self._order = itertools.count()
        self._still_until: float | None = None
        self._said: dict[str, bytes] = {}  # topic -> the answer before
        self._cut_until: float | None = None
        self._over = False  # the node has finished, and only waits for its connection to say so
        self._hung_until = 0.0
        self._narrow: dict[str, list[_Pipe]] = {"in": [], "out": []}
        self._held: list[Publish] = []  # at QoS 1, while the connection is cut
        self._moments = [
            (number, fault)
            for number, fault in enumerate(plan.faults)
            if isinstance(fault, Stall | Crash | OnConnection | BrokerOutage)
            and self._meets(fault)
            and number not in spent
        ]

    @property
    def last_will(self) -> Publish | None:
        """The node's own."""
        return self.node.last_will  # type: ignore[no-any-return]

    @property
    def subscriptions(self) -> Sequence[str]:
        """The node's own."""
        return self.node.subscriptions  # type: ignore[no-any-return]

    @property
    def pending(self) -> int:
        """How many messages and calls are held up."""
        return len(self._coming)

    def start(self, now: float) -> Sequence[Action]:
        """Connected; the seconds of the plan begin with the first connection."""
        if self._began is None:
            self._began = now
        return self._live(self.node.start, now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """A payload has left the broker: it may come late, harmed, often or not at all."""
        actions: list[Action] = []
        if self._cut_until is not None:
            return actions
        for arrival, harmed in self._fates(topic, payload, now):
            hear = partial(self._hear, topic, harmed)
            if arrival <= now:
                actions += self._live(hear, now)
            else:
                self._later(arrival, hear)
        return actions

    def next_deadline(self) -> float | None:
        """The node's own, or when something that was held up arrives."""
        if self._still_until is not None:
            return self._still_until
        coming = self._coming[0].at if self._coming else None
        known = [coming] if self._over else [self.node.next_deadline(), coming, self._next_moment()]
        return min((at for at in known if at is not None), default=None)

    def tick(self, now: float) -> Sequence[Action]:
        """Time has passed."""
        if self._still_until is not None:
            if now < self._still_until:
                return []
            self._still_until = None
        actions: list[Action] = []
        self._meet(now)
        while self._coming and self._coming[0].at <= now and self._still_until is None:
            call = heapq.heappop(self._coming).call
            match call:
                case _Departed():
                    actions.append(call.publish)
                case _Saying():
                    actions += self._depart(call.publish, now)
                case _:
                    actions += self._live(call, now)
        due = None if self._over else self.node.next_deadline()
        if due is not None and due <= now:
            actions += self._live(self.node.tick, now)
        return actions

    def _later(self, at: float, call: Call) -> None:
        heapq.heappush(self._coming, _Coming(at, next(self._order), call))

    # --- what reaches the node ---

    def _live(self, call: Call, now: float) -> list[Action]:
        """Do something now or, standing still, when it moves again."""
        if self._still_until is not None:
            self._later(self._still_until, call)
            return []
        return self._send(call(now), now)

    def _hear(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        if payload and topic.endswith(_SAID_BY_COORDINATOR):
            self._be_back(round_of(payload), now)
        if payload and topic.endswith("/signal"):
            self._round = round_of(payload)
            self._meet(now)
            if self._still_until is not None:
                self._later(self._still_until, partial(self._hear, topic, payload))
                return []
        return self.node.receive(topic, payload, now)  # type: ignore[no-any-return]

    def _fates(self, topic: str, payload: bytes, now: float) -> list[tuple[float, bytes]]:
        """When each copy of a message arrives, and what is left of it."""
        sender, round_number = _sender(topic), round_of(payload)
        copies = [(self._through("in", payload, now), payload, False)]  # arrival, content, whether it may be overtaken
        for number, fault in enumerate(self._plan.faults):
            if not isinstance(fault, OnLink | Partition) or not fault.concerns(sender, self.name):
                continue
            if not fault.during.holds(round_number, self._age(now)):
                continue
            harmed = self._harm(number, fault, sender, copies)
            if harmed != copies:
                self._tell(number, now, round_number, {"from": sender, "to": self.name})
            copies = harmed
        arrivals = []
        for arrival, content, loose in copies:
            in_order = arrival if loose else max(arrival, self._latest[topic])
            if not loose:
                self._latest[topic] = in_order
            arrivals.append((in_order, content))
        return arrivals

    def _harm(
        self, number: int, fault: OnLink | Partition, sender: str, copies: list[tuple[float, bytes, bool]]
    ) -> list[tuple[float, bytes, bool]]:
        draw = self._stream(number, sender)
        harmed = []
        for arrival, content, loose in copies:
            match fault:
                case Partition():
                    continue
                case Loss() if self._is_lost(number, fault, sender):
                    continue
                case Delay():
                    late = fault.seconds + fault.jitter_s * (draw.random() if fault.jitter_s else 0.0)
                    harmed.append((arrival + late, content, loose))
                case Duplication():
                    times = 1 + (fault.copies if draw.random() < fault.probability else 0)
                    harmed += [(arrival, content, loose)] * times
                case Reordering() if draw.random() < fault.probability:
                    harmed.append((arrival + fault.seconds, content, True))
                case Corruption() if content and draw.random() < fault.probability:
                    harmed.append((arrival, _flipped(content, fault.bits, draw), loose))
                case Bandwidth():
                    begun = max(arrival, self._free_at.get((number, sender), 0.0))
                    through = self._free_at[number, sender] = begun + len(content) / fault.bytes_per_s
                    harmed.append((through, content, loose))
                case _:
                    harmed.append((arrival, content, loose))
        return harmed

    def _is_lost(self, number: int, loss: Loss, sender: str) -> bool:
        draw = self._stream(number, sender)
        if loss.burst is None:
            return draw.random() < (loss.probability or 0.0)
        link = (number, sender)
        if draw.random() < (loss.burst.leave if link in self._bad else loss.burst.enter):
            self._bad ^= {link}
        lost = loss.burst.lost_when_bad if link in self._bad else loss.burst.lost_when_good
        return draw.random() < lost

    # --- what the node says ---

    def _send(self, actions: Sequence[Action], now: float) -> list[Action]:
        sent: list[Action] = []
        for action in actions:
            match action:
                case Publish():
                    sent += self._say(action, now)
                case Compute():
                    sent.append(Compute(action.job, partial(self._then, action)))
                case FetchRetained() if self._cut_until is None:
                    sent.append(action)
                case Finish() if self._cut_until is not None:
                    self._over = True
                    self._later(self._cut_until, lambda later: [Finish()])
                case Finish():
                    sent += [late.call.publish for late in sorted(self._coming) if isinstance(late.call, _Saying)]
                    sent.append(action)
        return sent

    def _then(self, compute: Compute, result: Any, now: float) -> Sequence[Action]:
        return self._live(lambda later: compute.then(result, later), now)

    def _say(self, publish: Publish, now: float) -> list[Action]:
        if not publish.payload:
            return self._depart(publish, now)
        purpose, round_number = publish.topic.rsplit("/", 1)[-1], round_of(publish.payload)
        if purpose in _SAID_BY_COORDINATOR and self.last_will is None:
            self._be_back(round_number, now)
        if purpose == "signal" and self.last_will is None:
            self._round = round_number
            self._meet(now)
        said = self._lied(publish, round_number, now) if purpose == "answer" else [publish]
        slow = sum(
            fault.seconds
            for fault in self._plan.faults
            if isinstance(fault, Slow)
            and fault.concerns(self.name)
            and fault.during.holds(round_number, self._age(now))
            and purpose in ("answer", "signal")
        )
        if slow == 0 and self._still_until is None:
            return [action for one in said for action in self._depart(one, now)]
        at = max(now + slow, self._still_until or 0.0)
        for one in said:
            self._later(at, _Saying(one))
        return []

    def _lied(self, publish: Publish, round_number: int | None, now: float) -> list[Publish]:
        said = [publish]
        for number, fault in enumerate(self._plan.faults):
            if not isinstance(fault, Lie) or not fault.concerns(self.name):
                continue
            if not fault.during.holds(round_number, self._age(now)):
                continue
            if self._stream(number, self.name).random() >= fault.probability:
                continue
            self._tell(number, now, round_number, {"node": self.name})
            said = lies.told(fault, publish, self._said.get(publish.topic))
        self._said[publish.topic] = publish.payload
        return said

    # --- the node's connection, where no real one is harmed ---

    def _disturb(self, fault: OnConnection | BrokerOutage, now: float) -> None:
        match fault:
            case Hang():
                self._hung_until = max(self._hung_until, now + fault.seconds)
            case Narrow():
                for pipes in self._narrow.values():
                    pipes.append(_Pipe(fault.bytes_per_s, now + fault.seconds))
            case Cut():
                if self.last_will is not None:
                    self._later(now, _Departed(self.last_will))
                self._cut_until = max(self._cut_until or 0.0, now + fault.seconds)
                self._later(self._cut_until, self._reconnected)

    def _reconnected(self, now: float) -> Sequence[Action]:
        """As a transport does it: what was held goes first, the node starts, what is retained comes after."""
        if self._cut_until is None or now < self._cut_until:
            return []  # cut again meanwhile
        self._cut_until = None
        held, self._held = self._held, []
        if self._over:
            return held
        return [*held, *self.node.start(now), FetchRetained()]

    def _depart(self, publish: Publish, now: float) -> list[Action]:
        """Out into the connection, whatever state that is in."""
        if self._cut_until is not None:
            if publish.qos > 0:
                self._held.append(publish)
            return []
        through = self._through("out", publish.payload, now)
        if through <= now:
            return [publish]
        self._later(through, _Departed(publish))
        return []

    def _through(self, way: str, payload: bytes, now: float) -> float:
        """When the connection has carried what it is given now."""
        at = max(now, self._hung_until)
        for pipe in self._narrow[way]:
            at = pipe.carry(len(payload), at)
        return at

    # --- what happens to the node ---

    def _next_moment(self) -> float | None:
        began = self._began or 0.0
        return min(
            (began + fault.at.seconds for _, fault in self._moments if fault.at.seconds is not None), default=None
        )

    def _be_back(self, round_number: int | None, now: float) -> None:
        """After a crash, this is the first that the node hears, or as the leader says, of a round."""
        if self._back_from is not None:
            self._happened({**self._record(self._back_from, now, round_number, {"node": self.name}), "kind": "restart"})
            self._back_from = None

    def _meet(self, now: float) -> None:
        """What was to happen in this round, or by now."""
        for number, fault in list(self._moments):
            at = fault.at
            by_now = at.seconds is not None and self._age(now) >= at.seconds
            if by_now or (self._round is not None and at.round is not None and self._round >= at.round):
                self._moments.remove((number, fault))
                self._tell(number, now, self._round, {"node": self.name})
                self._fate.met(number)
                match fault:
                    case Crash():
                        self._fate.kill(number, fault)
                    case Stall() if self._fate.stop(fault.seconds):
                        self._still_until = now + fault.seconds
                    case OnConnection() | BrokerOutage() if self._fate.disturb(number, fault):
                        self._disturb(fault, now)

    def _meets(self, fault: Stall | Crash | OnConnection | BrokerOutage) -> bool:
        """Whether it happens to this node; what a round brings upon the broker happens as the leader asks it."""
        if isinstance(fault, BrokerOutage):
            return self.last_will is None and fault.at.round is not None
        return fault.concerns(self.name)

    def _tell(self, number: int, now: float, round_number: int | None, where: dict[str, str]) -> None:
        self._happened(self._record(number, now, round_number, where))

    def _record(self, number: int, now: float, round_number: int | None, where: dict[str, str]) -> dict[str, Any]:
        kind = self._plan.faults[number].kind
        return {"fault": number, "kind": kind, **where, "round": round_number, "seconds": self._age(now)}

    def _age(self, now: float) -> float:
        return now - (self._began if self._began is not None else now)

    def _stream(self, number: int, sender: str) -> np.random.Generator:
        if (number, sender) not in self._streams:
            digest = hashlib.sha256(repr((self._plan.seed, number, sender, self.name)).encode()).digest()
            self._streams[number, sender] = np.random.default_rng(int.from_bytes(digest[:16]))
        return self._streams[number, sender]


@dataclass(slots=True)
class _Pipe:
    """A narrow stretch of a connection, one way, until a time."""

    bytes_per_s: float
    until: float
    free_at: float = 0.0

    def carry(self, size: int, now: float) -> float:
        """When so many bytes, one message after the other, are through."""
        if now >= self.until:
            return max(now, self.free_at)
        self.free_at = max(now, self.free_at) + size / self.bytes_per_s
        return self.free_at


class _Saying:
    """Something said late."""

    def __init__(self, publish: Publish) -> None:
        self.publish = publish

    def __call__(self, now: float) -> Sequence[Action]:
        return [self.publish]


class _Departed(_Saying):
    """Something that only its connection holds up, or that the broker says."""


def _sender(topic: str) -> str:
    levels = topic.split("/")
    if levels[-1] in _SAID_BY_COORDINATOR:
        return levels[2] if len(levels) > 2 else ""
    return levels[3] if len(levels) > 3 else ""


def round_of(payload: bytes) -> int | None:
    """The round that a message belongs to, None for one of no round."""
    found = _ROUND.search(payload)
    return int(found[1]) if found else None


def _flipped(payload: bytes, bits: int, draw: np.random.Generator) -> bytes:
    harmed = bytearray(payload)
    for at in draw.integers(8 * len(payload), size=bits):
        harmed[at // 8] ^= 1 << (at % 8)
    return bytes(harmed)
