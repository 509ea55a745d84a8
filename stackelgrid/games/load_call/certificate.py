"""The certificate of the load call game: an outcome compared with independent references.

Each consumer's shift is compared with a scalar minimisation of its cost, the aggregator's calls with the optimum of a
planner who knows every consumer: always as a concave program in cvxpy, and of small games also in the paper's own form,
the consumers' KKT conditions with complementarity as SOS1 sets, solved by SCIP. Energies kWh, arrays (n,) in the order
of the homes; money as in the tariff.
"""
# cvxpy exports its atoms by star imports, which type checkers do not follow, and is not typed throughout.
# mypy: disable-error-code="attr-defined,no-untyped-call"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import cvxpy as cp
import numpy as np
from scipy.optimize import brentq, minimize_scalar

from stackelgrid.certify import CertificateError
from stackelgrid.games.load_call.aggregator import AggregatorTerms
from stackelgrid.games.load_call.home import Consumer
from stackelgrid.games.load_call.leader import UtilitySettings
from stackelgrid.games.load_call.outcome import LoadCallOutcome
from stackelgrid.wire.arrays import Array

if TYPE_CHECKING:
    from stackelgrid.games.load_call.scenario import LoadCallScenario

_FEASIBLE = 1e-6
_LARGEST_MPCC = 12
_TOLERANCES = {
    **dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12),
    # What Clarabel may still call "almost solved" when rounding stops it before that.
    **dict.fromkeys(("reduced_tol_gap_abs", "reduced_tol_gap_rel", "reduced_tol_feas"), 1e-9),
}


@dataclass(frozen=True)
class Plan:
    """The best calls and the shifts that follow, (n,) kWh; `utility` [LC-5], money; `solver` the solver's account."""

    calls: Array
    shifts: Array
    utility: float
    solver: dict[str, Any]


def certify(scenario: LoadCallScenario, outcome: LoadCallOutcome, samples: int) -> dict[str, Any]:
    """Certify an outcome in which every consumer settled. Ready for JSON; nothing in it is sampled.

    - `method`: what was done, in words.
    - `gap`: how far the aggregator's utility is below the planner's optimum, relative to max(1, |optimum|); below zero
      only by the reference's tolerance, or where limits are violated.
    - `max_regret`: the largest relative gain of any player from deviating alone, of the two that follow.
    - `max_home_regret`: of the consumers, relative to max(1, |cost|); the call is the aggregator's to choose.
    - `aggregator_regret`: `gap`, where it is above zero.
    - `violation`: the worst breach of sum c = R [LC-6], 0 <= c <= d, 0 <= y <= c, y <= most_kwh [LC-4], kWh.
    - `feasible`: whether that is within 1e-6 of the target.
    - `shift_residual`: the largest distance of a shift from the best one, kWh.
    - `call_distance`: the largest distance of a call from the planner's, kWh.
    - `bill_residual`: the largest relative error of a bill or a reward.
    - `balance_residual`: the distance of the total reported to the utility from the sum of the shifts, kWh.
    - `utility`, `planner_utility`: the aggregator's, computed anew, and the planner's optimum, money.
    - `mpcc`: `utility` of the paper's program, money, and the run's `gap` to it; None for more than 12 consumers,
      without pyscipopt, or where SCIP gives up.
    - `solver_status`: of `planner` Clarabel's status and iterations, of `mpcc` SCIP's status and gap.

    Raise `CertificateError` when the outcome is not of the scenario's consumers.
    """
    homes, leader, terms = scenario.everyone, scenario.leader, scenario.aggregator
    _check_consumers(homes, outcome)
    calls, shifts, bills, rewards = (
        _to_array(homes, by_consumer)
        for by_consumer in (outcome.calls_kwh, outcome.shifted_kwh, outcome.bills, outcome.rewards)
    )
    saving = leader.peak_price - leader.off_peak_price + terms.reward
    best = np.array([minimize_cost(home, saving, called) for home, called in zip(homes, calls.tolist(), strict=True)])
    cost = _compute_net_costs(homes, saving, shifts)
    due = leader.peak_price * (_list_baselines(homes) - shifts) + leader.off_peak_price * shifts
    charged = cost + leader.peak_price * _list_baselines(homes)
    home_regret = max(
        0.0, float(np.max((cost - _compute_net_costs(homes, saving, best)) / np.maximum(1, np.abs(charged))))
    )

    utility = _compute_utility(leader, terms, calls, shifts, scenario.performance)
    plan = solve_planner(homes, leader, terms, scenario.performance)
    gap = (plan.utility - utility) / max(1.0, abs(plan.utility))
    violation = _find_violation(homes, leader.target_kwh, calls, shifts)
    method = "Consumers: a bounded scalar minimiser (scipy). Planner: a concave program in cvxpy with Clarabel"
    exact: dict[str, float] | None = None
    scip: dict[str, Any] | None = None
    if len(homes) <= _LARGEST_MPCC and find_spec("pyscipopt") is None:
        scip = {"status": "not made: install pyscipopt"}
        method += ". The paper's program, which SCIP solves, was not made: install pyscipopt"
    elif len(homes) <= _LARGEST_MPCC:
        method += ", and the consumers' KKT conditions with complementarity as SOS1 sets in SCIP"
        try:
            solved = solve_mpcc(homes, leader, terms, scenario.performance)
            exact = {"utility": solved.utility, "gap": (solved.utility - utility) / max(1.0, abs(solved.utility))}
            scip = solved.solver
        except CertificateError as error:
            scip = {"status": str(error)}
    return {
        "method": f"{method}.",
        "gap": gap,
        "max_regret": max(home_regret, gap),
        "max_home_regret": home_regret,
        "aggregator_regret": max(0.0, gap),
        "violation": violation,
        "feasible": violation <= _FEASIBLE * max(1.0, leader.target_kwh),
        "shift_residual": float(np.max(np.abs(shifts - best))),
        "call_distance": float(np.max(np.abs(calls - plan.calls))),
        "bill_residual": max(_find_error(bills, due), _find_error(rewards, terms.reward * shifts)),
        "balance_residual": abs(outcome.achieved_kwh - float(shifts.sum())),
        "utility": utility,
        "planner_utility": plan.utility,
        "mpcc": exact,
        "solver_status": {"planner": plan.solver, "mpcc": scip},
    }


def minimize_cost(home: Consumer, saving: float, called: float) -> float:
    """Find the shift of a consumer called for `called` kWh, kWh, by minimising its cost [LC-4].

    `saving` is p_on - p_off + r.
    """
    most = min(called, home.limit_kwh)

    def cost(shift: float) -> float:
        return home.alpha * shift**2 + home.beta * shift - saving * shift

    inside = minimize_scalar(cost, bounds=(0, most), method="bounded", options={"xatol": 1e-10 * max(1.0, most)})
    return float(min((0.0, most, inside.x), key=cost))


def find_yhat(home: Consumer, saving: float) -> float:
    """Find yhat [LC-A], kWh: the zero of the marginal cost of shifting, by bracketing."""
    most = home.limit_kwh

    def marginal(shift: float) -> float:
        return 2 * home.alpha * shift + home.beta - saving

    if marginal(0.0) >= 0:
        return 0.0
    return most if marginal(most) <= 0 else float(brentq(marginal, 0.0, most, xtol=1e-12, rtol=1e-14))


def solve_planner(
    homes: Sequence[Consumer], leader: UtilitySettings, terms: AggregatorTerms, performance: Array | None = None
) -> Plan:
    """Solve [LC-7] with every yhat known, as a concave program over calls and shifts. Raise `CertificateError`.

    In units of the mean call and of the commission on it, so that Clarabel's tolerances mean the same for any game.
    """
    n = len(homes)
    unit = leader.target_kwh / n or 1.0
    saving = leader.peak_price - leader.off_peak_price + terms.reward
    limit = np.array([find_yhat(home, saving) for home in homes])
    calls, shifts = cp.Variable(n), cp.Variable(n)
    mean = leader.target_kwh / n / unit
    unfair = terms.fairness * unit / (leader.commission or 1.0)
    earned = cp.sum(shifts) if leader.commission > 0 else 0.0
    problem = cp.Problem(
        cp.Maximize(earned - unfair * cp.sum_squares(calls - mean * _rate(n, performance))),
        [
            cp.sum(calls) == mean * n,
            calls >= 0,
            calls <= _list_baselines(homes) / unit,
            shifts >= 0,
            shifts <= calls,
            shifts <= limit / unit,
        ],
    )
    problem.solve(solver=cp.CLARABEL, **_TOLERANCES)
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise CertificateError(f"the planner's program: Clarabel ended with {problem.status}; no certificate")
    found = np.asarray(calls.value) * unit
    answered = np.minimum(found, limit)
    return Plan(
        calls=found,
        shifts=answered,
        utility=_compute_utility(leader, terms, found, answered, performance),
        solver={"status": str(problem.status), "iterations": problem.solver_stats.num_iters},
    )


def solve_mpcc(
    homes: Sequence[Consumer], leader: UtilitySettings, terms: AggregatorTerms, performance: Array | None = None
) -> Plan:
    """Solve the paper's single-level form of [LC-7] by SCIP: consumers' problems replaced by their KKT conditions.

    For each consumer, with multipliers for y <= c, y <= min(d, m) and y >= 0,

        2 alpha y + beta - (p_on - p_off + r) + u + v - w = 0,      u (c - y) = v (min(d, m) - y) = w y = 0,

    each product as an SOS1 set of the multiplier and its slack. The condition is divided by 2 alpha, so that everything
    is in kWh. For a few consumers only: the time grows with the number of combinations. Raise `CertificateError`, and
    `ImportError` without pyscipopt.
    """
    from pyscipopt import Model, quicksum

    model = Model()
    model.hideOutput()
    saving = leader.peak_price - leader.off_peak_price + terms.reward
    calls, shifts = [], []
    for home in homes:
        baseline, most = home.baseline_kwh, home.limit_kwh
        stationary = (saving - home.beta) / (2 * home.alpha)
        pull, push = max(stationary, 0.0), max(-stationary, 0.0)  # no multiplier need be larger
        call, shift = model.addVar(lb=0, ub=baseline), model.addVar(lb=0, ub=most)
        uncalled, unable, unwilling = (model.addVar(lb=0, ub=bound) for bound in (pull, pull, push))
        beyond_call, beyond_most = model.addVar(lb=0, ub=baseline), model.addVar(lb=0, ub=most)
        model.addCons(beyond_call == call - shift)
        model.addCons(beyond_most == most - shift)
        model.addCons(shift - stationary + uncalled + unable - unwilling == 0)
        for multiplier, slack in ((uncalled, beyond_call), (unable, beyond_most), (unwilling, shift)):
            model.addConsSOS1([multiplier, slack])
        calls.append(call)
        shifts.append(shift)
    mean = leader.target_kwh / len(homes)
    model.addCons(quicksum(calls) == mean * len(homes))
    deviation = model.addVar(lb=0)
    fair = mean * _rate(len(homes), performance)
    model.addCons(quicksum((call - f) * (call - f) for call, f in zip(calls, fair, strict=True)) <= deviation)
    model.setObjective(leader.commission * quicksum(shifts) - terms.fairness * deviation, "maximize")
    try:
        model.optimize()
    except Exception as error:  # pyscipopt raises this very class when the LP solver gives up
        raise CertificateError(f"the MPCC: {error}") from None
    status = str(model.getStatus())
    if status != "optimal":
        raise CertificateError(f"the MPCC: SCIP ended with {status}")
    found, answered = (np.array([model.getVal(variable) for variable in some]) for some in (calls, shifts))
    utility = _compute_utility(leader, terms, found, answered, performance)
    return Plan(found, answered, utility, {"status": status, "gap": model.getGap()})


def _check_consumers(homes: Sequence[Consumer], outcome: LoadCallOutcome) -> None:
    """Raise `CertificateError` when the outcome lacks consumers or has others."""
    ids = {home.id for home in homes}
    if missing := sorted(ids - outcome.calls_kwh.keys()):
        raise CertificateError(
            f"outcome.calls_kwh lacks {', '.join(missing)}: no certificate of homes that did not settle; "
            "certify the run of those that did"
        )
    if unknown := sorted(outcome.calls_kwh.keys() - ids):
        raise CertificateError(f"outcome.calls_kwh has {', '.join(unknown)}, unknown to the scenario")


def _to_array(homes: Sequence[Consumer], by_consumer: Mapping[str, float]) -> Array:
    return np.array([by_consumer[home.id] for home in homes])


def _compute_utility(
    leader: UtilitySettings, terms: AggregatorTerms, calls: Array, shifts: Array, performance: Array | None
) -> float:
    """Compute the aggregator's utility [LC-5], money."""
    fair = calls.mean() * _rate(len(calls), performance)
    return leader.commission * float(shifts.sum()) - terms.fairness * float(np.sum((calls - fair) ** 2))


def _rate(n: int, performance: Array | None) -> Array:
    """Give the fair call of each consumer as a part of the mean call [LC-D], (n,)."""
    return np.ones(n) if performance is None or not performance.any() else n * performance / performance.sum()


def _list_baselines(homes: Sequence[Consumer]) -> Array:
    return np.array([home.baseline_kwh for home in homes])


def _compute_net_costs(homes: Sequence[Consumer], saving: float, shifts: Array) -> Array:
    """Compute the net cost of shifting, (n,) money: [LC-2] less the bill without a call."""
    alpha, beta = np.array([[home.alpha, home.beta] for home in homes]).T
    return np.asarray(alpha * shifts**2 + beta * shifts - saving * shifts)


def _find_violation(homes: Sequence[Consumer], target: float, calls: Array, shifts: Array) -> float:
    most = np.array([np.inf if home.most_kwh is None else home.most_kwh for home in homes])
    beyond = [-calls, calls - _list_baselines(homes), -shifts, shifts - calls, shifts - most]
    return max(0.0, abs(float(calls.sum()) - target), float(np.max(beyond)))


def _find_error(found: Array, true: Array) -> float:
    return float(np.max(np.abs(found - true) / np.maximum(1, np.abs(true))))
