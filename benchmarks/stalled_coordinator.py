"""Thousands of answers at once to a coordinator that stands still, on a Mosquitto with its stock limits.

A broker acknowledges a message to its sender, not for its receiver, and queues so many for one who is slow and no more.
The coordinator here is an aggregator in its own process. One paho client plays its leader and all of its homes: home
number i answers with a load of i kW, once when asked and again when named as missing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from aggregator_node.config import config_model
from broker import answers, find_mosquitto, free_port
from stackelgrid.games.user_oriented import GAME
from stackelgrid.games.user_oriented.messages import LoadResponse, Price
from stackelgrid.node.config import Rounds
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Answer, Presence, RegisteredMember, Signal

RUN, LEADER, AGGREGATOR, SLOTS = "stalled", "leader", "a1", 24
UP, DOWN = Link(RUN, LEADER, GAME.bodies("upper"), SLOTS), Link(RUN, AGGREGATOR, GAME.bodies("lower"), SLOTS)
PRICE = Price(price=[9.0] * SLOTS)
PATIENCE_S = 90.0


@dataclass(frozen=True)
class AggregatorCount:
    """The aggregator's count: homes `counted` afresh, their `total` load in kW, and how many it asked again."""

    counted: int
    total: float
    asked_again: int


def answers_to_a_stalled_coordinator(homes: int, seconds: float, folder: Path) -> AggregatorCount:
    """One round of so many homes, who all answer while the aggregator stands still for so long."""
    port = free_port()
    (folder / "stock.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n", encoding="utf-8")
    program = find_mosquitto()
    assert program is not None
    broker = subprocess.Popen(
        [program, "-c", str(folder / "stock.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    aggregator: subprocess.Popen[bytes] | None = None
    try:
        assert answers(port)
        config = config_model(GAME)(
            run=RUN,
            name=AGGREGATOR,
            game="user_oriented",
            slots=SLOTS,
            broker=f"mqtt://127.0.0.1:{port}",
            leader=LEADER,
            settings={},
            members=[RegisteredMember(name=name) for name in _names(homes)],
            rounds=Rounds(deadline_s=10 * seconds, tries=20),
        )
        (folder / "a1.json").write_text(config.model_dump_json(exclude_none=True), encoding="utf-8")
        aggregator = subprocess.Popen(
            [sys.executable, "-m", "aggregator_node", "--config", str(folder / "a1.json")], stderr=subprocess.DEVNULL
        )
        return _Everybody(homes, seconds, port, aggregator.pid).play()
    finally:
        for process in (aggregator, broker):
            if process is not None:
                process.kill()
                process.wait()


def _names(homes: int) -> list[str]:
    return [f"h{number}" for number in range(1, homes + 1)]


class _Everybody:
    """The leader and the homes, all of one connection."""

    def __init__(self, homes: int, seconds: float, port: int, coordinator: int) -> None:
        self._names, self._seconds, self._coordinator = _names(homes), seconds, coordinator
        self._answers = {
            name: DOWN.write(self._answer(number, name)) for number, name in enumerate(self._names, start=1)
        }
        self._asked_again = 0
        self._answer_up: LoadResponse | None = None
        self._ended = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(0)
        self._client.max_inflight_messages_set(0)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.subscribe([(DOWN.topic_to_member("signal", None), 0), (f"{UP.root}/{AGGREGATOR}/+", 0)])

    def play(self) -> AggregatorCount:
        """Be there, and see what comes of it."""
        for name in self._names:
            online = Presence(run=RUN, sender=name, state="online")
            self._client.publish(DOWN.topic(online), DOWN.write(online), retain=True)
        self._client.loop_start()
        try:
            if not self._ended.wait(PATIENCE_S) or self._answer_up is None:
                raise TimeoutError(f"the aggregator had no answer within {PATIENCE_S:.0f} s")
        finally:
            self._client.disconnect()
            self._client.loop_stop()
        found = self._answer_up
        counted = found.homes - found.held
        return AggregatorCount(counted, float(found.loads()[0, 0]), self._asked_again)

    def _answer(self, number: int, name: str) -> Answer[LoadResponse]:
        body = LoadResponse(homes=1, load_kw=[float(number)] * SLOTS, slope=[0.0] * SLOTS)
        return Answer[LoadResponse](run=RUN, sender=name, round=1, body=body)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/presence"):
            asked = Signal[Price](run=RUN, sender=LEADER, round=1, body=PRICE)
            self._client.publish(UP.topic(asked), UP.write(asked), retain=True)
        elif message.topic.endswith("/signal") and message.payload:
            signalled = DOWN.read(message.topic, bytes(message.payload))
            assert isinstance(signalled, Signal)
            self._reply(signalled.again)
        elif message.topic.endswith("/answer"):
            answer = UP.read(message.topic, bytes(message.payload))
            assert isinstance(answer, Answer)
            self._answer_up = answer.body
            self._ended.set()

    def _reply(self, again: list[str]) -> None:
        if not again:
            os.kill(self._coordinator, signal.SIGSTOP)
            threading.Timer(self._seconds, os.kill, (self._coordinator, signal.SIGCONT)).start()
        self._asked_again += len(again)
        for name in again or self._names:
            self._client.publish(f"{DOWN.root}/{name}/answer", self._answers[name])
