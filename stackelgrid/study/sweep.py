"""A sweep: one scenario over a grid, in parallel and resumable. Its folder holds

    study.json      the scenario as run, the grid, the versions: what must be the same for a sweep to go on
    scenario.yaml   the scenario, with its data, before any point of the grid is put over it
    points/         the result.json of each finished point, by its number in the grid
    table.csv, table.parquet, figure.png

Every file is written whole or not at all, so that a sweep may be stopped in any way at any time.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackelgrid.errors import ConfigError
from stackelgrid.interrupts import defer_interrupts
from stackelgrid.node.record import write_whole
from stackelgrid.scenarios import Scenario, ScenarioError, dump, load
from stackelgrid.scenarios.yaml_file import parse
from stackelgrid.study import table
from stackelgrid.study.grid import Grid
from stackelgrid.study.point import Point
from stackelgrid.study.worker import play_all
from stackelgrid.testbed import run_folder as store
from stackelgrid.testbed.run_folder import installed_versions

_COMPUTED_BY = ("stackelgrid", "numpy", "daqp", "pydantic")
_CERTIFIED_BY = ("cvxpy", "clarabel", "scipy")


class StudyError(ConfigError):
    """A folder in which a sweep cannot go on; the message names the difference and the mend."""


@dataclass(frozen=True)
class Study:
    """The runs to play: a scenario with `overrides` (KEY.PATH=VALUE) over a grid.

    `samples` is the number of deviations that each point's certificate tries at random; 0: no certificates.
    """

    source: str
    overrides: tuple[str, ...]
    grid: Grid
    samples: int = 0

    def scenario(self) -> Scenario:
        """Load the scenario without any point put over it. Raises `ScenarioError`."""
        return load(self.source, list(self.overrides))

    def points(self, folder: Path) -> list[Point]:
        """List every point of the grid, in order."""
        return [
            Point(self.source, (*self.overrides, *self.grid.overrides(point)), self.samples, _file(folder, number))
            for number, point in enumerate(self.grid.points, start=1)
        ]


def _file(folder: Path, number: int) -> Path:
    return folder / "points" / f"{number:05}.json"


def begin(study: Study, out: Path | None) -> Path:
    """Make the folder of a sweep, or check the one that it goes on in.

    Raises `ScenarioError` when the scenario, or every point of the grid, is refused, and `StudyError` when `out` holds
    something else.
    """
    scenario = study.scenario()
    description = _describe(study, scenario)
    if out is not None and out.exists():
        _check_same(out, description)
        return out
    _check_some_point_loads(study)
    name = f"{Path(study.source).stem}-sweep"
    with defer_interrupts():
        folder = store.create_under_runs(name) if out is None else store.create(out)
        (folder / "points").mkdir()
        store.write_scenario(folder, scenario)
        write_whole(folder / "study.json", description)
    return folder


def _check_some_point_loads(study: Study) -> None:
    """Raise the first refusal when every point is refused, as with a misspelt key."""
    refusals = []
    for point in study.grid.points:
        swept = study.grid.overrides(point)
        try:
            load(study.source, [*study.overrides, *swept])
        except ScenarioError as error:
            told = str(error)
            for override in swept:
                told = told.replace(f"--set {override}:", f"--over {override}:")
            refusals.append(told)
        else:
            return
    raise ScenarioError(refusals[0])


def _describe(study: Study, scenario: Scenario) -> dict[str, Any]:
    """Write the content of study.json. Data files are compared by their content, not by their path."""
    with tempfile.TemporaryDirectory() as copies:
        as_run = parse(dump(scenario.copy_data_to(Path(copies))))
        data = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(copies).iterdir())}
    packages = _COMPUTED_BY + (_CERTIFIED_BY if study.samples else ())
    description = {
        "schema": 1,
        "scenario": as_run,
        "data": data,
        "grid": {axis.key: list(axis.values) for axis in study.grid.axes},
        "samples": study.samples,
        "versions": {"python": platform.python_version(), **installed_versions(packages)},
    }
    restored: dict[str, Any] = json.loads(json.dumps(description, default=str))
    return restored


def _check_same(folder: Path, description: dict[str, Any]) -> None:
    try:
        before = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        raise StudyError(
            f"--out {folder}: it exists and holds no sweep; name a new folder, or remove this one"
        ) from None
    differences = list(_list_differences("", before, description))
    if list(before.get("grid", {})) != list(description["grid"]):
        differences.append(f"the order of --over is {', '.join(description['grid'])}, was {', '.join(before['grid'])}")
    if differences:
        shown = "; ".join(differences[:3]) + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
        raise StudyError(f"--out {folder}: another sweep than the one begun there: {shown}; name a new folder")


def _list_differences(path: str, before: Any, now: Any) -> Iterator[str]:
    """List the differences by key, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from _list_differences(f"{path}.{key}" if path else key, before.get(key), now.get(key))
    elif isinstance(before, list) and isinstance(now, list) and (set(map(str, before)) ^ set(map(str, now))):
        more, gone = ([value for value in one if value not in other] for one, other in ((now, before), (before, now)))
        yield f"{path}: new are {_shorten(more)}, gone are {_shorten(gone)}"
    elif before != now:
        yield f"{path} is {_shorten(now)}, was {_shorten(before)}"


def _shorten(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class Sweep:
    """The points of a study that are finished, as rows of the table, and how the rest get played."""

    def __init__(self, study: Study, folder: Path) -> None:
        self._grid = study.grid
        self._values = dict(zip(study.points(folder), study.grid.points, strict=True))
        self._rows = {point: self._make_row(point, _read(point.file)) for point in self._values if point.file.exists()}

    @property
    def rows(self) -> list[table.Row]:
        """The rows of the finished points, in the order of the grid."""
        return [self._rows[point] for point in self._values if point in self._rows]

    def play(self, jobs: int) -> Iterator[table.Row]:
        """Play the points that are not finished in `jobs` processes; yield the row of each as it ends.

        A point whose process died leaves no file: going on in the folder tries it again.
        """
        for point, death in play_all([point for point in self._values if point not in self._rows], jobs):
            lost = death is not None and not point.file.exists()
            finished = {"settled": False, "problem": death} if lost else _read(point.file)
            self._rows[point] = self._make_row(point, finished)
            yield self._rows[point]

    def _make_row(self, point: Point, finished: dict[str, Any]) -> table.Row:
        return table.row(self._grid, self._values[point], finished)


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise StudyError(f"{file}: cannot be read ({error}); remove it, and the point is played again") from None
    return content
