"""Histories in an operator's PostgreSQL: the tables of `stackelgrid.history.tables`, as they are exported to CSV.

Rows that are there already are written over, so that a repeated export changes nothing. What nodes forget stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sql
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from stackelgrid.errors import ConfigError
from stackelgrid.history.summary import to_rows
from stackelgrid.history.tables import TABLES, History, Kind, Period, find_kind, tabulate

SCHEMA = "stackelgrid"
"""The schema of the tables in the database, made where it is not there."""
VERSION = 1
"""The version of the tables, kept in `stackelgrid.schema_version`."""

_KEYS = {
    "sessions": ("run", "node", "session"),
    "slots": ("run", "node", "session", "slot"),
    "members": ("run", "node", "session", "slot", "member"),
    "bills": ("run", "node", "session", "member"),
    "rounds": ("run", "node", "round", "inner"),
    "missing": ("run", "node", "round", "inner", "member", "action"),
    "meter": ("run", "node", "time"),
    "modes": ("run", "node", "at"),
}
"""What tells the rows of a table apart."""
_TYPES: Mapping[Kind, Any] = {
    Kind.TEXT: sql.Text(),
    Kind.TIME: sql.DateTime(timezone=True),
    Kind.COUNT: sql.BigInteger(),
    Kind.TRUTH: sql.Boolean(),
    Kind.NUMBER: sql.Double(),
}


def write(url: str, histories: Sequence[History], period: Period) -> dict[str, int]:
    """Write all tables in one transaction; give the number of rows of each. Raises `ConfigError`."""
    address = _read_url(url)
    where = f"--postgres {address.render_as_string(hide_password=True)}"
    engine = sql.create_engine(address.set(drivername="postgresql+psycopg"))
    try:
        with engine.begin() as database:
            tables = _open(database, histories, where)
            return {name: _write_table(database, tables[name], histories, period) for name in TABLES}
    except DBAPIError as error:
        cause = str(error.orig).strip().splitlines()[-1]
        raise ConfigError(f"{where}: {cause}; name a database that you may write to") from None
    finally:
        engine.dispose()


def _read_url(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError:
        raise ConfigError("--postgres: is no address; write it as postgresql://USER@HOST/DATABASE") from None
    if address.drivername not in ("postgresql", "postgres"):
        raise ConfigError(f"--postgres: {address.drivername} is not written to; write postgresql://USER@HOST/DATABASE")
    return address


def _open(database: Connection, histories: Sequence[History], where: str) -> dict[str, sql.Table]:
    """Give the tables, made where they are not there; one export at a time. Raises `ConfigError`."""
    database.execute(sql.text("SELECT pg_advisory_xact_lock(hashtext(:schema))"), {"schema": SCHEMA})
    described = sql.MetaData(schema=SCHEMA)
    version_table = sql.Table("schema_version", described, sql.Column("version", sql.Integer, nullable=False))
    tables = {}
    for name, keys in _KEYS.items():
        columns = histories[0].tabulate(name, Period())
        tables[name] = sql.Table(
            name,
            described,
            *(sql.Column(column, _TYPES[find_kind(name, column)], primary_key=column in keys) for column in columns),
        )
    database.execute(sql.schema.CreateSchema(SCHEMA, if_not_exists=True))
    described.create_all(database)
    version = database.execute(sql.select(version_table.c.version)).scalar()
    if version is None:
        database.execute(version_table.insert().values(version=VERSION))
    elif version != VERSION:
        raise ConfigError(f"{where}: its tables are of version {version}, this program writes {VERSION}")
    return tables


def _write_table(database: Connection, table: sql.Table, histories: Sequence[History], period: Period) -> int:
    rows = to_rows(tabulate(histories, table.name, period))
    if not rows:
        return 0
    if table.name in ("slots", "members"):  # a plan that did not bind is replaced by that of a later session
        for run, node in {(row["run"], row["node"]) for row in rows}:
            database.execute(
                table.delete().where(table.c.run == run, table.c.node == node, table.c.binding == sql.false())
            )
    keys = _KEYS[table.name]
    change = insert(table)
    updates = {column.name: change.excluded[column.name] for column in table.columns if column.name not in keys}
    database.execute(change.on_conflict_do_update(index_elements=list(keys), set_=updates), rows)
    return len(rows)
