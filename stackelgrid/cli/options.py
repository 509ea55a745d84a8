"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer


def complete_scenario(incomplete: str) -> list[str]:
    """Complete the name of a shipped case study."""
    from stackelgrid.scenarios import list_shipped

    return [name for name in list_shipped() if name.startswith(incomplete)]


def complete_game(incomplete: str) -> list[str]:
    """Complete the name of a game."""
    from stackelgrid.registry import list_games

    return [name for name in list_games() if name.startswith(incomplete)]


def _complete_plan(incomplete: str) -> list[str]:
    from stackelgrid.testbed.fault_plans import list_shipped

    return [name for name in list_shipped() if name.startswith(incomplete)]


_SOURCE = typer.Argument(
    metavar="SCENARIO", help="A YAML file or the name of a shipped case study.", autocompletion=complete_scenario
)
Source = Annotated[str, _SOURCE]
OptionalSource = Annotated[str | None, _SOURCE]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a value of the scenario; may be repeated."),
]
Faults = Annotated[
    str | None,
    typer.Option(
        metavar="PLAN",
        help="What goes wrong: a YAML file or the name of a shipped fault plan.",
        autocompletion=_complete_plan,
    ),
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Seed of everything drawn at random.", min=0)]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no summary; errors only.")]
RequireCertificate = Annotated[
    bool, typer.Option("--require-certificate", help="End with code 5 unless the run has a certificate that passes.")
]
