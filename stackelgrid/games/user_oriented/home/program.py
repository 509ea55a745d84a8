"""The quadratic programs of a home: DAQP's exact active-set method, and how an optimum bends with the price."""

from __future__ import annotations

import daqp
import numpy as np
from numpy.typing import NDArray

from stackelgrid.wire.arrays import Array

_PRIMAL_TOLERANCES = (1e-11, 1e-9, 1e-7, 1e-5)
"""Where wear is slight, -price / (2 fast) lies so far outside the bounds that rounding it exceeds the finest of these,
and DAQP takes that for infeasibility. A coarser one finds the active constraints, onto which the answer is moved."""


class InfeasibleHomeError(ValueError):
    """No schedule satisfies the home's constraints; the message names the home and what cannot be met."""


class Program:
    """A strictly convex QP min 1/2 z'Wz + f'z in DAQP, W diagonal; each solve starts from the last active set."""

    def __init__(self, rows: Array, lower: Array, upper: Array) -> None:
        self.rows, self.lower, self.upper = rows, lower, upper
        self._faces = np.vstack([np.eye(len(lower) - len(rows), rows.shape[1]), rows])  # bounds as rows, then rows
        self._model = daqp.Model()
        self._weight: Array | None = None

    def solve(self, weight: Array, linear: Array) -> tuple[Array, NDArray[np.bool_]]:
        """The optimal z and which constraints are active. Raises `InfeasibleHomeError` (without a home's name)."""
        if weight is self._weight or (self._weight is not None and np.array_equal(weight, self._weight)):
            self._model.update(f=linear)
            z, _, flag, info = self._model.solve()
            if flag > 0 and self._satisfies(z):
                return z, info["lam"] != 0
        for tolerance in _PRIMAL_TOLERANCES:
            self._model.settings = {"primal_tol": tolerance, "dual_tol": 1e-12, "iter_limit": 10 * len(self.upper)}
            flag, _ = self._model.setup(np.diag(weight), linear, self.rows, self.upper, self.lower)
            if flag < 0:
                break
            z, _, flag, info = self._model.solve()
            if flag > 0 and not self._satisfies(z):
                z = self._onto_active(z, weight, info["lam"])
            if flag > 0 and self._satisfies(z):
                self._weight = weight if tolerance == _PRIMAL_TOLERANCES[0] else None
                return z, info["lam"] != 0
        self._weight = None
        raise InfeasibleHomeError(f"no schedule satisfies the constraints (DAQP exit {flag})")

    def _satisfies(self, z: Array) -> bool:
        """Whether z keeps bounds and rows to 1e-9: DAQP also reports success when the constraints contradict."""
        drawn = self._faces @ z
        return bool((drawn <= self.upper + 1e-9).all() and (drawn >= self.lower - 1e-9).all())

    def _onto_active(self, z: Array, weight: Array, multipliers: Array) -> Array:
        """z moved, at least cost, onto its active constraints, which it misses by up to the primal tolerance."""
        active = multipliers != 0
        face = self._faces[active]
        missed = np.where(multipliers > 0, self.upper, self.lower)[active] - face @ z
        pull = np.linalg.lstsq((face / weight) @ face.T, missed, rcond=None)[0]
        return np.asarray(z + face.T @ pull / weight)

    def price_response(self, weight: Array, active: NDArray[np.bool_], into: Array) -> Array:
        """-into' M into, (T, T): M is the inverse of W on the face of the active constraints, `into` (n, T)."""
        scaled = into / weight[:, None]
        face = self._faces[active]
        crossing = face @ scaled
        gram = (face / weight) @ face.T
        try:
            solved = np.linalg.solve(gram, crossing)
        except np.linalg.LinAlgError:  # a degenerate vertex: more active rows than dimensions
            solved = np.linalg.lstsq(gram, crossing, rcond=None)[0]
        return np.asarray(crossing.T @ solved - into.T @ scaled)
