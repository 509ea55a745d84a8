"""A coordinator's ledger on disk, in SQLite."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from stackelgrid.errors import ConfigError
from stackelgrid.node.record import DISK_FAULTS, Report
from stackelgrid.rounds.ledger import Entry

_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
}


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
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = FULL")
            with file:
                file.execute("CREATE TABLE IF NOT EXISTS begun (terms TEXT NOT NULL)")
                file.execute("CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, entry TEXT NOT NULL)")
                if file.execute("SELECT 1 FROM begun UNION SELECT 1 FROM entries").fetchone() is None:
                    file.execute("INSERT INTO begun VALUES (?)", (self._terms,))
        except sqlite3.Error:
            file.close()
            raise
        return file


def to_os_error(error: sqlite3.Error) -> OSError:
    """Say as an error of the system what kept SQLite from writing."""
    return OSError(_ERRNO.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, errno.EINVAL), str(error))


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


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe in what two configurations differ, empty where in nothing: a key with its values, and how many more.

    The digest of the scenario alone says only that something is different at other nodes.
    """
    old, new = _flatten(before), _flatten(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if not keys:
        return ""
    if keys == ["scenario"]:
        return "settings of other nodes have changed"
    first, *more = [key for key in keys if key != "scenario"]
    also = f", and {len(more)} more values have changed" if more else ""
    return f"{first} was {_shorten(old.get(first))} and is {_shorten(new.get(first))}{also}"


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    """List the values in a tree of JSON by their paths."""
    if isinstance(value, Mapping) and value:
        parts = {f"{path}.{key}" if path else key: part for key, part in value.items()}
    elif isinstance(value, list) and value:
        parts = {f"{path}.{number}": part for number, part in enumerate(value)}
    else:
        return {path: value}
    return {key: found for name, part in parts.items() for key, found in _flatten(part, name).items()}


def _shorten(value: Any) -> str:
    return "not given" if value is None else json.dumps(value)[:40]
