"""The authority's key: it signs certificates and revocation lists.

Certificates are X.509, keys ECDSA on P-256, signatures with SHA-256.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.access import Node
from broker.files import AuthorityError, write
from broker.register import RESTORE, Register, now
from stackelgrid.wire.enrolment import BACKDATED, key_id
from stackelgrid.wire.roles import role_uri

CA_LIFETIME, NODE_LIFETIME = timedelta(days=365 * 20), timedelta(days=365 * 5)
_NAME = "Stackelgrid authority"


@dataclass(frozen=True)
class Signer:
    """The authority's private key and its own certificate, which every node has."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls, number: int = 1) -> Signer:
        """Make a key and its certificate; `number` tells those of one authority apart."""
        key = new_key()
        name = _common_name(_NAME if number == 1 else f"{_NAME} {number}")
        builder = _certificate(name, name, key.public_key(), now() + CA_LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def load(cls, folder: Path, find_passphrase: Callable[[Path], str]) -> Signer:
        """Read the key in `folder`, and its certificate among those that are there.

        Raises `AuthorityError` for what is damaged, and for a passphrase that is not the key's.
        """
        pem = (folder / "ca.key").read_bytes()
        passphrase = find_passphrase(folder / "ca.key").encode() if b"ENCRYPTED" in pem else None
        try:
            key = serialization.load_pem_private_key(pem, passphrase)
        except (ValueError, TypeError) as error:
            if passphrase is not None:
                raise AuthorityError("the passphrase is not that of the key", str(folder), "try again") from None
            raise AuthorityError("the authority's key or certificate is damaged", str(folder), RESTORE) from error
        try:
            certificates = x509.load_pem_x509_certificates((folder / "ca.crt").read_bytes())
        except ValueError as error:
            raise AuthorityError("the authority's key or certificate is damaged", str(folder), RESTORE) from error
        own = [each for each in certificates if each.public_key() == key.public_key()]
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not own:
            raise AuthorityError("ca.key is not the key of ca.crt", str(folder), RESTORE)
        return cls(key, own[0])

    @property
    def number(self) -> int:
        """Its number among those of one authority."""
        (name,) = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return int(str(name.value).removeprefix(_NAME) or 1)

    @property
    def id(self) -> str:
        """The ID of its key."""
        return find_id(self.key.public_key())

    def certify(
        self, node: Node, key: ec.EllipticCurvePublicKey, lifetime: timedelta, hosts: Sequence[str] = ()
    ) -> x509.Certificate:
        """Make a certificate that a node connects with; with `hosts`, it also serves as one of those.

        It is for the node's name and role. Not for whom it is below: a home may move.
        """
        until = min(now() + lifetime, self.certificate.not_valid_after_utc)
        builder = _certificate(_common_name(node.name), self.certificate.subject, key, until)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(self._identifier(), critical=False)
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(_alternative_names(hosts, node.role), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def revocations(self, register: Register) -> bytes:
        """Write the list of revoked certificates, PEM.

        It holds as long as the authority does: a broker refuses everybody once its list has expired, and it gets a new
        list when a certificate is revoked, not at some date.
        """
        revoked = [entry for entry in register.certified if entry.revoked is not None]
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now() - BACKDATED)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(register.number), critical=False)
            .add_extension(self._identifier(), critical=False)
        )
        for entry in revoked:
            one = x509.RevokedCertificateBuilder().serial_number(int(entry.serial, 16))
            builder = builder.add_revoked_certificate(one.revocation_date(entry.revoked or now()).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a private key."""
    return ec.generate_private_key(ec.SECP256R1())


def read_request(pem: str, name: str) -> ec.EllipticCurvePublicKey:
    """Read the public key of a signing request for `name`. Raises `ValueError` that says what is wrong with it."""
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        key, names = csr.public_key(), csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        signed = csr.is_signature_valid
    except Exception:  # whatever a parser of ASN.1 makes of what a stranger sends
        raise ValueError("csr is no signing request in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the key of csr is not one of ECDSA on P-256")
    if not signed:
        raise ValueError("csr is not signed with its own key")
    if [each.value for each in names] != [name]:
        raise ValueError(f"csr is not for the name {name!r}")
    return key


def find_id(key: ec.EllipticCurvePublicKey) -> str:
    """Give the ID of a public key, by which a node and the operator recognise it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key_id(key.public_bytes(serialization.Encoding.DER, form))


def read_ids(certificates: Path) -> list[str]:
    """Give the IDs of the keys of an authority's certificates in a file."""
    keys = [each.public_key() for each in x509.load_pem_x509_certificates(certificates.read_bytes())]
    return [find_id(key) for key in keys if isinstance(key, ec.EllipticCurvePublicKey)]


def write_pem(certificate: x509.Certificate) -> bytes:
    """Write a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def write_key(path: Path, key: ec.EllipticCurvePrivateKey, passphrase: str | None = None) -> None:
    """Write a private key to a file that its owner alone may read, and only with the `passphrase` where it has one."""
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        protection = serialization.BestAvailableEncryption(passphrase.encode())
    write(path, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection), 0o600)


def find_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Give the IP address that a host is written as, None where it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative_names(hosts: Sequence[str], role: str) -> x509.SubjectAlternativeName:
    addresses = {host: find_address(host) for host in hosts}
    return x509.SubjectAlternativeName(
        [
            *(
                x509.DNSName(host) if address is None else x509.IPAddress(address)
                for host, address in addresses.items()
            ),
            x509.UniformResourceIdentifier(role_uri(role)),
        ]
    )
