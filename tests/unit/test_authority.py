"""The certificate authority: what it signs, what it refuses, that nothing of it is lost, half-written or told."""

from __future__ import annotations

import getpass
import ipaddress
import json
import multiprocessing
import os
import shutil
import ssl
import stat
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store

from broker import files as room
from broker.access import Node, Role, Rules
from broker.authority import BROKER, Authority
from broker.files import AuthorityError
from broker.register import Register, now, register_path
from stackelgrid import cli

LEADER, A1, H1 = Node("leader", Role.leader), Node("a1", Role.aggregator, "leader"), Node("h1", Role.home, "a1")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority.init(tmp_path / "certs", "grid.example.org", "192.0.2.7")
    made.add(LEADER, A1, H1)
    return made


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def revoked(authority: Authority, folder: str = "broker") -> set[str]:
    crl = x509.load_pem_x509_crl((authority.folder / folder / "crl.pem").read_bytes())
    return {f"{entry.serial_number:x}" for entry in crl}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rules(authority: Authority) -> Rules:
    return Rules.parse((authority.folder / "broker" / "access.acl").read_text())


# What is signed.


def test_certificate_is_for_clients_and_the_brokers_for_a_server_too(
    authority: Authority,
) -> None:
    """Verified by an independent implementation of X.509 path validation (RFC 5280, CA/B profile)."""
    store = Store([certificate(authority.folder / "authority" / "ca.crt")])
    builder = PolicyBuilder().store(store)
    home, of_broker = (
        certificate(authority.place(H1) / "node.crt"),
        certificate(authority.folder / "broker" / "node.crt"),
    )
    for host in ("localhost", "broker", "grid.example.org"):
        builder.build_server_verifier(x509.DNSName(host)).verify(of_broker, [])
    for address in ("127.0.0.1", "192.0.2.7"):
        builder.build_server_verifier(x509.IPAddress(ipaddress.ip_address(address))).verify(of_broker, [])
    with pytest.raises(x509.verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("localhost")).verify(home, [])
    with pytest.raises(x509.verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("elsewhere.example.org")).verify(of_broker, [])
    purposes = home.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    names = home.subject.get_attributes_for_oid(x509.oid.NameOID.COMMON_NAME)
    assert [name.value for name in names] == ["h1"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_accepts_chain_purposes_and_revocations(authority: Authority) -> None:
    def verified(purpose: str, path: Path) -> bool:
        own = authority.folder / "authority"
        against = ["-crl_check", "-CRLfile", own / "crl.pem", "-CAfile", own / "ca.crt"]
        asked = ["openssl", "verify", "-x509_strict", "-purpose", purpose, *against, path]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        return done.returncode == 0

    home, of_broker = authority.place(H1) / "node.crt", authority.folder / "broker" / "node.crt"
    assert verified("sslclient", home) and not verified("sslserver", home)
    assert verified("sslclient", of_broker) and verified("sslserver", of_broker)
    authority.revoke("h1")
    assert not verified("sslclient", home) and verified("sslclient", of_broker)


def test_certificates_hold_from_the_day_before_for_five_or_twenty_years(
    authority: Authority,
) -> None:
    now = datetime.now(UTC)
    ca, home = certificate(authority.folder / "authority" / "ca.crt"), certificate(authority.place(H1) / "node.crt")
    for signed, years in ((ca, 20), (home, 5)):
        assert abs(now - timedelta(days=1) - signed.not_valid_before_utc) < timedelta(minutes=1)
        assert abs(now + timedelta(days=365 * years) - signed.not_valid_after_utc) < timedelta(minutes=1)
    crl = x509.load_pem_x509_crl((authority.folder / "broker" / "crl.pem").read_bytes())
    assert crl.next_update_utc == ca.not_valid_after_utc
    assert crl.last_update_utc is not None and crl.last_update_utc < now - timedelta(hours=23)
    assert crl.is_signature_valid(ca.public_key())


def test_keys_and_serials_are_all_different(authority: Authority) -> None:
    found = [certificate(path) for path in authority.folder.rglob("*.crt") if path.name == "node.crt"]
    assert len({one.serial_number for one in found}) == len(found) == 4
    keys = {
        one.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        for one in found
    }
    assert len(keys) == 4


def test_keys_are_readable_by_their_owner_only_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        authority = Authority.init(tmp_path / "certs")
        authority.add(LEADER, A1, H1)
    finally:
        os.umask(before)
    keys = list(authority.folder.rglob("*.key"))
    assert len(keys) == 5
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert (authority.folder / ".gitignore").read_text() == "*\n"


# Adding and revoking.


def test_revoked_name_has_no_rules_and_may_be_added_again(authority: Authority) -> None:
    first = authority.register.in_force["h1"]
    assert rules(authority).may_write("h1", "stackelgrid/r/a1/h1/answer")
    authority.revoke("h1")
    assert revoked(authority) == revoked(authority, "authority") == {first.serial}
    assert not rules(authority).may_write("h1", "stackelgrid/r/a1/h1/answer")
    assert "h1" not in authority.register.in_force
    authority.add(H1)
    second = authority.register.in_force["h1"]
    assert second.serial != first.serial == revoked(authority).pop()
    assert certificate(authority.place(H1) / "node.crt").serial_number == int(second.serial, 16)
    assert rules(authority).may_write("h1", "stackelgrid/r/a1/h1/answer")
    assert [entry.name for entry in authority.register.certified].count("h1") == 2


def test_broker_certificate_is_replaced_when_it_gets_more_names(
    authority: Authority,
) -> None:
    old = authority.register.in_force["broker"].serial
    authority.serve_as("pi.local", "fd00::7")
    named = certificate(authority.folder / "broker" / "node.crt").extensions
    names = named.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        "localhost",
        "broker",
        "enrolment",
        "grid.example.org",
        "pi.local",
    ]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [
        "127.0.0.1",
        "192.0.2.7",
        "fd00::7",
    ]
    assert revoked(authority) == {old}
    assert authority.register.hosts[-2:] == ("pi.local", "fd00::7")


BAD = {
    "a name twice": ([H1], "'h1' has a certificate already, as home", "certs revoke h1"),
    "an unknown above": (
        [Node("h2", Role.home, "a9")],
        "no aggregator 'a9' for 'h2'",
        "certs add a9 --role aggregator",
    ),
    "an above of another role": ([Node("h2", Role.home, "leader")], "no aggregator 'leader'", "--above"),
    "an aggregator below a home": ([Node("a2", Role.aggregator, "h1")], "no leader 'h1'", "--above"),
    "a home above nothing": ([Node("h2", Role.home)], "home 'h2' needs somebody above", "name its aggregator"),
    "a leader below somebody": ([Node("l2", Role.leader, "leader")], "above leader 'l2' there is nobody", "leave"),
    "a slash": ([Node("h/2", Role.home, "a1")], "'h/2' cannot be part of a topic", "A to Z"),
    "a line": ([Node("h2\n", Role.home, "a1")], "cannot be part of a topic", "A to Z"),
    "a wildcard": ([Node("+", Role.home, "a1")], "'+' cannot be part of a topic", "A to Z"),
    "nothing": ([Node("", Role.home, "a1")], "'' cannot be part of a topic", "1 to 64"),
    "too long": ([Node("h" * 65, Role.home, "a1")], "cannot be part of a topic", "1 to 64"),
    "a second broker": ([Node("b2", Role.broker)], "there is one broker", "certs add broker"),
    "the broker's name": ([Node("broker", Role.home, "a1")], "'broker' cannot be a home", "another name"),
    "one of many": ([Node("h2", Role.home, "a1"), Node("h3", Role.home, "a1"), H1], "'h1' has a certificate", "revoke"),
    "the same name twice at once": (
        [Node("h2", Role.home, "a1")] * 2,
        "'h2' has a certificate already",
        "another name",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_add_changes_nothing_when_a_node_cannot_be_added(authority: Authority, case: str) -> None:
    nodes, what, mend = BAD[case]
    before = everything(authority.folder)
    with pytest.raises(AuthorityError) as told:
        authority.add(*nodes)
    assert what in str(told.value) and mend in told.value.mend and told.value.where == str(authority.folder)
    assert "\n" not in str(told.value)
    assert everything(authority.folder) == before


@pytest.mark.parametrize(
    ("name", "what"), [("h9", "no 'h9' here"), ("h1", "'h1' is revoked since 2"), ("broker", "without a certificate")]
)
def test_revoke_is_refused_for_the_broker_and_unknown_names(authority: Authority, name: str, what: str) -> None:
    if name == "h1":
        authority.revoke(name)
    before = everything(authority.folder)
    with pytest.raises(AuthorityError, match=what):
        authority.revoke(name)
    assert everything(authority.folder) == before


def test_authority_is_made_once_and_found_in_its_folder(authority: Authority, tmp_path: Path) -> None:
    before = everything(authority.folder)
    with pytest.raises(AuthorityError, match=r"there is one already .*certs add"):
        Authority.init(authority.folder)
    assert everything(authority.folder) == before
    with pytest.raises(AuthorityError, match=r"there is no authority .*certs init"):
        Authority(tmp_path / "elsewhere")
    with pytest.raises(AuthorityError, match=r"'no host' is no host"):
        Authority.init(tmp_path / "other", "no host")
    assert not (tmp_path / "other").exists()


# Damage.


@pytest.mark.parametrize("reason", ["x" * 501, "moved\nout", "\x1b[31m", "\udcff"])
def test_reason_that_cannot_be_kept_or_shown_changes_nothing(authority: Authority, reason: str) -> None:
    before = everything(authority.folder)
    for change in (lambda: authority.revoke("h1", "eva", reason), lambda: authority.deny("h9", "eva", reason)):
        with pytest.raises(AuthorityError, match="the reason has ") as told:
            change()
        assert told.value.where == "--reason"
    assert everything(authority.folder) == before


def test_register_with_a_time_of_no_zone_is_named(authority: Authority) -> None:
    file = register_path(authority.folder)
    register = json.loads(file.read_text())
    register["certified"][0]["expires"] = "2031-01-01T00:00:00"
    file.write_text(json.dumps(register))
    with pytest.raises(AuthorityError, match=r"certified\.0\.expires: Input should have timezone info"):
        authority.add(Node("a9", Role.aggregator, "leader"))


@pytest.mark.parametrize(
    ("damaged", "content", "what"),
    [
        ("register.json", b"{", "register is damaged"),
        ("register.json", b"", "register is damaged"),
        ("register.json", b'{"schema": 2, "hosts": [], "certified": []}', "a newer version of Stackelgrid"),
        ("register.json", b'{"schema": 1, "hosts": [], "certified": [{"name": "h 1"}]}', "certified.0.name"),
        ("ca.key", b"", "key or certificate is damaged"),
        ("ca.crt", b"rubbish", "key or certificate is damaged"),
    ],
)
def test_authority_is_left_as_it_is_when_damaged(authority: Authority, damaged: str, content: bytes, what: str) -> None:
    (authority.folder / "authority" / damaged).write_bytes(content)
    before = everything(authority.folder)
    for change in (lambda: authority.add(Node("h2", Role.home, "a1")), lambda: authority.revoke("h1")):
        with pytest.raises(AuthorityError, match=what) as told:
            change()
        assert "restore" in told.value.mend
    assert everything(authority.folder) == before


def test_authority_is_refused_when_its_key_is_of_another(authority: Authority, tmp_path: Path) -> None:
    other = Authority.init(tmp_path / "other")
    (other.folder / "authority" / "ca.key").replace(authority.folder / "authority" / "ca.key")
    with pytest.raises(AuthorityError, match=r"ca.key is not the key of ca.crt"):
        authority.revoke("h1")


@pytest.mark.parametrize("at", ["node.key", "node.crt", "crl.pem", "access.acl", "mosquitto.conf", "register.json"])
@pytest.mark.parametrize("change", ["add", "revoke"])
def test_interrupted_change_is_repaired_by_repeating_it(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, at: str, change: str
) -> None:
    """As after a power cut: whatever is not renamed into place yet is not there."""
    h2, replace = Node("h2", Role.home, "a1"), Path.replace

    def cut(self: Path, target: Path) -> Path:
        if Path(target).name == at:
            raise KeyboardInterrupt
        return replace(self, target)

    def do() -> None:
        return authority.add(h2) if change == "add" else authority.revoke("h1")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut)
        if change == "revoke" and at.startswith("node"):
            do()
            return  # it writes none
        with pytest.raises(KeyboardInterrupt):
            do()
    Register.model_validate_json((authority.folder / "authority" / "register.json").read_bytes())
    Rules.parse((authority.folder / "broker" / "access.acl").read_text())
    do()
    in_force = authority.register.in_force
    if change == "add":
        assert certificate(authority.place(h2) / "node.crt").serial_number == int(in_force["h2"].serial, 16)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(authority.place(h2) / "node.crt", authority.place(h2) / "node.key")
    else:
        assert "h1" not in in_force and len(revoked(authority)) == 1
    assert rules(authority).may_write("h2", "stackelgrid/r/a1/h2/answer") == (change == "add")
    assert not list(authority.folder.rglob("*.draft"))


def add_some(folder: Path, numbers: range) -> None:
    for number in numbers:
        Authority(folder).add(Node(f"h{number}", Role.home, "a1"))


def test_changes_by_two_processes_lose_nothing(authority: Authority) -> None:
    at_once = multiprocessing.get_context("spawn")
    halves = [range(10, 30), range(30, 50)]
    workers = [at_once.Process(target=add_some, args=(authority.folder, half)) for half in halves]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    expected = {f"h{number}" for number in range(10, 50)} | {"broker", "leader", "a1", "h1"}
    assert authority.register.in_force.keys() == expected
    assert set(rules(authority).write) == expected


def test_authority_reports_a_folder_that_cannot_be_written(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device", "node.key")

    monkeypatch.setattr(room.os, "fsync", full)
    with pytest.raises(AuthorityError, match=r"No space left on device \(node.key\): make room"):
        authority.add(Node("h2", Role.home, "a1"))
    assert "h2" not in authority.register.in_force


# The authority's own key.


def test_key_with_passphrase_signs_only_for_who_knows_it(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = authority.folder / "authority" / "ca.key"
    monkeypatch.setenv("STACKELGRID_CA_PASSPHRASE", "five words are not many")
    authority.protect()
    assert b"ENCRYPTED" in key.read_bytes() and stat.S_IMODE(key.stat().st_mode) == 0o600
    Authority(authority.folder).add(Node("h2", Role.home, "a1"))
    monkeypatch.delenv("STACKELGRID_CA_PASSPHRASE")
    before = everything(authority.folder)
    with pytest.raises(AuthorityError, match="nobody can be asked"):
        Authority(authority.folder).revoke("h2")
    for name, passphrase in (("right", "five words are not many\n"), ("wrong", "another passphrase")):
        (tmp_path / name).write_text(passphrase)
    monkeypatch.setenv("STACKELGRID_CA_PASSPHRASE_FILE", str(tmp_path / "wrong"))
    with pytest.raises(AuthorityError, match="not that of the key"):
        Authority(authority.folder).revoke("h2")
    monkeypatch.setenv("STACKELGRID_CA_PASSPHRASE_FILE", str(tmp_path / "missing"))
    with pytest.raises(AuthorityError, match=r"missing cannot be read"):
        Authority(authority.folder).revoke("h2")
    assert everything(authority.folder) == before
    monkeypatch.setenv("STACKELGRID_CA_PASSPHRASE_FILE", str(tmp_path / "right"))
    Authority(authority.folder).revoke("h2")
    assert authority.register.number > Register.model_validate_json(before["authority/register.json"]).number
    secret = b"five words"
    assert not [path for path, content in everything(authority.folder).items() if secret in content]


def test_passphrase_is_asked_for_and_never_shown(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["a good passphrase", "a good passphrase"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda question: next(answers))
    authority.protect()
    answers = iter(["short"])
    with pytest.raises(AuthorityError, match="5 characters"):
        authority.protect()
    answers = iter(["a better passphrase", "a bitter passphrase"])
    with pytest.raises(AuthorityError, match="differ"):
        authority.protect()
    answers = iter(["a good passphrase", "a better passphrase", "a better passphrase"])
    Authority(authority.folder).protect()
    answers = iter(["a better passphrase"])  # once, however many changes there are
    again = Authority(authority.folder)
    again.add(Node("h2", Role.home, "a1"))
    again.revoke("h2")
    assert "passphrase" not in "".join(capfd.readouterr())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_reads_a_key_with_passphrase(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKELGRID_CA_PASSPHRASE", "five words are not many")
    authority.protect()
    key = str(authority.folder / "authority" / "ca.key")
    words = ["openssl", "pkey", "-in", key, "-noout", "-passin"]
    assert subprocess.run([*words, "env:STACKELGRID_CA_PASSPHRASE"], check=False, capture_output=True).returncode == 0
    assert subprocess.run([*words, "pass:another"], check=False, capture_output=True).returncode != 0


def test_homes_have_the_lifetime_that_the_authority_gives_them(tmp_path: Path) -> None:
    authority = Authority.init(tmp_path / "certs", home_lifetime=timedelta(hours=12))
    authority.add(LEADER, A1, H1)
    lifetimes = {name: each.expires - each.added for name, each in authority.register.in_force.items()}
    assert abs(lifetimes["h1"] - timedelta(hours=12)) < timedelta(minutes=1)
    assert all(lifetime > timedelta(days=1800) for name, lifetime in lifetimes.items() if name != "h1")


def test_expired_certificates_leave_the_register_but_for_the_last_of_a_name(authority: Authority) -> None:
    register = authority.register
    old = now() - timedelta(days=100)
    aged = [each.model_copy(update={"expires": old}) if each.name == "h1" else each for each in register.certified]
    register = register.model_copy(update={"certified": tuple(aged)})
    assert "h1" in {each.name for each in register.enter().certified}
    (h1,) = (each for each in register.certified if each.name == "h1")
    renewed = register.enter(h1.model_copy(update={"serial": "f" * 8, "expires": now()}))
    assert [each.serial for each in renewed.certified if each.name == "h1"] == ["f" * 8]


def test_register_of_version_0_2_is_read_and_its_nodes_go_on(authority: Authority) -> None:
    path = authority.folder / "authority" / "register.json"
    keys = {"name", "role", "above", "serial", "added", "expires", "revoked"}
    told = json.loads(path.read_text())
    entries = [{key: value for key, value in entry.items() if key in keys} for entry in told["certified"]]
    path.write_text(json.dumps({"schema": 1, "hosts": told["hosts"], "certified": entries}))
    assert [home.name for home in authority.register.members["a1"]] == ["h1"]
    authority.add(Node("a2", Role.aggregator, "leader"))
    authority.move("h1", "a2")
    authority.rotate()
    with pytest.raises(AuthorityError, match="4 nodes have no certificate by the new key"):
        authority.finish_rotation()
    authority.reissue("leader", "a1", "a2", "h1")
    authority.finish_rotation()
    assert authority.register.in_force["h1"].above == "a2"


# Another key.


def verify(path: Path, ca: Path) -> bool:
    trusted = x509.load_pem_x509_certificates(ca.read_bytes())
    issued = certificate(path)
    for each in trusted:
        try:
            issued.verify_directly_issued_by(each)
        except Exception:
            continue
        return True
    return False


def test_both_keys_are_trusted_until_everybody_has_a_certificate_by_the_new_one(authority: Authority) -> None:
    ca, h1 = authority.folder / "broker" / "ca.crt", authority.place(H1)
    with pytest.raises(AuthorityError, match="no key is being replaced"):
        authority.finish_rotation()
    first = ca.read_bytes()
    authority.rotate()
    assert len(x509.load_pem_x509_certificates(ca.read_bytes())) == 2 and ca.read_bytes().endswith(first)
    assert verify(authority.folder / "broker" / "node.crt", h1 / "ca.crt")  # who has not heard of it trusts the broker
    with pytest.raises(AuthorityError, match="being replaced already"):
        authority.rotate()
    with pytest.raises(AuthorityError, match="3 nodes have no certificate by the new key: leader, a1, h1"):
        authority.finish_rotation()
    before = authority.register.in_force["h1"]
    authority.reissue("leader", "a1")
    authority.revoke("h1")
    authority.add(Node("h2", Role.home, "a1"))
    crls = (authority.folder / "broker" / "crl.pem").read_bytes().split(b"-----END X509 CRL-----\n")[:-1]
    lists = [x509.load_pem_x509_crl(crl + b"-----END X509 CRL-----\n") for crl in crls]
    assert len(lists) == 2 and all(int(before.serial, 16) in {each.serial_number for each in crl} for crl in lists)
    assert not verify(authority.place(A1) / "node.crt", h1 / "ca.crt") and verify(authority.place(A1) / "node.crt", ca)
    authority.finish_rotation()
    (only,) = x509.load_pem_x509_certificates(ca.read_bytes())
    assert only.public_bytes(serialization.Encoding.PEM) != first
    for path in (authority.folder / "broker" / "node.crt", authority.place(A1) / "node.crt"):
        assert verify(path, ca)
    assert verify(authority.folder / "broker" / "node.crt", authority.place(A1) / "ca.crt")
    assert not (authority.folder / "authority" / "previous").exists()
    authority.rotate()  # and again
    names = {each.subject.rfc4514_string() for each in x509.load_pem_x509_certificates(ca.read_bytes())}
    assert names == {"CN=Stackelgrid authority 2", "CN=Stackelgrid authority 3"}


@pytest.mark.parametrize("at", ["ca.crt", "ca.key", "access.acl", "register.json"])
@pytest.mark.parametrize("step", ["rotate", "finish_rotation"])
def test_interrupted_rotation_is_repaired_by_repeating_it(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, at: str, step: str
) -> None:
    replace, cuts = Path.replace, iter([True])

    def cut(self: Path, target: Path) -> Path:
        if Path(target).name == at and Path(target).parent.name != "previous" and next(cuts, False):
            raise KeyboardInterrupt
        return replace(self, target)

    if step == "finish_rotation":
        authority.rotate()
        authority.reissue("leader", "a1", "h1")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut)
        try:
            getattr(authority, step)()
        except KeyboardInterrupt:
            Authority(authority.folder).add(Node("h2", Role.home, "a1"))  # between the two it works
            with suppress(AuthorityError):  # it was begun
                getattr(Authority(authority.folder), step)()
    if step == "rotate":
        assert len(x509.load_pem_x509_certificates((authority.folder / "broker" / "ca.crt").read_bytes())) == 2
        authority.reissue(*(set(authority.register.in_force) - {"broker"}))
        authority.finish_rotation()
    ca = authority.folder / "broker" / "ca.crt"
    assert len(x509.load_pem_x509_certificates(ca.read_bytes())) == 1
    assert verify(authority.folder / "broker" / "node.crt", ca) and verify(authority.place(H1) / "node.crt", ca)


def test_certificate_is_renewed_in_its_folder_and_the_one_before_still_holds(authority: Authority) -> None:
    before, key = authority.register.in_force["a1"], (authority.place(A1) / "node.key").read_bytes()
    authority.reissue("a1")
    after = authority.register.in_force["a1"]
    assert after.serial != before.serial and (authority.place(A1) / "node.key").read_bytes() != key
    assert before in authority.register.certified and revoked(authority) == set()
    shutil.rmtree(authority.place(H1))  # as of a home that made its key
    for name, told in (("h9", "no 'h9' here"), ("broker", "one certificate at a time"), ("h1", "with 'h1' alone")):
        with pytest.raises(AuthorityError, match=told):
            authority.reissue(name)


@pytest.mark.skipif(not shutil.which("flock") or not shutil.which("tar"), reason="flock or tar is not installed")
def test_backup_of_the_folder_is_restored_elsewhere(authority: Authority, tmp_path: Path) -> None:
    folder, backup, elsewhere = authority.folder, str(tmp_path / "backup.tar"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    lock = str(folder / "authority" / ".lock")
    subprocess.run(["flock", lock, "tar", "-C", str(tmp_path), "-cf", backup, folder.name], check=True)
    subprocess.run(["tar", "-C", str(elsewhere), "-xpf", backup], check=True)
    before = everything(folder)
    shutil.rmtree(folder)
    restored = Authority(elsewhere / folder.name)
    assert everything(restored.folder) == before
    assert stat.S_IMODE((restored.folder / "authority" / "ca.key").stat().st_mode) == 0o600
    restored.revoke("h1")
    restored.add(H1)
    assert verify(restored.place(H1) / "node.crt", restored.place(A1) / "ca.crt")


# The command.


def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["stackelgrid", "certs", *words])
    code = cli.main()
    out, err = capfd.readouterr()
    return code, out, err


def test_certs_command_from_init_to_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (
        "init --host grid.example.org",
        "add leader --role leader",
        "add a1 --role aggregator --above leader",
        "add h1 --above a1",
        "add desk --role observer",
        "revoke h1 --reason moved",
        "add h1 --above a1",
        "add broker --role broker --host 192.0.2.7",
    ):
        code, out, err = command(monkeypatch, capfd, *words.split())
        assert code == 0 and out and not err
        assert "PRIVATE" not in out
    code, out, _ = command(monkeypatch, capfd, "list")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["broker", "broker", "leader", "a1", "h1", "h1", "desk"]
    assert ["revoked" in row for row in rows] == [True, False, False, False, True, False, False]
    assert f"by {getpass.getuser()}: moved" in out
    assert Authority(Path("certs")).register.hosts[-2:] == ("grid.example.org", "192.0.2.7")
    code, out, _ = command(monkeypatch, capfd, "add", "a2", "--role", "aggregator", "--above", "leader")
    code, out, _ = command(monkeypatch, capfd, "move", "h1", "a2")
    assert code == 0 and "h1 is below a2" in out
    code, out, _ = command(monkeypatch, capfd, "revoke", "a2")
    assert code == 0 and "until they are moved (stackelgrid certs move): h1" in out
    command(monkeypatch, capfd, "move", "h1", "a1")
    for words in ("renew a1", "rotate", "renew leader a1 h1 desk", "rotate --finish"):
        code, out, err = command(monkeypatch, capfd, *words.split())
        assert code == 0 and out and not err and "PRIVATE" not in out
    for words, told in (
        ("init", "there is one already"),
        ("add h1 --above a1", "has a certificate already"),
        ("add h2 --above a2", "no aggregator 'a2'"),
        ("add h2 --above a1 --host x", "to which no node connects"),
        ("revoke h7", "no 'h7' here"),
        ("list --dir elsewhere", "there is no authority"),
        ("init --dir new --lifetime 3", "30d or 12h"),
        ("init --dir new --lifetime 5d2", "30d or 12h"),
        ("renew h7", "no 'h7' here"),
        ("rotate --finish", "no key is being replaced"),
        ("passphrase", "nobody can be asked"),
        ("add h2 --role king", "king"),
    ):
        code, out, err = command(monkeypatch, capfd, *words.split())
        assert code == 2 and not out and told in err
        assert "Traceback" not in err


def test_register_is_plain_json(authority: Authority) -> None:
    text = (authority.folder / "authority" / "register.json").read_text()
    assert json.loads(text)["certified"][3]["above"] == "a1"
    assert "PRIVATE" not in text
    assert authority.register.in_force[BROKER.name].node == BROKER
