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
    """Notifies systemd that the process is ready, of its status, and that it does not hang.

    A process is ready when it is trying to connect: a home may start while its broker is away for hours. Were it not
    ready, systemd would end it after `TimeoutStartSec=` and delay the units that wait for it.
    """

    def __init__(self) -> None:
        self._address = os.environ["NOTIFY_SOCKET"]
        if self._address.startswith("@"):  # as systemd writes an abstract socket
            self._address = "\0" + self._address[1:]
        watched = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6 if watched else 0.0
        self._signalled_at = 0.0
        self._text = ""

    def show(self, status: Status) -> None:
        """Send the status when it has changed, and the watchdog signal at half its time."""
        text, now = _describe(status), time.monotonic()
        lines = []
        if text != self._text:
            lines += [f"STATUS={text}"] if self._text else ["READY=1", f"STATUS={text}"]
        if self._watchdog_s and now - self._signalled_at >= self._watchdog_s:
            lines += ["WATCHDOG=1"]
        if lines:
            self._notify("\n".join(lines))
            self._text = text
        if "WATCHDOG=1" in lines:
            self._signalled_at = now

    def close(self) -> None:
        """Notify systemd that the process is about to end."""
        with suppress(OSError):  # systemd sees the end itself
            self._notify("STOPPING=1")

    def _notify(self, message: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.setblocking(False)
            connection.connect(self._address)
            connection.send(message.encode())


def _describe(status: Status) -> str:
    broker = status.transport.url
    match status.state:
        case "connecting":
            return f"no connection yet to {broker}"
        case "round":
            words = f"round {status.progress.round}" + (", answers refused" if status.progress.refusal else "")
        case "over" | "lost" as end:
            return end
        case other:
            words = other
    return words if status.traffic.connected else f"{words}, connection to {broker} lost"
