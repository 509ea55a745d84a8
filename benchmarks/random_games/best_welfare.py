"""The welfare optimum of a game [UO-B], by means that the leader does not share.

Without storage one bisection within another finds it. At a mean load m, the price of slot t solves

    p_t = c_t + 2 mu (L_t(p_t) - m)

as nearly as price bounds and capacity allow; the right side falls with p_t, the left side rises. The system's utility
is concave in m, with the derivative 2 mu sum (L_t - m). With storage the certificate's central programme solves it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.random_games.best_price import Best, Company
from benchmarks.random_games.homes import Array, PlainHomes
from benchmarks.random_games.storing_home import MixedHomes
from stackelgrid import scenarios
from stackelgrid.games.user_oriented.reference.central_programme import solve_central_programme
from stackelgrid.games.user_oriented.reference.stacked_homes import StackedHomes

_BISECTIONS = 60


def find_best_welfare(content: dict[str, Any]) -> Best:
    """Find the price at the optimum, and the system's utility there."""
    if any("storage" in home for home in content["homes"]):
        return _solve_centrally(content)
    homes = PlainHomes(content["homes"], content["slots"])
    company = Company(content, homes.load)
    lower, upper = company.find_price_bounds(homes)
    low, high = 0.0, float(homes.load(np.full((1, len(lower)), company.low)).max())
    for _ in range(_BISECTIONS):
        mean = (low + high) / 2
        price = _answer_mean(homes, company, mean, lower, upper)
        low, high = (mean, high) if homes.load(price[None]).mean() > mean else (low, mean)
    load = homes.load(price[None])
    utility = homes.satisfaction(price) - float(price @ load[0]) + float(company.utility(price[None], load)[0])
    return Best(price, utility, is_flat=False)


def _answer_mean(homes: PlainHomes, company: Company, mean: float, lower: Array, upper: Array) -> Array:
    """Give the price of each slot for a mean m of the load, (T,)."""
    below, above = lower.copy(), upper.copy()
    for _ in range(_BISECTIONS):
        price = (below + above) / 2
        load = homes.load(price[None])[0]
        is_low = price < company.wholesale + 2 * company.mu * (load - mean)
        below, above = np.where(is_low, price, below), np.where(is_low, above, price)
    return (below + above) / 2


def _solve_centrally(content: dict[str, Any]) -> Best:
    """Solve the central programme; its price is the marginal cost and the multipliers of the capacity."""
    slots = content["slots"]
    company = Company(content, MixedHomes(content["homes"], slots).load)
    homes = StackedHomes(scenarios.load(content).everyone, slots)
    capacity = np.full(slots, company.load_min), np.full(slots, company.load_max)
    plan = solve_central_programme(homes, company.wholesale, np.full(slots, company.mu), capacity, scale=100.0)
    load = plan.load.sum(axis=0)
    price = company.wholesale + 2 * company.mu * (load - load.mean()) + plan.shadow
    utility = float(plan.utility.sum() - price @ load + company.utility(price, load))
    return Best(price, utility, is_flat=False)
