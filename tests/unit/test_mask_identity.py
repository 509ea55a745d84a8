"""Whose keys a home believes: those that a certificate of the run's authority, for a home of that name, vouches for."""

from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st
from support.signing import SigningAuthority

from broker.access import Node, Role
from broker.authority import Authority
from broker.signer import Signer, new_key, read_request, write_key, write_pem
from emc_node import openssl
from stackelgrid.masks.identity import Identity, Trust
from stackelgrid.node.identity import read_identity, read_trust
from stackelgrid.transport.tls import Tls
from stackelgrid.wire.masks import MAX_CERTIFICATE, MaskEntry
from stackelgrid.wire.roles import role_uri

H1, H2, A1 = Node("h1", Role.home, "a1"), Node("h2", Role.home, "a1"), Node("a1", Role.aggregator, "leader")
LEADER, DESK = Node("leader", Role.leader), Node("desk", Role.observer)
ENTRY = MaskEntry(name="h1", homes=2, exchange="1e" * 32, signing="2d" * 32)
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority.init(tmp_path_factory.mktemp("certs") / "certs")
    authority.add(LEADER, A1, H1, H2, DESK)
    return authority


def tls(authority: Authority, node: Node) -> Tls:
    place = authority.place(node)
    return Tls(ca=place / "ca.crt", certificate=place / "node.crt", key=place / "node.key")


def proven(authority: Authority, node: Node = H1, **changes: Any) -> MaskEntry:
    """An entry that a node proves with its own certificate."""
    entry = ENTRY.model_copy(update={"name": node.name} | changes)
    return read_identity(tls(authority, node)).prove(entry, "run", "a1")


@pytest.fixture(scope="module")
def trust(authority: Authority) -> Trust:
    return read_trust(tls(authority, H2), lambda: NOW)


def pem_of(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n"


def test_keys_are_believed_that_a_home_has_proven(authority: Authority, trust: Trust) -> None:
    entry = proven(authority)
    assert trust.find_objection("run", "a1", entry) is None
    assert (entry.exchange, entry.signing, entry.homes) == (ENTRY.exchange, ENTRY.signing, 2)
    assert MaskEntry.model_validate_json(entry.model_dump_json()) == entry
    assert len(entry.certificate or "") < MAX_CERTIFICATE / 3


def test_proof_holds_for_these_keys_of_this_home_at_this_aggregator_alone(authority: Authority, trust: Trust) -> None:
    entry = proven(authority)
    unsigned = "its certificate's key has not signed them"
    for change in ({"homes": 1}, {"exchange": "f" * 64}, {"signing": "f" * 64}):
        assert trust.find_objection("run", "a1", entry.model_copy(update=change)) == unsigned
    assert trust.find_objection("run", "a2", entry) == trust.find_objection("other", "a1", entry) == unsigned
    renamed = entry.model_copy(update={"name": "h2"})
    assert trust.find_objection("run", "a1", renamed) == "its certificate is for h1"
    borrowed = entry.model_copy(update={"certificate": proven(authority, H2).certificate, "name": "h2"})
    assert trust.find_objection("run", "a1", borrowed) == unsigned
    assert trust.find_objection("run", "a1", ENTRY) == "no certificate vouches for them"


@pytest.mark.parametrize("node", [A1, LEADER, DESK], ids=lambda node: node.role)
def test_nobody_but_a_home_is_believed(authority: Authority, trust: Trust, node: Node) -> None:
    entry = proven(authority, node)
    assert trust.find_objection("run", "a1", entry) == f"its certificate is for {role_uri(node.role)}"


def test_certificate_of_another_authority_is_not_believed(authority: Authority, trust: Trust, tmp_path: Path) -> None:
    foreign = Authority.init(tmp_path / "foreign")  # of the same name, with another key
    foreign.add(LEADER, A1, H1)
    reason = "its certificate is not by the authority of the run"
    assert trust.find_objection("run", "a1", proven(foreign)) == reason
    authority_itself = (authority.folder / "broker" / "ca.crt").read_text()
    entry = proven(authority).model_copy(update={"certificate": authority_itself})
    assert trust.find_objection("run", "a1", entry) == reason


def test_certificate_vouches_while_it_holds(authority: Authority) -> None:
    entry, now = proven(authority), NOW
    trust = read_trust(tls(authority, H2), lambda: now)
    for days in (-2, 365 * 6):
        now = NOW + timedelta(days=days)
        assert (trust.find_objection("run", "a1", entry) or "").startswith("its certificate holds from")
    now = NOW + timedelta(days=30)
    assert trust.find_objection("run", "a1", entry) is None


def test_certificate_without_a_role_is_not_believed(tmp_path: Path) -> None:
    """Such as an authority of before gave, or another's."""
    signing = SigningAuthority(tmp_path)
    openssl.make_key(tmp_path / "node.key")
    certificate = signing.sign(openssl.make_request(tmp_path / "node.key", "h1"))
    identity = Identity(certificate.encode(), (tmp_path / "node.key").read_bytes())
    trust = Trust(signing.pem.encode(), lambda: NOW)
    entry = identity.prove(ENTRY, "run", "a1")
    assert trust.find_objection("run", "a1", entry) == "its certificate names no role"


def test_home_with_a_renewed_file_proves_and_trusts_with_it(authority: Authority, tmp_path: Path) -> None:
    """The file has the key, the certificate and the authorities; a node's own certificate is none of these."""
    openssl.make_key(tmp_path / "new.key")
    csr = openssl.make_request(tmp_path / "new.key", "h1")
    signer = Signer.load(authority.folder / "authority", lambda file: "")
    certificate = write_pem(signer.certify(H1, read_request(csr, "h1"), timedelta(days=30)))
    ca = (authority.folder / "broker" / "ca.crt").read_bytes()
    file = tmp_path / "renewed.pem"
    file.write_bytes((tmp_path / "new.key").read_bytes() + certificate + ca)
    renewed = tls(authority, H1).model_copy(update={"renewed": file})
    entry = read_identity(renewed).prove(ENTRY, "run", "a1")
    assert entry.certificate == certificate.decode()
    trust = read_trust(renewed, lambda: NOW)
    assert trust.find_objection("run", "a1", entry) is None
    own_key, forged = load_pem_private_key(file.read_bytes(), None), new_key()
    assert isinstance(own_key, ec.EllipticCurvePrivateKey)
    write_key(tmp_path / "forged.key", forged)
    posing = Signer(own_key, x509.load_pem_x509_certificate(certificate))
    by_home = write_pem(posing.certify(H2, forged.public_key(), timedelta(days=1)))
    h2 = ENTRY.model_copy(update={"name": "h2"})
    entry = Identity(by_home, (tmp_path / "forged.key").read_bytes()).prove(h2, "run", "a1")
    assert trust.find_objection("run", "a1", entry) == "its certificate is not by the authority of the run"


@given(st.text(max_size=200) | st.binary(max_size=200).map(pem_of), st.binary(min_size=1, max_size=80))
def test_whatever_stands_for_a_certificate_is_not_believed(trust: Trust, certificate: str, signature: bytes) -> None:
    entry = ENTRY.model_copy(update={"certificate": certificate, "signature": signature.hex()})
    assert trust.find_objection("run", "a1", entry) == "its certificate cannot be read"


@given(st.binary(max_size=80))
def test_no_signature_is_taken_for_that_of_the_key(authority: Authority, trust: Trust, signature: bytes) -> None:
    entry = proven(authority).model_copy(update={"signature": signature.hex()})
    assert trust.find_objection("run", "a1", entry) == "its certificate's key has not signed them"


@given(st.data())
def test_certificate_with_a_changed_byte_is_not_believed(
    authority: Authority, trust: Trust, data: st.DataObject
) -> None:
    entry = proven(authority)
    der = bytearray(ssl.PEM_cert_to_DER_cert(entry.certificate or ""))
    der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    changed = entry.model_copy(update={"certificate": pem_of(bytes(der))})
    assert trust.find_objection("run", "a1", changed) is not None


def test_files_that_prove_or_check_nothing_are_named(authority: Authority, tmp_path: Path) -> None:
    own, missing = tls(authority, H1), tmp_path / "missing.pem"
    write_key(tmp_path / "locked.key", new_key(), "a passphrase of it")
    for wrong, why in (
        (own.model_copy(update={"key": tls(authority, H2).key}), "the key is not that of the certificate"),
        (own.model_copy(update={"key": own.ca}), "tls.certificate, tls.key: .* cannot prove keys"),
        (own.model_copy(update={"certificate": own.key}), "tls.certificate, tls.key: .* cannot prove keys"),
        (own.model_copy(update={"key": tmp_path / "locked.key"}), "tls.certificate, tls.key: .* cannot prove keys"),
        (own.model_copy(update={"key": missing}), "tls.key: .*missing.pem cannot be read"),
    ):
        with pytest.raises(ValueError, match=why):
            read_identity(wrong)
    for ca, why in (
        (missing, "tls.ca: .* cannot be read"),
        (own.key, "tls.ca"),
        (own.certificate, "no certificate of an"),
    ):
        with pytest.raises(ValueError, match=why):
            read_trust(own.model_copy(update={"ca": ca}), lambda: NOW)
