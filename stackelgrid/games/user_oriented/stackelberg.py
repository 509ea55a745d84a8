"""The `stackelberg` leader: its own optimum given the customers' answer [UO-16].

    max over p in [price_min, price_max]   U_c(p, L(p)),   L_min <= L(p) <= L_max

There are many hills: wherever an appliance reaches a limit, the best price may lie. So the leader explores. It always
climbs the hill from the baseline (`hill_climb.py`), and in the same rounds asks other prices:

1. *Levels*: flat prices all over the bounds, with sensitivities. Where the slots do not depend on each other, each of
   them gives a point on the demand curve of every slot.
2. *Candidates*: the best price on the curves learnt so far (`demand_curves.py`, `separable_problem.py`), with one a
   little below and one a little above, so that a kink is seen from both sides.
3. *What promises most*: prices in intervals where the curve is not known well enough to rule out a better one.

It settles on the best price asked, when the curves foretell no better one and nothing promises more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from stackelgrid.errors import SolverError
from stackelgrid.games.user_oriented.demand_curves import learn_demand_curves
from stackelgrid.games.user_oriented.hill_climb import HillClimb
from stackelgrid.games.user_oriented.local_response import Array, Observation
from stackelgrid.games.user_oriented.search import NextPrices, PriceFound, relative_change
from stackelgrid.games.user_oriented.separable_problem import SeparableProblem
from stackelgrid.games.user_oriented.utility_company import UtilityCompany
from stackelgrid.rounds.settings import QUESTIONS_PER_SESSION

_LOG = logging.getLogger("leader_node")
_LEVELS = 0.2
"""The part of the questions that is spent on flat prices."""
_FOR_CANDIDATES = 0.25
"""The part of the questions that is kept for candidates, and to settle."""
_PROMISING = 14
"""So many prices that promise more are asked in a round."""
_GAIN, _PROMISE, _ROUNDING = 1e-9, 1e-8, 1e-13
"""What is gained or promised counts when it is more than this part of the utility."""
_PATIENCE = 4
"""After so many rounds without a gain, what the curves foretell is no longer believed."""


class StackelbergSearch:
    """The search for the leader's best price, several questions a round, at most `questions` different ones."""

    def __init__(
        self, company: UtilityCompany, tolerance: float = 1e-6, questions: int = QUESTIONS_PER_SESSION
    ) -> None:
        self.residual = 0.0
        self._company = company
        self._tolerance = tolerance
        self._questions = questions
        self._asked: set[bytes] = set()
        self._begin()

    @property
    def company(self) -> UtilityCompany:
        """The utility company; may be replaced between rounds."""
        return self._company

    @company.setter
    def company(self, company: UtilityCompany) -> None:
        self._company = self._climb.company = company

    def open(self, price: Array) -> NextPrices:
        """Begin at the flat price."""
        return NextPrices(price)

    def next(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        """Give the next prices, or end the search at the best one; it is then the last round's first."""
        here = observed[0]
        if self._known and not here.is_of_same_homes(next(iter(self._known.values()))):
            self._begin(self._climb.steps)
        self._known |= {_name(each.price): each for each in observed if each.slope is not None}
        self._asked |= {_name(each.price) for each in observed}
        if len(self._asked) >= self._questions or self._company.price_min >= self._company.price_max:
            return self._settle(here)
        self._climb_on(here)
        if any(each.coupling.any() for each in self._known.values()):
            self.residual = self._climb.residual
            return PriceFound(self.residual) if self._climbing is None else NextPrices(self._climbing)
        if not self._knows_levels:
            return self._ask_levels(here)
        return self._explore(here)

    def _begin(self, steps: int = 0) -> None:
        """Begin anew: the answers so far are of other homes."""
        self._known: dict[bytes, Observation] = {}
        self._climb = HillClimb(self._company, self._tolerance, steps)
        self._climbing: Array | None = None
        self._knows_levels = self._has_climbed = False
        self._utility, self._rounds_without_gain = -np.inf, 0

    def _climb_on(self, here: Observation) -> None:
        """Take the next step of the climb from the baseline, if the price that it wanted is answered."""
        wanted = here if self._climbing is None else self._known.get(_name(self._climbing))
        if wanted is None or self._has_climbed:
            return
        try:
            self._climbing = self._climb.step(wanted)
        except SolverError as error:
            if not self._knows_levels:
                raise
            _LOG.warning("the climb ends", extra={"data": {"error": str(error)}})
            self._climbing = None
        self._has_climbed = self._climbing is None

    def _ask_levels(self, here: Observation) -> NextPrices:
        """Ask flat prices all over the bounds."""
        self._knows_levels = True
        count, slots = max(2, round(_LEVELS * self._questions)), len(here.price)
        levels = np.linspace(self._company.price_min, self._company.price_max, count)
        return self._ask(
            [here.price if self._climbing is None else self._climbing, *(np.full(slots, p) for p in levels)]
        )

    def _explore(self, here: Observation) -> NextPrices | PriceFound:
        """Ask the best price on the curves, what promises more than it, and the next one of the climb."""
        if len(self._known) < 2:
            return self._settle(here)
        best = self._best()
        utility = self._merit(best.price, best.load)
        scale = max(abs(utility), 1e-9)
        self._rounds_without_gain = 0 if utility > self._utility + _GAIN * scale else self._rounds_without_gain + 1
        self._utility = utility
        problem = SeparableProblem(self._company, learn_demand_curves(list(self._known.values())))
        candidate = problem.solve()[0]
        foretold = self._merit(candidate, problem.load(candidate)) - utility
        self.residual = relative_change(candidate, best.price)
        differs = foretold > _GAIN * scale or (foretold > _ROUNDING * scale and self.residual > self._tolerance)
        promises_more = differs and self._rounds_without_gain < _PATIENCE
        first = candidate if promises_more else best.price
        left = int((1 - _FOR_CANDIDATES) * self._questions) - len(self._asked)
        promising = problem.find_promising(first, _PROMISE * scale, max(0, min(_PROMISING, left)))
        if len(self._asked) >= self._questions - 1 or not (promises_more or promising):
            return self._settle(here)
        aside = problem.surround(candidate) if promises_more else []
        return self._ask([first, *([] if self._climbing is None else [self._climbing]), *aside, *promising])

    def _ask(self, prices: Sequence[Array]) -> NextPrices:
        """Ask prices with sensitivity: of the further ones those that are not known yet, as many as may be asked."""
        first, *others = prices
        new = {_name(price): price for price in others if _name(price) not in self._known}
        new.pop(_name(first), None)
        left = max(0, self._questions - len(self._asked | {_name(first)}))
        return NextPrices(first, list(new.values())[:left], sensitivities=1 + min(left, len(new)))

    def _best(self) -> Observation:
        """Give the answer to the best price asked."""
        return max(self._known.values(), key=lambda each: self._merit(each.price, each.load))

    def _settle(self, here: Observation) -> NextPrices | PriceFound:
        """End at the best price asked. Where that was not the first of its round, ask it once more."""
        best = self._best()
        if np.array_equal(here.price, best.price):
            return PriceFound(self.residual)
        return NextPrices(best.price)

    def _merit(self, price: Array, load: Array) -> float:
        """Give the utility less a steep charge on load beyond capacity, money; what is within the tolerance is kept."""
        steep = 10 * max(abs(self._company.price_max), 1e-6)
        beyond = max(0.0, self._company.violation(load) - self._tolerance * float(np.max(load)))
        return self._company.utility(price, load) - steep * beyond


def _name(price: Array) -> bytes:
    """Name a price, the same for the same numbers."""
    return (price + 0.0).tobytes()
