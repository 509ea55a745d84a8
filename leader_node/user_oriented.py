"""What the utility company solves in the user-oriented pricing game: the price of each slot.

It maximises its own utility (equation 7), revenue less a charge on the deviation of the load from its mean,

    U_c(p) = sum_t (p_t - c_t) L_t - sum_t mu_t (L_t - mean L)^2,      L = L(p) the customers' answer,

under the capacity L_min <= L_t <= L_max (equation 8), in one of two ways:

- `stackelberg`: the leader's own optimum given the answer (problem 16);
- `welfare`: the price at which selfish customers maximise the whole system's utility (proof of Theorem 1), the
  marginal cost p = grad C(L) plus capacity multipliers, C(L) = c.L + sum mu_t (L_t - mean L)^2. For a mu that is the
  same in all slots this is p_t = c_t + 2 mu (L_t - mean L); otherwise the mean's own derivative, -2/T sum mu (L - mean
  L), stays (derived).

It never sees a customer's problem. It learns, per round, the total load at the price it asked and how that load
bends: `slope`, the part of dL/dp within a slot that elastic appliances cause, and `coupling`, the matrix that storage
causes. It solves its problem on that local model inside a trust region and asks again. Units: kW per slot of one
hour, money per kWh; mu is given in money per kWh per mean kW of the baseline load, so that it does not depend on the
size of the system (derived; the paper multiplies mu by kW^2).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import daqp
import numpy as np

from leader_node.local_response import Array, LocalResponse, Observation, learnt_bend
from stackelgrid.rounds.strategy import Decision
from stackelgrid.wire.messages import Body
from stackelgrid.wire.user_oriented import LoadResponse, Price

Objective = Literal["stackelberg", "welfare"]

_NEWTON_STEPS = 60
_LEAST_LENGTH = 1e-6
_SETTLED = 1e-13
_FAR = 1e12


@dataclass(frozen=True)
class UtilityCompany:
    """The leader's parameters. Arrays are (T,); `mu` in money per kWh per kW, already divided by the mean load."""

    wholesale_price: Array
    mu: Array
    load_min: Array
    load_max: Array
    price_min: float
    price_max: float

    def deviation_charge(self, load: Array) -> float:
        """sum mu_t (L_t - mean L)^2, money."""
        return float(self.mu @ (load - load.mean()) ** 2)

    def utility(self, price: Array, load: Array) -> float:
        """U_c, equation (7), money."""
        return float((price - self.wholesale_price) @ load) - self.deviation_charge(load)

    def marginal_cost(self, load: Array) -> Array:
        """grad C(L), money per kWh: what one more kWh in each slot costs the leader."""
        pull = 2 * self.mu * (load - load.mean())
        return np.asarray(self.wholesale_price + pull - pull.mean())

    def distance_from_marginal_cost(self, price: Array, load: Array) -> float:
        """Norm of the KKT residual of the welfare price, kW: zero where p = grad C(L) + capacity multipliers."""
        per_kw = max(float(np.max(np.abs(price))), 1e-12) / max(float(np.max(np.abs(load))), 1e-12)
        wanted = load - (self.marginal_cost(load) - price) / per_kw
        return float(np.linalg.norm(load - np.clip(wanted, self.load_min, self.load_max)))

    @property
    def cost_curvature(self) -> Array:
        """Hessian of C, (T, T), positive semidefinite."""
        off_mean = np.eye(len(self.mu)) - 1 / len(self.mu)
        return np.asarray(off_mean @ np.diag(2 * self.mu) @ off_mean)

    def violation(self, load: Array) -> float:
        """How far the load is outside the capacity, kW, worst slot."""
        return float(np.max([np.zeros_like(load), load - self.load_max, self.load_min - load]))


@dataclass(frozen=True)
class Ask:
    """Put this price, (T,), to the customers."""

    price: Array


@dataclass(frozen=True)
class Settle:
    """The last price stands. `residual` is the relative price change that was still wanted."""

    residual: float


@dataclass
class Negotiation:
    """The leader's search for its price, one round at a time.

    The first round asks the flat baseline price, so its answer is the baseline load; the price moves from there, kept
    within a trust region that grows while the local model predicts well and shrinks when it does not.

    The answer has kinks, where an appliance or a storage reaches a limit, and a leader's best price often lies on
    one: beyond it the customers bend differently and the gain turns to a loss. A single local model then sends the
    price to and fro across the kink. So the leader keeps the rounds it has seen and, as in a bundle method, maximises
    the least of the utilities their models predict; a model that is proved wrong at the best price is dropped.
    """

    company: UtilityCompany
    objective: Objective
    tolerance: float = 1e-6
    reach: float = 0.4
    residual: float = float("inf")
    best: Observation | None = None
    _bend: Array | None = None
    _bundle: list[Observation] = field(default_factory=list)
    _last: Observation | None = None
    _predicted: float = 0.0

    def next(self, seen: Observation) -> Ask | Settle:
        """What follows from one round's answers."""
        if self._last is not None and self._last.homes != seen.homes:
            self._forget()
        self._bend = self._learn_bend(seen)
        self._last = seen
        self._bundle.append(seen)
        if self.best is None or np.array_equal(seen.price, self.best.price) or self._improves(seen):
            self.best = seen
        models = self._models(self.best)
        price = self._best_price(models)
        if self._change(price) <= self.tolerance:
            models = self._without_disproved(models)
            price = self._best_price(models)
        self.residual = self._change(price)
        if self.residual <= self.tolerance:
            return Settle(self.residual) if seen is self.best else Ask(self.best.price)
        self._predicted = self._least_merit(models, price) - self._merit(self.best.price, self.best.load)
        return Ask(price)

    def _forget(self) -> None:
        """Other customers answer than before: what was seen of the old ones says nothing of the new."""
        self.best, self._last, self._bundle, self._predicted = None, None, [], 0.0

    def _learn_bend(self, seen: Observation) -> Array:
        assumed = np.ones_like(seen.price) if self._bend is None else self._bend
        return assumed if self._last is None else learnt_bend(self._last, seen, assumed)

    def _improves(self, seen: Observation) -> bool:
        """Whether the new round beats the best so far; the trust region learns from it either way."""
        assert self.best is not None
        gained = self._merit(seen.price, seen.load) - self._merit(self.best.price, self.best.load)
        if gained < 0.25 * self._predicted:
            self.reach = 0.3 * min(self.reach, self._change(seen.price))
        elif gained > 0.75 * self._predicted:
            self.reach = min(2 * self.reach, 1.0)
        # Near the optimum the gain drowns in rounding: a step that small is taken as it is.
        return gained > 0 or self._predicted <= 1e-12 * abs(self._merit(seen.price, seen.load))

    def _change(self, price: Array) -> float:
        """Largest price change against the best round, relative to its largest price."""
        assert self.best is not None
        scale = max(float(np.max(np.abs(self.best.price))), 1e-12)
        return float(np.max(np.abs(price - self.best.price))) / scale

    def _merit(self, price: Array, load: Array) -> float:
        """What the search increases: the leader's utility, or minus the distance from the marginal cost."""
        if self.objective == "welfare":
            return -self.company.distance_from_marginal_cost(price, load)
        steep = 10 * max(abs(self.company.price_max), 1e-6)
        return self.company.utility(price, load) - steep * self.company.violation(load)

    def _least_merit(self, models: list[LocalResponse], price: Array) -> float:
        return min(self._merit(price, model.load(price)) for model in models)

    # --- the bundle ---

    def _models(self, best: Observation) -> list[LocalResponse]:
        """The local model at the best price first, then those of other rounds that promise no less there."""
        assert self._bend is not None
        models = [LocalResponse(best, self._bend)]
        if self.objective == "welfare":
            return models
        floor = self._merit(best.price, best.load)
        for seen in self._bundle:
            model = LocalResponse(seen, self._bend)
            promised = self._merit(best.price, model.load(best.price))
            if seen is not best and promised >= floor - 1e-12 * abs(floor):
                models.append(model)
        return models

    def _without_disproved(self, models: list[LocalResponse]) -> list[LocalResponse]:
        """Only the models that foretell the load seen at the best price: those whose kink it lies on."""
        best = models[0].at
        allowed = 1e-5 * float(np.max(np.abs(best.load)))
        kept = [m for m in models if np.max(np.abs(m.load(best.price) - best.load)) <= allowed]
        self._bundle = [model.at for model in kept]
        return kept

    # --- the local problem ---

    def _best_price(self, models: list[LocalResponse]) -> Array:
        start = models[0].at.price
        width = self.reach * max(float(np.max(np.abs(start))), 1e-9)
        if self.objective == "welfare":
            return self._marginal_price(models[0], start - width, start + width)
        lower = np.clip(start - width, self.company.price_min, self.company.price_max)
        upper = np.clip(start + width, self.company.price_min, self.company.price_max)
        return self._leading_price(models, lower, upper)

    def _leading_price(self, models: list[LocalResponse], lower: Array, upper: Array) -> Array:
        """Maximise the least utility the models predict: Newton steps on max t, t <= U_j(p), capacity kept."""
        company, size = self.company, len(lower)
        price = np.clip(models[0].at.price, lower, upper)
        share = np.full(len(models), 1 / len(models))
        for _ in range(_NEWTON_STEPS):
            loads = [model.load(price) for model in models]
            bends = [model.jacobian(price) for model in models]
            margins = [price - company.marginal_cost(load) for load in loads]
            utility = np.array([company.utility(price, load) for load in loads])
            rise = np.array([load + bend @ m for load, bend, m in zip(loads, bends, margins, strict=True)])
            concavity = sum(
                part * (bend @ company.cost_curvature @ bend - 2 * bend - np.diag(model.curvature(price) * margin))
                for part, model, bend, margin in zip(share, models, bends, margins, strict=True)
            )
            # Variables: the price step and t; t's own tiny curvature only makes the program strictly convex.
            hessian = np.zeros((size + 1, size + 1))
            hessian[:size, :size] = _convex(np.asarray(concavity))
            hessian[size, size] = 1e-4 / max(float(np.max(np.abs(utility))), 1e-9)
            pieces = np.hstack([-rise, np.ones((len(models), 1))])
            solved, multipliers = self._solve(
                hessian,
                np.append(np.zeros(size), -1.0),
                (np.append(lower - price, -_FAR), np.append(upper - price, _FAR)),
                (pieces, np.full(len(models), -np.inf), utility - utility.min()),
                (np.hstack([bends[0], np.zeros((size, 1))]), loads[0]),
            )
            step = solved[:size]
            weights = np.abs(multipliers[size + 1 : size + 1 + len(models)])
            if weights.sum() > 0:
                share = weights / weights.sum()
            length, now = 1.0, self._least_merit(models, price)
            while length > _LEAST_LENGTH and self._least_merit(models, price + length * step) < now:
                length /= 2
            if length <= _LEAST_LENGTH:
                break
            price = price + length * step
            if np.max(np.abs(step)) <= _SETTLED * np.max(np.abs(price)):
                break
        return price

    def _marginal_price(self, model: LocalResponse, lower: Array, upper: Array) -> Array:
        """The price that equals the marginal cost of the load it calls forth: Newton steps on a QP.

        Stationary where p + step = grad C(L + J step) + capacity multipliers; J is made definite for slots in which
        nobody bends any more, where the price then simply follows the cost.
        """
        company, size = self.company, len(lower)
        price = model.at.price
        for _ in range(_NEWTON_STEPS):
            load, bend = model.load(price), model.jacobian(price)
            give = -bend + 1e-9 * (float(np.max(np.abs(bend))) + 1e-12) * np.eye(size)
            step, _ = self._solve(
                give + give @ company.cost_curvature @ give,
                give @ (price - company.marginal_cost(load)),
                (lower - price, upper - price),
                (np.zeros((0, size)), np.zeros(0), np.zeros(0)),
                (-give, load),
            )
            price = price + step
            if np.max(np.abs(step)) <= _SETTLED * np.max(np.abs(price)):
                break
        return price

    def _solve(
        self,
        hessian: Array,
        linear: Array,
        box: tuple[Array, Array],
        rows: tuple[Array, Array, Array],
        response: tuple[Array, Array],
    ) -> tuple[Array, Array]:
        """min 1/2 s'Hs + f's in the box and rows, with the predicted load within capacity where that is possible."""
        company = self.company
        bounded = np.isfinite(company.load_min) | np.isfinite(company.load_max)
        slopes, load = response
        matrix = np.vstack([rows[0], slopes[bounded]])
        lower = np.concatenate([box[0], rows[1], (company.load_min - load)[bounded]])
        upper = np.concatenate([box[1], rows[2], (company.load_max - load)[bounded]])
        # First with capacity as hard limits; when no price within reach keeps them, as nearly as possible (soft).
        for softness in (0, 8):
            sense = np.zeros(len(lower), np.int32)
            sense[len(lower) - int(bounded.sum()) :] = softness
            solution, _, flag, info = daqp.solve(hessian, linear, matrix, upper, lower, sense, primal_tol=1e-11)
            if flag > 0:
                return np.asarray(solution), np.asarray(info["lam"])
        raise ArithmeticError(f"the leader's local problem has no solution (DAQP exit {flag})")


def _convex(hessian: Array) -> Array:
    """The matrix with each eigenvalue's absolute value, above a small floor: the other way only the trust region
    holds the step."""
    values, vectors = np.linalg.eigh(hessian)
    size = np.abs(values)
    return np.asarray((vectors * np.maximum(size, 1e-6 * float(np.max(size)))) @ vectors.T)


class UserOrientedLeader:
    """The leader's strategy: between the bodies on the wire and the negotiation.

    `balance` turns the baseline load, (T,) kW, into the charge mu on deviation, (T,) money per kWh per kW; it is known
    once the flat `baseline_price` (T,) has been answered.
    """

    def __init__(
        self,
        company: UtilityCompany,
        objective: Objective,
        baseline_price: Array,
        balance: Callable[[Array], Array],
        tolerance: float = 1e-6,
    ) -> None:
        self._baseline_price = baseline_price
        self._balance = balance
        self._company = company
        self._negotiation = Negotiation(company, objective, tolerance)
        self._baseline_load: Array | None = None

    def open(self) -> Price:
        """The flat price, whose answer is the baseline."""
        return Price(price=self._baseline_price.tolist())

    def decide(self, signal: Body, answers: Mapping[str, Body], held: Collection[str]) -> Decision:
        """Sum the aggregators' answers to a price, find the next one."""
        assert isinstance(signal, Price)
        seen = observation(np.array(signal.price), answers, held)
        if self._baseline_load is None:
            self._baseline_load = seen.load
            self._company = replace(self._company, mu=self._balance(seen.load))
            self._negotiation.company = self._company
        verdict = self._negotiation.next(seen)
        price = verdict.price if isinstance(verdict, Ask) else seen.price
        account = {
            "price": seen.price.tolist(),
            "load_kw": seen.load.tolist(),
            "peak_kw": float(seen.load.max()),
            "par": float(seen.load.max() / seen.load.mean()),
            "leader_utility": self._company.utility(seen.price, seen.load),
            "homes": seen.homes,
        }
        return Decision(Price(price=price.tolist()), isinstance(verdict, Settle), self._negotiation.residual, account)


def observation(price: Array, answers: Mapping[str, Body], held: Collection[str] = ()) -> Observation:
    """What a round taught, summed over the answers in the order of the members; those `held` do not bend."""
    load, slope = np.zeros(len(price)), np.zeros(len(price))
    coupling = np.zeros((len(price), len(price)))
    homes = 0
    for name, body in answers.items():
        assert isinstance(body, LoadResponse)
        load += body.loads().sum(axis=0)
        if name in held:
            continue
        homes += body.homes - body.held
        slope += body.slope
        if body.coupling is not None:
            coupling += body.coupling.array()
    return Observation(price, load, slope, coupling, homes)


def fixed_balance(mu: float, baseline_load: Array) -> Array:
    """mu per mean kW of the baseline, the same in every slot."""
    return np.full(len(baseline_load), mu / baseline_load.mean())


def adaptive_balance(mu_high: float, mu_low: float, threshold: float, baseline_load: Array) -> Array:
    """A larger mu where the baseline is far from its mean, peak or deep off-peak, a smaller one elsewhere (4.4).

    Far is a deviation of more than `threshold` times the mean (reading).
    """
    mean = baseline_load.mean()
    far = np.abs(baseline_load - mean) > threshold * mean
    return np.asarray(np.where(far, mu_high, mu_low) / mean)
