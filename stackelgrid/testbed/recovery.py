"""The recovery log of a run in memory: what its nodes keep, in one file, so that an interrupted run goes on.

A line is what one node keeps, in the order in which all of them do. After what the leader keeps, a round or the end of
a session, there is a mark: no question is open then, and from there on the same is played as without the interrupt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stackelgrid.errors import ConfigError
from stackelgrid.node.record import JsonLines, read_whole_lines
from stackelgrid.scenarios import Scenario
from stackelgrid.testbed.node_configs import digest

RECOVERY_LOG = "nodes/recovery.jsonl"
MARK = "mark"


class RecoveryLog:
    """The recovery log in a run's folder; `lines` are those from before an interrupt, up to the last mark.

    Raises `ConfigError` for a log that is damaged or of another scenario.
    """

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self._path = folder / RECOVERY_LOG
        head = {"scenario": digest(scenario)}
        self.lines = self._read(head)
        self._path.parent.mkdir(mode=0o700, exist_ok=True)  # private, as what nodes write
        self._append = JsonLines(self._path, [head, *self.lines])

    @contextmanager
    def explain_damage(self) -> Iterator[None]:
        """Raise `ConfigError` in place of what comes of a damaged log."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"{self._path}: damaged ({reason}); play the scenario again") from error

    def _read(self, head: Mapping[str, str]) -> list[dict[str, Any]]:
        with self.explain_damage():
            found, *lines = read_whole_lines(self._path) or [head]
            marks = [place for place, line in enumerate(lines, start=1) if line["kind"] == MARK]
        if found != head:
            raise ConfigError(f"{self._path}: of another scenario than scenario.yaml; put back the one that was played")
        return lines[: marks[-1]] if marks else []

    def keep(self, kind: str, node: str, record: Mapping[str, Any]) -> None:
        """Write what a node keeps."""
        self._append({"kind": kind, "node": node, "record": record})

    def remove(self) -> None:
        """Remove the log of a run that has ended. One that stays does no harm."""
        with suppress(OSError):
            self._path.unlink()
            self._path.parent.rmdir()
