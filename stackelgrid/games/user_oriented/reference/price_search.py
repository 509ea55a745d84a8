"""A search for a price that gives the leader more utility. It shares no code with the leader's own algorithm.

Arrays are (T,); prices in money per kWh, loads in kW. Equation tags are those of docs/games/user_oriented.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import Bounds, minimize

from stackelgrid.games.user_oriented.home import Home, HomeProblem
from stackelgrid.games.user_oriented.reference.stacked_homes import StackedHomes
from stackelgrid.wire.arrays import Array

_STARTS = 3
_CLIMB = {"maxiter": 60, "maxfun": 90, "ftol": 1e-15, "gtol": 1e-12}
_CLIMB_WITHIN = {"maxiter": 60, "ftol": 1e-14}
_WITHIN = 1e-6


@dataclass(frozen=True)
class Company:
    """The leader: wholesale price c, charge mu on deviation in money per kWh per kW, capacity."""

    wholesale: Array
    mu: Array
    load_min: Array
    load_max: Array

    def cost(self, load: Array) -> float:
        """Give the cost C(L) = c.L + sum mu_t (L_t - mean L)^2 [UO-C], money."""
        return float(self.wholesale @ load + self.mu @ (load - load.mean()) ** 2)

    def utility(self, price: Array, load: Array) -> float:
        """Give U_c [UO-7], money."""
        return float(price @ load) - self.cost(load)

    def marginal_cost(self, load: Array) -> Array:
        """Give grad C(L) [UO-C], the derivative of the mean included, (T,) money per kWh."""
        charge = 2 * self.mu * (load - load.mean())
        return np.asarray(self.wholesale + charge - charge.mean())

    def violation(self, load: Array) -> float:
        """Give the distance of the load from the capacity [UO-8] in the worst slot, kW; zero within it."""
        return float(np.max([np.zeros_like(load), load - self.load_max, self.load_min - load]))

    def price_residual(self, price: Array, load: Array) -> float:
        """Give the largest distance of `price` from grad C(L) plus capacity multipliers [UO-B], money per kWh.

        It is the natural residual of that complementarity problem: the difference itself where the capacity is slack,
        and only a difference of the wrong sign where it binds.
        """
        per_kw = max(float(np.max(np.abs(price))), 1e-12) / max(float(np.max(np.abs(load))), 1e-12)
        wanted = np.clip(load + (price - self.marginal_cost(load)) / per_kw, self.load_min, self.load_max)
        return per_kw * float(np.max(np.abs(load - wanted)))


@dataclass(frozen=True)
class Response:
    """The homes' answer to a price: total `load` (T,), and its derivative when it is asked for."""

    load: Array
    differentiate: Callable[[], Array]

    @cached_property
    def jacobian(self) -> Array:
        """dL/dp, (T, T)."""
        return self.differentiate()


class HomesResponse:
    """The true answer L(p) of the homes: closed form without storage, else `HomeProblem`, which is certified itself."""

    def __init__(self, homes: Sequence[Home], slots: int) -> None:
        self._plain = StackedHomes([home for home in homes if not home.storage], slots)
        self._storing = [HomeProblem(home) for home in homes if home.storage]

    def answer(self, price: Array) -> Response:
        """Answer a price (T,)."""
        plain = self._plain
        wanted = plain.fixed + plain.sum_by_home(plain.appliances.demand(price))
        # Without storage the slots are independent and the utility is concave in the draw: the limits clip it.
        draw = np.clip(wanted, plain.draw_min[:, None], plain.draw_max[:, None])
        schedules = [problem.answer(price) for problem in self._storing]

        def differentiate() -> Array:
            slope = np.where(draw == wanted, plain.sum_by_home(plain.appliances.demand_slope(price)), 0.0)
            return np.asarray(sum((each.sensitivity for each in schedules), start=np.diag(slope.sum(axis=0))))

        return Response(np.asarray(sum((each.load for each in schedules), start=draw.sum(axis=0))), differentiate)


@dataclass(frozen=True)
class BestPrice:
    """The best price found, its load and the leader's utility, money; `tried` is the number of prices tried."""

    price: Array
    load: Array
    utility: float
    tried: int


class BetterPriceSearch:
    """A search for a better price than the settled one, between `low` and `high`, money per kWh.

    First it tries `samples` prices. Three of four are near the settled one, at distances from a hundred-thousandth to a
    third of it, along single slots, rough and smooth directions. The others are anywhere: rough, smooth, or the settled
    price scaled. Then it climbs along the gradient L + J'(p - grad C(L)) from the settled price and from the best ones
    anywhere, by L-BFGS-B, or by SLSQP when there is a capacity. A price counts only if its load keeps the capacity.
    """

    def __init__(self, company: Company, respond: Callable[[Array], Response], low: float, high: float) -> None:
        self._company, self._respond = company, respond
        self._low, self._high = low, high
        self._tried = 0
        self._at: Array | None = None

    def run(self, settled: Array, samples: int, random: np.random.Generator) -> BestPrice:
        """Find the best price, at least the settled one. The result depends on the state of `random` alone."""
        start = np.clip(settled, self._low, self._high)
        load = self._answer(start).load
        self._best = start, load, self._company.utility(start, load)
        elsewhere = samples // 4
        for _ in range(samples - elsewhere):
            self._utility_less_penalty(np.clip(self._near(start, random), self._low, self._high))
        far = [np.clip(self._far(start, random), self._low, self._high) for _ in range(elsewhere)]
        worth = [self._utility_less_penalty(price) for price in far]
        promising = [far[index] for index in np.argsort(worth)[::-1][: _STARTS - 1]]
        for price in [start, *promising]:
            self._climb(price)
        return BestPrice(*self._best, self._tried)

    def _answer(self, price: Array) -> Response:
        """Give the homes' answer to a price. Remember the last price, and the best one that keeps the capacity."""
        if self._at is None or not np.array_equal(price, self._at):
            self._at = price.copy()  # SciPy changes its own in place
            self._response = self._respond(self._at)
            self._tried += 1
            load, company = self._response.load, self._company
            kept = company.violation(load) <= _WITHIN * float(np.max(np.abs(load)))
            if kept and self._tried > 1 and company.utility(price, load) > self._best[2]:
                self._best = self._at, load, company.utility(price, load)
        return self._response

    def _utility_less_penalty(self, price: Array) -> float:
        """Give the leader's utility, less a penalty where the load exceeds the capacity."""
        load = self._answer(price).load
        return self._company.utility(price, load) - 10 * self._high * self._company.violation(load)

    def _climb(self, start: Array) -> None:
        company = self._company
        load = self._answer(start).load
        money, kw = max(1.0, abs(company.utility(start, load))), max(1.0, float(np.max(np.abs(load))))

        def descent(price: Array) -> tuple[float, Array]:
            answer = self._answer(price)
            rise = answer.load + answer.jacobian.T @ (price - company.marginal_cost(answer.load))
            return -company.utility(price, answer.load) / money, -rise / money

        bounds = Bounds(self._low, self._high)
        low, high = np.flatnonzero(np.isfinite(company.load_min)), np.flatnonzero(np.isfinite(company.load_max))
        if not len(low) + len(high):
            minimize(descent, start, jac=True, method="L-BFGS-B", bounds=bounds, options=_CLIMB)
            return

        def room(price: Array) -> Array:
            load = self._answer(price).load
            return np.concatenate([(load - company.load_min)[low], (company.load_max - load)[high]]) / kw

        def room_slope(price: Array) -> Array:
            jacobian = self._answer(price).jacobian
            return np.vstack([jacobian[low], -jacobian[high]]) / kw

        kept = {"type": "ineq", "fun": room, "jac": room_slope}
        minimize(descent, start, jac=True, method="SLSQP", bounds=bounds, constraints=kept, options=_CLIMB_WITHIN)

    def _near(self, settled: Array, random: np.random.Generator) -> Array:
        distance = 10 ** random.uniform(-5, -0.5) * float(np.max(np.abs(settled)))
        kind = random.integers(3)
        if kind == 0:
            direction = np.zeros_like(settled)
            direction[random.integers(len(settled))] = random.choice([-1.0, 1.0])
        else:
            direction = random.standard_normal(len(settled)) if kind == 1 else _smooth(len(settled), random)
        return np.asarray(settled + distance * direction / np.max(np.abs(direction)))

    def _far(self, settled: Array, random: np.random.Generator) -> Array:
        kind = random.integers(3)
        if kind == 0:
            return random.uniform(self._low, self._high, len(settled))
        if kind == 1:
            return settled * random.uniform(0.3, 3.0)
        middle, swing = random.uniform(self._low, self._high), random.uniform(0, (self._high - self._low) / 2)
        return middle + swing * _smooth(len(settled), random)


def _smooth(slots: int, random: np.random.Generator) -> Array:
    """Draw a curve (slots,) of a few slow waves, at most 1 in size."""
    hours = np.arange(slots) / slots
    waves = np.array([np.cos(2 * np.pi * (k * hours + random.uniform())) for k in range(1, 4)])
    curve = random.standard_normal(3) @ waves
    return np.asarray(curve / np.max(np.abs(curve)))
