"""The events of a run, in its folder: written as they happen, and followed by whoever watches.

An event is a JSON object with `seconds` since the beginning, its `type`, and what that type has: docs/interface.md.
While a run writes them its folder is locked, so that one that was killed is not taken for one that goes on.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from stackelgrid.node.record import GrowingLines, JsonLines, read_whole_lines
from stackelgrid.testbed.run_lock import RunLock

Event = dict[str, Any]

_FILE = "events.jsonl"
_CHUNK = 2**20
"""The longest event that is read alone, bytes."""
LEAST_ROUND_S = 0.5
"""The time that a round takes at least when it is watched again: in memory it took none."""
_HIDING = ("offline", "crashed", "left", "quarantined")
"""The states of a node of which the broker has nothing to say."""


class EventLog:
    """Writes the events of a run into its folder. Threads may write while others do.

    States of nodes that are noted are gathered: `flush` writes one event for all that have come to the same state. A
    log that an earlier process has begun goes on. `lock` is the one on the folder of who plays the run; without it the
    folder is locked here, and `ConfigError` raised where another process has it. `clock` gives the seconds.
    """

    def __init__(self, folder: Path, lock: RunLock | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = RunLock(folder) if lock is None else lock.share()
        before = read_whole_lines(folder / _FILE)
        self.is_new = not before
        self._lines = JsonLines(folder / _FILE, before)
        self._clock = clock
        self._began = clock() - (before[-1]["seconds"] if before else 0.0)
        self._states: dict[str, str] = {}
        self._changed: dict[str, None] = {}
        self._noting = threading.Lock()

    def write(self, *events: Event) -> None:
        """Write events, with the seconds since the beginning. One of nodes goes with what is noted of others."""
        for event in events:
            if event["type"] == "node":
                self.note(event["state"], event["names"])
                self.flush()
            else:
                self._append(event)

    def note(self, state: str, names: Iterable[str]) -> None:
        """Note the state of nodes. One that is away does not hear a question; one that has settled may leave."""
        with self._noting:
            for name in names:
                before = self._states.get(name)
                hidden = (state, before) == ("left", "settled") or (
                    before in _HIDING and state in ("asked", "late", "offline")
                )
                if state != before and not hidden:
                    self._states[name] = state
                    self._changed[name] = None

    def flush(self) -> None:
        """Write the states that have changed since the last time."""
        with self._noting:
            by_state: defaultdict[str, list[str]] = defaultdict(list)
            for name in self._changed:
                by_state[self._states[name]].append(name)
            self._changed.clear()
            for state, names in by_state.items():
                self._append({"type": "node", "state": state, "names": names})

    def _append(self, event: Event) -> None:
        self._lines({"seconds": round(self._clock() - self._began, 3), **event})

    def close(self) -> None:
        """Note that there are no more."""
        self._lock.release()


def has_events(folder: Path) -> bool:
    """Tell whether a run wrote events."""
    return (folder / _FILE).is_file()


def read_tree(folder: Path) -> Event:
    """Give the event with which a run began, its nodes and slots; {} where there is none."""
    path = folder / _FILE
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        first = parse_event(file.readline())
    return first if first.get("type") == "tree" else {}


def read_end(folder: Path) -> Event:
    """Give the event with which a run has ended; {} where there is none."""
    last = _parse_last(folder)
    return last if last.get("type") == "end" else {}


def _parse_last(folder: Path) -> Event:
    path = folder / _FILE
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _CHUNK))
        lines = file.read().split(b"\n")
    return parse_event(lines[-2]) if len(lines) > 1 else {}


def parse_event(line: bytes | str) -> Event:
    """Read a line; {} of one that is no event."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


class EventFile:
    """Reads the events of a run's folder as they are written, as lines of JSON."""

    def __init__(self, folder: Path) -> None:
        self._lines = GrowingLines(folder / _FILE)
        self.ended = False

    def read(self) -> Iterator[str]:
        """Give the lines that were written since the last time, without damaged ones; after `end` there is none."""
        for line in self._lines.read():
            if event := parse_event(line):
                self.ended = event.get("type") == "end"
                yield line.decode().rstrip("\n")
            if self.ended:
                return
