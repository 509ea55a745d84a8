"""systemd's notifications (sd_notify(3)), for a unit of `Type=notify` with `WatchdogSec=`."""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress

from stackelgrid.node.status import Status

_LOG = logging.getLogger("stackelgrid.node")


class Systemd:
    """Tells systemd that the process is up, how it is, and that it lives.

    It is ready when it is up and trying to connect: a home that starts while its broker is away for hours is in order,
    and were it not ready, systemd would end it after `TimeoutStartSec=` and hold up whatever waits for it.
    """

    def __init__(self) -> None:
        self._address = os.environ["NOTIFY_SOCKET"]
        if self._address.startswith("@"):  # systemd's way to write an abstract socket
            self._address = "\0" + self._address[1:]
        watched = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._feed_every_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6 if watched else 0.0
        self._fed_at = 0.0
        self._text = ""

    def show(self, status: Status) -> None:
        """Say how it is when that has changed, and feed the watchdog at half its time."""
        words, now = _words(status), time.monotonic()
        said = []
        if words != self._text:
            said += [f"STATUS={words}"] if self._text else ["READY=1", f"STATUS={words}"]
        if self._feed_every_s and now - self._fed_at >= self._feed_every_s:
            said += ["WATCHDOG=1"]
        if said:
            self._notify("\n".join(said))
            self._text = words
        if "WATCHDOG=1" in said:
            self._fed_at = now

    def close(self) -> None:
        """Say that the process is on its way out."""
        with suppress(OSError):  # systemd learns it from the end itself
            self._notify("STOPPING=1")

    def _notify(self, message: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
            way.setblocking(False)
            way.connect(self._address)
            way.send(message.encode())


def _words(status: Status) -> str:
    broker = status.transport.url
    match status.state:
        case "connecting":
            return f"no connection yet to {broker}"
        case "round":
            words = f"round {status.progress.round}"
        case "over" | "lost" as end:
            return end
        case other:
            words = other
    return words if status.traffic.connected else f"{words}, connection to {broker} lost"
