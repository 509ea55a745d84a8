"""`stackelgrid certify`, `report`, `replay`: come back to a run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stackelgrid.cli.conclusion import judge
from stackelgrid.cli.console import CommandError, open_stderr
from stackelgrid.cli.options import RequireCertificate, Seed, Sets, complete_scenario
from stackelgrid.cli.runs import Run, complete_run, find_folder
from stackelgrid.errors import ExitCode

if TYPE_CHECKING:
    from stackelgrid.scenarios import Scenario


def _complete_source(incomplete: str) -> list[str]:
    return complete_run(incomplete) + complete_scenario(incomplete)


def certify(
    source: Annotated[
        str,
        typer.Argument(
            metavar="ID|SCENARIO",
            help="A run, its folder, or a scenario to play first.",
            autocompletion=_complete_source,
        ),
    ],
    sets: Sets = None,
    seed: Seed = None,
    samples: Annotated[
        int, typer.Option(metavar="N", help="Random deviations tried in search of a better one.", min=1)
    ] = 200,
    required: RequireCertificate = False,
) -> None:
    """Compare a run with the centralised reference.

    The certificate is printed; that of a folder is also written to its result.json. Of a run of several sessions each
    is certified alone, and a certification that was interrupted goes on with those that are left.
    """
    from stackelgrid import runner
    from stackelgrid.cli.progress import ProgressDisplay
    from stackelgrid.scenarios import list_shipped

    folder = Path(source) if source in list_shipped() else _find_folder(source)
    with ProgressDisplay(open_stderr()) as display:
        if folder.is_dir():
            ended = runner.load(folder)
        else:
            played = _load(source, sets, seed)
            ended = runner.run(played, on_round=lambda record: display.show(f"round {record['round']}"))
        if ended.folder is not None and not ended.result.certifiable:
            message = "not every home answered the last round, so there is no equilibrium of all to certify"
            raise CommandError(ExitCode.BAD_INPUT, f"{folder / 'result.json'}: {message}")
        display.show("certifying")
        try:
            certificate = ended.certify(samples, on_step=display.show)
        except KeyboardInterrupt:
            certified = sum(session.certificate is not None for session in ended.result.sessions)
            if ended.folder is None or not certified:
                raise
            kept = f"{certified} of {len(ended.result.sessions)} sessions are certified, the same command goes on"
            raise CommandError(ExitCode.INTERRUPTED, f"interrupted; {kept}") from None
    print(json.dumps(certificate.root, indent=2, allow_nan=False))
    if not judge(ended, required=required) and required:
        raise typer.Exit(ExitCode.NOT_CERTIFIED)


def report(
    run: Run,
    formats: Annotated[
        str,
        typer.Option(
            "--figures",
            metavar="png,svg,pdf",
            help="Draw the figures in these formats too, one and two columns of a journal wide.",
        ),
    ] = "",
) -> None:
    """Write report.html, the figures and the tables again."""
    from stackelgrid.cli.progress import ProgressDisplay
    from stackelgrid.report import write

    with ProgressDisplay(open_stderr()) as display:
        display.show("drawing")
        page = write(_find_folder(run), formats=[kind.strip() for kind in formats.split(",") if kind.strip()])
    print(page)


def _find_folder(run: str) -> Path:
    """Find the folder of a run; where there is none, give the path of which reading says what is wrong."""
    from stackelgrid.store.run_store import NoRunError

    with suppress(NoRunError):
        return find_folder(run)
    return Path(run)


def _load(source: str, sets: Sequence[str] | None, seed: int | None) -> Scenario:
    """Load a scenario; where there is none of that name, refer to the runs too."""
    from stackelgrid.scenarios import ScenarioError, list_shipped, load

    try:
        return load(source, sets, seed)
    except ScenarioError as error:
        if source in list_shipped() or os.path.lexists(source):
            raise
        raise CommandError(ExitCode.BAD_INPUT, f"{error}; for a run see stackelgrid runs") from None


def replay(
    what: Annotated[str, typer.Argument(metavar="SEED|DIR", help="A seed of the soak test, or a run's folder.")],
) -> None:
    """Play a run again and print its messages.

    The run is played in memory, under its faults; each message and each fault is printed.

    Over MQTT the timing differs from run to run: the replay of such a run is one possible course of it.
    """
    from stackelgrid.soak import replay as soak_replay

    print(soak_replay.replay(what))
