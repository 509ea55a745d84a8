"""The tables of a run: tidy, a row per observation, units in the names of columns.

Each table is a function from scenario and outcome to columns, the game's own (`GameReport.tables`); those below hold
for all games. `session` counts from 1, and so does `slot` within its session.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from stackelgrid.report.columns import Cell, Columns, encode_csv, encode_parquet, stack
from stackelgrid.report.game import find_report
from stackelgrid.report.run_folder import RunFolder
from stackelgrid.run_record import Outcome
from stackelgrid.text_file import replace_file


def write(run: RunFolder) -> None:
    """Write the tables of a run into its folder, tables/NAME.csv and tables/NAME.parquet each. Raises `OSError`."""
    folder = run.folder / "tables"
    folder.mkdir(exist_ok=True)
    for name, columns in tabulate(run):
        replace_file(folder / f"{name}.csv", encode_csv(columns))
        replace_file(folder / f"{name}.parquet", encode_parquet(columns))


def tabulate(run: RunFolder) -> Iterator[tuple[str, Columns]]:
    """Give each table that has rows, with its name: the game's, `rounds` and `sessions`."""
    outcome = run.result.outcome
    found: dict[str, Columns] = {"rounds": tabulate_rounds(run), "sessions": tabulate_sessions(run)}
    if outcome is not None:
        for name, tabulate_one in find_report(run.result.game).tables.items():
            found[name] = stack([{"session": 1, **_add_times(tabulate_one(run.scenario, outcome), outcome)}])
    for name, columns in found.items():
        if any(map(len, columns.values())):
            yield name, columns


def _add_times(columns: Columns, outcome: Outcome) -> Columns:
    """Add, beside the slots of a table, the times at which they begin, where the outcome has some."""
    if outcome.times is None or "slot" not in columns:
        return columns
    times = [outcome.times[slot - 1] for slot in columns["slot"]]
    before = dict(islice(columns.items(), [*columns].index("slot") + 1))
    return {**before, "time": times, **columns}


def tabulate_rounds(run: RunFolder) -> dict[str, list[Cell]]:
    """Tabulate rounds.jsonl, a row per round: its numbers by their keys there, and how many members were missing."""
    rows = []
    for record in run.rounds:
        own = record.model_extra or {}
        missing = {key: len(own[key]) for key in ("quarantined",) if isinstance(own.get(key), list)}
        numbers = {key: value for key, value in own.items() if _is_cell(value)}
        missing |= {"held": len(record.held), "excluded": len(record.excluded), "again": record.again}
        rows.append({"session": 1, "round": record.round, "residual": record.residual, **numbers, **missing})
    return stack(rows)


def tabulate_sessions(run: RunFolder) -> dict[str, list[Cell]]:
    """Tabulate the sessions, a row each: how it ended, what it took, and the game's totals of it."""
    result = run.result
    keys = ("settled", "complete", "rounds", "questions", "messages", "bytes")
    row = {"session": 1, "slots": run.scenario.slots, **{key: getattr(result, key) for key in keys}}
    if result.outcome is not None:
        row |= find_report(result.game).totals(run.scenario, result.outcome)
    return stack([row])


def _is_cell(value: Any) -> bool:
    return isinstance(value, Cell)
