"""The search for the leader's best price: it finds the best hill, within its questions, and ends in order."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stackelgrid.games.user_oriented.demand_curves import learn_demand_curves
from stackelgrid.games.user_oriented.hill_climb import HillClimb
from stackelgrid.games.user_oriented.home import Home, HomeProblem
from stackelgrid.games.user_oriented.leader import find_capped_slots
from stackelgrid.games.user_oriented.local_response import Observation
from stackelgrid.games.user_oriented.search import PriceFound
from stackelgrid.games.user_oriented.separable_problem import SeparableProblem
from stackelgrid.games.user_oriented.stackelberg import StackelbergSearch
from stackelgrid.games.user_oriented.utility_company import UtilityCompany

Array = np.ndarray[Any, np.dtype[np.float64]]


class Market:
    """A company and its homes, asked directly."""

    def __init__(self, company: UtilityCompany, homes: list[dict[str, Any]], baseline: float) -> None:
        self.slots = len(company.mu)
        homes = [{"id": f"h{number}", "horizon": self.slots, **home} for number, home in enumerate(homes)]
        self.problems = [HomeProblem(Home.model_validate(home)) for home in homes]
        self.company, self.baseline = company, np.full(self.slots, baseline)

    def answer(self, price: Array) -> Observation:
        schedules = [problem.answer(price) for problem in self.problems]
        coupling = sum((s.coupling for s in schedules if s.coupling is not None), np.zeros((self.slots, self.slots)))
        load, slope = sum(s.load for s in schedules), sum(s.slope for s in schedules)
        return Observation(price, np.asarray(load), np.asarray(slope), coupling, homes=len(schedules))

    def utility(self, price: Array) -> float:
        return self.company.utility(price, self.answer(price).load)

    def search(self, questions: int = 100) -> tuple[Observation, int, int]:
        """The settled answer, and in how many rounds and with how many different prices it was found."""
        search = StackelbergSearch(self.company, questions=questions)
        observed, asked = [self.answer(self.baseline)], {self.baseline.tobytes()}
        for rounds in range(1, 41):
            result = search.next(observed)
            if isinstance(result, PriceFound):
                return observed[0], rounds, len(asked)
            prices = [result.price, *result.others]
            for price in prices:
                assert np.all((price >= self.company.price_min) & (price <= self.company.price_max))
            wanted = asked.union(price.tobytes() for price in prices)
            if (
                len(wanted) > questions
            ):  # that the search is not over is told by one price, which the leader does not ask
                assert len(wanted) == questions + 1 and len(prices) == 1
                return observed[0], rounds, len(asked)
            asked = wanted
            observed = [self.answer(price) for price in prices]
        raise AssertionError("did not settle in 40 rounds")


def make_company(slots: int = 1, **changes: Any) -> UtilityCompany:
    free = np.full(slots, np.inf)
    return replace(UtilityCompany(np.zeros(slots), np.zeros(slots), -free, free, 0.0, 10.0), **changes)


def quadratic(full: float, valuation: float) -> dict[str, Any]:
    return {"max_kw": full, "valuation": valuation, "satisfaction": {"form": "quadratic"}}


def draw_market(random: np.random.Generator, slots: int) -> Market:
    homes = []
    for form in random.choice(["log", "power", "quadratic"], random.integers(2, 7)):
        taste: dict[str, Any] = {"form": str(form), "alpha": random.uniform(0.2, 0.8)}
        appliance = {"max_kw": random.uniform(1, 8), "valuation": random.uniform(2, 20), "satisfaction": taste}
        homes.append({"elastic": [appliance | {"min_kw": random.uniform(0, 0.2)}]})
    free = Market(make_company(slots), homes, 4.0)
    load = free.answer(free.baseline).load
    most = [np.inf, 0.8 * load.max()][random.integers(2)]
    company = make_company(
        slots,
        wholesale_price=random.uniform(-1, 4, slots),
        mu=np.full(slots, random.choice([0.0, 0.5]) / load.mean()),
        load_max=np.full(slots, most),
        price_max=15.0,
    )
    return Market(company, homes, 4.0)


def test_best_of_two_hills_is_found() -> None:
    """Both buy up to a price of 1.296, the rich alone up to 10: at 5 they pay 10, on the first hill 9.07."""
    homes = [{"elastic": [quadratic(4, 10)]}, {"elastic": [quadratic(10, 2)]}]
    settled, rounds, _ = Market(make_company(), homes, baseline=1.0).search()
    np.testing.assert_allclose(settled.price, 5.0, rtol=1e-6)
    assert rounds <= 8


@pytest.mark.parametrize("seed", range(6))
def test_price_is_as_good_as_the_best_on_a_fine_grid(seed: int) -> None:
    random = np.random.default_rng(seed)
    market = draw_market(random, slots := int(random.integers(1, 3)))
    company = market.company
    levels = np.linspace(company.price_min[0], company.price_max[0], 200)
    loads = np.array([market.answer(np.full(slots, level)).load for level in levels])
    grid = itertools.product(range(len(levels)), repeat=slots)
    best, slot = -np.inf, np.arange(slots)
    for number in grid:
        load = loads[number, slot]
        if company.violation(load) <= 0:
            best = max(best, company.utility(levels[list(number)], load))
    settled, _, questions = market.search()
    assert company.utility(settled.price, settled.load) >= best - 1e-9 * max(abs(best), 1)
    assert company.violation(settled.load) <= 1e-6 * settled.load.max()
    assert questions <= 100


@pytest.mark.parametrize("seed", range(3))
def test_price_is_never_worse_than_that_of_the_climb_from_the_baseline(seed: int) -> None:
    market = draw_market(np.random.default_rng(100 + seed), slots=4)
    climb, observed = HillClimb(market.company), market.answer(market.baseline)
    while (price := climb.step(observed)) is not None:
        observed = market.answer(price)
    settled, _, _ = market.search()
    reached, found = (market.company.utility(each.price, each.load) for each in (observed, settled))
    assert found >= reached - 1e-6 * max(abs(reached), 1)


@pytest.mark.parametrize("questions", [1, 2, 5, 20, 50])
def test_search_ends_within_its_questions(questions: int) -> None:
    market = draw_market(np.random.default_rng(7), slots=3)
    settled, _, _ = market.search(questions)
    assert market.company.utility(settled.price, settled.load) >= market.utility(market.baseline)


def test_capacity_is_kept_however_much_a_price_beyond_it_earns() -> None:
    """They buy 10 kW less p / 200. At least 9.99 kW means a price of at most 2; at 10 they pay five times as much."""
    homes = [{"elastic": [quadratic(5, 2000)]}, {"elastic": [quadratic(5, 2000)]}]
    market = Market(make_company(load_min=np.array([9.99])), homes, baseline=9.0)
    settled, _, _ = market.search()
    np.testing.assert_allclose(settled.price, 2.0, rtol=2e-3)  # the tolerance is of the load


def test_inelastic_load_is_sold_at_the_highest_price() -> None:
    market = Market(make_company(slots=3), [{"inelastic": [{"load_kw": [1.0, 2.0, 0.0]}]}], baseline=4.0)
    settled, rounds, _ = market.search()
    assert market.utility(settled.price) == 30.0 and rounds <= 5
    assert find_capped_slots(market.company, settled) == [1, 2]
    elastic = Market(make_company(), [{"elastic": [quadratic(4, 10)]}], baseline=1.0).search()[0]
    assert find_capped_slots(market.company, elastic) == []


HARD: dict[str, dict[str, Any]] = {
    "wholesale above all prices": {"wholesale_price": np.full(4, 90.0)},
    "wholesale below zero": {"wholesale_price": np.array([-3.0, 0.0, -1.0, 2.0])},
    "one price": {"price_min": 4.0, "price_max": 4.0},
    "capacity that nobody can keep": {"load_min": np.full(4, 500.0), "load_max": np.full(4, 600.0)},
    "charges that differ": {"mu": np.array([0.1, 0.0, 0.3, 0.05])},
}


@pytest.mark.parametrize("change", HARD.values(), ids=HARD)
def test_search_ends_in_hard_cases(change: dict[str, Any]) -> None:
    homes = [{"elastic": [quadratic(6, 8)]}] * 3 + [{"elastic": [quadratic(4, 5), quadratic(2, 12)]}] * 2
    market = Market(make_company(slots=4, **change), homes, baseline=4.0)
    settled, rounds, _ = market.search()
    assert rounds <= 30
    if market.company.violation(settled.load) == 0:
        assert market.utility(settled.price) >= market.utility(market.baseline) - 1e-9


def test_demand_curves_have_the_kink_where_an_appliance_stops() -> None:
    """Of two quadratic loads, 4 kW at 10 and 10 kW at 2, one stops at a price of 2."""
    market = Market(make_company(), [{"elastic": [quadratic(4, 10)]}, {"elastic": [quadratic(10, 2)]}], 1.0)
    curves = learn_demand_curves([market.answer(np.array([price])) for price in (0.5, 1.5, 4.0, 8.0)])
    for price in np.linspace(0.5, 8, 31):
        np.testing.assert_allclose(curves.at(np.array([[price]]))[0], market.answer(np.array([price])).load, atol=1e-9)
    assert (curves.gap > 0).tolist() == [[False], [True], [False]]
    np.testing.assert_allclose(curves.kink[1], 2.0)


def test_best_price_on_exact_curves_satisfies_the_first_order_condition() -> None:
    random = np.random.default_rng(5)
    tastes = [{"form": "log", "alpha": 40.0, "omega": random.uniform(0.5, 1, 3).tolist()} for _ in range(3)]
    homes = [{"elastic": [{"max_kw": 90.0, "valuation": 9.0, "satisfaction": taste}]} for taste in tastes]
    company = make_company(
        3, wholesale_price=random.uniform(1, 3, 3), mu=np.full(3, 0.05), price_min=25.0, price_max=300.0
    )
    market = Market(company, homes, 30.0)
    curves = learn_demand_curves([market.answer(np.full(3, price)) for price in np.linspace(25.0, 300.0, 5)])
    found = market.answer(SeparableProblem(company, curves).solve()[0])
    assert found.slope is not None
    margin = found.price - company.marginal_cost(found.load)
    np.testing.assert_allclose(found.load + found.slope * margin, 0, atol=1e-5 * found.load.max())


# --- with storage ---


def draw_storing_market(random: np.random.Generator, slots: int) -> Market:
    market = draw_market(random, slots)
    homes = [problem.home.model_dump(exclude={"id", "horizon"}) for problem in market.problems]
    for home in homes[: random.integers(1, len(homes) + 1)]:
        home["storage"] = [
            {
                "capacity_kwh": random.uniform(2, 8),
                "initial_kwh": 1.0,
                "charge_kw": random.uniform(0.5, 3),
                "discharge_kw": random.uniform(0.5, 3),
                "wear": {"fast": random.uniform(0.05, 0.5)},
            }
        ]
    return Market(replace(market.company, load_max=np.full(slots, np.inf)), homes, 4.0)


@pytest.mark.parametrize("seed", range(3))
def test_price_with_storage_is_never_worse_than_on_a_grid_or_by_a_climb(seed: int) -> None:
    market = draw_storing_market(np.random.default_rng(seed), slots=2)
    company = market.company
    settled, _, questions = market.search()
    assert questions <= 100
    found = company.utility(settled.price, settled.load)
    levels = np.linspace(company.price_min[0], company.price_max[0], 24)
    grid = max(market.utility(np.array(price)) for price in itertools.product(levels, levels))
    climb, observed = HillClimb(company), market.answer(market.baseline)
    while (price := climb.step(observed)) is not None:
        observed = market.answer(price)
    assert found >= max(grid, company.utility(observed.price, observed.load)) - 1e-6 * max(abs(found), 1)


def test_best_hill_is_found_where_one_slot_must_hop() -> None:
    """Two hills as above in each of three slots, and a small battery."""
    battery = {"capacity_kwh": 0.2, "initial_kwh": 0.1, "charge_kw": 0.1, "discharge_kw": 0.1, "wear": {"fast": 0.1}}
    homes = [{"elastic": [quadratic(4, 10)], "storage": [battery]}, {"elastic": [quadratic(10, 2)]}]
    settled, _, _ = Market(make_company(slots=3), homes, baseline=1.0).search()
    np.testing.assert_allclose(settled.price, 5.0, rtol=1e-3)
