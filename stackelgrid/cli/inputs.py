"""`stackelgrid init`, `check`, `scenarios`, `schema`, `data`: begin, and look at what can be played."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stackelgrid.cli.console import CommandError, open_stderr
from stackelgrid.cli.options import Faults, Seed, Sets, complete_game
from stackelgrid.errors import ExitCode

if TYPE_CHECKING:
    from stackelgrid.scenarios import Scenario


def check(
    source: Annotated[str, typer.Argument(metavar="SCENARIO|PLAN", help="A scenario or a fault plan: file or name.")],
    sets: Sets = None,
    seed: Seed = None,
    faults: Faults = None,
) -> None:
    """Validate a scenario or a fault plan.

    Nothing is run. With --faults the plan is also checked against the scenario.
    """
    from stackelgrid.report.words import plural
    from stackelgrid.scenarios import load
    from stackelgrid.testbed import fault_plans

    if fault_plans.is_plan(source):
        plan = fault_plans.load(source)
        print(f"{source}: a fault plan with {plural(len(plan.faults), 'fault')}; no errors")
        return
    checked = load(source, sets, seed, show=print)
    description = (
        f"a {checked.game} game of {plural(len(checked.everyone), 'home')}, "
        f"{plural(checked.aggregators, 'aggregator')} and {plural(checked.slots, 'slot')}"
    )
    if faults is not None:
        count = plural(len(fault_plans.fit(faults, checked).faults), "fault")
        description += f", with {count} of {faults}"
    print(f"{source}: {description}; no errors")
    print_doubts(source, checked)


def print_doubts(source: str, checked: Scenario) -> None:
    """Print what can be played and is probably meant otherwise."""
    for doubt in checked.find_doubts():
        open_stderr().print(f"{source}: {doubt}", markup=False)


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; it must not exist.")] = Path(
        "scenario.yaml"
    ),
    game: Annotated[
        str,
        typer.Option(metavar="GAME", help="One of the games of `stackelgrid scenarios`.", autocompletion=complete_game),
    ] = "user_oriented",
) -> None:
    """Write a commented scenario to begin with.

    It can be checked and run as it is.
    """
    from stackelgrid.scenarios import read_template
    from stackelgrid.text_file import write_text

    template = read_template(game)
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        raise CommandError(ExitCode.BAD_INPUT, f"{file}: it exists already; name a new file") from None
    try:
        write_text(file, template)
    except OSError:
        file.unlink()
        raise
    print(f"{file}: a {game} game; change it, then: stackelgrid run {shlex.quote(str(file))}")


def scenarios() -> None:
    """List the shipped case studies and fault plans."""
    from stackelgrid.scenarios import list_shipped, load
    from stackelgrid.testbed import fault_plans

    games = {name: load(name).title for name in list_shipped()}
    plans = {name: fault_plans.load(name).title for name in fault_plans.list_shipped()}
    width = max(map(len, [*games, *plans]))
    print(*(f"{name:{width}}  {title}" for name, title in games.items()), sep="\n")
    print("\nfault plans, for run --faults:")
    print(*(f"{name:{width}}  {title}" for name, title in plans.items()), sep="\n")


def schema(
    game: Annotated[
        str,
        typer.Argument(metavar="GAME", help="One of `stackelgrid scenarios`.", autocompletion=complete_game),
    ],
) -> None:
    """Print the JSON Schema of a game's scenario."""
    from stackelgrid.registry import UnknownGameError, find
    from stackelgrid.scenarios.measured import with_data

    try:
        model = find(game).load("scenario")
    except UnknownGameError as error:
        raise CommandError(ExitCode.BAD_INPUT, str(error)) from None
    print(json.dumps(with_data(model.model_json_schema()), indent=2))


def data(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An export of a meter, a portal or a market.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Read it by this key of `data`; may be repeated."),
    ] = None,
) -> None:
    """Print what is in a data file, and keys to read it.

    Also its columns with totals and average days, and what the file does not tell.
    """
    from stackelgrid.scenarios.files import apply_override
    from stackelgrid.scenarios.measured.overview import describe_file

    keys: dict[str, object] = {}
    for override in sets or []:
        apply_override(keys, override)
    options = {re.split(r"[.=]", override, maxsplit=1)[0].strip(): f"--set {override}" for override in sets or []}
    try:
        print(*describe_file(file, keys, options), sep="\n")
    except ValueError as error:
        raise CommandError(ExitCode.BAD_INPUT, str(error)) from None
