"""Brokers for the tests: real processes on free ports of the loopback interface, one of each kind per session, which
each worker of a parallel run has of its own."""

import os
import signal
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.listener import await_listener

import broker
from broker.access import Node, Role, Rules
from broker.authority import Authority
from broker.mosquitto import configuration
from stackelgrid.testbed.enrolment import certificate_in
from stackelgrid.transport.tls import Tls


def pytest_configure() -> None:
    """What every process that the tests start inherits, the workers of a parallel run among them."""
    # One BLAS thread, as the testbed gives its nodes.
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    # A shell has what it starts in the background ignore Ctrl-C: what the tests interrupt would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mosquitto_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    with broker.start("mosquitto", tmp_path_factory.mktemp("mosquitto")) as running:
        yield running.url


@pytest.fixture(scope="session")
def websockets_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Mosquitto over WebSockets, its topics under a prefix."""
    mosquitto = broker.find_mosquitto()
    if mosquitto is None:
        pytest.skip("Mosquitto is not installed")
    settings, port = tmp_path_factory.mktemp("websockets") / "mosquitto.conf", broker.free_port()
    # IPv4 alone, else Mosquitto 2.0.11 listens everywhere; it does not start without a listener of another kind.
    listeners = f"protocol websockets\nsocket_domain ipv4\nlistener {broker.free_port()} 127.0.0.1\nallow_anonymous"
    settings.write_text(configuration(port).replace("allow_anonymous", listeners))
    with subprocess.Popen([mosquitto, "-c", str(settings)], stderr=subprocess.DEVNULL) as running:
        await_listener(port)
        yield f"ws://{broker.LOOPBACK}:{port}?prefix=street/7"
        running.terminate()


@pytest.fixture(scope="session")
def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with broker.start("embedded", tmp_path_factory.mktemp("embedded")) as running:
        yield running.url


@pytest.fixture(scope="session")
def tls_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Tls]]:
    """Mosquitto over mutual TLS, as shipped but that one certificate may do everything, over many connections."""
    mosquitto = broker.find_mosquitto()
    if mosquitto is None:
        pytest.skip("Mosquitto is not installed")
    folder, port = tmp_path_factory.mktemp("tls"), broker.free_port()
    authority, node = Authority.init(folder / "certs"), Node("anybody", Role.leader)
    authority.add(node)
    files = authority.folder / "broker"
    (files / "access.acl").write_text(Rules({"anybody": ("#",)}, {"anybody": ("#",), "broker": ("$SYS/#",)}).text())
    shipped = Path(broker.__file__).with_name("mosquitto-tls.conf").read_text()
    settings = string.Template(shipped).substitute(listener=f"{port} {broker.LOOPBACK}", files=files, memory=1 << 30)
    (folder / "mosquitto.conf").write_text(settings.replace("use_username_as_clientid true", "user root"))
    with subprocess.Popen([mosquitto, "-c", str(folder / "mosquitto.conf")], stderr=subprocess.DEVNULL) as running:
        assert broker.answers(port, certificates=files)
        yield f"mqtts://{broker.LOOPBACK}:{port}", certificate_in(authority.place(node))
        running.terminate()
