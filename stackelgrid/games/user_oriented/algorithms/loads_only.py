"""Loads only: the searches of `newton`, on sensitivities that are learnt from loads.

Source: derived. What travels is what travels in the paper: prices down, loads up.

The best load of a customer is minus the gradient of a convex function of the price [UO-6], so that J = dL/dp is
symmetric and negative semidefinite. Three things follow, and make loads enough:

- A change of the price that is the same in all slots moves no stored energy. So the load at a price that is a little
  higher shows the slope of elastic appliances in all slots at once; the rest of J is the coupling by storage.
- The gradient of the utility, L + J m with m the margin p - grad C(L), has J only in J m, since J is symmetric. The
  loads at p + h m and p - h m give that to the square of h, whatever is known of the rest of J [UO-S]. So the leader
  ends where it would with all sensitivities.
- From price to price, J d is the change of the load over the step d. A BFGS update of -J meets that, and keeps it
  positive semidefinite [UO-S]. What J is like elsewhere decides how fast the leader comes to its end, not where.

So each price is asked with three neighbours. They may lie beyond the bounds of the price by a hundred-thousandth of it;
what is settled does not. `stackelberg` is played by a climb from the flat price, and by another one where a flat price
that was asked in the first round earns more than the top of the first hill. Where the utility has many hills, that may
be a lower one than `newton` finds. The price is found to some 1e-8 of it. Answers that are rounded, or solved
loosely, differ by their errors alone: then the price does not settle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stackelgrid.errors import SolverError
from stackelgrid.games.user_oriented.hill_climb import HillClimb
from stackelgrid.games.user_oriented.local_response import Array, LocalResponse, Observation
from stackelgrid.games.user_oriented.search import NextPrices, PriceFound, PricingProblem
from stackelgrid.games.user_oriented.utility_company import UtilityCompany
from stackelgrid.games.user_oriented.welfare import WelfareSearch

_DIFFERENCE = 1e-5
"""The distance of the neighbours of a price, relative to the largest price (`Algorithm.beyond`). Loads are exact to
some 1e-11."""
_NEIGHBOURS = 3
_PROBES = 8
"""Flat prices of the first round, between the bounds."""
_LEAST_GAIN = 1e-9
_CAUTION, _PRECISION = 0.1, 1e-8
"""The step still wanted is one on a model that is learnt: it ends the search at this part of the tolerance, unless
differences do not show so small a step, relative to the largest price."""
_USED_UP = 0.05
"""Of what a step moves, the part that storage may use up, for the rest to be taken for stored energy."""

_APART = 1e-4
"""Slots are apart when the change of the load along the margin is what their slopes say, but for this part of it."""
_ROUNDING = 1e-9
"""A load that bends by less than this part of it, while a price doubles, does not bend."""


class LoadsOnly:
    """Asks each price with its neighbours, and steps on what their loads tell."""

    def __init__(self, problem: PricingProblem) -> None:
        self._tolerance = max(_CAUTION * problem.tolerance, min(problem.tolerance, _PRECISION))
        search = HillClimb if problem.objective == "stackelberg" else WelfareSearch
        self._search: HillClimb | WelfareSearch = search(problem.company, self._tolerance)
        self._learnt = LearntSensitivity()
        self._probes: list[Observation] = []
        self._others: int | None = None  # prices besides, before those that show their slopes

    @property
    def company(self) -> UtilityCompany:
        """The company, as the search has it."""
        return self._search.company

    @company.setter
    def company(self, company: UtilityCompany) -> None:
        self._search.company = company

    @property
    def residual(self) -> float:
        """The relative price change that the search still wants."""
        return self._search.residual

    def open(self, price: Array) -> NextPrices:
        """Ask the flat price, for `stackelberg` also others; without a charge on deviation its margin is known."""
        levels = np.linspace(self.company.price_min, self.company.price_max, _PROBES)
        climbs = isinstance(self._search, HillClimb)
        probes = [level for level in levels if climbs and not np.array_equal(level, price)]
        return self._ask_around(NextPrices(price, probes), price - self.company.wholesale_price)

    def next(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        """Learn from the loads, and take a step of the search on what is known."""
        here = self._learnt.update(observed[0], observed[1 : 1 + _NEIGHBOURS])
        besides = observed[1 + _NEIGHBOURS :]
        others, higher = besides[: self._others], besides[len(besides[: self._others]) :]
        sloped = [
            replace(other, slope=_compute_slope(other, above), coupling=here.coupling)
            for other, above in zip(others, higher, strict=False)
        ]
        result = self._take_step([here, *sloped, *others[len(sloped) :]])
        if isinstance(result, PriceFound):
            return result
        foretold = LocalResponse(here, np.ones_like(here.price)).load(result.price)
        return self._ask_around(result, result.price - self.company.marginal_cost(foretold))

    def _take_step(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        if isinstance(self._search, WelfareSearch):
            return self._search.next(observed)
        here, *probes = observed
        self._probes += probes
        try:
            price = self._search.step(here)
        except SolverError:
            # Models that are learnt in part may contradict each other: climb on from here with the last one alone.
            self._search = HillClimb(self.company, self._tolerance)
            price = self._search.step(here)
        if price is not None:
            return NextPrices(price)
        better = self._find_better_probe(here)
        if better is None:
            return PriceFound(self.residual)
        self._search = HillClimb(self.company, self._tolerance)
        return NextPrices(better)

    def _find_better_probe(self, top: Observation) -> Array | None:
        """Find the flat price that earns most, if it earns more than the top of a hill and keeps the capacity as well.

        Of other homes than these it is not known.
        """
        company = self.company
        least = company.utility(top.price, top.load)
        known = [probe for probe in self._probes if probe.is_of_same_homes(top)]
        kept = [probe for probe in known if company.violation(probe.load) <= company.violation(top.load)]
        best = max(kept, key=lambda probe: company.utility(probe.price, probe.load), default=None)
        if best is None or company.utility(best.price, best.load) <= least + _LEAST_GAIN * abs(least):
            return None
        return best.price

    def _ask_around(self, wanted: NextPrices, margin: Array) -> NextPrices:
        """Ask the first price wanted with its neighbours, two of them along the `margin`, (T,), and those besides.

        Of these, where a sensitivity is wanted, a higher price shows the slope.
        """
        price, others = wanted.price, [*wanted.others]
        distance = _DIFFERENCE * max(float(np.max(np.abs(price))), 1e-9)
        step = margin * (distance / max(float(np.max(np.abs(margin))), 1e-9))
        higher = [other + distance for other in others[: max(wanted.sensitivities - 1, 0)]]
        self._others = len(others)
        return NextPrices(price, [price + distance, price + step, price - step, *others, *higher], sensitivities=0)


class LearntSensitivity:
    """What loads tell of dL/dp: the slope of elastic appliances, and a coupling that meets the last secants [UO-S]."""

    def __init__(self) -> None:
        self._last: Observation | None = None

    def update(self, here: Observation, neighbours: Sequence[Observation]) -> Observation:
        """Give an answer with the dL/dp that it, its neighbours and the answers before tell.

        Of other homes than before nothing is kept. Without neighbours the slope is the last one.
        """
        last = self._last
        if last is None or not here.is_of_same_homes(last):
            last = replace(here, slope=np.zeros_like(here.price), coupling=np.zeros_like(here.coupling))
        assert last.slope is not None
        slope, secants = last.slope, []
        if neighbours:
            slope = _compute_slope(here, neighbours[0])
            secants.append((neighbours[0].price - here.price, neighbours[0].load - here.load))
        if len(neighbours) == _NEIGHBOURS:
            _, ahead, behind = neighbours
            secants.append((ahead.price - behind.price, ahead.load - behind.load))
            along, rise = secants[-1]
            if not last.coupling.any() and np.max(np.abs(rise - slope * along)) <= _APART * np.max(np.abs(rise)):
                # The slopes explain it all: nothing is stored. The two sides tell them better than the one above.
                known = np.abs(along) > _APART * np.max(np.abs(along))
                slope = np.where(known, np.minimum(rise / np.where(known, along, 1.0), 0.0), slope)
                self._last = replace(here, slope=slope, coupling=np.zeros_like(last.coupling))
                return self._last
        step = here.price - last.price
        shifted = here.load - last.load - (last.slope + slope) / 2 * step
        if abs(shifted.sum()) <= _USED_UP * np.abs(shifted).sum():
            # What storage takes in some slots it gives in others. What a kink of the slope does is not made up for.
            secants.insert(0, (step, slope * step + shifted))
        sensitivity = _make_falling(np.diag(slope) + last.coupling)
        for change, rise in secants:
            sensitivity = meet_secant(sensitivity, change, rise)
        coupling = sensitivity - np.diag(slope)
        least = _ROUNDING * float(np.max(np.abs(here.load)) / max(float(np.max(np.abs(here.price))), 1e-9))
        self._last = replace(here, slope=slope, coupling=np.where(np.abs(coupling) > least, coupling, 0.0))
        return self._last


def _compute_slope(at: Observation, above: Observation) -> Array:
    """Compute the slope of each slot, (T,), from the load at a price that is higher by the same in all slots."""
    return np.minimum((above.load - at.load) / (above.price - at.price), 0.0)


def meet_secant(sensitivity: Array, step: Array, rise: Array) -> Array:
    """Update J = dL/dp, (T, T), by BFGS so that J d is the `rise` of the load, (T,), over a step d of the price [UO-S].

    -J stays positive semidefinite. Nothing is learnt from a load that rises along the step: it is no customer's.
    """
    fall, foretold = -float(step @ rise), -sensitivity @ step
    least = 1e-12 * float(np.linalg.norm(step))
    if fall < -least * float(np.linalg.norm(rise)):
        return sensitivity
    if (bend := float(step @ foretold)) > least * float(np.linalg.norm(foretold)):
        sensitivity = sensitivity + np.outer(foretold, foretold) / bend
    if fall > least * float(np.linalg.norm(rise)):
        sensitivity = sensitivity - np.outer(rise, rise) / fall
    return sensitivity


def _make_falling(sensitivity: Array) -> Array:
    """Give the nearest negative semidefinite matrix."""
    values, vectors = np.linalg.eigh(sensitivity)
    return sensitivity if values[-1] <= 0 else np.asarray((vectors * np.minimum(values, 0)) @ vectors.T)
