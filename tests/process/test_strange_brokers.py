"""Brokers that do not do what a run needs: each is recognised within seconds and named in one line."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.scripted_node import Scripted

import broker
from stackelgrid import runner
from stackelgrid.transport.base import BrokerRefusalError, Finish, Publish
from stackelgrid.transport.mqtt import MqttTransport

SMALL = {"population.homes": 2, "aggregators": 1}


@contextmanager
def mosquitto(folder: Path, *lines: str) -> Iterator[int]:
    """Mosquitto with a listener on a free port, configured by further lines; gives the port."""
    program, port = broker.find_mosquitto(), broker.free_port()
    if program is None:
        pytest.skip("Mosquitto is not installed")
    (folder / "mosquitto.conf").write_text("\n".join([f"listener {port} 127.0.0.1", *lines, "user root", ""]))
    with (
        (folder / "mosquitto.log").open("wb") as log,
        subprocess.Popen([program, "-c", str(folder / "mosquitto.conf")], stderr=log) as running,
    ):
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        try:
            yield port
        finally:
            running.terminate()


@contextmanager
def served(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does `serve` with each connection; gives its address as a broker's."""

    def accept(listening: socket.socket) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, args=(listening,), daemon=True).start()
        yield f"mqtt://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


RULES = {
    "retains nothing, and cuts off whoever wants it": (["allow_anonymous true", "retain_available false"], "retained"),
    "denies a publish, and acknowledges it": (["allow_anonymous true", "acl_file {rules}"], "does not arrive"),
}


@pytest.mark.parametrize("case", RULES)
def test_run_ends_when_the_broker(tmp_path: Path, case: str) -> None:
    lines, named = RULES[case]
    (tmp_path / "rules").write_text("topic read #\n")
    with (
        mosquitto(tmp_path, *[line.format(rules=tmp_path / "rules") for line in lines]) as port,
        pytest.raises(BrokerRefusalError, match=named) as refused,
    ):
        runner.run("user_oriented", SMALL, transport="mqtt", broker=f"mqtt://127.0.0.1:{port}", out=tmp_path / "run")
    assert f"127.0.0.1:{port}" in str(refused.value) and "stackelgrid/" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_node_is_lost_when_the_broker_ends_each_connection_that_publishes(tmp_path: Path) -> None:
    """However often it comes back: no connection lasts."""
    with mosquitto(tmp_path, "allow_anonymous true", "retain_available false") as port:
        node = Scripted("node", ["a"], start=lambda now: [Publish("b", b"x", 1, retain=True)])
        transport = MqttTransport(f"mqtt://127.0.0.1:{port}", connect_timeout_s=30, reconnect_s=0.5)
        with pytest.raises(BrokerRefusalError, match=r"closed the connection .* last published: b, to be retained"):
            transport.run([node])


def test_node_is_lost_when_the_broker_never_acknowledges_its_last_message() -> None:
    def swallow(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(broker.CONNACK)
        while connection.recv(1000):
            pass

    with served(swallow) as url:
        node = Scripted("node", start=lambda now: [Publish("a/b", b"x", qos=1), Finish()])
        with pytest.raises(BrokerRefusalError, match="has not acknowledged a/b"):
            MqttTransport(url, connect_timeout_s=30, reconnect_s=0.5).run([node])
