"""Histories in a PostgreSQL server that the test starts: an export twice is an export once."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from unit.test_history import play
from unit.test_sessions import two_days

from stackelgrid.errors import ConfigError
from stackelgrid.history.command import open_histories
from stackelgrid.history.summary import to_rows
from stackelgrid.history.tables import TABLES, Period, tabulate
from stackelgrid.scenarios import load

pytest.importorskip("sqlalchemy", reason="no SQLAlchemy here: pip install 'stackelgrid[postgres]'")
pytest.importorskip("psycopg", reason="no psycopg here: pip install 'stackelgrid[postgres]'")

import sqlalchemy as sql

from stackelgrid.history import postgres


def find_programs() -> Path | None:
    """Find the folder of the server's programs, which Debian keeps off the PATH."""
    on_path = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(on_path).resolve().parent if on_path else found[-1].parent if found else None


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of a server of our own, on a socket in a folder of its own."""
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL here: scripts/install-postgresql installs it")
    folder = Path(tempfile.mkdtemp(prefix="stackelgrid-postgres-"))
    rights: dict[str, Any] = {"cwd": folder}
    if os.geteuid() == 0:  # as which no server starts
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        rights |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    data = folder / "data"
    initdb = [programs / "initdb", "-D", data, "-U", "operator", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **rights)
    settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([programs / "postgres", "-D", data, *settings], stderr=log, stdout=log, **rights)
    try:
        ready = [programs / "pg_isready", "-q", "-h", folder, "-U", "operator"]
        until = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode:
            assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.05)
        yield f"postgresql://operator@/postgres?host={folder}"
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(folder)


def read(url: str, table: str) -> list[dict[str, Any]]:
    engine = sql.create_engine(url.replace("postgresql", "postgresql+psycopg"))
    with engine.connect() as connection:
        rows = connection.execute(sql.text(f"SELECT *, xmin::text FROM stackelgrid.{table}")).mappings().all()
    engine.dispose()
    return [dict(row) for row in rows]


def order(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(str(sorted(row.items())) for row in rows)


def test_tables_in_postgres_are_those_of_the_histories(database: str, tmp_path: Path) -> None:
    play(load(two_days(3, days=1, horizon="24h", every="12h")), tmp_path)
    with ExitStack() as stack:
        histories = open_histories(tmp_path, stack)
        first = postgres.write(database, histories[:1], Period())  # the leader's alone
        assert first["sessions"] == 2
        counts = postgres.write(database, histories, Period())
        again = postgres.write(database, histories, Period())
        assert counts == again
        for name in TABLES:
            wanted = to_rows(tabulate(histories, name, Period()))
            found = read(database, name)
            assert len(found) == counts[name] == len(wanted)
            for row in found:
                row.pop("xmin")
            for row in [*found, *wanted]:  # a moment is the same in every zone
                row |= {key: cell.timestamp() for key, cell in row.items() if hasattr(cell, "timestamp")}
            assert order(found) == order(wanted)


def test_database_that_cannot_be_used_is_refused_in_a_line(database: str) -> None:
    for url, message in (
        ("nowhere", r"--postgres: is no address; write it as postgresql://USER@HOST/DATABASE"),
        ("mysql://h/d", r"--postgres: mysql is not written to; write postgresql://USER@HOST/DATABASE"),
        (
            database.replace("/postgres?", "/gone?"),
            r'--postgres postgresql://operator@/gone.*"gone" does not exist; name',
        ),
        ("postgresql://o:secret@127.0.0.1:1/d", r"--postgres postgresql://o:\*\*\*@127.0.0.1:1/d: .*; name a database"),
    ):
        with pytest.raises(ConfigError, match=message) as refusal:
            postgres.write(url, [], Period())
        assert "secret" not in str(refusal.value) and "\n" not in str(refusal.value)


def test_tables_of_another_version_are_left_alone(database: str, tmp_path: Path) -> None:
    play(load(two_days(2, days=1)), tmp_path)
    engine = sql.create_engine(database.replace("postgresql", "postgresql+psycopg"))
    with ExitStack() as stack:
        histories = open_histories(tmp_path, stack)
        postgres.write(database, histories, Period())
        with engine.begin() as connection:
            connection.execute(sql.text("UPDATE stackelgrid.schema_version SET version = 7"))
        before = read(database, "sessions")
        with pytest.raises(ConfigError, match=r"its tables are of version 7, this program writes 1"):
            postgres.write(database, histories, Period())
        assert read(database, "sessions") == before
    engine.dispose()
