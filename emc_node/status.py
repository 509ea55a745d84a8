"""`emc-node status`: show the status file of a running EMC in plain words, and its condition as the exit code."""

from __future__ import annotations

import argparse
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ValidationError

from emc_node.clock import is_synchronised
from emc_node.plan import Moment
from stackelgrid.transport.tls import Certificate

FILE = Path("/run/stackelgrid/status.json")
"""The status file of the service that `emc-node install-service` sets up."""
STALE = timedelta(seconds=30)
"""A running process writes its status every ten seconds; an older file is out of date."""
UNHEARD_AFTER = timedelta(minutes=15)
"""The time from the gate of a session to its first question, in which all members of a run gather."""


class Condition(IntEnum):
    """The exit codes of `emc-node status`; of several that hold, the first below `IN_ORDER` counts."""

    IN_ORDER = 0
    """It takes part, or its plan holds."""
    UNKNOWN = 2
    """There is no status file."""
    LOST = 4
    """Its process hangs or has ended, or could not go on."""
    IGNORED = 10
    """Its coordinator refuses its answers."""
    REFUSED = 11
    """The broker does not accept it: its certificate is revoked, expired or foreign."""
    CLOCK = 12
    """This machine's clock, by which it would carry out the plan, is not synchronised."""
    UNHEARD = 13
    """It is connected, and was asked nothing though a session should have begun."""
    UNMASKED = 14
    """It answers nothing, since it refuses the homes that its answers would be added with."""
    IDLE = 15
    """It takes part in nothing, and no plan holds."""
    WARNING = 1
    """It takes part, or its plan holds; but its certificate soon expires, or something at home is to be mended."""


class Home(BaseModel):
    """The part of a home with devices, as `stackelgrid.node.home_status` writes it."""

    mode: str
    takes_part: bool
    problems: list[str]


class Masks(BaseModel):
    """How a home's answers are masked, as `stackelgrid.node.progress` has it."""

    homes: int | None
    objection: str | None


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
    failure: str | None = None
    refused: bool = False
    certificate_since: AwareDatetime | None = None
    certificate_until: AwareDatetime | None = None
    plan_until: Moment | None = None
    next_gate: Moment | None = None
    home: Home | None = None
    masks: Masks | None = None
    rejected: dict[str, int]
    remarks: list[str] = []
    refusal: str | None = None
    ignored: bool = False
    updated: AwareDatetime

    def describe(self, now: datetime) -> str:
        """Describe the run in one line, the connection in another, and what else there is to say in one of its own."""
        lines = [f"{self.node}: {self._describe_state(_duration(now - self.since))}."]
        again = {0: "", 1: ", made again once"}.get(self.reconnects, f", made again {self.reconnects} times")
        if self.connected:
            lines.append(f"Connected to {self.broker}{again}.")
        elif self.state not in ("over", "lost"):
            why = "" if self.failure is None else f" ({self.failure})"
            lines.append(f"No connection to {self.broker}{why}; it keeps trying{again}.")
        if self.masks is not None and self.masks.homes is not None:
            lines.append(f"Its answers are masked: the grid reads the sum of {self.masks.homes} homes.")
        if self.rejected:
            counted = ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
            lines.append(f"Messages it ignored: {counted}.")
        return "\n".join([*lines, *(f"Note: {remark}." for remark in self.remarks)])

    def find_problems(self, now: datetime, *, clock_is_right: bool) -> Iterator[tuple[Condition, str]]:
        """Find what is not in order, the worst first, each with a line that says how to mend it."""
        if self.is_stale(now):
            age = f"{_duration(now - self.updated)} old" if now > self.updated else "of a time to come"
            yield Condition.LOST, f"This is {age}: the process hangs or has ended; see journalctl --unit emc-node."
        elif self.state == "lost":
            yield Condition.LOST, "It could not go on; see journalctl --unit emc-node."
        if self.ignored:
            mend = "ask the operator to let it take part again"
            yield Condition.IGNORED, f"Its answers are ignored and count nowhere: {self.refusal}; {mend}."
        elif self.refusal is not None:
            yield Condition.IGNORED, f"Its last answer was refused: {self.refusal}."
        since, until = self.certificate_since, self.certificate_until
        has_expired = until is not None and until <= now
        if self.refused or has_expired:
            why = f"its certificate held until {until:%Y-%m-%d %H:%M} UTC" if has_expired else self.failure
            yield Condition.REFUSED, f"The broker does not accept it: {why}; ask the operator for a new certificate."
        if self.home.mode == "clock" if self.home is not None else not clock_is_right:  # its owner may trust the clock
            mend = "let a time service set it, see timedatectl"
            yield Condition.CLOCK, f"This machine's clock is not synchronised; {mend}."
        if self.connected and self.next_gate is not None and now > self.next_gate + UNHEARD_AFTER:
            late = _duration(now - self.next_gate)
            mend = "ask the operator whether this home is still in the grid"
            yield Condition.UNHEARD, f"A session was to open {late} ago, and nothing was asked of it; {mend}."
        if self.masks is not None and self.masks.objection is not None:
            mend = "if that lasts longer than a session, ask the operator"
            yield (
                Condition.UNMASKED,
                f"It refuses the homes that it would be added with: {self.masks.objection}; {mend}.",
            )
        if not self.has_plan(now) and not (self.connected and self.takes_part):
            why = "" if self.home is None or self.home.takes_part else ", as its household wants it"
            yield Condition.IDLE, f"It takes part in nothing{why}, and no plan holds."
        if since is not None and until is not None and until > now and Certificate("", since, until).expires_soon(now):
            mend = "ask the operator for a new one, unless it gets one by itself"
            yield Condition.WARNING, f"Its certificate holds for {_duration(until - now)} more; {mend}."
        for problem in [] if self.home is None else self.home.problems:
            yield Condition.WARNING, f"At home: {problem}."

    @property
    def takes_part(self) -> bool:
        """True unless the run is over or the household has opted out."""
        return self.state != "over" and (self.home is None or self.home.takes_part)

    def has_plan(self, now: datetime) -> bool:
        """Tell whether a plan that was settled is in force."""
        if self.home is not None:
            return self.home.mode == "plan"
        return self.state in ("settled", "over") if self.plan_until is None else now < self.plan_until

    def is_stale(self, now: datetime) -> bool:
        """Tell whether the file is no longer updated."""
        return abs(now - self.updated) > STALE

    def _describe_plan(self, without_dates: str) -> str:
        until = self.plan_until
        if until is not None:
            return f"; its plan reaches until {until.astimezone():%Y-%m-%d %H:%M %Z}"
        return without_dates if self.home is None or self.home.mode == "plan" else "; no plan is in force"

    def _describe_state(self, lasted: str) -> str:
        """Say what the EMC does, and for how long it has done so."""
        if self.ignored and self.state in ("waiting", "round"):
            return f"does not take part in run {self.run} (for {lasted})"
        return {
            "connecting": f"looks for the broker of run {self.run} (for {lasted})",
            "waiting": f"takes part in run {self.run} and waits for its first question (for {lasted})",
            "round": f"takes part in run {self.run}, round {self.round} (for {lasted})",
            "settled": f"run {self.run} was settled {lasted} ago{self._describe_plan(', and its plan is in force')}",
            "over": f"run {self.run} ended {lasted} ago{self._describe_plan('; the plan it settled stays in force')}",
            "lost": f"run {self.run} was lost {lasted} ago",
        }[self.state]


def main(arguments: list[str]) -> int:
    """Print the status; return its `Condition`."""
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
    condition = Condition.IN_ORDER
    clock_is_right = is_synchronised() if status.home is None else status.home.mode != "clock"
    for found, line in status.find_problems(now, clock_is_right=clock_is_right):
        print(line)
        condition = condition or found
    return condition


def _report_unreadable(file: Path, why: str) -> int:
    print(f"emc-node status: {file} {why}", file=sys.stderr)
    return Condition.UNKNOWN


def _duration(span: timedelta) -> str:
    seconds = max(0, round(span.total_seconds()))
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"
