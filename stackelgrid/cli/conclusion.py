"""The closing lines of a run: its summary, its certificate, its troubles, its exit code."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stackelgrid.certify import CERTIFIED_SESSIONS, SolverMissingError, require_solvers
from stackelgrid.cli.console import CommandError, open_stderr, print_pairs
from stackelgrid.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from stackelgrid.runner import Run

_LINES = 20
"""Troubles of nodes that are printed before the rest is left to result.json."""


def conclude(ended: Run, seconds: Mapping[str, float], *, quiet: bool, certified: bool, required: bool) -> None:
    """Print the summary, with the `seconds` that each part of the run took.

    Raises `CommandError` with the exit code of a run that did not settle in good order.
    """
    stderr, folder = open_stderr(), _shorten_folder(ended)
    assert ended.record is not None
    if not quiet:
        _print_summary(ended, seconds)
    missing = certified and ended.result.certifiable and ended.certificate is None
    if missing and not required and not ended.interrupted:
        stderr.print(_explain_absence(ended), markup=False)
    _print_troubles(ended, stderr)
    if not quiet and not ended.interrupted:
        print(f"report: {folder}/report.html")
    passes = ended.interrupted or judge(ended, required=required)
    if ended.interrupted:
        message = f"interrupted; what was found so far is in {folder}, for stackelgrid certify and stackelgrid report"
        if ended.record.interrupted and folder is not None and not (folder / "faults.yaml").exists():
            message += f"; stackelgrid run --resume {shlex.quote(str(folder))} goes on"
        raise CommandError(ExitCode.INTERRUPTED, message)
    if ended.record.lost:
        lost = _list_some(ended.record.conclusion.get("lost") or ended.failures or ["leader"])
        raise CommandError(ExitCode.LOST, f"the run ended without {lost}; what was found so far is in {folder}")
    if ended.failures:
        message = f"the run went on without {_list_some(ended.failures)}; what was found is in {folder}"
        raise CommandError(ExitCode.LOST, message)
    if not ended.settled:
        raise CommandError(ExitCode.NOT_SETTLED, explain_unsettled(ended))
    if required and not passes:
        raise typer.Exit(ExitCode.NOT_CERTIFIED)


def explain_unsettled(ended: Run) -> str:
    """Say why a run has not settled; of one that was not settled in all its sessions, the first that was not."""
    result = ended.result
    unsettled = [number for number, session in enumerate(result.sessions, 1) if not session.settled]
    if len(result.sessions) < 2 or not unsettled:
        why = "" if ended.record is None else ended.record.stopped
        return f"not settled within {result.rounds} rounds; {why or 'raise leader.max_rounds'}"
    first = unsettled[0]
    why = result.sessions[first - 1].stopped or "raise leader.max_rounds"
    return f"{len(unsettled)} of {len(result.sessions)} sessions not settled, the first of them session {first}: {why}"


def judge(ended: Run, *, required: bool) -> bool:
    """Print a certificate that does not pass in one red line, with the reason; where one is `required`, its absence."""
    from rich.markup import escape

    from stackelgrid.report.tables import explain_failure

    if ended.certificate is None:
        failure = _explain_absence(ended) if required else None
    elif ended.certificate.passed is None:
        failure = "the certificate does not pass: nothing in it is judged" if required else None
    else:
        reason = explain_failure(ended.result)
        failure = None if ended.certificate.passed else f"the certificate does not pass: {reason}"
    if failure is not None:
        open_stderr().print(f"[red]{escape(failure)}[/red]")
    return failure is None


def _explain_absence(ended: Run) -> str:
    """Say why a run has no certificate, and what makes one."""
    if not ended.result.certifiable:
        return "not certified: not every home answered the last round, so there is no equilibrium of all to certify"
    try:
        require_solvers()
    except SolverMissingError as error:
        return f"not certified: {error}; then stackelgrid certify {_shorten_folder(ended)}"
    sessions = len(ended.scenario.sessions)
    size = f"{sessions} sessions" if sessions > CERTIFIED_SESSIONS else f"{len(ended.scenario.everyone)} homes"
    return f"not certified, with {size}: stackelgrid certify {_shorten_folder(ended)}"


def _print_troubles(ended: Run, stderr: Console) -> None:
    """Print a line for each node that was lost or left out of every round, and how many homes came late."""
    from rich.markup import escape

    assert ended.record is not None
    record, members = ended.record, ended.scenario.topology.members
    homes = {process: len(each) for processes in members.values() for process, each in processes.items()}
    late = sum(homes[process] for process in record.late)
    if late:
        everybody, gather_s = sum(homes.values()), ended.scenario.rounds.gather_s
        came = f"{everybody - late} of {everybody} homes had come when the first round began"
        stderr.print(f"{came}; raise rounds.gather_s, which is {gather_s:g} s", markup=False)
    troubles: dict[str, list[str]] = {}
    for node, why in ended.failures.items():
        troubles.setdefault(why, []).append(node)
    for node in record.left_out:
        if node not in ended.failures:
            last = record.last_errors.get(node, f"no error, see logs/{node}.jsonl")
            troubles.setdefault(f"was left out of every round; it logged last: {last}", []).append(node)
    for why, nodes in islice(troubles.items(), _LINES):
        stderr.print(f"[red]{_list_some(nodes)}[/red] {escape(why)}")
    if len(troubles) > _LINES:
        stderr.print(
            f"and {len(troubles) - _LINES} more such lines, see {_shorten_folder(ended)}/result.json", markup=False
        )


def _shorten_folder(ended: Run) -> Path | None:
    """Give the run's folder as it is named from the working directory, where it is below that."""
    folder, here = ended.folder, Path.cwd()
    return folder.relative_to(here) if folder is not None and folder.is_relative_to(here) else folder


def _list_some(names: Iterable[str]) -> str:
    """List the first names."""
    some = [*names]
    return ", ".join(some[:5]) + (", …" if len(some) > 5 else "")


def _print_summary(ended: Run, seconds: Mapping[str, float]) -> None:
    from stackelgrid.report.tables import summary

    parts = ", ".join(f"{part} {took:.1f}" for part, took in seconds.items())
    took = f"{sum(seconds.values()):.1f} s: {parts}"
    print_pairs((label, took if label == "Time" else value) for label, value in summary(ended.result, ended.days))
