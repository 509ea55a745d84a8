"""A coordinator's ledger on disk, in SQLite."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stackelgrid.errors import ConfigError
from stackelgrid.rounds.ledger import Entry


class SqliteLedger:
    """Entries in a SQLite file, readable by its owner only, each on disk when `append` returns.

    A write-ahead log makes an entry one fsync; one half-written at a power cut is dropped. Raises
    `ConfigError` for a file that is no ledger of this run and node.
    """

    def __init__(self, path: Path, run: str, node: str) -> None:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = FULL")
            self._file.execute("CREATE TABLE IF NOT EXISTS whose (run TEXT, node TEXT)")
            self._file.execute("CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, entry TEXT NOT NULL)")
            whose = self._file.execute("SELECT run, node FROM whose").fetchone()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be opened ({error.strerror}); name another ledger_file") from None
        except sqlite3.Error as error:
            raise ConfigError(f"{path}: not a ledger ({error}); move it away or name another ledger_file") from None
        if whose is None:
            self._file.execute("INSERT INTO whose VALUES (?, ?)", (run, node))
        elif whose != (run, node):
            raise ConfigError(
                f"{path}: the ledger of {whose[1]} in run {whose[0]}, not of {node} in run {run}; "
                "move it away or name another ledger_file"
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the entries from the first on."""
        for (entry,) in self._file.execute("SELECT entry FROM entries ORDER BY number"):
            yield json.loads(entry)

    def append(self, entry: Entry) -> None:
        """Write an entry and have the disk confirm it."""
        self._file.execute("INSERT INTO entries (entry) VALUES (?)", (json.dumps(entry, allow_nan=False),))
