"""One round of an aggregator and a hundred homes, beside paho-mqtt echoing the very same messages.

A round goes from the leader's signal to the aggregator's answer: the aggregator asks, a hundred homes answer, one
connection each, all in this process on one event loop. `OurRound` plays it with the nodes that a run plays it with;
their homes have their answers ready, so nothing is solved. `BareRound` sends the bytes that `OurRound` was seen to
send, on the same topics but for the run's name, and reads nothing.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import paho.mqtt.client as paho

import broker
from aggregator_node.node import AggregatorNode, Masks
from benchmarks.client_choice import BarePaho
from benchmarks.figures import Figure
from emc_node.node import CreateParty, EmcNode
from stackelgrid.games.user_oriented import GAME
from stackelgrid.games.user_oriented.home import UserOrientedHomes
from stackelgrid.games.user_oriented.messages import LoadResponse, Price
from stackelgrid.rounds import RoundPolicy
from stackelgrid.scenarios import load
from stackelgrid.transport.base import Node
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Body, RegisteredMember, Signal

TITLE = "one round of an aggregator and 100 homes, nothing solved"
HOMES, WARM_UP, ROUNDS = 100, 10, 60
TARGET = 1.5
OURS, BARE = "ours", "bare"
"""The names of the two runs: equally long, so the messages are too."""


class ReadyHome:
    """A home whose answer is ready."""

    quick = True

    def __init__(self, answer: LoadResponse) -> None:
        self._answer = answer

    def answer(self, signal: Body) -> Body:
        """The answer, whatever the price."""
        return self._answer

    def settle(self, settlement: Body) -> Mapping[str, Any]:
        """Never asked: no round is the last."""
        return {}


class OurRound(BarePaho):
    """`AggregatorNode` and `EmcNode` on `MqttTransport`; the leader alone is a bare client, as in `BareRound`.

    With `masks`, and `party_of` for the part of each home by its name, the homes' answers are masked. Homes that
    `solve` have no answers ready.
    """

    def __init__(
        self,
        url: str,
        run: str = OURS,
        homes: int = HOMES,
        masks: Masks | None = None,
        party_of: Callable[[str], CreateParty] | None = None,
        *,
        solve: bool = False,
    ) -> None:
        super().__init__(url, f"stackelgrid/{run}", qos=0)
        scenario = load("user_oriented", [f"population.homes={homes}"])
        self.price = Price(price=[scenario.leader.baseline_price] * scenario.slots)
        self.up = Link(run, "leader", GAME.bodies("upper"), scenario.slots)
        down = Link(run, "a1", GAME.bodies("lower"), scenario.slots, private_sums=masks is not None)
        solvers = {home.id: UserOrientedHomes([home]) for home in scenario.everyone}
        ready: Mapping[str, Any] = solvers
        if not solve:
            ready = {name: ReadyHome(solver.answer(self.price)) for name, solver in solvers.items()}
        self.nodes: list[Node] = [
            AggregatorNode(
                "a1",
                self.up,
                down,
                [RegisteredMember(name=name) for name in ready],
                RoundPolicy(),
                scenario.aggregator_settings("a1", {name: [] for name in ready}),
                scenario.sessions,
                journal=lambda record: None,
                conclude=lambda record: None,
                ledger=[],
                masks=masks,
            ),
            *(
                EmcNode(
                    name,
                    down,
                    [],
                    lambda *_, home=home: home,
                    scenario.sessions,
                    lambda homes: None,
                    create_party=None if party_of is None else party_of(name),
                    plain=LoadResponse,
                )
                for name, home in ready.items()
            ),
        ]
        self.transport = MqttTransport(url)
        self.number = 0

    async def connect(self) -> None:
        """Start the nodes; the aggregator says that it is there once its homes have gathered."""
        self.online = asyncio.get_running_loop().create_future()
        self.leader = await self._client(f"{self.prefix}/leader/a1/+", self._from_aggregator)
        self.run = asyncio.create_task(self.transport.serve(self.nodes))
        await self.online

    async def round(self) -> float:
        """Ask a price in a round of the next number."""
        self.number += 1
        signal = Signal[Price](run=self.up.run, sender="leader", round=self.number, body=self.price)
        payload = self.up.write(signal)
        self.complete = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self.leader.publish(self.up.topic(signal), payload, retain=True)
        await self.complete
        return time.perf_counter() - began

    async def record(self) -> dict[str, bytes]:
        """Record the messages of one round by topic: two signals, the homes' answers and the aggregator's."""
        seen: dict[str, bytes] = {}

        def record(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
            if message.topic.endswith(("/signal", "/answer")):
                seen[message.topic] = bytes(message.payload)

        recorder = await self._client(f"{self.prefix}/#", record)
        await self.round()
        while len(seen) < HOMES + 3:
            await asyncio.sleep(0.01)
        recorder.disconnect()
        return seen

    async def close(self) -> None:
        """Stop the nodes."""
        self.transport.stop()
        await self.run
        await super().close()

    def _from_aggregator(self, _client: Any, _data: Any, message: Any) -> None:
        if message.topic.endswith("/presence"):
            if not self.online.done():
                self.online.set_result(None)
        else:
            self.complete.set_result(None)


class BareRound(BarePaho):
    """paho-mqtt alone: whoever hears a message sends the next one, without a look into it."""

    def __init__(self, url: str, messages: dict[str, bytes]) -> None:
        super().__init__(url, f"stackelgrid/{BARE}", qos=0)
        self.messages = {topic.replace(OURS, BARE, 1): payload for topic, payload in messages.items()}

    async def connect(self) -> None:
        """Open and subscribe every connection."""
        root = self.prefix
        self.leader = await self._client(f"{root}/leader/a1/answer", lambda *_: self.complete.set_result(None))
        aggregator = await self._client(f"{root}/a1/+/answer", self._relay)
        aggregator.on_subscribe = None
        aggregator.subscribe(f"{root}/leader/signal")
        for topic in self.messages:
            if topic.startswith(f"{root}/a1/") and topic.endswith("/answer"):
                await self._client(f"{root}/a1/signal", partial(self._send, topic))

    async def round(self) -> float:
        """Play one round; seconds."""
        self.missing = HOMES
        self.complete = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self._send(f"{self.prefix}/leader/signal", self.leader)
        await self.complete
        return time.perf_counter() - began

    def _relay(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/signal"):
            self._send(f"{self.prefix}/a1/signal", client)
            return
        self.missing -= 1
        if self.missing == 0:
            self._send(f"{self.prefix}/leader/a1/answer", client)

    def _send(self, topic: str, client: paho.Client, *_: Any) -> None:
        client.publish(topic, self.messages[topic], retain=topic.endswith("/signal"))


def measure() -> list[Figure]:
    """Milliseconds, and ours over the bare echo."""
    with tempfile.TemporaryDirectory() as folder, broker.start("mosquitto", Path(folder)) as running:
        bare, ours = asyncio.run(in_turn(running.url))
    return [
        Figure("bare paho-mqtt on asyncio, the same messages", 1e3 * bare, "ms"),
        Figure("AggregatorNode and EmcNode on MqttTransport", 1e3 * ours, "ms"),
        Figure("ours over the bare echo", ours / bare, "x", TARGET),
    ]


async def in_turn(url: str) -> tuple[float, float]:
    """Median seconds of the bare and of our rounds, played in turn."""
    ours = OurRound(url)
    await ours.connect()
    bare = BareRound(url, await ours.record())
    await bare.connect()
    took: dict[BarePaho, list[float]] = {bare: [], ours: []}
    for number in range(WARM_UP + ROUNDS):
        for contender in (bare, ours) if number % 2 else (ours, bare):
            took[contender].append(await contender.round())
    await bare.close()
    await ours.close()
    return median(took[bare][WARM_UP:]), median(took[ours][WARM_UP:])
