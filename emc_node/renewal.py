"""A running EMC renews its certificate: a new key, a request under the present certificate, then a connection anew.

It begins when a third of the certificate's lifetime is left, or when the registrar asks for it. The present certificate
stays in use until the new one is found in order and is on disk.
"""

from __future__ import annotations

import logging
import re
import ssl
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from emc_node import openssl
from emc_node.enrolment import AnswerError, read_answer
from emc_node.openssl import CertificateRefusedError, OpensslError
from stackelgrid.node.protocol import RunNode
from stackelgrid.node.wrapper import NodeWrapper
from stackelgrid.text_file import replace_file
from stackelgrid.transport.base import Action, Compute, FetchRetained, Publish, Reconnect
from stackelgrid.transport.tls import Certificate, Tls, read_certificate
from stackelgrid.wire.enrolment import BACKDATED, Answer, NodeRequest, node_topic

_LOG = logging.getLogger("emc_node")

LOOK_S = 3600.0
"""The time between two looks at the clock: a machine may sleep, or get the time late."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 6 * 3600.0
"""The pause before a request is sent again: doubled each time."""
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")

Attempt = tuple[str, str] | str
"""The ID of a new key and the signing request for it, or why there is none."""


class RenewedFile:
    """The file `tls.renewed` of the home `name`, and beside it the key whose certificate is asked for.

    `find_objection` tries a new certificate at the broker: one elsewhere may not know a new authority yet.
    """

    def __init__(self, tls: Tls, name: str, find_objection: Callable[[Tls], str | None]) -> None:
        if tls.renewed is None:
            raise ValueError("tls.renewed: missing; name the file for a renewed certificate")
        self._tls, self._name, self._file = tls, name, tls.renewed
        self._find_objection = find_objection
        self._key = tls.renewed.with_suffix(".key")

    def read(self) -> Certificate:
        """Read the certificate in use. Raises `ValueError` where it is none."""
        return read_certificate(self._tls.choose().certificate)

    def prepare(self) -> Attempt:
        """Make a key, unless one has been made and waits for its certificate, and the request for it."""
        try:
            if not self._key.exists():
                openssl.make_key(self._key)
            return openssl.identify(self._key), openssl.make_request(self._key, self._name)
        except (OSError, OpensslError) as error:
            return str(error)

    def install(self, answer: Answer) -> Certificate | str:
        """Put the certificate of an approval in use, with its key and authorities, on disk when this returns.

        Gives why not where it cannot be.
        """
        try:
            return self._install(answer)
        except (OSError, ValueError, OpensslError) as error:
            return str(error)

    def _install(self, answer: Answer) -> Certificate:
        trusted = _find_certificates(self._tls.choose().ca.read_text(encoding="utf-8"))
        authorities = trusted if answer.ca is None else _find_certificates(answer.ca)
        if not {*map(ssl.PEM_cert_to_DER_cert, trusted)} & {*map(ssl.PEM_cert_to_DER_cert, authorities)}:
            raise CertificateRefusedError("its authorities are none that this home trusts")
        with tempfile.TemporaryDirectory(dir=self._file.parent) as folder:
            ca, draft = Path(folder) / "ca.crt", Path(folder) / "draft.pem"
            ca.write_text("\n".join(authorities), encoding="ascii")
            certificate = openssl.examine(answer.certificate or "", self._key, self._name, ca)
            content = "\n".join(
                [self._key.read_text(encoding="ascii").rstrip(), certificate.rstrip(), *authorities, ""]
            )
            replace_file(draft, content.encode(), mode=0o600)
            found = read_certificate(draft)
            objection = self._find_objection(Tls(ca=draft, certificate=draft, key=draft))
        if problem := found.find_out_of_date("its certificate", datetime.now(UTC)):
            raise CertificateRefusedError(problem)
        if objection is not None:
            raise CertificateRefusedError(f"the broker does not accept the new certificate ({objection})")
        replace_file(self._file, content.encode(), durable=True, mode=0o600)
        self._key.unlink()
        return found


def _find_due(certificate: Certificate) -> datetime:
    """Find the time at which a third of a certificate's lifetime is left; that began when it was made."""
    lifetime = certificate.until - certificate.since
    if lifetime > BACKDATED:
        lifetime -= BACKDATED
    return certificate.until - lifetime / 3


def _find_certificates(text: str) -> list[str]:
    return _CERTIFICATE.findall(text)


class CertifiedNode(NodeWrapper[RunNode]):
    """A home's node that renews its certificate besides. It passes on whatever is not the registrar's.

    A renewal that does not succeed is a remark in the node's progress. `read_clock` gives the time of day, by which
    certificates hold.
    """

    def __init__(self, node: RunNode, run: str, file: RenewedFile, read_clock: Callable[[], datetime]) -> None:
        super().__init__(node)
        self._file, self._read_clock = file, read_clock
        self._request_topic, self._answer_topic = (node_topic(run, node.name, way) for way in ("request", "answer"))
        self._certificate = file.read()
        self._look_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._is_asked = False  # by the registrar, to renew before it is time
        self._key: str | None = None  # the ID of the key whose certificate is asked for
        self._awaits_answer = False
        self._remark: str | None = None

    @property
    def subscriptions(self) -> Sequence[str]:
        """The node's topic filters, and that of the registrar's answers."""
        return [*super().subscriptions, self._answer_topic]

    def start(self, now: float) -> Sequence[Action]:
        """Start the node; what is to be renewed is seen at the next tick."""
        self._look_at = now if self._key is None else self._look_at
        return super().start(now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take a message of the registrar, or pass it on."""
        if topic == self._answer_topic:
            return self._take_answer(payload, now)
        return super().receive(topic, payload, now)

    def next_deadline(self) -> float | None:
        """Give the node's deadline, or the next look at the certificate if that is earlier."""
        due = super().next_deadline()
        return self._look_at if due is None else min(due, self._look_at)

    def tick(self, now: float) -> Sequence[Action]:
        """Have the node tick; look at the certificate."""
        actions = super().tick(now)
        return actions if now < self._look_at else [*actions, *self._look(now)]

    # --- the renewal ---

    def _look(self, now: float) -> Sequence[Action]:
        """Ask for a new certificate if it is time."""
        self._look_at = now + LOOK_S
        if not self._is_asked and self._read_clock() < _find_due(self._certificate):
            return []
        if self._key is not None:
            self._note(f"no answer from the registrar to {self._request_topic}")
        self._look_at, self._pause_s = now + self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        return [Compute(self._file.prepare, self._ask)]

    def _ask(self, attempt: Attempt, now: float) -> Sequence[Action]:
        if isinstance(attempt, str):
            self._note(attempt)
            return []
        self._key, request = attempt
        self._awaits_answer = True
        payload = NodeRequest(name=self.name, renew=request).write()
        return [Publish(self._request_topic, payload, qos=1), FetchRetained()]  # it may be answered already

    def _take_answer(self, payload: bytes, now: float) -> Sequence[Action]:
        if not payload:
            return []  # it was withdrawn
        try:
            answer = read_answer(payload)
        except AnswerError as error:
            self.mailbox.reject("malformed", self._answer_topic, str(error))
            return []
        if answer.state == "renew":
            self._is_asked = True
            return [] if self._key is not None else self._look(now)
        if not self._awaits_answer or answer.id not in (None, self._key):
            return []  # to an earlier request, or one that could not be used
        if answer.state == "denied":
            self._note(f"the registrar denies it: {answer.reason or 'no reason is given'}")
        if answer.state == "approved":
            self._awaits_answer = False
            return [Compute(partial(self._file.install, answer), self._adopt)]
        return []

    def _adopt(self, found: Certificate | str, now: float) -> Sequence[Action]:
        """Go on with the certificate that was installed, or say why there is none."""
        if isinstance(found, str):
            self.mailbox.reject("refused", self._answer_topic, found)
            self._note(found)
            return []
        self._certificate, self._key, self._is_asked = found, None, False
        self._look_at, self._pause_s = now + LOOK_S, FIRST_PAUSE_S
        self._clear_remark()
        _LOG.info("certificate renewed", extra={"data": {"until": f"{found.until:%Y-%m-%d %H:%M}"}})
        return [Reconnect()]

    def _note(self, cause: str) -> None:
        """Log once why the certificate is not renewed, and remark it."""
        remark = f"the certificate holds until {self._certificate.until:%Y-%m-%d} and is not renewed: {cause}"
        if remark == self._remark:
            return
        self._clear_remark()
        self._remark = remark
        self.progress.remarks.append(remark)
        _LOG.warning("certificate not renewed", extra={"data": {"cause": cause}})

    def _clear_remark(self) -> None:
        if self._remark in self.progress.remarks:
            self.progress.remarks.remove(self._remark)
        self._remark = None
