"""Several climbs at once: the way to the leader's best price where storage couples the slots [UO-16].

With storage the load of a slot depends on all prices, and its response is linear in pieces: there are many small hills.
So the search climbs several of them in the same rounds, each with a question a round (`hill_climb.py`):

- from the baseline;
- from the best prices on the demand curves that flat prices show, and from the best of these flat prices. A change of
  all prices by the same amount moves no stored energy, so these curves are those of the elastic appliances alone;
- then from where a *hop* of one slot leads from the best price known: to another hill of that slot, as its demand curve
  and the storage's response at the best price foretell it;
- and from prices drawn around the best one.

A climb ends that stays behind, or that comes to where another one has ended higher. Only the one from the baseline goes
on as long as it may still reach the best price known. The search ends when enough climbs have, or when no question is
left. With more slots fewer are enough, since the hill of a single slot counts less.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from stackelgrid.errors import SolverError
from stackelgrid.games.user_oriented.demand_curves import DemandCurves, learn_demand_curves
from stackelgrid.games.user_oriented.hill_climb import HillClimb
from stackelgrid.games.user_oriented.local_response import Array, Observation
from stackelgrid.games.user_oriented.search import name_price
from stackelgrid.games.user_oriented.separable_problem import SeparableProblem
from stackelgrid.games.user_oriented.utility_company import UtilityCompany

_LOG = logging.getLogger("leader_node")
MOST_COUPLED_SLOTS = 16
"""With more slots the baseline's hill alone is climbed: answers are long, and other hills gain little."""
_WIDTH = 5
"""So many climbs go on at once."""
_LEAST_CLIMBS, _CLIMBS_OF_A_SLOT = 3, 80
"""The search ends with so many climbs, or with so many over the number of slots if that is more."""
_BEGINS, _ENDS = 21, 39
"""No climb begins after the one round, none goes on after the other."""
_BEHIND = ((4, 0.02), (14, 1e-4))
"""A climb ends that after so many steps is behind by more than so much of the utility."""
_LATELY, _SOON, _LEVEL = 5, (10, 6), 1e-6
"""The steps that show the pace of a climb, and those that it has before it is judged (from the baseline, others), and
the part of the utility by which it may be behind all the same."""
_FEW_QUESTIONS, _MOST_STEPS = 8, 200
_REFINED, _MOST_LEVELS, _PROMISE = (2, 4), 6, 1e-6
"""After these rounds flat prices are asked where the demand curves may hide more than that part of the utility."""
_CURVE_STARTS, _ROUGHLY = 3, 1e-4
"""So many climbs begin on the demand curves, at prices that are as good as this part of the utility."""
_APART = 0.015
"""Starts are apart by this part of the range of the price; climbs that end nearer are on one hill."""
_AROUND = (0.04, 0.012, 0.1)
"""The standard deviations of prices drawn around the best one, in parts of the range of the price."""

Merit = Callable[[Array, Array], float]
"""What is sought the most of: the merit of a price and the load that answers it, money."""


@dataclass
class Climb:
    """One climb: its `start`, the price `wanted` next, and the best merit up to each answer, its `heights`."""

    hill: HillClimb
    start: Array
    wanted: Array
    heights: list[float] = field(default_factory=list)
    ended: bool = False

    @property
    def steps(self) -> int:
        """The number of answers."""
        return len(self.heights)

    @property
    def best(self) -> float:
        """The best merit among the answers, money."""
        return self.heights[-1] if self.heights else -np.inf

    def go_on(self, known: Mapping[bytes, Observation], merit: Merit) -> None:
        """Take the steps for which answers are known."""
        while not self.ended and (answer := known.get(name_price(self.wanted))) is not None:
            self.heights.append(max(self.best, merit(answer.price, answer.load)))
            try:
                wanted = self.hill.step(answer)
            except (SolverError, np.linalg.LinAlgError) as error:
                _LOG.warning("a climb ends", extra={"data": {"error": str(error)}})
                wanted = None
            self.ended = wanted is None or np.array_equal(wanted, self.wanted) or self.steps >= _MOST_STEPS
            self.wanted = self.wanted if wanted is None else wanted


class SeveralClimbs:
    """The climbs of one search. `known` are all answers with a sensitivity, by the name of their price."""

    def __init__(self, company: UtilityCompany, tolerance: float, baseline: Climb, merit: Merit) -> None:
        self._company, self._tolerance, self._merit = company, tolerance, merit
        self._climbs = [baseline]
        self._random = np.random.default_rng(0)
        self._drawn = 0
        self._curves: DemandCurves | None = None
        self._range = float(np.max(company.price_max - company.price_min))

    def propose(self, known: Mapping[bytes, Observation], rounds: int, left: int) -> list[Array]:
        """Give the prices that the climbs want to know next, none when the search is over.

        `rounds` is how many there were, `left` how many questions are left. With many slots, or fewer than two flat
        prices known, the climb from the baseline is the only one.
        """
        flat = [each for each in known.values() if np.ptp(each.price) == 0]
        if len(flat) < 2 or len(flat[0].price) > MOST_COUPLED_SLOTS:
            return [] if self._climbs[0].ended or left <= 0 else [self._climbs[0].wanted]
        self._curves = learn_demand_curves(flat)
        problem = SeparableProblem(self._company, self._curves)
        if len(self._climbs) == 1:
            self._begin_at_curves(problem, flat)
        for climb in self._climbs:
            climb.go_on(known, self._merit)
        best = self._find_best(known.values())
        self._give_up(self._merit(best.price, best.load), rounds)
        slots = len(best.price)
        enough = (
            self._count_ended() >= max(_LEAST_CLIMBS, round(_CLIMBS_OF_A_SLOT / slots) + 1) and self._climbs[0].ended
        )
        if left <= 0 or (enough and self._has_ended_at(best)):
            return []
        active = [climb for climb in self._climbs if not climb.ended]
        kept = _FEW_QUESTIONS + (0 if self._climbs[0].ended else _BEGINS - rounds)
        while rounds < _BEGINS and left > kept and len(active) < _WIDTH:
            active.append(self._begin(self._choose_start(best), rounds))
        active.sort(key=lambda climb: -climb.best)
        levels = self._find_levels(problem, best) if rounds in _REFINED else []
        wanted = [*levels, *(climb.wanted for climb in active)]
        return wanted if self._climbs[0].ended else [self._climbs[0].wanted, *wanted[: max(0, left - (_ENDS - rounds))]]

    @property
    def enough_have_ended(self) -> bool:
        """True when as many climbs have ended as a search with storage has at least."""
        return self._count_ended() >= _LEAST_CLIMBS

    def _count_ended(self) -> int:
        return sum(climb.ended for climb in self._climbs)

    def _begin(self, start: Array, rounds: int = 0) -> Climb:
        climb = Climb(HillClimb(self._company, self._tolerance, rounds), start, start)
        self._climbs.append(climb)
        return climb

    def _begin_at_curves(self, problem: SeparableProblem, flat: list[Observation]) -> None:
        """Begin climbs at the best prices on the demand curves, and at the best flat price."""
        for start in [*problem.solve(_CURVE_STARTS, _ROUGHLY), self._find_best(flat).price]:
            if not self._is_near_a_start(start):
                self._begin(start)

    def _find_levels(self, problem: SeparableProblem, best: Observation) -> list[Array]:
        """Find the flat prices that would tell most of the demand curves near the best price: one per slot at most."""
        wanted = problem.find_promising(best.price, _PROMISE * abs(self._merit(best.price, best.load)), 1)
        levels = np.unique([price[price != best.price] for price in wanted])
        return [np.full(len(best.price), level) for level in levels[:_MOST_LEVELS]]

    def _give_up(self, best: float, rounds: int) -> None:
        """End the climbs that are behind, or on a hill that is known; the one from the baseline if it is far behind."""
        for number, climb in enumerate(self._climbs):
            behind = (best - climb.best) / max(abs(best), 1e-9)
            climb.ended |= rounds >= _ENDS or self._is_too_slow(climb, best, rounds)
            if number > 0:
                climb.ended |= any(climb.steps >= steps and behind > most for steps, most in _BEHIND)
                climb.ended |= self._is_on_known_hill(climb)

    def _is_too_slow(self, climb: Climb, best: float, rounds: int) -> bool:
        """Tell whether a climb would not reach the best merit in the rounds left, at its pace of late."""
        if climb.steps < (_SOON[0] if climb is self._climbs[0] else _SOON[1]):
            return False
        pace = (climb.heights[-1] - climb.heights[-1 - _LATELY]) / _LATELY
        return best - climb.best > max(pace * (_ENDS - rounds), _LEVEL * abs(best))

    def _is_on_known_hill(self, climb: Climb) -> bool:
        """Tell whether a climb has come to where another one ended higher."""
        ended = [other for other in self._climbs if other.ended and other is not climb and other.best >= climb.best]
        return climb.steps > 1 and any(self._are_near(climb.wanted, other.wanted) for other in ended)

    def _has_ended_at(self, best: Observation) -> bool:
        """Tell whether no climb is on the way on the best hill."""
        return any(climb.ended and climb.best >= self._merit(best.price, best.load) for climb in self._climbs)

    def _choose_start(self, best: Observation) -> Array:
        """Choose where to begin next: two hops, then a price around the best one."""
        self._drawn += 1
        if self._drawn % 3 and (hops := self._find_hops(best)):
            return hops[0]
        spread = _AROUND[self._drawn % len(_AROUND)] * self._range
        drawn = best.price + spread * self._random.normal(size=len(best.price))
        return np.clip(drawn, self._company.price_min, self._company.price_max)

    def _find_hops(self, best: Observation) -> list[Array]:
        """Find the prices to which one slot may hop from the best one, (T,) each, where no climb began.

        First the best hop of each slot as foretold, then the second best of each, and so on.
        """
        assert self._curves is not None
        hops: list[tuple[int, float, Array]] = []
        levels, demand = self._curves.grid()
        here = self._curves.at(best.price[None])[0]
        for slot in range(len(best.price)):
            price = np.tile(best.price, (len(levels), 1))
            price[:, slot] = levels[:, slot]
            load = best.load + np.outer(levels[:, slot] - best.price[slot], best.coupling[:, slot])
            load[:, slot] += demand[:, slot] - here[slot]
            merit = np.array([self._merit(p, y) for p, y in zip(price, load, strict=True)])
            above = np.append(merit[1:], -np.inf)
            below = np.append(-np.inf, merit[:-1])
            tops = [
                number
                for number in np.flatnonzero((merit >= above) & (merit >= below))
                if not self._are_near(price[number], best.price) and not self._is_near_a_start(price[number])
            ]
            tops.sort(key=lambda number: -merit[number])
            hops += [(rank, -merit[number], price[number]) for rank, number in enumerate(tops)]
        return [price for *_, price in sorted(hops, key=lambda hop: hop[:2])]

    def _find_best(self, known: Iterable[Observation]) -> Observation:
        return max(known, key=lambda each: self._merit(each.price, each.load))

    def _is_near_a_start(self, price: Array) -> bool:
        return any(self._are_near(price, climb.start) for climb in self._climbs)

    def _are_near(self, price: Array, other: Array) -> bool:
        return bool(np.max(np.abs(price - other)) <= _APART * self._range)
