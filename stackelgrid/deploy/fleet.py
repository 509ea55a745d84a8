"""The fleet of a grid as an observer hears it: each member's last heartbeat, in a file and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from stackelgrid.node.heartbeat import BEAT_S
from stackelgrid.node.record import write_whole
from stackelgrid.wire.codec import HeartbeatLink
from stackelgrid.wire.messages import Heartbeat

SILENT_AFTER = timedelta(seconds=3 * BEAT_S)
"""A member whose last heartbeat is older than that is silent."""
_WRITE_S = 5.0
"""The time between two versions of the file."""


@dataclass
class Fleet:
    """The members of `run` by name, with the coordinator and the last heartbeat of each; written to `file`."""

    run: str
    file: Path
    members: dict[str, tuple[str, Heartbeat]] = field(default_factory=dict)
    _written_at: float | None = None
    _changed: bool = False

    def receive(self, topic: str, payload: bytes) -> None:
        """Take in a heartbeat, or that a member has left. Raises `BadMessageError`."""
        _, _, coordinator, member, _ = topic.split("/")
        self._changed = True
        if payload:
            self.members[member] = coordinator, HeartbeatLink(self.run).read(topic, payload)
        elif member in self.members and self.members[member][0] == coordinator:
            del self.members[member]

    def write(self, now: float) -> None:
        """Write the file, if there is something new and the last version is old enough."""
        if not self._changed or (self._written_at is not None and now < self._written_at + _WRITE_S):
            return
        self._changed, self._written_at = False, now
        write_whole(
            self.file,
            {
                name: {
                    "coordinator": coordinator,
                    **heartbeat.model_dump(mode="json", include={"at", "version", "session", "state", "plan_until"}),
                }
                for name, (coordinator, heartbeat) in sorted(self.members.items())
            },
        )

    def summarise(self, time: datetime) -> Mapping[str, Any]:
        """Say how many members are heard, who is silent, and which versions and sessions there are."""
        last = [heartbeat for _, heartbeat in self.members.values()]
        return {
            "members": len(last),
            "silent": sorted(heartbeat.sender for heartbeat in last if time - heartbeat.at > SILENT_AFTER),
            "versions": dict(sorted(Counter(heartbeat.version for heartbeat in last).items())),
            "session": max((heartbeat.session for heartbeat in last), default=None),
        }
