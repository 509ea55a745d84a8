"""What an attack finds, and whether it is more than a guess."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from stackelgrid.wire.arrays import Array

BETTER = 0.9
"""An attack succeeds when its error is below so much of the error of guessing: when it beats that by a tenth."""


class Level(NamedTuple):
    """A level of `privacy`: who reads a home's answers, and whether they have sensitivities."""

    sums: Literal["off", "committee"]
    sensitivity: Literal["full", "none"]

    def __str__(self) -> str:
        return f"{self.sums}/{self.sensitivity}"


LEVELS = (Level("off", "full"), Level("off", "none"), Level("committee", "full"), Level("committee", "none"))


@dataclass(frozen=True)
class Finding:
    """What one attack recovers at one level from groups of `group` homes.

    `error` is the relative error of what is recovered, the median over the homes that have it, `guess` that of guessing
    sum/n; `share` is the part of these homes of which the attack knows more than a guess. `variant` says what is not as
    in the protocol, or which adversary it is, where that has to be said.
    """

    attack: str
    level: Level
    group: int
    what: str
    error: float
    guess: float
    share: float
    variant: str = ""

    @property
    def succeeds(self) -> bool:
        """True when the attack beats guessing by more than a tenth."""
        return self.error < BETTER * self.guess


class Case(NamedTuple):
    """What an attack believes of one home, what is true, and what is guessed without an attack."""

    believed: Array
    true: Array
    guessed: Array


def make_case(truths: Sequence[Array | None], home: int, belief: Array | None) -> Case | None:
    """Compare what an attack believes of one `home` of a group with what is true of each, None of one without a truth.

    The guess is the mean over the homes that have it: sum/n. Who learns nothing, None, guesses.
    """
    truth = truths[home]
    if truth is None:
        return None
    guess = np.mean([each for each in truths if each is not None], axis=0)
    return Case(guess if belief is None else belief, truth, guess)


def judge(attack: str, level: Level, group: int, what: str, cases: Iterable[Case | None], variant: str = "") -> Finding:
    """Judge what an attack believes of homes in groups of `group`. Raise `ValueError` when there is no case."""
    known = [case for case in cases if case is not None]
    if not known:
        raise ValueError(f"{attack}, {what}: no home of the scenario has it; name a scenario with storage")
    errors = np.array([compute_error(case.believed, case.true) for case in known])
    guesses = np.array([compute_error(case.guessed, case.true) for case in known])
    share = float(np.mean(errors < BETTER * guesses))
    return Finding(attack, level, group, what, float(np.median(errors)), float(np.median(guesses)), share, variant)


def compute_error(believed: Array, true: Array) -> float:
    """Compute the relative error of what is believed, in the Euclidean norm; infinite where it is no number."""
    error = float(np.linalg.norm(believed - true) / np.linalg.norm(true))
    return error if np.isfinite(error) else float("inf")
