"""Addresses of brokers: what they name, and that no password is ever shown."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from stackelgrid.transport.address import PASSWORD_VARIABLE, Address, hide_password
from stackelgrid.transport.tls import make_context


@pytest.mark.parametrize(
    ("scheme", "port", "encrypted"),
    [("mqtt", 1883, False), ("mqtts", 8883, True), ("ws", 80, False), ("wss", 443, True)],
)
def test_port_is_that_of_the_scheme_where_none_is_given(scheme: str, port: int, encrypted: bool) -> None:
    address = Address.parse(f"{scheme}://broker.example,[::1]:1,other:2")
    assert address.servers == (("broker.example", port), ("::1", 1), ("other", 2))
    assert address.encrypted == encrypted
    assert address.path == ("/mqtt" if scheme.startswith("ws") else "")


def test_address_names_user_path_prefix_and_authority() -> None:
    address = Address.parse("wss://a%40b:p%2Fq:r@broker.example/broker?prefix=street/7&ca=/etc/own.crt")
    assert address.login == ("a@b", "p/q:r")
    assert (address.path, address.prefix, address.options["ca"]) == ("/broker", "street/7/", "/etc/own.crt")
    assert Address.parse(str(address)) == Address.parse(str(address).replace("wss://a%40b@", "wss://a%40b@"))
    assert str(address) == "wss://a%40b@broker.example:443/broker?prefix=street/7&ca=/etc/own.crt"


def test_password_comes_from_address_file_or_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "of the environment")
    (tmp_path / "password").write_text("of the file\n")
    assert Address.parse("mqtt://host").login is None
    assert Address.parse("mqtt://me@host").login == ("me", "of the environment")
    assert Address.parse(f"mqtt://me@host?password_file={tmp_path}/password").login == ("me", "of the file")
    assert Address.parse("mqtt://me:own@host").login == ("me", "own")
    with pytest.raises(ValueError, match=r"password_file: .*/none cannot be read \(No such file"):
        assert Address.parse(f"mqtt://me@host?password_file={tmp_path}/none").login
    monkeypatch.delenv(PASSWORD_VARIABLE)
    assert Address.parse("mqtt://me@host").login == ("me", None)


@pytest.mark.parametrize(
    "text",
    [
        "mqtt://me:se:cret@host:port",
        "mqtt://me:se/cret@host",
        "mqtt://me:se@cret@host/path",
        "https://me:secret@host",
        "mqtt://me:secret@host?prefix=a/%23",
        "mqtt://me:secret@host?colour=blue",
        "mqtt://me:secret@host?password_file=/nowhere/at/all",
    ],
)
def test_password_is_never_shown(text: str) -> None:
    assert "cret" not in hide_password(text)
    try:
        address = Address.parse(text)
    except ValueError as error:
        assert "cret" not in str(error) and "me" in str(error)
    else:
        assert "cret" not in f"{address} {address!r}"


def test_tls_socket_is_closed_when_its_handshake_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connection = make_context(None).wrap_socket(
            socket.create_connection(("127.0.0.1", port)), server_hostname="localhost", do_handshake_on_connect=False
        )
        far, _ = server.accept()
        with far:
            far.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(ssl.SSLError):
                connection.do_handshake()
    assert connection.fileno() == -1
