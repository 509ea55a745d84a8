"""Newton: the leader solves its problem on a local model of the response, from loads and sensitivities [UO-F].

Source: derived, see docs/games/user_oriented.md. The objective `stackelberg` is played by a search that explores
(`stackelberg.py`) and climbs by a bundle method in a trust region (`hill_climb.py`), `welfare` by Newton's method with
a search along the line (`welfare.py`).
"""

from __future__ import annotations

from stackelgrid.games.user_oriented.search import PriceSearch, PricingProblem
from stackelgrid.games.user_oriented.stackelberg import StackelbergSearch
from stackelgrid.games.user_oriented.welfare import WelfareSearch


def choose_search(problem: PricingProblem) -> PriceSearch:
    """Choose the search of the objective."""
    if problem.objective == "stackelberg":
        return StackelbergSearch(problem.company, problem.tolerance, problem.questions, problem.known)
    return WelfareSearch(problem.company, problem.tolerance)
