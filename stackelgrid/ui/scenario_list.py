"""The scenarios and fault plans that a run can be started from: shipped ones, and files of the working directory."""

from __future__ import annotations

from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from stackelgrid.scenarios import list_shipped, yaml_file
from stackelgrid.testbed import fault_plans
from stackelgrid.testbed.fault_plans import FaultPlanError
from stackelgrid.ui.answers import PlanEntry, ScenarioEntry


def find_scenarios() -> dict[str, Path]:
    """Find the scenarios by name: shipped ones, and YAML files of the working directory that name a game."""
    return list_shipped() | {path.name: path for path in _list_files() if "game" in _read(path)}


def find_plans() -> dict[str, Path]:
    """Find the fault plans by name: shipped ones, and YAML files of the working directory that have faults."""
    return fault_plans.list_shipped() | {path.name: path for path in _list_files() if fault_plans.is_plan(str(path))}


def list_scenarios() -> list[ScenarioEntry]:
    """List the scenarios, each with its game, its title, a sentence of what it is, and its content."""
    listed = []
    for name, path in find_scenarios().items():
        content = _read(path)
        game = str(content["game"])
        listed.append(
            ScenarioEntry(
                name=name,
                game=game,
                title=str(content.get("title") or name),
                summary=_read_first_sentence(path),
                form=f"/api/v1/schema/{game}",
                content=to_jsonable_python(content),  # YAML has dates
            )
        )
    return listed


def list_plans() -> list[PlanEntry]:
    """List the fault plans; a file that is none, or a wrong one, is left out."""
    listed = []
    for name, path in find_plans().items():
        with suppress(FaultPlanError):
            plan = fault_plans.load(str(path))
            listed.append(PlanEntry(name=name, title=plan.title or name, faults=len(plan.faults)))
    return listed


def _list_files() -> list[Path]:
    return sorted([*Path().glob("*.yaml"), *Path().glob("*.yml")])


def _read(path: Path) -> dict[str, Any]:
    try:
        return yaml_file.read(path, "scenario")
    except ValueError:
        return {}  # no scenario


def _read_first_sentence(path: Path) -> str:
    """Read the first sentence of the comment that a file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))
    sentence, dot, _ = comment.partition(". ")
    return sentence + dot.strip()
