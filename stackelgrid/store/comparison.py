"""Runs side by side: their key figures, and the keys of their scenarios in which they differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from stackelgrid.columns import Cell
from stackelgrid.report import tables
from stackelgrid.report.days import name_total
from stackelgrid.report.game import find_report
from stackelgrid.report.run_folder import RunFolder, read
from stackelgrid.report.words import number, relative

TIME = "Time (s)"
"""The figure that differs from run to run of one scenario."""


@dataclass(frozen=True)
class ComparedRun:
    """A run that has ended, by the name that it has in a comparison."""

    name: str
    content: RunFolder

    @cached_property
    def figures(self) -> dict[str, Cell]:
        """The key figures by their labels: how it went and what the certificate says, then those of its game.

        Those of the game are its `GameReport.totals`; of several sessions, whose slots overlap, the report's words.
        """
        result = self.content.result
        figures: dict[str, Cell] = {
            "Settled": result.settled,
            **dict(tables.verdict(result)),
            "Rounds": result.rounds,
            "Questions": result.questions,
            "Messages": result.messages,
            "Bytes": result.bytes,
            TIME: result.elapsed_s,
            "Faults": sum(result.faults.values()),
            "Missed answers": len(result.missing),
            "Homes settled": result.homes_settled,
        }
        if result.sessions:
            figures |= dict(tables.key_figures(result))
        elif result.outcome is not None:
            totals = find_report(result.game).totals(self.content.sessions[0].scenario, result.outcome)
            figures |= {name_total(key, result.money): value for key, value in totals.items()}
        return figures

    @cached_property
    def scenario(self) -> dict[str, Any]:
        """The scenario by key, with the values that its file leaves out; a file of data by its name and content.

        Title and `calibrated` are left out: they tell of the other keys, and change nothing in a run.
        """
        told = {"title", "calibrated"}
        content: dict[str, Any] = self.content.scenario.model_dump(mode="json", by_alias=True, exclude=told)
        named: dict[str, Any] = _name_data(content, self.content.folder.resolve())
        return named


def _name_data(value: Any, folder: Path) -> Any:
    """Name the copies of data files in a run's folder by what is in them, wherever in a scenario they are."""
    if isinstance(value, dict):
        return {key: _name_data(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_name_data(each, folder) for each in value]
    if isinstance(value, str) and (path := Path(value)).is_absolute() and path.parent == folder and path.is_file():
        return f"{path.name}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    return value


def read_run(name: str, folder: Path) -> ComparedRun:
    """Read a run that has ended. Raises `ReportError`."""
    return ComparedRun(name, read(folder))


def tabulate_figures(runs: Sequence[ComparedRun]) -> dict[str, list[Cell]]:
    """Tabulate the key figures of runs: by label, that of each run."""
    labels = dict.fromkeys(label for run in runs for label in run.figures)
    return {label: [run.figures.get(label) for run in runs] for label in labels}


def list_differences(one: ComparedRun, other: ComparedRun) -> tuple[dict[str, Any], dict[str, Any]]:
    """List the scenario's keys and the key figures in which two runs differ, each with both values.

    Figures differ where the words for them do: the last digits of two runs are rounding.
    """
    figures = {
        label: values
        for label, values in tabulate_figures([one, other]).items()
        if label != TIME and spell(values[0]) != spell(values[1])
    }
    return list_keys([one, other]), figures


def list_keys(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """List the keys of their scenarios in which runs differ, each with the value of every run."""
    return dict(_compare("", [run.scenario for run in runs]))


def _compare(path: str, values: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Compare what JSON holds, key by key; lists of different lengths are one value."""
    if all(isinstance(value, dict) for value in values):
        for key in dict.fromkeys(key for value in values for key in value):
            yield from _compare(f"{path}.{key}".lstrip("."), [value.get(key) for value in values])
    elif all(isinstance(value, list) for value in values) and _are_rows(values):
        for place, row in enumerate(zip(*values, strict=True)):
            yield from _compare(f"{path}.{place}", row)
    elif any(value != values[0] for value in values):
        yield path, [*values]


def _are_rows(lists: Sequence[list[Any]]) -> bool:
    """Tell whether lists are equally long, and have keys to compare."""
    same_length = len({len(each) for each in lists}) == 1
    return same_length and any(isinstance(value, dict) for each in lists for value in each)


def spell(cell: Cell) -> str:
    """Write a figure for people."""
    match cell:
        case None:
            return "–"
        case bool():
            return "yes" if cell else "no"
        case float():
            return number(cell)
        case int():
            return f"{cell:,}"
    return str(cell)


def spell_row(cells: Sequence[Cell]) -> list[str]:
    """Write a figure of several runs, with its relative change from that of the first."""
    first, *others = cells
    return [spell(first), *(_spell_changed(cell, first) for cell in others)]


def _spell_changed(cell: Cell, first: Cell) -> str:
    words = spell(cell)
    if words == spell(first) or not _is_number(cell) or not _is_number(first) or first <= 0:
        return words
    return f"{words} ({relative(cell / first - 1)})"


def _is_number(cell: Cell) -> TypeGuard[float]:
    return isinstance(cell, int | float) and not isinstance(cell, bool)
