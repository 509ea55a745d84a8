"""The status of a node's process, in a small file and for systemd; a file that is old says that the process hangs.

The heartbeat is a task of the event loop that also drives the node. While the broker is away the loop still runs and
the file stays fresh; when the node hangs in its own code, in the loop or in a computation that does not end, the file
becomes old and systemd's watchdog gets no signal.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from stackelgrid.errors import ConfigError
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.node.record import DISK_FAULTS, write_whole
from stackelgrid.transport.base import Traffic
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.transport.tls import Certificate, read_certificate

_LOG = logging.getLogger("stackelgrid.node")

LOOK_S = 0.5
"""The time between two looks at the status."""
REFRESH_S = 10.0
"""The age at which the file is written anew though nothing has changed."""
HANG_S = 300.0
"""The time after which a computation counts as one that never ends."""

State = Literal["connecting", "waiting", "round", "settled", "over", "lost"]
STATES: tuple[State, ...] = ("connecting", "waiting", "round", "settled", "over", "lost")


@dataclass(frozen=True)
class Status:
    """The status of a node's process at this moment."""

    run: str
    node: str
    progress: Progress
    mailbox: Mailbox
    transport: MqttTransport
    find_gate: Callable[[datetime], datetime | None] = lambda since: None
    """Finds when the first session after a time is to open, None where no clock of this machine says so."""

    @property
    def state(self) -> State:
        """`connecting` until the first connection, then the node's own, `over` or `lost` at its end."""
        ended = self.progress.state in ("over", "lost")
        return self.progress.state if ended or self.traffic.connections else "connecting"

    @property
    def traffic(self) -> Traffic:
        """The messages that the node's connection has carried so far."""
        return self.transport.traffic.get(self.node) or Traffic()

    @property
    def reconnects(self) -> int:
        """The number of times that the connection was made again."""
        return max(0, self.traffic.connections - 1)

    @property
    def certificate(self) -> Certificate | None:
        """The node's certificate, None where it has none; a renewed one is seen."""
        tls = self.transport.certificates
        if tls is None:
            return None
        try:
            file = tls.choose().certificate
            return _read_certificate(file, file.stat().st_mtime_ns)
        except (OSError, ValueError):  # it is being replaced, or gone: the next connection will say so
            return None

    @property
    def hangs(self) -> bool:
        """True where the node's computation does not come to an end."""
        since = self.progress.working_since
        return since is not None and time.monotonic() - since > HANG_S

    def record(self) -> dict[str, Any]:
        """Give the same as JSON."""
        certificate, home, masks = self.certificate, self.progress.home, self.progress.masks
        until = self.progress.plan_until
        return {
            "node": self.node,
            "run": self.run,
            "state": self.state,
            "round": self.progress.round,
            "broker": self.transport.url,
            "connected": self.traffic.connected,
            "reconnects": self.reconnects,
            "failure": self.traffic.failure,
            "refused": self.traffic.refused,
            "certificate_since": None if certificate is None else certificate.since.isoformat(),
            "certificate_until": None if certificate is None else certificate.until.isoformat(),
            "plan_until": None if until is None else until.isoformat(),
            "home": None if home is None else home.record(),
            "masks": None if masks is None else masks._asdict(),
            "rejected": dict(self.mailbox.rejected),
            "remarks": list(self.progress.remarks),
            "refusal": self.progress.refusal,
            "ignored": self.progress.is_ignored,
        }


@lru_cache(maxsize=1)
def _read_certificate(file: Path, changed: int) -> Certificate:
    """Read a certificate, once for each time that its file was `changed`."""
    return read_certificate(file)


class Outlet(Protocol):
    """A place where a status is shown."""

    def show(self, status: Status) -> None:
        """Show the status, if it is time. Raises `OSError` when that cannot be done now."""

    def close(self) -> None:
        """Note that the process is about to end."""


class StatusFile:
    """The status as a JSON object in a file, which is whole at any time.

    `since` is when the state, or the round, was first seen, `next_gate` when after that a session is to open, `updated`
    when the file was written. Raises `ConfigError` for a file that cannot be there, on whatever disk.
    """

    def __init__(self, path: Path, status: Status) -> None:
        self._path = path
        self._record: dict[str, Any] = {}
        self._times: dict[str, str | None] = {}
        self._written_at = 0.0
        try:
            self.show(status)
        except OSError as error:
            if error.errno in DISK_FAULTS:
                return
            raise ConfigError(
                f"{path}: cannot be written ({error.strerror}); name a file in a folder that is there with --status"
            ) from None

    def show(self, status: Status) -> None:
        """Write the status when it has changed, or the file is as old as it may be."""
        record, now = status.record(), datetime.now(UTC)
        changed = record != self._record
        if not changed and time.monotonic() - self._written_at < REFRESH_S:
            return
        if any(record[key] != self._record.get(key) for key in ("state", "round")):
            gate = status.find_gate(now)
            self._times = {"since": _write_time(now), "next_gate": None if gate is None else gate.isoformat()}
        self._record = record
        write_whole(self._path, {**record, **self._times, "updated": _write_time(now)})
        self._written_at = time.monotonic()

    def close(self) -> None:
        """Leave the file, which says how it ended."""


def _write_time(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")


class Heartbeat:
    """Shows a status as long as the event loop runs."""

    def __init__(self, status: Status, outlets: Sequence[Outlet]) -> None:
        self._status, self._outlets = status, outlets
        self._warnings: set[str] = set()

    async def beat(self) -> None:
        """Show the status for ever, from within the loop."""
        while True:
            if self._status.hangs:
                self._warn("a computation does not end", f"longer than {HANG_S:.0f} s")
            else:
                self.show()
            await asyncio.sleep(LOOK_S)

    def show(self) -> None:
        """Show the status once."""
        traffic = self._status.traffic
        self._status.progress.shut_out = traffic.failure if traffic.refused else None
        for outlet in self._outlets:
            try:
                outlet.show(self._status)
            except OSError as error:  # no reason to end a node; the age of the file shows it
                self._warn("status cannot be shown", str(error))

    def close(self) -> None:
        """Show the end."""
        self.show()
        for outlet in self._outlets:
            outlet.close()

    def _warn(self, event: str, why: str) -> None:
        if event not in self._warnings:
            self._warnings.add(event)
            _LOG.error(event, extra={"data": {"error": why}})
