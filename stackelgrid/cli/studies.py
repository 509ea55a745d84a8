"""`stackelgrid sweep`, `compare-algorithms`, `compare-planning`: play a scenario many times."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stackelgrid.cli.console import CommandError, open_stderr, print_columns
from stackelgrid.cli.options import Quiet, Seed, Sets, Source
from stackelgrid.errors import ExitCode
from stackelgrid.interrupts import allow_interrupts, defer_interrupts

if TYPE_CHECKING:
    from stackelgrid.study.sweep import Study, Sweep


def sweep(
    scenario: Source,
    over: Annotated[
        list[str],
        typer.Option(metavar="KEY.PATH=A:B:STEP", help="Values of a parameter, A to B inclusive, or V1,V2,V3; repeat."),
    ],
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Processes side by side; as many as there are cores.", min=1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The sweep's folder; an existing sweep is continued.")
    ] = None,
    seed: Seed = None,
    sets: Sets = None,
    certified: Annotated[bool, typer.Option("--certify", help="Certify every point.")] = False,
    quiet: Quiet = False,
) -> None:
    """Play a scenario over a grid of values.

    Runs are played in memory and in parallel. A sweep that was interrupted goes on where it was. The folder has a table
    and a figure.
    """
    from stackelgrid.cli.progress import ProgressDisplay
    from stackelgrid.study import grid, table
    from stackelgrid.study import sweep as study
    from stackelgrid.testbed.result import SAMPLES

    overrides = [*(sets or []), *([f"seed={seed}"] if seed is not None else [])]
    planned = study.Study(scenario, tuple(overrides), grid.parse(over), SAMPLES if certified else 0)
    folder = study.begin(planned, out)
    wanted = len(planned.grid.points)
    with defer_interrupts() as interrupts:
        points = study.Sweep(planned, folder)
        try:
            with ProgressDisplay(open_stderr(), wanted, quiet=quiet) as display:
                for _ in points.play(jobs or len(os.sched_getaffinity(0))):
                    completed = len(points.rows)
                    display.show(f"{completed} of {wanted} points", completed=completed)
        except KeyboardInterrupt:
            points = study.Sweep(planned, folder)  # some may be finished and not yet reported
        table.write(folder, planned.grid, points.rows)
        with suppress(KeyboardInterrupt), allow_interrupts():
            _draw(folder, planned, points)
        interrupted = interrupts.take()
    if interrupted:
        kept = f"{len(points.rows)} of {wanted} points are kept"
        message = f"interrupted; {kept}, the command with --out {folder} goes on"
        raise CommandError(ExitCode.INTERRUPTED, message)
    if not quiet:
        print(f"table: {folder / 'table.csv'}\nfigure: {folder / 'figure.png'}")
    problems = [row["problem"] for row in points.rows if row["problem"] is not None]
    if problems:
        message = f"{len(problems)} of {wanted} points did not settle without a problem; the first: {problems[0]}"
        raise CommandError(ExitCode.NOT_SETTLED, message)


def _draw(folder: Path, planned: Study, points: Sweep) -> None:
    from stackelgrid.report.game import find_report
    from stackelgrid.study import drawing

    scenario = planned.scenario()
    labels = {key: label.format(money=scenario.money) for key, label in find_report(scenario.game).labels.items()}
    drawing.write(folder / "figure.png", planned.grid, points.rows, labels)


def compare_algorithms(
    scenario: Source,
    algorithms: Annotated[str, typer.Option(metavar="A,B,C", help="Their names, with commas between.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder; a new one under runs/.")] = None,
    seed: Seed = None,
    sets: Sets = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print comparison.json, and nothing else, on stdout.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Play a scenario by several algorithms of its leader.

    Runs are played in memory, one after the other. The folder has each run, a table, and a figure of how fast each
    comes to the best price found. One that does not settle is a result like another. One that fails is named.
    """
    from stackelgrid.cli.progress import ProgressDisplay
    from stackelgrid.study import comparison, convergence

    with ProgressDisplay(open_stderr(), quiet=quiet) as display:
        compared, folder = comparison.compare(
            scenario,
            [name.strip() for name in algorithms.split(",")],
            sets or [],
            seed,
            out,
            lambda name, record: display.show(f"{name}, round {record['round']}"),
        )
    convergence.write(folder, compared)
    if as_json:
        print(json.dumps(compared.content(), allow_nan=False))
    elif not quiet:
        print_columns(comparison.spell(compared.table))
        print(f"table: {folder / 'table.csv'}\nfigure: {folder / 'figure.png'}")
    if compared.failures:
        raise CommandError(ExitCode.LOST, "; ".join(f"{name} failed: {why}" for name, why in compared.failures.items()))


def compare_planning(
    scenario: Source,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder; a new one under runs/.")] = None,
    seed: Seed = None,
    sets: Sets = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print planning.json, and nothing else, on stdout.")] = False,
    quiet: Quiet = False,
) -> None:
    """Play a scenario with and without planning again.

    It is played as it is, without replanning, and with perfect foresight.

    Runs are played in memory, one after the other. The folder has each run, and a table of what came in the slots that
    bind: energy, imbalance, money, utilities, and what each plan is worth above planning once per horizon.
    """
    from stackelgrid.cli.progress import ProgressDisplay
    from stackelgrid.study import planning

    with ProgressDisplay(open_stderr(), quiet=quiet) as display:
        compared, folder = planning.compare(
            scenario,
            sets or [],
            seed,
            out,
            lambda plan, record: display.show(
                f"{plan.replace('_', ' ')}, session {record.get('session', 1)}, round {record['round']}"
            ),
        )
    if as_json:
        print(json.dumps(compared.model_dump(by_alias=True), allow_nan=False))
    elif not quiet:
        print_columns(planning.spell(compared))
        print(f"table: {folder / 'table.csv'}\nreport: {folder / 'replanned' / 'report.html'}")
    if unsettled := [each.plan.replace("_", " ") for each in compared.plans if not each.settled]:
        message = f"not settled: {', '.join(unsettled)}; their numbers are of the last rounds; raise leader.max_rounds"
        raise CommandError(ExitCode.NOT_SETTLED, message)
