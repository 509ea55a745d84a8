"""The leader's search for its price, one round per step: the parts that both objectives share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import daqp
import numpy as np

from stackelgrid.errors import SolverError
from stackelgrid.games.user_oriented.local_response import Array, Observation
from stackelgrid.games.user_oriented.utility_company import UtilityCompany
from stackelgrid.rounds.settings import QUESTIONS_PER_SESSION

Objective = Literal["stackelberg", "welfare"]
KEPT_FOR_FIRST = 0.1
"""The part of all questions that is kept for the first prices of rounds: for settling, and for beginning anew."""


@dataclass(frozen=True)
class PricingProblem:
    """The problem of a leader's algorithm: for which company and objective it is to find the price, and how precisely.

    `questions` is how many different prices may be asked in all, `tolerance` the relative price change below which the
    price counts as found, `seed` of what is drawn at random. mu of the `company` is zero until the baseline is known.
    `known` are answers from before, when the company's charge was another one.
    """

    company: UtilityCompany
    objective: Objective
    tolerance: float = 1e-6
    questions: int = QUESTIONS_PER_SESSION
    seed: int = 0
    known: Sequence[Observation] = ()


@dataclass(frozen=True)
class NextPrices:
    """The prices, (T,) each, to ask the customers next; the first is settled when the round is the last.

    For the first `sensitivities` of them the answer has dL/dp, for the rest the load alone.
    """

    price: Array
    others: Sequence[Array] = ()
    sensitivities: int = 1


@dataclass(frozen=True)
class PriceFound:
    """The search ends at the first price of the last round.

    `residual` is the relative price change still wanted. `findings` go into the account of the round.
    """

    residual: float
    findings: Mapping[str, float] = field(default_factory=dict)


class PriceSearch(Protocol):
    """The leader's half of an algorithm. `company` may be replaced between rounds.

    It is deterministic: the same answers in the same order lead to the same prices. It is copied (`copy.deepcopy`)
    while some homes do not answer, and made anew when the baseline is asked again. `residual` is the largest relative
    price change that it still wants, infinite as long as it knows of none.
    """

    company: UtilityCompany

    @property
    def residual(self) -> float:
        """The relative price change still wanted."""

    def open(self, price: Array) -> NextPrices:
        """Give the prices of the first round, of which the flat `price`, (T,), is the first. Nothing is known yet."""

    def next(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        """Give the next prices after one round's answers, or end the search. Raise `SolverError`.

        The first answer is the one to the round's first price. Of the others some may be missing.
        """


def name_price(price: Array) -> bytes:
    """Name a price, (T,): the same name for the same numbers."""
    return (price + 0.0).tobytes()


def relative_change(price: Array, base: Array) -> float:
    """Give the largest change against `base`, relative to the largest price of `base`."""
    return float(np.max(np.abs(price - base))) / max(float(np.max(np.abs(base))), 1e-12)


def solve_qp(
    company: UtilityCompany,
    hessian: Array,
    linear: Array,
    box: tuple[Array, Array],
    rows: tuple[Array, Array, Array],
    response: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Minimise 1/2 s'Hs + f's in the box (lower, upper) and the rows (matrix, lower, upper), within capacity [UO-8].

    `response` is dL/ds, (T, n), and the load at s = 0, (T,). The predicted load keeps the capacity; when no s in the
    box does that, it violates the capacity as little as possible. Give s and the multipliers, box first, then rows.
    Raise `SolverError` when DAQP finds no solution.
    """
    bounded = np.isfinite(company.load_min) | np.isfinite(company.load_max)
    slopes, load = response
    matrix = np.vstack([rows[0], slopes[bounded]])
    lower = np.concatenate([box[0], rows[1], (company.load_min - load)[bounded]])
    upper = np.concatenate([box[1], rows[2], (company.load_max - load)[bounded]])
    hard, soft = 0, 8
    # Where load is far beyond capacity, DAQP may cycle unless the rows are softer.
    for softness, weakness in ((hard, 1e-6), (soft, 1e-6), (soft, 1e-3)):
        sense = np.zeros(len(lower), np.int32)
        sense[len(lower) - int(bounded.sum()) :] = softness
        solution, _, flag, info = daqp.solve(
            hessian, linear, matrix, upper, lower, sense, primal_tol=1e-11, rho_soft=weakness
        )
        if flag > 0:
            return np.asarray(solution), np.asarray(info["lam"])
    raise SolverError("the leader's local problem", f"DAQP exit {flag}")


def make_convex(hessian: Array) -> Array:
    """Replace each eigenvalue by its absolute value, above a small floor, which makes the matrix positive definite."""
    values, vectors = np.linalg.eigh(hessian)
    size = np.abs(values)
    return np.asarray((vectors * np.maximum(size, 1e-6 * float(np.max(size)))) @ vectors.T)
