"""A home that renews its certificate while it runs, by a virtual clock."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.signing import SigningAuthority

from emc_node import openssl
from emc_node.renewal import FIRST_PAUSE_S, LONGEST_PAUSE_S, LOOK_S, CertifiedNode, RenewedFile
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.transport.base import Action, Compute, FetchRetained, Publish, Reconnect
from stackelgrid.transport.tls import Tls, read_certificate
from stackelgrid.wire.enrolment import MAX_ANSWER
from stackelgrid.wire.roles import Role

REQUEST, ANSWER = (f"stackelgrid/street/registrar/h13/{purpose}" for purpose in ("request", "answer"))
DAY = 86400.0


class Inner:
    """A node that only notes what it is given."""

    role = Role.HOME
    name = "h13"
    subscriptions: Sequence[str] = ("stackelgrid/street/a1/signal",)
    last_will = Publish("stackelgrid/street/a1/h13/presence", b"offline")

    def __init__(self) -> None:
        self.mailbox, self.progress = Mailbox(), Progress()
        self.received: list[str] = []
        self.ticks: list[float] = []
        self.due: float | None = None

    def start(self, now: float) -> Sequence[Action]:
        return [FetchRetained()]

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        self.received.append(topic)
        return []

    def tick(self, now: float) -> Sequence[Action]:
        self.ticks.append(now)
        return []

    def next_deadline(self) -> float | None:
        return self.due


class Home:
    """A home with a certificate for 30 days, of which one has passed; its clock runs with the transport's."""

    def __init__(self, folder: Path) -> None:
        self.authority = SigningAuthority(folder)
        key, certificate = folder / "node.key", folder / "node.crt"
        openssl.make_key(key)
        certificate.write_text(self.authority.sign(openssl.make_request(key, "h13")))
        self.tls = Tls(ca=self.authority.ca, certificate=certificate, key=key, renewed=folder / "state" / "new.pem")
        (folder / "state").mkdir()
        self.began = datetime.now(UTC)
        self.now = 0.0
        self.objection: str | None = None  # of the broker
        self.inner = Inner()
        self.node = self.restart()

    def find_objection(self, tls: Tls) -> str | None:
        tls.context()  # raises where it is damaged
        return self.objection

    def restart(self) -> CertifiedNode:
        """Begin with what is on disk."""
        self.inner = Inner()
        file = RenewedFile(self.tls, "h13", self.find_objection)
        self.node = CertifiedNode(self.inner, "street", file, lambda: self.began + timedelta(seconds=self.now))
        return self.node

    def carry_out(self, actions: Sequence[Action]) -> list[Action]:
        """Carry out what the node computes; give what else it does."""
        done: list[Action] = []
        for action in actions:
            done += self.carry_out(action.then(action.job(), self.now)) if isinstance(action, Compute) else [action]
        return done

    def wait(self, until: float) -> list[Action]:
        """Have the node tick whenever it is due until then; give what it does."""
        done: list[Action] = []
        while (due := self.node.next_deadline()) is not None and due <= until:
            self.now = max(due, self.now)
            done += self.carry_out(self.node.tick(self.now))
        self.now = until
        return done

    def ask(self) -> dict[str, Any]:
        """Wait until it asks for a certificate; give the request."""
        while True:
            due = self.node.next_deadline()
            assert due is not None
            for action in self.wait(due)[:1]:
                assert isinstance(action, Publish)
                content: dict[str, Any] = json.loads(action.payload)
                return content

    def answer(self, **content: Any) -> list[Action]:
        """Deliver an answer to its present request."""
        identity = openssl.identify(self.pending_key)
        payload = json.dumps({"schema": 1, "id": identity, **content}).encode()
        return self.carry_out(self.node.receive(ANSWER, payload, self.now))

    @property
    def pending_key(self) -> Path:
        return self.tls.renewed.with_suffix(".key") if self.tls.renewed else Path()

    @property
    def remarks(self) -> list[str]:
        return self.inner.progress.remarks


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_node_behaves_as_the_one_within(home: Home) -> None:
    assert home.node.subscriptions == ["stackelgrid/street/a1/signal", ANSWER]
    assert home.node.last_will == Inner.last_will
    assert home.node.start(5.0) == [FetchRetained()]
    home.node.receive("stackelgrid/street/a1/signal", b"{}", 6.0)
    home.node.receive("stackelgrid/street/a1/settlement", b"{}", 6.0)
    assert home.inner.received == ["stackelgrid/street/a1/signal", "stackelgrid/street/a1/settlement"]
    home.inner.due = 7.0
    home.node.tick(5.0)
    assert home.node.next_deadline() == 7.0
    home.node.tick(7.0)
    assert home.inner.ticks == [7.0]


def test_certificate_is_asked_for_when_a_third_of_its_lifetime_is_left(home: Home) -> None:
    home.node.start(0.0)
    due = 29 * DAY * 2 / 3
    assert home.wait(due - LOOK_S) == []
    sent = home.wait(due + 2 * LOOK_S)[0]
    assert isinstance(sent, Publish) and (sent.topic, sent.qos, sent.retain) == (REQUEST, 1, False)
    content = json.loads(sent.payload)
    assert content.keys() == {"schema", "name", "renew"} and content["name"] == "h13"
    assert stat.S_IMODE(home.pending_key.stat().st_mode) == 0o600


def test_renewed_certificate_is_in_use_after_a_new_connection(home: Home) -> None:
    home.node.start(0.0)
    certificate = home.authority.sign(home.ask()["renew"], days=60)
    assert home.answer(state="approved", certificate=certificate) == [Reconnect()]
    assert home.tls.renewed is not None
    assert stat.S_IMODE(home.tls.renewed.stat().st_mode) == 0o600
    assert read_certificate(home.tls.choose().certificate).until > home.began + timedelta(days=50)
    home.tls.context()
    assert not home.pending_key.exists()
    assert home.wait(30 * DAY) == [], "the new one holds for long"
    assert [action for action in home.wait(40 * DAY) if isinstance(action, Publish)]


def test_unanswered_request_is_sent_again_with_growing_pauses(home: Home) -> None:
    home.node.start(0.0)
    home.ask()
    pauses = []
    for _ in range(14):
        before, due = home.now, home.node.next_deadline()
        assert due is not None
        assert [type(action) for action in home.wait(due)] == [Publish, FetchRetained]
        pauses.append(due - before)
    assert pauses[-1] == LONGEST_PAUSE_S
    assert all(later == min(2 * earlier, LONGEST_PAUSE_S) for earlier, later in pairwise(pauses))
    (remark,) = home.remarks
    assert remark.endswith(f"is not renewed: no answer from the registrar to {REQUEST}")
    certificate = home.authority.sign(json.loads(home.wait(home.now + LONGEST_PAUSE_S)[0].payload)["renew"])  # type: ignore[union-attr]
    home.answer(state="approved", certificate=certificate)
    assert home.remarks == []


def test_restarted_node_asks_for_the_same_key(home: Home) -> None:
    home.node.start(0.0)
    before = home.ask()
    key = home.pending_key.read_bytes()
    home.restart().start(home.now)
    again = home.wait(home.now)[0]
    assert isinstance(again, Publish) and again.topic == REQUEST
    assert home.pending_key.read_bytes() == key
    assert home.answer(state="approved", certificate=home.authority.sign(before["renew"])) == [Reconnect()]


def test_forged_renewals_are_refused_counted_and_remarked(home: Home, tmp_path: Path) -> None:
    stranger = SigningAuthority(tmp_path, "stranger")
    home.node.start(0.0)
    csr = home.ask()["renew"]
    held = home.tls.choose()
    forged = [
        {"certificate": stranger.sign(csr)},
        {"certificate": stranger.sign(csr), "ca": stranger.pem},
        {"certificate": home.authority.sign(csr, "h14")},
        {"certificate": home.authority.sign(csr, days=30, age_days=31)},
        {"certificate": held.certificate.read_text()},
        {},
    ]
    for number, content in enumerate(forged, 1):
        assert home.answer(state="approved", **content) == []
        assert home.answer(state="approved", **content) == [], "until it asks again, nothing more is looked at"
        assert home.inner.mailbox.rejected["refused"] == number
        home.ask()
    assert len(home.remarks) == 1
    hostile = [
        b"{",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"null",
        b'{"schema":1,"state":"renew"}' + b" " * MAX_ANSWER,
    ]
    for number, payload in enumerate(hostile, 1):
        assert home.node.receive(ANSWER, payload, home.now) == []
        assert home.inner.mailbox.rejected["malformed"] == number
    assert home.tls.choose() == held
    other = json.dumps({"schema": 1, "id": "0" * 32, "state": "approved", "certificate": "x"}).encode()
    assert home.node.receive(ANSWER, other, home.now) == [], "to an earlier request"
    assert home.answer(state="approved", certificate=home.authority.sign(csr)) == [Reconnect()]


def test_denied_renewal_is_remarked_and_asked_for_again(home: Home) -> None:
    home.node.start(0.0)
    home.ask()
    home.answer(state="denied", reason="the authority is asleep")
    assert home.remarks[0].endswith("is not renewed: the registrar denies it: the authority is asleep")
    assert home.wait(home.now + 2 * FIRST_PAUSE_S)


def test_registrar_may_ask_for_a_renewal_and_bring_another_authority(home: Home, tmp_path: Path) -> None:
    home.node.start(0.0)
    home.wait(DAY)
    sent, _ = home.carry_out(home.node.receive(ANSWER, b'{"schema":1,"state":"renew"}', home.now))
    assert isinstance(sent, Publish)
    following = SigningAuthority(tmp_path, "following")
    both = home.authority.pem + following.pem
    certificate = following.sign(json.loads(sent.payload)["renew"])
    assert home.answer(state="approved", certificate=certificate, ca=both) == [Reconnect()]
    context = home.tls.context()
    assert {dict(part[0] for part in each["subject"])["commonName"] for each in context.get_ca_certs()} >= {  # type: ignore[index]
        "authority",
        "following",
    }


def test_full_disk_is_no_reason_to_lose_the_present_certificate(home: Home) -> None:
    home.node.start(0.0)
    csr = home.ask()["renew"]
    assert home.tls.renewed is not None
    home.tls.renewed.mkdir()  # as good as a full disk: it cannot be written
    assert home.answer(state="approved", certificate=home.authority.sign(csr)) == []
    assert "is not renewed: " in home.remarks[0]
    home.tls.renewed.rmdir()
    home.ask()
    assert home.answer(state="approved", certificate=home.authority.sign(csr)) == [Reconnect()]


def test_certificate_that_the_broker_does_not_accept_yet_is_not_used(home: Home) -> None:
    home.node.start(0.0)
    certificate = home.authority.sign(home.ask()["renew"])
    held, home.objection = home.tls.choose(), "unknown ca"
    assert home.answer(state="approved", certificate=certificate) == []
    assert home.remarks[0].endswith("is not renewed: the broker does not accept the new certificate (unknown ca)")
    assert home.tls.choose() == held
    home.objection = None
    home.ask()
    assert home.answer(state="approved", certificate=certificate) == [Reconnect()]
