"""How a leader searches for its price, round by round: what both objectives have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import daqp
import numpy as np

from stackelgrid.games.user_oriented.local_response import Array, Observation, learnt_bend
from stackelgrid.games.user_oriented.utility_company import UtilityCompany


@dataclass(frozen=True)
class Ask:
    """Put this price, (T,), to the customers."""

    price: Array


@dataclass(frozen=True)
class Settle:
    """The last price stands. `residual` is the relative price change that was still wanted."""

    residual: float


class Search(Protocol):
    """One objective's way to its price. `company` may be replaced between rounds."""

    company: UtilityCompany
    residual: float

    def next(self, seen: Observation) -> Ask | Settle:
        """What follows from one round's answers."""


class Bend:
    """The exponents of the response, learnt from one round to the next; 1 (log satisfaction) until something is known.

    `changed` says whether other homes answered than in the round before: what was seen of the others is then void.
    """

    def __init__(self) -> None:
        self._last: Observation | None = None
        self._bend: Array | None = None
        self.changed = False

    def learn(self, seen: Observation) -> Array:
        """The exponents after one more round, (T,)."""
        last, self._last = self._last, seen
        self.changed = last is not None and last.homes != seen.homes
        assumed = np.ones_like(seen.price) if self._bend is None else self._bend
        self._bend = assumed if last is None or self.changed else learnt_bend(last, seen, assumed)
        return self._bend


def relative_change(price: Array, base: Array) -> float:
    """Largest change against `base`, relative to its largest price."""
    return float(np.max(np.abs(price - base))) / max(float(np.max(np.abs(base))), 1e-12)


def solve_qp(
    company: UtilityCompany,
    hessian: Array,
    linear: Array,
    box: tuple[Array, Array],
    rows: tuple[Array, Array, Array],
    response: tuple[Array, Array],
) -> tuple[Array, Array]:
    """min 1/2 s'Hs + f's in the box (lower, upper) and rows (matrix, lower, upper), with capacity where possible.

    `response` is dL/ds, (T, n), and the load at s = 0: the predicted load is kept within capacity as a hard limit, or,
    when no s in the box does that, as nearly as possible. Returns s and the multipliers, box first, then rows. Raises
    `ArithmeticError` when DAQP finds no solution.
    """
    bounded = np.isfinite(company.load_min) | np.isfinite(company.load_max)
    slopes, load = response
    matrix = np.vstack([rows[0], slopes[bounded]])
    lower = np.concatenate([box[0], rows[1], (company.load_min - load)[bounded]])
    upper = np.concatenate([box[1], rows[2], (company.load_max - load)[bounded]])
    hard, soft = 0, 8
    for softness in (hard, soft):
        sense = np.zeros(len(lower), np.int32)
        sense[len(lower) - int(bounded.sum()) :] = softness
        solution, _, flag, info = daqp.solve(hessian, linear, matrix, upper, lower, sense, primal_tol=1e-11)
        if flag > 0:
            return np.asarray(solution), np.asarray(info["lam"])
    raise ArithmeticError(f"the leader's local problem has no solution (DAQP exit {flag})")
