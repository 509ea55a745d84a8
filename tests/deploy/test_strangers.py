"""A grid's broker, the one for strangers and the registrar, as processes: who asks, who is let in, who is refused."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.applicant import Applicant
from support.visitor import PATIENCE_S, RefusedError, Visitor, knock, until

import broker
from broker import enrolment
from broker.__main__ import main as start_broker
from broker.access import Node, Role
from broker.authority import Authority, Grid
from stackelgrid.testbed.enrolment import certificate_in
from stackelgrid.wire.enrolment import NodeRequest, node_topic, stranger_topic

NODES = [
    Node("leader", Role.leader),
    Node("a1", Role.aggregator, "leader"),
    Node("a2", Role.aggregator, "leader"),
    Node("h1", Role.home, "a1"),
    Node("h2", Role.home, "a2"),
    Node("registrar", Role.registrar),
    Node("enrolment", Role.enrolment),
]
HOME: dict[str, Any] = {"id": "flat", "elastic": [{"max_kw": 3, "valuation": 10}], "connection": {"draw_kw": 11}}
TERMS = {"game": "user_oriented", "slots": 24, "scenario": "0123456789abcdef"}


@dataclass
class Site:
    authority: Authority
    grid: broker.RunningBroker
    front: broker.RunningBroker
    status: Path
    stack: ExitStack

    @property
    def ca(self) -> Path:
        return self.authority.folder / "authority" / "ca.crt"

    def stranger(self, client_id: str, bridge: bool = False) -> Visitor:
        context = ssl.create_default_context(cafile=self.ca)
        return self.stack.enter_context(Visitor(self.front.port, context, client_id, bridge=bridge))

    def visit(self, name: str, context: ssl.SSLContext | None = None) -> Visitor:
        place = self.authority.place(self.authority.register.in_force[name].node)
        return self.stack.enter_context(Visitor(self.grid.port, context or certificate_in(place).context()))

    def refused(self) -> dict[str, int]:
        """What the registrar has refused, by kind."""
        rejected: dict[str, int] = json.loads(self.status.read_text())["rejected"]
        return rejected

    def barred(self) -> dict[str, int]:
        """What the broker for strangers has refused, by kind."""
        assert self.front.refusals is not None
        return dict(json.loads(self.front.refusals.read_text()).get("?", {}))

    def wait_for_refusal(self, *kinds: str) -> None:
        until(lambda: set(kinds) <= self.refused().keys())
        assert set(kinds) <= self.refused().keys()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    folder = tmp_path_factory.mktemp("site")
    authority = Authority.init(folder / "certs")
    authority.add(*NODES)
    certificates = authority.folder / "broker"
    with ExitStack() as stack:
        grid = broker.start(broker.BrokerKind.MOSQUITTO, folder / "state", certificates=certificates)
        stack.enter_context(grid)
        authority.found_grid(Grid(run="g", broker=grid.url, terms=TERMS))
        front = stack.enter_context(enrolment.start(grid, certificates, None, broker.LOOPBACK))
        words = ["certs", "serve", "--dir", str(authority.folder), "--status", str(folder / "status.json")]
        registrar = subprocess.Popen([sys.executable, "-m", "stackelgrid", *words, "--log", "json"])
        stack.callback(registrar.wait)
        stack.callback(registrar.terminate)
        until((folder / "status.json").exists)
        made = Site(authority, grid, front, folder / "status.json", stack)
        roster = made.visit("leader")
        roster.subscribe("stackelgrid/g/registrar/roster")
        assert b'"a1"' in roster.received.get(timeout=PATIENCE_S)[1]
        yield made
        assert registrar.poll() is None


def ask(site: Site, applicant: Applicant, **values: Any) -> Visitor:
    """Ask as a stranger who hears the answers."""
    visitor = site.stranger(applicant.id)
    visitor.subscribe(stranger_topic(applicant.id, "answer"))
    visitor.publish(stranger_topic(applicant.id, "request"), applicant.request(**values).write())
    return visitor


def admits(port: int, context: ssl.SSLContext) -> bool:
    try:
        knock(port, context)
    except RefusedError:
        return False
    return True


def hear(visitor: Visitor) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(visitor.received.get(timeout=PATIENCE_S)[1])
    return answer


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_home_enrols_with_a_key_that_never_leaves_it(site: Site, tmp_path: Path) -> None:
    (tmp_path / "home.json").write_text(json.dumps(HOME))
    words = ["init", "--enrol", site.front.url, "--ca", str(site.ca), "--name", "h7", "--to", str(tmp_path / "etc")]
    words += ["--home", str(tmp_path / "home.json"), "--state", str(tmp_path / "state")]
    (tmp_path / "state").mkdir()
    init = subprocess.Popen([sys.executable, "-m", "emc_node", *words], stdout=subprocess.PIPE, text=True)
    until(lambda: any(each.name == "h7" for each in site.authority.requests))
    (request,) = [each for each in site.authority.requests if each.name == "h7"]
    assert request.enrolment is not None and request.enrolment.max_kw == 11
    site.authority.approve("h7", "eva")
    said, _ = init.communicate(timeout=PATIENCE_S)
    assert init.returncode == 0, said
    assert request.fingerprint in said
    config = json.loads((tmp_path / "etc" / "config.json").read_text())
    assert (config["run"], config["broker"], config["aggregator"]) == ("g", site.grid.url, "a1")
    key = (tmp_path / "etc" / "node.key").read_text().splitlines()[1]
    elsewhere = [
        path for path in (*site.authority.folder.rglob("*"), *site.grid.log.parent.rglob("*")) if path.is_file()
    ]
    assert len(elsewhere) > 20 and not [path for path in elsewhere if key.encode() in path.read_bytes()]
    until(lambda: "user h7" in (site.grid.log.parent / "access.acl").read_text())
    home = site.stack.enter_context(Visitor(site.grid.port, certificate_in(tmp_path / "etc").context()))
    home.subscribe("stackelgrid/g/registrar/h7/place")
    assert json.loads(home.received.get(timeout=PATIENCE_S)[1])["aggregator"] == "a1"


STRANGERS: dict[str, tuple[str, Callable[[Visitor], None]]] = {
    "another's request": ("publish", lambda spy: spy.publish(stranger_topic("f" * 32, "request"))),
    "its own answer": ("publish", lambda spy: spy.publish(stranger_topic("e" * 32, "answer"))),
    "a settlement": ("publish", lambda spy: spy.publish("stackelgrid/g/leader/settlement")),
    "a request of a node": ("publish", lambda spy: spy.publish(node_topic("g", "h1", "request"))),
    "everything": ("subscribe", lambda spy: spy.subscribe("#")),
    "everybody's answers": ("subscribe", lambda spy: spy.subscribe("stackelgrid/enrolment/+/answer")),
    "a roster": ("subscribe", lambda spy: spy.subscribe("stackelgrid/g/registrar/roster")),
}


@pytest.mark.parametrize("case", STRANGERS)
@pytest.mark.parametrize("bridge", [False, True], ids=["client", "bridge"])
def test_stranger_reads_and_writes_nothing_but_its_own(site: Site, case: str, bridge: bool) -> None:
    """Nor does it as a broker of its own, which Mosquitto treats in another way."""
    kind, attempt = STRANGERS[case]
    before = site.barred().get(kind, 0)
    spy, h9 = site.stranger("e" * 32, bridge), Applicant("h9")
    attempt(spy)
    until(lambda: site.barred().get(kind, 0) > before)
    assert site.barred()[kind] == before + 1
    visitor = ask(site, h9, aggregator="a9")  # somebody is told something
    assert hear(visitor)["state"] == "denied"
    site.wait_for_refusal("impossible")
    assert spy.received.empty()


def test_stranger_retains_nothing(site: Site) -> None:
    spy = site.stranger("e" * 32)
    spy.flood(stranger_topic("e" * 32, "request"), b"x", retain=True)
    assert spy.gone.wait(PATIENCE_S)


def test_client_id_of_a_node_ends_no_connection_of_the_grid(site: Site) -> None:
    """Beside the grid's own listener it would: there a client id belongs to one connection."""
    h2 = site.visit("h2")
    for name in ("h2", "registrar", "enrolment", "grid", "leader"):
        site.stranger(name)
    h2.subscribe("stackelgrid/g/registrar/h2/place")
    assert json.loads(h2.received.get(timeout=PATIENCE_S)[1])["aggregator"] == "a2"
    assert not h2.gone.is_set()
    assert hear(ask(site, Applicant("h9"), aggregator="a9"))["state"] == "denied"  # the way to the registrar is open


def test_client_id_with_a_slash_reaches_no_topic_of_a_run(site: Site) -> None:
    """A run could be called enrolment; then this would be a request of its node h1."""
    spy = site.stranger("registrar/h1")
    spy.publish(node_topic("enrolment", "h1", "request"), NodeRequest(name="h1", leave=True).write())
    assert hear(ask(site, Applicant("h9"), aggregator="a9"))["state"] == "denied"
    assert "stackelgrid/enrolment/registrar" not in site.grid.log.read_text()
    assert "h1" in site.authority.register.in_force


@pytest.mark.parametrize(
    ("kind", "applicant", "values"),
    [
        ("taken", Applicant("h1"), {}),
        ("foreign", Applicant("h9"), {"csr": Applicant("h9").csr()}),
        ("malformed", Applicant("h9"), {"csr": "x" * 3000}),
    ],
)
def test_request_that_may_not_be_is_refused_and_counted(
    site: Site, kind: str, applicant: Applicant, values: dict[str, Any]
) -> None:
    requests = site.authority.requests
    assert hear(ask(site, applicant, **values))["state"] == "denied"
    site.wait_for_refusal(kind)
    assert site.authority.requests == requests


def test_second_request_is_refused_and_the_first_one_stands(site: Site) -> None:
    h9 = Applicant("h9")
    visitor = ask(site, h9)
    assert hear(visitor)["state"] == "waiting"
    visitor.publish(stranger_topic(h9.id, "request"), h9.request(aggregator="a2").write())
    assert hear(visitor)["state"] == "denied"
    site.wait_for_refusal("second")
    visitor.publish(stranger_topic(h9.id, "request"), h9.request().write())
    assert hear(visitor)["state"] == "waiting"
    site.authority.deny("h9", "eva", "no contract")
    assert hear(visitor) == {"schema": 1, "id": h9.id, "state": "denied", "reason": "no contract"}


def test_approval_reaches_a_stranger_over_the_connection_on_which_it_asked(site: Site) -> None:
    h8 = Applicant("h8")
    visitor = ask(site, h8)
    assert hear(visitor)["state"] == "waiting"
    site.authority.approve("h8", "eva")
    answer = hear(visitor)
    assert answer["state"] == "approved" and answer["terms"]["run"] == "g" and not visitor.gone.is_set()


def test_broker_for_strangers_starts_again_with_another_certificate(site: Site) -> None:
    visitor = site.stranger("b" * 32)
    site.authority.serve_as("grid.example.org")
    assert visitor.gone.wait(PATIENCE_S)
    until(lambda: broker.answers(site.front.port, certificates=site.authority.folder / "broker"))
    context = ssl.create_default_context(cafile=site.ca)
    with socket.create_connection(("127.0.0.1", site.front.port), timeout=PATIENCE_S) as connection:
        context.wrap_socket(connection, server_hostname="grid.example.org").close()
    assert hear(ask(site, Applicant("h9"), aggregator="a9"))["state"] == "denied"


def test_large_and_many_requests_cost_a_stranger_its_connection_or_are_counted(site: Site) -> None:
    h9 = Applicant("h9")
    visitor = site.stranger(h9.id)
    topic = stranger_topic(h9.id, "request")
    for _ in range(300):
        visitor.flood(topic, b"{")
    visitor.flood(topic, b"{" * 5000)
    site.wait_for_refusal("malformed", "oversized")
    large = site.stranger("d" * 32)
    large.flood(stranger_topic("d" * 32, "request"), b"x" * 100_000)
    assert large.gone.wait(PATIENCE_S)
    assert hear(ask(site, h9, aggregator="a9"))["state"] == "denied"


def test_node_asks_for_itself_alone(site: Site) -> None:
    h2, h1 = site.visit("h2"), Applicant("h1")
    h2.subscribe(node_topic("g", "h2", "answer"))
    h2.publish(node_topic("g", "h1", "request"), NodeRequest(name="h1", leave=True).write())  # the broker drops it
    h2.publish(node_topic("g", "h2", "request"), NodeRequest(name="h1", renew=h1.csr()).write())
    assert hear(h2)["state"] == "denied"
    h2.publish(node_topic("g", "h2", "request"), NodeRequest(name="h2", renew=Applicant("h2").csr()).write())
    assert "holds until" in hear(h2)["reason"]
    site.wait_for_refusal("foreign", "early")
    assert site.grid.refusals is not None
    until(lambda: json.loads(site.grid.refusals.read_text()).get("h2", {}).get("publish") == 1)  # type: ignore[union-attr]
    assert "h1" in site.authority.register.in_force


def test_home_that_leaves_is_shut_out(site: Site) -> None:
    site.authority.add(Node("h3", Role.home, "a1"))
    until(lambda: "user h3" in (site.grid.log.parent / "access.acl").read_text())
    place = site.authority.place(Node("h3", Role.home))
    h3 = site.visit("h3")
    h3.publish(node_topic("g", "h3", "request"), NodeRequest(name="h3", leave=True).write())
    until(lambda: "h3" not in site.authority.register.in_force)
    until(lambda: not admits(site.grid.port, certificate_in(place).context()))
    assert not admits(site.grid.port, certificate_in(place).context())


def test_broker_started_by_hand_has_a_place_for_strangers(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.authority.folder / "broker", tmp_path / "broker")
    words = [
        sys.executable,
        "-m",
        "broker",
        "--certs",
        str(tmp_path / "broker"),
        "--port",
        "0",
        "--enrolment-port",
        "0",
    ]
    by_hand = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert by_hand.stdout is not None
    with by_hand.stdout:
        found = re.search(r"enrolment at mqtts://127\.0\.0\.1:(\d+)", by_hand.stdout.readline())
    assert found is not None
    assert admits(int(found[1]), ssl.create_default_context(cafile=site.ca))
    by_hand.terminate()
    assert by_hand.wait(PATIENCE_S) == 0
    assert not admits(int(found[1]), ssl.create_default_context(cafile=site.ca))


@pytest.mark.parametrize(
    "words", [[], ["--kind", "nats", "--certs", "certs"], ["--kind", "embedded", "--certs", "certs"]]
)
def test_place_for_strangers_is_refused_where_there_is_none(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        start_broker(["--enrolment-port", "0", *words])
    assert "beside a Mosquitto with certificates" in capsys.readouterr().err


def test_place_for_strangers_needs_a_certificate_of_its_own(site: Site, tmp_path: Path) -> None:
    folder = shutil.copytree(site.authority.folder / "broker", tmp_path / "broker")
    shutil.rmtree(folder / "enrolment")
    with pytest.raises(broker.BrokerStartError, match="certs add enrolment --role enrolment"):
        enrolment.start(site.grid, folder, None, broker.LOOPBACK)
