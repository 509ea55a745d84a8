"""The `stackelberg` leader: its own optimum given the customers' answer [UO-16].

    max over p in [price_min, price_max]   U_c(p, L(p)),   L_min <= L(p) <= L_max

There are many hills: wherever an appliance or a storage reaches a limit, the best price may lie. So the leader
explores. It always climbs the hill from the baseline (`hill_climb.py`), and in the same rounds asks other prices, in
the second round flat ones all over the bounds, the *levels*.

Where the slots do not depend on each other, each level gives a point on the demand curve of every slot
(`demand_curves.py`). From then on it asks

- *candidates*: the best price on the curves learnt so far (`separable_problem.py`), with one a little below and one a
  little above, so that a kink is seen from both sides;
- *what promises most*: prices in intervals where the curve is not known well enough to rule out a better one,

until the curves foretell no better price than the best one asked, and nothing promises more. Where storage couples the
slots, it climbs several hills at once (`several_climbs.py`), unless the slots are many. It settles on the best price
asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stackelgrid.games.user_oriented.demand_curves import learn_demand_curves
from stackelgrid.games.user_oriented.hill_climb import HillClimb
from stackelgrid.games.user_oriented.local_response import Array, Observation
from stackelgrid.games.user_oriented.search import (
    KEPT_FOR_FIRST,
    NextPrices,
    PriceFound,
    name_price,
    relative_change,
)
from stackelgrid.games.user_oriented.separable_problem import SeparableProblem
from stackelgrid.games.user_oriented.several_climbs import MOST_COUPLED_SLOTS, Climb, SeveralClimbs
from stackelgrid.games.user_oriented.utility_company import UtilityCompany
from stackelgrid.rounds.settings import QUESTIONS_PER_SESSION

_LEVELS, _LEVELS_WITH_STORAGE = 0.2, 0.12
"""The part of the questions that is spent on flat prices."""
_FOR_CANDIDATES = 0.25
"""The part of the questions that is kept for candidates, and to settle."""
_PROMISING = 14
"""So many prices that promise more are asked in a round."""
_GAIN, _PROMISE, _ROUNDING = 1e-9, 1e-8, 1e-13
"""What is gained or promised counts when it is more than this part of the utility."""
_FINE = 1e3
"""Load beyond capacity costs so many times what the baseline load is worth at most: no utility outweighs it."""
_PATIENCE = 4
"""After so many rounds without a gain, what the curves foretell is no longer believed."""


class StackelbergSearch:
    """The search for the leader's best price, several questions a round, at most `questions` different ones.

    Prices whose answers are `known` are not asked again. Where there are some, the search takes them for its levels.
    """

    def __init__(
        self,
        company: UtilityCompany,
        tolerance: float = 1e-6,
        questions: int = QUESTIONS_PER_SESSION,
        known: Sequence[Observation] = (),
    ) -> None:
        self.company = company
        self.residual = 0.0
        self._tolerance = tolerance
        self._questions = questions
        self._earlier = {name_price(each.price): each for each in known if each.slope is not None}
        self._rounds = 0
        self._asked: set[bytes] = set()
        self._known: dict[bytes, Observation] = {}
        self._climb: Climb

    def open(self, price: Array) -> NextPrices:
        """Begin at the flat price."""
        return NextPrices(price)

    def next(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        """Give the next prices, or end the search at the best one; it is then the last round's first."""
        here = observed[0]
        if not self._known or not here.is_of_same_homes(next(iter(self._known.values()))):
            self._begin(here)
        self._rounds += 1
        self._known |= {name_price(each.price): each for each in observed if each.slope is not None}
        self._asked |= {name_price(each.price) for each in observed}
        self._climb.go_on(self._known, self._merit)
        if np.all(self.company.price_min >= self.company.price_max):
            return self._settle(here)
        if len(self._asked) >= self._questions:
            has_explored = (
                self._climb.ended or self._climbs.enough_have_ended or self._utility > -np.inf or bool(self._earlier)
            )
            return self._settle(here, None if has_explored else self._climb.wanted)
        if not self._levels_asked:
            return self._ask_levels()
        if len(self._known) < 2:
            return self._settle(here)
        is_coupled = any(each.coupling.any() for each in self._known.values())
        return self._go_on_climbing(here) if is_coupled else self._explore(here)

    def _begin(self, here: Observation) -> None:
        """Begin, or begin anew, then at the best price so far: the answers are of other homes."""
        steps = self._climb.hill.steps if self._known else 0
        start = self._find_best().price if self._known else here.price
        self._known = {name: each for name, each in self._earlier.items() if each.is_of_same_homes(here)}
        self._climb = Climb(HillClimb(self.company, self._tolerance, steps), start, start)
        self._climbs = SeveralClimbs(self.company, self._tolerance, self._climb, self._merit)
        self._levels_asked, self._utility, self._rounds_without_gain = bool(self._known), -np.inf, 0
        self._fine = _FINE * float(np.max(self.company.price_max)) * float(np.abs(here.load).sum())

    def _ask_levels(self) -> NextPrices:
        """Ask flat prices all over the bounds, with storage fewer."""
        self._levels_asked = True
        slots = len(self._climb.wanted)
        count = max(2, round(_LEVELS * self._questions))
        if any(each.coupling.any() for each in self._known.values()):
            count = round(_LEVELS_WITH_STORAGE * self._questions) if slots <= MOST_COUPLED_SLOTS else 0
        levels = np.linspace(self.company.price_min, self.company.price_max, count)
        return self._ask([self._climb.wanted, *levels])

    def _go_on_climbing(self, here: Observation) -> NextPrices | PriceFound:
        """Ask what several climbs want to know, until they have ended."""
        self.residual = self._climb.hill.residual
        wanted = self._climbs.propose(self._known, self._rounds, self._left(1 - KEPT_FOR_FIRST))
        if not wanted:
            return self._settle(here, None if self._climbs.enough_have_ended else self._climb.wanted)
        return self._ask([self._find_best().price if self._climb.ended else self._climb.wanted, *wanted])

    def _explore(self, here: Observation) -> NextPrices | PriceFound:
        """Ask the best price on the curves, what promises more than it, and the next one of the climb."""
        best = self._find_best()
        utility = self._merit(best.price, best.load)
        scale = max(abs(self.company.utility(best.price, best.load)), 1e-9)
        self._rounds_without_gain = 0 if utility > self._utility + _GAIN * scale else self._rounds_without_gain + 1
        self._utility = utility
        problem = SeparableProblem(self.company, learn_demand_curves(list(self._known.values())))
        candidate = problem.solve()[0]
        foretold = self._merit(candidate, problem.load(candidate)) - utility
        self.residual = relative_change(candidate, best.price)
        differs = foretold > _GAIN * scale or (foretold > _ROUNDING * scale and self.residual > self._tolerance)
        promises_more = differs and self._rounds_without_gain < _PATIENCE
        first = candidate if promises_more else best.price
        aside = problem.surround(candidate) if promises_more else []
        if self._left(1 - KEPT_FOR_FIRST) > 0:
            aside += problem.find_shared_kinks(first, _PROMISE * scale)
        count = min(_PROMISING, self._left(1 - _FOR_CANDIDATES))
        promising = problem.find_promising(first, _PROMISE * scale, max(0, count))
        if self._left(1) <= 1 or not (promises_more or aside or promising):
            return self._settle(here)
        return self._ask([first, self._climb.wanted, *aside, *promising])

    def _ask(self, prices: Sequence[Array]) -> NextPrices:
        """Ask prices with sensitivity: of the further ones those that are not known yet, as many as may be asked."""
        first, *others = prices
        new = {name_price(price): price for price in others if name_price(price) not in self._known}
        new.pop(name_price(first), None)
        left = max(0, self._questions - len(self._asked | {name_price(first)}))
        return NextPrices(first, list(new.values())[:left], sensitivities=1 + min(left, len(new)))

    def _left(self, part: float) -> int:
        """Give how many more different prices may be asked until a part of all questions is used up."""
        return int(part * self._questions) - len(self._asked)

    def _find_best(self) -> Observation:
        """Give the answer to the best price asked."""
        return max(self._known.values(), key=lambda each: self._merit(each.price, each.load))

    def _settle(self, here: Observation, better: Array | None = None) -> NextPrices | PriceFound:
        """End at the best price asked. Where that was not the first of its round, ask it once more.

        A price that promises to be `better`, but for which no question is left, is asked all the same: so the leader
        learns that the search is not over.
        """
        best = self._find_best()
        if not np.array_equal(here.price, best.price):
            return NextPrices(best.price)
        if better is None or name_price(better) in self._known:
            return PriceFound(self.residual)
        return NextPrices(better)

    def _merit(self, price: Array, load: Array) -> float:
        """Give the utility, money, far less of it beyond capacity [UO-8]; what is within the tolerance is kept."""
        utility = self.company.utility(price, load)
        beyond = self.company.violation(load) - self._tolerance * float(np.max(load))
        if beyond <= 0:
            return utility
        steep = 10 * max(float(np.max(self.company.price_max)), 1e-6)
        return utility - self._fine - steep * beyond
