"""The schema of a history, version by version.

Times are whole seconds since 1970, UTC. `run` is the number of a row of `runs`. Slots are counted over the whole run,
from 1.
"""

from __future__ import annotations

import sqlite3

_VERSION_1 = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, run TEXT NOT NULL, scenario TEXT NOT NULL, node TEXT NOT NULL, role TEXT NOT NULL,
    game TEXT NOT NULL, timezone TEXT, UNIQUE (run, scenario, node)
);
CREATE TABLE sessions (
    run INTEGER, session INTEGER, at INTEGER NOT NULL, start INTEGER, first INTEGER NOT NULL, slots INTEGER NOT NULL,
    binding INTEGER NOT NULL, slot_hours REAL NOT NULL, round INTEGER, settled INTEGER, complete INTEGER, ended TEXT,
    homes INTEGER, roster INTEGER, PRIMARY KEY (run, session)
) WITHOUT ROWID;
CREATE TABLE slots (
    run INTEGER, slot INTEGER, session INTEGER NOT NULL, start INTEGER, price REAL NOT NULL, load_kw REAL,
    PRIMARY KEY (run, slot)
) WITHOUT ROWID;
CREATE TABLE members (
    run INTEGER, slot INTEGER, member TEXT, session INTEGER NOT NULL, load_kw REAL NOT NULL, feed_in_price REAL,
    PRIMARY KEY (run, slot, member)
) WITHOUT ROWID;
CREATE TABLE rounds (
    run INTEGER, round INTEGER, inner INTEGER, session INTEGER NOT NULL, at INTEGER NOT NULL, answered INTEGER,
    again INTEGER, questions INTEGER, messages INTEGER, bytes INTEGER, ms REAL, residual REAL,
    PRIMARY KEY (run, round, inner)
) WITHOUT ROWID;
CREATE TABLE missing (
    run INTEGER, round INTEGER, inner INTEGER, member TEXT, action TEXT, session INTEGER NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (run, round, inner, member, action)
) WITHOUT ROWID;
CREATE TABLE meter (start INTEGER PRIMARY KEY, minutes INTEGER NOT NULL, energy_kwh REAL NOT NULL);
CREATE TABLE modes (
    at INTEGER PRIMARY KEY, mode TEXT NOT NULL, override INTEGER NOT NULL, limited INTEGER NOT NULL,
    takes_part INTEGER NOT NULL
);
CREATE INDEX sessions_by_age ON sessions (at);
"""

MIGRATIONS = (_VERSION_1,)
"""The script that leads to each version from the one before; a published one is never changed, only followed."""


class LaterVersionError(Exception):
    """A history that a later version of the program has written."""


def read_version(file: sqlite3.Connection) -> int:
    """Read the version of a history, 0 of a new file. Raises `LaterVersionError`."""
    (version,) = file.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise LaterVersionError(f"is of version {version}, this program knows {len(MIGRATIONS)}; install a later one")
    return int(version)


def is_current(file: sqlite3.Connection) -> bool:
    """Tell whether a history is of the version of today. Raises `LaterVersionError`."""
    return read_version(file) == len(MIGRATIONS)


def migrate(file: sqlite3.Connection) -> None:
    """Bring a history, or a new file, to the version of today. Raises `LaterVersionError`."""
    for version, script in enumerate(MIGRATIONS[read_version(file) :], read_version(file) + 1):
        file.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {version}; COMMIT;")
