"""Homes that ask for their certificates over a real broker, with a real registrar; and those who try to cheat there.

Nobody but the home ever has its private key: what travels and what is kept elsewhere is searched for it.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from support.signing import SigningAuthority

import broker
from broker import enrolment
from broker.access import Node, Role
from broker.authority import Authority
from broker.refusals import UNKNOWN
from broker.signer import Signer, read_request, write_pem
from emc_node import openssl
from stackelgrid.deploy.provision import provision
from stackelgrid.scenarios import load
from stackelgrid.wire.enrolment import EnrolmentRequest, node_topic, show_fingerprint, stranger_topic

RUN = "street"
HOME: dict[str, Any] = {"id": "flat", "elastic": [{"max_kw": 3, "valuation": 10}], "connection": {"draw_kw": 11}}
PATIENCE_S = 60.0
"""How long to wait for what must happen."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def await_truth(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


@contextmanager
def running(log: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """One of our programs, which is stopped in the end; what it logs goes to a file."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=errors, text=True, env=ENVIRONMENT
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)


class Client:
    """A client of a broker, which keeps what it hears; with a folder, under the certificate in it."""

    def __init__(self, port: int, ca: Path, name: str, tls: Path | None = None, hears: str | None = None) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._subscribed, self._hears = threading.Event(), hears
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, name)
        context = ssl.create_default_context(cafile=ca)
        if tls is not None:
            context.load_cert_chain(tls / "node.crt", tls / "node.key")
        self._client.tls_set_context(context)
        self._client.on_message = lambda _client, _data, message: self.heard.append((message.topic, message.payload))
        self._client.on_connect = self._begin
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.reconnect_delay_set(0.1, 0.5)  # type: ignore[no-untyped-call]
        self._client.connect("localhost", port)
        self._client.loop_start()
        assert self._subscribed.wait(PATIENCE_S)

    def _begin(self, *_: object) -> None:
        if self._hears is None:
            self._subscribed.set()
        else:
            self._client.subscribe(self._hears)

    def publish(self, topic: str, payload: bytes) -> None:
        self._client.publish(topic, payload, 1).wait_for_publish(PATIENCE_S)

    def is_denied(self) -> bool:
        return any(json.loads(payload)["state"] == "denied" for _, payload in self.heard)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Grid:
    """A provisioned grid with one aggregator: broker, broker for strangers, registrar; no node of the run."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        port = broker.free_port()
        scenario = load("user_oriented", ["population.homes=2", "aggregators=1"])
        provision(scenario, folder / "certs", f"mqtts://localhost:{port}", RUN)
        self.authority = Authority(folder / "certs")
        self.certs = self.authority.folder
        self.ca = self.certs / "authority" / "ca.crt"
        files = self.certs / "broker"
        self.broker = stack.enter_context(
            broker.start(broker.BrokerKind.MOSQUITTO, folder / "state", port, certificates=files)
        )
        self.counter = stack.enter_context(enrolment.start(self.broker, files, None, "127.0.0.1"))
        self.listener = self.client("listener", self.broker.port, files, "stackelgrid/#")
        self.status = folder / "registrar.json"
        words = ["stackelgrid", "certs", "serve", "--dir", str(self.certs), "--status", str(self.status)]
        stack.enter_context(running(folder / "registrar.log", *words))
        await_truth(lambda: any(topic.endswith("/registrar/roster") for topic, _ in self.listener.heard))

    def client(self, name: str, port: int | None = None, tls: Path | None = None, hears: str | None = None) -> Client:
        made = Client(port or self.counter.port, self.ca, name, tls, hears)
        self._stack.callback(made.close)
        return made

    def counted(self, kind: str) -> int:
        """Count what the registrar refused of a kind."""
        rejected = json.loads(self.status.read_text())["rejected"]
        return int(rejected.get(kind, 0))

    def refused(self, where: broker.RunningBroker, name: str, kind: str) -> int:
        """Count what a broker refused to somebody."""
        if where.refusals is None or not where.refusals.exists():
            return 0
        return int(json.loads(where.refusals.read_text()).get(name, {}).get(kind, 0))

    def waiting(self, key: str) -> bool:
        return any(each.id == key and each.state == "waiting" for each in self.authority.requests)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    with ExitStack() as stack:
        yield Grid(tmp_path_factory.mktemp("grid"), stack)


class Flat:
    """A home on a machine of its own, in a folder."""

    def __init__(self, grid: Grid, folder: Path, name: str) -> None:
        self.grid, self.folder, self.name = grid, folder, name
        self.etc, self.state, self.log = folder / "etc", folder / "state", folder / "log"
        self.state.mkdir()
        (folder / "home.json").write_text(json.dumps(HOME))
        self.said = ""

    @contextmanager
    def init(self) -> Iterator[subprocess.Popen[str]]:
        """Begin `emc-node init --enrol`; it goes on once its request waits."""
        words = [
            "--enrol",
            f"mqtts://localhost:{self.grid.counter.port}",
            "--ca",
            str(self.grid.ca),
            "--name",
            self.name,
        ]
        words += ["--home", str(self.folder / "home.json"), "--to", str(self.etc), "--state", str(self.state)]
        with running(self.folder / "init.log", "emc_node", "init", *words) as process:
            assert process.stdout is not None
            self.said = process.stdout.readline()
            await_truth(lambda: self.grid.waiting(self.key))
            yield process

    @property
    def key(self) -> str:
        """The ID that `init` showed."""
        found = re.search(r"fingerprint of this home is ([0-9a-f ]{39})$", self.said.strip())
        assert found is not None, self.said
        return found[1].replace(" ", "")

    def approve(self, process: subprocess.Popen[str]) -> None:
        """Have the operator approve what waits, by its fingerprint."""
        self.grid.authority.approve(show_fingerprint(self.key), "operator")
        assert process.wait(PATIENCE_S) == 0

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """The EMC, connected."""
        words = [
            "--config",
            str(self.etc / "config.json"),
            "--log",
            "json",
            "--status",
            str(self.folder / "status.json"),
        ]
        with running(self.log, "emc_node", *words) as process:
            await_truth(lambda: any(event["event"] == "connected" for event in self.events()))
            yield process


# Attacks.


def make_request(folder: Path, name: str, **values: Any) -> tuple[str, bytes]:
    """Make a key in a folder; give its ID and a request for a certificate of it."""
    key = folder / f"{len(list(folder.iterdir()))}.key"
    openssl.make_key(key)
    request = EnrolmentRequest(**{"name": name, "csr": openssl.make_request(key, name), "max_kw": 11.0, **values})
    return openssl.identify(key), request.write()


def ask(grid: Grid, key: str, payload: bytes) -> Client:
    """Ask as a stranger with a key of that ID."""
    stranger = grid.client(key, hears=stranger_topic(key, "answer"))
    stranger.publish(stranger_topic(key, "request"), payload)
    return stranger


def test_second_request_of_a_stranger_is_refused_and_counted(grid: Grid, tmp_path: Path) -> None:
    key, request = make_request(tmp_path, "h20")
    stranger = ask(grid, key, request)
    await_truth(lambda: grid.waiting(key))
    other = EnrolmentRequest(name="h21", csr=openssl.make_request(tmp_path / "0.key", "h21"), max_kw=11.0).write()
    before = grid.counted("second")
    stranger.publish(stranger_topic(key, "request"), other)
    await_truth(stranger.is_denied)
    await_truth(lambda: grid.counted("second") == before + 1)
    assert [each.name for each in grid.authority.requests if each.id == key] == ["h20"]


def test_request_for_anothers_name_is_refused_and_counted(grid: Grid, tmp_path: Path) -> None:
    for name in ("h1", "a1", "leader", "registrar", "broker", "observer"):
        key, request = make_request(tmp_path, name)
        stranger = ask(grid, key, request)
        await_truth(stranger.is_denied)
        assert not grid.waiting(key)
    await_truth(lambda: grid.counted("taken") + grid.counted("impossible") >= 6)


def test_copied_request_is_of_another_key(grid: Grid, tmp_path: Path) -> None:
    _, request = make_request(tmp_path, "h22")
    thief, _ = make_request(tmp_path, "h22")
    before = grid.counted("foreign")
    ask(grid, thief, request)
    await_truth(lambda: grid.counted("foreign") == before + 1)
    assert not grid.waiting(thief)


def test_forged_approvals_reach_nobody(grid: Grid, tmp_path: Path) -> None:
    flat = Flat(grid, tmp_path, "h23")
    forger = SigningAuthority(tmp_path, "forger")
    (tmp_path / "keys").mkdir()
    theirs, _ = make_request(tmp_path / "keys", "h24")
    member = grid.client("h1", grid.broker.port, grid.certs / "homes" / "h1")
    with flat.init() as process:
        answer = stranger_topic(flat.key, "answer")
        certificate = forger.sign(openssl.make_request(flat.etc / "enrolment.key", "h23"))
        forged = json.dumps({"schema": 1, "id": flat.key, "state": "approved", "certificate": certificate}).encode()
        stranger = grid.client(theirs)
        stranger.publish(answer, forged)
        member.publish(answer, forged)
        await_truth(lambda: grid.refused(grid.counter, UNKNOWN, "publish") > 0)
        await_truth(lambda: grid.refused(grid.broker, "h1", "publish") > 0)
        assert process.poll() is None
        assert not (flat.etc / "config.json").exists()
        flat.approve(process)
    assert "refused" not in (tmp_path / "init.log").read_text()


def test_strangers_read_and_write_nothing_else(grid: Grid, tmp_path: Path) -> None:
    key, _ = make_request(tmp_path, "h25")
    before = grid.refused(grid.counter, UNKNOWN, "publish"), grid.refused(grid.counter, UNKNOWN, "subscribe")
    stranger = grid.client(key, hears="#")
    for topic in (
        stranger_topic("0" * 32, "request"),
        f"stackelgrid/{RUN}/a1/signal",
        f"stackelgrid/{RUN}/a1/h1/answer",
    ):
        stranger.publish(topic, b"{}")
    await_truth(lambda: grid.refused(grid.counter, UNKNOWN, "publish") >= before[0] + 3)
    await_truth(lambda: grid.refused(grid.counter, UNKNOWN, "subscribe") > before[1])
    assert stranger.heard == []


def sign_expired(grid: Grid, csr: str) -> str:
    """Have the grid's own authority sign a certificate that held until an hour ago."""
    signer = Signer.load(grid.certs / "authority", lambda file: "")
    return write_pem(signer.certify(Node("h1", Role.home), read_request(csr, "h1"), timedelta(hours=-1))).decode()


@pytest.mark.parametrize("kind", ["foreign", "expired"])
def test_certificate_that_does_not_hold_connects_nowhere(grid: Grid, tmp_path: Path, kind: str) -> None:
    openssl.make_key(tmp_path / "node.key")
    csr = openssl.make_request(tmp_path / "node.key", "h1")
    stranger = SigningAuthority(tmp_path, "Stackelgrid authority")
    (tmp_path / "node.crt").write_text(sign_expired(grid, csr) if kind == "expired" else stranger.sign(csr))
    before = grid.refused(grid.broker, UNKNOWN, "certificate")
    context = ssl.create_default_context(cafile=grid.ca)
    context.load_cert_chain(tmp_path / "node.crt", tmp_path / "node.key")
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "h1")
    client.tls_set_context(context)
    client.connect("localhost", grid.broker.port)
    client.loop_start()
    await_truth(lambda: grid.refused(grid.broker, UNKNOWN, "certificate") > before)
    assert not client.is_connected()
    client.disconnect()
    client.loop_stop()


def test_member_renews_no_certificate_but_its_own(grid: Grid, tmp_path: Path) -> None:
    openssl.make_key(tmp_path / "node.key")
    names = {name: openssl.make_request(tmp_path / "node.key", name) for name in ("h1", "h2")}
    member = grid.client("h1", grid.broker.port, grid.certs / "homes" / "h1", node_topic(RUN, "h1", "answer"))
    before = grid.counted("foreign"), grid.counted("malformed"), grid.refused(grid.broker, "h1", "publish")
    own, others = (node_topic(RUN, name, "request") for name in ("h1", "h2"))
    member.publish(own, json.dumps({"schema": 1, "name": "h2", "renew": names["h2"]}).encode())
    member.publish(own, json.dumps({"schema": 1, "name": "h1", "renew": names["h2"]}).encode())
    member.publish(others, json.dumps({"schema": 1, "name": "h2", "leave": True}).encode())
    await_truth(lambda: grid.counted("foreign") > before[0])
    await_truth(lambda: grid.counted("malformed") > before[1])
    await_truth(lambda: grid.refused(grid.broker, "h1", "publish") > before[2])
    assert {"h1", "h2"} <= grid.authority.register.in_force.keys()
    assert len([entry for entry in grid.authority.register.certified if entry.name in ("h1", "h2")]) == 2


# A home's life.


def test_denied_home_ends_with_the_reason_and_forgets_its_key(grid: Grid, tmp_path: Path) -> None:
    flat = Flat(grid, tmp_path, "h26")
    with flat.init() as process:
        grid.authority.deny("h26", "operator", "no contract")
        assert process.wait(PATIENCE_S) == 2
    assert "the operator denies it: no contract; mend that" in (tmp_path / "init.log").read_text()
    assert list(flat.etc.iterdir()) == []


def traces_of(key: bytes) -> list[bytes]:
    """Give what is found in any content that has a private key: the number itself, in hexadecimal or base64."""
    private = load_pem_private_key(key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    number = private.private_numbers().private_value.to_bytes(32, "big")
    encoded = [base64.b64encode(bytes(skip) + number)[4:40] for skip in range(3)]
    return [number, number.hex().encode(), number.hex().upper().encode(), *encoded]


def has_trace(content: bytes, traces: list[bytes]) -> bool:
    """Search a content for traces, also where it is broken into lines."""
    in_one_line = re.sub(rb"\s|\\n|\\r", b"", content)
    return any(trace in text for trace in traces for text in (content, in_one_line))


def test_home_enrols_renews_and_leaves_and_its_keys_stay_at_home(grid: Grid, tmp_path: Path) -> None:
    flat = Flat(grid, tmp_path, "h13")
    with flat.init():
        first = flat.key
    with flat.init() as process:  # interrupted, it goes on with its key
        assert flat.key == first
        flat.approve(process)
    keys = [(flat.etc / "node.key").read_bytes()]
    with flat.running():
        grid.authority.rotate()  # upon which the registrar asks for renewals
        await_truth(lambda: any(event["event"] == "certificate renewed" for event in flat.events()))
        (renewed,) = flat.state.glob("*.pem")
        keys.append(renewed.read_bytes())
        await_truth(lambda: [event["event"] for event in flat.events()].count("connected") == 2)
        assert renewed.read_text().count("BEGIN CERTIFICATE") == 3, "its own, and those of the old key and the new one"
    leave = [sys.executable, "-m", "emc_node", "leave", "--config", str(flat.etc / "config.json")]
    left = subprocess.run(leave, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE_S, check=False)
    assert (left.returncode, left.stderr) == (0, "")
    entries = [entry for entry in grid.authority.register.certified if entry.name == "h13"]
    assert [entry.revoked_by for entry in entries] == ["h13", "h13"]
    assert all(entry.revoked is not None for entry in entries)
    # Where are the keys?
    assert any(topic == stranger_topic(first, "request") for topic, _ in grid.listener.heard)
    traces = [trace for key in keys for trace in traces_of(key)]
    assert all(has_trace(key, traces_of(key)) for key in keys), "the search finds what is there"
    heard = [payload for _, payload in grid.listener.heard]
    files = [path for path in (*grid.folder.rglob("*"), tmp_path / "init.log", flat.log) if path.is_file()]
    contents = heard + [path.read_bytes() for path in files]
    assert not any(has_trace(content, traces) for content in contents)
    assert grid.broker.log in files and len(files) > 20
