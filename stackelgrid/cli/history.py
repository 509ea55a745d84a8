"""`stackelgrid history`: what a node remembers of its sessions."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from stackelgrid.errors import ConfigError


def history(
    place: Annotated[
        Path, typer.Argument(metavar="[FILE|FOLDER]", help="The history_file of a node, or a folder with some.")
    ] = Path(),
    since: Annotated[str | None, typer.Option(metavar="DATE", help="From this day on, as 2026-03-28.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Up to this day, included.")] = None,
    table: Annotated[str | None, typer.Option(metavar="NAME", help="Print this table as CSV.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="DIR", help="Write all tables into a folder.")] = None,
    parquet: Annotated[Path | None, typer.Option(metavar="DIR", help="The same, as Parquet.")] = None,
    postgres: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Write all tables to a database, postgresql://USER@HOST/DATABASE."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a table, by default of sessions, as JSON.")] = False,
) -> None:
    """Show what nodes remember of their sessions.

    A line per session, or per day where there are many: of the leader, if its history is there. Each table can be
    printed or written for all nodes at once.
    """
    from stackelgrid.columns import encode_csv, encode_parquet
    from stackelgrid.history import command
    from stackelgrid.history.tables import Period

    period = Period(
        None if since is None else command.read_day(since, "--since"),
        None if until is None else command.read_day(until, "--until"),
    )
    with ExitStack() as stack:
        histories = command.open_histories(place, stack)
        written = [] if csv is None else command.export(histories, csv, "csv", encode_csv, period)
        written += [] if parquet is None else command.export(histories, parquet, "parquet", encode_parquet, period)
        for path in written:
            print(path)
        if postgres is not None:
            for name, count in _import_postgres().write(postgres, histories, period).items():
                print(f"{name}: {count:,} rows")
        if table or as_json:
            print(command.print_table(histories, table or "sessions", period, as_json=as_json))
        elif not (csv or parquet or postgres):
            print(command.show(histories, period))


def _import_postgres() -> ModuleType:
    try:
        from stackelgrid.history import postgres
    except ModuleNotFoundError as error:
        raise ConfigError(f"--postgres: {error.name} is not installed; pip install 'stackelgrid[postgres]'") from None
    return postgres
