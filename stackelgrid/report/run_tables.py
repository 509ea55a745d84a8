"""The tables of a run: tidy, a row per observation, units in the names of columns.

Each table is a function from scenario and outcome to columns, the game's own (`GameReport.tables`); those below hold
for all games. `session` counts from 1, and so does `slot` within its session.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stackelgrid.report import days
from stackelgrid.report.columns import Cell, Column, Columns, encode_csv, encode_parquet, stack
from stackelgrid.report.game import find_report
from stackelgrid.report.run_folder import PlayedSession, ReportError, RunFolder
from stackelgrid.text_file import replace_file

if TYPE_CHECKING:
    import pandas as pd


def write(run: RunFolder, followed: days.Days | None) -> None:
    """Write the tables of a run into its folder, tables/NAME.csv and tables/NAME.parquet each. Raises `OSError`."""
    folder = run.folder / "tables"
    folder.mkdir(exist_ok=True)
    for name, columns in tabulate(run, followed):
        replace_file(folder / f"{name}.csv", encode_csv(columns))
        replace_file(folder / f"{name}.parquet", encode_parquet(columns))


def tabulate(run: RunFolder, followed: days.Days | None) -> Iterator[tuple[str, Columns]]:
    """Give each table that has rows, with its name: the game's, `rounds`, `sessions` and, of several days, theirs."""
    played = [each for each in run.sessions if each.outcome is not None]
    found: dict[str, Columns] = {"rounds": tabulate_rounds(run), "sessions": tabulate_sessions(run)}
    for name, tabulate_one in find_report(run.result.game).tables.items():
        found[name] = stack(_place(tabulate_one(each.scenario, each.outcome), each) for each in played)
    if followed is not None:
        found |= {"days": days.tabulate_days(followed), "savings": days.tabulate_savings(followed)}
    for name, columns in found.items():
        if any(map(len, columns.values())):
            yield name, columns


def build_frame(run: RunFolder, followed: days.Days | None, name: str) -> pd.DataFrame:
    """Give a table as pandas reads its Parquet file. Raises `ReportError` when the run has no such table."""
    import pandas as pd

    found = dict(tabulate(run, followed))
    if name not in found:
        there = f"it has {', '.join(found)}" if found else "no round was finished"
        raise ReportError(f"{name}: this run of {run.result.game} has no such table; {there}")
    return pd.read_parquet(io.BytesIO(encode_parquet(found[name])))


def _place(columns: Columns, played: PlayedSession) -> dict[str, Cell | Column]:
    """Add the session to a table and, beside its slots, the times at which they begin and whether they bind."""
    placed: dict[str, Cell | Column] = {"session": played.session.number}
    for name, column in columns.items():
        placed[name] = column
        if name == "slot" and played.outcome.times is not None:
            placed["time"] = [played.outcome.times[slot - 1] for slot in column]
        if name == "slot" and played.session.start is not None:
            placed["binding"] = [slot <= played.session.binding for slot in column]
    return placed


def tabulate_rounds(run: RunFolder) -> dict[str, list[Cell]]:
    """Tabulate rounds.jsonl, a row per round: its numbers by their keys there, and how many members were missing."""
    rows = []
    for record in run.rounds:
        own = record.model_extra or {}
        missing = {"quarantined": len(own["quarantined"])} if isinstance(own.get("quarantined"), list) else {}
        numbers = {key: value for key, value in own.items() if _is_cell(value)}
        missing |= {"held": len(record.held), "excluded": len(record.excluded), "again": record.again}
        first = {"session": 1, "round": record.round, "residual": record.residual}
        rows.append({**first, **numbers, **missing})
    return stack(rows)


def tabulate_sessions(run: RunFolder) -> dict[str, list[Cell]]:
    """Tabulate the sessions, a row each: how it ended, what it took, and the game's totals of it."""
    keys = ("settled", "complete", "rounds", "questions", "messages", "bytes")
    totals = find_report(run.result.game).totals
    return stack(
        {
            "session": each.session.number,
            **({} if each.session.start is None else {"start": each.session.start.isoformat()}),
            "slots": each.session.slots,
            **({} if each.session.start is None else {"binding": each.session.binding}),
            **{key: getattr(each.result, key) for key in keys},
            **({} if each.outcome is None else totals(each.scenario, each.outcome)),
        }
        for each in run.sessions
    )


def _is_cell(value: Any) -> bool:
    return isinstance(value, Cell)
