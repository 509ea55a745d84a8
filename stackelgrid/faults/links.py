"""The faults on the messages to one node: copies of a message arrive late, damaged, several times or not at all."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from stackelgrid.faults.plan import (
    Bandwidth,
    Corruption,
    Delay,
    Duplication,
    FaultPlan,
    Loss,
    MessageFault,
    OnLink,
    Partition,
    Reordering,
)
from stackelgrid.wire.codec import Description


class Streams:
    """The random numbers of one node: a stream for each fault of the plan and each sender, derived from the seed."""

    def __init__(self, seed: int, receiver: str) -> None:
        self._seed, self._receiver = seed, receiver
        self._streams: dict[tuple[int, str], np.random.Generator] = {}

    def of(self, number: int, sender: str) -> np.random.Generator:
        """Give the stream of fault `number` for messages of `sender`."""
        if (number, sender) not in self._streams:
            digest = hashlib.sha256(repr((self._seed, number, sender, self._receiver)).encode()).digest()
            self._streams[number, sender] = np.random.default_rng(int.from_bytes(digest[:16]))
        return self._streams[number, sender]


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a message: when it arrives, what is left of it, whether later messages may overtake it."""

    arrival: float
    payload: bytes
    out_of_order: bool = False


class LinkFaults:
    """The faults of `plan` on messages to `receiver`."""

    def __init__(self, plan: FaultPlan, receiver: str, streams: Streams) -> None:
        self._faults = [
            (number, fault) for number, fault in enumerate(plan.faults) if isinstance(fault, OnLink | Partition)
        ]
        self._receiver, self._streams = receiver, streams
        self._bad_links: set[tuple[int, str]] = set()  # in the bad state of a burst
        self._free_at: dict[tuple[int, str], float] = {}  # when a link has carried what it was given
        self._latest: dict[str, float] = defaultdict(float)  # topic -> arrival of its last message

    def add(self, number: int, fault: MessageFault) -> None:
        """Apply a fault that the plan has been given since, after those before it."""
        self._faults.append((number, fault))

    def apply(self, topic: str, about: Description, message: Copy, age: float) -> tuple[list[Copy], list[int]]:
        """Give the copies of a message that arrive, and the numbers of the faults that changed anything.

        `age` is how many seconds ago the receiver was started.
        """
        copies, active = [message], []
        for number, fault in self._faults:
            if fault.concerns(about.sender, self._receiver) and fault.during.holds(about.round, age):
                changed = self._apply(number, fault, about.sender, copies)
                if changed != copies:
                    active.append(number)
                copies = changed
        return [self._put_in_order(topic, copy) for copy in copies], active

    def _put_in_order(self, topic: str, copy: Copy) -> Copy:
        if copy.out_of_order:
            return copy
        self._latest[topic] = max(copy.arrival, self._latest[topic])
        return replace(copy, arrival=self._latest[topic])

    def _apply(self, number: int, fault: OnLink | Partition, sender: str, copies: list[Copy]) -> list[Copy]:
        random = self._streams.of(number, sender)
        changed = []
        for copy in copies:
            match fault:
                case Partition():
                    continue
                case Loss() if self._loses(number, fault, sender):
                    continue
                case Delay():
                    late = fault.seconds + fault.jitter_s * (random.random() if fault.jitter_s else 0.0)
                    changed.append(replace(copy, arrival=copy.arrival + late))
                case Duplication():
                    changed += [copy] * (1 + (fault.copies if random.random() < fault.probability else 0))
                case Reordering() if random.random() < fault.probability:
                    changed.append(replace(copy, arrival=copy.arrival + fault.seconds, out_of_order=True))
                case Corruption() if copy.payload and random.random() < fault.probability:
                    changed.append(replace(copy, payload=_flip_bits(copy.payload, fault.bits, random)))
                case Bandwidth():
                    begun = max(copy.arrival, self._free_at.get((number, sender), 0.0))
                    end = self._free_at[number, sender] = begun + len(copy.payload) / fault.bytes_per_s
                    changed.append(replace(copy, arrival=end))
                case _:
                    changed.append(copy)
        return changed

    def _loses(self, number: int, loss: Loss, sender: str) -> bool:
        random = self._streams.of(number, sender)
        if loss.burst is None:
            return random.random() < (loss.probability or 0.0)
        link = (number, sender)
        if random.random() < (loss.burst.leave if link in self._bad_links else loss.burst.enter):
            self._bad_links ^= {link}
        rate = loss.burst.lost_when_bad if link in self._bad_links else loss.burst.lost_when_good
        return random.random() < rate


def _flip_bits(payload: bytes, bits: int, random: np.random.Generator) -> bytes:
    damaged = bytearray(payload)
    for at in random.integers(8 * len(payload), size=bits):
        damaged[at // 8] ^= 1 << (at % 8)
    return bytes(damaged)
