"""Certificates vouch for the keys of masks: a home proves its own, and checks those of all others in a roster.

Without this an aggregator could put keys of its own in a roster for homes that are not there, and take off the masks of
those that are. A certificate says that its owner has the role home. It does not say below which aggregator, since homes
move; the home says that itself, by what it signs. Nobody has told a home which certificates are revoked: the broker
refuses their owners, and their keys are cleared there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from stackelgrid.wire.masks import MAX_CERTIFICATE, MaskEntry
from stackelgrid.wire.roles import Role, role_uri

_ALGORITHM = ec.ECDSA(hashes.SHA256())


class Identity:
    """A node's certificate and private key, PEM; in either text other things may stand besides.

    Raises `ValueError` for what is none, or not the key of the certificate.
    """

    def __init__(self, certificate: bytes, key: bytes) -> None:
        own, private = x509.load_pem_x509_certificate(certificate), load_pem_private_key(key, None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise ValueError("the key is not one of ECDSA")
        if own.public_key() != private.public_key():
            raise ValueError("the key is not that of the certificate")
        self.certificate = own.public_bytes(Encoding.PEM).decode("ascii")
        if len(self.certificate) > MAX_CERTIFICATE:
            raise ValueError(f"the certificate has {len(self.certificate)} characters, at most {MAX_CERTIFICATE} fit")
        self._key = private

    def sign(self, message: bytes) -> bytes:
        """Sign a message; the signature is in DER."""
        return self._key.sign(message, _ALGORITHM)

    def prove(self, entry: MaskEntry, run: str, aggregator: str) -> MaskEntry:
        """Give an entry of the node with its certificate and its signature of the keys."""
        signature = self.sign(entry.signed_bytes(run, aggregator)).hex()
        return entry.model_copy(update={"certificate": self.certificate, "signature": signature})


class Trust:
    """The authorities of a run, PEM, and a clock that gives the time of day, by which certificates hold.

    Raises `ValueError` where there is no certificate of an authority.
    """

    def __init__(self, authorities: bytes, read_clock: Callable[[], datetime]) -> None:
        found = [_read(each) for each in x509.load_pem_x509_certificates(authorities)]
        self._authorities = [each for each in found if each.signs_others]  # a renewed file has the node's own besides
        if not self._authorities:
            raise ValueError("no certificate of an authority")
        self._read_clock = read_clock

    def find_objection(self, run: str, aggregator: str, entry: MaskEntry) -> str | None:
        """Give the reason why an entry's keys are not those of the home that it names, or None.

        They are where its certificate is by one of the authorities, holds now, is for that name and for a home, and its
        key has signed them for this aggregator of this run.
        """
        if entry.certificate is None or entry.signature is None:
            return "no certificate vouches for them"
        try:
            owner = _read(x509.load_pem_x509_certificate(entry.certificate.encode()))
        except Exception:  # whatever a parser of ASN.1 makes of what a stranger sends
            return "its certificate cannot be read"
        if reason := self._examine(owner, entry.name):
            return reason
        if not owner.has_signed(entry.signed_bytes(run, aggregator), bytes.fromhex(entry.signature)):
            return "its certificate's key has not signed them"
        return None

    def _examine(self, owner: _Owner, name: str) -> str | None:
        """Give the reason why a certificate is not that of the home `name`, or None."""
        now = self._read_clock()
        if owner.signs_others or not any(owner.is_by(authority) for authority in self._authorities):
            return "its certificate is not by the authority of the run"
        if not owner.since <= now <= owner.until:
            return f"its certificate holds from {owner.since:%Y-%m-%d %H:%M} to {owner.until:%Y-%m-%d %H:%M} UTC"
        if owner.names != [name]:
            return f"its certificate is for {', '.join(owner.names) or 'nobody'}"
        if owner.uris != [role_uri(Role.HOME)]:
            return f"its certificate is for {', '.join(owner.uris)}" if owner.uris else "its certificate names no role"
        return None


@dataclass(frozen=True)
class _Owner:
    """What a certificate says of its owner."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePublicKey
    names: list[str]
    uris: list[str]
    signs_others: bool
    since: datetime
    until: datetime

    def is_by(self, authority: _Owner) -> bool:
        """Tell whether an authority has signed the certificate."""
        try:
            self.certificate.verify_directly_issued_by(authority.certificate)
        except (InvalidSignature, TypeError, ValueError):
            return False
        return True

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Tell whether the key has signed a message."""
        try:
            self.key.verify(signature, message, _ALGORITHM)
        except InvalidSignature:
            return False
        return True


def _read(certificate: x509.Certificate) -> _Owner:
    """Read a certificate. Raises `ValueError` for a key of another kind."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("its key is not one of ECDSA")
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    uris: list[str] = []
    signs_others = False
    for extension in certificate.extensions:
        match extension.value:
            case x509.SubjectAlternativeName() as names:
                uris = names.get_values_for_type(x509.UniformResourceIdentifier)
            case x509.BasicConstraints() as constraints:
                signs_others = constraints.ca
    return _Owner(
        certificate,
        key,
        [str(each.value) for each in common],
        uris,
        signs_others,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )
