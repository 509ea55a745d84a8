"""Brokers run as our own processes: Mosquitto where it is installed, else the embedded one.

Both are started the same way: a Python process of ours (`broker.mosquitto`, which runs Mosquitto, or
`broker.embedded`) that ends when its standard input does, so no broker outlives whoever started it, however
that ended. It prints the broker's process id once the broker listens.
"""

from __future__ import annotations

import importlib.util
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Literal

MOSQUITTO_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
"""Where packages put Mosquitto, which is not on every user's PATH."""
LOG = "broker.log"
RETAINED = "mosquitto.db"
"""Where a persistent Mosquitto keeps what is retained, in its folder."""
START_S = 20.0
"""How long a broker may take to listen and answer."""
PORT_ATTEMPTS = 5
"""How often to choose another port when somebody takes the chosen one before the broker does."""
CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
"""An MQTT 3.1.1 CONNECT: clean session, keep-alive 60 s, no client id."""
CONNACK, DISCONNECT = b"\x20\x02\x00\x00", b"\xe0\x00"

Kind = Literal["auto", "mosquitto", "embedded"]


class BrokerStartError(Exception):
    """A broker could not be started. Attributes: `what` went wrong, `where`, and the `mend`."""

    def __init__(self, what: str, where: str, mend: str) -> None:
        super().__init__(f"{what} ({where}): {mend}")
        self.what = what
        self.where = where
        self.mend = mend


class RunningBroker:
    """A broker on the loopback interface; a context manager that stops it.

    Attributes: `kind` ("mosquitto" or "embedded"), `port`, `url` (`mqtt://127.0.0.1:PORT`), `pid` of the broker
    itself, `log`, the file it writes to, and `persistent`, whether what it retains outlives `kill`.
    """

    def __init__(
        self, kind: str, port: int, pid: int, log: Path, process: subprocess.Popen[bytes], persistent: bool
    ) -> None:
        self.kind = kind
        self.port = port
        self.url = f"mqtt://127.0.0.1:{port}"
        self.pid = pid
        self.log = log
        self.persistent = persistent
        self._process = process

    def stop(self) -> None:
        """End the broker and wait until it is gone; harmless when it is gone already."""
        _end(self._process)

    def kill(self) -> None:
        """As a power cut would: no farewell to its clients. `restart` brings it back."""
        os.kill(self.pid, signal.SIGKILL)
        _end(self._process)

    def restart(self, *, keep_retained: bool) -> None:
        """After `kill`: listen on the same port again, with what was retained or without.

        Raises `BrokerStartError`, among others when somebody has taken the port, `ValueError` when a broker that is
        not `persistent` is to keep what it retained.
        """
        if keep_retained and not self.persistent:
            raise ValueError("the broker was not started persistent: it has kept nothing")
        if not keep_retained:
            (self.log.parent / RETAINED).unlink(missing_ok=True)
        again = _launch(self.kind, self.log.parent, self.port, self.persistent, afresh=False)
        if again is None:
            raise _taken(self.port)
        self.pid, self._process = again.pid, again._process

    def __enter__(self) -> RunningBroker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(kind: Kind, folder: Path, port: int | None = None, *, persistent: bool = False) -> RunningBroker:
    """Start a broker that listens on 127.0.0.1 and return once it answers MQTT.

    `auto` is Mosquitto if it is found, else the embedded broker. `folder` receives its log and configuration;
    `port` is a free one unless given. The broker is in a session of its own, out of reach of the terminal's
    Ctrl-C. A `persistent` one writes what it retains to its folder at once. Raises `BrokerStartError`.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen_kind = _available(kind)
    if persistent and chosen_kind == "embedded":
        raise BrokerStartError(
            "the embedded broker keeps nothing over a restart", "persistent", "take Mosquitto, or do without"
        )
    for _ in range(PORT_ATTEMPTS if port is None else 1):
        chosen_port = free_port() if port is None else port
        running = _launch(chosen_kind, folder, chosen_port, persistent)
        if running is not None:
            return running
    raise _taken(chosen_port)


def _taken(port: int) -> BrokerStartError:
    return BrokerStartError(f"the port {port} is taken", "127.0.0.1", "choose another port, or stop what listens there")


def find_mosquitto() -> str | None:
    """The path of the Mosquitto program, or None."""
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), *MOSQUITTO_FOLDERS]
    return shutil.which("mosquitto", path=os.pathsep.join(folders))


def _available(kind: Kind) -> Literal["mosquitto", "embedded"]:
    if kind == "mosquitto" and find_mosquitto() is None:
        raise BrokerStartError(
            "Mosquitto is not installed",
            "looked on PATH and in " + ", ".join(MOSQUITTO_FOLDERS),
            'install it (Debian, Ubuntu: "apt install mosquitto") or ask for the embedded broker',
        )
    if kind == "auto":
        kind = "mosquitto" if find_mosquitto() else "embedded"
    if kind == "embedded" and importlib.util.find_spec("amqtt") is None:
        raise BrokerStartError(
            "the embedded broker needs the package amqtt",
            f"not found by {sys.executable}",
            'install it (pip install "stackelgrid[broker]") or install Mosquitto',
        )
    return kind


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _launch(kind: str, folder: Path, port: int, persistent: bool, afresh: bool = True) -> RunningBroker | None:
    """Start one broker and wait until it answers; None when the port is taken. Its log begins `afresh` or goes on."""
    log = folder / LOG
    files = ["--folder", str(folder), *(["--persistent"] if persistent else [])] if kind == "mosquitto" else []
    with log.open("wb" if afresh else "ab") as errors:
        before = errors.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", f"broker.{kind}", "--port", str(port), *files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=Path(__file__).parents[1],  # where `-m broker` finds this package, installed or not
            start_new_session=True,
        )
    pid = _announced_pid(process)
    if pid is not None and answers(port):
        return RunningBroker(kind, port, pid, log, process, persistent)
    _end(process)
    said = log.read_bytes()[before:].decode(errors="replace").strip()
    if "address already in use" in said.lower():
        return None
    raise BrokerStartError(
        f"the {kind} broker " + ("did not start" if pid is None else "does not answer MQTT"),
        f"127.0.0.1:{port}",
        f"see the end of its log {log}: {said[-500:] or '(empty)'}",
    )


def _announced_pid(process: subprocess.Popen[bytes]) -> int | None:
    """The process id the broker prints once it listens; None when it ends or takes too long."""
    assert process.stdout is not None
    with process.stdout:
        printed, _, _ = select.select([process.stdout], [], [], START_S)
        line = process.stdout.readline() if printed else b""
    return int(line) if line else None


def answers(port: int) -> bool:
    """Whether an MQTT broker accepts a connection on the port."""
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(CONNECT)
                answer = connection.recv(len(CONNACK))
                connection.sendall(DISCONNECT)
                return answer == CONNACK
        except OSError:
            time.sleep(0.05)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()  # the process ends when its standard input does
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
