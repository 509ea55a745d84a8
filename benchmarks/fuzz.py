"""A million damaged messages: `python -m benchmarks.fuzz [--messages N]`.

Real messages of every game, recorded from runs in memory, have bits flipped, are cut, spliced and sent on the wrong
topics; the wire models read them and the two state machines, a coordinator and a member for each conversation, take
what could be read. Nothing may raise, and nothing may grow.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from stackelgrid.registry import find, list_games
from stackelgrid.rounds import Coordinator, Member, RoundPolicy
from stackelgrid.scenarios import load
from stackelgrid.testbed import in_memory
from stackelgrid.transport.base import Publish
from stackelgrid.transport.memory import MemoryTransport
from stackelgrid.wire.codec import BadMessageError, Link
from stackelgrid.wire.messages import Body

_FEW = {"user_oriented": ["population.homes=4", "aggregators=2"], "storage_market": ["homes_per_process=10"]}


class _Tap(MemoryTransport):
    """Keeps a message of each kind and link."""

    kept: dict[tuple[str, str], Publish]

    def delays(self, sender: str, receiver: str, publish: Publish, now: float) -> Sequence[float]:
        if publish.payload:
            self.kept.setdefault((publish.topic, publish.topic.rsplit("/", 1)[-1]), publish)
        return super().delays(sender, receiver, publish, now)


def record_messages(game: str) -> tuple[list[Publish], list[Link]]:
    """Record the messages of a run of the shipped case, and its conversations."""
    _Tap.kept = {}
    original, in_memory.MemoryTransport = in_memory.MemoryTransport, _Tap  # type: ignore[misc]
    try:
        scenario = load(game, _FEW.get(game))
        in_memory.play(scenario)
    finally:
        in_memory.MemoryTransport = original  # type: ignore[misc]
    coordinators = {
        "leader": find(game).bodies("upper"),
        **dict.fromkeys(scenario.households(), find(game).bodies("lower")),
    }
    links = [Link("memory", name, bodies, scenario.slots) for name, bodies in coordinators.items()]
    return list(_Tap.kept.values()), links


def damage(publish: Publish, others: Sequence[Publish], draw: np.random.Generator) -> tuple[str, bytes]:
    """Damage a message in one of seven ways."""
    payload, topic = bytearray(publish.payload), publish.topic
    match int(draw.integers(7)):
        case 0:
            payload[draw.integers(len(payload))] ^= 1 << int(draw.integers(8))
        case 1:
            for at in draw.integers(len(payload), size=8):
                payload[at] = draw.integers(256)
        case 2:
            del payload[int(draw.integers(len(payload))) :]
        case 3:
            other = others[draw.integers(len(others))].payload
            payload[int(draw.integers(len(payload))) :] = other[int(draw.integers(len(other))) :]
        case 4:
            topic = others[draw.integers(len(others))].topic
        case 5:
            topic = topic[: int(draw.integers(len(topic)))] + "/" + topic[int(draw.integers(len(topic))) :]
        case _:
            payload = bytearray(draw.bytes(int(draw.integers(1, 200))))
    return topic, bytes(payload)


def main() -> None:
    """Harm, read, receive; then say what became of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    count = parser.parse_args().messages
    draw = np.random.default_rng(7)
    policy = RoundPolicy(quarantine_after=3)
    conversations = []
    for game in list_games():
        messages, links = record_messages(game)
        for link in links:
            mine = [each for each in messages if each.topic.startswith(f"{link.root}/")]
            members = sorted({each.topic.split("/")[3] for each in mine if each.topic.count("/") == 4})
            machines = [Coordinator(link, members, policy), *(Member(name, link) for name in members[:2])]
            machines[0].start(0.0)
            conversations.append((link, mine, messages, machines))
    became: Counter[str] = Counter()
    memory, began = [], time.perf_counter()
    for number in range(count):
        link, mine, everyone, (coordinator, *members) = conversations[number % len(conversations)]
        topic, payload = damage(mine[draw.integers(len(mine))], everyone, draw)
        try:
            message = link.read(topic, payload)
        except BadMessageError as error:
            became[error.reason] += 1
        else:
            became["read"] += 1
            coordinator.receive(message, float(number))
            for member in members:
                member.receive(message)
        if number % 1000 == 0:
            coordinator.tick(float(number))
            if coordinator.next_deadline() is None:
                coordinator.ask(Body(), float(number))
        if number % (count // 10) == 0:
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    seconds = time.perf_counter() - began
    print(f"{count:,} messages in {seconds:.0f} s: {dict(became)}; resident, MB, by tenths: {memory}")


if __name__ == "__main__":
    main()
