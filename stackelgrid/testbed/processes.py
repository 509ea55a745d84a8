"""A whole run over MQTT: every node a process of its own, watched until the leader has settled or cannot."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import broker
from stackelgrid.rounds import Member
from stackelgrid.testbed.cast import LEADER, Cast, cast
from stackelgrid.testbed.played import Played, missing_in
from stackelgrid.testbed.scenario import Scenario
from stackelgrid.transport.base import Action, Finish, Publish
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.wire.codec import Bodies, Link
from stackelgrid.wire.messages import Body

_FAREWELL_S = 5.0
"""How long nodes may take to leave once the leader has."""
_KNOCK_S = 5.0
"""How long a broker that should be there already may take to answer."""
_LOOK_S = 0.05
"""How often the leader's journal is looked at for finished rounds."""


def play(
    scenario: Scenario,
    folder: Path,
    broker_kind: str,
    run: str,
    watch: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Played:
    """Run `scenario` with its nodes as processes; `folder` gets configurations, logs and the journal.

    `broker_kind` is auto, mosquitto, embedded or the address of a broker that is there already. Raises
    `broker.BrokerStartError` or `BrokerUnreachableError` before any node is started. On KeyboardInterrupt everything
    is stopped and what was found so far is returned as interrupted.
    """
    began = time.perf_counter()
    logs, nodes = folder / "logs", folder / "nodes"
    logs.mkdir()
    nodes.mkdir(mode=0o700)
    with ExitStack() as stack:
        url, kind = _broker(broker_kind, logs, stack)
        everyone = cast(scenario, run, url, written=True)
        played = Played("mqtt", kind, everyone.processes)
        supervisor = _Supervisor(scenario.game, nodes, logs, url, _last_wills(everyone), played)
        stack.callback(supervisor.stop)
        journal = _Journal(folder / "rounds.jsonl", played, watch)
        try:
            supervisor.launch("emc_node", everyone.homes)
            supervisor.launch("aggregator_node", everyone.aggregators)
            supervisor.launch("leader_node", [everyone.leader])
            supervisor.wait(journal.look)
        except KeyboardInterrupt:
            played.interrupted = True
        supervisor.stop()
        journal.look()
    _gather(played, nodes, logs, [config.name for config in everyone.aggregators])
    played.elapsed_s = time.perf_counter() - began
    return played


def _broker(kind: str, logs: Path, stack: ExitStack) -> tuple[str, str]:
    """The broker's address and its name in the result."""
    if kind in ("auto", "mosquitto", "embedded"):
        own = stack.enter_context(broker.start(kind, logs))  # type: ignore[arg-type]
        return own.url, own.kind
    MqttTransport(kind, connect_timeout_s=_KNOCK_S).run([_Visit()])
    return kind, kind


class _Visit:
    """Connects, says what it came to say, and leaves."""

    name = "testbed"
    subscriptions: Sequence[str] = ()
    last_will: Publish | None = None

    def __init__(self, *messages: Publish) -> None:
        self._messages = messages

    def start(self, now: float) -> Sequence[Action]:
        return [*self._messages, Finish()]

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        return []

    def tick(self, now: float) -> Sequence[Action]:
        return []

    def next_deadline(self) -> float | None:
        return None


def _last_wills(everyone: Cast) -> dict[str, Publish]:
    """What says of each member that it is gone."""
    members = [(config.name, config.aggregator) for config in everyone.homes]
    members += [(config.name, config.leader) for config in everyone.aggregators]
    run, slots, any_body = everyone.leader.run, everyone.leader.slots, Bodies(Body, Body, Body)
    return {name: Member(name, Link(run, above, any_body, slots)).last_will for name, above in members}


class _Journal:
    """Reads the leader's journal as it grows."""

    def __init__(self, path: Path, played: Played, watch: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._played, self._watch = path, played, watch
        self._offset = 0

    def look(self) -> None:
        """Take in the rounds finished since the last look."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._played.rounds.append(json.loads(line))
                self._watch(self._played.rounds[-1])


class _Supervisor:
    """The node processes: started in nurseries, a node that dies is reported and not waited for."""

    def __init__(
        self, game: str, nodes: Path, logs: Path, url: str, last_wills: dict[str, Publish], played: Played
    ) -> None:
        self._game = game
        self._nodes, self._logs, self._url, self._played = nodes, logs, url, played
        self._last_wills = last_wills
        self._nurseries: dict[subprocess.Popen[bytes], set[str]] = {}
        self._running: set[str] = set()
        self._unread: dict[int, bytes] = {}
        self._selector = selectors.DefaultSelector()

    def launch(self, package: str, configs: list[Any]) -> None:
        """Start a process per configuration."""
        orders = []
        names = {config.name for config in configs}
        for config in configs:
            path = self._write(config)
            orders.append(json.dumps({"config": str(path), "log": str(self._logs / f"{config.name}.jsonl")}))
        with (self._logs / f"{package}.nursery.log").open("wb") as log:
            nursery = subprocess.Popen(
                [sys.executable, "-m", "stackelgrid.node.nursery", package, self._game],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        assert nursery.stdin is not None and nursery.stdout is not None
        nursery.stdin.write("".join(order + "\n" for order in orders).encode())
        nursery.stdin.flush()
        self._running |= names
        self._nurseries[nursery] = names
        self._selector.register(nursery.stdout, selectors.EVENT_READ, nursery)

    def _write(self, config: BaseModel) -> Path:
        path = self._nodes / f"{config.name}.json"  # type: ignore[attr-defined]
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(config.model_dump_json(exclude_none=True))
        return path

    def wait(self, look: Callable[[], None]) -> None:
        """Until every node has left, or the leader has and the others had time to; at once when the leader died."""
        farewell: float | None = None
        while self._running and (farewell is None or time.monotonic() < farewell):
            self._listen()
            look()
            if LEADER in self._played.failures:
                return
            if LEADER not in self._running and farewell is None:
                farewell = time.monotonic() + _FAREWELL_S
        for name in self._running:
            self._played.failures[name] = f"had not heard of the settlement, see logs/{name}.jsonl"

    def _listen(self) -> None:
        for key, _ in self._selector.select(_LOOK_S):
            nursery: subprocess.Popen[bytes] = key.data
            assert nursery.stdout is not None
            read = os.read(key.fd, 65536)
            if not read:
                self._selector.unregister(nursery.stdout)
                self._nursery_gone(nursery)
                continue
            *lines, rest = (self._unread.get(key.fd, b"") + read).split(b"\n")
            self._unread[key.fd] = rest
            for line in lines:
                record = json.loads(line)
                if "ended" in record:
                    self._ended(Path(record["ended"]).stem, record["code"])

    def _ended(self, name: str, code: int) -> None:
        self._running.discard(name)
        if code != 0:
            how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
            self._played.failures[name] = f"{how}, see logs/{name}.jsonl"
            if not self._played.rounds and name in self._last_wills:
                # It may have died before it could leave a last will with the broker: nobody is to wait for it.
                MqttTransport(self._url).run([_Visit(self._last_wills[name])])

    def _nursery_gone(self, nursery: subprocess.Popen[bytes]) -> None:
        for name in self._running & self._nurseries[nursery]:
            self._running.discard(name)
            self._played.failures[name] = "its process was lost with its nursery, see logs/*.nursery.log"

    def stop(self) -> None:
        """End every process. A node that is still there leaves in good order or is killed."""
        self._running.clear()
        for nursery in self._nurseries:
            assert nursery.stdin is not None
            nursery.stdin.close()
        for nursery in self._nurseries:
            assert nursery.stdout is not None
            nursery.stdout.read()  # what it still reports, until it is gone
            nursery.stdout.close()
            nursery.wait()
        self._nurseries.clear()
        self._selector.close()


def _gather(played: Played, nodes: Path, logs: Path, aggregators: list[str]) -> None:
    """Collect what the nodes left: conclusion, accounts, schedules, counts, who was missing."""
    conclusion = nodes / "leader.conclusion.json"
    if conclusion.exists():
        played.conclusion = json.loads(conclusion.read_text())
    for path in sorted(nodes.glob("*.schedule.json")):
        played.homes.update(json.loads(path.read_text()))
    for name in aggregators:
        account = nodes / f"{name}.account.json"
        if account.exists():
            played.aggregators[name] = json.loads(account.read_text())
    rejected: Counter[str] = Counter()
    for path in sorted(logs.glob("*.jsonl")):
        for entry in _entries(path):
            if entry.get("event") == "ended":
                played.messages += entry["messages"]
                played.bytes += entry["bytes"]
                rejected.update(entry["rejected"])
            elif entry.get("event") == "round" and path.stem in aggregators:
                played.below.append({"aggregator": path.stem, **entry})
    played.rejected = dict(rejected)
    played.missing = missing_in(played.rounds, played.below)


def _entries(path: Path) -> list[dict[str, Any]]:
    """The log's JSON lines; whatever else a dying process printed stays in the file for a person to read."""
    entries = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("{") and line.endswith("}"):
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return entries
