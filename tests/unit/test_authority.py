"""The certificate authority: what it signs, what it refuses, that nothing of it is lost, half-written or told."""

from __future__ import annotations

import ipaddress
import json
import multiprocessing
import os
import shutil
import ssl
import stat
import subprocess
import sys
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
from broker.register import Register
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
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "broker", "grid.example.org", "pi.local"]
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
        "revoke h1",
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
    assert Authority(Path("certs")).register.hosts[-2:] == ("grid.example.org", "192.0.2.7")
    for words, told in (
        ("init", "there is one already"),
        ("add h1 --above a1", "has a certificate already"),
        ("add h2 --above a2", "no aggregator 'a2'"),
        ("add h2 --above a1 --host x", "to which no node connects"),
        ("revoke h7", "no 'h7' here"),
        ("list --dir elsewhere", "there is no authority"),
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
