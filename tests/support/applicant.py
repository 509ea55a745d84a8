"""Somebody without a certificate."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from broker.signer import find_id
from stackelgrid.wire.enrolment import EnrolmentRequest


class Applicant:
    """Somebody with a key of their own, who asks for a name."""

    def __init__(self, name: str, key: Any = None) -> None:
        self.name = name
        self.key = key or ec.generate_private_key(ec.SECP256R1())

    @property
    def id(self) -> str:
        return find_id(self.key.public_key())

    def csr(self, name: str | None = None) -> str:
        subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name or self.name)])
        signed = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()

    def request(self, **values: Any) -> EnrolmentRequest:
        return EnrolmentRequest(**{"name": self.name, "csr": self.csr(), "max_kw": 11.0, **values})
