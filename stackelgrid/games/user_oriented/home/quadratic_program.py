"""The quadratic programs of a home, solved by DAQP's exact active-set method, and the derivative of their optimum."""

from __future__ import annotations

from collections.abc import Callable

import daqp
import numpy as np
from numpy.typing import NDArray

from stackelgrid.wire.arrays import Array

_PRIMAL_TOLERANCES = (1e-11, 1e-9, 1e-7, 1e-5)
"""With little wear, -price / (2 fast) lies so far outside the bounds that its rounding error exceeds the finest of
these, and DAQP reports infeasibility. A coarser one finds the active constraints; the optimum is moved onto them."""

_EQUATION_STEPS = 12


class InfeasibleHomeError(ValueError):
    """No schedule satisfies the home's constraints; the message names the home and the limit that cannot be met."""


class QuadraticProgram:
    """A strictly convex QP in DAQP: min 1/2 z'Wz + f'z, lower <= (z, rows z) <= upper, W diagonal.

    The bounds of z come first in `lower` and `upper`, those of the rows after them. Each solve starts from the last
    active set.
    """

    def __init__(self, rows: Array, lower: Array, upper: Array) -> None:
        self.rows, self.lower, self.upper = rows, lower, upper
        self._constraints = np.vstack([np.eye(len(lower) - len(rows), rows.shape[1]), rows])
        self._model = daqp.Model()
        self._weight: Array | None = None

    def solve(self, weight: Array, linear: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Give the optimal z (n,) and a mask of the active constraints.

        Raise `InfeasibleHomeError` without a home's name when no z satisfies them.
        """
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
                z = self._project(z, weight, info["lam"])
            if flag > 0 and self._satisfies(z):
                self._weight = weight if tolerance == _PRIMAL_TOLERANCES[0] else None
                return z, info["lam"] != 0
        self._weight = None
        raise InfeasibleHomeError(f"no schedule satisfies the constraints (DAQP exit {flag})")

    def _satisfies(self, z: Array) -> bool:
        """Check that z keeps bounds and rows to 1e-9. DAQP also reports success when the constraints contradict."""
        value = self._constraints @ z
        return bool((value <= self.upper + 1e-9).all() and (value >= self.lower - 1e-9).all())

    def _project(self, z: Array, weight: Array, multipliers: Array) -> Array:
        """Move z at least cost onto its active constraints, which it misses by up to the primal tolerance."""
        active = multipliers != 0
        face = self._constraints[active]
        missed = np.where(multipliers > 0, self.upper, self.lower)[active] - face @ z
        step = np.linalg.lstsq((face / weight) @ face.T, missed, rcond=None)[0]
        return np.asarray(z + face.T @ step / weight)

    def solve_equations(
        self, derive: Callable[[Array], tuple[Array, Array]], z: Array, active: NDArray[np.bool_], scale: float
    ) -> tuple[Array, float]:
        """Solve the KKT equations of the `active` constraints by Newton's method from `z`, for any separable cost.

        `derive(z)` gives its gradient and the diagonal of its Hessian. Return z and the largest part of the KKT
        conditions that it misses: of a constraint as it is, of the gradient and of a multiplier's sign relative to
        `scale`, the usual size of a gradient. The multipliers stay from step to step, so that the residuals are free of
        the rounding error of a QP.
        """
        face = self._constraints[active]
        value = self._constraints @ z
        at_upper = (np.abs(value - self.upper) < np.abs(value - self.lower))[active]
        bound = np.where(at_upper, self.upper[active], self.lower[active])
        fixed = (self.upper - self.lower)[active] <= 1e-12
        multipliers = np.zeros(len(face))
        best, found = np.inf, z
        for _ in range(_EQUATION_STEPS):
            gradient, weight = derive(z)
            residual, missed = gradient + face.T @ multipliers, bound - face @ z
            value = self._constraints @ z
            wrong = np.where(at_upper, -multipliers, multipliers)[~fixed]
            error = max(
                float(np.max(value - self.upper)),
                float(np.max(self.lower - value)),
                float(np.max(np.abs(missed), initial=0.0)),
                float(np.max(np.abs(residual) / (scale + np.abs(gradient)))),
                float(np.max(wrong, initial=0.0)) / scale,
            )
            if not np.isfinite(error):
                break
            if error < best:
                best, found = error, z
            gram = (face / weight) @ face.T
            # Rows of stiff variables are small: each is scaled to one, so that least squares drops only dependent ones.
            size = 1 / np.sqrt(np.maximum(np.diag(gram), 1e-300))
            right = -(face / weight) @ residual - missed
            change = size * np.linalg.lstsq(gram * size * size[:, None], size * right, rcond=1e-13)[0]
            multipliers = multipliers + change
            step = -(residual + face.T @ change) / weight
            if np.max(np.abs(step)) <= 1e-15 * (1 + np.max(np.abs(z))):
                break
            z = np.clip(z + step, self.lower[: len(z)], self.upper[: len(z)])
        return found, best

    def price_response(self, weight: Array, active: NDArray[np.bool_], price_columns: Array) -> Array:
        """Give the derivative of the slots' load by the price, (T, T), when f = price_columns @ price.

        It is -price_columns' M price_columns, M the inverse of W on the face of the active constraints.
        `price_columns` (n, T) maps prices to variables, and variables to the slot in which they draw.
        """
        scaled = price_columns / weight[:, None]
        face = self._constraints[active]
        crossing = face @ scaled
        gram = (face / weight) @ face.T
        try:
            solved = np.linalg.solve(gram, crossing)
        except np.linalg.LinAlgError:  # a degenerate vertex: more active rows than dimensions
            solved = np.linalg.lstsq(gram, crossing, rcond=None)[0]
        return np.asarray(crossing.T @ solved - price_columns.T @ scaled)
