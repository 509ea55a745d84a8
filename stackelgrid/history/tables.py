"""The tables of a history: tidy, a row per observation, units in the names of columns.

`docs/history.md` lists all columns. Energies and money are of the binding slots of a session, which are carried out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote
from zoneinfo import ZoneInfo

from stackelgrid.columns import Cell, Columns, stack
from stackelgrid.errors import ConfigError
from stackelgrid.history.schema import LaterVersionError, is_current, migrate, read_version

ENDING = ".history.sqlite"
"""What the file of a history ends with, after the name of its node."""

_SESSIONS = """
WITH planned AS (
    SELECT run, session, avg(price) AS mean_price, slot_hours * sum(load_kw) AS energy_kwh, max(load_kw) AS peak_kw,
        iif(avg(load_kw) > 1e-9, max(load_kw) / avg(load_kw), NULL) AS par, slot_hours * sum(price * load_kw) AS revenue
    FROM slots JOIN sessions USING (run, session) WHERE slot < first + binding GROUP BY run, session
), taken AS (
    SELECT run, session, count(*) AS rounds, sum(questions) AS questions, sum(messages) AS messages, sum(bytes) AS bytes
    FROM rounds GROUP BY run, session
), lacking AS (
    SELECT run, session, group_concat(DISTINCT member) AS missing FROM missing GROUP BY run, session
)
SELECT runs.run, node, role, session, start, slots, binding, settled, complete, ended, homes, roster, rounds, questions,
    messages, bytes, missing, mean_price, energy_kwh, peak_kw, par, revenue, at
FROM sessions AS s JOIN runs ON runs.id = s.run LEFT JOIN planned USING (run, session)
    LEFT JOIN taken USING (run, session) LEFT JOIN lacking USING (run, session)
WHERE {when} ORDER BY s.run, session
"""
_SLOTS = """
SELECT runs.run, node, session, slot - first + 1 AS slot, slots.start AS time, slot < first + binding AS binding,
    price, load_kw, energy_kwh AS metered_kwh
FROM slots JOIN sessions AS s USING (run, session) JOIN runs ON runs.id = s.run
    LEFT JOIN meter ON meter.start = slots.start AND minutes = round(60 * slot_hours)
WHERE {when} ORDER BY s.run, slots.slot
"""
_MEMBERS = """
SELECT runs.run, node, session, slot - first + 1 AS slot, slots.start AS time, slot < first + binding AS binding,
    member, members.load_kw
FROM members JOIN slots USING (run, slot, session) JOIN sessions AS s USING (run, session) JOIN runs ON runs.id = s.run
WHERE {when} ORDER BY s.run, slots.slot, member
"""
_BILLS = """
SELECT runs.run, node, session, s.start, member, slot_hours * sum(members.load_kw) AS energy_kwh,
    slot_hours * sum(members.load_kw * iif(members.load_kw < 0, {fed_in}, price)) AS bill,
    sum(energy_kwh) AS metered_kwh, sum(energy_kwh * iif(energy_kwh < 0, {fed_in}, price)) AS metered_bill,
    count(energy_kwh) AS metered_slots
FROM members JOIN slots USING (run, slot, session) JOIN sessions AS s USING (run, session) JOIN runs ON runs.id = s.run
    LEFT JOIN meter ON meter.start = slots.start AND minutes = round(60 * slot_hours) AND homes = 1
WHERE slot < first + binding AND {when} GROUP BY s.run, session, member ORDER BY s.run, session, member
"""
_ROUNDS = """
SELECT runs.run, node, session, r.round, r.inner, r.at, answered, again, questions, messages, bytes, ms, residual
FROM rounds AS r JOIN sessions AS s USING (run, session) JOIN runs ON runs.id = s.run
WHERE {when} ORDER BY s.run, r.round, r.inner
"""
_MISSING = """
SELECT runs.run, node, session, m.round, m.inner, member, action, why
FROM missing AS m JOIN sessions AS s USING (run, session) JOIN runs ON runs.id = s.run
WHERE {when} ORDER BY s.run, m.round, m.inner, member
"""
_METER = """
SELECT runs.run, node, s.start AS time, minutes, energy_kwh
FROM meter AS s JOIN runs ON runs.id = (SELECT max(id) FROM runs) WHERE {when} ORDER BY s.start
"""
_MODES = """
SELECT runs.run, node, s.at, mode, override, limited, takes_part
FROM modes AS s JOIN runs ON runs.id = (SELECT max(id) FROM runs) WHERE {when} ORDER BY s.at
"""
TABLES = {
    "sessions": _SESSIONS,
    "slots": _SLOTS,
    "members": _MEMBERS,
    "bills": _BILLS.replace("{fed_in}", "min(price, coalesce(feed_in_price, price))"),
    "rounds": _ROUNDS,
    "missing": _MISSING,
    "meter": _METER,
    "modes": _MODES,
}
"""The question to the file that gives each table; `{when}` stands for the sessions asked for."""


class Kind(Enum):
    """What the cells of a column are."""

    TEXT = "text"
    TIME = "time"
    COUNT = "count"
    TRUTH = "truth"
    NUMBER = "number"


_KINDS = {
    **dict.fromkeys(("run", "node", "role", "ended", "member", "action", "why", "missing", "mode"), Kind.TEXT),
    **dict.fromkeys(("start", "time", "at"), Kind.TIME),
    **dict.fromkeys(("session", "slot", "slots", "homes", "roster", "rounds", "round", "inner"), Kind.COUNT),
    **dict.fromkeys(("questions", "messages", "bytes", "answered", "again", "metered_slots", "minutes"), Kind.COUNT),
    **dict.fromkeys(("settled", "complete", "override", "limited", "takes_part"), Kind.TRUTH),
    **dict.fromkeys(("price", "mean_price", "load_kw", "peak_kw", "energy_kwh", "metered_kwh"), Kind.NUMBER),
    **dict.fromkeys(("par", "revenue", "bill", "metered_bill", "ms", "residual"), Kind.NUMBER),
}
_BEGINS = {"meter": "s.start", "modes": "s.at"}
"""When a row of a table is; of a session, when it begins."""


def find_kind(table: str, column: str) -> Kind:
    """Find what the cells of a column of one of `TABLES` are."""
    if column == "binding":  # of a session it counts the slots that bind, of a slot it says whether it does
        return Kind.COUNT if table == "sessions" else Kind.TRUTH
    return _KINDS[column]


@dataclass(frozen=True)
class Period:
    """The days asked for, both included; None is without limit. A session belongs to the day on which it begins."""

    since: date | None = None
    until: date | None = None


class History:
    """A history, open to be read while its node writes it. Raises `ConfigError` for a file that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        zones = {zone for (zone,) in self._file.execute("SELECT DISTINCT timezone FROM runs")}
        self._zone: tzinfo | None = ZoneInfo(zones.pop()) if len(zones) == 1 and None not in zones else None
        if self._zone is None and zones - {None}:
            self._zone = UTC

    @property
    def roles(self) -> set[str]:
        """The roles of the nodes that have written it: as a rule one."""
        return {role for (role,) in self._file.execute("SELECT DISTINCT role FROM runs")}

    def tabulate(self, name: str, period: Period) -> Columns:
        """Build one of `TABLES`."""
        when, bounds = self._limit(period, _BEGINS.get(name, "coalesce(s.start, s.at)"))
        found = self._file.execute(TABLES[name].replace("{when}", when), bounds)
        titles = [column[0] for column in found.description]
        cells = list(zip(*found.fetchall(), strict=True)) or [()] * len(titles)
        return {
            title: [self._read(cell, find_kind(name, title)) for cell in column]
            for title, column in zip(titles, cells, strict=True)
        }

    def _limit(self, period: Period, begins: str) -> tuple[str, list[float]]:
        """Write the condition for rows of a period, and the values in it."""
        conditions, bounds = ["1"], []
        for day, sign in ((period.since, ">="), (period.until and period.until + timedelta(days=1), "<")):
            if day is not None:
                conditions.append(f"{begins} {sign} ?")
                midnight = datetime.combine(day, time(), self._zone)
                bounds.append(midnight.timestamp())
        return " AND ".join(conditions), bounds

    def _read(self, cell: Any, kind: Kind) -> Cell:
        if cell is None:
            return None
        if kind is Kind.TIME:
            return datetime.fromtimestamp(cell, UTC).astimezone(self._zone)
        found: Cell = bool(cell) if kind is Kind.TRUTH else cell
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def find(place: Path) -> list[Path]:
    """Find the histories at a place: a file, or all below a folder. Raises `ConfigError` where there is none."""
    try:
        found = sorted(place.rglob(f"*{ENDING}")) if place.is_dir() else [place]
        if not found:
            raise ConfigError(
                f"{place}: no *{ENDING} is in this folder; name the history_file of a node, or its folder"
            )
        for path in found:
            path.open("rb").close()
    except OSError as error:
        hint = "; try it with sudo" if isinstance(error, PermissionError) else "; name the history_file of a node"
        raise ConfigError(f"{error.filename}: {error.strerror}{hint}") from None
    return found


def tabulate(histories: Iterable[History], name: str, period: Period) -> Columns:
    """Build a table of several histories, one below the other."""
    return stack([history.tabulate(name, period) for history in histories])


def _open(path: Path) -> sqlite3.Connection:
    try:
        file = _connect(path)
        if read_version(file) == 0:
            raise ConfigError(f"{path}: is no history; name the history_file of a node")
        if is_current(file):
            return file
        with closing(file):  # it belongs to its node, which brings it up to date when it next starts
            copy = sqlite3.connect(":memory:", isolation_level=None)
            file.backup(copy)
            migrate(copy)
            return copy
    except LaterVersionError as error:
        raise ConfigError(f"{path}: {error}") from None
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: cannot be read as a history ({error}); name the history_file of a node") from None


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file to be read; in a folder that cannot be written, as it is as long as nobody else writes to it."""
    place = f"file:{quote(str(path.absolute()))}?mode=ro"
    file = sqlite3.connect(place, uri=True, isolation_level=None)
    try:
        file.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:
        file.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        file = sqlite3.connect(f"{place}&immutable=1", uri=True, isolation_level=None)
    return file
