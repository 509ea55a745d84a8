"""The state of a home with devices, for its status, its heartbeat and what its household sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal


@dataclass(frozen=True)
class HomeStatus:
    """The state of a home with devices.

    `mode` says what drives the storage: `clock` nothing, as the clock of the machine is not synchronised yet; `plan`
    what was settled; `fail_safe` what the home does alone. `next_session` is the beginning of the next one in the
    calendar, `plan_until` the time until which what was settled holds. `limit` is in force at the meter (`draw_kw`,
    `feed_in_kw`, and `source`: `outside` or `fail_safe`), `override` the householder's wish (`setpoint_kw`, `until`).
    `problems` are what somebody should mend.
    """

    mode: Literal["clock", "plan", "fail_safe"]
    next_session: datetime | None = None
    plan_until: datetime | None = None
    limit: Mapping[str, Any] | None = None
    override: Mapping[str, Any] | None = None
    takes_part: bool = True
    problems: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Give the same as JSON."""
        return {
            "mode": self.mode,
            "next_session": _write_time(self.next_session),
            "plan_until": _write_time(self.plan_until),
            "limit": self.limit,
            "override": self.override,
            "takes_part": self.takes_part,
            "problems": list(self.problems),
        }


def _write_time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="seconds")
