"""The messages by which a node asks the registrar for a certificate, a renewal, or to be let go, and its answers.

    stackelgrid/enrolment/ID/request             of a stranger, who has no certificate yet
    stackelgrid/enrolment/ID/answer              to it, when something has come of it and when it asks again
    stackelgrid/RUN/registrar/NODE/request       of a node with a certificate
    stackelgrid/RUN/registrar/NODE/answer        to it; this one is retained

ID is the beginning of the SHA-256 of the stranger's public key (`key_id`), and its MQTT client id. Whoever copies a
request has another key, and so another topic.
"""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stackelgrid.wire.codec import ROOT
from stackelgrid.wire.messages import MAX_NAMES, MAX_REASON
from stackelgrid.wire.names import Name
from stackelgrid.wire.roles import ENROLMENT, REGISTRAR

MAX_REQUEST, MAX_ANSWER = 4096, 65536
"""Bytes of a request, and of an answer; longer ones are refused without being parsed."""

_KEY_ID = "[0-9a-f]{32}"
BACKDATED = timedelta(days=1)
"""Certificates hold from this long before they are made: a Raspberry Pi has no clock and starts with an old time."""

KeyId = Annotated[str, Field(pattern=f"^{_KEY_ID}$")]
Pem = Annotated[str, Field(max_length=16384)]
"""Certificates, or a request for one, as PEM."""


def key_id(public_key: bytes) -> str:
    """Give the ID of a public key, which is given as SubjectPublicKeyInfo in DER."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def is_key_id(text: str) -> bool:
    """Say whether `text` may be the ID of a public key."""
    return re.fullmatch(_KEY_ID, text) is not None


def show_fingerprint(key: str) -> str:
    """Write an ID as two people compare it: in groups of four digits."""
    return " ".join(key[start : start + 4] for start in range(0, len(key), 4))


def stranger_topic(key: str, purpose: Literal["request", "answer"]) -> str:
    """Give the topic of a stranger's request or of the answer to it."""
    return f"{ROOT}/{ENROLMENT}/{key}/{purpose}"


def node_topic(run: str, name: str, purpose: Literal["request", "answer"]) -> str:
    """Give the topic of the request of a node that has a certificate, or of the answer to it."""
    return f"{ROOT}/{run}/{REGISTRAR}/{name}/{purpose}"


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1

    def write(self) -> bytes:
        """Write the message as JSON."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


class EnrolmentRequest(_Message):
    """A stranger's request for a certificate of the name `name`, whose key is that of the signing request `csr`.

    It asks to be below `aggregator`, or wherever there is room, with so many `homes` whose connections carry `max_kw`.
    """

    name: Name
    role: Literal["home"] = "home"
    csr: Pem
    aggregator: Name | None = None
    homes: Annotated[int, Field(ge=1, le=MAX_NAMES)] = 1
    max_kw: Annotated[float | None, Field(gt=0, le=1e9)] = None


class NodeRequest(_Message):
    """A node's request for another certificate, by the signing request `renew`, or to `leave` the grid for good."""

    name: Name
    renew: Pem | None = None
    leave: Literal[True] | None = None

    @model_validator(mode="after")
    def _check_wish(self) -> Self:
        if (self.renew is None) == (self.leave is None):
            raise ValueError("give renew or leave, one of them")
        return self


class Answer(_Message):
    """The registrar's answer to the request with the key `id`.

    - `waiting`: the operator has not decided yet;
    - `approved`: here is the `certificate`, and `ca`, the certificates of the authorities that are trusted now;
    - `denied`: the `reason` says why;
    - `renew`: to a node that has a certificate: ask for another one now, the authority's own key is being replaced.

    A stranger that is approved gets `terms` besides: all that its configuration needs but its home and its files, by
    the keys of `EmcConfig` (run, game, slots, calendar, scenario, broker, aggregator, ...), and `max_kw`, the limit of
    its connection as the aggregator has it.
    """

    id: KeyId | None = None
    state: Literal["waiting", "approved", "denied", "renew"]
    reason: Annotated[str | None, Field(max_length=MAX_REASON)] = None
    certificate: Pem | None = None
    ca: Pem | None = None
    terms: dict[str, Any] | None = None
