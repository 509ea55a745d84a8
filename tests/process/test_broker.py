"""Brokers as processes of ours: they start, answer on the loopback only, and never outlive their starter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

import broker

PROJECT = Path(broker.__file__).parents[1]
STARTER = """
import sys, time
from pathlib import Path
import broker
running = broker.start(sys.argv[1], Path(sys.argv[2]))
print(running.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(params=["mosquitto", "embedded"])
def kind(request: pytest.FixtureRequest) -> broker.BrokerKind:
    if request.param == "mosquitto" and broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    return request.param


@pytest.fixture
def running(kind: broker.BrokerKind, tmp_path: Path) -> Iterator[broker.RunningBroker]:
    with broker.start(kind, tmp_path) as started:
        yield started


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def assert_ends(pid: int) -> None:
    give_up = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < give_up, f"process {pid} still runs"
        time.sleep(0.01)


def port_of(running: broker.RunningBroker) -> int:
    port = urlsplit(running.url).port
    assert port is not None
    return port


def test_broker_answers_until_it_is_stopped(kind: broker.BrokerKind, tmp_path: Path) -> None:
    with broker.start(kind, tmp_path) as started:
        assert started.kind == kind
        assert started.url.startswith("mqtt://127.0.0.1:")
        assert alive(started.pid)
        assert broker.answers(port_of(started))
    assert_ends(started.pid)
    started.stop()  # harmless
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port_of(started)))


def test_broker_listens_on_the_loopback_address_only(running: broker.RunningBroker) -> None:
    listening = [c.laddr for c in psutil.Process(running.pid).net_connections() if c.status == "LISTEN"]
    assert listening == [("127.0.0.1", port_of(running))]


def test_broker_is_out_of_reach_of_the_terminals_ctrl_c(running: broker.RunningBroker) -> None:
    assert os.getpgid(running.pid) != os.getpgid(0)
    assert os.getsid(running.pid) != os.getsid(0)


def test_brokers_run_side_by_side(running: broker.RunningBroker, kind: broker.BrokerKind, tmp_path: Path) -> None:
    with broker.start(kind, tmp_path / "second") as second:
        assert second.url != running.url


def test_broker_ends_when_its_starter_is_killed(kind: broker.BrokerKind, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, kind, str(tmp_path)], stdout=subprocess.PIPE, cwd=PROJECT
    ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert alive(pid)
        starter.kill()
    assert_ends(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal exists on Linux only")
def test_mosquitto_ends_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    with broker.start("mosquitto", tmp_path) as started:
        psutil.Process(started.pid).parent().kill()
        assert_ends(started.pid)


def test_auto_is_mosquitto_when_it_is_found(tmp_path: Path) -> None:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    with broker.start("auto", tmp_path) as started:
        assert started.kind == "mosquitto"


def test_auto_is_the_embedded_broker_when_mosquitto_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "find_mosquitto", lambda: None)
    with broker.start("auto", tmp_path) as started:
        assert started.kind == "embedded"


def test_mosquitto_is_found_outside_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(broker, "MOSQUITTO_FOLDERS", (str(tmp_path),))
    assert broker.find_mosquitto() == str(program)


def test_start_names_the_mend_when_mosquitto_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "find_mosquitto", lambda: None)
    with pytest.raises(broker.BrokerStartError, match=r"not installed .*apt install mosquitto"):
        broker.start("mosquitto", tmp_path)


def test_start_shows_the_end_of_the_log_when_the_broker_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\necho out of paper >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(broker.BrokerStartError, match=r"mosquitto broker did not start.*out of paper"):
        broker.start("mosquitto", tmp_path / "folder")


def test_start_is_refused_when_the_given_port_is_taken(kind: broker.BrokerKind, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        port = occupant.getsockname()[1]
        with pytest.raises(broker.BrokerStartError, match=f"the port {port} is taken"):
            broker.start(kind, tmp_path, port)


def test_start_chooses_another_port_when_the_chosen_one_is_taken(
    kind: broker.BrokerKind, running: broker.RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when that somebody is another broker, which would answer in place of ours."""
    choose = broker.free_port
    choices = iter([port_of(running), choose()])
    monkeypatch.setattr(broker, "free_port", lambda: next(choices))
    with broker.start(kind, tmp_path / "second") as started:
        assert started.url != running.url
        assert started.pid != running.pid


def test_client_that_sends_too_large_a_packet_is_disconnected(running: broker.RunningBroker) -> None:
    """Before the broker has it in memory."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as client:
        client.sendall(broker.CONNECT)
        assert client.recv(4) == broker.CONNACK
        client.sendall(b"\x30" + b"\x80\x80\x80\x0a" + b"\0\1a")  # PUBLISH of 20 MiB, its topic, and nothing yet
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert broker.answers(running.port)


def test_broker_started_by_hand_says_when_it_is_killed(kind: broker.BrokerKind) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "broker", "--kind", kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    ) as by_hand:
        assert by_hand.stdout is not None
        pid = int(by_hand.stdout.readline().split("process ")[1].split(";")[0])
        os.kill(pid, signal.SIGKILL)
        _, said = by_hand.communicate(timeout=60)
    assert by_hand.returncode == 4
    assert f"{kind} broker" in said and "killed by signal 9" in said and said.count("\n") == 1


def test_broker_started_by_hand_names_the_kinds_that_there_are() -> None:
    words = [sys.executable, "-m", "broker", "--kind", "carrier pigeon"]
    refused = subprocess.run(words, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert refused.returncode == 2
    assert "auto" in refused.stderr and "nats" in refused.stderr and "BrokerKind" not in refused.stderr


def test_start_does_not_wait_for_a_broker_that_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it said that it runs, and before it answers."""
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\necho '2026: mosquitto version 2.0.11 running' >&2\nsleep 0.2\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(broker, "START_S", 1000.0)
    with pytest.raises(broker.BrokerStartError, match=r"does not answer MQTT .*version 2.0.11 running"):
        broker.start("mosquitto", tmp_path / "folder")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_broker_started_by_hand_runs_until_a_signal(kind: broker.BrokerKind, ending: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "broker", "--kind", kind], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    ) as by_hand:
        assert by_hand.stdout is not None
        said = by_hand.stdout.readline()
        assert said.startswith(f"{kind} at mqtt://127.0.0.1:")
        pid = int(said.split("process ")[1].split(";")[0])
        assert alive(pid)
        by_hand.send_signal(ending)
        assert by_hand.wait(20) == 0
    assert_ends(pid)
