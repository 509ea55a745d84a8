"""Dynamic economic dispatch [SM-1] (reading): what each generator runs at in each slot, and the price that follows.

    min   sum_t [ sum_g a_g P_gt^2 + b_g P_gt + c_g  +  V short_t + eps (short_t^2 + spilt_t^2) ] Δ
    s.t.  sum_g P_gt + short_t - spilt_t = N_t                     price_t Δ is the multiplier of this balance
          0 <= P_gt <= P_max,g      |P_gt - P_g,t-1| <= R_g Δ      short_t, spilt_t >= 0

N is the net demand: demand less what batteries deliver. `short` is load that is not served, at the price V of lost
load, `spilt` is generation that nobody takes. With both, every net demand has a dispatch, also one that follows from
wrong answers, and the price stays between about 0 and V. The program is strictly convex (a_g > 0). Δ in the objective
changes no output: it is solved per hour, so that the multipliers are prices. One DAQP model serves all demands; each
solve starts from the last active set. MW, slots of Δ hours, dollars per MWh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import daqp
import numpy as np

from stackelgrid.errors import SolverError
from stackelgrid.wire.arrays import Array

_EQUALITY = 5
_SLACK_CURVATURE = 0.01
"""eps, $/MW^2h: DAQP needs curvature in every variable. Where load is lost, the price rises by 2 eps for each MW."""


@dataclass(frozen=True)
class GeneratingUnit:
    """Cost a P^2 + b P + c in $/h of the output P in MW, 0 <= P <= `max_mw`, changing by `ramp_mw` an hour at most.

    It changes from `output_mw` in the slot before the first, from any output where that is None.
    """

    id: str
    quadratic: float
    linear: float
    constant: float
    max_mw: float
    ramp_mw: float
    output_mw: float | None = None


@dataclass(frozen=True)
class Dispatch:
    """The optimum [SM-1] for one net demand: `generation` (G, T), `short`, `spilt` (T,), MW; `price` (T,), $/MWh.

    `hourly_cost` (T,) is the supply cost of an hour as each slot is, lost load included, in dollars; a slot has
    `slot_hours`, Δ. `solution` are all variables of the program, `multipliers` those of its `limits`, positive at the
    upper one.
    """

    generation: Array
    short: Array
    spilt: Array
    price: Array
    hourly_cost: Array
    slot_hours: float
    solution: Array
    multipliers: Array

    @property
    def cost(self) -> float:
        """The supply cost of the horizon, dollars."""
        return self.slot_hours * float(self.hourly_cost.sum())


class EconomicDispatch:
    """The program [SM-1] of several generators over `slots`, set up once and solved for each net demand.

    min 1/2 z' diag(weight) z + ..., lower <= limits z <= upper, with z the outputs by generator and slot, short, spilt.
    Of the `limits`, first those of each variable, `balance` are the rows in which both sides are the net demand.
    """

    def __init__(
        self, generators: Sequence[GeneratingUnit], lost_load_price: float, slots: int, slot_hours: float = 1.0
    ) -> None:
        self.generators = list(generators)
        self.slots, self.slot_hours = slots, slot_hours
        self._lost_load_price = lost_load_price
        a, b, self._constant, p_max, ramp = np.array(
            [[g.quadratic, g.linear, g.constant, g.max_mw, g.ramp_mw] for g in generators]
        ).T
        self._a, self._b = a[:, None], b[:, None]
        outputs = len(a) * slots
        every_slot = np.eye(slots)
        balance = np.hstack([np.tile(every_slot, len(a)), every_slot, -every_slot])
        change = np.kron(np.eye(len(a)), np.diff(every_slot, axis=0))
        self._rows = np.vstack([balance, np.hstack([change, np.zeros((len(change), 2 * slots))])])
        self.limits = np.vstack([np.eye(self._rows.shape[1]), self._rows])
        self.weight = np.concatenate([np.repeat(2 * a, slots), np.full(2 * slots, 2 * _SLACK_CURVATURE)])
        self._linear = np.concatenate([np.repeat(b, slots), np.full(slots, lost_load_price), np.zeros(slots)])
        steepest = slot_hours * np.repeat(ramp, slots - 1)
        self.upper = np.concatenate([np.repeat(p_max, slots), np.full(2 * slots, np.inf), np.zeros(slots), steepest])
        self.lower = np.concatenate([np.zeros(outputs + 2 * slots), np.zeros(slots), -steepest])
        for number, unit in enumerate(generators):
            if unit.output_mw is not None:
                first, change_mw = number * slots, slot_hours * unit.ramp_mw
                self.upper[first] = min(unit.max_mw, unit.output_mw + change_mw)
                self.lower[first] = max(0.0, unit.output_mw - change_mw)
        self.balance = slice(outputs + 2 * slots, outputs + 3 * slots)
        self._model: daqp.Model | None = None

    def solve(self, net_demand: Array) -> Dispatch:
        """Give the dispatch for `net_demand` (T,), MW. Raise `SolverError` when no solution is found.

        Every finite demand has one, but at absurd magnitudes the solver fails for lack of precision.
        """
        self.upper[self.balance] = self.lower[self.balance] = net_demand
        z, multipliers = self._solve_warm() or self._solve_cold()
        z, outputs = np.clip(z, 0, None), len(self.generators) * self.slots
        generation = z[:outputs].reshape(-1, self.slots)
        short, spilt = np.split(z[outputs:], 2)
        running = (self._a * generation**2 + self._b * generation + self._constant[:, None]).sum(axis=0)
        lost = self._lost_load_price * short + _SLACK_CURVATURE * (short**2 + spilt**2)
        price = -multipliers[self.balance]
        return Dispatch(generation, short, spilt, price, running + lost, self.slot_hours, z, np.array(multipliers))

    def _solve_warm(self) -> tuple[Array, Array] | None:
        """Solve from the last active set; None when there is none or it leads to no solution."""
        if self._model is None:
            return None
        self._model.update(bupper=self.upper, blower=self.lower)
        z, _, flag, info = self._model.solve()
        return (z, info["lam"]) if self._is_feasible(z, flag) else None

    def _solve_cold(self) -> tuple[Array, Array]:
        sense = np.zeros(len(self.upper), np.int32)
        sense[self.balance] = _EQUALITY
        model, self._model = daqp.Model(), None
        model.settings = {"primal_tol": 1e-11, "dual_tol": 1e-12, "iter_limit": 20 * len(self.upper)}
        flag, _ = model.setup(np.diag(self.weight), self._linear, self._rows, self.upper, self.lower, sense)
        if flag >= 0:
            z, _, flag, info = model.solve()
            if self._is_feasible(z, flag):
                self._model = model
                return z, info["lam"]
        raise SolverError("economic dispatch", f"DAQP exit {flag}")

    def _is_feasible(self, z: Array, flag: int) -> bool:
        """Tell whether the solver succeeded and z keeps bounds and rows to 1e-9 of the demand."""
        values = self.limits @ z
        margin = 1e-9 * max(1.0, float(np.abs(self.upper[self.balance]).max()))
        return flag > 0 and bool((values <= self.upper + margin).all() and (values >= self.lower - margin).all())
