"""The registrar: it takes requests for certificates over the broker, and makes public who belongs to the grid.

What the operator decides is in the authority's folder, which is read once a second. It publishes

    stackelgrid/RUN/registrar/roster          the homes of each aggregator, for the leader; retained
    stackelgrid/RUN/registrar/HOME/place      a home's aggregator, and the limit of its connection; retained
    stackelgrid/RUN/registrar/NODE/answer     a certificate that was renewed, or a word that it should be; retained
    stackelgrid/enrolment/ID/answer           what has become of a stranger's request, now and when it asks again

Requests come from strangers. One that is too long, is no request, or may not be, is refused and counted; of a flood
only so many wait for the disk as `MOST_OPEN` says, and the others are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from broker.authority import Directory
from broker.register import CertificateEntry
from broker.requests import MOST_WAITING, KeptRequest, RefusedRequestError
from stackelgrid.errors import ConfigError
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.transport.base import Action, Compute, Publish
from stackelgrid.wire.codec import ROOT, RegistrarLink
from stackelgrid.wire.enrolment import (
    MAX_REQUEST,
    Answer,
    EnrolmentRequest,
    NodeRequest,
    is_key_id,
    node_topic,
    stranger_topic,
)
from stackelgrid.wire.messages import MAX_REASON, Place, Presence, RegisteredMember, Roster
from stackelgrid.wire.roles import ENROLMENT, REGISTRAR

LOOK_S = 1.0
"""The time between two looks at the authority's folder."""
MOST_OPEN = 100
"""The requests that wait for the disk at a time."""
_MOST_NUMBER = 2**52
"""The largest number of a roster from which a register goes on; none comes near it."""


Request = TypeVar("Request", bound=BaseModel)


class Office(Protocol):
    """The part of `broker.authority.Authority` that the registrar needs; it reads and writes files."""

    def stamp(self) -> object:
        """Give what changes when something has."""

    def read_directory(self) -> Directory:
        """Read all that is made public."""

    def keep(self, key: str, wish: EnrolmentRequest) -> None:
        """Keep a stranger's request."""

    def renew(self, name: str, csr: str) -> None:
        """Give a node another certificate."""

    def revoke(self, name: str, by: str | None = None, reason: str | None = None) -> None:
        """Let a node go."""

    def note_arrival(self, name: str, aggregator: str) -> None:
        """Note that a home that moves is at its new aggregator."""

    def outgrow(self, number: int) -> None:
        """Give the register a larger number than this one, which was published before the register was restored."""


class Registrar:
    """A node that publishes what is in the directory of `office`, and hands requests to it. It never finishes.

    Raises `ConfigError` once the authority is for another run.
    """

    name = REGISTRAR
    last_will: Publish | None = None

    def __init__(self, office: Office, run: str) -> None:
        self.mailbox = Mailbox()
        self.progress = Progress()
        self.subscriptions = (
            stranger_topic("+", "request"),
            node_topic(run, "+", "request"),
            f"{ROOT}/{run}/+/+/{Presence.purpose}",
            # What is retained there may be from before a restart, and no longer true.
            node_topic(run, "+", "answer"),
            f"{ROOT}/{run}/{REGISTRAR}/+/place",
        )
        self._office, self._run = office, run
        self._seen: object = None
        self._directory: Directory | None = None
        self._roster: dict[str, list[RegisteredMember]] | None = None
        self._number = 0
        self._newest = 0  # the largest number of a roster that nodes may know
        self._published: dict[str, bytes] = {}
        self._stale: set[str] = set()
        self._open = 0
        self._look_at: float | None = None

    def start(self, now: float) -> Sequence[Action]:
        """Publish everything, now that the broker is there."""
        self._published, self._seen, self._look_at = {}, None, None
        return [self._look()]

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take a request, or a home's arrival."""
        match topic.split("/")[1:]:
            case [run, _, purpose] if run == ENROLMENT and purpose == "request":
                return self._take_enrolment(topic, payload)
            case [run, name, _, purpose] if name == REGISTRAR and purpose == "request":
                return self._take_request(topic, payload)
            case [run, _, _, purpose] if run == self._run and purpose == Presence.purpose:
                return self._take_presence(topic, payload)
        return []

    def receive_retained(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take a presence, clear what is its own and no longer true, and refuse a request of who knows when."""
        if topic.endswith("/request"):
            self.mailbox.reject("retained", topic, "a request that is retained may be of an earlier owner of the name")
            return []
        if not topic.startswith(f"{ROOT}/{self._run}/{REGISTRAR}/"):
            return self.receive(topic, payload, now)
        if topic.endswith(f"/{Place.purpose}"):
            self._note_number(payload)
        if self._directory is None:
            self._stale.add(topic)  # until it is known what there is to publish
        elif topic not in self._published:
            return [Publish(topic, b"", qos=1, retain=True)]
        return []

    def tick(self, now: float) -> Sequence[Action]:
        """Look at the authority's folder."""
        self._look_at = None
        return [self._look()]

    def next_deadline(self) -> float | None:
        """Give the time of the next look, None while one is under way."""
        return self._look_at

    # --- what comes in ---

    def _take_enrolment(self, topic: str, payload: bytes) -> Sequence[Action]:
        key, request = topic.split("/")[2], self._read(EnrolmentRequest, topic, payload)
        if request is None:
            return []
        if not is_key_id(key):
            return self._refuse(topic, None, RefusedRequestError("foreign", f"{key!r} is no ID of a key"))
        answer = stranger_topic(key, "answer")
        before = [] if self._directory is None else self._directory.requests
        known = any(each.id == key and each.state != "denied" and each.repeats(request) for each in before)
        if known and answer in self._published:
            return [Publish(answer, self._published[answer], qos=1)]
        if sum(each.state == "waiting" for each in before) >= MOST_WAITING:
            reason = f"{MOST_WAITING} requests wait for the operator; try again later"
            return self._refuse(topic, answer, RefusedRequestError("too many", reason, key))
        return self._hand_in(topic, answer, lambda: self._office.keep(key, request), key)

    def _take_request(self, topic: str, payload: bytes) -> Sequence[Action]:
        name, request = topic.split("/")[3], self._read(NodeRequest, topic, payload)
        if request is None:
            return []
        answer = node_topic(self._run, name, "answer")
        if request.name != name:
            reason = f"this is the topic of {name!r}, not of {request.name!r}"
            return self._refuse(topic, answer, RefusedRequestError("foreign", reason))
        csr = request.renew
        if csr is None:
            return self._hand_in(topic, answer, lambda: self._office.revoke(name, name, "has left"))
        return self._hand_in(topic, answer, lambda: self._office.renew(name, csr))

    def _take_presence(self, topic: str, payload: bytes) -> Sequence[Action]:
        _, _, coordinator, name, _ = topic.split("/")
        entry = None if self._directory is None else self._directory.register.in_force.get(name)
        if entry is None or entry.moved_from is None or entry.above != coordinator:
            return []
        try:
            online = Presence.model_validate_json(payload[:MAX_REQUEST]).state == "online"
        except ValidationError:
            return []  # its aggregator counts it
        return self._hand_in(topic, None, lambda: self._office.note_arrival(name, coordinator)) if online else []

    def _note_number(self, payload: bytes) -> None:
        """Note the number of a place that was published before a restart; the next look is at everything then."""
        try:
            number = Place.model_validate_json(payload[:MAX_REQUEST]).number
        except ValidationError:
            return
        if self._newest < number <= _MOST_NUMBER:
            self._newest, self._seen = number, None

    def _read(self, model: type[Request], topic: str, payload: bytes) -> Request | None:
        """Read a request; count what is none."""
        if len(payload) > MAX_REQUEST:
            self.mailbox.reject("oversized", topic, f"{len(payload)} bytes, at most {MAX_REQUEST} are read")
            return None
        try:
            return model.model_validate_json(payload)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "payload"
            self.mailbox.reject("malformed", topic, f"{where}: {first['msg']}")
            return None

    def _hand_in(
        self, topic: str, answer: str | None, do: Callable[[], None], key: str | None = None
    ) -> Sequence[Action]:
        """Have the office do what is asked, then look at what there is now; refuse what it refuses.

        `key` is the ID of the key that the request is about, where it is known.
        """
        if self._open >= MOST_OPEN:
            self.mailbox.reject("too many", topic, f"{MOST_OPEN} requests wait already")
            return []
        self._open += 1

        def attempt() -> RefusedRequestError | None:
            try:
                do()
            except RefusedRequestError as error:
                return error
            except ConfigError as error:  # a full disk, a name that has been revoked since
                return RefusedRequestError("impossible", str(error))
            return None

        def end(refusal: RefusedRequestError | None, now: float) -> Sequence[Action]:
            self._open -= 1
            if refusal is None:
                return [self._look()]
            return self._refuse(topic, answer, refusal, key)

        return [Compute(attempt, end)]

    def _refuse(
        self, topic: str, answer: str | None, refusal: RefusedRequestError, key: str | None = None
    ) -> Sequence[Action]:
        """Count a request, and tell its sender; nothing of it is retained."""
        self.mailbox.reject(refusal.kind, topic, refusal.reason)
        if answer is None:
            return []
        denied = Answer(id=refusal.key or key, state="denied", reason=refusal.reason[:MAX_REASON])
        return [Publish(answer, denied.write(), qos=1)]

    # --- what goes out ---

    def _look(self) -> Compute:
        def read() -> tuple[object, Directory | None]:
            stamp = self._office.stamp()
            return stamp, None if stamp == self._seen else self._office.read_directory()

        def publish(found: tuple[object, Directory | None], now: float) -> Sequence[Action]:
            self._look_at = now + LOOK_S
            if found[1] is None:
                return []
            self._seen, self._directory = found
            if found[1].register.number < self._newest:
                return [self._outgrow(self._newest)]
            return list(self._publish_changes(found[1]))

        return Compute(read, publish)

    def _outgrow(self, number: int) -> Compute:
        """Have the register go on from a number: nodes take no roster with a smaller one than they know."""

        def attempt() -> bool:
            try:
                self._office.outgrow(number)
            except ConfigError:  # a full disk: the next look tries again
                return False
            return True

        def end(done: bool, now: float) -> Sequence[Action]:
            self._seen = self._roster = None  # so that what there is gets the new number
            return [self._look()] if done else []

        return Compute(attempt, end)

    def _publish_changes(self, directory: Directory) -> Iterator[Publish]:
        """Give what differs from what was published last."""
        if directory.grid.run != self._run:
            raise ConfigError(f"the authority is for run {directory.grid.run} now; start the registrar again")
        public = dict(self._describe_grid(directory))
        for topic in (self._published.keys() | self._stale) - public.keys():
            if not _is_strangers(topic):
                yield Publish(topic, b"", qos=1, retain=True)
        self._stale.clear()
        for topic, payload in public.items():
            if self._published.get(topic) != payload:
                yield Publish(topic, payload, qos=1, retain=not _is_strangers(topic))
        self._published = public

    def _describe_grid(self, directory: Directory) -> Iterator[tuple[str, bytes]]:
        """Give all that is made public, by topic."""
        link, members = RegistrarLink(self._run), directory.register.members
        roster = {name: [_describe_member(home) for home in homes] for name, homes in members.items()}
        if roster != self._roster:
            self._roster, self._number = roster, max(1, directory.register.number)
            self._newest = max(self._newest, self._number)
        common: Any = {"schema": 1, "run": self._run, "sender": self.name, "number": self._number}
        for name, homes in members.items():
            for home in homes:
                place = Place(**common, aggregator=name, max_kw=home.max_kw)
                yield link.topic_of_place(home.name), link.write(place)
        # The leader is told last: a home that is still in a session then moves at its end, before the next one opens.
        yield link.topic_of_roster, link.write(Roster(**common, aggregators=roster))
        granted = {entry.key for entry in directory.register.certified}
        for request in directory.requests:
            if request.enrolment is None:
                topic = node_topic(self._run, request.name, "answer")
            else:
                topic = stranger_topic(request.id, "answer")
            if request.state != "approved" or (request.id in granted and request.name in directory.register.in_force):
                yield topic, _answer(request, directory).write()
        for name in directory.outdated:
            yield node_topic(self._run, name, "answer"), Answer(state="renew").write()


def _is_strangers(topic: str) -> bool:
    return topic.startswith(f"{ROOT}/{ENROLMENT}/")


def _describe_member(home: CertificateEntry) -> RegisteredMember:
    return RegisteredMember(name=home.name, homes=home.homes, max_kw=home.max_kw)


def _answer(request: KeptRequest, directory: Directory) -> Answer:
    """Give the answer to a request that is kept."""
    if request.state != "approved":
        return Answer(id=request.id, state=request.state, reason=request.reason)
    terms = None
    if request.enrolment is not None:
        entry = directory.register.in_force[request.name]
        grid = directory.grid
        terms = {**grid.terms, "run": grid.run, "broker": grid.broker, "aggregator": entry.above}
        terms |= {} if entry.max_kw is None else {"max_kw": entry.max_kw}
    return Answer(id=request.id, state="approved", certificate=request.certificate, ca=directory.ca, terms=terms)
