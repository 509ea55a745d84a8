"""`stackelgrid runs` and `compare`: the runs in runs/, alone and side by side."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stackelgrid.cli.console import print_pairs, to_line
from stackelgrid.errors import ConfigError

if TYPE_CHECKING:
    from stackelgrid.store.summary import RunSummary

ROOT = Path("runs")
_LEAST = 16
"""Characters of the scenario that the list on a terminal has room for, if need be without other columns."""

runs = typer.Typer(
    name="runs",
    invoke_without_command=True,
    rich_markup_mode=None,
    help="List, show, compare and remove the runs in runs/.",
)


def complete_run(incomplete: str) -> list[str]:
    """Complete the name of a run in runs/."""
    from stackelgrid.store.run_store import RunStore

    return [run.id for run in RunStore(ROOT).list() if run.id.startswith(incomplete)]


Run = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="The name of the run's folder in runs/, or a run's folder.",
        autocompletion=complete_run,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]


@runs.callback()
def choose(context: typer.Context, as_json: AsJson = False) -> None:
    """List the runs where no command is given."""
    if context.invoked_subcommand is None:
        list_runs(as_json)
    elif as_json:
        raise ConfigError(f"--json: write it behind {context.invoked_subcommand}")


@runs.command("list")
def list_runs(as_json: AsJson = False) -> None:
    """List the runs, the newest first."""
    from stackelgrid.store.run_store import RunStore

    found = RunStore(ROOT).list()
    if as_json:
        print(json.dumps([run.model_dump() for run in found]))
    elif not found:
        print(f"no runs in {ROOT}; stackelgrid run plays one")
    else:
        _print_list(found)


@runs.command()
def show(run: Run, as_json: AsJson = False) -> None:
    """Show how a run ended, and what it was played with."""
    from stackelgrid.store.summary import read_mapping, summarise

    folder = find_folder(run)
    summary = summarise(folder)
    readable = summary.state != "unreadable"
    manifest, result = (
        read_mapping(path) if readable and (path := folder / name).is_file() else {}
        for name in ("manifest.json", "result.json")
    )
    if as_json:
        print(json.dumps({**summary.model_dump(), "folder": str(folder), "manifest": manifest, "result": result}))
    else:
        _print_run(folder, summary, manifest, has_result=bool(result))


@runs.command()
def diff(one: Run, other: Run, as_json: AsJson = False) -> None:
    """List what differs between two runs: scenario, key figures."""
    from stackelgrid.store.comparison import list_differences, read_run, spell
    from stackelgrid.store.comparison_page import spell_value

    read = [read_run(run, find_folder(run)) for run in (one, other)]
    keys, figures = list_differences(*read)
    if as_json:
        print(json.dumps({"runs": [one, other], "scenario": keys, "figures": figures}))
        return
    rows = [[key, *map(spell_value, values)] for key, values in keys.items()]
    rows += [[label, *map(spell, values)] for label, values in figures.items()]
    if rows:
        _print_table([["", one, other], *rows])
    else:
        print("no differences")


def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="ID ID …", help="Runs in runs/, or folders of runs.", autocompletion=complete_run),
    ],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder; a new one under runs/.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print comparison.json, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Compare runs that have ended.

    The folder has a page with key figures and with loads and prices over each other, and the same as a table.
    """
    from stackelgrid.store import comparison_page
    from stackelgrid.store.comparison import read_run, spell_row, tabulate_figures
    from stackelgrid.testbed import run_folder

    if len(set(names)) < len(names) or len(names) < 2:
        raise ConfigError(f"{' '.join(names)}: give two runs or more, each once")
    read = [read_run(name, find_folder(name)) for name in names]
    folder = run_folder.create_under_runs("comparison") if out is None else run_folder.create(out)
    page = comparison_page.write(folder, read)
    if as_json:
        print((folder / "comparison.json").read_text(encoding="utf-8"))
    else:
        _print_table([["", *names], *([label, *spell_row(row)] for label, row in tabulate_figures(read).items())])
        print(f"report: {page}")


@runs.command()
def rm(run: Run) -> None:
    """Remove the folder of a run that has ended."""
    from stackelgrid.store.run_store import RunStore

    RunStore(ROOT).remove(run)


def find_folder(run: str) -> Path:
    """Find the folder of a run: one in runs/, or else that of a run elsewhere."""
    from stackelgrid.store.run_store import NoRunError, RunStore, is_run

    try:
        return RunStore(ROOT).find(run)
    except NoRunError:
        if is_run(Path(run)):
            return Path(run)
        raise


def _print_table(rows: list[list[str]]) -> None:
    """Print a table whose first row is its head; what is not for a terminal has a line per row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*map(to_line, rows[0]), box=None, pad_edge=False)
    for row in rows[1:]:
        table.add_row(*map(to_line, row))
    width = None if sys.stdout.isatty() else 10_000
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def _print_list(found: list[RunSummary]) -> None:
    """Print a line per run; on a terminal without the columns that it has no room for, the last one cut."""
    head = ["id", "state", "game", "homes", "rounds", "started", "scenario"]
    columns = {row[0]: row for row in zip(head, *map(_make_row, found), strict=True)}
    widths = {name: max(map(len, texts)) for name, texts in columns.items()}
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for name in ("game", "rounds", "homes"):
        least = sum(widths.values()) + 2 * (len(widths) - 1) - max(widths["scenario"] - _LEAST, 0)
        if width is not None and least > width:
            del widths[name]
    for row in zip(*(columns[name] for name in widths), strict=True):
        aligned = [
            text.rjust(size) if name in ("homes", "rounds") else text.ljust(size)
            for (name, size), text in zip(widths.items(), row, strict=True)
        ]
        line = "  ".join(aligned).rstrip()
        print(line if width is None or len(line) <= width else f"{line[: width - 1]}…")


def _make_row(run: RunSummary) -> list[str]:
    homes, rounds = ("" if each is None else f"{each:,}" for each in (run.homes, run.rounds))
    row = [run.id, run.state, run.game or "", homes, rounds, _tell_time(run.started), run.message or run.scenario or ""]
    return [*map(to_line, row)]


def _print_run(folder: Path, summary: RunSummary, manifest: dict[str, Any], *, has_result: bool) -> None:
    from stackelgrid.report import tables
    from stackelgrid.report.page import describe_manifest
    from stackelgrid.report.run_folder import read_result

    rows = [("Run", str(folder)), ("State", summary.state)]
    if summary.message:
        rows.append(("Message", summary.message))
    if has_result:
        rows += tables.summary(read_result(folder / "result.json"))
    else:
        known = {"Scenario": summary.scenario, "Game": summary.game, "Homes": summary.homes}
        rows += [(label, str(value)) for label, value in known.items() if value is not None]
    rows += [(label.capitalize(), value) for label, value in describe_manifest(manifest)]
    print_pairs(rows)


def _tell_time(started: str | None) -> str:
    """Tell when a run began, by the clock of this machine."""
    try:
        return "" if started is None else f"{datetime.fromisoformat(started).astimezone():%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return started or ""
