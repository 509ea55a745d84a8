"""The best starts of the deferrable runs of a home at a price, by enumeration [UO-DR].

It shares no code with the home's own choice, which it serves to check. Prices (T,) money per kWh, money over Δ.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from stackelgrid.certify import CertificateError
from stackelgrid.games.user_oriented.home import DrawLimit, Home, HomeProblem, InfeasibleHomeError, Starts
from stackelgrid.games.user_oriented.reference.homes_response import HomesResponse
from stackelgrid.games.user_oriented.reference.hourly_homes import rewrite_as_hourly
from stackelgrid.wire.arrays import Array

_SAME = 1e-9


def find_best_utility(home: Home, price: Array, own: float) -> float:
    """Find the best utility of a home over all starts of its runs, bill taken off; `own` is that at the starts it has.

    No limit of its meter and no lower price of what it feeds in makes a home better off. So what it would have without
    these and without runs, less what runs cost at the price, is a bound. Starts are tried in the order of that bound.
    """
    costs = [{at: float(price @ run.draw(at, len(price))) for at in run.starts} for run in home.deferrable]
    try:
        free = _solve(_free(home), price)
    except CertificateError:  # then there is no bound
        free = np.inf
    best = max(own, _solve_at(home, tuple(min(each, key=each.__getitem__) for each in costs), price))
    if free - sum(min(each.values()) for each in costs) <= best + _SAME * max(1.0, abs(best)):
        return best
    bills = [(sum(cost for _, cost in each), each) for each in product(*(each.items() for each in costs))]
    for bill, each in sorted(bills, key=lambda pair: pair[0]):
        if free - bill <= best + _SAME * max(1.0, abs(best)):
            break
        best = max(best, _solve_at(home, tuple(at for at, _ in each), price))
    return best


def _solve_at(home: Home, starts: Starts, price: Array) -> float:
    """Give the best utility at given starts, minus infinity where these leave no schedule.

    Where the reference finds none, what the home would reach there by its own solver counts: it has at least that.
    """
    fixed = home.at_starts(starts)
    try:
        problem = HomeProblem(fixed)
    except InfeasibleHomeError:
        return -np.inf
    try:
        return _solve(fixed, price)
    except CertificateError:
        return float(problem.summarize(problem.answer(price))["utility"]) / home.slot_hours


def _solve(home: Home, price: Array) -> float:
    _, utility = HomesResponse(rewrite_as_hourly([home]), len(price)).best_answers(price)
    return float(utility[0])


def _free(home: Home) -> Home:
    """Give the home without runs, limits of its meter and a price of what it feeds in."""
    free = home.model_copy(
        update={"deferrable": [], "connection": None, "feed_in_price": None, "draw_limit": DrawLimit()}
    )
    return free.model_copy(update={"draw_limit": DrawLimit(min_kw=-2 * free.connection_kw)})
