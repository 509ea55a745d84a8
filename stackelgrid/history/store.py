"""The file of a history, as the node writes it."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from math import inf
from pathlib import Path
from typing import Any

from stackelgrid.history.schema import LaterVersionError, migrate
from stackelgrid.node.record import Report
from stackelgrid.node.sqlite_error import to_os_error

_LOG = logging.getLogger("stackelgrid.node")

_REFUSALS = (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.DataError, OverflowError, ValueError)
"""The errors of rows that SQLite cannot hold."""
_DAY_S = 24 * 3600
_MOST_PENDING = 50_000
"""The rows that wait for a disk; beyond that the oldest are dropped."""
_WAL_BYTES = 4 * 1024 * 1024
"""The size to which the log beside the file is cut when it was longer."""


@dataclass(frozen=True)
class Run:
    """The run of a node, as rows refer to it: names, digest of the scenario, role, game and time zone."""

    run: str
    scenario: str
    node: str
    role: str
    game: str
    timezone: str | None


@dataclass(frozen=True)
class Change:
    """One statement for many rows; its first parameter is the number of the run."""

    sql: str
    rows: Sequence[tuple[Any, ...]]


def upsert(table: str, keys: str, columns: str, rows: Iterable[tuple[Any, ...]]) -> Change:
    """Make the change that writes rows of `keys` and `columns`, over what is there under the same keys.

    `at`, the time at which a row was first written, stays.
    """
    names = [*keys.split(), *columns.split()]
    updates = ", ".join(f"{name} = excluded.{name}" for name in columns.split() if name != "at")
    marks = ", ".join("?" * (1 + len(names)))
    key = ", ".join(["run", *keys.split()])
    return Change(
        f"INSERT INTO {table} (run, {', '.join(names)}) VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE SET {updates}",
        list(rows),
    )


class HistoryFile(Report):
    """A history in a SQLite file, readable by its owner only; a reader may have it open at the same time.

    A change is on disk when `write` returns. What a full, read-only or damaged disk does not take is written later, in
    its order, and no node ends because of it. Rows of sessions that were written more than `days` days ago go; the room
    that they had is used again.
    """

    def __init__(self, path: Path, run: Run, days: int, clock: Callable[[], float] = time.time) -> None:
        super().__init__(path)
        self._run, self._days, self._clock = run, days, clock
        self._file: sqlite3.Connection | None = None
        self._number = 0
        self._pending: deque[list[Change]] = deque()
        self._rows = 0
        self._dropped = 0
        self._swept_at: float | None = None
        self.save()

    def now(self) -> int:
        """Read the clock."""
        return int(self._clock())

    def write(self, *changes: Change) -> None:
        """Make changes in one transaction, or leave them for later."""
        with self._lock:
            self._pending.append(list(changes))
            self._rows += sum(len(change.rows) for change in changes)
            while self._rows > _MOST_PENDING and len(self._pending) > 1:
                lost = sum(len(change.rows) for change in self._pending.popleft())
                self._rows, self._dropped = self._rows - lost, self._dropped + lost
            self.save()

    def close(self) -> None:
        """Close the file, with all in it that could be written."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = self._open()
            while self._pending:
                self._carry_out(self._file, self._pending[0])
                self._rows -= sum(len(change.rows) for change in self._pending.popleft())
            self._sweep(self._file)
        except LaterVersionError as error:
            self.close()
            raise OSError(errno.EINVAL, str(error)) from None
        except sqlite3.Error as error:
            self.close()  # a file that was moved away or replaced is opened anew
            raise to_os_error(error) from None
        if self._dropped:
            _LOG.error("rows of the history were dropped", extra={"data": {"rows": self._dropped}})
            self._dropped = 0

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        file = sqlite3.connect(self._path, timeout=0.1, check_same_thread=False, isolation_level=None)
        try:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = FULL")
            file.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            migrate(file)
            file.execute(
                "INSERT OR IGNORE INTO runs (run, scenario, node, role, game, timezone) VALUES (?, ?, ?, ?, ?, ?)",
                astuple(self._run),
            )
            where = (self._run.run, self._run.scenario, self._run.node)
            with closing(file.execute("SELECT id FROM runs WHERE (run, scenario, node) = (?, ?, ?)", where)) as found:
                (self._number,) = found.fetchone()
        except (sqlite3.Error, LaterVersionError):
            file.close()
            raise
        return file

    def _carry_out(self, file: sqlite3.Connection, changes: Sequence[Change]) -> None:
        try:
            with _transaction(file):
                for change in changes:
                    file.executemany(change.sql, [(self._number, *row) for row in change.rows])
        except _REFUSALS as error:  # which no later attempt would mend
            _LOG.error("the history does not take some rows", extra={"data": {"cause": str(error)}})

    def _sweep(self, file: sqlite3.Connection) -> None:
        """Once a day, delete what is older than the history is to reach back."""
        now = self._clock()
        if self._swept_at is not None and abs(now - self._swept_at) < _DAY_S:
            return
        before = int(now) - self._days * _DAY_S
        with _transaction(file):
            ages = "SELECT run, max(session) FROM sessions WHERE at < ? GROUP BY run"
            for run, last in file.execute(ages, (before,)).fetchall():
                kept = "SELECT min(first) FROM sessions WHERE run = ? AND session > ?"
                (first,) = file.execute(kept, (run, last)).fetchone()
                for table in ("slots", "members"):
                    file.execute(
                        f"DELETE FROM {table} WHERE run = ? AND slot < ?", (run, inf if first is None else first)
                    )
                for table in ("sessions", "rounds", "missing"):
                    file.execute(f"DELETE FROM {table} WHERE run = ? AND session <= ?", (run, last))
            file.execute("DELETE FROM meter WHERE start < ?", (before,))
            file.execute("DELETE FROM modes WHERE at < ?", (before,))
        self._swept_at = now


@contextmanager
def _transaction(file: sqlite3.Connection) -> Iterator[None]:
    file.execute("BEGIN IMMEDIATE")
    try:
        yield
        file.execute("COMMIT")
    except BaseException:
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise
