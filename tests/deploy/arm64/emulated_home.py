"""An EMC for arm64, emulated, among fifty native homes: installed from wheels, it settles as a native one does.

    sudo make test-arm64

makes the arm64 system first, in build/arm64 (scripts/arm64/make-root). Plain `pytest` does not collect this file. What
it measures is printed: how long an EMC takes from its start to its first answer, and its memory, native and emulated,
on a broker that is open to this machine and on one where everybody shows a certificate and may do only what is theirs.
"""

import json
import os
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import paho.mqtt.client as paho
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion

import broker
from aggregator_node.config import AggregatorConfig
from broker.access import Node, Role
from broker.authority import Authority
from emc_node.config import EmcConfig
from leader_node.config import LeaderConfig
from stackelgrid.scenarios import Scenario, load
from stackelgrid.scenarios.topology import LEADER, RunTopology
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.enrolment import list_nodes
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.tls import Tls

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[3] / "build" / "arm64"
INSTALLED = "/opt/stackelgrid/bin"
NATIVE_EMC = Path(sys.executable).with_name("emc-node")
SAME = 1e-9
"""How far apart two results may be that are the same: processors round differently."""
PATIENCE_S = 60.0
"""How long any one thing may take."""
ALIKE = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Every node's environment."""
OBSERVER = Node("observer", Role.observer)

AnyConfig = LeaderConfig[Any] | AggregatorConfig[Any] | EmcConfig[Any]


@pytest.fixture(scope="module")
def root() -> Path:
    if os.geteuid() != 0:
        pytest.skip("entering an arm64 system needs root: sudo make test-arm64")
    if not ROOT.exists():
        pytest.skip(f"there is no arm64 system in {ROOT}: scripts/arm64/make-root makes it, as make test-arm64 does")
    return ROOT


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load("user_oriented", ["population.homes=51"])


@dataclass(frozen=True)
class Door:
    """A broker's address, and who has given everybody the certificate it asks for, if it asks."""

    url: str
    authority: Authority | None = None

    def shown_by(self, node: Node) -> Path | None:
        """The folder of a node's certificate and key."""
        return None if self.authority is None else self.authority.place(node)


@pytest.fixture(params=["mqtt", "mqtts"])
def door(request: pytest.FixtureRequest, scenario: Scenario, tmp_path: Path) -> Iterator[Door]:
    if request.param == "mqtt":
        yield Door(request.getfixturevalue("mosquitto_url"))
        return
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    authority = Authority.init(tmp_path / "certs")
    authority.add(OBSERVER, *list_nodes(scenario.topology))
    with broker.start("mosquitto", tmp_path / "broker", certificates=authority.folder / "broker") as running:
        yield Door(running.url, authority)


def test_system_is_arm64(root: Path) -> None:
    say = "import platform, numpy, daqp, pydantic_core; print(platform.machine(), numpy.show_config('dicts'))"
    said = subprocess.run(
        ["chroot", root, f"{INSTALLED}/python", "-c", say], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("aarch64")
    assert "'cpu': 'aarch64'" in said.stdout


def test_emulated_home_settles_with_native_homes(
    root: Path, scenario: Scenario, door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = in_memory.play(scenario)
    storing = next(home.id for home in scenario.everyone if home.storage)  # it solves quadratic programs
    native = play(scenario, door, tmp_path / "native", storing, Emc([NATIVE_EMC], tmp_path / "native" / storing))
    inside = root / "srv" / storing
    shutil.rmtree(inside, ignore_errors=True)
    emc = Emc(["chroot", root, f"{INSTALLED}/emc-node"], inside, root)
    emulated = play(scenario, door, tmp_path / "emulated", storing, emc)
    shutil.rmtree(inside)

    for settled in (native, emulated):
        assert len(settled.rounds) == len(expected.rounds)
        assert all(record["held"] == record["excluded"] == [] for record in settled.rounds)
        for key in ("price", "load_kw", "leader_utility"):
            assert apart(settled.rounds[-1][key], expected.rounds[-1][key]) < SAME
        assert apart(settled.schedules, expected.homes) < SAME
    with capsys.disabled():
        scheme = urlsplit(door.url).scheme
        print(f"\n{scheme:10}{'first answer':>14}{'memory':>10}{'of it translated':>18}{'from in memory':>16}")
        for name, settled in (("native", native), ("emulated", emulated)):
            took, far = settled.memory, apart(settled.schedules, expected.homes)
            seconds = f"{settled.first_answer_s:.2f} s"
            print(f"{name:10}{seconds:>14}{took.resident:7.1f} MB{took.translated:15.1f} MB{far:16.1e}")


# A run, one home of which is started last and by itself.


@dataclass(frozen=True)
class Emc:
    """The command that runs the last home, the home's folder, and what the command takes for the file system's root."""

    command: Sequence[str | Path]
    place: Path
    root: Path = Path("/")


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process, MB, and how much of it is machine code that an emulator has translated."""

    resident: float
    translated: float

    @classmethod
    def of(cls, process: subprocess.Popen[bytes]) -> "Memory":
        maps = psutil.Process(process.pid).memory_maps(grouped=False)
        translated = sum(each.rss for each in maps if "wx" in each.perms)  # nobody else writes what it executes
        return cls(sum(each.rss for each in maps) / 1e6, translated / 1e6)


@dataclass(frozen=True)
class Settled:
    """What a run came to, and what its last home took.

    `first_answer_s`: from the start of its process until its aggregator, which waits for it alone, has answered the
    leader. `memory`: what it has when the run is over.
    """

    rounds: list[dict[str, Any]]
    schedules: dict[str, Any]
    first_answer_s: float
    memory: Memory


def play(scenario: Scenario, door: Door, folder: Path, last: str, emc: Emc) -> Settled:
    """Play `scenario` with native processes, but for its home `last`, which `emc` runs."""
    configs = build_node_configs(scenario, folder.name, door.url, gather=True)
    itself = next(config for config in configs.homes if config.name == last)
    others = [config for config in configs.homes if config.name != last]
    configuration = written(itself, door, emc.place)
    packages: dict[str, Sequence[AnyConfig]] = {
        "leader_node": [configs.leader],
        "aggregator_node": configs.aggregators,
        "emc_node": others,
    }
    with listening(door, folder.name) as hear, ExitStack() as stack:
        forkservers = [
            stack.enter_context(
                forkserver(package, scenario.game, [written(each, door, folder / each.name) for each in nodes])
            )
            for package, nodes in packages.items()
        ]
        awaited = without(scenario.topology, itself)
        while awaited:
            awaited.discard(hear())
        started = time.perf_counter()
        status = emc.place / "status.json"
        seen = [Path("/") / path.relative_to(emc.root) for path in (configuration, status)]
        command = [*emc.command, "--stay", "--config", seen[0], "--status", seen[1]]
        with started_as(command, emc.place / "log") as process:
            while hear() != f"{LEADER}/{itself.aggregator}/answer":
                pass
            first_answer_s = time.perf_counter() - started
            for all_have_left in forkservers:
                all_have_left()
            until_over(status)
            memory = Memory.of(process)
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
    schedules: dict[str, Any] = {}
    for path in (*folder.glob("*/*.schedule.json"), emc.place / f"{last}.schedule.json"):
        schedules |= json.loads(path.read_text())
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return Settled(rounds, schedules, first_answer_s, memory)


def without(topology: RunTopology, last: EmcConfig[Any]) -> set[str]:
    """Where those say that they are there who do not wait for `last`: an aggregator does once all its homes have."""
    homes = {f"{aggregator}/{home}" for home, aggregator in topology.aggregator_of.items() if home != last.name}
    complete = {f"{LEADER}/{aggregator}" for aggregator in topology.aggregators if aggregator != last.aggregator}
    return {f"{member}/presence" for member in homes | complete}


def identity(config: AnyConfig) -> Node:
    """Who a node is to the broker."""
    match config:
        case LeaderConfig():
            return Node(config.name, Role.leader)
        case AggregatorConfig():
            return Node(config.name, Role.aggregator, config.leader)
        case EmcConfig():
            return Node(config.name, Role.home, config.aggregator)


def written(config: AnyConfig, door: Door, place: Path) -> Path:
    """The configuration as a file in a new folder, beside what the node shows the broker."""
    place.mkdir(parents=True)
    shown = door.shown_by(identity(config))
    if shown is not None:
        shutil.copytree(shown, place, dirs_exist_ok=True)
        config = config.model_copy(
            update={"tls": Tls(ca=Path("ca.crt"), certificate=Path("node.crt"), key=Path("node.key"))}
        )
    path = place / "config.json"
    path.write_text(config.model_dump_json(exclude_none=True))
    return path


@contextmanager
def listening(door: Door, run: str) -> Iterator[Callable[[], str]]:
    """As an observer: waits for the next message and says its topic below the run's."""
    heard: queue.Queue[str] = queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda client, data, message: heard.put(message.topic.removeprefix(f"stackelgrid/{run}/"))
    shown = door.shown_by(OBSERVER)
    if shown is not None:
        client.tls_set(str(shown / "ca.crt"), str(shown / "node.crt"), str(shown / "node.key"))
    address = urlsplit(door.url)
    assert address.hostname is not None and address.port is not None
    client.connect(address.hostname, address.port)
    below = ("+/+/presence", f"{LEADER}/+/answer", f"{LEADER}/settlement")
    client.subscribe([(f"stackelgrid/{run}/{topics}", 0) for topics in below])
    client.loop_start()

    def hear() -> str:
        try:
            return heard.get(timeout=PATIENCE_S)
        except queue.Empty:
            pytest.fail(f"nothing was heard in run {run} for {PATIENCE_S:.0f} s")

    try:
        yield hear
    finally:
        client.disconnect()
        client.loop_stop()


@contextmanager
def forkserver(package: str, game: str, configurations: list[Path]) -> Iterator[Callable[[], None]]:
    """A native process per configuration; waits until all have left, each in good order."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stackelgrid.node.forkserver", game, package],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ALIKE,
    )
    assert process.stdin is not None and process.stdout is not None
    told = process.stdout

    def all_have_left() -> None:
        left = 0
        while left < len(configurations):
            news = json.loads(told.readline())
            if "ended" in news:
                assert news["code"] == 0, news
                left += 1

    try:
        for path in configurations:
            process.stdin.write(
                json.dumps({"package": package, "config": str(path), "log": str(path.with_name("log"))}) + "\n"
            )
        process.stdin.flush()
        yield all_have_left
    finally:
        process.communicate()  # its input ends, upon which it ends what is left


@contextmanager
def started_as(command: Sequence[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=ALIKE)
    try:
        yield process
    finally:
        process.kill()  # where it is still there
        process.wait()


def until_over(status: Path) -> None:
    """Wait until a node's status file says that its run is over."""
    give_up = time.monotonic() + PATIENCE_S
    while json.loads(status.read_text())["state"] != "over":
        assert time.monotonic() < give_up, status.read_text()
        time.sleep(0.1)


# How alike two results are.


def apart(found: Any, expected: Any) -> float:
    """The largest difference of two results, each series relative to its largest number, or to one where that is more.

    One kW, kWh or unit of money: nobody is to be told apart by how what is nothing was rounded.
    """
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        return max(apart(found[key], expected[key]) for key in expected)
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape
    return float(np.max(np.abs(found - expected)) / max(1.0, np.max(np.abs(expected))))
