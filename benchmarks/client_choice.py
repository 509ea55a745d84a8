"""The choice of the MQTT client: one whole round of a coordinator and a hundred homes, with each candidate.

A round is the coordinator's question (24 numbers) to every home and every home's answer (200 bytes) to the
coordinator, over one connection each, all of them in this process; its time is from publishing the question
to receiving the last answer. The candidates take turns round by round on the same Mosquitto. Further lines show
TCP_NODELAY turned off and the embedded broker.

Run as `python -m benchmarks.client_choice`; writes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import socket
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

import broker
from broker.mosquitto import configuration
from stackelgrid.transport.base import Action, Compute, Finish, Publish
from stackelgrid.transport.mqtt import MqttTransport

HOMES = 100
QUESTION = b"[" + b",".join(b"%.4f" % (0.1 + n / 7) for n in range(24)) + b"]"
ANSWER = bytes(200)
WARM_UP = 10


class Candidate(Protocol):
    """One way of carrying a round."""

    async def connect(self) -> None:
        """Open and subscribe every connection."""

    async def round(self) -> float:
        """Play one round; seconds."""

    async def close(self) -> None:
        """Leave the broker."""


class BarePaho:
    """paho-mqtt's own recipe for asyncio: the loop watches the socket, paho calls back."""

    def __init__(self, url: str, prefix: str, qos: int, *, nodelay: bool = True) -> None:
        self.host, self.port = _host_and_port(url)
        self.prefix, self.qos, self.nodelay = prefix, qos, nodelay
        self.clients: list[paho.Client] = []

    async def connect(self) -> None:
        """Open and subscribe every connection."""
        self.coordinator = await self._client(f"{self.prefix}/answer/+", self._count)
        for home in range(HOMES):
            await self._client(f"{self.prefix}/question", self._answers(home))

    async def round(self) -> float:
        """Play one round; seconds."""
        self.missing, self.complete = HOMES, asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self.coordinator.publish(f"{self.prefix}/question", QUESTION, self.qos)
        await self.complete
        return time.perf_counter() - began

    async def close(self) -> None:
        """Leave the broker."""
        for client in self.clients:
            client.disconnect()
        await asyncio.sleep(0.1)

    def _count(self, *_: Any) -> None:
        self.missing -= 1
        if self.missing == 0:
            self.complete.set_result(None)

    def _answers(self, home: int) -> Any:
        return lambda client, *_: client.publish(f"{self.prefix}/answer/{home}", ANSWER, self.qos)

    async def _client(self, subscription: str, on_message: Any) -> paho.Client:
        loop = asyncio.get_running_loop()
        subscribed = loop.create_future()
        client = paho.Client(CallbackAPIVersion.VERSION2)

        def on_socket_open(_client: Any, _data: Any, opened: Any) -> None:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, self.nodelay)
            loop.add_reader(opened, client.loop_read)

        def on_socket_close(_client: Any, _data: Any, closed: Any) -> None:
            loop.remove_reader(closed)

        def on_register_write(_client: Any, _data: Any, opened: Any) -> None:
            loop.add_writer(opened, client.loop_write)

        def on_unregister_write(_client: Any, _data: Any, opened: Any) -> None:
            loop.remove_writer(opened)

        def on_connect(*_: Any) -> None:
            client.subscribe(subscription)

        client.on_socket_open = on_socket_open
        client.on_socket_close = on_socket_close
        client.on_socket_register_write = on_register_write
        client.on_socket_unregister_write = on_unregister_write
        client.on_connect = on_connect
        client.on_subscribe = lambda *_: subscribed.set_result(None)
        client.on_message = on_message
        client.connect(self.host, self.port)
        await subscribed
        self.clients.append(client)
        return client


class Aiomqtt:
    """aiomqtt: a queue of messages per client, consumed by a task per client."""

    def __init__(self, url: str, prefix: str, qos: int) -> None:
        self.host, self.port = _host_and_port(url)
        self.prefix, self.qos = prefix, qos
        self.open = AsyncExitStack()

    async def connect(self) -> None:
        """Open and subscribe every connection."""
        self.coordinator = await self._client(f"{self.prefix}/answer/+")
        homes = [await self._client(f"{self.prefix}/question") for _ in range(HOMES)]
        self.tasks = [asyncio.create_task(self._home(n, client)) for n, client in enumerate(homes)]

    async def round(self) -> float:
        """Play one round; seconds."""
        began = time.perf_counter()
        await self.coordinator.publish(f"{self.prefix}/question", QUESTION, self.qos)
        missing = HOMES
        async for _ in self.coordinator.messages:
            missing -= 1
            if missing == 0:
                break
        return time.perf_counter() - began

    async def close(self) -> None:
        """Leave the broker."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.open.aclose()

    async def _client(self, subscription: str) -> aiomqtt.Client:
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        client = aiomqtt.Client(self.host, self.port, socket_options=options)
        await self.open.enter_async_context(client)
        await client.subscribe(subscription)
        return client

    async def _home(self, home: int, client: aiomqtt.Client) -> None:
        async for _ in client.messages:
            await client.publish(f"{self.prefix}/answer/{home}", ANSWER, self.qos)


class Ours:
    """`MqttTransport` with nodes that do nothing else."""

    def __init__(self, url: str, prefix: str, qos: int) -> None:
        self.transport = MqttTransport(url)
        self.prefix, self.qos = prefix, qos
        self.orders: queue.SimpleQueue[bool] = queue.SimpleQueue()

    async def connect(self) -> None:
        """Open and subscribe every connection."""
        loop = asyncio.get_running_loop()
        homes = [_Home(self.prefix, n, self.qos) for n in range(HOMES)]
        self.coordinator = _Coordinator(self.prefix, self.qos, self.orders)
        self.run = loop.create_task(self.transport.serve([self.coordinator, *homes]))
        while not (self.coordinator.started and all(home.started for home in homes)):
            await asyncio.sleep(0.01)

    async def round(self) -> float:
        """Play one round; seconds."""
        self.coordinator.took = asyncio.get_running_loop().create_future()
        self.orders.put(True)
        return await self.coordinator.took

    async def close(self) -> None:
        """Leave the broker."""
        self.orders.put(False)
        self.transport.stop()
        await self.run


class _MinimalNode:
    """The smallest node that a transport carries."""

    last_will = None
    started = False

    def __init__(self, name: str, subscription: str) -> None:
        self.name = name
        self.subscriptions = [subscription]

    def start(self, now: float) -> Sequence[Action]:
        self.started = True
        return []

    def tick(self, now: float) -> Sequence[Action]:
        return []

    def next_deadline(self) -> float | None:
        return None


class _Home(_MinimalNode):
    def __init__(self, prefix: str, home: int, qos: int) -> None:
        super().__init__(f"home-{home}", f"{prefix}/question")
        self.answer = Publish(f"{prefix}/answer/{home}", ANSWER, qos)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        return [self.answer]


class _Coordinator(_MinimalNode):
    """Asks when it is ordered to, which it learns by a computation that waits for the order."""

    took: asyncio.Future[float]

    def __init__(self, prefix: str, qos: int, orders: queue.SimpleQueue[bool]) -> None:
        super().__init__("coordinator", f"{prefix}/answer/+")
        self.question = Publish(f"{prefix}/question", QUESTION, qos)
        self.wait_for_order = Compute(orders.get, self.ask)

    def start(self, now: float) -> Sequence[Action]:
        super().start(now)
        return [self.wait_for_order]

    def ask(self, go_on: bool, now: float) -> Sequence[Action]:
        self.missing = HOMES
        self.began = time.perf_counter()
        return [self.question] if go_on else [Finish()]

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        self.missing -= 1
        if self.missing > 0:
            return []
        self.took.set_result(time.perf_counter() - self.began)
        return [self.wait_for_order]


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@contextmanager
def mosquitto_without_nodelay(folder: Path) -> Iterator[str]:
    """Our Mosquitto, but for `set_tcp_nodelay`; yields its address."""
    program = broker.find_mosquitto()
    assert program is not None
    port = broker.free_port()
    settings = folder / "without_nodelay.conf"
    settings.write_text(configuration(port).replace("set_tcp_nodelay true", "set_tcp_nodelay false"), encoding="utf-8")
    with subprocess.Popen([program, "-c", str(settings)], stderr=subprocess.DEVNULL) as process:
        try:
            assert broker.answers(port)
            yield f"mqtt://127.0.0.1:{port}"
        finally:
            process.terminate()


async def measure(candidates: dict[str, Candidate], rounds: int) -> dict[str, list[float]]:
    """Seconds of each candidate's rounds, played in turn after `WARM_UP` rounds of each."""
    for candidate in candidates.values():
        await candidate.connect()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    in_turn = deque(candidates.items())
    for run_record in range(WARM_UP + rounds):
        in_turn.rotate()  # nobody always follows the same other one
        for name, candidate in in_turn:
            took = await candidate.round()
            if run_record >= WARM_UP:
                seconds[name].append(took)
    for candidate in candidates.values():
        await candidate.close()
    return seconds


def main() -> None:
    """Measure and print a table."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.client_choice")
    arguments.add_argument("--rounds", type=int, default=60, help="measured rounds of each; default: 60")
    arguments.add_argument("--qos", type=int, choices=[0, 1], default=0, help="of publishing; default: 0")
    given = arguments.parse_args()
    qos = given.qos
    with ExitStack() as open_brokers, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        mosquitto = open_brokers.enter_context(broker.start("mosquitto", folder / "mosquitto")).url
        embedded = open_brokers.enter_context(broker.start("embedded", folder / "embedded")).url
        delaying = open_brokers.enter_context(mosquitto_without_nodelay(folder))
        candidates: dict[str, Candidate] = {
            "bare paho on asyncio's loop": BarePaho(mosquitto, "paho", qos),
            "aiomqtt": Aiomqtt(mosquitto, "aiomqtt", qos),
            "our MqttTransport": Ours(mosquitto, "ours", qos),
            "bare paho, TCP_NODELAY off in the clients": BarePaho(mosquitto, "off-1", qos, nodelay=False),
            "bare paho, TCP_NODELAY off in the broker": BarePaho(delaying, "off-2", qos),
            "bare paho, TCP_NODELAY off in both": BarePaho(delaying, "off-3", qos, nodelay=False),
            "our MqttTransport on the embedded broker": Ours(embedded, "embedded", qos),
        }
        seconds = asyncio.run(measure(candidates, given.rounds))
    first = statistics.median(next(iter(seconds.values())))
    print(f"| one round, 100 homes, QoS {qos} | median, ms | slowest tenth from, ms | to the first |")
    print("| --- | ---: | ---: | ---: |")
    for name, took in seconds.items():
        middle, late = statistics.median(took), statistics.quantiles(took, n=10)[-1]
        print(f"| {name} | {1e3 * middle:.1f} | {1e3 * late:.1f} | {middle / first:.2f} |")


if __name__ == "__main__":
    main()
