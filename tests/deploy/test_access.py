"""Real Mosquitto with the shipped rules, and those who try what is not theirs: refused and counted, the run goes on.

Honest are `leader`, its aggregators `a1` and `a2`, the homes `h1`, `h3`, `h5` of the first and `h2`, `h4`, `h6` of the
second. `mole` is a home of `a1` with a valid certificate, `rogue` an aggregator, `stray` its home, `desk` the observer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.access import A1, EVERYONE, HOMES, LEADER, LOG
from support.scripted_node import Scripted
from support.visitor import PATIENCE_S, RefusedError, Visitor, knock, until

import aggregator_node.config
import broker
import emc_node.config
import leader_node.config
from broker.__main__ import TLS_PORT
from broker.access import Node, Role, Rules
from broker.authority import Authority
from broker.refusals import UNKNOWN, Refusals
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.enrolment import list_nodes
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.base import Node as Driven
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.transport.tls import Tls

ADOPTED = "revocations and certificate are those in"


@dataclass
class Site:
    """A broker with access rules, its authority, and one lasting connection for each name that is asked for."""

    authority: Authority
    running: broker.RunningBroker
    stack: ExitStack

    def __post_init__(self) -> None:
        self._connections: dict[str, Visitor] = {}
        self._marks = itertools.count()

    def tls(self, name: str) -> Tls:
        place = self.authority.place(self.authority.register.in_force[name].node)
        return Tls(ca=place / "ca.crt", certificate=place / "node.crt", key=place / "node.key")

    def visit(self, name: str, **given: Any) -> Visitor:
        """A new connection, which ends any other of the name."""
        return Visitor(self.running.port, self.tls(name).context(), **given)

    def __getitem__(self, name: str) -> Visitor:
        if name not in self._connections:
            self._connections[name] = self.stack.enter_context(self.visit(name))
        return self._connections[name]

    def forget(self, name: str) -> None:
        """Its connection has ended."""
        self._connections.pop(name, None)

    @contextmanager
    def reloaded(self) -> Iterator[None]:
        """What changes inside is in force after it."""
        before = self.log().count(ADOPTED)
        yield

        def in_force() -> bool:
            source, copies = self.authority.folder / "broker", self.running.log.parent
            same = all(
                (source / name).read_bytes() == (copies / name).read_bytes() for name in ("access.acl", "crl.pem")
            )
            log = self.log()
            return same and log.count(ADOPTED) > before and log.rfind("Reloading config.") > log.rfind(ADOPTED)

        until(in_force)
        assert in_force()

    def log(self) -> str:
        return self.running.log.read_text()

    def mark(self) -> bytes:
        """A payload that nothing else has."""
        return f"mark {next(self._marks)}".encode()

    def counts(self) -> Counter[tuple[str, str]]:
        assert self.running.refusals is not None
        found = json.loads(self.running.refusals.read_text())
        return Counter({(name, kind): count for name, kinds in found.items() for kind, count in kinds.items()})

    @contextmanager
    def counted(self, *refused: tuple[str, str]) -> Iterator[None]:
        """What happens inside is counted as these refusals and no others."""
        before, expected = self.counts(), Counter(refused)
        yield
        until(lambda: self.counts() - before >= expected)
        assert self.counts() - before == expected


@contextmanager
def opened(folder: Path, nodes: list[Node]) -> Iterator[Site]:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    authority = Authority.init(folder / "certs")
    authority.add(*nodes)
    running = broker.start("mosquitto", folder / "broker", certificates=authority.folder / "broker")
    with running, ExitStack() as stack:
        assert running.url == f"mqtts://127.0.0.1:{running.port}"
        yield Site(authority, running, stack)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with opened(tmp_path_factory.mktemp("access"), EVERYONE) as made:
        yield made


# Listening.

TOLD = {
    "mole": ("a1", "stackelgrid/run/a1/mole/signal"),
    "rogue": ("leader", "stackelgrid/run/leader/rogue/signal"),
    "leader": ("a2", "stackelgrid/run/leader/a2/presence"),
    "desk": ("leader", "stackelgrid/run/leader/a2/signal"),
    "h1": ("a1", "stackelgrid/run/a1/h1/settlement"),
    "a1": ("leader", "stackelgrid/run/leader/a1/settlement"),
    "a2": ("leader", "stackelgrid/run/leader/a2/settlement"),
    "registrar": ("h1", "stackelgrid/run/registrar/h1/request"),
    "enrolment": ("registrar", "stackelgrid/enrolment/id/answer"),
}
"""For each who listens, somebody who may tell it something, and where."""

SPIES = {
    "a home, its neighbour's answers": ("mole", "stackelgrid/+/a1/h1/answer", "h1", "run/a1/h1/answer"),
    "a home, all answers of its street": ("mole", "stackelgrid/+/a1/+/answer", "h1", "run/a1/h1/answer"),
    "a home, its neighbour's presence": ("mole", "stackelgrid/run/a1/h1/presence", "h1", "run/a1/h1/presence"),
    "a home, what its neighbour is asked": ("mole", "stackelgrid/run/a1/h1/signal", "a1", "run/a1/h1/signal"),
    "a home, what its neighbour is told": ("mole", "stackelgrid/run/a1/+/settlement", "a1", "run/a1/h1/settlement"),
    "a home, another street's signal": ("mole", "stackelgrid/run/a2/signal", "a2", "run/a2/signal"),
    "a home, the leader's signal": ("mole", "stackelgrid/run/leader/signal", "leader", "run/leader/signal"),
    "a home, its aggregator's answer": ("mole", "stackelgrid/+/leader/+/answer", "a1", "run/leader/a1/answer"),
    "a home, everything": ("mole", "#", "h1", "run/a1/h1/answer"),
    "a home, everything of ours": ("mole", "stackelgrid/#", "h1", "run/a1/h1/answer"),
    "a home, everything by levels": ("mole", "+/+/+/+/+", "h1", "run/a1/h1/answer"),
    "a home, by a shared subscription": ("mole", "$share/g/stackelgrid/#", "h1", "run/a1/h1/answer"),
    "an aggregator, another's homes": ("rogue", "stackelgrid/+/a1/+/answer", "h1", "run/a1/h1/answer"),
    "an aggregator, another's answer": ("rogue", "stackelgrid/+/leader/+/answer", "a1", "run/leader/a1/answer"),
    "an aggregator, another's signal": ("rogue", "stackelgrid/+/a1/signal", "a1", "run/a1/signal"),
    "an aggregator, what another is asked": (
        "rogue",
        "stackelgrid/+/leader/a1/signal",
        "leader",
        "run/leader/a1/signal",
    ),
    "an aggregator, everything": ("rogue", "#", "h1", "run/a1/h1/answer"),
    "the leader, the homes' answers": ("leader", "stackelgrid/+/a1/+/answer", "h1", "run/a1/h1/answer"),
    "the observer, the homes' answers": ("desk", "stackelgrid/+/a1/+/answer", "h1", "run/a1/h1/answer"),
    "a home, its neighbour's place": (
        "mole",
        "stackelgrid/run/registrar/h1/place",
        "registrar",
        "run/registrar/h1/place",
    ),
    "a home, its neighbour's renewal": (
        "mole",
        "stackelgrid/run/registrar/+/answer",
        "registrar",
        "run/registrar/h1/answer",
    ),
    "an aggregator, the roster": ("rogue", "stackelgrid/run/registrar/roster", "registrar", "run/registrar/roster"),
    "the leader, what strangers are told": ("leader", "stackelgrid/enrolment/#", "registrar", "enrolment/id/answer"),
    "the observer, everything": ("desk", "stackelgrid/#", "h1", "run/a1/h1/answer"),
    "a home, its neighbour's secrets": ("mole", "stackelgrid/run/a1/h1/shares", "h1", "run/a1/h1/shares"),
    "a home, what is entrusted to its neighbour": (
        "mole",
        "stackelgrid/run/a1/h1/entrusted",
        "a1",
        "run/a1/h1/entrusted",
    ),
    "a home, its neighbour's sums of masks": ("mole", "stackelgrid/+/a1/+/masks", "h1", "run/a1/h1/masks"),
    "the leader, an aggregator's sums of masks": ("leader", "stackelgrid/+/a1/+/masks", "h1", "run/a1/h1/masks"),
    "the observer, sums of masks": ("desk", "stackelgrid/+/+/+/masks", "h1", "run/a1/h1/masks"),
    "the observer, a roster of masks": ("desk", "stackelgrid/+/a1/committee", "a1", "run/a1/committee"),
}


@pytest.mark.parametrize("case", SPIES)
def test_node_receives_only_what_its_rules_allow(site: Site, case: str) -> None:
    """Neither what was retained before they asked, nor what is said after."""
    spy, topic_filter, author, topic = SPIES[case]
    friend, allowed = TOLD[spy]
    before, after, mark = site.mark(), site.mark(), site.mark()
    site[author].publish(f"stackelgrid/{topic}", before, retain=True)
    with site.counted((spy, "subscribe")):
        site[spy].subscribe(allowed, topic_filter)
        site[author].publish(f"stackelgrid/{topic}", after)
        site[friend].publish(allowed, mark)
        heard = [payload for _, payload in site[spy].heard_until(mark)]
    assert before not in heard and after not in heard
    site[author].publish(f"stackelgrid/{topic}", b"", retain=True)


def test_broker_topics_are_for_health_checks_only(site: Site) -> None:
    friend, allowed = TOLD["mole"]
    mark = site.mark()
    with site.counted(("mole", "subscribe"), ("mole", "subscribe")):
        site["mole"].subscribe(allowed, "$SYS/#", "$SYS/broker/version")  # retained there from the start
        site[friend].publish(allowed, mark)
        assert not [topic for topic, _ in site["mole"].heard_until(mark) if topic.startswith("$SYS")]
    with site.counted(), site.visit("broker") as health:
        health.subscribe("$SYS/broker/version")
        assert health.received.get(timeout=PATIENCE_S)[0] == "$SYS/broker/version"


# Speaking.

FORGERS = {
    "a home, its neighbour's answer": ("mole", "run/a1/h1/answer", "a1"),
    "a home, its neighbour's receipt": ("mole", "run/a1/h1/receipt", "a1"),
    "a home, its neighbour's presence": ("mole", "run/a1/h1/presence", "a1"),
    "a home, the answer of a home that is not there": ("mole", "run/a1/h9/answer", "a1"),
    "a home, an answer in another street": ("mole", "run/a2/mole/answer", "a2"),
    "a home, a signal": ("mole", "run/a1/signal", "h1"),
    "a home, a settlement": ("mole", "run/a1/settlement", "h1"),
    "a home, a signal to its neighbour": ("mole", "run/a1/h1/signal", "h1"),
    "a home, a settlement to itself": ("mole", "run/a1/mole/settlement", "desk"),
    "a home, its aggregator's answer": ("mole", "run/leader/a1/answer", "leader"),
    "a home, the leader's signal": ("mole", "run/leader/signal", "a1"),
    "an aggregator, a receipt of its own home": ("rogue", "run/rogue/stray/receipt", "desk"),
    "an aggregator, an answer of another's home": ("rogue", "run/a1/h1/answer", "a1"),
    "an aggregator, its leader's signal": ("rogue", "run/leader/signal", "a1"),
    "an aggregator, its leader's settlement to it": ("rogue", "run/leader/rogue/settlement", "desk"),
    "an aggregator, another's signal": ("rogue", "run/a1/signal", "h1"),
    "an aggregator, a settlement to another's home": ("rogue", "run/a1/h1/settlement", "h1"),
    "an aggregator, a signal to another's home as if its own": ("rogue", "run/rogue/h1/signal", "desk"),
    "an aggregator, another's answer": ("rogue", "run/leader/a1/answer", "leader"),
    "an aggregator, another's presence": ("rogue", "run/leader/a1/presence", "leader"),
    "the leader, an aggregator's signal": ("leader", "run/a1/signal", "h1"),
    "the leader, an aggregator's answer": ("leader", "run/leader/a1/answer", "desk"),
    "a home, its neighbour's public keys": ("mole", "run/a1/h1/keys", "a1"),
    "a home, its neighbour's signature of a list": ("mole", "run/a1/h1/signature", "a1"),
    "a home, a roster of masks": ("mole", "run/a1/committee", "h1"),
    "a home, a quorum for its neighbour": ("mole", "run/a1/h1/quorum", "h1"),
    "an aggregator, public keys of its own home": ("rogue", "run/rogue/stray/keys", "rogue"),
    "an aggregator, a list for another's home": ("rogue", "run/a1/h1/list", "h1"),
    "the leader, a roster of masks": ("leader", "run/a1/committee", "h1"),
    "a home, an approval of a stranger": ("mole", "enrolment/id/answer", "enrolment"),
    "a home, a renewal of its neighbour": ("mole", "run/registrar/h1/answer", "h1"),
    "a home, its neighbour's place": ("mole", "run/registrar/h1/place", "h1"),
    "a home, that its neighbour leaves": ("mole", "run/registrar/h1/request", "registrar"),
    "a home, its neighbour's heartbeat": ("mole", "run/a1/h1/heartbeat", "desk"),
    "an aggregator, a roster": ("rogue", "run/registrar/roster", "leader"),
    "the leader, a home's place": ("leader", "run/registrar/h1/place", "h1"),
    "the observer, an answer": ("desk", "run/a1/h1/answer", "a1"),
    "the observer, a presence of its own": ("desk", "run/leader/desk/presence", "leader"),
    "the observer, a signal": ("desk", "run/a1/signal", "h1"),
    "the observer, a settlement": ("desk", "run/leader/settlement", "a1"),
}


@pytest.mark.parametrize("case", FORGERS)
def test_node_publishes_only_what_its_rules_allow(site: Site, case: str) -> None:
    forger, topic, reader = FORGERS[case]
    friend, allowed = TOLD[reader]
    mark = site.mark()
    site[reader].subscribe(f"stackelgrid/{topic}", allowed)
    with site.counted((forger, "publish"), (forger, "publish")):
        site[forger].publish(f"stackelgrid/{topic}")
        site[forger].publish(f"stackelgrid/{topic}", retain=True)
        site[friend].publish(allowed, mark)
        assert b"forged" not in [payload for _, payload in site[reader].heard_until(mark)]


@pytest.mark.parametrize(
    ("topic", "own"),
    [
        ("run/rogue/stray/presence", True),
        ("run/a1/h1/presence", False),
        ("run/rogue/signal", False),
        ("run/leader/a1/presence", False),
    ],
)
def test_last_will_is_passed_on_only_where_its_rules_allow(site: Site, topic: str, own: bool) -> None:
    """A last will is accepted whatever its topic; what counts is that it is not carried out."""
    mark = site.mark()
    friend, allowed = TOLD["desk"]
    site["desk"].subscribe(f"stackelgrid/{topic}", allowed)
    taken_over = ("stray", "taken over")
    with site.counted(taken_over, *([] if own else [("stray", "will")])):
        with site.visit("stray", will=f"stackelgrid/{topic}") as gone, site.visit("stray"):
            assert gone.gone.wait(PATIENCE_S)
        site[friend].publish(allowed, mark)
        heard = [payload for _, payload in site["desk"].heard_until(mark)]
    assert (b"forged" in heard) == own


# Coming in.


def signed(
    site: Site,
    folder: Path,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    since_days: int = -1,
    until_days: int = 1,
) -> ssl.SSLContext:
    """A certificate for h1 by `key`, and a context that shows it."""
    own = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "h1")]))
        .issuer_name(issuer)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=since_days))
        .not_valid_after(now + timedelta(days=until_days))
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "forged.pem").write_bytes(private + certificate.public_bytes(pem))
    context = ssl.create_default_context(cafile=site.authority.folder / "authority" / "ca.crt")
    context.load_cert_chain(folder / "forged.pem")
    return context


def private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def strangers(site: Site, folder: Path) -> dict[str, Callable[[], ssl.SSLContext | None]]:
    """What those who are not let in show; all of them know the broker."""
    own = site.authority.folder / "authority"
    name = x509.load_pem_x509_certificate((own / "ca.crt").read_bytes()).subject
    mole = site.tls("mole")

    def foreign() -> ssl.SSLContext:
        other = Authority.init(folder / "foreign")
        other.add(LEADER, A1, HOMES[0])
        place = other.place(HOMES[0])
        return Tls(ca=own / "ca.crt", certificate=place / "node.crt", key=place / "node.key").context()

    def nothing() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=own / "ca.crt")

    def self_signed() -> ssl.SSLContext:
        return signed(site, folder, ec.generate_private_key(ec.SECP256R1()), name)

    def expired() -> ssl.SSLContext:
        return signed(site, folder, private_key(own / "ca.key"), name, -9, -1)

    def not_yet() -> ssl.SSLContext:
        return signed(site, folder, private_key(own / "ca.key"), name, 1, 9)

    def signed_by_a_home() -> ssl.SSLContext:
        home = x509.load_pem_x509_certificate(mole.certificate.read_bytes())
        context = signed(site, folder, private_key(mole.key), home.subject)
        chain = (folder / "forged.pem").read_bytes() + mole.certificate.read_bytes()
        (folder / "forged.pem").write_bytes(chain)
        context.load_cert_chain(folder / "forged.pem")
        return context

    def old_tls() -> ssl.SSLContext:
        context = mole.context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    return {
        "of a foreign authority": foreign,
        "signed by itself": self_signed,
        "expired": expired,
        "not valid yet": not_yet,
        "signed by a home": signed_by_a_home,
        "without a certificate": nothing,
        "without TLS": lambda: None,
        "with TLS 1.2": old_tls,
    }


@pytest.mark.parametrize(
    ("who", "kind"),
    [
        ("of a foreign authority", "certificate"),
        ("signed by itself", "certificate"),
        ("expired", "certificate"),
        ("not valid yet", "certificate"),
        ("signed by a home", "certificate"),
        ("without a certificate", "no certificate"),
        ("without TLS", "no tls"),
        ("with TLS 1.2", "old tls"),
    ],
)
def test_stranger_is_refused(site: Site, tmp_path: Path, who: str, kind: str) -> None:
    context = strangers(site, tmp_path)[who]()
    with site.counted((UNKNOWN, kind)), pytest.raises(RefusedError):
        knock(site.running.port, context)


def test_client_is_admitted_with_a_certificate_of_the_authority(site: Site, tmp_path: Path) -> None:
    """So the refusals above are for what they say they are."""
    own = site.authority.folder / "authority"
    name = x509.load_pem_x509_certificate((own / "ca.crt").read_bytes()).subject
    context = signed(site, tmp_path, private_key(own / "ca.key"), name)
    with site.counted(("h1", "taken over")):
        site["h1"].publish("stackelgrid/run/a1/h1/answer")
        with Visitor(site.running.port, context):
            assert site["h1"].gone.wait(PATIENCE_S)
    site.forget("h1")


def test_client_id_of_another_node_takes_over_nothing(site: Site) -> None:
    """Nor does another's name as user name: the broker knows a node by its certificate alone."""
    victim, mark = site["h1"], site.mark()
    friend, allowed = TOLD["h1"]
    victim.subscribe(allowed)
    with site.counted(("stray", "publish")), site.visit("stray", client_id="h1", user="h1") as thief:
        thief.publish("stackelgrid/run/a1/h1/answer")
        site[friend].publish(allowed, mark)
        victim.heard_until(mark)
    assert not victim.gone.is_set()


def test_newer_connection_stays_when_two_have_one_certificate(site: Site) -> None:
    with site.counted(("stray", "taken over")), site.visit("stray") as first, site.visit("stray"):
        assert first.gone.wait(PATIENCE_S)


def test_home_cannot_pose_as_the_broker(site: Site) -> None:
    """Its certificate is not for being connected to, so nodes do not talk to it."""
    mole, h1 = site.tls("mole"), site.tls("h1").context()
    posing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    posing.load_cert_chain(mole.certificate, mole.key)
    h1.check_hostname = False  # not for that its name is another
    near, far = socket.socketpair()
    with near, far:
        far.settimeout(PATIENCE_S)

        def pose() -> None:
            with suppress(OSError):
                posing.wrap_socket(far, server_side=True)

        server = threading.Thread(target=pose)
        server.start()
        with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
            h1.wrap_socket(near)
        near.close()
        server.join()


# Going out.


def test_revoked_nodes_are_shut_out_while_others_stay_connected(site: Site) -> None:
    """Connected or not, with the session of an earlier handshake, and when the name has another certificate."""
    fired, signal, others = Node("fired", Role.home, "a1"), "stackelgrid/run/a1/signal", [site["h1"], site["a1"]]
    with site.reloaded():
        site.authority.add(fired)
    context, marks = site.tls("fired").context(), [site.mark() for _ in range(3)]
    session = knock(site.running.port, context)
    knock(site.running.port, context, session)
    with site.visit("fired") as inside:
        inside.subscribe(signal)
        site["a1"].publish(signal, marks[0])
        assert inside.heard_until(marks[0]) == []
        inside.publish("stackelgrid/run/a1/fired/answer")

        with site.reloaded():
            site.authority.revoke("fired")
        with site.counted(("fired", "publish"), ("fired", "subscribe")):
            inside.publish("stackelgrid/run/a1/fired/answer")
            site["a1"].publish(signal, marks[1])
            inside.subscribe(signal)  # whose answer comes after all that was on its way
            assert inside.received.empty()
        with site.counted((UNKNOWN, "certificate")), pytest.raises(RefusedError):
            knock(site.running.port, context)
        with site.counted((UNKNOWN, "certificate")), pytest.raises(RefusedError):
            knock(site.running.port, context, session)

        with site.reloaded():
            site.authority.add(fired)
        with site.counted(("fired", "taken over")), site.visit("fired") as back:
            assert inside.gone.wait(PATIENCE_S)
            back.subscribe(signal)
            site["a1"].publish(signal, marks[2])
            assert back.heard_until(marks[2]) == []
    with site.counted((UNKNOWN, "certificate")), pytest.raises(RefusedError):
        knock(site.running.port, context)
    assert not any(other.gone.is_set() for other in others)


def test_revoked_node_learns_that_the_broker_refuses_it(site: Site) -> None:
    """Its connection stays until something ends it: here its successor does."""
    dismissed = Node("dismissed", Role.home, "a1")
    with site.reloaded():
        site.authority.add(dismissed)
    url = f"mqtts://localhost:{site.running.port}"
    transport = MqttTransport(url, tls=site.tls("dismissed"), connect_timeout_s=math.inf, reconnect_s=math.inf)
    thread = threading.Thread(target=transport.run, args=([Scripted("dismissed", ["stackelgrid/run/a1/signal"])],))
    thread.start()
    until(lambda: "dismissed" in transport.traffic and transport.traffic["dismissed"].connected)
    traffic = transport.traffic["dismissed"]
    assert (traffic.connected, traffic.failure) == (True, None)
    with site.reloaded():
        site.authority.revoke("dismissed")
    with site.reloaded():
        site.authority.add(dismissed)
    with site.visit("dismissed"):
        until(lambda: traffic.refused)
    transport.stop()
    thread.join()
    with site.reloaded():
        site.authority.revoke("dismissed")
    assert (traffic.connections, traffic.refused) == (1, True)
    assert traffic.failure is not None and "certificate revoked" in traffic.failure


def test_what_a_revoked_node_retained_is_cleared(site: Site) -> None:
    """Its name may be given again, and its successor has not said so."""
    former, presence = Node("former", Role.home, "a1"), "stackelgrid/run/a1/former/presence"
    with site.reloaded():
        site.authority.add(former)
    with site.visit("former") as inside:
        inside.publish(presence, b"kept", retain=True)
        inside.publish("stackelgrid/made-up/a1/former/answer", b"kept", retain=True)
        inside.publish("stackelgrid/run/a1/former/keys", b"kept", retain=True)
    site["a1"].publish("stackelgrid/run/a1/former/entrusted", b"kept", retain=True)
    site["a1"].publish("stackelgrid/run/a1/committee", b"of others too", retain=True)
    site["h1"].publish("stackelgrid/run/a1/h1/presence", b"of another", retain=True)
    before = site.log().count("Cleared what nobody may write")
    site.authority.revoke("former")
    until(lambda: site.log().count("Cleared what nobody may write") > before)
    assert "Cleared what nobody may write any more: 4 retained messages" in site.log()
    with site.reloaded():
        site.authority.add(former)
    with site.visit("a1") as aggregator:
        site.forget("a1")
        aggregator.subscribe(*(f"stackelgrid/+/a1/+/{purpose}" for purpose in ("presence", "answer", "keys")))
        last = site.mark()
        site["h1"].publish("stackelgrid/run/a1/h1/answer", last)
        heard = aggregator.heard_until(last)
    assert ("stackelgrid/run/a1/h1/presence", b"of another") in heard
    assert not [topic for topic, _ in heard if "former" in topic]


def test_broker_keeps_a_bounded_number_of_messages_for_a_client_that_does_not_read(site: Site) -> None:
    topic, last = b"stackelgrid/run/a1/signal", site.mark()
    asked = len(topic).to_bytes(2) + topic + b"\0"
    with socket.create_connection(("127.0.0.1", site.running.port)) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with site.tls("mole").context().wrap_socket(plain, server_hostname="localhost") as stalled:
            site.forget("mole")
            stalled.sendall(broker.CONNECT)
            assert stalled.recv(4) == broker.CONNACK
            stalled.sendall(b"\x82" + bytes([2 + len(asked)]) + b"\0\1" + asked)
            assert stalled.recv(5)[0] == 0x90
            site["h1"].subscribe(topic.decode())
            told = "Outgoing messages are being dropped for client mole"
            for _ in range(60):
                for _ in range(1000):
                    site["a1"].flood(topic.decode(), b"x" * 1000)
                site["a1"].publish(topic.decode(), b"x")
                if told in site.log():
                    break
            until(lambda: told in site.log())
            assert told in site.log()
            site["a1"].publish(topic.decode(), last)
            site["h1"].heard_until(last)


def test_topic_that_reads_like_the_log_does_not_end_the_broker(site: Site) -> None:
    for topic in ("x running", "mosquitto version 2 running", "2026-11-22T00:00:00: mosquitto version 2 running"):
        with site.counted(("mole", "subscribe")):
            site["mole"].subscribe(topic)
    with site.counted(("mole", "subscribe")):  # a stranger's failed handshake it is not either
        site["mole"].subscribe("SSL routines::certificate verify failed")
    knock(site.running.port, site.tls("h1").context())


def test_full_disk_does_not_end_the_broker(site: Site, tmp_path: Path) -> None:
    port, files = broker.free_port(), str(site.authority.folder / "broker")
    (tmp_path / broker.REFUSALS).mkdir()  # so that the file can never be written
    options = ["--port", str(port), "--folder", str(tmp_path), "--certificates", files]
    with open("/dev/full", "wb") as full:
        tied = subprocess.Popen(
            [sys.executable, "-m", "broker.mosquitto", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=full,
            cwd=Path(broker.__file__).parents[1],
        )
    with tied:
        assert tied.stdout is not None and tied.stdin is not None
        assert tied.stdout.readline().strip().isdigit()
        with pytest.raises(RefusedError):
            knock(port, None)
        (tmp_path / broker.REFUSALS).rmdir()  # there is room again
        until((tmp_path / broker.REFUSALS).exists)
        until(lambda: (tmp_path / broker.REFUSALS).read_text() != "{}")
        assert json.loads((tmp_path / broker.REFUSALS).read_text()) == {UNKNOWN: {"no tls": 1}}
        knock(port, site.tls("h1").context())
        tied.stdin.close()
        assert tied.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("damaged", ["access.acl", "crl.pem", "node.key"])
@pytest.mark.parametrize("content", [b"rubbish\n", b""])
def test_damaged_files_do_not_change_who_is_admitted(site: Site, damaged: str, content: bytes) -> None:
    """Mosquitto itself would go on without rules, or without revocations; so it is not told to read such files."""
    if "fired" not in site.authority.register.in_force:
        with site.reloaded():
            site.authority.add(Node("fired", Role.home, "a1"))
    context = site.tls("fired").context()
    with site.reloaded():
        site.authority.revoke("fired")
    told = f"{damaged} cannot be used"
    before = site.log().count(told)
    (site.authority.folder / "broker" / damaged).write_bytes(content)
    until(lambda: site.log().count(told) > before)
    assert site.log().count(told) == before + 1
    with site.counted(("mole", "publish"), (UNKNOWN, "certificate")):
        site["mole"].publish("stackelgrid/run/a1/h1/answer")
        with pytest.raises(RefusedError):
            knock(site.running.port, context)
    with site.reloaded():
        site.authority.serve_as()
    place = site.authority.folder / "broker"
    with socket.create_connection(("127.0.0.1", site.running.port)) as plain:
        asked = site.tls("mole").context()
        with asked.wrap_socket(plain, server_hostname="localhost") as connection:
            shown = connection.getpeercert(binary_form=True)
    assert shown == ssl.PEM_cert_to_DER_cert((place / "node.crt").read_text())


def test_start_is_refused_when_the_folder_is_damaged(site: Site, tmp_path: Path) -> None:
    other = Authority.init(tmp_path / "certs").folder / "broker"
    (other / "access.acl").write_text("user a\ntopic readwrite #\n")
    with pytest.raises(broker.BrokerStartError, match=r"access.acl cannot be used .*readwrite.*no access rule"):
        broker.start("mosquitto", tmp_path / "broker", certificates=other)


@pytest.mark.parametrize("kind", ["auto", "mosquitto", "embedded"])
def test_broker_without_certificates_stays_on_the_loopback_interface(kind: broker.BrokerKind, tmp_path: Path) -> None:
    with pytest.raises(broker.BrokerStartError, match=r"loopback interface only \(host 0.0.0.0\).*certs init"):
        broker.start(kind, tmp_path / "broker", host="0.0.0.0")
    with pytest.raises(broker.BrokerStartError, match=r"no broker's certificate.*certs init"):
        broker.start("auto", tmp_path / "broker", certificates=tmp_path)
    with pytest.raises(broker.BrokerStartError, match="no encryption and no access rules"):
        broker.start("embedded", tmp_path / "broker", certificates=tmp_path)
    assert not (tmp_path / "broker").exists()


def by_hand(*arguments: str, **given: Any) -> subprocess.Popen[str]:
    project = Path(broker.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=project,
        **given,
    )


def test_broker_started_by_hand_admits_clients_with_a_certificate(site: Site, tmp_path: Path) -> None:
    for folder, wanted in ((site.authority.folder, broker.free_port()), (site.authority.folder / "broker", 0)):
        with by_hand("broker", "--certs", str(folder), "--port", str(wanted), "--host", "0.0.0.0") as started:
            assert started.stdout is not None
            found = re.match(r"mosquitto at mqtts://127.0.0.1:(\d+), process", started.stdout.readline())
            assert found is not None
            port = int(found[1])
            assert port == wanted or (wanted == 0 and port != TLS_PORT)
            knock(port, site.tls("h1").context())
            with pytest.raises(RefusedError):
                knock(port, None)
            started.send_signal(signal.SIGTERM)
            assert started.wait(PATIENCE_S) == 0
        state = site.authority.folder / "broker" / "state"
        assert json.loads((state / "refusals.json").read_text()) == {UNKNOWN: {"no tls": 1}}
        assert stat.S_IMODE((state / "node.key").stat().st_mode) == 0o600
    for arguments in (["--host", "0.0.0.0"], ["--host", "0.0.0.0", "--kind", "embedded"]):
        with by_hand("broker", *arguments) as refusing:
            told, mend = refusing.communicate(timeout=PATIENCE_S)
        assert refusing.returncode == 2 and not told
        assert "loopback interface only" in mend and "certs init" in mend and "Traceback" not in mend


def test_refusals_of_a_log_from_elsewhere_are_counted(site: Site, tmp_path: Path) -> None:
    where = str(site.authority.folder / "broker" / "access.acl")
    with by_hand("broker.refusals", "--rules", where, stdin=subprocess.PIPE) as counting:
        told, problems = counting.communicate(LOG, timeout=PATIENCE_S)
    assert counting.returncode == 0 and not problems
    assert json.loads(told)["mole"] == {"will": 1, "subscribe": 2, "publish": 2, "taken over": 1}
    with by_hand("broker.refusals", "--rules", str(tmp_path / "none"), stdin=subprocess.PIPE) as counting:
        _, problems = counting.communicate("", timeout=PATIENCE_S)
    assert counting.returncode == 1 and "name the access.acl" in problems and "Traceback" not in problems


AWK = shutil.which("busybox") or shutil.which("awk") or ""
"""The one of the container's image, where this machine has it."""
FILTER = Path(broker.__file__).with_name("without-packets.awk")


def without_packets(log: bytes, rules: Path) -> bytes:
    awk = [AWK, "awk"] if AWK.endswith("busybox") else [AWK]
    command = [*awk, "-v", f"rules={rules}", "-f", str(FILTER)]
    return subprocess.run(command, input=log, capture_output=True, check=True).stdout


def count_refusals(log: bytes, rules: Path) -> dict[str, Counter[str]]:
    refusals = Refusals(Rules.parse(rules.read_text()))
    for line in log.splitlines():
        refusals.read(line)
    return refusals.counts


@pytest.mark.skipif(not AWK, reason="there is no awk on this machine")
def test_log_without_packets_has_every_refusal(site: Site, tmp_path: Path) -> None:
    rules = site.authority.folder / "broker" / "access.acl"
    asked = [f"h1 0 {topic_filter}" for topic_filter in ("stackelgrid/+/a1/signal", "stackelgrid/#", "$SYS/x", "+/b/#")]
    asked += ["h1 1 $share/g/stackelgrid/+/a1/signal", "nobody 0 stackelgrid/+/a1/signal"]
    log = "\n".join([LOG, *(f"03:29:00: {line}" for line in asked), ""]).encode()
    kept = without_packets(log, rules)
    assert count_refusals(kept, rules) == count_refusals(log, rules) != {}
    assert b" Received " not in kept and b" Sending PUBLISH" not in kept and b" Sending SUBACK" not in kept
    assert b"a1/signal\n" not in kept.replace(b"nobody 0 stackelgrid/+/a1/signal\n", b""), "what is allowed is no news"
    assert b"version 2.0.11 running" in kept and b"Unable to load certificate revocation file" in kept
    changed = tmp_path / "access.acl"
    changed.write_text("user h1\ntopic read stackelgrid/#\n")
    assert b"stackelgrid/#" not in without_packets(b"03:29:00: h1 0 stackelgrid/#\n", changed)


@pytest.mark.skipif(not AWK, reason="there is no awk on this machine")
def test_mosquitto_starts_as_in_a_container(site: Site, tmp_path: Path) -> None:
    """With the files the authority writes beside the rules, the container's folders put where they are here."""
    source, port, config = site.authority.folder / "broker", broker.free_port(), tmp_path / "config"
    text = (source / "mosquitto.conf").read_text()
    for name in ("ca.crt", "node.crt", "node.key", "crl.pem", "access.acl"):
        assert f" /mosquitto/config/{name}\n" in text
    shutil.copytree(source, config, ignore=shutil.ignore_patterns("state"))
    program = broker.find_mosquitto()
    assert program is not None
    for name in ("mosquitto.conf", "start-in-container.sh"):
        text = (config / name).read_text().replace("exec mosquitto", f"exec {program}")
        text = text.replace("listener 8883", f"user root\nlistener {port} 127.0.0.1")  # whom the key belongs to
        text = text.replace("/mosquitto/config", str(config)).replace("/mosquitto/data", str(tmp_path))
        (config / name).write_text(text.replace("/mosquitto/log", str(tmp_path)))
    h1, mole = site.tls("h1").context(), site.tls("mole").context()
    with subprocess.Popen(["sh", config / "start-in-container.sh"], stderr=subprocess.PIPE) as started:
        assert broker.answers(port, certificates=source)
        with pytest.raises(RefusedError):
            knock(port, None)
        with Visitor(port, h1) as allowed, Visitor(port, mole) as refused:
            allowed.subscribe("stackelgrid/+/a1/signal")
            refused.subscribe("stackelgrid/#")
            for _ in range(100):
                allowed.publish("stackelgrid/run/a1/h1/answer")
            refused.publish("stackelgrid/run/a1/h1/answer")
            refused.publish("stackelgrid/run/a1/h1/answer")
        started.send_signal(signal.SIGHUP)  # to read the rules again; it is the first process
        knock(port, h1)
        started.terminate()
        logged = started.communicate(timeout=PATIENCE_S)[1]
        assert started.returncode == 0
    counts = count_refusals(logged, config / "access.acl")
    assert counts["mole"] == {"subscribe": 1, "publish": 2} and "h1" not in counts
    assert counts[UNKNOWN] == {"no tls": 1}
    assert b"Reloading config." in logged
    assert len(logged.splitlines()) < 50, "of a hundred answers no packet is in it"


# A run, with all of them at work.


def nodes_of(scenario: Scenario, folder: Path) -> list[Driven]:
    """The nodes of a run, which leave what they found in `folder`."""
    configs = build_node_configs(scenario, "run", gather=True)
    leader = configs.leader.model_copy(
        update={"journal_file": folder / "rounds.jsonl", "conclusion_file": None, "ledger_file": None}
    )
    aggregators = [
        config.model_copy(update={"account_file": None, "ledger_file": None}) for config in configs.aggregators
    ]
    homes = [
        config.model_copy(update={"schedule_file": folder / f"{config.name}.schedule.json"}) for config in configs.homes
    ]
    return [
        leader_node.config.build(leader),
        *map(aggregator_node.config.build, aggregators),
        *map(emc_node.config.build, homes),
    ]


def certified(scenario: Scenario) -> list[Node]:
    """Who needs a certificate for a run."""
    return list_nodes(scenario.topology)


def play(site: Site, scenario: Scenario, folder: Path) -> None:
    """The run over the site's broker, each node by a connection and with a certificate of its own."""

    async def together() -> None:
        carried = [
            MqttTransport(site.running.url, tls=site.tls(node.name)).serve([node])
            for node in nodes_of(scenario, folder)
        ]
        for one in await asyncio.gather(*carried):
            assert one.crashed == {}

    asyncio.run(together())


def assert_as_in_memory(scenario: Scenario, folder: Path) -> None:
    expected = in_memory.play(scenario)
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert len(rounds) == len(expected.rounds)
    for ours, theirs in zip(rounds, expected.rounds, strict=True):
        assert ours["load_kw"] == pytest.approx(theirs["load_kw"], rel=1e-9)
        assert ours["answered"] == theirs["answered"] and ours["held"] == theirs["held"] == []
    homes: dict[str, Any] = {}
    for path in folder.glob("*.schedule.json"):
        homes |= json.loads(path.read_text())
    assert homes.keys() == expected.homes.keys()
    for name, account in homes.items():
        assert numbers(account) == pytest.approx(numbers(json.loads(json.dumps(expected.homes[name]))), rel=1e-9)


def numbers(found: Any) -> list[float]:
    """Every number in it, by the order of its keys."""
    if isinstance(found, dict):
        return [number for key in sorted(found) for number in numbers(found[key])]
    if isinstance(found, list):
        return [number for one in found for number in numbers(one)]
    return [found] if isinstance(found, int | float) else []


class Attack:
    """Somebody who does the same over and over while a run is on, in a thread of its own."""

    def __init__(self, once: Callable[[], object]) -> None:
        self.times = 0
        self.failure: BaseException | None = None
        self._once, self._over = once, threading.Event()
        self._thread = threading.Thread(target=self._go_on)

    def _go_on(self) -> None:
        try:
            while not self._over.is_set():
                self._once()
                self.times += 1
        except BaseException as error:  # pytest's own among them
            self.failure = error

    def __enter__(self) -> Attack:
        self._thread.start()
        until(lambda: self.times > 0 or self.failure is not None)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def forgeries() -> list[tuple[str, bytes]]:
    """What would end or bend the run, if anybody heard it."""
    lie = {"homes": 1, "held": 0, "excluded": 0, "load_kw": [9.0] * 24, "slope": [0.0] * 24}
    over = {"settled": True, "complete": True, "body": {"price": [1.0] * 24}}
    said: list[tuple[str, dict[str, Any] | None]] = [
        ("leader/signal", None),  # the conversation is over
        ("a1/signal", None),
        ("leader/settlement", {"sender": "leader", "round": 1, **over}),
        ("a1/settlement", {"sender": "a1", "round": 1, **over}),
        ("a1/h1/presence", {"sender": "h1", "state": "offline"}),
        ("leader/a1/presence", {"sender": "a1", "state": "offline"}),
        *(("a1/h1/answer", {"sender": "h1", "round": number, "body": lie}) for number in (1, 2, 3)),
        *(("leader/a1/answer", {"sender": "a1", "round": number, "body": lie}) for number in (1, 2, 3)),
    ]
    return [
        (f"stackelgrid/run/{topic}", b"" if what is None else json.dumps({"schema": 1, "run": "run", **what}).encode())
        for topic, what in said
    ]


def test_run_with_access_rules_settles_as_in_memory(tmp_path: Path) -> None:
    scenario = load("user_oriented", ["population.homes=6", "aggregators=2"])
    honest = certified(scenario)
    assert set(honest) <= set(EVERYONE)
    with opened(tmp_path, EVERYONE) as site:
        with site.reloaded():
            site.authority.add(Node("fired", Role.home, "a1"))
        others = strangers(site, tmp_path)
        outside = {
            site.tls("fired").context(): "certificate",
            others["of a foreign authority"](): "certificate",
            others["without a certificate"](): "no certificate",
            None: "no tls",
        }
        with site.reloaded():
            site.authority.revoke("fired")

        def from_inside(name: str) -> None:
            for topic, payload in forgeries():
                site[name].publish(topic, payload, retain=True)
            site[name].subscribe("#", "stackelgrid/run/+/+/answer")

        knocks, turns = Counter[tuple[str, str]](), itertools.cycle(outside.items())

        def from_outside() -> None:
            context, kind = next(turns)
            with pytest.raises(RefusedError):
                knock(site.running.port, context)
            knocks[UNKNOWN, kind] += 1

        names = itertools.cycle(("h1", "a1", "leader"))

        def as_others() -> None:
            name = next(names)
            with site.visit("stray", client_id=name, will=f"stackelgrid/run/a1/{name}/presence"):
                pass

        inside = {name: Attack(partial(from_inside, name)) for name in ("mole", "rogue", "desk")}
        knocking, posing = Attack(from_outside), Attack(as_others)
        attacks = [*inside.values(), knocking, posing]
        for name in inside:
            site[name].subscribe("#")
        with ExitStack() as stack:
            for attack in attacks:
                stack.enter_context(attack)
            before = [attack.times for attack in attacks]
            play(site, scenario, tmp_path)
            after = [attack.times for attack in attacks]
        assert [attack.failure for attack in attacks] == [None] * len(attacks)
        assert all(late > early for early, late in zip(before, after, strict=True)), (before, after)
        assert_as_in_memory(scenario, tmp_path)

        tried = {
            **{(name, "publish"): len(forgeries()) * attack.times for name, attack in inside.items()},
            **{(name, "subscribe"): 1 + 2 * attack.times for name, attack in inside.items()},
            ("stray", "will"): posing.times,
            **knocks,
        }
        until(lambda: site.counts() == Counter(tried))
        assert site.counts() == Counter(tried)
        for name in ("mole", "rogue"):
            heard = [topic for topic, _ in list(site[name].received.queue)]
            own = (
                ("run/a1/signal", "run/a1/settlement")
                if name == "mole"
                else ("run/leader/signal", "run/leader/settlement")
            )
            assert set(heard) == {f"stackelgrid/{topic}" for topic in own}
        observed = {topic for topic, _ in list(site["desk"].received.queue)}
        assert {"stackelgrid/run/leader/settlement", "stackelgrid/run/a1/h1/presence"} <= observed
        assert not [topic for topic in observed if topic.endswith("/answer") and "/leader/" not in topic]


def test_addressed_game_is_played_without_refusals(tmp_path: Path) -> None:
    scenario = load("prosumer")
    with opened(tmp_path, certified(scenario)) as site:
        play(site, scenario, tmp_path)
        assert_as_in_memory(scenario, tmp_path)
        assert site.counts() == Counter()


def test_certificates_by_the_old_key_and_the_new_one_are_admitted_until_the_old_one_is_dropped(tmp_path: Path) -> None:
    """Those with an old certificate trust the old key alone; no connection is lost."""
    with opened(tmp_path, [LEADER, A1, *HOMES[::2]]) as site:
        port, connected, old = site.running.port, site["a1"], site.tls("h1").context()
        copied = site.tls("h3").context()
        with site.reloaded():
            site.authority.rotate()
        knock(port, old)
        with site.reloaded():
            site.authority.reissue("leader", "h1")
        new = site.tls("h1").context()
        for context in (new, old, site.tls("leader").context()):
            knock(port, context)
        with site.reloaded():
            site.authority.revoke("h3")  # its certificate is by the old key
        with pytest.raises(RefusedError):
            knock(port, copied)
        with site.reloaded():
            site.authority.reissue("a1", "h5")
        with site.reloaded():
            site.authority.finish_rotation()
        knock(port, new)
        with pytest.raises(RefusedError):
            knock(port, old)
        until(lambda: site.counts()["?", "certificate"] > 0)
        assert not connected.gone.is_set()
