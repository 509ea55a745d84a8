"""The tables of a run: tidy, a row per observation, units in the names of columns.

They are defined once, for CSV, Parquet and pandas. Each is a function from scenario and outcome to columns, the game's
own (`GameReport.tables`); those below hold for all games. `session` counts from 1, and so does `slot` within it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from stackelgrid.columns import Cell, Column, Columns, encode_csv, encode_parquet, stack
from stackelgrid.report import days
from stackelgrid.report.clock import read_times
from stackelgrid.report.game import find_report
from stackelgrid.report.run_folder import PlayedSession, ReportError, RoundRecord, RunFolder
from stackelgrid.run_result import RoundTraffic
from stackelgrid.text_file import replace_file


def build(run: RunFolder, followed: days.Days | None) -> dict[str, Columns]:
    """Build the tables of a run that have rows."""
    built = {name: tabulate() for name, tabulate in list_tables(run, lambda: followed).items()}
    return {name: columns for name, columns in built.items() if has_rows(columns)}


def write(run: RunFolder, tables: Mapping[str, Columns]) -> None:
    """Write tables into a run's folder, tables/NAME.csv and tables/NAME.parquet each. Raises `OSError`."""
    folder = run.folder / "tables"
    folder.mkdir(exist_ok=True)
    for name, columns in tables.items():
        replace_file(folder / f"{name}.csv", encode_csv(columns))
        replace_file(folder / f"{name}.parquet", encode_parquet(columns))


def list_tables(run: RunFolder, follow: Callable[[], days.Days | None]) -> dict[str, Callable[[], Columns]]:
    """List the tables of a run by name, each as the function that builds it: those of all games, and the game's own.

    `follow` gives the days of the run, which takes long; it is called where a table needs them.
    """
    played = [each for each in run.sessions if each.outcome is not None]

    def stack_sessions(tabulate_one: Callable[[Any, Any], Columns]) -> Columns:
        return stack(_place(tabulate_one(each.scenario, each.outcome), each) for each in played)

    def tabulate_followed(tabulate: Callable[[days.Days], Columns]) -> Columns:
        followed = follow()
        return {} if followed is None else tabulate(followed)

    report = find_report(run.result.game)
    return {
        **{name: partial(stack_sessions, tabulate_one) for name, tabulate_one in report.tables.items()},
        "rounds": partial(tabulate_rounds, run),
        "messages": partial(tabulate_messages, run),
        "sessions": partial(tabulate_sessions, run),
        **(
            {
                "days": partial(tabulate_followed, days.tabulate_days),
                "savings": partial(tabulate_followed, days.tabulate_savings),
            }
            if days.is_followed(run, report.courses)
            else {}
        ),
    }


def tabulate(run: RunFolder, name: str, follow: Callable[[], days.Days | None]) -> Columns:
    """Build one table. Raises `ReportError` when the run has no such table, and names those that there are."""
    tables = list_tables(run, follow)
    columns = tables[name]() if name in tables else {}
    if has_rows(columns):
        return columns
    found = f"it has {', '.join(each for each in tables if each != name)}" if run.rounds else "no round was finished"
    raise ReportError(f"{name}: this run of {run.result.game} has no such table; {found}")


def has_rows(columns: Columns) -> bool:
    """Tell whether a table has a row."""
    return any(map(len, columns.values()))


def _place(columns: Columns, played: PlayedSession) -> dict[str, Cell | Column]:
    """Add the session to a table and, beside its slots, the times at which they begin and whether they bind."""
    placed: dict[str, Cell | Column] = {"session": played.session.number}
    times, start = read_times(played.outcome), played.session.start
    for name, column in columns.items():
        placed[name] = column
        if name == "slot" and times is not None and start is not None:
            placed["time"] = [times[slot - 1].astimezone(start.tzinfo) for slot in column]
        if name == "slot" and start is not None:
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


def tabulate_messages(run: RunFolder) -> dict[str, list[Cell]]:
    """Tabulate what was sent in each round of the leader, a row between leader and aggregators, one below them.

    The last row has no round: presence, settlement, receipts, and what came to nobody.
    """
    records = {record.round: record for record in run.rounds}
    rows: list[dict[str, Cell]] = []
    for sent in run.result.traffic:
        if sent.round is None:
            rows.append({"messages": sent.messages, "bytes": sent.bytes})
        elif sent.round in records:
            rows += _divide_at_aggregators(sent, records[sent.round])
    return stack(rows)


def _divide_at_aggregators(sent: RoundTraffic, record: RoundRecord) -> Iterator[dict[str, Cell]]:
    """Divide what was sent in a round into what the leader's journal counts, and the rest."""
    both = sent.model_dump(exclude={"round"})
    above = {key: int(record.number(key) or 0) for key in both}
    below = {"questions": sent.questions} | {key: both[key] - above[key] for key in ("messages", "bytes")}
    session = (record.model_extra or {}).get("session", 1)
    for link, counts in (("leader-aggregators", above), ("aggregators-homes", below)):
        if counts["messages"]:
            yield {"session": session, "round": record.round, "link": link, **counts}


def tabulate_sessions(run: RunFolder) -> dict[str, list[Cell]]:
    """Tabulate the sessions, a row each: how it ended, what it took, and the game's totals of it."""
    keys = ("settled", "complete", "rounds", "questions", "messages", "bytes")
    totals = find_report(run.result.game).totals
    return stack(
        {
            "session": each.session.number,
            **({} if each.session.start is None else {"start": each.session.start}),
            "slots": each.session.slots,
            **({} if each.session.start is None else {"binding": each.session.binding}),
            **{key: getattr(each.result, key) for key in keys},
            **({} if each.outcome is None else totals(each.scenario, each.outcome)),
        }
        for each in run.sessions
    )


def _is_cell(value: Any) -> bool:
    return isinstance(value, Cell)
