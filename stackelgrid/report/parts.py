"""The parts of a page: sections of figures, tables and paragraphs, and the rules by which a certificate is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stackelgrid.report.words import number, quantity, relative

if TYPE_CHECKING:
    from stackelgrid.report.drawing import Figure
    from stackelgrid.run_result import Certificate

Row = tuple[str, str]
"""A label and a formatted value."""

Highlight = tuple[str, str, str]
"""A label, the number that the eye finds first, and what it is to be compared with, which may be empty."""

EQUILIBRIUM_WITHIN = 1e-6
"""Relative: below it a regret, a gap or a broken limit is the solvers' tolerance."""
BOOKS_WITHIN = 1e-7
"""Relative: below it a difference between a number in the outcome and the same number computed anew is rounding."""

FEW = 6
"""Members that a table shows one by one, however many there are."""


@dataclass(frozen=True)
class Plot:
    """A figure that `stackelgrid.report.drawing` drew; written to figures/`name`.png, a name of its own on the page."""

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of a name and then a formatted value for each of `columns`; `groups` of rows are set apart by a line."""

    caption: str
    columns: Sequence[str]
    groups: Sequence[Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Section:
    """A heading and the parts below it; a string is a paragraph."""

    title: str
    parts: Sequence[Plot | Table | str]


@dataclass(frozen=True)
class Trace:
    """A number of the leader's journal, drawn round by round.

    `key` is its key in rounds.jsonl, `label` the axis's, `meaning` continues "(b) ..." in the caption. In `unit`,
    {money} stands for the scenario's.
    """

    key: str
    label: str
    meaning: str
    unit: str = ""


RESIDUAL = Trace("residual", "Relative change", "the relative change the leader still wanted")

Scale = Callable[[Any, "Certificate"], float]
"""From an outcome and a certificate to a number."""


def itself(outcome: Any, certificate: Certificate) -> float:
    """Give 1, the scale of a number that is relative already."""
    return 1.0


@dataclass(frozen=True)
class Rule:
    """The meaning of a number of the certificate, and the limit that it is judged by.

    `key` leads to it, with dots into what is nested. It passes when it is at most `within` times the scale `of`; where
    `within` is None, it is shown and not judged. In `unit`, {money} stands for the scenario's.
    """

    key: str
    label: str
    meaning: str
    within: float | None = None
    of: Scale = itself
    unit: str = ""


REGRET = Rule(
    "max_regret",
    "Largest regret",
    "The most that any one player could still gain by deviating alone, relative. Zero is an equilibrium.",
    EQUILIBRIUM_WITHIN,
)
GAP = Rule("gap", "Gap to the reference", "How far the run falls short of the reference, relative.", EQUILIBRIUM_WITHIN)
VIOLATION = Rule("violation", "Broken limits", "The worst breach of any limit of any player.")
PLAIN_RULES = (REGRET, GAP, VIOLATION)
"""The rules of a game that has none of its own."""


def highlight_change(label: str, before: float, after: float, unit: str = "") -> Highlight:
    """Give a number beside what it was before."""
    if number(before) == number(after):
        return label, quantity(after, unit), "as before"
    by = f"{relative(after / before - 1)} " if before > 0 else ""
    return label, quantity(after, unit), f"{by}from {quantity(before, unit)}"


def drop_rounding(difference: float, size: float) -> float:
    """Give a difference of numbers of a size, 0 where it is only their rounding."""
    return 0.0 if abs(difference) <= BOOKS_WITHIN * abs(size) else difference


def spread(sizes: Mapping[str, float]) -> list[str]:
    """Choose up to `FEW` names, evenly from the smallest size to the largest."""
    ranked = sorted(sizes, key=lambda name: sizes[name])
    if len(ranked) <= FEW:
        return ranked
    return [ranked[round(step * (len(ranked) - 1) / (FEW - 1))] for step in range(FEW)]
