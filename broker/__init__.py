"""Brokers that run as processes of our own: Mosquitto where it is installed, else the embedded one.

Without certificates either serves this machine alone and admits everybody on it. With certificates (`broker.authority`)
Mosquitto admits, from elsewhere too, the nodes that have one; `broker.access` says what each of them may do.

Both are started the same way: by a Python process (`broker.mosquitto`, which runs Mosquitto, or `broker.embedded`) that
ends when its standard input does. So no broker outlives the process that started it, even if that was killed. It prints
the broker's process id once the broker listens.
"""

from __future__ import annotations

import importlib.util
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType

from broker.child_process import end

MOSQUITTO_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
"""Folders where packages install Mosquitto; they are not on every user's PATH."""
LOOPBACK = "127.0.0.1"
ANYWHERE = {"0.0.0.0": LOOPBACK, "::": "::1"}
"""Every interface of the machine, and the address of a broker there from the machine itself: `::` is IPv6 alone."""
LOG, REFUSALS = "broker.log", "refusals.json"
RETAINED = "mosquitto.db"
"""The file in its folder to which a persistent Mosquitto writes what is retained."""
START_S = 20.0
"""The time that a broker may take to listen and answer."""
PORT_ATTEMPTS = 5
"""The number of ports to try when another program takes the chosen one before the broker does."""
KILLED = 128
"""Added to the number of a signal that ended the broker, in the exit code of the process that started it."""
CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
"""An MQTT 3.1.1 CONNECT: clean session, keep-alive 60 s, no client id."""
CONNACK, DISCONNECT = b"\x20\x02\x00\x00", b"\xe0\x00"


class BrokerKind(StrEnum):
    """A broker that we run ourselves; `AUTO` is Mosquitto if it is found, else the embedded one."""

    AUTO = "auto"
    MOSQUITTO = "mosquitto"
    EMBEDDED = "embedded"

    @classmethod
    def of(cls, text: str) -> BrokerKind | None:
        """Give the kind of that name, None when there is none: the text may be a broker's address."""
        return next((kind for kind in cls if kind == text), None)


class BrokerStartError(Exception):
    """A broker could not be started. Attributes: `what` went wrong, `where`, and the `mend`."""

    def __init__(self, what: str, where: str, mend: str) -> None:
        super().__init__(f"{what} ({where}): {mend}")
        self.what = what
        self.where = where
        self.mend = mend


@dataclass(frozen=True)
class Place:
    """The address where a broker listens, the folder where it writes, and its certificates if it is to ask for them."""

    port: int
    folder: Path
    host: str = LOOPBACK
    certificates: Path | None = None

    @property
    def log(self) -> Path:
        """The file that it logs to."""
        return self.folder / LOG

    @property
    def address(self) -> str:
        """Its host, as this machine reaches it."""
        return ANYWHERE.get(self.host, self.host)

    @property
    def url(self) -> str:
        """The same with scheme and port, as nodes take it."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'mqtt' if self.certificates is None else 'mqtts'}://{host}:{self.port}"


class RunningBroker:
    """A broker that listens; a context manager that stops it.

    Attributes: `kind` (`MOSQUITTO` or `EMBEDDED`), `port` and `address`, by which this machine reaches it, `url`
    (`mqtt://127.0.0.1:PORT`, with certificates `mqtts://...`), `pid` of the broker itself, `log`, the file it writes
    to, `refusals`, the file in which one with certificates counts what it refused to whom (None without), and
    `persistent`: what it retains outlives `kill`.
    """

    def __init__(
        self, kind: BrokerKind, place: Place, pid: int, process: subprocess.Popen[bytes], persistent: bool
    ) -> None:
        self.kind = kind
        self.port = place.port
        self.address = place.address
        self.url = place.url
        self.pid = pid
        self.log = place.log
        self.refusals = None if place.certificates is None else place.folder / REFUSALS
        self.persistent = persistent
        self._place = place
        self._process = process

    def wait(self) -> None:
        """Wait until the broker has ended by itself, or by somebody else's hand."""
        self._process.wait()

    def find_end(self) -> str | None:
        """Find how the broker ended, and the last that it logged; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        number = -code if code < 0 else code - KILLED
        how = f"was killed by signal {number}" if number > 0 else f"ended with code {code}"
        return f"the {self.kind} broker at {self.url} {how}; it logged last: {_read_end(self.log)}"

    def stop(self) -> None:
        """End the broker and wait until it is gone; harmless when it is gone already."""
        end(self._process)

    def kill(self) -> None:
        """End the broker as a power cut would, without disconnecting its clients. `restart` starts it again."""
        os.kill(self.pid, signal.SIGKILL)
        end(self._process)

    def restart(self, *, keep_retained: bool) -> None:
        """Listen on the same port again after `kill`, with what was retained or without.

        Raises `BrokerStartError`, among others when somebody has taken the port, `ValueError` when a broker that is
        not `persistent` is to keep what it retained.
        """
        if keep_retained and not self.persistent:
            raise ValueError("the broker was not started persistent: it has kept nothing")
        if not keep_retained:
            (self.log.parent / RETAINED).unlink(missing_ok=True)
        again = _launch(self.kind, self._place, self.persistent, afresh=False)
        if again is None:
            raise _port_error(self._place)
        self.pid, self._process = again.pid, again._process

    def __enter__(self) -> RunningBroker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(
    kind: BrokerKind,
    folder: Path,
    port: int | None = None,
    *,
    persistent: bool = False,
    certificates: Path | None = None,
    host: str = LOOPBACK,
) -> RunningBroker:
    """Start a broker and return once it answers MQTT.

    `folder` receives its log and configuration; `port` is a free one unless given. The broker is in a session of its
    own, out of reach of the terminal's Ctrl-C. A `persistent` one writes what it retains to its folder: at once, or
    every ten seconds with certificates.

    With `certificates`, an authority's folder `broker`, it is Mosquitto with mutual TLS and access rules, which follows
    every change that the authority makes there; such a one may listen on another `host`, 0.0.0.0 being every
    interface. Raises `BrokerStartError`.
    """
    folder = folder.resolve()
    wants_mosquitto = kind == BrokerKind.AUTO and certificates is not None
    chosen_kind = _choose_installed(BrokerKind.MOSQUITTO if wants_mosquitto else kind)
    if certificates is not None and chosen_kind == BrokerKind.EMBEDDED:
        raise BrokerStartError(
            "the embedded broker has no encryption and no access rules", "certificates", "take Mosquitto"
        )
    if persistent and chosen_kind == BrokerKind.EMBEDDED:
        raise BrokerStartError(
            "the embedded broker keeps nothing over a restart", "persistent", "take Mosquitto, or do without"
        )
    if certificates is not None:
        certificates = certificates.resolve()
        require_certificates(certificates)
    elif host != LOOPBACK:
        raise BrokerStartError(
            "a broker without certificates admits everybody, so it listens on this machine's loopback interface only",
            f"host {host}",
            "make certificates (stackelgrid certs init) and start it with them, or do without a host",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(PORT_ATTEMPTS if port is None else 1):
        place = Place(free_port() if port is None else port, folder, host, certificates)
        running = _launch(chosen_kind, place, persistent)
        if running is not None:
            return running
    raise _port_error(place)


def require_certificates(folder: Path) -> None:
    """Raise `BrokerStartError` unless `folder` is one that an authority wrote for a broker, and readable."""
    try:
        for name in ("node.crt", "node.key", "access.acl"):
            (folder / name).read_bytes()
    except PermissionError as error:
        mend = "start the broker as the user who made it, or give that user's folder to this one"
        raise BrokerStartError("the broker's certificate may not be read", str(error.filename), mend) from None
    except OSError:
        mend = "name the folder of stackelgrid certs init or provision, or its folder broker"
        raise BrokerStartError("there is no broker's certificate", str(folder), mend) from None


def _port_error(place: Place) -> BrokerStartError:
    return BrokerStartError(
        f"the port {place.port} is taken", place.host, "choose another port, or stop what listens there"
    )


def find_mosquitto() -> str | None:
    """Find the path of the Mosquitto program, or None."""
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), *MOSQUITTO_FOLDERS]
    return shutil.which("mosquitto", path=os.pathsep.join(folders))


def _choose_installed(kind: BrokerKind) -> BrokerKind:
    """Choose the broker for `AUTO`. Raises `BrokerStartError` when the one asked for is not installed."""
    if kind == BrokerKind.MOSQUITTO and find_mosquitto() is None:
        raise BrokerStartError(
            "Mosquitto is not installed",
            "looked on PATH and in " + ", ".join(MOSQUITTO_FOLDERS),
            'install it (Debian, Ubuntu: "apt install mosquitto") or ask for the embedded broker',
        )
    if kind == BrokerKind.AUTO:
        kind = BrokerKind.MOSQUITTO if find_mosquitto() else BrokerKind.EMBEDDED
    if kind == BrokerKind.EMBEDDED and importlib.util.find_spec("amqtt") is None:
        raise BrokerStartError(
            "the embedded broker needs the package amqtt",
            f"not found by {sys.executable}",
            'install it (pip install "stackelgrid[broker]") or install Mosquitto',
        )
    return kind


def free_port() -> int:
    """Find a port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _launch(kind: BrokerKind, place: Place, persistent: bool, afresh: bool = True) -> RunningBroker | None:
    """Start one broker and wait until it answers; None when the port is taken."""
    options = []
    if kind == BrokerKind.MOSQUITTO:
        options = ["--folder", str(place.folder), *(["--persistent"] if persistent else [])]
    return launch(kind, kind, place, options, persistent=persistent, afresh=afresh)


def launch(
    module: str,
    kind: BrokerKind,
    place: Place,
    options: Sequence[str],
    *,
    persistent: bool = False,
    afresh: bool = True,
) -> RunningBroker | None:
    """Start `python -m broker.MODULE` and wait until it answers; None when the port is taken.

    Its log begins `afresh` or goes on.
    """
    words = ["--port", str(place.port), *options]
    if place.certificates is not None:
        words += ["--certificates", str(place.certificates), "--host", place.host]
    with place.log.open("wb" if afresh else "ab") as errors:
        before = errors.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", f"broker.{module}", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=Path(__file__).parents[1],  # where `-m broker` finds this package, installed or not
            start_new_session=True,
        )
    pid = _read_pid(process)
    if pid is not None and answers(place.port, place.address, place.certificates, process):
        return RunningBroker(kind, place, pid, process, persistent)
    end(process)
    logged = place.log.read_bytes()[before:].decode(errors="replace").strip()
    if "address already in use" in logged.lower():
        return None
    raise BrokerStartError(
        f"the {kind} broker " + ("did not start" if pid is None else "does not answer MQTT"),
        f"{place.host}:{place.port}",
        f"it logged last: {_read_end(place.log)}",
    )


def _read_pid(process: subprocess.Popen[bytes]) -> int | None:
    """Read the process id that the broker prints once it listens; None when it ends or takes too long."""
    assert process.stdout is not None
    with process.stdout:
        printed, _, _ = select.select([process.stdout], [], [], START_S)
        line = process.stdout.readline() if printed else b""
    return int(line) if line else None


def _read_end(log: Path) -> str:
    """Read the last three lines of a log, as one."""
    lines = log.read_bytes().decode(errors="replace").split("\n")
    return " | ".join([line.strip()[:200] for line in lines if line.strip()][-3:]) or "nothing"


def answers(
    port: int,
    host: str = LOOPBACK,
    certificates: Path | None = None,
    process: subprocess.Popen[bytes] | None = None,
) -> bool:
    """Say whether an MQTT broker accepts a connection on the port.

    `certificates` are its own folder of certificates, where it asks for one. When its `process` ends, it does not.
    """
    context = None if certificates is None else make_context(certificates)
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up and (process is None or process.poll() is None):
        try:
            with _connect(host, port, context) as connection:
                connection.sendall(CONNECT)
                answer = connection.recv(len(CONNACK))
                connection.sendall(DISCONNECT)
                return answer == CONNACK
        except OSError:
            time.sleep(0.05)
    return False


def _connect(host: str, port: int, context: ssl.SSLContext | None) -> socket.socket:
    plain = socket.create_connection((host, port), timeout=1)
    return plain if context is None else context.wrap_socket(plain, server_hostname="localhost")


def make_context(certificates: Path) -> ssl.SSLContext:
    """Make a context for a connection to the broker, with its own certificate in the folder `certificates`."""
    context = ssl.create_default_context(cafile=certificates / "ca.crt")
    context.load_cert_chain(certificates / "node.crt", certificates / "node.key")
    return context
