"""A coordinator's ledger on disk, in SQLite."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from stackelgrid.errors import ConfigError
from stackelgrid.model import RUN_NEWER
from stackelgrid.node.record import DISK_FAULTS, Report
from stackelgrid.node.sqlite_error import to_os_error
from stackelgrid.node.terms import describe_differences
from stackelgrid.rounds.ledger import Entry

SCHEMA = 1
"""The version of the tables, SQLite's user_version. Version 0.2.0 left it at 0; its tables are the same."""


class SqliteLedger(Report):
    """Entries in a SQLite file, readable by its owner only, each on disk when `append` returns.

    A write-ahead log makes an entry one fsync; one half-written at a power cut is dropped. Entries that a full or
    read-only disk does not take are written later, in their order. `terms` are what the entries depend on, `run`,
    `name` and the node's settings. Raises `ConfigError` for a file that is no ledger of these terms.
    """

    def __init__(self, path: Path, terms: Mapping[str, Any]) -> None:
        super().__init__(path)
        self._terms = json.dumps(terms)
        self._file: sqlite3.Connection | None = None
        self._pending: list[str] = []
        self._clearing = False  # drop what is there together with writing what is pending
        is_new = not (path.exists() and path.stat().st_size)
        try:
            self._write()
        except OSError as error:
            if error.errno in DISK_FAULTS and is_new:
                self.save()
                return
            if error.errno in DISK_FAULTS:
                mend = "the rounds of the run are in it, so make it writable, with room for more"
            else:
                mend = "move it away or name another ledger_file"
            raise ConfigError(f"{path}: cannot be used as a ledger ({error.strerror}); {mend}") from None
        assert self._file is not None
        begun = self._file.execute("SELECT terms FROM begun").fetchone() or ("{}",)
        if differences := describe_differences(json.loads(begun[0]), terms):
            raise ConfigError(
                f"{path}: this ledger was begun otherwise, {differences}; give the new run another name, or move the "
                "ledger away"
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the entries of before the start, from the first on."""
        if self._file is not None:
            for (entry,) in self._file.execute("SELECT entry FROM entries ORDER BY number"):
                yield json.loads(entry)

    def append(self, entry: Entry) -> None:
        """Write an entry and have the disk confirm it."""
        with self._lock:
            self._pending.append(json.dumps(entry, allow_nan=False))
            self.save()

    def clear(self) -> None:
        """Drop all entries with the next `append`, and not without it."""
        with self._lock:
            self._pending.clear()
            self._clearing = True

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = self._open()
            with self._file as file:
                if self._clearing and self._pending:
                    file.execute("DELETE FROM entries")
                file.executemany("INSERT INTO entries (entry) VALUES (?)", [(entry,) for entry in self._pending])
        except sqlite3.Error as error:
            raise to_os_error(error) from None
        self._clearing = self._clearing and not self._pending
        self._pending.clear()

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        file = sqlite3.connect(self._path, check_same_thread=False)
        try:
            (schema,) = file.execute("PRAGMA user_version").fetchone()
            if schema > SCHEMA:
                raise ConfigError(f"{self._path}: a newer version of Stackelgrid wrote this ledger; {RUN_NEWER}")
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = FULL")
            with file:
                file.execute(f"PRAGMA user_version = {SCHEMA}")
                file.execute("CREATE TABLE IF NOT EXISTS begun (terms TEXT NOT NULL)")
                file.execute("CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, entry TEXT NOT NULL)")
                if file.execute("SELECT 1 FROM begun UNION SELECT 1 FROM entries").fetchone() is None:
                    file.execute("INSERT INTO begun VALUES (?)", (self._terms,))
        except (sqlite3.Error, ConfigError):
            file.close()
            raise
        return file


def read_terms(path: Path) -> dict[str, Any] | None:
    """Read the terms that the ledger at `path` was begun with, None where there is no ledger."""
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path)) as file:
            terms: dict[str, Any] = json.loads(file.execute("SELECT terms FROM begun").fetchone()[0])
            return terms
    except (sqlite3.Error, TypeError):
        return None
