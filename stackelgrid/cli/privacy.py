"""`stackelgrid attack`: attacks on the privacy of a scenario's homes, measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stackelgrid.cli.console import open_stderr, print_columns
from stackelgrid.cli.options import Quiet, Sets, Source
from stackelgrid.errors import ConfigError

if TYPE_CHECKING:
    from stackelgrid.attacks.findings import Level

_LARGEST_GROUP = 1000
"""A larger one would take hours to draw and to attack."""


def attack(
    scenario: Source,
    level: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SUMS[/SENSITIVITY]", help="off, committee, off/full, committee/none ...; may be repeated. All."
        ),
    ] = None,
    group: Annotated[str, typer.Option(metavar="N,N", help="Homes of a group.")] = "15,20,50,200",
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the table into this page instead: docs/privacy.md.")
    ] = None,
    sets: Sets = None,
    quiet: Quiet = False,
) -> None:
    """Attack the privacy of homes.

    Homes are drawn as the scenario draws its own. A cell has the relative error of what an attack recovers, and of
    guessing sum/n; ! says that it beats guessing by more than a tenth.
    """
    from stackelgrid.attacks import page, suite
    from stackelgrid.cli.progress import ProgressDisplay
    from stackelgrid.scenarios import load
    from stackelgrid.text_file import read_text, replace_file

    levels, sizes = _choose_levels(level), _read_sizes(group)
    loaded = load(scenario, sets or [])
    try:
        around = None if write is None else page.cut_table(read_text(write), str(write))
    except ValueError as error:
        raise ConfigError(f"{write}: {error}") from None
    findings = []
    with ProgressDisplay(open_stderr(), quiet=quiet) as display:
        for finding in suite.play(loaded, levels, sizes):
            findings.append(finding)
            display.show(f"{finding.level}, {finding.group} homes, {finding.attack}")
    if write is not None and around is not None:
        replace_file(write, page.write_table(findings).join(around).encode())
    else:
        print_columns(page.tabulate(findings))


def _choose_levels(wanted: list[str] | None) -> list[Level]:
    """Choose the levels that are wanted, all of them when none is named."""
    from stackelgrid.attacks.findings import LEVELS

    known = {str(level) for level in LEVELS} | {level.sums for level in LEVELS}
    for name in wanted or []:
        if name not in known:
            raise ConfigError(f"--level {name}: it is none of {', '.join(sorted(known))}; name one of these")
    return [level for level in LEVELS if wanted is None or {str(level), level.sums} & set(wanted)]


def _read_sizes(text: str) -> list[int]:
    """Read the sizes of groups."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not 5 <= min(sizes) <= max(sizes) <= _LARGEST_GROUP:
        raise ConfigError(f"--group {text}: give numbers from 5 to {_LARGEST_GROUP} with commas between, as 15,50")
    return sizes
