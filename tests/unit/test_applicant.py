"""A home without a certificate, and the answers that it takes and refuses."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.signing import SigningAuthority

from emc_node import openssl
from emc_node.enrolment import ASK_AGAIN_S, Applicant
from stackelgrid.transport.base import Action, Compute, Finish, Publish
from stackelgrid.wire.enrolment import MAX_ANSWER, EnrolmentRequest, show_fingerprint


@dataclass
class Home:
    """A home with a key, its authority, and a stranger's."""

    key: Path
    own: SigningAuthority
    stranger: SigningAuthority
    csr: str

    def applicant(self, said: list[str] | None = None) -> Applicant:
        return Applicant(
            openssl.identify(self.key),
            EnrolmentRequest(name="h13", csr=self.csr),
            lambda answer: openssl.examine(answer.certificate or "", self.key, "h13", self.own.ca),
            ([] if said is None else said).append,
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    key = folder / "enrolment.key"
    openssl.make_key(key)
    csr = openssl.make_request(key, "h13")
    return Home(key, SigningAuthority(folder), SigningAuthority(folder, "stranger"), csr)


def answer(home: Home, **content: Any) -> bytes:
    return json.dumps({"schema": 1, "id": openssl.identify(home.key), **content}).encode()


def deliver(applicant: Applicant, payload: bytes) -> Sequence[Action]:
    """Deliver a payload and carry out what the node computes upon it."""
    actions = applicant.receive(applicant.subscriptions[0], payload, 0.0)
    for action in actions:
        if isinstance(action, Compute):
            return action.then(action.job(), 0.0)
    return actions


def test_key_is_readable_by_its_owner_alone(home: Home) -> None:
    assert stat.S_IMODE(home.key.stat().st_mode) == 0o600
    assert "PRIVATE KEY" in home.key.read_text()
    assert "PRIVATE" not in home.csr


def test_fingerprint_is_in_groups_of_four(home: Home) -> None:
    groups = show_fingerprint(openssl.identify(home.key)).split(" ")
    assert [len(group) for group in groups] == [4] * 8


def test_request_is_sent_again_until_it_is_decided_on(home: Home) -> None:
    said: list[str] = []
    applicant = home.applicant(said)
    sent = applicant.start(0.0)
    assert sent == [Publish(f"stackelgrid/enrolment/{applicant.name}/request", sent[0].payload, qos=1)]  # type: ignore[union-attr]
    assert json.loads(sent[0].payload)["name"] == "h13"  # type: ignore[union-attr]
    assert applicant.next_deadline() == ASK_AGAIN_S
    assert applicant.tick(ASK_AGAIN_S) == sent
    assert deliver(applicant, answer(home, state="waiting")) == []
    assert deliver(applicant, answer(home, state="waiting")) == []
    assert applicant.tick(2 * ASK_AGAIN_S) == sent
    assert said == ["the operator has the request"]
    assert applicant.start(99.0) == sent, "after a lost connection it asks again"


def test_approval_ends_the_wait_with_the_certificate(home: Home) -> None:
    applicant = home.applicant()
    certificate = home.own.sign(home.csr)
    assert deliver(applicant, answer(home, state="approved", certificate=certificate, terms={"run": "g"})) == [Finish()]
    assert applicant.certificate == certificate
    assert applicant.answer is not None and applicant.answer.terms == {"run": "g"}


def test_denial_ends_the_wait_with_the_reason(home: Home) -> None:
    applicant = home.applicant()
    assert deliver(applicant, answer(home, state="denied", reason="no such house")) == [Finish()]
    assert applicant.answer is not None and applicant.answer.reason == "no such house"


def test_registrar_may_refuse_a_request_that_is_not_decided(home: Home) -> None:
    refusal = json.dumps({"schema": 1, "state": "denied", "reason": "the name is taken"}).encode()
    applicant = home.applicant()
    assert deliver(applicant, refusal) == [Finish()]
    assert applicant.answer is not None and applicant.answer.id is None


def test_forged_answers_are_refused_counted_and_waited_through(home: Home, tmp_path: Path) -> None:
    other_key = tmp_path / "other.key"
    openssl.make_key(other_key)
    others = openssl.make_request(other_key, "h13")
    forged = {
        "signed by another authority": home.stranger.sign(home.csr),
        "for another key": home.own.sign(others),
        "for another name": home.own.sign(home.csr, "h14"),
        "for no name": home.own.sign(home.csr, "h13\nCN=h14"),
        "the authority's own": home.own.pem,
        "a request": home.csr,
        "nothing": "",
    }
    payloads = [answer(home, state="approved", certificate=each, ca=home.stranger.pem) for each in forged.values()]
    payloads += [
        b"{" * 100,
        answer(home, state="denied") + b" " * MAX_ANSWER,
        answer(home, state="approved", surprise=1),
        json.dumps({"schema": 1, "id": "0" * 32, "state": "denied", "reason": "go away"}).encode(),
    ]
    said: list[str] = []
    applicant = home.applicant(said)
    for number, payload in enumerate(payloads, 1):
        assert deliver(applicant, payload) == []
        assert (applicant.answer, applicant.refused) == (None, number)
    assert len(said) == 1
    assert said[0].startswith("an answer is refused, its certificate is not signed by the authority in ")
    assert deliver(applicant, b"") == []
    assert deliver(applicant, answer(home, state="approved", certificate=home.own.sign(home.csr))) == [Finish()]


def test_certificate_is_kept_without_what_stands_around_it(home: Home) -> None:
    certificate = home.own.sign(home.csr)
    around = f"reads like a comment\n{certificate}{home.stranger.pem}"
    assert openssl.examine(around, home.key, "h13", home.own.ca) == certificate
