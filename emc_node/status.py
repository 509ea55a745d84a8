"""`emc-node status`: show the status file of a running EMC in plain words.

Exit codes: 0 the EMC is in order; 2 there is no such file; 4 it is lost or refused, or the file is no longer updated.
"""

from __future__ import annotations

import argparse
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ValidationError

from stackelgrid.errors import ExitCode

FILE = Path("/run/stackelgrid/status.json")
"""The status file of the service that `emc-node install-service` sets up."""
STALE = timedelta(seconds=30)
"""A running process writes its status every ten seconds; an older file is out of date."""
IN_ORDER = 0


class StatusFile(BaseModel):
    """A status file, as `stackelgrid.node.status` writes it."""

    node: str
    run: str
    state: Literal["connecting", "waiting", "round", "settled", "over", "lost"]
    round: int
    since: AwareDatetime
    broker: str
    connected: bool
    reconnects: int
    rejected: dict[str, int]
    remarks: list[str] = []
    refusal: str | None = None
    ignored: bool = False
    updated: AwareDatetime

    def describe(self, now: datetime) -> str:
        """Describe the run in one line, the connection in another, and each problem in one of its own."""
        lines = [f"{self.node}: {self._describe_state(_duration(now - self.since))}."]
        again = {0: "", 1: ", made again once"}.get(self.reconnects, f", made again {self.reconnects} times")
        if self.connected:
            lines.append(f"Connected to {self.broker}{again}.")
        elif self.state not in ("over", "lost"):
            lines.append(f"No connection to {self.broker}; it keeps trying{again}.")
        if self.ignored:
            lines.append(f"Its answers are ignored and count nowhere: {self.refusal}.")
        elif self.refusal is not None:
            lines.append(f"Its last answer was refused: {self.refusal}.")
        if self.rejected:
            counted = ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
            lines.append(f"Messages it ignored: {counted}.")
        lines += [f"Note: {remark}." for remark in self.remarks]
        if self.is_stale(now):
            lines.append(
                f"This is {_duration(now - self.updated)} old: the process hangs or has ended; "
                "see journalctl --unit emc-node."
            )
        return "\n".join(lines)

    def is_stale(self, now: datetime) -> bool:
        """Tell whether the file is no longer updated."""
        return now - self.updated > STALE

    def _describe_state(self, lasted: str) -> str:
        """Say what the EMC does, and for how long it has done so."""
        if self.ignored and self.state in ("waiting", "round"):
            return f"does not take part in run {self.run} (for {lasted})"
        return {
            "connecting": f"looks for the broker of run {self.run} (for {lasted})",
            "waiting": f"takes part in run {self.run} and waits for its first question (for {lasted})",
            "round": f"takes part in run {self.run}, round {self.round} (for {lasted})",
            "settled": f"run {self.run} was settled {lasted} ago, and its plan is in force",
            "over": f"run {self.run} ended {lasted} ago; the plan it settled, if it did, stays in force",
            "lost": f"run {self.run} was lost {lasted} ago; see journalctl --unit emc-node",
        }[self.state]


def main(arguments: list[str]) -> int:
    """Print the status; return the exit code."""
    parser = argparse.ArgumentParser(prog="emc-node status", description="Show the state of the EMC on this machine.")
    parser.add_argument("--file", type=Path, default=FILE, help="its status file (default: %(default)s)")
    file: Path = parser.parse_args(arguments).file
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return _report_unreadable(file, "is no file; name a status file with --file")
        status = StatusFile.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return _report_unreadable(file, "is not there; is the service running (systemctl status emc-node)?")
    except PermissionError:
        return _report_unreadable(file, "may not be read; try sudo emc-node status")
    except OSError as error:
        return _report_unreadable(file, f"cannot be read ({error.strerror}); name a status file with --file")
    except ValidationError:
        return _report_unreadable(file, "is no status file; name the one that emc-node --status writes with --file")
    now = datetime.now(UTC)
    print(status.describe(now))
    refused = status.refusal is not None
    return ExitCode.LOST if status.is_stale(now) or status.state == "lost" or refused else IN_ORDER


def _report_unreadable(file: Path, why: str) -> int:
    print(f"emc-node status: {file} {why}", file=sys.stderr)
    return ExitCode.BAD_INPUT


def _duration(span: timedelta) -> str:
    seconds = max(0, round(span.total_seconds()))
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"
