"""The events of a run, in its folder: written as they happen, and followed by whoever watches.

An event is a JSON object with `seconds` since the beginning, its `type`, and what that type has: docs/interface.md.
While a run writes them, it holds a lock on the file; so that a run that was killed is not taken for one that goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stackelgrid.node.record import JsonLines

Event = dict[str, Any]

_FILE = "events.jsonl"
_CHUNK = 2**20


class EventLog:
    """Writes the events of a run into its folder. A thread may write while others do."""

    def __init__(self, folder: Path) -> None:
        self._lines = JsonLines(folder / _FILE)
        self._lock = (folder / _FILE).open("rb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._began = time.monotonic()

    def write(self, event: Event) -> None:
        """Write an event, with the seconds since the beginning."""
        self._lines({"seconds": round(time.monotonic() - self._began, 3), **event})

    def close(self) -> None:
        """Note that there are no more."""
        self._lock.close()


def are_written(folder: Path) -> bool:
    """Tell whether a process still writes the events of a run."""
    try:
        with (folder / _FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def read_first(folder: Path) -> Event:
    """Give the first event of a run; {} of one that wrote none."""
    return next(iter(_parse_some(folder, 0)), {})


def read_end(folder: Path) -> Event:
    """Give the event with which a run has ended; {} where there is none."""
    last = next(reversed([{}, *_parse_some(folder, -_CHUNK)]))
    return last if last.get("type") == "end" else {}


def _parse_some(folder: Path, begin: int) -> list[Event]:
    """Parse the whole lines of a chunk of the events that begins there, of one before the end after its first line."""
    path = folder / _FILE
    if not path.is_file():
        return []
    with path.open("rb") as file:
        if begin < 0 and path.stat().st_size > -begin:
            file.seek(begin, os.SEEK_END)
            file.readline()
        lines = file.read(_CHUNK).split(b"\n")[:-1]
    return [json.loads(line) for line in (lines[:1] if begin == 0 else lines[-1:])]


class EventFile:
    """Reads the events of a run's folder as they are written, as lines of JSON."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._offset = 0
        self._rest = b""
        self.ended = False

    @property
    def exists(self) -> bool:
        """True for a run that wrote events."""
        return self._path.is_file()

    def read(self) -> Iterator[str]:
        """Give the lines that were written since the last time; after the event `end` there is none."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            while not self.ended and (content := file.read(_CHUNK)):
                self._offset += len(content)
                *lines, self._rest = (self._rest + content).split(b"\n")
                for line in lines:
                    self.ended = self.ended or (b'"end"' in line and json.loads(line)["type"] == "end")
                    yield line.decode()
