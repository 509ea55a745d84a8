"""The welfare leader finds the welfare optimum, within capacity where a price keeps it, and with noisy answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from benchmarks.random_games.draw import draw_game
from stackelgrid.games.user_oriented.home import Home, HomeProblem
from stackelgrid.games.user_oriented.leader import UtilitySettings, fixed_balance
from stackelgrid.games.user_oriented.local_response import Observation
from stackelgrid.games.user_oriented.reference.central_programme import solve_central_programme
from stackelgrid.games.user_oriented.reference.stacked_homes import StackedHomes
from stackelgrid.games.user_oriented.report import key_figures
from stackelgrid.games.user_oriented.search import PriceFound
from stackelgrid.games.user_oriented.utility_company import UtilityCompany
from stackelgrid.games.user_oriented.welfare import WelfareSearch
from stackelgrid.runner import run
from stackelgrid.wire.arrays import Array

Distort = Callable[[Array], Array]
ROUNDS, QUESTIONS = 40, 100


@dataclass
class Settled:
    """The end of a search: the price, the answer to it, and what was found out; how long it took."""

    observed: Observation
    findings: dict[str, float]
    rounds: int
    questions: int


class Market:
    """The homes of a scenario and its leader, without the processes between them."""

    def __init__(self, content: dict[str, Any]) -> None:
        slots = content["slots"]
        self.homes = [Home.model_validate({"horizon": slots, **home}) for home in content["homes"]]
        self.problems = [HomeProblem(home) for home in self.homes]
        settings = UtilitySettings.model_validate(content["leader"])
        self.flat = np.full(slots, settings.baseline_price)
        baseline = self.answer(self.flat).load
        self.company: UtilityCompany = replace(settings.company(slots), mu=fixed_balance(settings.mu, baseline))

    def answer(self, price: Array, distort: Distort = np.asarray) -> Observation:
        """What all homes answer; `distort` changes the loads (H, T)."""
        schedules = [problem.answer(price) for problem in self.problems]
        load = distort(np.array([each.load for each in schedules])).sum(axis=0)
        couplings = [each.coupling for each in schedules if each.coupling is not None]
        coupling = np.sum(couplings, axis=0) if couplings else np.zeros((len(price), len(price)))
        return Observation(price, load, np.sum([each.slope for each in schedules], axis=0), coupling, len(schedules))

    def settle(self, distort: Distort = np.asarray) -> Settled:
        """Ask until the leader settles."""
        search, observed, questions = WelfareSearch(self.company), [self.answer(self.flat, distort)], 1
        for rounds in range(1, ROUNDS + 1):
            result = search.next(observed)
            if isinstance(result, PriceFound):
                return Settled(observed[0], dict(result.findings), rounds, questions)
            answers = [self.answer(price, distort) for price in (result.price, *result.others)]
            without = [replace(each, slope=None) for each in answers[result.sensitivities :]]
            observed, questions = answers[: result.sensitivities] + without, questions + len(answers)
        raise AssertionError(f"did not settle in {ROUNDS} rounds")

    def welfare(self, price: Array) -> float:
        """The system's utility, money, at a price."""
        schedules = [problem.answer(price) for problem in self.problems]
        load = np.sum([each.load for each in schedules], axis=0)
        worth = sum(problem.utility(each) for problem, each in zip(self.problems, schedules, strict=True))
        return worth - float(self.company.wholesale_price @ load) - self.company.deviation_charge(load)

    def best_welfare(self) -> float:
        """The optimum of a planner who runs all homes within capacity and heeds no bounds of the price."""
        company, homes = self.company, StackedHomes(self.homes, len(self.flat))
        capacity = company.load_min, company.load_max
        plan = solve_central_programme(homes, company.wholesale_price, company.mu, capacity, scale=100.0)
        load = plan.load.sum(axis=0)
        cost = float(company.wholesale_price @ load) + company.deviation_charge(load)
        return float(plan.utility.sum()) - cost


def find_imbalance(company: UtilityCompany, settled: Observation) -> float:
    """The largest distance of a price from marginal cost, capacity multiplier and bounds [UO-B], relative."""
    price, load = settled.price, settled.load
    over = price - company.marginal_cost(load)
    at_most = np.isclose(load, company.load_max, rtol=1e-7) | (price <= company.price_min)
    at_least = np.isclose(load, company.load_min, rtol=1e-7) | (price >= company.price_max)
    return float(np.max(np.where(over > 0, np.where(at_most, 0, over), np.where(at_least, 0, -over)))) / max(
        price.max(), 1
    )


def elastic(
    max_kw: float, valuation: float, omega: float = 1.0, alpha: float = 4.0, form: str = "log"
) -> dict[str, Any]:
    taste = {"form": form, "omega": omega, "alpha": alpha}
    return {"max_kw": max_kw, "valuation": valuation, "satisfaction": taste}


def scenario(homes: list[dict[str, Any]], slots: int = 1, **leader: Any) -> dict[str, Any]:
    rules = {"objective": "welfare", "baseline_price": 4, "wholesale_price": 0.5, "mu": 0, "price_max": 15} | leader
    named = [{"id": f"h{number}", **home} for number, home in enumerate(homes)]
    return {"schema": 1, "game": "user_oriented", "slots": slots, "leader": rules, "homes": named}


BETWEEN_SLOPES = scenario([{"elastic": [elastic(3, 3, omega=4), elastic(3, 8, omega=5)]}], capacity={"max_kw": 5.5})
"""At wholesale price both appliances run at full rate, with a slope of zero, and 0.5 kW too much."""


def test_capacity_is_kept_between_prices_at_which_no_load_bends() -> None:
    settled = Market(BETWEEN_SLOPES).settle()
    # The first runs at 2.5 kW: 3 (v / (omega p) - 1 / alpha) = 2.5 at p = 9 / 13; the second still at full rate.
    assert settled.observed.price[0] == pytest.approx(9 / 13, rel=1e-7)
    assert settled.observed.load[0] == pytest.approx(5.5, rel=1e-8)
    assert not settled.findings


def test_capacity_is_kept_in_a_narrow_band_of_prices_in_each_slot() -> None:
    """From full rate to none in a thousandth of the price: the line search finds each band, Newton's step the price."""
    omega = np.array([0.7, 0.9, 1.0, 1.2, 1.7, 2.1])
    steep = {"elastic": [elastic(6, 6, alpha=0.001, form="quadratic")]}
    steep["elastic"][0]["satisfaction"]["omega"] = omega.tolist()
    settled = Market(scenario([steep], 6, capacity={"max_kw": 3})).settle()
    np.testing.assert_allclose(settled.observed.price, 6 * (omega - 0.001 / 2), rtol=1e-9)
    assert settled.rounds <= 25


@pytest.mark.parametrize("seed", range(60))
def test_random_game_settles_at_the_welfare_optimum(seed: int) -> None:
    market = Market(draw_game("welfare", seed))
    settled = market.settle()
    assert settled.questions <= QUESTIONS
    assert market.company.violation(settled.observed.load) <= 1e-7 * settled.observed.load.max()
    assert find_imbalance(market.company, settled.observed) <= 1e-5
    price = settled.observed.price
    if np.all((price > market.company.price_min) & (price < market.company.price_max)):
        best = market.best_welfare()
        assert best - market.welfare(price) <= 1e-7 * max(1, abs(best))


KINKY = [{"elastic": [elastic(2, 2 + number, form="quadratic", alpha=2)]} for number in range(6)]
BATTERY = {"capacity_kwh": 6, "initial_kwh": 3, "charge_kw": 1, "discharge_kw": 1, "wear": {"fast": 0.05}}
HARD = {
    "wholesale_below_zero": scenario(KINKY, 4, wholesale_price=[-2, 0, 1, -0.5], mu=1),
    "one_home": scenario(KINKY[:1], 3, wholesale_price=[1, 2, 3], mu=2, baseline_price=1),
    "identical_homes": scenario(KINKY[:1] * 10, 3, wholesale_price=[0.1, 1, 1.5], baseline_price=1, mu=3),
    "all_inelastic": scenario([{"inelastic": [{"load_kw": [1, 3]}]}] * 3, 2, mu=1),
    "kinks_in_every_slot": scenario(KINKY, 24, wholesale_price=np.linspace(0.1, 6, 24).tolist(), mu=5),
    "equal_price_bounds": scenario(KINKY, 3, price_min=4, price_max=4),
    "many_slots": scenario([*KINKY, {"storage": [BATTERY]}], 96, wholesale_price=np.linspace(1, 5, 96).tolist(), mu=2),
    "least_load": scenario(KINKY, 4, wholesale_price=[3, 5, 6, 7.5], mu=0.5, capacity={"min_kw": 2, "max_kw": 5}),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_case_settles_at_marginal_cost_within_bounds(name: str) -> None:
    market = Market(HARD[name])
    settled = market.settle()
    assert not settled.findings
    assert find_imbalance(market.company, settled.observed) <= 1e-6
    assert np.all(
        (settled.observed.price >= market.company.price_min) & (settled.observed.price <= market.company.price_max)
    )


def test_price_stays_within_its_bounds() -> None:
    market = Market(scenario(KINKY, 3, wholesale_price=[1, 3, 9], price_min=2, price_max=5))
    np.testing.assert_allclose(market.settle().observed.price, [2, 3, 5], rtol=1e-9)


def test_run_reports_the_least_violation_when_no_price_keeps_the_capacity() -> None:
    inelastic = {"inelastic": [{"load_kw": [5.0, 1.0]}], "elastic": [elastic(3, 3)]}
    ended = run(scenario([inelastic], 2, capacity={"max_kw": 4.75}))
    left = 5 + max(0.0, 3 * (3 / 15 - 1 / 4)) - 4.75  # at the highest price
    assert ended.settled
    assert ended.outcome.price[0] == 15
    assert ended.outcome.price[1] == pytest.approx(0.5, rel=1e-6)
    assert ended.outcome.least_violation_kw == pytest.approx(left)
    row = ("Capacity", "no price keeps 4.750 kW; the least violation is 0.250 kW")
    assert row in key_figures(ended.result, ended.outcome)


@pytest.mark.parametrize(("capacity_kw", "left"), [(5.2, 0.0), (4.5, 0.5)])
def test_storage_relieves_the_capacity_as_far_as_it_can(capacity_kw: float, left: float) -> None:
    # The battery discharges 1 kW at most, so that 6 kW are 5 at least.
    homes = [{"inelastic": [{"load_kw": [6.0, 2.0, 2.0]}], "storage": [BATTERY]}, *KINKY[:2]]
    market = Market(scenario(homes, 3, wholesale_price=[4, 0.5, 2], capacity={"max_kw": capacity_kw}))
    settled = market.settle()
    assert market.company.violation(settled.observed.load) == pytest.approx(left, abs=1e-6)
    assert settled.findings.get("least_violation_kw", 0.0) == pytest.approx(left, abs=1e-6)
    assert settled.observed.price[2] == pytest.approx(2, rel=1e-6)  # this slot has nothing to do with it


STIFF = {"storage": [BATTERY | {"wear": {"fast": 2.0}}]}
"""A battery that shifts an eighth of the difference of two prices, 1 kW at most."""


def test_least_violation_is_the_same_in_slots_between_which_storage_shifts() -> None:
    homes = [{"inelastic": [{"load_kw": [6.0, 5.8]}], **STIFF}]
    settled = Market(scenario(homes, 2, capacity={"max_kw": 3}, price_max=8)).settle()
    np.testing.assert_allclose(settled.observed.load, [5.9, 5.9], rtol=1e-6)
    np.testing.assert_allclose(settled.observed.price, [8, 7.2], rtol=1e-5)
    assert settled.findings["least_violation_kw"] == pytest.approx(2.9, rel=1e-6)


def test_price_with_the_least_violation_is_the_nearest_to_marginal_cost() -> None:
    homes = [{"inelastic": [{"load_kw": [6.0, 2.0]}], **STIFF}]
    settled = Market(scenario(homes, 2, wholesale_price=12, capacity={"max_kw": 4.5})).settle()
    assert settled.findings["least_violation_kw"] == pytest.approx(0.5, rel=1e-6)
    np.testing.assert_allclose(settled.observed.price, [15, 7], rtol=1e-5)  # for 1 kW a difference of 8 is enough


@pytest.mark.parametrize("capacity", [{}, {"max_kw": 9.0}])
def test_noisy_answers_settle_within_their_noise(capacity: dict[str, float]) -> None:
    content = scenario(KINKY * 5, 6, wholesale_price=[0.5, 1, 2, 3, 3.5, 4], mu=3, capacity=capacity)
    market, random = Market(content), np.random.default_rng(5)
    exact = market.settle()

    def disturb_last_home(loads: Array) -> Array:
        loads[-1] *= 1 + 1e-4 * random.standard_normal(len(market.flat))
        return loads

    noisy = market.settle(disturb_last_home)
    noise_price = noisy.findings["noise_price"]
    assert noisy.rounds <= exact.rounds + 8
    assert 0 < noisy.findings["noise_kw"] <= 1e-3 * market.problems[-1].answer(market.flat).load.max()
    assert np.max(np.abs(noisy.observed.price - exact.observed.price)) <= 10 * noise_price
    assert market.company.violation(noisy.observed.load) <= noisy.findings["noise_kw"] + 1e-6


@pytest.mark.parametrize("digits", [2, 3])
def test_rounded_answers_settle_where_rounding_moves_the_price(digits: int) -> None:
    """To one price the answers are equal; between prices that hardly differ they jump."""
    content = scenario(KINKY * 5, 6, wholesale_price=[0.5, 1, 2, 3, 3.5, 4], mu=3, capacity={"max_kw": 9.0})
    market = Market(content)
    exact, rounded = market.settle().observed, market.settle(lambda loads: np.round(loads, digits)).observed
    assert exact.slope is not None
    price_per_kw = 1 / np.abs(exact.slope).min() + 2 * market.company.mu.max()
    np.testing.assert_allclose(rounded.price, exact.price, atol=10**-digits * price_per_kw * len(market.homes) ** 0.5)
