"""One point of a study: a scenario with some values changed, played in memory; what is left of it on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackelgrid.certify import CertificateError
from stackelgrid.node.record import write_whole
from stackelgrid.scenarios import ScenarioError, load
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.result import build_result


@dataclass(frozen=True)
class Point:
    """What to play: a scenario, `KEY.PATH=VALUE` put over it, deviations to try in its certificate (0: none is made).

    `file` is where its result goes.
    """

    source: str
    overrides: tuple[str, ...]
    samples: int
    file: Path


def play(point: Point) -> None:
    """Play `point` and leave its result.json at `point.file`, with a `problem` when something went wrong, else None.

    Nothing that goes wrong at one point may end the others: whatever is raised becomes the problem.
    """
    finished: dict[str, Any] = {"settled": False}
    try:
        finished["problem"] = _play(point, finished)
    except ScenarioError as error:
        finished["problem"] = "refused: " + str(error).replace("\n", "; ")
    except CertificateError as error:
        finished["problem"] = f"no certificate: {error}"
    except Exception as error:
        finished["problem"] = f"failed: {type(error).__name__}: {error}"
    write_whole(point.file, finished)


def _play(point: Point, finished: dict[str, Any]) -> str | None:
    """Fill `finished` as far as the run gets; what kept it from settling, or from a certificate of all homes."""
    scenario = load(point.source, list(point.overrides))
    finished |= build_result(scenario, in_memory.play(scenario)).content()
    if finished["failures"]:
        node, why = next(iter(finished["failures"].items()))
        return f"failed: {node} died of {why}"
    if not finished["settled"]:
        return f"not settled within {finished['rounds']} rounds; raise leader.max_rounds"
    if not finished["complete"] or finished["homes_settled"] != finished["homes"]:
        return "incomplete: not every home answered the last round"
    if point.samples:
        finished["certificate"] = scenario.certificate(finished["outcome"], point.samples)
    return None
