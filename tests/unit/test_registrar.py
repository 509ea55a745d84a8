"""The registrar without a broker: what it keeps, grants, refuses and publishes, with the authority in a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from support.applicant import Applicant

from broker import authority as room
from broker import requests as kept
from broker.access import Node, Role, Rules
from broker.authority import Authority, Grid
from broker.files import AuthorityError
from broker.register import CertificateEntry, now, register_path
from stackelgrid.deploy import registrar
from stackelgrid.deploy.registrar import MOST_OPEN, Registrar
from stackelgrid.transport.base import Action, Compute, Publish
from stackelgrid.wire.enrolment import Answer, NodeRequest, node_topic, stranger_topic

NODES = [
    Node("leader", Role.leader),
    Node("a1", Role.aggregator, "leader"),
    Node("a2", Role.aggregator, "leader"),
    Node("h1", Role.home, "a1", 3, 30.0),
    Node("h2", Role.home, "a2"),
]


class Desk:
    """A registrar that does at once what it asks to be computed; `retained` is what a broker would have.

    `told` is what it does not retain, `answers` the last of these to each stranger.
    """

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.registrar = Registrar(self.authority, "g")
        self.retained: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.do(self.registrar.start(0.0))

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Compute():
                    self.do(action.then(action.job(), 0.0))
                case Publish() if "/enrolment/" in action.topic:
                    assert not action.retain and action.qos == 1
                    self.answers[action.topic] = json.loads(action.payload)
                    self.told.append((action.topic, json.loads(action.payload)))
                case Publish(retain=True):
                    assert action.qos == 1
                    self.retained.pop(action.topic, None)
                    if action.payload:
                        self.retained[action.topic] = json.loads(action.payload)
                case Publish():
                    self.told.append((action.topic, json.loads(action.payload)))

    def look(self) -> None:
        self.do(self.registrar.tick(1.0))

    def send(self, topic: str, payload: bytes) -> None:
        self.do(self.registrar.receive(topic, payload, 0.0))

    def ask(self, applicant: Applicant, **values: Any) -> None:
        self.send(stranger_topic(applicant.id, "request"), applicant.request(**values).write())

    def answer(self, applicant: Applicant) -> Answer:
        found = self.answers[stranger_topic(applicant.id, "answer")]
        return Answer.model_validate_json(json.dumps(found))

    def counts(self) -> dict[str, int]:
        return dict(self.registrar.mailbox.rejected)

    def rules(self) -> Rules:
        return Rules.parse((self.authority.folder / "broker" / "access.acl").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    authority = Authority.init(tmp_path_factory.mktemp("made") / "certs")
    authority.add(*NODES)
    terms = {"game": "user_oriented", "slots": 24}
    authority.found_grid(Grid(run="g", broker="mqtts://grid:8883", terms=terms))
    return authority.folder


@pytest.fixture
def desk(made: Path, tmp_path: Path) -> Desk:
    return Desk(shutil.copytree(made, tmp_path / "certs"))


# A stranger asks.


def test_home_has_certificate_terms_and_place_once_the_operator_approves(desk: Desk) -> None:
    h9 = Applicant("h9")
    desk.ask(h9)
    assert desk.answer(h9).state == "waiting" and not desk.rules().may_write("h9", "stackelgrid/g/a2/h9/answer")
    desk.authority.approve("h9", "eva")
    desk.look()
    answer = desk.answer(h9)
    assert answer.state == "approved" and answer.certificate is not None and answer.ca is not None
    certificate, ca = (x509.load_pem_x509_certificate(pem.encode()) for pem in (answer.certificate, answer.ca))
    certificate.verify_directly_issued_by(ca)
    assert certificate.public_key() == h9.key.public_key()
    assert [each.value for each in certificate.subject] == ["h9"]
    assert answer.terms == {
        "game": "user_oriented",
        "slots": 24,
        "run": "g",
        "broker": "mqtts://grid:8883",
        "aggregator": "a2",  # with one home, and a1 has three
        "max_kw": 11.0,
    }
    assert desk.rules().may_write("h9", "stackelgrid/g/a2/h9/answer")
    (request,) = desk.authority.requests
    assert (request.by, request.state) == ("eva", "approved")
    assert not list(desk.authority.folder.rglob("h9"))  # its key is nowhere here


def test_denied_home_is_told_why_and_may_ask_again(desk: Desk) -> None:
    h9 = Applicant("h9")
    desk.ask(h9)
    desk.authority.deny("h9", "eva", "call us first")
    desk.look()
    assert (desk.answer(h9).state, desk.answer(h9).reason) == ("denied", "call us first")
    desk.ask(h9, aggregator="a1")
    assert desk.answer(h9).state == "waiting"


def test_home_gets_the_aggregator_that_it_asks_for(desk: Desk) -> None:
    h9 = Applicant("h9")
    desk.ask(h9, aggregator="a1", homes=2, max_kw=None)
    entry = desk.authority.approve("h9", "eva")
    assert (entry.above, entry.homes, entry.max_kw) == ("a1", 2, None)
    desk.look()
    terms = desk.answer(h9).terms
    assert terms is not None and terms["aggregator"] == "a1" and "max_kw" not in terms


def test_fingerprint_tells_two_who_ask_for_one_name_apart(desk: Desk) -> None:
    mine, thiefs = Applicant("h9"), Applicant("h9")
    desk.ask(mine)
    desk.ask(thiefs)
    with pytest.raises(AuthorityError, match=r"2 requests are for 'h9'.*fingerprint"):
        desk.authority.approve("h9", "eva")
    shown = next(each.fingerprint for each in desk.authority.requests if each.id == mine.id)
    desk.authority.approve(shown[:24], "eva")
    desk.look()
    assert desk.answer(mine).state == "approved" and desk.answer(thiefs).state == "waiting"
    with pytest.raises(AuthorityError, match=r"the name 'h9' is taken"):
        desk.authority.approve(thiefs.id, "eva")


def test_same_request_again_changes_nothing(desk: Desk) -> None:
    h9 = Applicant("h9")
    for _ in range(3):
        desk.answers.clear()
        desk.ask(h9)  # each time signed anew
        assert desk.answer(h9).state == "waiting"
    desk.authority.approve("h9", "eva")
    desk.look()
    desk.answers.clear()
    desk.ask(h9)
    assert desk.answer(h9).state == "approved"
    assert len(desk.authority.requests) == 1 and desk.counts() == {}


REFUSED = {
    "a name that is taken": ("taken", Applicant("h1"), {}),
    "the broker's name": ("taken", Applicant("broker"), {}),
    "the registrar's name": ("impossible", Applicant("registrar"), {}),
    "an unknown aggregator": ("impossible", Applicant("h9"), {"aggregator": "a9"}),
    "an aggregator that is a home": ("impossible", Applicant("h9"), {"aggregator": "h1"}),
    "a csr for another name": ("malformed", Applicant("h9"), {"csr": Applicant("h9").csr("h1")}),
    "a csr of another key": ("foreign", Applicant("h9"), {"csr": Applicant("h9").csr()}),
    "no csr": ("malformed", Applicant("h9"), {"csr": "-----BEGIN CERTIFICATE REQUEST-----"}),
    "another kind of key": (
        "malformed",
        Applicant("h9"),
        {"csr": Applicant("h9", rsa.generate_private_key(65537, 2048)).csr()},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_request_that_may_not_be_is_refused_counted_and_not_kept(desk: Desk, case: str) -> None:
    kind, applicant, values = REFUSED[case]
    retained = dict(desk.retained)
    desk.ask(applicant, **values)
    assert desk.counts() == {kind: 1}
    ((topic, told),) = desk.told
    assert topic == stranger_topic(applicant.id, "answer")
    assert (told["state"], told["id"]) == ("denied", applicant.id) and told["reason"]
    assert desk.authority.requests == [] and desk.retained == retained


def test_second_request_with_a_key_is_refused(desk: Desk) -> None:
    h9 = Applicant("h9")
    desk.ask(h9)
    desk.ask(h9, aggregator="a1")
    assert desk.counts() == {"second": 1}
    (request,) = desk.authority.requests
    assert request.enrolment is not None and request.enrolment.aggregator is None


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"", "malformed"),
        (b"{", "malformed"),
        (b"\xff", "malformed"),
        (b"[" * 4096, "malformed"),
        (b'{"schema":2,"name":"h9","csr":""}', "malformed"),
        (b'{"schema":1,"name":"h 9","csr":""}', "malformed"),
        (b'{"schema":1,"name":"h9","csr":"","role":"leader"}', "malformed"),
        (b'{"schema":1,"name":"h9","csr":"","max_kw":1e999}', "malformed"),
        (b'{"schema":1,"name":"h9","csr":"' + b"x" * 4096 + b'"}', "oversized"),
    ],
)
@pytest.mark.parametrize("topic", [stranger_topic("0" * 32, "request"), node_topic("g", "h1", "request")])
def test_payload_that_is_no_request_is_counted_and_not_answered(
    desk: Desk, topic: str, payload: bytes, kind: str
) -> None:
    retained = dict(desk.retained)
    desk.send(topic, payload)
    assert desk.counts() == {kind: 1} and desk.told == [] and desk.retained == retained


def test_request_on_a_topic_of_no_key_is_refused(desk: Desk) -> None:
    desk.send(stranger_topic("h9", "request"), Applicant("h9").request().write())
    assert desk.counts() == {"foreign": 1} and desk.told == [] and desk.authority.requests == []


def test_requests_that_wait_are_limited_and_forgotten(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_WAITING", 2)
    first, second, third = (Applicant(f"h{number}") for number in (11, 12, 13))
    for each in (first, second, third):
        desk.ask(each)
    assert desk.counts() == {"too many": 1} and len(desk.authority.requests) == 2
    monkeypatch.setattr(registrar, "MOST_WAITING", 2)
    desk.ask(third)
    assert desk.counts() == {"too many": 2} and len(desk.authority.requests) == 2
    monkeypatch.setattr(kept, "WAIT", timedelta(seconds=-1))
    monkeypatch.setattr(desk.authority, "stamp", lambda: "an hour later")
    desk.look()
    assert desk.authority.requests == []
    monkeypatch.setattr(kept, "WAIT", timedelta(days=7))
    desk.ask(third)
    assert [each.id for each in desk.authority.requests] == [third.id]


def test_flood_does_not_wait_for_the_disk(desk: Desk) -> None:
    h9 = Applicant("h9")
    topic, payload = stranger_topic(h9.id, "request"), h9.request().write()
    actions = [action for _ in range(MOST_OPEN + 5) for action in desk.registrar.receive(topic, payload, 0.0)]
    assert len(actions) == MOST_OPEN and desk.counts() == {"too many": 5}
    desk.do(actions)
    desk.send(topic, payload)
    assert desk.counts() == {"too many": 5} and len(desk.authority.requests) == 1


@pytest.mark.parametrize("at", ["0.json", "access.acl", "register.json"])
def test_interrupted_approval_is_repaired_by_repeating_it(desk: Desk, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    h9, replace = Applicant("h9"), Path.replace
    desk.ask(h9)

    def cut(self: Path, target: Path) -> Path:
        if Path(target).name in (at, f"{h9.id}.json" if at == "0.json" else at):
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", cut)
        desk.authority.approve("h9", "eva")
    desk.look()
    assert desk.answer(h9).state == "waiting"
    desk.authority.approve("h9", "eva")
    desk.look()
    certificate = desk.answer(h9).certificate
    assert certificate is not None
    serial = x509.load_pem_x509_certificate(certificate.encode()).serial_number
    assert f"{serial:x}" == desk.authority.register.in_force["h9"].serial


# A node that has a certificate asks.


def age(authority: Authority, name: str, share: float) -> None:
    """Let the certificates of a name have been given so long ago that `share` of their lifetime is left."""
    register = authority.register
    entries = [
        each.model_copy(
            update={"added": now() - timedelta(days=100 * (1 - share)), "expires": now() + timedelta(days=100 * share)}
        )
        if each.name == name
        else each
        for each in register.certified
    ]
    aged = register.model_copy(update={"certified": tuple(entries)})
    (authority.folder / "authority" / "register.json").write_text(aged.model_dump_json(by_alias=True))


def test_certificate_is_renewed_near_its_end_and_the_one_before_still_holds(desk: Desk) -> None:
    h1 = Applicant("h1")
    ask = partial_send(desk, "h1", NodeRequest(name="h1", renew=h1.csr()))
    ask()
    topic, denied = desk.told[-1]
    assert topic == node_topic("g", "h1", "answer") and (denied["state"], denied["id"]) == ("denied", h1.id)
    assert desk.counts() == {"early": 1} and "holds until" in denied["reason"]
    age(desk.authority, "h1", 0.3)
    before = desk.authority.register.in_force["h1"]
    ask()
    answer = Answer.model_validate_json(json.dumps(desk.retained[node_topic("g", "h1", "answer")]))
    assert answer.state == "approved" and answer.certificate and answer.ca and answer.terms is None
    certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
    entry = desk.authority.register.in_force["h1"]
    assert certificate.public_key() == h1.key.public_key() and f"{certificate.serial_number:x}" == entry.serial
    assert (entry.above, entry.homes, entry.max_kw) == ("a1", 3, 30.0)
    crl = x509.load_pem_x509_crl((desk.authority.folder / "broker" / "crl.pem").read_bytes())
    assert list(crl) == [] and before in desk.authority.register.certified
    ask()  # the answer was lost
    assert desk.authority.register.in_force["h1"] == entry and desk.counts() == {"early": 1}
    desk.authority.revoke("h1")
    crl = x509.load_pem_x509_crl((desk.authority.folder / "broker" / "crl.pem").read_bytes())
    assert {f"{each.serial_number:x}" for each in crl} == {before.serial, entry.serial}


def test_home_is_asked_to_renew_while_the_authoritys_key_is_replaced(desk: Desk) -> None:
    desk.authority.rotate()
    desk.look()
    asked = {topic: said["state"] for topic, said in desk.retained.items() if topic.endswith("/answer")}
    assert asked == {node_topic("g", home, "answer"): "renew" for home in ("h1", "h2")}
    h1 = Applicant("h1")
    partial_send(desk, "h1", NodeRequest(name="h1", renew=h1.csr()))()
    answer = desk.retained[node_topic("g", "h1", "answer")]
    new, old = x509.load_pem_x509_certificates(answer["ca"].encode())
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    certificate.verify_directly_issued_by(new)
    assert new.public_key() != old.public_key() and desk.counts() == {}
    partial_send(desk, "h1", NodeRequest(name="h1", renew=Applicant("h1").csr()))()
    assert desk.counts() == {"early": 1}


def partial_send(desk: Desk, name: str, request: NodeRequest) -> Any:
    return lambda: desk.send(node_topic("g", name, "request"), request.write())


def test_home_whose_certificate_has_expired_asks_again_and_stays_where_it_was(desk: Desk) -> None:
    again, fewer = Applicant("h1"), {name: sum(home.homes for home in homes) for name, homes in members(desk).items()}
    assert min(fewer, key=fewer.__getitem__) == "a2"
    desk.ask(again)
    assert desk.counts() == {"taken": 1}
    age(desk.authority, "h1", -0.1)
    desk.ask(again)
    assert desk.answer(again).state == "waiting" and desk.counts() == {"taken": 1}
    entry = desk.authority.approve("h1", "eva")
    assert entry.above == "a1" and desk.authority.register.in_force["h1"] == entry
    assert [home.name for home in members(desk)["a1"]] == ["h1"]
    age(desk.authority, "a1", -0.1)
    desk.ask(Applicant("a1"))
    assert desk.counts() == {"taken": 2}


def members(desk: Desk) -> dict[str, list[CertificateEntry]]:
    return desk.authority.register.members


def test_request_on_the_topic_of_another_is_refused(desk: Desk) -> None:
    desk.send(node_topic("g", "h1", "request"), NodeRequest(name="h2", leave=True).write())
    assert desk.counts() == {"foreign": 1} and "h2" in desk.authority.register.in_force


def test_retained_request_is_refused(desk: Desk) -> None:
    """It would have the next owner of the name leave."""
    leave = NodeRequest(name="h2", leave=True).write()
    assert desk.registrar.receive_retained(node_topic("g", "h2", "request"), leave, 0.0) == []
    assert desk.counts() == {"retained": 1} and "h2" in desk.authority.register.in_force


def test_home_that_leaves_is_revoked_and_its_place_is_cleared(desk: Desk) -> None:
    assert node_topic("g", "h2", "answer").replace("answer", "place") in desk.retained
    desk.send(node_topic("g", "h2", "request"), NodeRequest(name="h2", leave=True).write())
    (entry,) = [each for each in desk.authority.register.certified if each.name == "h2"]
    assert entry.revoked is not None and (entry.revoked_by, entry.reason) == ("h2", "has left")
    assert desk.retained["stackelgrid/g/registrar/roster"]["aggregators"]["a2"] == []
    assert not [topic for topic in desk.retained if "/h2/" in topic]


# Who belongs to the grid.


def test_roster_and_places_follow_the_register(desk: Desk) -> None:
    roster = desk.retained["stackelgrid/g/registrar/roster"]
    assert roster["aggregators"] == {
        "a1": [{"name": "h1", "homes": 3, "max_kw": 30.0}],
        "a2": [{"name": "h2", "homes": 1}],
    }
    place = desk.retained["stackelgrid/g/registrar/h1/place"]
    assert (place["run"], place["sender"], place["aggregator"], place["max_kw"]) == ("g", "registrar", "a1", 30.0)
    desk.authority.move("h1", "a2")
    desk.look()
    moved = desk.retained["stackelgrid/g/registrar/roster"]
    assert moved["number"] > roster["number"]
    assert [home["name"] for home in moved["aggregators"]["a2"]] == ["h1", "h2"]
    assert desk.retained["stackelgrid/g/registrar/h1/place"]["aggregator"] == "a2"
    desk.authority.add(Node("desk", Role.observer))
    desk.look()
    assert desk.retained["stackelgrid/g/registrar/roster"] == moved  # an observer is no member


def test_home_that_moves_may_talk_to_both_until_it_has_come(desk: Desk) -> None:
    def may(aggregator: str) -> bool:
        told, rules = f"stackelgrid/g/{aggregator}/h1", desk.rules()
        return (
            rules.may_write("h1", f"{told}/answer")
            and rules.may_read("h1", f"stackelgrid/g/{aggregator}/signal")
            and rules.may_write(aggregator, f"{told}/signal")
        )

    assert may("a1") and not may("a2")
    desk.authority.move("h1", "a2")
    desk.look()
    assert may("a1") and may("a2")
    for state, coordinator in (("offline", "a2"), ("online", "a1")):
        presence = {"schema": 1, "run": "g", "sender": "h1", "state": state}
        desk.send(f"stackelgrid/g/{coordinator}/h1/presence", json.dumps(presence).encode())
    desk.send("stackelgrid/g/a2/h1/presence", b"{")
    assert may("a1") and may("a2")
    desk.send("stackelgrid/g/a2/h1/presence", b'{"schema":1,"run":"g","sender":"h1","state":"online"}')
    assert may("a2") and not may("a1")


@pytest.mark.parametrize(
    ("home", "aggregator", "told"),
    [
        ("h9", "a2", "no home 'h9'"),
        ("a1", "a2", "no home 'a1'"),
        ("h1", "h2", "no aggregator 'h2'"),
        ("h1", "a1", "below"),
    ],
)
def test_move_that_cannot_be_is_refused(desk: Desk, home: str, aggregator: str, told: str) -> None:
    with pytest.raises(AuthorityError, match=told):
        desk.authority.move(home, aggregator)


def test_what_is_retained_from_before_a_restart_is_cleared(desk: Desk) -> None:
    gone, late = node_topic("g", "h7", "answer"), "stackelgrid/g/registrar/h8/place"
    again = Registrar(desk.authority, "g")
    actions = again.start(0.0)
    assert again.receive_retained(gone, b"{}", 0.0) == []  # not known yet
    (compute,) = actions
    assert isinstance(compute, Compute)
    published = [each for each in compute.then(compute.job(), 0.0) if isinstance(each, Publish)]
    assert Publish(gone, b"", 1, True) in published and len(published) == 1 + len(desk.retained)
    assert again.receive_retained(late, b"{}", 0.0) == [Publish(late, b"", 1, True)]
    assert again.receive_retained("stackelgrid/g/registrar/h1/place", b"{}", 0.0) == []
    assert again.receive(late, b"{}", 0.0) == []  # its own denials come back


def test_registrar_says_everything_again_when_its_broker_returns(desk: Desk) -> None:
    before, desk.retained = desk.retained, {}
    desk.do(desk.registrar.start(5.0))
    assert desk.retained == before != {}


# A register from a copy.

ROSTER = "stackelgrid/g/registrar/roster"


@pytest.mark.parametrize("restarted", [False, True])
def test_roster_of_a_restored_register_is_newer_than_those_of_before(desk: Desk, *, restarted: bool) -> None:
    file = register_path(desk.authority.folder)
    copy = file.read_bytes()
    for aggregator in ("a1", "a2", "a1"):
        desk.authority.move("h2", aggregator)
        desk.look()
    known, place = desk.retained[ROSTER]["number"], desk.retained["stackelgrid/g/registrar/h2/place"]
    file.unlink()  # as tar does, which writes another file
    file.write_bytes(copy)
    if restarted:
        desk.registrar = Registrar(desk.authority, "g")
        desk.do(desk.registrar.start(0.0))
        desk.do(desk.registrar.receive_retained("stackelgrid/g/registrar/h2/place", json.dumps(place).encode(), 0.0))
    desk.look()
    restored = desk.retained[ROSTER]
    assert restored["number"] > known
    assert [home["name"] for home in restored["aggregators"]["a2"]] == ["h2"]
    assert desk.retained["stackelgrid/g/registrar/h2/place"]["number"] == restored["number"]
    desk.authority.move("h2", "a1")
    desk.look()
    assert desk.retained[ROSTER]["number"] > restored["number"]


@pytest.mark.parametrize("place", [b"", b"{", b'{"schema":1,"run":"g","sender":"registrar","number":9007199254740992}'])
def test_place_that_is_none_leaves_the_number_of_the_register(desk: Desk, place: bytes) -> None:
    before = desk.authority.register
    desk.do(desk.registrar.receive_retained("stackelgrid/g/registrar/h2/place", place, 0.0))
    desk.look()
    assert desk.authority.register == before
