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
from stackelgrid.rounds.ledger import Entry


class SqliteLedger:
    """Entries in a SQLite file, readable by its owner only, each on disk when `append` returns.

    A write-ahead log makes an entry one fsync; one half-written at a power cut is dropped. `terms` are what the entries
    depend on, `run`, `name` and the node's settings. Raises `ConfigError` for a file that is no ledger of these terms.
    """

    def __init__(self, path: Path, terms: Mapping[str, Any]) -> None:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = FULL")
            self._file.execute("CREATE TABLE IF NOT EXISTS begun (terms TEXT NOT NULL)")
            self._file.execute("CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, entry TEXT NOT NULL)")
            begun = self._file.execute("SELECT terms FROM begun").fetchone()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be opened ({error.strerror}); name another ledger_file") from None
        except sqlite3.Error as error:
            raise ConfigError(f"{path}: not a ledger ({error}); move it away or name another ledger_file") from None
        if begun is None:
            self._file.execute("INSERT INTO begun VALUES (?)", (json.dumps(terms),))
        elif differences := describe_differences(json.loads(begun[0]), terms):
            raise ConfigError(
                f"{path}: this ledger was begun otherwise, {differences}; give the new run another name, or move the "
                "ledger away"
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the entries from the first on."""
        for (entry,) in self._file.execute("SELECT entry FROM entries ORDER BY number"):
            yield json.loads(entry)

    def append(self, entry: Entry) -> None:
        """Write an entry and have the disk confirm it."""
        self._file.execute("INSERT INTO entries (entry) VALUES (?)", (json.dumps(entry, allow_nan=False),))


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
