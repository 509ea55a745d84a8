"""Find out why a broker does not answer: another protocol, another scheme, a certificate. Each answer is one line."""

from __future__ import annotations

import socket
import ssl
import tempfile
from pathlib import Path
from typing import NamedTuple

from stackelgrid.transport.address import Address
from stackelgrid.transport.tls import Tls, find_out_of_date

PROBE_S = 2.0
"""The time that each probe takes at most."""
_CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
"""An MQTT 3.1.1 CONNECT: clean session, no client id."""
_GET = b"GET / HTTP/1.0\r\n\r\n"
_REFUSALS = {
    "Unsupported protocol version": "it does not speak MQTT 3.1.1; allow that version there, it may speak MQTT 5 alone",
    "Bad user name or password": "give another user or password",
    "Not authorized": "give a user and password that it knows (mqtt://USER@HOST), or allow this node there",
}


class Diagnosis(NamedTuple):
    """Why there is no connection, in a line; `refused` where the broker does not accept who asks for one."""

    cause: str
    refused: bool = False


def explain_refusal(reason: str) -> str:
    """Explain the broker's own word for why it does not accept a connection."""
    mend = _REFUSALS.get(reason)
    return f"the broker refused the connection: {reason}" + (f"; {mend}" if mend else "")


def diagnose(
    address: Address, server: tuple[str, int], error: OSError, context: ssl.SSLContext | None, tls: Tls | None
) -> Diagnosis:
    """Explain why a connection to `server` failed with `error`, looking at what the server answers to other questions.

    `context` and `tls` are what the connection was made with. Takes some seconds.
    """
    if isinstance(error, ConnectionRefusedError | socket.gaierror):
        return Diagnosis(str(error))
    if tls is not None and (problem := tls.find_out_of_date()) is not None:
        return Diagnosis(problem, refused=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        return Diagnosis(_explain_certificate(server, error))
    return _look(server, address, context, tls) or Diagnosis(str(error))


def find_objection(address: Address, tls: Tls) -> str | None:
    """Find what the broker at `address` has against a node's certificate; None where that is nothing or not known.

    No MQTT is spoken, so that a connection under the same name stays. Takes some seconds.
    """
    try:
        _ask(address.servers[0], b"", tls.context(), strict=True)
    except ssl.SSLError as error:
        return _read_alert(error)
    return None


def _read_alert(error: ssl.SSLError) -> str:
    return (error.reason or "").lower().replace("_", " ").split("alert ")[-1]


def _explain_certificate(server: tuple[str, int], error: ssl.SSLCertVerificationError) -> str:
    """Explain why the broker's certificate is not accepted."""
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder) / "broker.crt"
        try:
            shown.write_text(ssl.get_server_certificate(server, timeout=PROBE_S))
            problem = find_out_of_date(shown, "the broker's certificate")
        except (OSError, ValueError):
            problem = None
    if problem is not None:
        return problem
    why = error.verify_message.rstrip(".")
    if "mismatch" in why.lower():
        return f"{why}: give the name that its certificate has, or a certificate for this one to the broker"
    return f"the broker's certificate is not trusted ({why}): name its authority's file, ?ca=FILE, tls.ca, or --ca"


def _look(
    server: tuple[str, int], address: Address, context: ssl.SSLContext | None, tls: Tls | None
) -> Diagnosis | None:
    """Look at what the server answers; None when that explains nothing."""
    clear = _ask(server, _CONNECT, None)
    if not address.encrypted:
        if clear.startswith(b"\x15\x03") or (not clear and _speaks_tls(server)):
            return Diagnosis(f"it speaks TLS there: write {_swap(address)}")
        return _explain_answer(clear or _ask(server, _GET, None), address)
    if clear.startswith(b"\x20"):
        return Diagnosis(f"it does not speak TLS there: write {_swap(address)}")
    if not _speaks_tls(server):
        return _explain_answer(clear or _ask(server, _GET, None), address)
    try:
        _ask(server, b"", context, strict=True)  # what is sent may have the connection reset before an alert is read
        answer = _ask(server, _CONNECT, context, strict=True)
        alert = ""
    except ssl.SSLError as error:
        answer, alert = b"", _read_alert(error)
    found = _explain_answer(answer or _ask(server, _GET, context), address)
    return found or (None if answer else Diagnosis(_explain_end(alert, tls), refused=bool(alert)))


def _explain_answer(answer: bytes, address: Address) -> Diagnosis | None:
    if answer.startswith(b"HTTP/") and not address.over_websockets:
        found = "a web server answers there, no MQTT broker; give the broker's port, or ws:// and wss:// for WebSockets"
    elif answer.startswith(b"HTTP/"):
        found = f"it serves no WebSocket with MQTT at {address.path}; give the path, {address.scheme}://HOST:PORT/PATH"
    elif answer.startswith(b"\x20") and (answer[1:2] != b"\x02" or answer[3:4] == b"\x01"):
        found = explain_refusal("Unsupported protocol version")
    elif answer.startswith(b"\x20") and address.over_websockets:
        found = f"it speaks MQTT without WebSockets there: write {str(address).replace('ws', 'mqtt', 1)}"
    else:
        return None
    return Diagnosis(found)


def _explain_end(alert: str, tls: Tls | None) -> str:
    """Explain why the broker ends a connection after the handshake, with an alert or without."""
    said = f"it ends the connection after the handshake{f' ({alert})' if alert else ''}"
    if tls is None:
        return (
            f"{said}; it may want a certificate of each client: give tls, with ca, certificate and key, or run --certs"
            "; a home without one enrols at the port for enrolment, usually 8884"
        )
    return f"{said}; it may not accept {tls.certificate}: take one of the broker's own authority that is not revoked"


def _swap(address: Address) -> str:
    """Write the address with TLS in place of without, or the other way round."""
    other = address.scheme[:-1] if address.encrypted else f"{address.scheme}s"
    return str(Address(other, address.servers, address.user, None, address.path, address.options))


def _ask(server: tuple[str, int], question: bytes, context: ssl.SSLContext | None, *, strict: bool = False) -> bytes:
    """Send `question`; returns the first bytes of the answer, none when there is none."""
    try:
        with socket.create_connection(server, timeout=PROBE_S) as plain:
            connection = plain if context is None else context.wrap_socket(plain, server_hostname=server[0])
            with connection:
                connection.sendall(question)
                return connection.recv(16)
    except OSError as error:
        if strict and isinstance(error, ssl.SSLError):
            raise
        return b""


def _speaks_tls(server: tuple[str, int]) -> bool:
    """Tell whether the server answers a TLS handshake, if only by an alert."""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(server, timeout=PROBE_S) as connection, anyone.wrap_socket(connection):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
