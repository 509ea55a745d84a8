"""A small certificate authority: who is who on a broker with access rules.

It lives in a folder, on the desk of whoever runs the testbed:

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
from broker.access import Node, Role, rules
from stackelgrid.model import StrictModel

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A node's name: a level of a topic, and a certificate's common name, which ends at 64 characters."""
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
HOSTS = ("localhost", "127.0.0.1", "broker")
"""What the broker is always called: on its own machine, and among containers."""
BROKER = Node("broker", Role.broker)
CA_YEARS, NODE_YEARS = 20, 5
BACKDATED = timedelta(days=1)
"""How long before it is made everything is valid: a Raspberry Pi has no clock and starts with an old time."""

_ROOMS = {Role.leader: "leaders", Role.aggregator: "aggregators", Role.home: "homes", Role.observer: "observers"}
_ABOVE = {Role.home: Role.aggregator, Role.aggregator: Role.leader}
_ADD = "stackelgrid certs add"


class AuthorityError(Exception):
    """The authority cannot do what it was asked. Attributes: `what` is wrong, `where`, and the `mend`."""

    def __init__(self, what: str, where: str, mend: str) -> None:
        super().__init__(f"{what} ({where}): {mend}")
        self.what = what
        self.where = where
        self.mend = mend


Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class Certified(StrictModel):
    """A certificate in the register: whose it is, its serial number in hexadecimal, from when until when it holds."""

    name: Name
    role: Role
    above: Name | None
    serial: Annotated[str, Field(pattern="^[0-9a-f]{1,40}$")]
    added: datetime
    expires: datetime
    revoked: datetime | None = None

    @property
    def node(self) -> Node:
        """Whose it is."""
        return Node(self.name, self.role, self.above)


class Register(StrictModel):
    """Every certificate the authority ever gave, and what the broker's machine is called."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    hosts: tuple[str, ...]
    certified: tuple[Certified, ...]

    @property
    def in_force(self) -> dict[str, Certified]:
        """The certificates that are not revoked, by name: one for each."""
        return {entry.name: entry for entry in self.certified if entry.revoked is None}


class Authority:
    """The authority in `folder`. Like each of its methods, raises `AuthorityError` for what cannot be done.

    A change is done whole or not at all, and waits for one that another process is at. Its entry in the register is
    written last: a change that a power cut interrupted is made anew by doing it again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        try:
            there = _register_of(self.folder).is_file()
        except OSError as error:
            mend = "be the user who made it, or name another folder"
            raise AuthorityError(f"cannot be looked into: {error.strerror}", str(self.folder), mend) from None
        if not there:
            raise AuthorityError("there is no authority", str(self.folder), "make one with stackelgrid certs init")

    @classmethod
    def init(cls, folder: Path, *hosts: str) -> Authority:
        """A new authority, whose broker is called `HOSTS` and by the names or addresses `hosts`."""
        folder, named = folder.resolve(), _named(*HOSTS, *hosts)
        with _changing(folder):
            if _register_of(folder).exists():
                raise AuthorityError("there is one already", str(folder), f"go on with {_ADD}, or name another folder")
            _write(folder / ".gitignore", b"*\n")  # private keys do not belong in a repository
            signer = _Signer.new(folder / "authority")
            register = Register(hosts=named, certified=())
            _conclude(folder, signer, _with_broker(folder, signer, register))
        return cls(folder)

    @property
    def register(self) -> Register:
        """Who has which certificate."""
        return _read_register(self.folder)

    def place(self, node: Node) -> Path:
        """The folder that holds a node's certificate and key."""
        return _place(self.folder, node)

    def add(self, *nodes: Node) -> None:
        """Give each a certificate; a home's aggregator and an aggregator's leader come before it or are there."""
        with _changing(self.folder):
            register, signer = self.register, _Signer.load(self.folder / "authority")
            known = {name: entry.role for name, entry in register.in_force.items()}
            for node in nodes:
                _check(node, known, self.folder)
                known[node.name] = node.role
            given = tuple(_certify(self.folder, signer, node, ()) for node in nodes)
            _conclude(self.folder, signer, register.model_copy(update={"certified": register.certified + given}))

    def revoke(self, name: str) -> None:
        """Nobody who shows this node's certificate is let in any more; who is, may do nothing."""
        with _changing(self.folder):
            register, signer = self.register, _Signer.load(self.folder / "authority")
            if name == BROKER.name:
                mend = f"give it another, which revokes this one: {_ADD} broker --role broker"
                raise AuthorityError("the broker cannot be without a certificate", str(self.folder), mend)
            if name not in register.in_force:
                revoked = [entry.revoked for entry in register.certified if entry.name == name]
                what = f"{name!r} is revoked since {revoked[-1]:%Y-%m-%d %H:%M} UTC" if revoked else f"no {name!r} here"
                raise AuthorityError(what, str(self.folder), "stackelgrid certs list says who is in force")
            _conclude(self.folder, signer, _without(register, name))

    def serve_as(self, *hosts: str) -> None:
        """Give the broker a new certificate, also for the names or addresses `hosts`, in place of the one it has."""
        with _changing(self.folder):
            register, signer = self.register, _Signer.load(self.folder / "authority")
            named = register.model_copy(update={"hosts": _named(*register.hosts, *hosts)})
            _conclude(self.folder, signer, _with_broker(self.folder, signer, _without(named, BROKER.name)))


# What may be asked.


def _check(node: Node, known: dict[str, Role], folder: Path) -> None:
    """Raise `AuthorityError` unless `node` can be added to those `known` by name."""
    where, above = str(folder), _ABOVE.get(node.role)
    if not NAME.fullmatch(node.name):
        mend = "take 1 to 64 letters of A to Z and a to z, digits, _ and -"
        raise AuthorityError(f"the name {node.name!r} cannot be part of a topic", where, mend)
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


def _named(*hosts: str) -> tuple[str, ...]:
    """Host names and addresses, each once."""
    for host in hosts:
        if not HOST.fullmatch(host) and _address(host) is None:
            raise AuthorityError(f"{host!r} is no host", "--host", "give a name like broker.example.org, or an address")
    return tuple(dict.fromkeys(hosts))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


# What is signed.


@dataclass(frozen=True)
class _Signer:
    """The authority's private key and the certificate that everybody knows it by."""

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
        """A certificate for a node to connect with; for one with `hosts`, also to be connected to."""
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
        """The list of revoked certificates, PEM.

        It holds as long as the authority does: a broker refuses everybody once its list has expired, and a new list
        reaches it when somebody is revoked, not when a date has come.
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


# What is in the folder.


def _register_of(folder: Path) -> Path:
    return folder / "authority" / "register.json"


def _place(folder: Path, node: Node) -> Path:
    return folder / "broker" if node.role is Role.broker else folder / _ROOMS[node.role] / node.name


def _read_register(folder: Path) -> Register:
    path = _register_of(folder)
    try:
        return Register.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AuthorityError(f"the register cannot be read: {error.strerror}", str(path), "make it readable") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise AuthorityError(f"the register is damaged, {key}: {first['msg']}", str(path), _RESTORE) from None


def _without(register: Register, name: str) -> Register:
    """The register with the certificate in force of `name` revoked."""
    revoked = [
        entry.model_copy(update={"revoked": _now()}) if entry.name == name and entry.revoked is None else entry
        for entry in register.certified
    ]
    return register.model_copy(update={"certified": tuple(revoked)})


def _with_broker(folder: Path, signer: _Signer, register: Register) -> Register:
    entry = _certify(folder, signer, BROKER, register.hosts)
    return register.model_copy(update={"certified": (*register.certified, entry)})


def _certify(folder: Path, signer: _Signer, node: Node, hosts: Sequence[str]) -> Certified:
    """Write a node's key and certificate into its place; its entry for the register."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = signer.certify(node, key.public_key(), hosts)
    place = _place(folder, node)
    for private in (place.parent, place):
        private.mkdir(mode=0o700, exist_ok=True)
    _write_key(place / "node.key", key)
    _write(place / "node.crt", _pem(certificate))
    _write(place / "ca.crt", _pem(signer.certificate))
    return Certified(
        name=node.name,
        role=node.role,
        above=node.above,
        serial=f"{certificate.serial_number:x}",
        added=_now(),
        expires=certificate.not_valid_after_utc,
    )


def _conclude(folder: Path, signer: _Signer, register: Register) -> None:
    """Tell the broker, then the register."""
    revocations = signer.revocations(register)
    _write(folder / "authority" / "crl.pem", revocations)
    _write(folder / "broker" / "crl.pem", revocations)
    granted = rules(entry.node for entry in register.in_force.values())
    _write(folder / "broker" / "access.acl", granted.text().encode())
    _write(folder / "broker" / "mosquitto.conf", mosquitto.in_container().encode())
    key = (folder / "broker" / "node.key").read_bytes()
    _write(folder / "broker" / "nats.conf", nats.in_container(granted, key).encode(), mode=0o600)
    _write(_register_of(folder), register.model_dump_json(by_alias=True, indent=1).encode())


@contextmanager
def _changing(folder: Path) -> Iterator[None]:
    """One at a time; a file that cannot be written is an `AuthorityError`."""
    try:
        for private in (folder, folder / "authority"):
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "authority" / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it however this ends
            yield
        finally:
            os.close(lock)
    except OSError as error:
        mend = "make room, or the folder writable, and say it again"
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
