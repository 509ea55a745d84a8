"""The index of a store: the summaries of its runs in an SQLite file, so that not every run is read at every look.

It holds nothing that the folders do not: one that is damaged, of another version or not writable costs only time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from stackelgrid.store.summary import RunSummary

_VERSION = 2
"""To be raised with each change of `RunSummary` or of how it is made."""
_PATIENCE_S = 1.0
"""The time to wait for another process that has the file; to read the runs themselves takes not much longer."""


class Index:
    """The index in a file: of each run its summary, and the stamp that its files had then."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> dict[str, tuple[str, RunSummary]]:
        """Give stamp and summary of each run by its id; nothing where there is no index that can be read."""
        try:
            with closing(self._connect("ro")) as index:
                if _read_version(index) != _VERSION:
                    return {}
                rows = index.execute("SELECT id, stamp, summary FROM runs").fetchall()
            return {run: (stamp, RunSummary.model_validate_json(summary)) for run, stamp, summary in rows}
        except (sqlite3.Error, ValueError):
            return {}

    def update(self, gone: Collection[str], found: Iterable[tuple[str, RunSummary]]) -> None:
        """Remove runs, and put in what was `found`: summaries with their stamps."""
        rows = [(summary.id, stamp, json.dumps(summary.model_dump())) for stamp, summary in found]
        if not rows and not gone:
            return
        try:
            with closing(self._connect("rwc")) as index, index:
                index.execute("BEGIN IMMEDIATE")
                if _read_version(index) != _VERSION:
                    index.execute("DROP TABLE IF EXISTS runs")
                    index.execute("CREATE TABLE runs (id TEXT PRIMARY KEY, stamp TEXT NOT NULL, summary TEXT NOT NULL)")
                    index.execute(f"PRAGMA user_version = {_VERSION}")
                index.executemany("DELETE FROM runs WHERE id = ?", [(run,) for run in gone])
                index.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", rows)
        except sqlite3.OperationalError:
            pass  # it cannot be written here, or another process does: the next look tries again
        except sqlite3.DatabaseError:  # damaged, or no index at all
            with suppress(OSError):
                self._file.unlink()

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{quote(str(self._file))}?mode={mode}", timeout=_PATIENCE_S, uri=True)


def _read_version(index: sqlite3.Connection) -> int:
    (version,) = index.execute("PRAGMA user_version").fetchone()
    return int(version)
