"""Brokers that do not do what a run needs: each is recognised within seconds and named in one line."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.listener import await_listener
from support.scripted_node import Scripted, finish

import broker
from broker.authority import Authority
from stackelgrid import runner, scenarios
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.address import PASSWORD_VARIABLE
from stackelgrid.transport.base import BrokerRefusalError, BrokerUnreachableError, Finish, Publish
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.transport.tls import Tls

# paho leaves the socket of a handshake that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <:ResourceWarning")

SMALL = {"population.homes": 2, "aggregators": 1}


@contextmanager
def mosquitto(folder: Path, *lines: str) -> Iterator[int]:
    """Mosquitto with a listener on a free port, configured by further lines; gives the port."""
    program, port = broker.find_mosquitto(), broker.free_port()
    if program is None:
        pytest.skip("Mosquitto is not installed")
    (folder / "mosquitto.conf").write_text("\n".join([f"listener {port} 127.0.0.1", *lines, "user root", ""]))
    with (
        (folder / "mosquitto.log").open("wb") as log,
        subprocess.Popen([program, "-c", str(folder / "mosquitto.conf")], stderr=log) as running,
    ):
        await_listener(port)
        try:
            yield port
        finally:
            running.terminate()


@contextmanager
def served(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does `serve` with each connection; gives its address as a broker's."""

    def accept(listening: socket.socket) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, args=(listening,), daemon=True).start()
        yield f"mqtt://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


RULES = {
    "retains nothing, and cuts off whoever wants it": (["allow_anonymous true", "retain_available false"], "retained"),
    "denies a publish, and acknowledges it": (["allow_anonymous true", "acl_file {rules}"], "does not arrive"),
}


@pytest.mark.parametrize("case", RULES)
def test_run_ends_when_the_broker(tmp_path: Path, case: str) -> None:
    lines, named = RULES[case]
    (tmp_path / "rules").write_text("topic read #\n")
    with (
        mosquitto(tmp_path, *[line.format(rules=tmp_path / "rules") for line in lines]) as port,
        pytest.raises(BrokerRefusalError, match=named) as refused,
    ):
        runner.run("user_oriented", SMALL, transport="mqtt", broker=f"mqtt://127.0.0.1:{port}", out=tmp_path / "run")
    assert f"127.0.0.1:{port}" in str(refused.value) and "stackelgrid/" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_node_is_lost_when_the_broker_ends_each_connection_that_publishes(tmp_path: Path) -> None:
    """However often it comes back: no connection lasts."""
    with mosquitto(tmp_path, "allow_anonymous true", "retain_available false") as port:
        node = Scripted("node", ["a"], start=lambda now: [Publish("b", b"x", 1, retain=True)])
        transport = MqttTransport(f"mqtt://127.0.0.1:{port}", connect_timeout_s=30, reconnect_s=0.5)
        with pytest.raises(BrokerRefusalError, match=r"closed the connection .* last published: b, to be retained"):
            transport.run([node])


def test_node_is_lost_when_the_broker_never_acknowledges_its_last_message() -> None:
    def swallow(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(broker.CONNACK)
        while connection.recv(1000):
            pass

    with served(swallow) as url:
        node = Scripted("node", start=lambda now: [Publish("a/b", b"x", qos=1), Finish()])
        with pytest.raises(BrokerRefusalError, match="has not acknowledged a/b"):
            MqttTransport(url, connect_timeout_s=30, reconnect_s=0.5).run([node])


# Another protocol than the address says.


def connect(url: str, tls: Tls | None = None) -> str:
    """Try to connect for a short time; gives the cause of the failure."""
    with pytest.raises(BrokerUnreachableError) as caught:
        MqttTransport(url, tls=tls, connect_timeout_s=0.5).run([Scripted("node", start=finish)])
    assert "\n" not in str(caught.value)
    return caught.value.cause


@pytest.mark.parametrize(
    "answer", [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00", b"\x20\x0b\x00\x84\x08\x21\x00\x14" * 2]
)
def test_broker_for_mqtt_5_alone_is_recognised(answer: bytes) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(answer)
        connection.recv(1000)

    with served(refuse) as url:
        assert "it does not speak MQTT 3.1.1" in connect(url)


def test_tls_spoken_to_in_the_clear_is_recognised(tls_url: tuple[str, Tls]) -> None:
    url, _ = tls_url
    assert connect(url.replace("mqtts", "mqtt")) == f"it speaks TLS there: write {url}"


def test_clear_port_spoken_to_over_tls_is_recognised(mosquitto_url: str) -> None:
    assert connect(mosquitto_url.replace("mqtt", "mqtts")) == f"it does not speak TLS there: write {mosquitto_url}"


def test_broker_without_websockets_is_recognised(mosquitto_url: str) -> None:
    url = mosquitto_url.replace("mqtt", "ws")
    assert connect(url) == f"it speaks MQTT without WebSockets there: write {mosquitto_url}"


@pytest.mark.parametrize(
    ("scheme", "named"), [("mqtt", "a web server answers there"), ("ws", "no WebSocket with MQTT at /mqtt")]
)
def test_web_server_is_recognised(scheme: str, named: str) -> None:
    class Page(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            assert named in connect(f"{scheme}://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            serving.join()


# Certificates.


def test_broker_that_asks_for_certificates_is_recognised(tls_url: tuple[str, Tls]) -> None:
    url, tls = tls_url
    assert "it may want a certificate of each client" in connect(f"{url}?ca={tls.ca}")


def test_authority_that_is_not_trusted_is_named(tls_url: tuple[str, Tls]) -> None:
    assert "the broker's certificate is not trusted" in connect(tls_url[0])


def make_dated(folder: Path, authority: Path, since: timedelta, until: timedelta) -> None:
    """A certificate of the authority for 127.0.0.1 that holds between these times from now, and its key."""
    ca = x509.load_pem_x509_certificate((authority / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((authority / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "home broker")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since)
        .not_valid_after(now + until)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "node.key").write_bytes(private)
    (folder / "node.crt").write_bytes(certificate.public_bytes(pem))


DAY = timedelta(days=1)
DATED = {"expired": (-9 * DAY, -DAY, "renew it"), "not yet valid": (DAY, 9 * DAY, "set the clock")}


@pytest.mark.parametrize("when", DATED)
def test_broker_certificate_out_of_date_is_named_with_date_and_clock(tmp_path: Path, when: str) -> None:
    since, until, mend = DATED[when]
    authority = Authority.init(tmp_path / "certs").folder / "authority"
    make_dated(tmp_path, authority, since, until)
    files = [f"certfile {tmp_path}/node.crt", f"keyfile {tmp_path}/node.key", "allow_anonymous true"]
    with mosquitto(tmp_path, *files) as port:
        cause = connect(f"mqtts://127.0.0.1:{port}?ca={authority}/ca.crt")
    now = datetime.now(UTC)
    assert f"the broker's certificate holds from {now + since:%Y-%m-%d}" in cause
    assert f"clock says {now:%Y-%m-%d}" in cause and mend in cause


@pytest.mark.parametrize("when", DATED)
def test_certificate_of_ones_own_out_of_date_is_named(tls_url: tuple[str, Tls], tmp_path: Path, when: str) -> None:
    since, until, mend = DATED[when]
    authority = tls_url[1].ca.parents[2] / "authority"
    make_dated(tmp_path, authority, since, until)
    own = Tls(ca=authority / "ca.crt", certificate=tmp_path / "node.crt", key=tmp_path / "node.key")
    cause = connect(tls_url[0], own)
    assert f"{own.certificate} holds from {datetime.now(UTC) + since:%Y-%m-%d}" in cause and mend in cause


def test_init_refuses_and_start_names_a_certificate_out_of_date(tmp_path: Path) -> None:
    """A node goes on, since a machine without a clock of its own may soon be told the time."""
    authority, given = Authority.init(tmp_path / "certs").folder / "authority", tmp_path / "given"
    given.mkdir()
    make_dated(given, authority, -9 * DAY, -DAY)
    shutil.copy(authority / "ca.crt", given)
    scenario = scenarios.load("user_oriented", ["population.homes=1", "aggregators=1"])
    home = build_node_configs(scenario, "demo", f"mqtts://127.0.0.1:{broker.free_port()}").homes[0]
    tls = Tls(ca=Path("ca.crt"), certificate=Path("node.crt"), key=Path("node.key"))
    config = home.model_copy(update={"tls": tls, "schedule_file": None})
    (given / "config.json").write_text(config.model_dump_json(exclude_none=True))
    program = [sys.executable, "-m", "emc_node"]
    words = [*program, "init", "--from", str(given), "--to", str(tmp_path / "to")]
    refused = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and not (tmp_path / "to").exists()
    named = f"node.crt holds from {datetime.now(UTC) - 9 * DAY:%Y-%m-%d}"
    assert named in refused.stderr and "clock says" in refused.stderr
    words = [*program, "--config", str(given / "config.json")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        said = ""
        while named not in said:
            line = started.stderr.readline()
            assert line, said
            said += line
        assert "certificate out of date" in said and started.poll() is None
        started.terminate()
        started.communicate()


# A home's own broker.


def test_run_is_carried_by_a_broker_with_users_tls_and_other_topics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As Home Assistant has one: its own certificate, a user, rules of its own. The password is shown nowhere."""
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("Mosquitto is not installed")
    authority = Authority.init(tmp_path / "certs").folder / "authority"
    make_dated(tmp_path, authority, -DAY, DAY)
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(tmp_path / "users"), "me", "pass/word"], check=True)
    (tmp_path / "rules").write_text("user me\ntopic readwrite energy/#\n")
    lines = [f"certfile {tmp_path}/node.crt", f"keyfile {tmp_path}/node.key", "allow_anonymous false"]
    lines += [f"password_file {tmp_path}/users", f"acl_file {tmp_path}/rules"]
    # IPv4 alone, else Mosquitto 2.0.11 listens everywhere; it does not start without a listener of another kind.
    lines += ["protocol websockets", "socket_domain ipv4", f"listener {broker.free_port()} 127.0.0.1"]
    with mosquitto(tmp_path, *lines) as port:
        options = f"127.0.0.1:{port}?prefix=energy&ca={authority}/ca.crt"
        ended = runner.run(
            "user_oriented", SMALL, transport="mqtt", broker=f"wss://me:pass%2Fword@{options}", out=tmp_path / "run"
        )
        assert ended.settled and ended.complete
        with pytest.raises(BrokerUnreachableError, match="give a user and password that it knows"):
            runner.run(
                "user_oriented", SMALL, transport="mqtt", broker=f"wss://me:wrong@{options}", out=tmp_path / "no"
            )
        other = options.replace("prefix=energy", "prefix=other")
        with pytest.raises(BrokerRefusalError, match="its access rules"):
            monkeypatch.setenv(PASSWORD_VARIABLE, "pass/word")
            runner.run("user_oriented", SMALL, transport="mqtt", broker=f"wss://me@{other}", out=tmp_path / "not")
    assert ended.result.broker == f"wss://me@{options}"
    shown = "".join(capfd.readouterr()) + "".join(
        path.read_text(errors="replace") for path in (tmp_path / "run").rglob("*") if path.is_file()
    )
    assert "pass/word" not in shown and "pass%2Fword" not in shown
