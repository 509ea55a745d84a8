"""A small certificate authority for a broker with access rules.

It is a folder on the desk, the machine from which the testbed is run:

    authority/   ca.key, ca.crt, crl.pem, register.json       stays where it is
    broker/      ca.crt, crl.pem, node.crt, node.key, access.acl, mosquitto.conf, nats.conf     for the broker's machine
    leaders/NAME/, aggregators/NAME/, homes/NAME/, observers/NAME/     ca.crt, node.crt, node.key, for the node's

Certificates are X.509, keys ECDSA on P-256, signatures with SHA-256. Private keys have mode 0600, in folders of mode
0700, and are never logged.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import Field, ValidationError

from broker import mosquitto, nats
from broker.access import Node, Role, make_rules
from stackelgrid.errors import ConfigError
from stackelgrid.model import StrictModel
from stackelgrid.wire.names import RULE, Name, is_name

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
HOSTS = ("localhost", "127.0.0.1", "broker")
"""Names by which the broker is always reached: on its own machine, and among containers."""
BROKER = Node("broker", Role.broker)
CA_YEARS, NODE_YEARS = 20, 5
BACKDATED = timedelta(days=1)
"""Certificates hold from this long before they are made: a Raspberry Pi has no clock and starts with an old time."""

_FOLDERS = {
    Role.leader: "leaders",
    Role.aggregator: "aggregators",
    Role.home: "homes",
    Role.observer: "observers",
    Role.registrar: "registrars",
}
_ABOVE = {Role.home: Role.aggregator, Role.aggregator: Role.leader}
_ADD = "stackelgrid certs add"


class AuthorityError(ConfigError):
    """The authority cannot do what it was asked to. Attributes: `what` is wrong, `where`, and the `mend`."""

    def __init__(self, what: str, where: str, mend: str) -> None:
        super().__init__(f"{what} ({where}): {mend}")
        self.what = what
        self.where = where
        self.mend = mend


class CertificateEntry(StrictModel):
    """A certificate in the register: its owner, its serial number in hexadecimal, the times between which it holds."""

    name: Name
    role: Role
    above: Name | None
    serial: Annotated[str, Field(pattern="^[0-9a-f]{1,40}$")]
    added: datetime
    expires: datetime
    revoked: datetime | None = None

    @property
    def node(self) -> Node:
        """Its owner."""
        return Node(self.name, self.role, self.above)


class Register(StrictModel):
    """Every certificate that the authority ever gave, and the names of the broker's machine."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    hosts: tuple[str, ...]
    certified: tuple[CertificateEntry, ...]

    @property
    def in_force(self) -> dict[str, CertificateEntry]:
        """The certificates that are not revoked, by name: one for each."""
        return {entry.name: entry for entry in self.certified if entry.revoked is None}


class Authority:
    """The authority in `folder`. Like each of its methods, raises `AuthorityError` for what cannot be done.

    A change is made whole or not at all, after one that another process is making. Its entry in the register is written
    last: a change that a power cut interrupted is repaired by repeating it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        try:
            there = _register_path(self.folder).is_file()
        except OSError as error:
            mend = "be the user who made it, or name another folder"
            raise AuthorityError(f"cannot be looked into: {error.strerror}", str(self.folder), mend) from None
        if not there:
            raise AuthorityError("there is no authority", str(self.folder), "make one with stackelgrid certs init")

    @classmethod
    def init(cls, folder: Path, *hosts: str) -> Authority:
        """Make a new authority, whose broker is reached as `HOSTS` and by the names or addresses `hosts`."""
        folder, checked = folder.resolve(), _check_hosts(*HOSTS, *hosts)
        with _lock(folder):
            if _register_path(folder).exists():
                raise AuthorityError("there is one already", str(folder), f"go on with {_ADD}, or name another folder")
            _write(folder / ".gitignore", b"*\n")  # private keys do not belong in a repository
            signer = _Signer.new(folder / "authority")
            register = Register(hosts=checked, certified=())
            _publish(folder, signer, _certify_broker(folder, signer, register))
        return cls(folder)

    @property
    def register(self) -> Register:
        """The certificates that there are."""
        return _read_register(self.folder)

    def place(self, node: Node) -> Path:
        """Give the folder that holds a node's certificate and key."""
        return _place(self.folder, node)

    def add(self, *nodes: Node) -> None:
        """Give each node a certificate.

        A home's aggregator, or an aggregator's leader, has one already or comes before it.
        """
        with _lock(self.folder):
            register, signer = self.register, _Signer.load(self.folder / "authority")
            known = {name: entry.role for name, entry in register.in_force.items()}
            for node in nodes:
                _check(node, known, self.folder)
                known[node.name] = node.role
            given = tuple(_certify(self.folder, signer, node, ()) for node in nodes)
            _publish(self.folder, signer, register.model_copy(update={"certified": register.certified + given}))

    def revoke(self, name: str) -> None:
        """Have the broker refuse this node's certificate; a connection that it has already may do nothing any more."""
        with _lock(self.folder):
            register, signer = self.register, _Signer.load(self.folder / "authority")
            if name == BROKER.name:
                mend = f"give it another, which revokes this one: {_ADD} broker --role broker"
                raise AuthorityError("the broker cannot be without a certificate", str(self.folder), mend)
            if name not in register.in_force:
                revoked = [entry.revoked for entry in register.certified if entry.name == name]
                what = f"{name!r} is revoked since {revoked[-1]:%Y-%m-%d %H:%M} UTC" if revoked else f"no {name!r} here"
                raise AuthorityError(what, str(self.folder), "see stackelgrid certs list")
            _publish(self.folder, signer, _revoke(register, name))

    def serve_as(self, *hosts: str) -> None:
        """Replace the broker's certificate by one that holds for the names or addresses `hosts` too."""
        with _lock(self.folder):
            register, signer = self.register, _Signer.load(self.folder / "authority")
            renamed = register.model_copy(update={"hosts": _check_hosts(*register.hosts, *hosts)})
            _publish(self.folder, signer, _certify_broker(self.folder, signer, _revoke(renamed, BROKER.name)))


# Requests, checked.


def _check(node: Node, known: dict[str, Role], folder: Path) -> None:
    """Raise `AuthorityError` unless `node` can be added to those `known` by name."""
    where, above = str(folder), _ABOVE.get(node.role)
    if not is_name(node.name):
        raise AuthorityError(f"the name {node.name!r} cannot be part of a topic", where, f"take {RULE}")
    if node.role is Role.broker or node.name == BROKER.name:
        mend = "take another name; the broker's own certificate is renewed by certs add broker --role broker"
        raise AuthorityError(f"{node.name!r} cannot be a {node.role}: there is one broker, named broker", where, mend)
    if node.name in known:
        mend = f"take another name, or revoke it first: stackelgrid certs revoke {node.name}"
        raise AuthorityError(f"{node.name!r} has a certificate already, as {known[node.name]}", where, mend)
    if above is None and node.above is not None:
        raise AuthorityError(f"above {node.role} {node.name!r} there is nobody", where, "leave --above out")
    if above is not None and node.above is None:
        raise AuthorityError(f"{node.role} {node.name!r} needs somebody above", where, f"name its {above} with --above")
    if above is not None and known.get(str(node.above)) is not above:
        mend = f"add it first, or correct --above: {_ADD} {node.above} --role {above}"
        raise AuthorityError(f"there is no {above} {node.above!r} for {node.name!r}", where, mend)


def _check_hosts(*hosts: str) -> tuple[str, ...]:
    """Check host names and addresses, and leave out repetitions."""
    for host in hosts:
        if not HOST.fullmatch(host) and _address(host) is None:
            raise AuthorityError(f"{host!r} is no host", "--host", "give a name like broker.example.org, or an address")
    return tuple(dict.fromkeys(hosts))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


# Keys and signatures.


@dataclass(frozen=True)
class _Signer:
    """The authority's private key and its own certificate, which every node has."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls, folder: Path) -> _Signer:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _common_name("Stackelgrid authority")
        builder = _certificate(name, name, key.public_key(), _now() + timedelta(days=365 * CA_YEARS))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        signer = cls(key, builder.sign(key, hashes.SHA256()))
        _write_key(folder / "ca.key", key)
        _write(folder / "ca.crt", _pem(signer.certificate))
        return signer

    @classmethod
    def load(cls, folder: Path) -> _Signer:
        try:
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        except (ValueError, TypeError) as error:
            raise AuthorityError("the authority's key or certificate is damaged", str(folder), _RESTORE) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            raise AuthorityError("ca.key is not the key of ca.crt", str(folder), _RESTORE)
        return cls(key, certificate)

    def certify(self, node: Node, key: ec.EllipticCurvePublicKey, hosts: Sequence[str]) -> x509.Certificate:
        """Make a certificate that a node connects with; with `hosts`, it also serves as one of those."""
        until = min(_now() + timedelta(days=365 * NODE_YEARS), self.certificate.not_valid_after_utc)
        builder = _certificate(_common_name(node.name), self.certificate.subject, key, until)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(self._identifier(), critical=False)
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
            builder = builder.add_extension(_alternative_names(hosts), critical=False)
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
            .last_update(_now() - BACKDATED)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(len(register.certified) + len(revoked)), critical=False)
            .add_extension(self._identifier(), critical=False)
        )
        for entry in revoked:
            one = x509.RevokedCertificateBuilder().serial_number(int(entry.serial, 16))
            builder = builder.add_revoked_certificate(one.revocation_date(entry.revoked or _now()).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())


_RESTORE = "restore the folder from a copy, or make a new authority elsewhere and everybody's certificates anew"


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - BACKDATED)
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


def _alternative_names(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    addresses = {host: _address(host) for host in hosts}
    return x509.SubjectAlternativeName(
        [x509.DNSName(host) if address is None else x509.IPAddress(address) for host, address in addresses.items()]
    )


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


# Files.


def _register_path(folder: Path) -> Path:
    return folder / "authority" / "register.json"


def _place(folder: Path, node: Node) -> Path:
    return folder / "broker" if node.role is Role.broker else folder / _FOLDERS[node.role] / node.name


def _read_register(folder: Path) -> Register:
    path = _register_path(folder)
    try:
        return Register.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AuthorityError(f"the register cannot be read: {error.strerror}", str(path), "make it readable") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise AuthorityError(f"the register is damaged, {key}: {first['msg']}", str(path), _RESTORE) from None


def _revoke(register: Register, name: str) -> Register:
    """Mark the certificate in force of `name` as revoked."""
    revoked = [
        entry.model_copy(update={"revoked": _now()}) if entry.name == name and entry.revoked is None else entry
        for entry in register.certified
    ]
    return register.model_copy(update={"certified": tuple(revoked)})


def _certify_broker(folder: Path, signer: _Signer, register: Register) -> Register:
    entry = _certify(folder, signer, BROKER, register.hosts)
    return register.model_copy(update={"certified": (*register.certified, entry)})


def _certify(folder: Path, signer: _Signer, node: Node, hosts: Sequence[str]) -> CertificateEntry:
    """Write a node's key and certificate into its folder; returns its entry for the register."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = signer.certify(node, key.public_key(), hosts)
    place = _place(folder, node)
    for private in (place.parent, place):
        private.mkdir(mode=0o700, exist_ok=True)
    _write_key(place / "node.key", key)
    _write(place / "node.crt", _pem(certificate))
    _write(place / "ca.crt", _pem(signer.certificate))
    return CertificateEntry(
        name=node.name,
        role=node.role,
        above=node.above,
        serial=f"{certificate.serial_number:x}",
        added=_now(),
        expires=certificate.not_valid_after_utc,
    )


def _publish(folder: Path, signer: _Signer, register: Register) -> None:
    """Write what the broker reads, then the register."""
    revocations = signer.revocations(register)
    _write(folder / "authority" / "crl.pem", revocations)
    _write(folder / "broker" / "crl.pem", revocations)
    rules = make_rules(entry.node for entry in register.in_force.values())
    _write(folder / "broker" / "access.acl", rules.text().encode())
    _write(folder / "broker" / "mosquitto.conf", mosquitto.configuration_in_container().encode())
    key = (folder / "broker" / "node.key").read_bytes()
    _write(folder / "broker" / "nats.conf", nats.configuration_in_container(rules, key).encode(), mode=0o600)
    _write(_register_path(folder), register.model_dump_json(by_alias=True, indent=1).encode())


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one process change the folder at a time. A file that cannot be written is an `AuthorityError`."""
    try:
        for private in (folder, folder / "authority"):
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "authority" / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it however this process ends
            yield
        finally:
            os.close(lock)
    except OSError as error:
        mend = "make room, or the folder writable, and repeat the command"
        raise AuthorityError(f"cannot be read or written: {error.strerror}", str(error.filename), mend) from None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    plain = serialization.NoEncryption()
    _write(path, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain), 0o600)


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file by `content`, on disk when this returns: a reader sees the old file or the new one."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
