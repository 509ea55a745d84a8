"""Fault plans on real processes and brokers: what happens there is what happens under the virtual clock.

With STACKELGRID_ALL_FAULTS=1 every case of the matrix is played, else a few of each kind.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import broker
from benchmarks.stalled_coordinator import answers_to_a_stalled_coordinator
from stackelgrid import cli, runner
from stackelgrid.errors import ConfigError
from stackelgrid.faults.controller import FaultController
from stackelgrid.faults.messages import Acknowledgement, FaultAddition, FaultReport, write_line
from stackelgrid.faults.on_process import ControllerPipes, ProcessActuator, inject
from stackelgrid.faults.plan import BrokerOutage, Crash, Cut, FaultPlan, Hang, Moment, Narrow
from stackelgrid.faults.proxy import Proxy
from stackelgrid.games.user_oriented.outcome import UserOrientedOutcome
from stackelgrid.run_record import FaultRecord, RunRecord
from stackelgrid.scenarios import Scenario, load
from stackelgrid.scenarios.yaml_file import spell
from stackelgrid.testbed import fault_plans, in_memory, processes
from stackelgrid.transport.address import Address
from stackelgrid.wire.roles import Role

WHOLE = bool(os.environ.get("STACKELGRID_ALL_FAULTS"))
SMALL = [
    "population.homes=4",
    "aggregators=2",
    "leader.objective=welfare",  # six rounds
    "rounds.deadline_s=0.8",
    "rounds.return_s=2",
]
ANSWERED = {"rounds": [1, 1_000]}
"""While rounds are on: presence is of no round, and spared."""

Fault = dict[str, Any]

PRIMITIVES: dict[str, list[Fault]] = {
    "messages": [
        {"kind": "loss", "from": "h1", "to": "a1", "probability": 1, "during": {"rounds": [2, 2]}},
        {"kind": "duplication", "from": "h?", "to": "a?", "probability": 1, "copies": 2, "during": ANSWERED},
        {"kind": "delay", "from": "a?", "to": "h?", "seconds": 0.02, "jitter_s": 0.02, "during": ANSWERED},
        {"kind": "reordering", "from": "h2", "to": "a2", "probability": 1, "seconds": 0.03, "during": ANSWERED},
        {"kind": "bandwidth", "from": "a?", "to": "leader", "bytes_per_s": 100_000, "during": ANSWERED},
        {"kind": "corruption", "from": "h4", "to": "a2", "probability": 1, "bits": 50, "during": {"rounds": [3, 3]}},
    ],
    "partition": [{"kind": "partition", "groups": [["leader"], ["a1"]], "during": {"rounds": [2, 2]}}],
    "crashes": [
        {"kind": "crash", "node": "h3", "at": {"round": 2}, "restart_after_s": 0.5},
        {"kind": "crash", "node": "a1", "at": {"round": 3}, "restart_after_s": 0.5},
        {"kind": "crash", "node": "leader", "at": {"round": 4}, "restart_after_s": 0.5},
    ],
    "leader loses its disk": [
        {"kind": "crash", "node": "leader", "at": {"round": 3}, "restart_after_s": 0.5, "lose_state": True}
    ],
    "still, slow and lying": [
        {"kind": "slow", "node": "h2", "seconds": 0.1},
        {"kind": "lie", "node": "h1", "how": "nan", "during": {"rounds": [2, 2]}},
        {"kind": "lie", "node": "h4", "how": "impersonate", "as": "h2", "during": {"rounds": [3, 3]}},
        {"kind": "stall", "node": "h3", "at": {"round": 4}, "seconds": 1.6},
    ],
    "broker": [
        {"kind": "broker", "at": {"round": 2}, "seconds": 0.5},
        {"kind": "broker", "at": {"round": 4}, "seconds": 0.5, "keep_retained": False},
    ],
    "connection": [
        {"kind": "cut", "node": "a1", "at": {"round": 2}, "seconds": 0.4},
        {"kind": "hang", "node": "a1", "at": {"round": 3}, "seconds": 0.5},
        {"kind": "narrow", "node": "h3", "at": {"round": 4}, "seconds": 60, "bytes_per_s": 50_000},
    ],
    "crashes, broker without a disk": [
        {"kind": "crash", "node": "h3", "at": {"round": 2}, "restart_after_s": 0.5},
        {"kind": "broker", "at": {"round": 3}, "seconds": 0.5, "keep_retained": False},
        {"kind": "crash", "node": "a1", "at": {"round": 4}, "restart_after_s": 0.5},
    ],
}
ENDS = {"leader loses its disk"}
ON_EMBEDDED = ["crashes, broker without a disk"]
ON_MOSQUITTO = [name for name in PRIMITIVES if name not in ON_EMBEDDED]


@functools.cache
def scenario() -> Scenario:
    return load("user_oriented", SMALL)


@functools.cache
def undisturbed() -> UserOrientedOutcome:
    return scenario().outcome(in_memory.play(scenario()))


def assert_undisturbed(run_record: RunRecord) -> None:
    """It has settled on a round that everybody answered, where it would have without the faults."""
    assert run_record.failures == {}
    assert run_record.settled
    assert run_record.conclusion["complete"]
    assert run_record.conclusion["unacknowledged"] == []
    found = scenario().outcome(run_record)
    for key in ("price", "load_kw"):
        np.testing.assert_allclose(getattr(found, key), getattr(undisturbed(), key), rtol=1e-6)
    assert found.homes.keys() == undisturbed().homes.keys()


def observed(run_record: RunRecord) -> set[tuple[Any, ...]]:
    """The faults, by number, where, and round. Not how often: a slow machine asks again more often."""
    return {(record.fault, record.kind, *record.nodes, record.round) for record in run_record.faults}


def assert_real(plan: FaultPlan, logs: Path, *, on_mosquitto: bool) -> None:
    """Processes and broker have started as often as the plan has them killed and come back, connections as cut."""
    for fault in plan.faults:
        if isinstance(fault, Crash):
            log = (logs / f"{fault.node}.jsonl").read_text()
            role = Role.LEADER if fault.node == "leader" else Role.HOME
            assert log.count('"event": "started"') == 1 + fault.restarts(role)
    if on_mosquitto:
        log = (logs / broker.LOG).read_text()
        assert log.count(" running\n") == 1 + sum(isinstance(fault, BrokerOutage) for fault in plan.faults)
        for fault in plan.faults:
            if isinstance(fault, Cut):
                assert len(re.findall(rf"New client connected from .* as {fault.node}-", log)) == 2


def find_first_missed(missing: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    """The round from which on each node was missing, by what became of it.

    Whoever is late is not waited for: for how many rounds it stays behind depends on how fast the machine is.
    """
    return {(entry["node"], entry["action"]): entry["round"] for entry in reversed(missing)}


@pytest.mark.parametrize(
    ("kind", "name"), [*(("mosquitto", name) for name in ON_MOSQUITTO), *(("embedded", name) for name in ON_EMBEDDED)]
)
def test_faults_on_processes_are_those_under_the_virtual_clock(kind: str, name: str, tmp_path: Path) -> None:
    if kind == "mosquitto" and broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    plan = FaultPlan.model_validate({"faults": PRIMITIVES[name]})
    watched: list[FaultRecord] = []
    virtual = in_memory.play(scenario(), plan=plan)
    real = processes.play(scenario(), tmp_path, kind, "faults", plan=plan, on_fault=watched.append)
    assert observed(real) == observed(virtual)
    assert_real(plan, tmp_path / "logs", on_mosquitto=kind == "mosquitto")
    assert {record.fault for record in real.faults} >= {
        number for number, fault in enumerate(plan.faults) if fault.kind != "slow"
    }
    assert watched == real.faults
    assert find_first_missed(real.missing) == find_first_missed(virtual.missing)
    assert real.failures.keys() == virtual.failures.keys()
    if name in ENDS:
        assert real.lost
        assert virtual.lost
        assert len(real.rounds) == len(virtual.rounds) == 2
    else:
        assert_undisturbed(virtual)
        assert_undisturbed(real)


KILLS = [(node, number) for node in ("leader", "a2", "h1") for number in range(1, 6)]
A_FEW = [("leader", 1), ("a2", 5)]


@pytest.mark.parametrize(("node", "number"), KILLS if WHOLE else A_FEW)
def test_outcome_is_the_same_after_kill_9_in_any_round(
    mosquitto_url: str, tmp_path: Path, node: str, number: int
) -> None:
    crash = {"kind": "crash", "node": node, "at": {"round": number}, "restart_after_s": 0.3}
    plan = FaultPlan.model_validate({"faults": [crash]})
    folder = tmp_path / f"{node}-{number}"
    folder.mkdir()
    run_record = processes.play(scenario(), folder, mosquitto_url, folder.name, plan=plan)
    fault_log = [(record.kind, record.node, record.round) for record in run_record.faults]
    assert fault_log == [("crash", node, number), ("restart", node, number)]
    assert_undisturbed(run_record)
    assert [record["round"] for record in run_record.rounds] == list(range(1, len(run_record.rounds) + 1))


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5] if WHOLE else [0.3])
def test_outcome_is_the_same_when_messages_are_lost(mosquitto_url: str, tmp_path: Path, probability: float) -> None:
    lost = {"kind": "loss", "probability": probability, "during": {"rounds": [1, 3]}}
    plan = FaultPlan.model_validate({"seed": 1, "faults": [lost]})
    run_record = processes.play(scenario(), tmp_path, mosquitto_url, f"loss{100 * probability:.0f}", plan=plan)
    assert run_record.faults
    assert_undisturbed(run_record)


def test_answers_to_a_stopped_coordinator_are_all_in_the_sum(tmp_path: Path) -> None:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    found = answers_to_a_stalled_coordinator(3_000, 1.0, tmp_path)  # of which the broker usually drops a thousand
    assert found.counted == 3_000
    assert found.total == pytest.approx(3_000 * 3_001 / 2, rel=1e-12)


# --- the parts ---


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=send_back, args=(connection,), daemon=True).start()

    def send_back(connection: socket.socket) -> None:
        with connection:
            try:
                while content := connection.recv(65536):
                    connection.sendall(content)
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def at(port: int) -> Address:
    return Address.parse(f"mqtt://127.0.0.1:{port}")


def connect(proxy: Proxy, name: str) -> socket.socket:
    url = proxy.url(name)
    assert url is not None
    return socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10)


def receive(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        content += connection.recv(65536)
    return content


AT_ONCE: dict[str, Any] = {"node": "*", "at": {"seconds": 0}}


def test_cut_resets_one_connection_and_refuses_new_ones_until_it_ends(echo: int) -> None:
    with Proxy(at(echo), ["h1", "h2"]) as proxy, connect(proxy, "h1") as first, connect(proxy, "h2") as other:
        assert proxy.url("h3") is None
        first.sendall(b"hello")
        assert receive(first, 5) == b"hello"
        other.sendall(b"hi")
        assert receive(other, 2) == b"hi"
        began = time.monotonic()
        proxy.disturb("h1", Cut(kind="cut", seconds=1.0, **AT_ONCE))
        with pytest.raises(ConnectionResetError):
            first.recv(1)
        other.sendall(b"still")
        assert receive(other, 5) == b"still"
        refused = 0
        while True:
            try:
                with connect(proxy, "h1") as again:
                    again.sendall(b"x")
                    assert receive(again, 1) == b"x"
                break
            except OSError:
                refused += 1
                time.sleep(0.05)
        assert refused > 0
        assert time.monotonic() - began >= 1.0


def test_proxy_that_ends_leaves_no_connection_open(echo: int) -> None:
    """Nor one that it is just accepting. Whoever collects one that is left open is warned."""
    for clients in range(1, 20):
        with ExitStack() as stack, Proxy(at(echo), ["h1"]) as proxy:
            for _ in range(clients):
                stack.enter_context(connect(proxy, "h1"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        gc.collect()
    assert [str(each.message) for each in caught] == []


def test_hang_delivers_afterwards_in_order(echo: int) -> None:
    with Proxy(at(echo), ["h1"]) as proxy, connect(proxy, "h1") as connection:
        connection.sendall(b"a")
        assert receive(connection, 1) == b"a"
        began = time.monotonic()
        proxy.disturb("h1", Hang(kind="hang", seconds=0.5, **AT_ONCE))
        connection.sendall(b"bc")
        connection.sendall(b"d")
        assert receive(connection, 3) == b"bcd"
        assert time.monotonic() - began >= 0.5


def test_narrow_connection_takes_as_long_as_its_bytes(echo: int) -> None:
    with Proxy(at(echo), ["h1"]) as proxy, connect(proxy, "h1") as connection:
        proxy.disturb("h1", Narrow(kind="narrow", seconds=60, bytes_per_s=10_000, **AT_ONCE))
        began = time.monotonic()
        connection.sendall(bytes(5_000))
        receive(connection, 5_000)
        assert time.monotonic() - began >= 0.5  # each way, the second overlapping the first


def test_stopped_process_continues_when_the_time_is_over_or_on_a_signal() -> None:
    code = (
        "import sys; from stackelgrid.faults.on_process import ProcessActuator; "
        "print('before', flush=True); ProcessActuator().stop(float(sys.argv[1])); print('after')"
    )
    for seconds, awaited in (("0", True), ("0.3", True), ("600", False)):
        child = subprocess.Popen([sys.executable, "-c", code, seconds], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "before\n"
        if not awaited:
            _, status = os.waitpid(child.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            os.kill(child.pid, signal.SIGCONT)
        assert child.communicate(timeout=30)[0] == "after\n"


def report(fault: int, kind: str, node: str = "a1") -> FaultReport:
    record = FaultRecord(fault=fault, kind=kind, node=node, round=1, seconds=2.0)
    return FaultReport(node=node, began=100.0, record=record)


def test_controller_orders_a_restart_with_the_faults_that_happened_before(echo: int) -> None:
    stall = {"kind": "stall", "node": "a1", "at": {"round": 1}, "seconds": 0}
    crash = {"kind": "crash", "node": "a1", "at": {"round": 1}, "restart_after_s": 1}
    plan = FaultPlan.model_validate({"faults": [crash, {"kind": "delay", "seconds": 0.1}, stall]})
    run_record, watched = RunRecord("mqtt", "mosquitto", 2), list[FaultRecord]()
    url = f"mqtt://127.0.0.1:{echo}"
    with FaultController(plan, ["a1", "h1"], url, None, run_record, watched.append) as controller:
        first = controller.order("a1")
        assert (first.plan, first.before, first.began) == (plan, [], None)
        assert controller.broker_url("a1") is None  # no fault of its connection
        for number, kind in ((2, "stall"), (1, "delay"), (0, "crash"), (0, "restart")):
            assert controller.receive(report(number, kind)) is None
        assert controller.order("a1").before == [2, 0]
        assert controller.order("a1").began == 100.0
        assert controller.order("h1").before == []
        assert controller.take_crash("h1") is None
        assert controller.take_crash("a1") == (0, plan.faults[0])
        assert controller.take_crash("a1") is None
    assert [record.kind for record in run_record.faults] == ["stall", "delay", "crash", "restart"]
    assert watched == run_record.faults
    told = [record.seconds for record in watched]
    assert told == sorted(told) and 2.0 not in told  # by the controller's clock, not by that of each node


def test_controller_acknowledges_a_cut_once_it_is_in_force(echo: int) -> None:
    cut = {"kind": "cut", "node": "a1", "at": {"round": 1}, "seconds": 60}
    plan = FaultPlan.model_validate({"faults": [cut]})
    run_record = RunRecord("mqtt", "mosquitto", 2)
    url = f"mqtt://127.0.0.1:{echo}"
    with FaultController(plan, ["a1", "h1"], url, None, run_record, lambda record: None) as controller:
        proxied = controller.broker_url("a1")
        assert proxied is not None and controller.broker_url("h1") is None
        with socket.create_connection(("127.0.0.1", int(proxied.rsplit(":", 1)[1])), timeout=10) as connection:
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
            assert controller.receive(report(0, "cut")) == Acknowledgement(fault=0)
            with pytest.raises(ConnectionResetError):
                connection.recv(1)


def test_controller_numbers_the_faults_that_are_added(echo: int) -> None:
    cut = {"kind": "cut", "node": "a1", "at": {"round": 1}, "seconds": 60}
    plan = FaultPlan.model_validate({"faults": [{"kind": "delay", "seconds": 0.1}]})
    added = FaultPlan.model_validate({"faults": [cut, {**cut, "node": "h1"}]}).faults
    run_record, url = RunRecord("mqtt", "mosquitto", 2), f"mqtt://127.0.0.1:{echo}"
    with FaultController(plan, ["a1", "h1"], url, None, run_record, lambda record: None) as controller:
        assert [controller.add(fault) for fault in added] == [1, 2]
        assert [*controller.take_added()] == added
        assert [*controller.take_added()] == []
        assert controller.order("a1").plan.faults == [*plan.faults, *added]
        assert controller.receive(report(1, "cut")) == Acknowledgement(fault=1, simulated=True)  # nothing is between
    assert len(plan.faults) == 1


def test_node_waits_for_the_acknowledgement_of_its_own_fault() -> None:
    (source, to_node), (from_node, target) = os.pipe(), os.pipe()
    pipes = ControllerPipes(source, target)
    pipes.listen(lambda fault: None)
    fault = Cut(kind="cut", seconds=1.0, **AT_ONCE)
    for number in (3, 4):  # the first is of a fault before
        os.write(to_node, write_line(Acknowledgement(fault=number)).encode() + b"\n")
    assert ProcessActuator(pipes).disturb(4, fault) is False
    os.close(to_node)
    assert ProcessActuator(pipes).disturb(5, fault) is False  # the controller is gone
    pipes.write_line("a line")
    assert os.read(from_node, 100) == b"a line\n"
    for end in (source, from_node, target):
        os.close(end)


def test_node_takes_a_fault_from_its_controller_while_it_waits() -> None:
    (source, to_node), (from_node, target) = os.pipe(), os.pipe()
    pipes, added = ControllerPipes(source, target), queue.SimpleQueue[Any]()
    pipes.listen(added.put)
    fault = Cut(kind="cut", node="a1", seconds=1.0, at=Moment(round=1))
    for line in (FaultAddition(add=fault), Acknowledgement(fault=4, simulated=True)):
        os.write(to_node, write_line(line).encode() + b"\n")
    assert added.get(timeout=10) == fault
    assert ProcessActuator(pipes).disturb(4, fault) is True
    os.close(to_node)
    assert ProcessActuator(pipes).disturb(5, fault) is False  # from here on it reads no more
    for end in (source, from_node, target):
        os.close(end)


def test_node_does_not_wait_for_an_acknowledgement_without_a_controller(caplog: pytest.LogCaptureFixture) -> None:
    assert ProcessActuator().disturb(0, Cut(kind="cut", seconds=1.0, **AT_ONCE)) is False
    assert "no controller" in caplog.text


def test_node_takes_a_plan_from_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    file = tmp_path / "plan.json"
    file.write_text('{"faults": [{"kind": "delay", "to": "h1", "seconds": 60}]}')
    node = inject(in_memory.MemoryRun(scenario()).builds["h1"](False), str(file))
    now = time.monotonic()
    node.start(now)
    assert node.receive("stackelgrid/memory/a1/signal", b'{"round":1}', now) == []
    assert node.pending == 1
    assert [getattr(record, "data", {}).get("kind") for record in caplog.records] == ["delay"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ('{"faults": [{"kind": "flood"}]}', "faults.0"), ("no JSON", "whole file")],
)
def test_node_refuses_a_plan_that_cannot_be_used(content: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=f"{file}.*{message}"):
        inject(in_memory.MemoryRun(scenario()).builds["h1"](False), str(file))


def test_node_imports_faults_only_under_a_plan_and_the_testbed_never() -> None:
    code = "import sys, {}; print(sorted(name for name in sys.modules if name.startswith({!r})))"
    desk = ("broker", "stackelgrid.testbed", "stackelgrid.faults.controller", "stackelgrid.faults.proxy", "ruamel.yaml")
    for module, prefixes in (
        ("emc_node.__main__", ("stackelgrid.faults.",)),
        ("stackelgrid.faults.on_process", desk),
    ):
        seen = subprocess.run(
            [sys.executable, "-c", code.format(module, prefixes)], capture_output=True, text=True, check=True
        )
        assert seen.stdout.strip() == "[]"


def test_restarted_broker_listens_on_its_port_with_retained_messages_if_kept(tmp_path: Path) -> None:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")

    async def retained(url: str, publish: str | None = None) -> list[str]:
        import aiomqtt

        found: list[str] = []
        host, port = url.removeprefix("mqtt://").split(":")
        async with aiomqtt.Client(host, int(port)) as client:
            if publish is not None:
                await client.publish(publish, b"x", qos=1, retain=True)
            await client.subscribe("t/#")
            await client.publish("t/end", b"", qos=1)
            async for message in client.messages:
                if str(message.topic) == "t/end":
                    return found
                found.append(str(message.topic))
        raise AssertionError

    with broker.start("mosquitto", tmp_path, persistent=True) as running:
        url, pid = running.url, running.pid
        assert asyncio.run(retained(url, "t/kept")) == ["t/kept"]
        wait_for_file(tmp_path / broker.RETAINED)
        for keep_retained, expected in ((True, ["t/kept"]), (False, [])):
            running.kill()
            running.restart(keep_retained=keep_retained)
            assert running.url == url
            assert running.pid != pid
            assert asyncio.run(retained(url)) == expected
    with broker.start("mosquitto", tmp_path / "forgetful") as running:
        running.kill()
        with pytest.raises(ValueError, match="not started persistent"):
            running.restart(keep_retained=True)
        running.restart(keep_retained=False)


def wait_for_file(path: Path) -> None:
    give_up = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < give_up, f"{path} was not written"
        time.sleep(0.01)


# --- the command line ---


def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """A command without its certificate and drawings, which take longer than the run."""
    monkeypatch.setattr(runner, "CERTIFIED_UP_TO", 0)
    monkeypatch.setattr(runner.Run, "report", lambda self: self.folder)
    monkeypatch.setattr(sys, "argv", ["stackelgrid", *words])
    code = cli.main()
    return code, *capfd.readouterr()


def settings() -> list[str]:
    return [word for setting in SMALL for word in ("--set", setting)]


def test_run_prints_each_fault_once_a_round_and_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lost = {"kind": "loss", "from": "home:1", "to": "aggregator:1", "probability": 1, "during": {"rounds": [2, 2]}}
    killed = {"kind": "crash", "node": "leader", "at": {"round": 2}, "restart_after_s": 0.5}
    Path("plan.yaml").write_text(spell({"faults": [lost, killed]}))
    words = ["run", "user_oriented", *settings(), "--transport", "memory", "--json", "--faults", "plan.yaml"]
    code, out, err = command(monkeypatch, capfd, *words, "--out", "a")
    result = json.loads(out)
    assert code == 0
    lost_answers = result["faults"]["loss"]
    assert lost_answers >= 3  # every time that it was asked
    assert result["faults"] == {"crash": 1, "loss": lost_answers, "restart": 1}
    printed = sorted(line.split(": ", 1)[1].strip() for line in err.splitlines() if " s, round " in line)
    assert printed == ["crash leader", "loss, first from h1 to a1", "restart leader"]
    again = load("a/scenario.yaml")
    repeated = in_memory.play(again, plan=fault_plans.fit("a/faults.yaml", again))
    assert again.outcome(repeated).content() == result["outcome"]
    assert len(repeated.faults) == lost_answers + 2


def test_run_exits_with_4_when_the_leader_is_killed_for_good(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text(spell({"faults": [{"kind": "crash", "node": "leader", "at": {"round": 3}}]}))
    words = ["run", "user_oriented", *settings(), "--faults", "plan.yaml", "--quiet", "--broker", "embedded"]
    code, _, err = command(monkeypatch, capfd, *words)
    assert code == 4
    assert "killed by fault 0 of the plan" in err


def test_shipped_plans_fit_every_shipped_case(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, listed, _ = command(monkeypatch, capfd, "scenarios")
    assert code == 0
    assert {"lossy-wifi", "split-brain", "sleepy-home", "byzantine-home"} <= fault_plans.list_shipped().keys()
    for name in fault_plans.list_shipped():
        plan = fault_plans.load(name)
        assert f"{name} " in listed
        assert plan.title and plan.title in listed
        assert plan.faults
        assert command(monkeypatch, capfd, "check", name)[0] == 0
        for game in ("user_oriented", "load_call", "prosumer", "storage_market"):
            assert command(monkeypatch, capfd, "check", game, "--faults", name)[0] == 0


BAD: dict[str, tuple[Any, list[str]]] = {
    "unknown kind": ([{"kind": "flood"}], ["faults.0", "flood"]),
    "no node": ([{"kind": "stall", "node": "h9", "at": {"round": 1}, "seconds": 1}], ["faults.0.node", "'h9'", "h4"]),
    "no home of that number": (
        [{"kind": "stall", "node": "home:9", "at": {"round": 1}, "seconds": 1}],
        ["faults.0.node", "'home:9'"],
    ),
    "no group": ([{"kind": "partition", "groups": [["leader"], ["b*"]]}], ["faults.0.groups.1", "'b*'"]),
    "impersonates nobody": ([{"kind": "lie", "node": "h1", "how": "impersonate", "as": "h0"}], ["faults.0.as", "'h0'"]),
    "round and seconds": (
        [{"kind": "broker", "at": {"round": 1, "seconds": 1}, "seconds": 1}],
        ["faults.0", "at", "session or seconds"],
    ),
    "probability above one": ([{"kind": "loss", "probability": 1.5}], ["faults.0", "probability", "1.5"]),
    "a hang beyond the keep-alive": (
        [{"kind": "hang", "node": "a1", "at": {"round": 1}, "seconds": 20}],
        ["faults.0", "seconds", "20"],
    ),
    "not a list": ("loss", ["faults", "loss"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_plan_is_refused_with_one_message_and_leaves_no_folder(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    faults, expected = BAD[name]
    Path("bad.yaml").write_text(spell({"faults": faults}))
    words = ["run", "user_oriented", *settings(), "--faults", "bad.yaml", "--out", "out"]
    code, out, err = command(monkeypatch, capfd, *words)
    assert code == 2
    assert out == ""
    for part in ["bad.yaml", *expected]:
        assert part in err, err
    assert not Path("out").exists()


def test_outage_is_refused_when_the_broker_cannot_be_killed_or_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run = ["run", "user_oriented", *settings(), "--faults", "broker-bounces", "--out", "out", "--broker"]
    for address, expected in (("mqtt://127.0.0.1:1", "not ours to kill"), ("embedded", "keep_retained")):
        code, _, err = command(monkeypatch, capfd, *run, address)
        assert code == 2
        assert "broker-bounces: faults.0" in err
        assert expected in err
    assert not Path("out").exists()


def test_plan_is_refused_when_there_is_none_of_that_name(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(monkeypatch, capfd, "run", "user_oriented", *settings(), "--faults", "meteor")
    assert code == 2
    assert "meteor" in err
    assert "lossy-wifi" in err
