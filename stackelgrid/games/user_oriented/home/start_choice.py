"""The choice of the slots in which the deferrable runs of a home begin [UO-DR].

At given starts s the runs are inelastic load d(s), and the rest is a convex problem with the least cost V(d), bill less
satisfaction. V is convex in d, and the home's own price pi_k at the starts s_k is a subgradient:

    V(d(s)) >= V(d(s_k)) + Δ pi_k · (d(s) - d(s_k))                                                      [UO-DB]

The starts are solved in the order of these lower bounds, until none that is left can be better. Where nothing couples
the runs with the rest, pi is the price, and each run begins in its cheapest slot. Load in kW, money as in the price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import numpy as np

from stackelgrid.games.user_oriented.home.answer import Schedule
from stackelgrid.games.user_oriented.home.model import DrawLimit, Home, Starts
from stackelgrid.games.user_oriented.home.quadratic_program import InfeasibleHomeError
from stackelgrid.games.user_oriented.home.schedule import HomeProblem
from stackelgrid.model import LARGEST
from stackelgrid.wire.arrays import Array

_MOST_CHOICES = 4096
_NO_BETTER = 1e-9
"""A start whose cost is lower by no more, relative to the cost, is not better."""


def pose_problem(home: Home) -> HomeProblem | StartChoice:
    """Pose the problem of a home. Raise `InfeasibleHomeError` when no schedule exists at any price."""
    return StartChoice(home) if home.deferrable else HomeProblem(home)


class StartChoice:
    """The problem of a home with deferrable runs, set up once and solved for each price.

    It keeps its starts from question to question unless others gain enough, which `changes` counts [UO-DH]. While it
    keeps them, its load is that of a home without a choice, a function of the price.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self._kept: Starts | None = None
        self.changes = 0
        self._problems: dict[Starts, HomeProblem | None] = {}
        self._choices: list[Starts] = []
        if not home.couples_runs:
            self._pose(home.earliest_starts)
            return
        count = prod(len(run.starts) for run in home.deferrable)
        if count > _MOST_CHOICES:
            raise InfeasibleHomeError(
                f"home {home.id}: deferrable has {count} choices of starts, at most {_MOST_CHOICES} are tried where "
                "limits or other devices matter; bring earliest and latest nearer together, or leave a run out"
            )
        self._choices = list(product(*(run.starts for run in home.deferrable)))
        self._draws = np.array([home.draw_runs(starts) for starts in self._choices])
        self._free = None if home.flows_together else HomeProblem(_set_free(home))
        if all(self._try_to_pose(starts) is None for starts in self._choices):
            self._pose(home.earliest_starts)  # tells why not

    def choose(self, price: Array) -> None:
        """Choose the starts at a price (T,): keep those that it has, or change them where that gains enough [UO-DH]."""
        rule, kept = self.home.start_changes, self._kept
        if kept is not None and self.changes >= rule.at_most:
            return
        best, gain = self._find_best(price)
        if kept is None:
            self._kept = best
        elif gain > rule.least_gain * self.home.slot_hours * abs(float(price @ self.home.draw_runs(kept))):
            self._kept = best
            self.changes += 1

    def answer(self, price: Array) -> Schedule:
        """Give the best schedule at `price` (T,) with the starts that it has; the best where it has none yet."""
        if self._kept is None:
            self.choose(price)
        assert self._kept is not None
        return replace(self._pose(self._kept).answer(price), starts=self._kept)

    def summarize(self, schedule: Schedule) -> dict[str, Any]:
        """Give what `HomeProblem.summarize` does, and the slots in which runs begin, `starts`."""
        return {**self._pose(schedule.starts).summarize(schedule), "starts": list(schedule.starts)}

    def remember(self) -> dict[str, Any]:
        """Give the starts that it has, None before the first, and the count of changes."""
        return {"starts": self._kept, "changes": self.changes}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from what `remember` gave before a restart."""
        self._kept = None if memory["starts"] is None else tuple(memory["starts"])
        self.changes = memory["changes"]

    def _find_best(self, price: Array) -> tuple[Starts, float]:
        """Find the best starts at a price, the earliest of equals, and what they gain over those kept, money."""
        cheapest = tuple(_find_cheapest(run.starts, run.shape_kw, price) for run in self.home.deferrable)
        if not self._choices:
            saved = (
                0.0 if self._kept is None else price @ (self.home.draw_runs(self._kept) - self.home.draw_runs(cheapest))
            )
            return cheapest, self.home.slot_hours * float(saved)
        hours, costs = self.home.slot_hours, np.full(len(self._choices), np.inf)
        tried, bounds = np.zeros(len(costs), bool), np.full(len(costs), -np.inf)
        if self._free is not None:
            bounds = _compute_cost(self._free, self._free.answer(price)) + hours * self._draws @ price
        number = self._choices.index(cheapest if self._kept is None else self._kept)
        while True:
            tried[number] = True
            problem = self._try_to_pose(self._choices[number])
            if problem is not None:
                schedule = problem.answer(price)
                costs[number] = _compute_cost(problem, schedule)
                if schedule.devices is not None:
                    own = (self._draws - self._draws[number]) @ schedule.devices.own_price
                    bounds = np.maximum(bounds, costs[number] + hours * own)
            least = float(costs.min())
            better = ~tried & (bounds < (least - _NO_BETTER * max(1.0, abs(least)) if np.isfinite(least) else np.inf))
            if not better.any():
                break
            number = int(np.argmin(np.where(better, bounds, np.inf)))
        best = int(np.argmin(costs))
        gain = 0.0 if self._kept is None else float(costs[self._choices.index(self._kept)] - costs[best])
        return self._choices[best], gain

    def _pose(self, starts: Starts) -> HomeProblem:
        """Pose the convex problem at given starts, once."""
        problem = self._problems.get(starts)
        if problem is None:
            problem = self._problems[starts] = HomeProblem(self.home.at_starts(starts))
        return problem

    def _try_to_pose(self, starts: Starts) -> HomeProblem | None:
        """Pose the convex problem at given starts; None where it has no schedule."""
        if starts not in self._problems:
            try:
                self._pose(starts)
            except InfeasibleHomeError:
                self._problems[starts] = None
        return self._problems[starts]


def _find_cheapest(starts: Sequence[int | None], shape_kw: Sequence[float], price: Array) -> int | None:
    """Find the start at which a run costs least at a price (T,), the earliest of equals."""
    costs = [
        0.0 if at is None else float(price[at - 1 : at - 1 + len(shape_kw)] @ shape_kw[: len(price) - at + 1])
        for at in starts
    ]
    least = min(costs)
    return next(at for at, cost in zip(starts, costs, strict=True) if cost <= least + _NO_BETTER * max(1.0, abs(least)))


def _compute_cost(problem: HomeProblem, schedule: Schedule) -> float:
    """Compute the bill less satisfaction of a schedule, money."""
    return -float(problem.summarize(schedule)["utility"])


def _set_free(home: Home) -> Home:
    """Give the home without its runs and without limits: its cost and what runs cost by themselves are a bound."""
    return home.model_copy(update={"deferrable": [], "draw_limit": DrawLimit(min_kw=-LARGEST)})
