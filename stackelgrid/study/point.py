"""One point of a study: a scenario with some values changed, played in memory; its result on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackelgrid.certify import CertificateError
from stackelgrid.node.record import write_whole
from stackelgrid.runner import run
from stackelgrid.scenarios import ScenarioError


@dataclass(frozen=True)
class Point:
    """A run to play: a scenario, `KEY.PATH=VALUE` put over it, deviations to try in its certificate (0: none is made).

    `file` is where its result goes.
    """

    source: str
    overrides: tuple[str, ...]
    samples: int
    file: Path


def play(point: Point) -> None:
    """Play `point` and write its result.json to `point.file`, with a `problem` when something went wrong, else None.

    Nothing that goes wrong at one point may end the others: every exception becomes the problem.
    """
    content: dict[str, Any] = {"settled": False}
    try:
        content["problem"] = _play(point, content)
    except ScenarioError as error:
        content["problem"] = "refused: " + str(error).replace("\n", "; ")
    except CertificateError as error:
        content["problem"] = f"no certificate: {error}"
    except Exception as error:
        content["problem"] = f"failed: {type(error).__name__}: {error}"
    write_whole(point.file, content)


def _play(point: Point, content: dict[str, Any]) -> str | None:
    """Fill `content` as far as the run gets; return why it did not settle, or cannot be certified."""
    ended = run(point.source, point.overrides)
    result = ended.result
    content |= result.content()
    if result.failures:
        node, why = next(iter(result.failures.items()))
        return f"failed: {node} died of {why}"
    if not result.settled:
        return f"not settled within {result.rounds} rounds; raise leader.max_rounds"
    if not result.certifiable:
        return "incomplete: not every home answered the last round"
    if point.samples and result.outcome is not None:
        content["certificate"] = ended.scenario.certificate(result.outcome, point.samples)
    return None
