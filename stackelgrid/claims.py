"""The claims of the papers as data: each figure and trend with its place, its mark and how ours is computed.

A game names its `Paper` as `published`. No verdict is written here: it follows from runs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from stackelgrid.report import drawing

Mark = Literal["paper", "derived", "reading"]


class Runs(Protocol):
    """Runs of the shipped cases, by the name of the case and `KEY.PATH=VALUE` put over it."""

    def outcome(self, game: str, *overrides: str) -> Any:
        """Give the outcome of a run, of the class that the game names. Raises `RuntimeError` if it does not settle."""

    def certificate(self, game: str, *overrides: str) -> dict[str, Any]:
        """Give the certificate of the same run."""


class Finding(NamedTuple):
    """The result of runs for a trend: `here` are the numbers, in words, and `holds` when they agree with the paper."""

    here: str
    holds: bool


@dataclass(frozen=True)
class Figure:
    """A number that the paper prints, or that follows from what it prints.

    `published` is written as printed. Ours may differ by `tolerance`, half the last printed digit unless given; it is
    `fitted` where our case was made so that it agrees, which is no evidence. `why` explains a disagreement.
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
    def margin(self) -> float:
        """The largest difference from the published number at which the figure is reproduced."""
        return float(self.tolerance) if self.tolerance else 0.5 * 10.0**-self.decimals


@dataclass(frozen=True)
class Trend:
    """A statement of the paper on its results, in words, and the test whether ours agree with it.

    One `by_construction` holds in our case whatever the game does, which is no evidence.
    """

    where: str
    says: str
    mark: Mark
    how: str
    look: Callable[[Runs], Finding]
    why: str = "Not explained."
    by_construction: bool = False

    @property
    def figures(self) -> list[int]:
        """The numbers of the paper's figures that it is about, as `where` names them."""
        return [int(number) for number in re.findall(r"\d+", self.where.partition("fig.")[2])]


@dataclass(frozen=True)
class Drawing:
    """A figure that the paper's text describes, drawn from our runs; `shows` is a sentence about ours.

    What agrees with the paper and what does not is said by the trends that name its number.
    """

    number: int
    shows: str
    draw: Callable[[Runs], drawing.Figure]


@dataclass(frozen=True)
class Paper:
    """The claims of a paper; `gives` describes what the paper states of its case, `source` who wrote it, where."""

    game: str
    title: str
    gives: str
    figures: tuple[Figure, ...]
    trends: tuple[Trend, ...]
    source: str = ""
    drawings: tuple[Drawing, ...] = ()


def is_rising(numbers: list[float]) -> bool:
    """Tell whether each number is above the one before."""
    return all(later > earlier for earlier, later in itertools.pairwise(numbers))


def format_residual(value: float, bound: float) -> str:
    """Format a residual of a solver, whose digits mean nothing below `bound`."""
    return (
        f"below {np.format_float_scientific(bound, trim='-', exp_digits=1)}" if abs(value) < bound else f"{value:.2g}"
    )
