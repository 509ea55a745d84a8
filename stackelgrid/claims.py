"""What the papers claim, as data: each figure and trend with its place, its mark and how ours is worked out.

A module per game, each with a `PAPER`. No verdict is written down anywhere: it follows from a run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import in_memory

Mark = Literal["paper", "derived", "reading"]
Outcome = dict[str, Any]
_DEVIATIONS = 100
"""Deviations that a certificate tries at random."""


class Runs:
    """Runs of the shipped cases in memory, each played and certified at most once."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, ...], tuple[Scenario, Any]] = {}
        self._certificates: dict[tuple[str, ...], dict[str, Any]] = {}

    def outcome(self, game: str, *overrides: str) -> Any:
        """Give the outcome of the shipped case with `KEY.PATH=VALUE` put over it.

        It is of the class that the game names. Raises `ArithmeticError` if the run does not settle.
        """
        return self._run(game, *overrides)[1]

    def certificate(self, game: str, *overrides: str) -> dict[str, Any]:
        """The certificate of the same run."""
        run = (game, *overrides)
        if run not in self._certificates:
            scenario, outcome = self._run(*run)
            self._certificates[run] = scenario.certificate(outcome, _DEVIATIONS)
        return self._certificates[run]

    def _run(self, game: str, *overrides: str) -> tuple[Scenario, Any]:
        run = (game, *overrides)
        if run not in self._runs:
            scenario = load(game, list(overrides))
            run_record = in_memory.play(scenario)
            if not run_record.settled:
                raise ArithmeticError(f"{' '.join(run)}: not settled in {len(run_record.rounds)} rounds")
            self._runs[run] = scenario, scenario.outcome(run_record)
        return self._runs[run]


class Seen(NamedTuple):
    """What runs show of a trend: the figures, in words, and whether they bear it out."""

    here: str
    holds: bool


@dataclass(frozen=True)
class Figure:
    """A number that the paper prints, or that follows from what it prints.

    `published` is written as printed. Ours may differ by `tolerance`, half the last printed digit unless given; it is
    `fitted` where our case was made so that it agrees, which is no evidence. `why` is said where it does not agree.
    """

    where: str
    what: str
    published: str
    unit: str
    mark: Mark
    how: str
    ours: Callable[[Runs], float]
    fitted: bool = False
    tolerance: str = ""
    why: str = "Not explained."

    @property
    def decimals(self) -> int:
        """Digits after the point in the published number."""
        return len(self.published.partition(".")[2])

    @property
    def allowed(self) -> float:
        """How far ours may be from the published number."""
        return float(self.tolerance) if self.tolerance else 0.5 * 10.0**-self.decimals


@dataclass(frozen=True)
class Trend:
    """Something that the paper says of its results in words, and what decides whether ours say the same."""

    where: str
    says: str
    mark: Mark
    how: str
    look: Callable[[Runs], Seen]
    why: str = "Not explained."


@dataclass(frozen=True)
class Paper:
    """A paper's claims; `gives` says what of its case it states."""

    game: str
    title: str
    gives: str
    figures: tuple[Figure, ...]
    trends: tuple[Trend, ...]


def rising(numbers: list[float]) -> bool:
    """Whether each is above the one before."""
    return all(later > earlier for earlier, later in itertools.pairwise(numbers))


def within(value: float, bound: float) -> str:
    """A residual of a solver, whose digits mean nothing below `bound`, in words."""
    return (
        f"below {np.format_float_scientific(bound, trim='-', exp_digits=1)}" if abs(value) < bound else f"{value:.2g}"
    )
