"""An EMC as a Raspberry Pi runs it: connected by TLS under the shipped rules, for ten thousand rounds.

The aggregator is a bare client that asks the next price as soon as it has the answer to the last. Sizes are read from
/proc (Linux): resident, and the proportional share of pages that other processes map too.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

import broker
from benchmarks.figures import Figure
from benchmarks.memory import weigh
from broker.access import Node, Role
from broker.authority import Authority
from emc_node.config import EmcConfig
from stackelgrid.games.user_oriented import GAME
from stackelgrid.games.user_oriented.messages import Price
from stackelgrid.scenarios import load
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.tls import Tls
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Signal

TITLE = "an EMC on its own, over TLS: memory, start, ten thousand rounds"
RESIDENT_MB, FIRST_ANSWER_S, GROWTH_MB = 64, 3, 0.5
WEIGHED_AT = (1, 100, 1_000, 10_000)
STARTS = 5
PATIENCE_S = 30.0


def measure() -> list[Figure]:
    """Megabytes (10^6 bytes) and seconds."""
    with tempfile.TemporaryDirectory() as temporary, _grid(Path(temporary)) as (config, aggregator):
        starts = []
        for _ in range(STARTS):
            with _start_emc(config) as (_, began):
                aggregator.wait_for(1)
                starts.append(time.perf_counter() - began)
        with _start_emc(config) as (emc, _):
            weights = {}
            began = time.perf_counter()
            for number in range(1, WEIGHED_AT[-1] + 1):
                aggregator.ask(number)
                aggregator.wait_for(number)
                if number in WEIGHED_AT:
                    weights[number] = weigh(emc.pid)
            lasted = time.perf_counter() - began
    *_, before, last = WEIGHED_AT
    growth = weights[last]["Rss"] - weights[before]["Rss"]
    sizes = [
        Figure(f"{name} after round {number:,}", weights[number][kind], "MB", RESIDENT_MB if kind == "Rss" else None)
        for kind, name in (("Rss", "resident set"), ("Pss", "proportional set"))
        for number in WEIGHED_AT
    ]
    return [
        Figure(f"from start to first answer, median of {STARTS}", median(starts), "s", FIRST_ANSWER_S),
        *sizes,
        Figure(f"resident set, growth from round {before:,} to {last:,}", growth, "MB", GROWTH_MB),
        Figure("a round, question to answer", 1e3 * lasted / last, "ms"),
    ]


@contextmanager
def _grid(folder: Path) -> Iterator[tuple[Path, Aggregator]]:
    """A broker with certificates and rules, the aggregator, and the configuration of one of its homes."""
    scenario = load("user_oriented")
    authority = Authority.init(folder / "certs")
    plain = next(emc for emc in build_node_configs(scenario, "meter").homes if emc.homes[0].storage)
    leader = Node("leader", Role.leader)
    above = Node(plain.aggregator, Role.aggregator, leader.name)
    home = Node(plain.name, Role.home, above.name)
    authority.add(leader, above, home)
    with broker.start("mosquitto", folder / "broker", certificates=folder / "certs" / "broker") as running:
        place = authority.place(home)
        settings = {"broker": running.url, "reconnect_s": None, "tls": _tls(Path())}
        config = place / "config.json"
        config.write_text(plain.model_copy(update=settings).model_dump_json(exclude_none=True), encoding="utf-8")
        aggregator = Aggregator(running, _tls(authority.place(above)), plain)
        aggregator.ask(1)
        try:
            yield config, aggregator
        finally:
            aggregator.close()


def _tls(folder: Path) -> Tls:
    return Tls(ca=folder / "ca.crt", certificate=folder / "node.crt", key=folder / "node.key")


@contextmanager
def _start_emc(config: Path) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Start an EMC as its service does; give the process and the time."""
    command = ["--config", str(config), "--status", str(config.with_name("status.json")), "--stay"]
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "emc_node", *command],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    ) as emc:
        try:
            yield emc, began
        finally:
            emc.terminate()


class Aggregator:
    """Asks prices around the day's, no two alike, and hears the answers of one home."""

    def __init__(self, running: broker.RunningBroker, tls: Tls, home: EmcConfig[Any]) -> None:
        self._link = Link(home.run, home.aggregator, GAME.bodies("lower"), home.slots, fingerprint=home.fingerprint)
        self._drawn = np.random.default_rng([16, 0])
        self._heard = threading.Condition()
        self._round = 0
        ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        context = ssl.create_default_context(cafile=tls.ca)
        context.load_cert_chain(tls.certificate, tls.key)
        self._client.tls_set_context(context)
        answers = f"{self._link.root}/{home.name}/answer"
        self._client.on_connect = lambda *_: self._client.subscribe(answers)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", running.port)
        self._client.loop_start()
        if not ready.wait(PATIENCE_S):
            raise TimeoutError("the broker does not let the aggregator in")

    def ask(self, number: int) -> None:
        """Put another price to the home."""
        price = Price(price=self._drawn.uniform(4, 20, self._link.slots).tolist())
        link = self._link
        signal = Signal[Price](
            run=link.run, sender=link.coordinator, fingerprint=link.fingerprint, round=number, body=price
        )
        with self._heard:
            self._round = 0
        self._client.publish(self._link.topic(signal), self._link.write(signal), retain=True)

    def wait_for(self, number: int) -> None:
        """Until the home has answered that round. Raises `TimeoutError`."""
        with self._heard:
            if not self._heard.wait_for(lambda: self._round == number, PATIENCE_S):
                raise TimeoutError(f"no answer to round {number} within {PATIENCE_S:g} s")
            self._round = 0

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def _hear(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        answer = self._link.read(message.topic, message.payload)
        with self._heard:
            self._round = getattr(answer, "round", 0)
            self._heard.notify()
