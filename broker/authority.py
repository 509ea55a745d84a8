"""A small certificate authority for a broker with access rules, and the register of who belongs to a grid.

It is a folder on the desk, the machine from which the testbed is run:

    authority/   ca.key, ca.crt, crl.pem, register.json, grid.json, requests/     stays where it is;
                 previous/ while the key is being replaced
    broker/      ca.crt, crl.pem, node.crt, node.key, access.acl, mosquitto.conf, nats.conf     for the broker's machine
                 enrolment.acl, enrolment.conf, enrolment/     for `broker.enrolment` on the same
    leaders/NAME/, aggregators/NAME/, homes/NAME/, observers/NAME/     ca.crt, node.crt, node.key, for the node's
    registrars/registrar/                                              the same, for `stackelgrid certs serve`

Private keys have mode 0600, in folders of mode 0700, and are never logged. A home that makes its own key has no folder
here.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from broker import enrolment, mosquitto, nats
from broker.access import Node, Role, make_rules
from broker.files import AuthorityError, lock, make_private, write
from broker.passphrase import ask_new_passphrase, choose_passphrase, find_passphrase
from broker.register import CertificateEntry, Register, now, read_register, register_path
from broker.requests import MOST_WAITING, KeptRequest, RefusedRequestError, Requests
from broker.signer import (
    NODE_LIFETIME,
    Signer,
    find_address,
    find_id,
    new_key,
    read_ids,
    read_request,
    write_key,
    write_pem,
)
from stackelgrid.model import SchemaVersion, StrictModel
from stackelgrid.wire.enrolment import EnrolmentRequest, Pem
from stackelgrid.wire.messages import MAX_REASON
from stackelgrid.wire.names import RULE, Name, is_name
from stackelgrid.wire.roles import REGISTRAR as REGISTRAR_NAME

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
HOSTS = ("localhost", "127.0.0.1", "broker", "enrolment")
"""Names by which the broker is always reached: on its own machine, and among containers."""
BROKER = Node("broker", Role.broker)
REGISTRAR = Node(REGISTRAR_NAME, Role.registrar)
ENROLMENT = Node(enrolment.FOLDER, Role.enrolment)
PREVIOUS = "previous"
"""The folder in `authority` with the key that is being replaced."""
RENEWABLE = 2 / 3
"""A certificate may be renewed once less than this share of its lifetime is left: a node cannot fill the register."""

_FOLDERS = {
    Role.leader: "leaders",
    Role.aggregator: "aggregators",
    Role.home: "homes",
    Role.observer: "observers",
    Role.registrar: "registrars",
}
_ABOVE = {Role.home: Role.aggregator, Role.aggregator: Role.leader}
_ADD = "stackelgrid certs add"


class Grid(StrictModel):
    """The grid that an authority is for, as `provision` wrote it: its run, its broker's address as nodes reach it.

    `terms` is what a new home needs besides: keys and values of its configuration.
    """

    schema_version: SchemaVersion = 1
    run: Name
    broker: str
    terms: dict[str, Any]


@dataclass(frozen=True)
class Directory:
    """All that a registrar makes public of an authority: register, requests, the certificates of its keys, the grid.

    While the key is being replaced, `outdated` names the homes that have no certificate by the new one.
    """

    register: Register
    requests: Sequence[KeptRequest]
    ca: Pem
    grid: Grid
    outdated: frozenset[str] = frozenset()


class Authority:
    """The authority in `folder`. Like each of its methods, raises `AuthorityError` for what cannot be done.

    A change is made whole or not at all, after one that another process is making. Its entry in the register is written
    last: a change that a power cut interrupted is repaired by repeating it. Where the key has a passphrase, the first
    change finds or asks for it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._passphrase: str | None = None
        try:
            there = register_path(self.folder).is_file()
        except OSError as error:
            mend = "be the user who made it, or name another folder"
            raise AuthorityError(f"cannot be looked into: {error.strerror}", str(self.folder), mend) from None
        if not there:
            raise AuthorityError("there is no authority", str(self.folder), "make one with stackelgrid certs init")

    @classmethod
    def init(cls, folder: Path, *hosts: str, home_lifetime: timedelta | None = None) -> Authority:
        """Make a new authority, whose broker is reached as `HOSTS` and by the names or addresses `hosts`.

        Homes' certificates hold for `home_lifetime`, or as long as the others.
        """
        folder, checked = folder.resolve(), _check_hosts(*HOSTS, *hosts)
        with lock(folder):
            if register_path(folder).exists():
                raise AuthorityError("there is one already", str(folder), f"go on with {_ADD}, or name another folder")
            write(folder / ".gitignore", b"*\n")  # private keys do not belong in a repository
            signers = [Signer.new()]
            write_key(folder / "authority" / "ca.key", signers[0].key)
            register = Register(hosts=checked, home_lifetime=home_lifetime, certified=())
            _publish(folder, signers, register.enter(_certify(folder, signers, register, BROKER, checked)))
        return cls(folder)

    @property
    def register(self) -> Register:
        """The certificates that there are."""
        return read_register(self.folder)

    @property
    def requests(self) -> list[KeptRequest]:
        """The requests that are kept, the oldest first."""
        return self._requests.list()

    def place(self, node: Node) -> Path:
        """Give the folder that holds a node's certificate and key."""
        return _place(self.folder, node)

    def add(self, *nodes: Node) -> None:
        """Give each node a key and a certificate.

        A home's aggregator, or an aggregator's leader, has one already or comes before it.
        """
        with lock(self.folder):
            register, signers = self.register, self._load_signers()
            known = {name: entry.role for name, entry in register.in_force.items()}
            for node in nodes:
                _check(node, known, self.folder)
                known[node.name] = node.role
            given = [_certify(self.folder, signers, register, node) for node in nodes]
            _publish(self.folder, signers, register.enter(*given))

    def revoke(self, name: str, by: str | None = None, reason: str | None = None) -> None:
        """Have the broker refuse this node's certificate; a connection that it has already may do nothing any more."""
        _check_reason(reason)
        with lock(self.folder):
            register, signers = self.register, self._load_signers()
            if name == BROKER.name:
                mend = f"give it another, which revokes this one: {_ADD} broker --role broker"
                raise AuthorityError("the broker cannot be without a certificate", str(self.folder), mend)
            if name not in register.in_force:
                revoked = [entry.revoked for entry in register.certified if entry.name == name]
                what = f"{name!r} is revoked since {revoked[-1]:%Y-%m-%d %H:%M} UTC" if revoked else f"no {name!r} here"
                raise AuthorityError(what, str(self.folder), "see stackelgrid certs list")
            self._requests.forget(*(each for each in self.requests if each.name == name and each.state == "approved"))
            _publish(self.folder, signers, register.revoke(name, by, reason))

    def serve_as(self, *hosts: str) -> None:
        """Replace the broker's certificate by one that holds for the names or addresses `hosts` too."""
        with lock(self.folder):
            register, signers = self.register, self._load_signers()
            named = _check_hosts(*register.hosts, *hosts)
            revoked = register.revoke(BROKER.name).model_copy(update={"hosts": named})
            _publish(self.folder, signers, revoked.enter(_certify(self.folder, signers, register, BROKER, named)))

    def reissue(self, *names: str) -> None:
        """Give nodes another key and certificate in their folders; those before still hold."""
        with lock(self.folder):
            register, signers = self.register, self._load_signers()
            entries = [register.in_force.get(name) for name in names]
            for name, entry in zip(names, entries, strict=True):
                if entry is None:
                    raise AuthorityError(f"no {name!r} here", str(self.folder), "see stackelgrid certs list")
                if entry.role is Role.broker:
                    mend = f"renew it with {_ADD} broker --role broker"
                    raise AuthorityError("the broker has one certificate at a time", str(self.folder), mend)
                if not (self.place(entry.node) / "node.key").exists():
                    mend = "it asks for a renewal by itself"
                    raise AuthorityError(f"the key of {name!r} is with {name!r} alone", str(self.folder), mend)
            given = [_certify(self.folder, signers, register, entry.node) for entry in entries if entry is not None]
            _publish(self.folder, signers, register.enter(*given))

    # The authority's own key.

    def unlock(self) -> None:
        """Find out whether the key can be used; where it has a passphrase, find or ask for it."""
        self._load_signers()

    def protect(self) -> None:
        """Give the key a passphrase, or another one."""
        with lock(self.folder):
            own = self.folder / "authority"
            protected = b"ENCRYPTED" in (own / "ca.key").read_bytes()
            signers = self._load_signers()
            choose = ask_new_passphrase if protected else choose_passphrase
            passphrase = choose(own / "ca.key")
            for folder, signer in zip((own, own / PREVIOUS), signers, strict=False):
                write_key(folder / "ca.key", signer.key, passphrase)
            self._passphrase = passphrase

    def rotate(self) -> None:
        """Begin to replace the key: a new one signs from now on, and the broker admits who has a certificate by either.

        The broker keeps its certificate, which everybody trusts, until `finish_rotation`.
        """
        with lock(self.folder):
            own, register, signers = self.folder / "authority", self.register, self._load_signers()
            if len(signers) > 1:
                mend = "stackelgrid certs rotate --finish, once everybody has a certificate by the new one"
                raise AuthorityError("the key is being replaced already", str(own), mend)
            make_private(own / PREVIOUS)
            write(own / PREVIOUS / "ca.key", (own / "ca.key").read_bytes(), 0o600)
            write(own / PREVIOUS / "ca.crt", write_pem(signers[0].certificate))
            signers.insert(0, Signer.new(number=signers[0].number + 1))
            _write_trusted(own, signers)
            write_key(own / "ca.key", signers[0].key, self._passphrase)  # from here on it is begun
            _publish(self.folder, signers, register.renumber())

    def finish_rotation(self) -> None:
        """Trust the new key alone, and give the broker a certificate by it."""
        with lock(self.folder):
            own, register, signers = self.folder / "authority", self.register, self._load_signers()
            if len(signers) == 1:
                raise AuthorityError("no key is being replaced", str(own), "begin with stackelgrid certs rotate")
            brokers = [entry for entry in register.in_force.values() if entry.node in (BROKER, ENROLMENT)]
            late = [
                each.name for each in register.in_force.values() if each.issuer != signers[0].id and each not in brokers
            ]
            if late:
                names = ", ".join(late[:5]) + (", ..." if len(late) > 5 else "")
                mend = (
                    "a home that made its key renews its certificate while it is connected; for others "
                    "stackelgrid certs renew NODE, and take the folder to its machine; or revoke it"
                )
                what = f"{len(late)} nodes have no certificate by the new key: {names}"
                raise AuthorityError(what, str(own), mend)
            signers = signers[:1]
            given = [
                _certify(self.folder, signers, register, each.node, register.hosts if each.node == BROKER else ())
                for each in brokers
            ]
            _publish(self.folder, signers, register.enter(*given))
            shutil.rmtree(own / PREVIOUS)

    # Who makes its key itself asks over the broker.

    def keep(self, key: str, wish: EnrolmentRequest) -> None:
        """Keep a stranger's request, which came on the topic of the key with that ID, until the operator decides.

        The same request again changes nothing, signed anew or not. Raises `RefusedRequestError`.
        """
        if _read_key(wish.csr, wish.name) != key:
            raise RefusedRequestError("foreign", "csr is of another key than the topic")
        with lock(self.folder):
            requests = self.requests
            before = next((each for each in requests if each.id == key), None)
            if before is not None and before.state != "denied":
                if before.repeats(wish):
                    return
                raise RefusedRequestError("second", f"another request with this key is kept, and {before.state}")
            self._check_enrolment(wish, self.register)
            if sum(each.state == "waiting" for each in requests) >= MOST_WAITING:
                raise RefusedRequestError("too many", f"{MOST_WAITING} requests wait for the operator; try again later")
            self._requests.save(KeptRequest(id=key, name=wish.name, received=now(), enrolment=wish))

    def approve(self, which: str, by: str) -> CertificateEntry:
        """Give the home whose request waits a certificate, by its name or the beginning of its fingerprint."""
        with lock(self.folder):
            register, signers = self.register, self._load_signers()
            request = self._requests.find_waiting(which, {entry.key for entry in register.certified})
            assert request.enrolment is not None
            try:
                node = self._check_enrolment(request.enrolment, register)
            except RefusedRequestError as error:
                raise AuthorityError(error.reason, str(self.folder), f"stackelgrid certs deny {which}") from None
            key = read_request(request.enrolment.csr, node.name)
            certificate = signers[0].certify(node, key, _find_lifetime(register, node))
            entry = _enter(node, certificate, signers[0])
            decided = {"state": "approved", "by": by, "decided": now(), "certificate": write_pem(certificate).decode()}
            self._requests.save(request.model_copy(update=decided))
            _publish(self.folder, signers, register.enter(entry))
            return entry

    def deny(self, which: str, by: str, reason: str | None = None) -> KeptRequest:
        """Refuse the request that waits, by its name or the beginning of its fingerprint."""
        _check_reason(reason)
        with lock(self.folder):
            request = self._requests.find_waiting(which)
            decided = {"state": "denied", "by": by, "decided": now(), "reason": reason}
            self._requests.save(request.model_copy(update=decided))
            return request

    def renew(self, name: str, csr: str) -> None:
        """Give a node that has a certificate another one, while the one before still holds.

        Raises `RefusedRequestError`.
        """
        with lock(self.folder):
            register = self.register
            key = _read_key(csr, name)
            entry = register.in_force.get(name)
            if entry is None:
                raise RefusedRequestError("unknown", f"there is no {name!r}", key)
            before = [each for each in self.requests if each.name == name and each.state == "approved"]
            if entry.key == key and any(each.id == key and each.enrolment is None for each in before):
                return  # the answer has not reached the node
            signers = self._load_signers()
            outdated = len(signers) > 1 and entry.issuer != signers[0].id
            left = (entry.expires - now()) / (entry.expires - entry.added)
            if left > RENEWABLE and not outdated:
                until = f"{entry.expires:%Y-%m-%d %H:%M} UTC"
                raise RefusedRequestError("early", f"the certificate holds until {until}", key)
            certificate = signers[0].certify(entry.node, read_request(csr, name), _find_lifetime(register, entry.node))
            pem = write_pem(certificate).decode()
            self._requests.forget(*before)
            self._requests.save(
                KeptRequest(id=key, name=name, received=now(), state="approved", decided=now(), certificate=pem)
            )
            renewed = _enter(entry.node, certificate, signers[0])
            _publish(self.folder, signers, register.enter(renewed))

    def move(self, name: str, aggregator: str) -> None:
        """Put a home below another aggregator; until it has come there, it may still talk to the one before."""
        with lock(self.folder):
            register = self.register
            entry, above = register.in_force.get(name), register.in_force.get(aggregator)
            if entry is None or entry.role is not Role.home:
                raise AuthorityError(f"there is no home {name!r}", str(self.folder), "see stackelgrid certs list")
            if above is None or above.role is not Role.aggregator:
                mend = f"see stackelgrid certs list, or add it: {_ADD} {aggregator} --role aggregator"
                raise AuthorityError(f"there is no aggregator {aggregator!r}", str(self.folder), mend)
            if entry.above == aggregator:
                raise AuthorityError(f"{name!r} is below {aggregator!r}", str(self.folder), "name another aggregator")
            moved = register.describe(name, above=aggregator, moved_from=entry.above)
            _publish(self.folder, self._load_signers(), moved)

    def note_arrival(self, name: str, aggregator: str) -> None:
        """Take from a home that has moved and has come to `aggregator` what it might do at the one before."""
        with lock(self.folder):
            entry = self.register.in_force.get(name)
            if entry is not None and entry.moved_from is not None and entry.above == aggregator:
                _publish(self.folder, self._load_signers(), self.register.describe(name, moved_from=None))

    def outgrow(self, number: int) -> None:
        """Give the register a larger number than this one, where it was restored from a copy of before."""
        with lock(self.folder):
            register = self.register
            if register.number <= number:
                grown = register.model_copy(update={"number": number + 1})
                write(register_path(self.folder), grown.model_dump_json(by_alias=True, indent=1).encode())

    def describe(self, *nodes: Node) -> None:
        """Take up how many homes are behind each of these nodes, and the limit of their connections."""
        with lock(self.folder):
            register = self.register
            for node in nodes:
                entry = register.in_force[node.name]
                if (entry.homes, entry.max_kw) != (node.homes, node.max_kw):
                    register = register.describe(node.name, homes=node.homes, max_kw=node.max_kw)
            if register.number != self.register.number:
                _publish(self.folder, self._load_signers(), register)

    def found_grid(self, grid: Grid) -> None:
        """Write down which grid the authority is for."""
        with lock(self.folder):
            write(self.folder / "authority" / "grid.json", grid.model_dump_json(by_alias=True, indent=1).encode())

    def stamp(self) -> object:
        """Give what changes when one of the files that a registrar reads does."""
        own = self.folder / "authority"
        paths = [own / "register.json", own / "grid.json", own / "ca.crt", *sorted((own / "requests").glob("*.json"))]
        found: list[object] = [now().hour]  # what waits too long is forgotten within the hour
        for path in paths:
            with suppress(FileNotFoundError):
                stat = path.stat()
                found.append((path.name, stat.st_ino, stat.st_mtime_ns))
        return found

    def read_directory(self) -> Directory:
        """Read what a registrar makes public, as it is between two changes; forget requests that are too old."""
        with lock(self.folder):
            self._requests.forget_old()
            own, register, outdated = self.folder / "authority", self.register, frozenset[str]()
            if (own / PREVIOUS).exists():
                issuer = read_ids(own / "ca.crt")[0]
                homes = (each for each in register.in_force.values() if each.role is Role.home)
                outdated = frozenset(home.name for home in homes if home.issuer != issuer)
            ca = (own / "ca.crt").read_text(encoding="ascii")
            return Directory(register, self.requests, ca, self._read_grid(), outdated)

    def _read_grid(self) -> Grid:
        path = self.folder / "authority" / "grid.json"
        try:
            return Grid.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            mend = "stackelgrid provision SCENARIO --broker mqtts://HOST:PORT writes it"
            raise AuthorityError("the authority is for no grid yet", str(path), mend) from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise AuthorityError(f"the grid is damaged: {first['msg']}", str(path), "provision it again") from None

    def _check_enrolment(self, wish: EnrolmentRequest, register: Register) -> Node:
        """Give the node that a request asks to be, at the aggregator that it gets. Raises `RefusedRequestError`.

        A home whose certificate has expired may ask again, and stays where it was.
        """
        known = {name: entry.role for name, entry in register.in_force.items() if name != wish.name}
        before = register.in_force.get(wish.name)
        if before is not None and (before.role is not Role.home or before.expires > now()):
            raise RefusedRequestError("taken", f"the name {wish.name!r} is taken; take another")
        kept = before.above if before is not None and before.above in known else None
        above = wish.aggregator or kept or register.find_smallest()
        if above is None:
            raise RefusedRequestError("no aggregator", "the grid has no aggregator yet; try again later")
        node = Node(wish.name, Role.home, above, wish.homes, wish.max_kw)
        try:
            _check(node, known, self.folder)
        except AuthorityError as error:
            raise RefusedRequestError("impossible", error.what) from None
        return node

    @property
    def _requests(self) -> Requests:
        return Requests(self.folder / "authority" / "requests")

    def _load_signers(self) -> list[Signer]:
        """Load the signer, and after it the one before while that is being replaced."""
        own = self.folder / "authority"
        signers = [Signer.load(own, self._find_passphrase)]
        if (own / PREVIOUS / "ca.crt").exists():
            previous = Signer.load(own / PREVIOUS, self._find_passphrase)
            signers += [previous] if previous.id != signers[0].id else []
        return signers

    def _find_passphrase(self, key: Path) -> str:
        if self._passphrase is None:
            self._passphrase = find_passphrase(key)
        return self._passphrase


def _read_key(csr: str, name: str) -> str:
    """Give the ID of the key in a signing request. Raises `RefusedRequestError`."""
    try:
        return find_id(read_request(csr, name))
    except ValueError as error:
        raise RefusedRequestError("malformed", str(error)) from None


# Nodes, checked.


def _check(node: Node, known: dict[str, Role], folder: Path) -> None:
    """Raise `AuthorityError` unless `node` can be added to those `known` by name."""
    where, above = str(folder), _ABOVE.get(node.role)
    if not is_name(node.name):
        raise AuthorityError(f"the name {node.name!r} cannot be part of a topic", where, f"take {RULE}")
    if node.role is Role.broker or node.name == BROKER.name:
        mend = "take another name; the broker's own certificate is renewed by certs add broker --role broker"
        raise AuthorityError(f"{node.name!r} cannot be a {node.role}: there is one broker, named broker", where, mend)
    for only in (REGISTRAR, ENROLMENT):
        if (node.role is only.role) != (node.name == only.name):
            what = f"{node.name!r} cannot be a {node.role}: there is one {only.role}, named {only.name}"
            raise AuthorityError(what, where, f"take another name, or {_ADD} {only.name} --role {only.role}")
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


def _check_reason(reason: str | None) -> None:
    """Raise `AuthorityError` for a reason that cannot be kept, or would not be shown as it is."""
    if reason is None:
        return
    if len(reason) > MAX_REASON:
        raise AuthorityError(f"the reason has {len(reason)} characters", "--reason", f"give at most {MAX_REASON}")
    if not reason.isprintable():
        raise AuthorityError("the reason has characters that cannot be shown", "--reason", "write it in one line")


def _check_hosts(*hosts: str) -> tuple[str, ...]:
    """Check host names and addresses, and leave out repetitions."""
    for host in hosts:
        if not HOST.fullmatch(host) and find_address(host) is None:
            raise AuthorityError(f"{host!r} is no host", "--host", "give a name like broker.example.org, or an address")
    return tuple(dict.fromkeys(hosts))


# Files.


def _place(folder: Path, node: Node) -> Path:
    match node.role:
        case Role.broker:
            return folder / "broker"
        case Role.enrolment:
            return folder / "broker" / enrolment.FOLDER
        case role:
            return folder / _FOLDERS[role] / node.name


def _certify(
    folder: Path, signers: Sequence[Signer], register: Register, node: Node, hosts: Sequence[str] = ()
) -> CertificateEntry:
    """Write a node's key and certificate into its folder; returns its entry for the register."""
    key = new_key()
    certificate = signers[0].certify(node, key.public_key(), _find_lifetime(register, node), hosts)
    place = _place(folder, node)
    make_private(place.parent, place)
    write_key(place / "node.key", key)
    write(place / "node.crt", write_pem(certificate))
    _write_trusted(place, signers)
    return _enter(node, certificate, signers[0])


def _find_lifetime(register: Register, node: Node) -> timedelta:
    return NODE_LIFETIME if node.role is not Role.home else register.home_lifetime or NODE_LIFETIME


def _write_trusted(folder: Path, signers: Sequence[Signer]) -> None:
    """Write the certificates of the keys that are trusted."""
    write(folder / "ca.crt", b"".join(write_pem(signer.certificate) for signer in signers))


def _enter(node: Node, certificate: x509.Certificate, signer: Signer) -> CertificateEntry:
    """Give the entry of a node's certificate for the register."""
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return CertificateEntry(
        name=node.name,
        role=node.role,
        above=node.above,
        moved_from=node.moved_from,
        homes=node.homes,
        max_kw=node.max_kw,
        key=find_id(key),
        issuer=signer.id,
        serial=f"{certificate.serial_number:x}",
        added=now(),
        expires=certificate.not_valid_after_utc,
    )


def _publish(folder: Path, signers: Sequence[Signer], register: Register) -> None:
    """Write what the broker reads, then the register."""
    revocations = b"".join(signer.revocations(register) for signer in signers)
    for place in (folder / "authority", folder / "broker"):
        _write_trusted(place, signers)
        write(place / "crl.pem", revocations)
    rules = make_rules(entry.node for entry in register.in_force.values())
    write(folder / "broker" / "access.acl", rules.text().encode())
    for name, text in mosquitto.files_in_container().items():
        write(folder / "broker" / name, text.encode())
    key = (folder / "broker" / "node.key").read_bytes()
    write(folder / "broker" / "enrolment.acl", enrolment.RULES.encode())
    write(folder / "broker" / "enrolment.conf", enrolment.configuration_in_container(key).encode(), mode=0o600)
    write(folder / "broker" / "nats.conf", nats.configuration_in_container(rules, key).encode(), mode=0o600)
    write(register_path(folder), register.model_dump_json(by_alias=True, indent=1).encode())
