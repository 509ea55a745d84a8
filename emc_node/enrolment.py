"""A home without a certificate asks for one, waits for the operator's decision and checks the answer.

The home's key stays in its file. What travels is the request that `openssl` signs with it, over a listener of the
broker where a stranger may write its one request and read its one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from emc_node import openssl
from emc_node.openssl import CertificateRefusedError, OpensslError
from stackelgrid.text_file import replace_file
from stackelgrid.transport.address import Address
from stackelgrid.transport.base import Action, Compute, Finish, Publish
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.wire.enrolment import MAX_ANSWER, Answer, EnrolmentRequest, show_fingerprint, stranger_topic

ASK_AGAIN_S = 60.0
"""The time after which a request is sent again that nobody has decided on: answers are not retained."""
KEY, REQUEST = "enrolment.key", "enrolment.json"
"""The files with the home's private key and its request, from then on until the operator has decided."""


@dataclass(frozen=True)
class EnrolmentWish:
    """The home's part of its request: its name, an aggregator if it wants a certain one, the kW of its connection."""

    name: str
    aggregator: str | None = None
    max_kw: float | None = None


class DeniedError(Exception):
    """The request was denied, by the operator or, before that, by the registrar; the message says so and why."""


class AnswerError(ValueError):
    """A payload that is no answer to a request; the message says why."""


def read_answer(payload: bytes) -> Answer:
    """Read an answer of the registrar. Raises `AnswerError`."""
    if len(payload) > MAX_ANSWER:
        raise AnswerError(f"it has {len(payload)} bytes, an answer has at most {MAX_ANSWER}")
    try:
        return Answer.model_validate_json(payload)
    except ValidationError as error:
        raise AnswerError(f"it is no answer: {error.errors(include_url=False)[0]['msg']}") from None


class Applicant:
    """Sends a request until there is a decision; its name is the ID of its key.

    `examine` gives the certificate of an approval, or raises `CertificateRefusedError`: such an answer is counted in
    `refused`, and it waits on. `say` gets a line for each change that its owner should see. In the end `answer` is the
    decision, and of an approval `certificate` what `examine` gave.
    """

    last_will: Publish | None = None

    def __init__(
        self, key: str, request: EnrolmentRequest, examine: Callable[[Answer], str], say: Callable[[str], None]
    ) -> None:
        self.name = key
        self.subscriptions: Sequence[str] = (stranger_topic(key, "answer"),)
        self.answer: Answer | None = None
        self.certificate = ""
        self.refused = 0
        self._request = Publish(stranger_topic(key, "request"), request.write(), qos=1)
        self._examine, self._say = examine, say
        self._ask_at: float | None = None
        self._waits = False

    def start(self, now: float) -> Sequence[Action]:
        """Send the request."""
        self._ask_at = now + ASK_AGAIN_S
        return [self._request]

    def tick(self, now: float) -> Sequence[Action]:
        """Send it again."""
        if self._ask_at is None or now < self._ask_at:
            return []
        self._ask_at = now + ASK_AGAIN_S
        return [self._request]

    def next_deadline(self) -> float | None:
        """Give the time at which it sends again."""
        return self._ask_at

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take an answer."""
        if not payload:
            return []  # it was withdrawn
        try:
            answer = read_answer(payload)
            if answer.id != self.name and (answer.id is not None or answer.state != "denied"):
                raise AnswerError("it is for another key")
        except AnswerError as error:
            return self._refuse(error)
        match answer.state:
            case "waiting" if not self._waits:
                self._waits = True
                self._say("the operator has the request")
            case "denied":
                self.answer = answer
                return [Finish()]
            case "approved":
                return [Compute(partial(self._find_fault, answer), partial(self._decide, answer))]
        return []

    def _find_fault(self, answer: Answer) -> str | CertificateRefusedError:
        try:
            return self._examine(answer)
        except CertificateRefusedError as error:
            return error

    def _decide(self, answer: Answer, found: str | CertificateRefusedError, now: float) -> Sequence[Action]:
        if isinstance(found, CertificateRefusedError):
            return self._refuse(found)
        self.answer, self.certificate = answer, found
        return [Finish()]

    def _refuse(self, why: ValueError) -> Sequence[Action]:
        self.refused += 1
        if self.refused == 1:
            self._say(f"an answer is refused, {why}; it waits on, ask the operator who answers there")
        return []


def enrol(
    broker: str, ca: Path, folder: Path, wish: EnrolmentWish, say: Callable[[str], None]
) -> tuple[str, dict[str, Any]]:
    """Ask for a certificate, and wait as long as it takes; what is needed to go on with it later is in `folder`.

    Gives the certificate, PEM, and the operator's terms. Raises `DeniedError`, `ValueError` for an address or a file
    that cannot be used, `OpensslError`, and `BrokerUnreachableError` where there is no connection at first.
    """
    transport = _connect_to(broker, ca)
    identity, request = _prepare(folder, wish)
    say(f"the fingerprint of this home is {show_fingerprint(identity)}")
    say("tell it to the operator, who compares and approves; Ctrl-C ends the wait, the same command goes on with it")

    def examine(answer: Answer) -> str:
        return openssl.examine(answer.certificate or "", folder / KEY, wish.name, ca)

    applicant = Applicant(identity, request, examine, say)
    for crash in transport.run([applicant]).crashed.values():
        raise crash
    assert applicant.answer is not None  # else it had not finished
    if applicant.answer.state == "denied":
        forget(folder)
        who = "registrar" if applicant.answer.id is None else "operator"
        raise DeniedError(f"the {who} denies it: {applicant.answer.reason or 'no reason is given'}")
    return applicant.certificate, applicant.answer.terms or {}


def forget(folder: Path) -> None:
    """Remove what is left of an enrolment that is over."""
    for name in (REQUEST, KEY):
        (folder / name).unlink(missing_ok=True)


def _prepare(folder: Path, wish: EnrolmentWish) -> tuple[str, EnrolmentRequest]:
    """Give the ID of the key and the request for its certificate: those of before, or new ones for another wish.

    A request stays as it was sent, also where the home's limit has changed since: the operator decides on one only.
    """
    key, file = folder / KEY, folder / REQUEST
    try:
        request = EnrolmentRequest.model_validate_json(file.read_bytes())
        if (request.name, request.aggregator) == (wish.name, wish.aggregator):
            return openssl.identify(key), request
    except (FileNotFoundError, ValidationError, OpensslError):
        pass  # there is none, or a power cut has left half of it: nothing was sent yet
    openssl.make_key(key)
    request = EnrolmentRequest(csr=openssl.make_request(key, wish.name), **asdict(wish))
    replace_file(file, request.write(), durable=True, mode=0o600)
    return openssl.identify(key), request


def _connect_to(broker: str, ca: Path) -> MqttTransport:
    """Prepare the connection of a client without a certificate to a broker that this authority vouches for."""
    address = Address.parse(broker)
    if not address.encrypted:
        raise ValueError(f"--enrol {address}: a certificate is asked for over TLS only; write mqtts://HOST:PORT")
    vouched = replace(address, options={**address.options, "ca": str(ca.absolute())})
    return MqttTransport(str(vouched), reconnect_s=inf, plain_ids=True)
