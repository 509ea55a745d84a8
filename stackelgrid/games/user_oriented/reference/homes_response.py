"""The homes' answers to prices: one with its derivative, or the loads at many prices at once.

Prices are money per kWh, loads kW, T slots of one hour, K prices, H homes, S storages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stackelgrid.games.user_oriented.home import DrawLimit, Home, HomeProblem, Storage
from stackelgrid.games.user_oriented.reference.device_programme import DeviceProgramme
from stackelgrid.games.user_oriented.reference.interior_point import Chains, Draw, solve_chains
from stackelgrid.games.user_oriented.reference.stacked_homes import StackedHomes
from stackelgrid.model import LARGEST
from stackelgrid.wire.arrays import Array

Index = NDArray[np.intp]

_AT_ONCE = 400
_SLACK, _LEAST_RATIO = 1e-9, 1e-9


@dataclass(frozen=True)
class Response:
    """The homes' answer to a price: total `load` (T,), and its derivative when it is asked for."""

    load: Array
    differentiate: Callable[[], Array]

    @cached_property
    def jacobian(self) -> Array:
        """dL/dp, (T, T)."""
        return self.differentiate()


@dataclass(frozen=True)
class Schedules:
    """The homes' schedules at K prices, (K, T): what they draw, what their storages charge and hold, (K, H, T)."""

    prices: Array
    draw: Array
    charging: Array
    stored: Array


class HomesResponse:
    """The true answer L(p) of the homes.

    Without storage it has a closed form. With storage, `answer` takes it from `HomeProblem`, which is certified itself,
    and `schedule` from an interior-point method, many homes and prices at once. Homes whose devices are scheduled
    together leave all but `best_answers` to `HomeProblem`; that comes from a programme in cvxpy.
    """

    def __init__(self, homes: Sequence[Home], slots: int) -> None:
        self._together = {row: home for row, home in enumerate(homes) if home.flows_together}
        self._problems = {
            row: HomeProblem(home) for row, home in enumerate(homes) if home.storage or home.flows_together
        }
        homes = [_empty(home) if home.flows_together else home for home in homes]
        self.homes = StackedHomes(homes, slots)
        owned = [(row, storage) for row, home in enumerate(homes) for storage in home.storage]
        self._owner: Index = np.array([row for row, _ in owned], np.intp)
        self._order, self._chains = _stack_chains([storage for _, storage in owned], slots)
        self.storages = len(owned)
        self._count = np.bincount(self._owner, minlength=len(homes))
        self._without = np.setdiff1d(np.flatnonzero(self._count == 0), list(self._together))
        self._chain_of = np.zeros(len(homes), np.intp)
        self._chain_of[self._owner] = np.arange(len(owned))
        rows = [np.flatnonzero(self.homes.appliances.home == row) for row in range(len(homes))]
        most = max(map(len, rows), default=0)
        self._appliances: Index = np.array([[*each, *[-1] * (most - len(each))] for each in rows], np.intp)

    def answer(self, price: Array) -> Response:
        """Answer a price (T,)."""
        plain, without = self.homes, self._without
        wanted = (plain.fixed + plain.sum_by_home(plain.appliances.demand(price)))[without]
        # Without storage the slots are independent and the utility is concave in the draw: the limits clip it.
        draw = np.clip(wanted, plain.draw_min[without, None], plain.draw_max[without, None])
        schedules = [problem.answer(price) for problem in self._problems.values()]

        def differentiate() -> Array:
            slope = plain.sum_by_home(plain.appliances.demand_slope(price))[without]
            free = np.diag(np.where(draw == wanted, slope, 0.0).sum(axis=0))
            return np.asarray(sum((each.sensitivity for each in schedules), start=free))

        return Response(np.asarray(sum((each.load for each in schedules), start=draw.sum(axis=0))), differentiate)

    def best_answers(self, price: Array) -> tuple[Array, Array]:
        """Give the homes' best loads (H, T) and utilities (H,) at a price (T,), the bill taken off [UO-6]."""
        found = self.schedule(price[None], exact=True)
        draw = found.draw[0]
        utility = self.homes.utility_of(draw, found.stored[0])
        for home in np.flatnonzero(np.isnan(utility)):  # the levels of several storages are not in their sum
            problem = self._problems[int(home)]
            best = problem.answer(price)
            draw[home], utility[home] = best.load, problem.utility(best)
        utility = utility - draw @ price
        for row, described in self._together.items():
            draw[row], utility[row] = DeviceProgramme(described).solve(price)
        return draw, utility

    def loads(self, prices: Array) -> Array:
        """Give the total loads (K, T) at prices (K, T), right to about a thousandth where homes have storage."""
        size = max(1, _AT_ONCE // max(1, self.storages))
        parts = [prices[at : at + size] for at in range(0, len(prices), size)]
        return np.concatenate([self.schedule(part, exact=False).draw.sum(axis=1) for part in parts])

    def charging(self, price: Array) -> Array:
        """Give the charging of each home's storages, (H, T), at a price (T,)."""
        return np.asarray(self.schedule(price[None], exact=False).charging[0])

    def loads_while_charging(self, prices: Array, charging: Array) -> Array:
        """Give the total loads (K, T) at prices (K, T) while the storages of each home charge (H, T)."""
        homes = self.homes
        wanted = homes.fixed + charging + homes.sum_by_home(homes.appliances.demand(prices[:, None, :]))
        return np.asarray(np.clip(wanted, homes.draw_min[:, None], homes.draw_max[:, None]).sum(axis=1))

    def kinks(self) -> Array:
        """Give the prices (A, T) above and below which each appliance no longer responds, two rows an appliance."""
        appliances = self.homes.appliances
        ends = []
        for rates in (appliances.lo, appliances.hi):
            price = np.zeros_like(rates)
            for name, rows in appliances.of_form.items():
                with np.errstate(divide="ignore"):
                    q = rates[rows] / appliances.x_max[rows]
                    price[rows] = (
                        appliances.v[rows] * _MARGINAL[name](q, appliances.omega[rows], appliances.alpha[rows])[0]
                    )
            ends.append(price)
        return np.concatenate(ends)

    def schedule(self, prices: Array, *, exact: bool) -> Schedules:
        """Give the homes' best schedules at prices (K, T)."""
        homes = self.homes
        draw = homes.fixed + homes.sum_by_home(homes.appliances.demand(prices[:, None, :]))
        found = Schedules(prices, draw, np.zeros_like(draw), np.zeros_like(draw))
        if self.storages:
            self._run_storages(found, exact)
        least, most = homes.draw_min[:, None], homes.draw_max[:, None]
        outside = np.any((draw < least - _SLACK) | (draw > most + _SLACK), axis=2)
        draw[:, self._without] = np.clip(draw, least, most)[:, self._without]
        price, home = np.nonzero(outside)
        alone, several = self._count[home] == 1, self._count[home] > 1
        if alone.any():
            self._limit(found, price[alone], home[alone], exact)
        self._solve_each(found, price[several], home[several])
        for row in self._together:
            for number, each in enumerate(prices):
                draw[number, row] = found.charging[number, row] = self._problems[row].answer(each).load
        return found

    def _run_storages(self, found: Schedules, exact: bool) -> None:
        """Add what each storage does by itself."""
        count = len(found.prices)
        chains, owner = np.tile(np.arange(self.storages), count), np.tile(self._owner, count)
        price, order = np.repeat(np.arange(count), self.storages), self._order[:, chains]
        best = solve_chains(self._chains.at(chains), found.prices[price, order], exact=exact)
        where = price, owner, order
        for total, part in ((found.draw, best.r), (found.charging, best.r), (found.stored, best.level)):
            np.add.at(total, where, part)
        self._solve_each(found, price[~best.solved], owner[~best.solved])

    def _limit(self, found: Schedules, price: Index, home: Index, exact: bool) -> None:
        """Solve again, within the draw limits, the problems of homes with one storage at some prices."""
        homes, appliances, chains = self.homes, self.homes.appliances, self._chain_of[home]
        order = self._order[:, chains]
        owned = self._appliances[home].T[:, None, :]
        there = np.broadcast_to(owned >= 0, (len(owned), *order.shape))
        form = np.broadcast_to(np.where(owned >= 0, appliances.form[owned], "none"), there.shape)

        def gather(values: Array) -> Array:
            return np.where(there, values[owned, order], 1.0)

        v, x_max = gather(appliances.v), gather(appliances.x_max)
        omega, alpha = gather(appliances.omega), gather(appliances.alpha)

        def marginal(x: Array) -> tuple[Array, Array]:
            worth, bend = np.zeros(x.shape), np.full(x.shape, -1.0)
            for name, formula in _MARGINAL.items():
                if (of_form := form == name).any():
                    first, second = formula((x / x_max)[of_form], omega[of_form], alpha[of_form])
                    worth[of_form], bend[of_form] = v[of_form] * first, (v / x_max)[of_form] * second
            return worth, bend

        floor = np.where(form == "power", _LEAST_RATIO * x_max, 0.0)
        lo, hi = (np.where(there, np.maximum(gather(each), floor), 0.0) for each in (appliances.lo, appliances.hi))
        least, most = (np.broadcast_to(each[home], order.shape) for each in (homes.draw_min, homes.draw_max))
        behind = Draw(homes.fixed[home, order], there, lo, hi, marginal, least, most)
        best = solve_chains(self._chains.at(chains), found.prices[price, order], behind, exact=exact)
        where = price, home, order
        found.draw[where] = homes.fixed[home, order] + best.x.sum(axis=0) + best.r
        found.charging[where], found.stored[where] = best.r, best.level
        self._solve_each(found, price[~best.solved], home[~best.solved])

    def _solve_each(self, found: Schedules, prices: Index, homes: Index) -> None:
        """Leave to `HomeProblem` some homes at some prices: several storages behind one limit, or no convergence."""
        for price, home in zip(prices, homes, strict=True):
            best = self._problems[int(home)].answer(found.prices[price])
            found.draw[price, home], found.stored[price, home] = best.load, best.level.sum(axis=0)
            found.charging[price, home] = best.r.sum(axis=0)


def _empty(home: Home) -> Home:
    """Give a home of the same name that has nothing, in the place of one whose load is found otherwise."""
    return Home(id=home.id, horizon=home.horizon, draw_limit=DrawLimit(min_kw=-LARGEST))


_MARGINAL: dict[str, Callable[[Array, Array, Array], tuple[Array, Array]]] = {
    "log": lambda q, omega, alpha: (alpha / (omega * (1 + alpha * q)), -(alpha**2) / (omega * (1 + alpha * q) ** 2)),
    "power": lambda q, omega, alpha: (
        alpha * q ** (alpha - 1) / omega,
        alpha * (alpha - 1) * q ** (alpha - 2) / omega,
    ),
    "quadratic": lambda q, omega, alpha: (omega - alpha * q, -alpha),
}


def _stack_chains(storages: Sequence[Storage], slots: int) -> tuple[Index, Chains]:
    """Stack storages as chains (T, S), with the slot of each place: first those in which it may run, then the rest."""
    shape = slots, len(storages)
    order, runs = np.zeros(shape, np.intp), np.zeros(shape, bool)
    least = np.zeros(shape)
    for column, storage in enumerate(storages):
        own = storage.slots(slots)
        order[:, column] = [*own, *np.setdiff1d(np.arange(slots), own)]
        runs[: len(own), column] = True
        least[len(own) - 1, column] = storage.least_final_kwh

    def spread(values: Sequence[float]) -> Array:
        return np.broadcast_to(np.array(values, float), shape).copy()

    return order, Chains(
        runs,
        np.array([storage.initial_kwh for storage in storages], float),
        least,
        spread([storage.capacity_kwh for storage in storages]),
        spread([storage.charge_kw for storage in storages]),
        spread([storage.discharge_kw for storage in storages]),
        spread([storage.wear.fast for storage in storages]),
        spread([storage.wear.deep for storage in storages]),
        spread([storage.wear.depth * storage.capacity_kwh for storage in storages]),
    )
