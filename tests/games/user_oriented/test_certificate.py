"""The certificate: its references agree with closed forms, and it refuses a run that is no equilibrium."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.random_games.draw import draw_game
from stackelgrid import runner
from stackelgrid.certify import CertificateError
from stackelgrid.games.user_oriented.certificate import certify
from stackelgrid.games.user_oriented.home import Home, HomeProblem
from stackelgrid.games.user_oriented.leader import UtilitySettings
from stackelgrid.games.user_oriented.outcome import UserOrientedOutcome
from stackelgrid.games.user_oriented.reference.central_programme import (
    InfeasibleError,
    solve_best_answers,
    solve_central_programme,
)
from stackelgrid.games.user_oriented.reference.company import Company
from stackelgrid.games.user_oriented.reference.homes_response import HomesResponse
from stackelgrid.games.user_oriented.reference.price_search import BetterPriceSearch
from stackelgrid.games.user_oriented.reference.stacked_homes import StackedHomes
from stackelgrid.games.user_oriented.scenario import UserOrientedScenario
from stackelgrid.scenarios import load
from stackelgrid.testbed.in_memory import play

SLOTS = 24
FORMS = ("log", "power", "quadratic")
UNBOUNDED = np.full(SLOTS, -np.inf), np.full(SLOTS, np.inf)
SMALL = ["population.homes=6", "aggregators=2", "population.ev.share=0.5"]


# --- the references against closed forms ---


def two_homes() -> list[Home]:
    """x = x_max (v / (omega p) - 1 / alpha): 4 (10 / p - 0.5) and 3 (16 / (0.8 p) - 0.25)."""
    first = {"max_kw": 4.0, "valuation": 10.0, "satisfaction": {"alpha": 2.0}}
    second = {"max_kw": 3.0, "valuation": 16.0, "satisfaction": {"omega": 0.8, "alpha": 4.0}}
    return [
        Home.model_validate({"id": "a", "inelastic": [{"load_kw": [0.5] * SLOTS}], "elastic": [first]}),
        Home.model_validate({"id": "b", "elastic": [second]}),
    ]


def drawn_by_two(price: np.ndarray) -> np.ndarray:
    first = np.clip(4 * (10 / price - 0.5), 0, 4)
    second = np.clip(3 * (20 / price - 0.25), 0, 3)
    return np.array([0.5 + first, second])


def test_best_answers_follow_the_closed_form() -> None:
    homes, price = StackedHomes(two_homes(), SLOTS), np.linspace(5, 25, SLOTS)
    answers = solve_best_answers(homes, price, np.full(2, 100.0))
    expected = drawn_by_two(price)
    first, second = expected[0] - 0.5, expected[1]
    worth = [
        np.sum(10 * 4 * np.log1p(2 * first / 4)),
        np.sum(16 * 3 * np.log1p(4 * second / 3) / 0.8),
    ]
    assert answers.load == pytest.approx(expected, abs=1e-5)
    assert answers.utility == pytest.approx(worth, rel=1e-6)
    reached, best = answers.utility - answers.load @ price, np.array(worth) - expected @ price
    assert reached == pytest.approx(best, abs=100 * answers.solver.gap + 1e-9)
    assert answers.solver.gap < 1e-8


@pytest.mark.parametrize("form", FORMS)
def test_best_answer_meets_the_first_order_condition_of_each_form(form: str) -> None:
    satisfaction = {"form": form, "omega": 1.2, "alpha": 0.7}
    appliance = {"max_kw": 4.0, "valuation": 10.0, "satisfaction": satisfaction}
    home = Home.model_validate({"id": "a", "elastic": [appliance]})
    price = np.linspace(3.5, 11.5, SLOTS)
    q = solve_best_answers(StackedHomes([home], SLOTS), price, np.ones(1)).load[0] / 4
    at = np.clip(q, 1e-9, 1)
    marginal = {
        "log": 10 * 0.7 / (1.2 * (1 + 0.7 * at)),
        "power": 10 * 0.7 * at ** (0.7 - 1) / 1.2,
        "quadratic": 10 * (1.2 - 0.7 * at),
    }[form]
    none, full = q < 1e-4, q > 1 - 1e-4
    inside = ~none & ~full
    assert inside.sum() > 2
    assert marginal[inside] == pytest.approx(price[inside], rel=1e-4)
    assert np.all(marginal[full] >= price[full] - 1e-3)
    assert np.all(marginal[none] <= price[none] + 1e-3)


def test_welfare_price_is_the_wholesale_price_when_deviation_is_free() -> None:
    wholesale = np.linspace(3, 12, SLOTS)
    plan = solve_central_programme(StackedHomes(two_homes(), SLOTS), wholesale, np.zeros(SLOTS), UNBOUNDED, 1000.0)
    company = Company(wholesale, np.zeros(SLOTS), *UNBOUNDED)
    assert company.marginal_cost(plan.load.sum(axis=0)) + plan.shadow == pytest.approx(wholesale, abs=1e-12)
    assert plan.load == pytest.approx(drawn_by_two(wholesale), abs=1e-4)


def test_homes_answer_the_welfare_price_with_the_planned_load() -> None:
    wholesale, mu = np.linspace(4, 9, SLOTS), np.linspace(0.05, 0.4, SLOTS)
    plan = solve_central_programme(StackedHomes(two_homes(), SLOTS), wholesale, mu, UNBOUNDED, 100.0)
    planned = plan.load.sum(axis=0)
    price = Company(wholesale, mu, *UNBOUNDED).marginal_cost(planned)
    assert np.ptp(price - wholesale) > 0.1
    assert drawn_by_two(price).sum(axis=0) == pytest.approx(planned, abs=1e-4)


def test_welfare_price_keeps_the_load_at_capacity_when_it_binds() -> None:
    wholesale, capacity = np.full(SLOTS, 5.0), (np.full(SLOTS, -np.inf), np.full(SLOTS, 4.0))
    plan = solve_central_programme(StackedHomes(two_homes(), SLOTS), wholesale, np.zeros(SLOTS), capacity, 1000.0)
    # 0.5 + 4 (10 / p - 0.5) + 3 (20 / p - 0.25) = 4 at p = 100 / 6.25 = 16, where both are inside their bounds.
    assert wholesale + plan.shadow == pytest.approx(np.full(SLOTS, 16.0), rel=1e-5)
    company = Company(wholesale, np.zeros(SLOTS), *capacity)
    assert company.price_residual(np.full(SLOTS, 16.0), np.full(SLOTS, 4.0)) == pytest.approx(0, abs=1e-9)
    assert company.price_residual(np.full(SLOTS, 4.5), np.full(SLOTS, 4.0)) == pytest.approx(0.5, rel=1e-9)
    assert company.price_residual(np.full(SLOTS, 5.5), np.full(SLOTS, 3.0)) == pytest.approx(0.5, rel=1e-9)


def test_central_programme_raises_when_no_schedule_keeps_the_capacity() -> None:
    capacity = np.full(SLOTS, -np.inf), np.full(SLOTS, 0.4)
    with pytest.raises(InfeasibleError, match="widen the capacity"):
        solve_central_programme(
            StackedHomes(two_homes(), SLOTS), np.full(SLOTS, 5.0), np.zeros(SLOTS), capacity, 1000.0
        )


def storage(**changes: Any) -> dict[str, Any]:
    wear = {"fast": 0.1, "deep": 0.3, "depth": 0.4}
    return {"capacity_kwh": 10, "initial_kwh": 5, "charge_kw": 3, "discharge_kw": 3, "wear": wear} | changes


def odd_homes(random: np.random.Generator) -> list[Home]:
    """Every kind of appliance and every corner of the limits that a scenario may describe."""

    def elastic(form: str, **changes: Any) -> dict[str, Any]:
        omega, alpha = random.uniform(0.5, 1.5, SLOTS).tolist(), random.uniform(0.2, 0.8, SLOTS).tolist()
        satisfaction = {"form": form, "omega": omega, "alpha": alpha}
        rates = random.uniform(1, 4, SLOTS).tolist()
        return {"max_kw": rates, "valuation": random.uniform(8, 20), "satisfaction": satisfaction} | changes

    night = {"available": {"first": 22, "last": 3}, "discharge_kw": 0}
    least = [3.0] * 12 + [0.5] * 12
    described: dict[str, dict[str, Any]] = {
        "nothing": {},
        "inelastic": {"inelastic": [{"load_kw": random.uniform(0, 2, SLOTS).tolist()}]},
        "three-forms": {"elastic": [elastic(form) for form in FORMS]},
        "no-capacity": {"elastic": [elastic("log")], "storage": [storage(capacity_kwh=0, initial_kwh=0)]},
        "no-power": {"elastic": [elastic("log")], "storage": [storage(charge_kw=0, discharge_kw=0)]},
        "just-in-time": {
            "elastic": [elastic("power")],
            "storage": [storage(initial_kwh=1, final_kwh=10, charge_kw=1.5, **night)],
        },
        "full": {"elastic": [elastic("quadratic")], "storage": [storage(initial_kwh=10, discharge_kw=0)]},
        "bounded": {
            "elastic": [elastic("log", max_kw=2, min_kw=2), elastic("power", max_kw=3, min_kw=least)],
            "storage": [storage()],
            "draw_limit": {"min_kw": 2.2},
        },
        "two-stores": {
            "elastic": [elastic("log")],
            "storage": [storage(), storage(initial_kwh=2, final_kwh=8, available={"first": 18, "last": 7})],
            "draw_limit": {"min_kw": -5},
        },
        "tight": {
            "elastic": [elastic("log"), elastic("quadratic")],
            "storage": [storage()],
            "draw_limit": {"max_kw": 1.5},
        },
        "tight-elastic": {"elastic": [elastic("log"), elastic("power")], "draw_limit": {"min_kw": 1, "max_kw": 1.5}},
    }
    return [Home.model_validate({"id": name, **home}) for name, home in described.items()]


@pytest.mark.parametrize("seed", [1, 2])
def test_nodes_agree_with_the_reference_on_homes_of_every_kind(seed: int) -> None:
    random = np.random.default_rng(seed)
    homes, price = odd_homes(random), random.uniform(-2, 20, SLOTS)
    schedules = [HomeProblem(home).answer(price) for home in homes]
    load = np.array([schedule.load for schedule in schedules])
    stored = np.array([schedule.level.sum(axis=0) for schedule in schedules])
    utility = np.array([HomeProblem(home).utility(s) for home, s in zip(homes, schedules, strict=True)])
    size = np.maximum(1, np.abs(utility - load @ price))

    stacked = StackedHomes(homes, SLOTS)
    best = solve_best_answers(stacked, price, size)
    assert np.abs(((best.utility - best.load @ price) - (utility - load @ price)) / size) == pytest.approx(0, abs=1e-9)
    assert best.load == pytest.approx(load, abs=1e-5)

    recomputed = stacked.utility_of(load, stored)
    several = np.array([len(home.storage) > 1 for home in homes])
    assert recomputed[~several] == pytest.approx(utility[~several], rel=1e-12)
    assert np.all(np.isnan(recomputed[several]))
    assert stacked.violation_of(load, stored) < 1e-9


def test_violation_is_that_of_the_limit_that_is_broken() -> None:
    limits = {"draw_limit": {"min_kw": 0.0, "max_kw": 2.0}}
    appliance = {"max_kw": 2.0, "min_kw": 0.5, "valuation": 10.0}
    home = Home.model_validate({"id": "a", "elastic": [appliance], "storage": [storage()], **limits})
    stacked = StackedHomes([home], SLOTS)
    draw, stored = np.ones((1, SLOTS)), np.full((1, SLOTS), 5.0)
    assert stacked.violation_of(draw, stored) == 0

    def worst(load: dict[int, float], level: dict[int, float]) -> float:
        changed_draw, changed_stored = draw.copy(), stored.copy()
        changed_draw[0, list(load)] = list(load.values())
        changed_stored[0, list(level)] = list(level.values())
        return stacked.violation_of(changed_draw, changed_stored)

    assert worst({3: 2.25}, {}) == pytest.approx(0.25)
    assert worst({3: 0.4}, {}) == pytest.approx(0.1)  # below min_kw
    assert worst({23: 0.7}, {23: 4.7}) == pytest.approx(0.3)  # less at the end than at the start
    assert worst({0: 2.0, 1: 2.0}, dict.fromkeys(range(SLOTS), 9.5)) == pytest.approx(3.0)  # nothing left for min_kw


# --- the homes' answers to many prices at once ---


@pytest.mark.parametrize("seed", [1, 2])
def test_schedules_at_many_prices_are_those_of_the_nodes_for_homes_of_every_kind(seed: int) -> None:
    random = np.random.default_rng(seed)
    homes, prices = odd_homes(random), random.uniform(-2, 30, (12, SLOTS))
    response, problems = HomesResponse(homes, SLOTS), [HomeProblem(home) for home in homes]
    found = response.schedule(prices, exact=True)
    for number, price in enumerate(prices):
        schedules = [problem.answer(price) for problem in problems]
        assert found.draw[number] == pytest.approx(np.array([each.load for each in schedules]), abs=1e-5)
        assert found.stored[number] == pytest.approx(np.array([each.level.sum(axis=0) for each in schedules]), abs=1e-4)
        assert found.charging[number] == pytest.approx(np.array([each.r.sum(axis=0) for each in schedules]), abs=1e-4)
    total = found.draw.sum(axis=1)
    assert response.loads(prices) == pytest.approx(total, abs=3e-3 * float(total.max()))


def test_interior_point_converges_on_chains_of_every_kind() -> None:
    random = np.random.default_rng(3)
    response = HomesResponse(odd_homes(random), SLOTS)
    response._solve_each = lambda found, prices, homes: left.extend(homes.tolist())  # type: ignore[method-assign]
    left: list[int] = []
    response.schedule(random.uniform(-2, 30, (20, SLOTS)), exact=True)
    several = response.homes.ids.index("two-stores")
    assert set(left) <= {several}, "only several storages behind one limit are left to the nodes' solver"


def test_best_utilities_are_those_of_the_conic_solver() -> None:
    random = np.random.default_rng(5)
    homes, price = odd_homes(random), random.uniform(1, 20, SLOTS)
    _, utility = HomesResponse(homes, SLOTS).best_answers(price)
    best = solve_best_answers(StackedHomes(homes, SLOTS), price, np.maximum(1, np.abs(utility)))
    assert utility == pytest.approx(best.utility - best.load @ price, rel=1e-8, abs=1e-8)


# --- the leader's search ---


def two_hills() -> UserOrientedScenario:
    """One slot; demand is 4 (1 - p / 10) and 10 (1 - p / 2) kW, so that 1.25 and 5 are the tops of two hills."""
    homes = [
        {"id": "rich", "elastic": [{"max_kw": 4, "valuation": 10, "satisfaction": {"form": "quadratic"}}]},
        {"id": "poor", "elastic": [{"max_kw": 12, "valuation": 2, "satisfaction": {"form": "quadratic"}}]},
    ]
    leader = {"baseline_price": 1, "wholesale_price": 0.1, "mu": 0, "price_max": 10}
    return load({"schema": 1, "game": "user_oriented", "slots": 1, "leader": leader, "homes": homes})  # type: ignore[return-value]


def answer_price(scenario: UserOrientedScenario, price: list[float]) -> UserOrientedOutcome:
    """Build the outcome of a run whose leader settled `price` and whose homes answered it best."""
    problems = [HomeProblem(home) for home in scenario.everyone]
    flat = np.full(scenario.slots, scenario.leader.baseline_price)
    homes = {each.home.id: each.summarize(each.answer(np.array(price))) for each in problems}
    return UserOrientedOutcome.model_validate(
        {
            **dict.fromkeys(("peak_kw", "par", "baseline_peak_kw", "baseline_par", "leader_utility"), 1.0),
            **dict.fromkeys(("system_utility", "revenue", "deviation"), 1.0),
            "price": price,
            "load_kw": np.sum([home["load_kw"] for home in homes.values()], axis=0).tolist(),
            "baseline_load_kw": np.sum([each.answer(flat).load for each in problems], axis=0).tolist(),
            "homes": homes,
        }
    )


def test_certificate_names_the_higher_hill() -> None:
    scenario = two_hills()
    # (p - 0.1) (16 - 6.4 p) is most at 1.3, (p - 0.1) (4 - 0.4 p) at 5.05.
    low = certify(scenario, answer_price(scenario, [1.3]), samples=40)
    best = 4.95 * (4 - 0.4 * 5.05)
    assert low["leader_regret"] == pytest.approx((best - 1.2 * (16 - 6.4 * 1.3)) / best, rel=1e-9)
    assert low["better_price"] == pytest.approx([5.05], abs=1e-6) and low["better_utility"] == pytest.approx(best)
    high = certify(scenario, answer_price(scenario, [5.05]), samples=40)
    assert sound(high) and high["leader_regret"] < 1e-12


# Games of the benchmark `random_games` whose earlier leader ended on a lower hill, and games in which it did not.
STORED = Path(__file__).parents[3] / "benchmarks" / "random_games" / "stored"


def read_games(family: str, least: float, most: float, count: int) -> list[tuple[str, dict[str, Any]]]:
    rows = json.loads((STORED / f"{family}.json").read_text())
    lost = {row["seed"]: row["best"]["utility"] - row["before"]["utility"] for row in rows}
    chosen = [row for row in rows if least <= lost[row["seed"]] / max(1, abs(row["best"]["utility"])) < most]
    return [(family, row) for row in chosen[:count]]


@pytest.mark.parametrize(("family", "game"), read_games("uncoupled", 1e-3, np.inf, 6))
def test_certificate_notices_a_lower_hill_of_a_random_game(family: str, game: dict[str, Any]) -> None:
    scenario = load(draw_game(family, game["seed"]))
    assert isinstance(scenario, UserOrientedScenario)
    certificate = certify(scenario, answer_price(scenario, game["before"]["price"]), samples=200)
    best, reached = game["best"]["utility"], game["before"]["utility"]
    loss = (best - reached) / max(1, abs(best))
    assert certificate["leader_regret"] >= 0.99 * loss > 1e-4
    assert certificate["better_utility"] == pytest.approx(best, rel=1e-3)


# In game 84 the load is at a capacity whose last millionth is worth 3e-5 of the utility.
@pytest.mark.parametrize(
    ("family", "game"),
    [each for each in read_games("uncoupled", -np.inf, np.inf, 100) if each[1]["seed"] in (0, 1, 3, 84)],
)
def test_certificate_passes_the_best_price_of_a_random_game(family: str, game: dict[str, Any]) -> None:
    scenario = load(draw_game(family, game["seed"]))
    assert isinstance(scenario, UserOrientedScenario)
    certificate = certify(scenario, answer_price(scenario, game["best"]["price"]), samples=200)
    assert certificate["feasible"] and certificate["leader_regret"] <= 1e-6 and certificate["max_home_regret"] <= 1e-7


def test_price_search_finds_the_monopoly_price() -> None:
    appliance = {"max_kw": 5.0, "valuation": 12.0, "satisfaction": {"omega": 0.9, "alpha": 3.0}}
    home = Home.model_validate({"id": "a", "horizon": 4, "elastic": [appliance]})
    wholesale = np.array([4.0, 6.0, 9.0, 12.0])
    company = Company(wholesale, np.zeros(4), np.full(4, -np.inf), np.full(4, np.inf), 1.0, 60.0)
    search = BetterPriceSearch(company, HomesResponse([home], 4))
    found = search.run(np.full(4, 20.0), 40, np.random.default_rng(1))
    # (p - c) x_max (v / (omega p) - 1 / alpha) is largest at p = sqrt(c v alpha / omega).
    assert found.price == pytest.approx(np.sqrt(wholesale * 12 * 3 / 0.9), rel=1e-5)
    assert found.utility == pytest.approx(company.utility(found.price, found.load), rel=1e-12)


def test_price_search_keeps_the_capacity() -> None:
    appliance = {"max_kw": 5.0, "valuation": 12.0, "satisfaction": {"omega": 0.9, "alpha": 3.0}}
    home = Home.model_validate({"id": "a", "horizon": 4, "elastic": [appliance]})
    company = Company(np.full(4, 4.0), np.zeros(4), np.full(4, -np.inf), np.full(4, 2.0), 1.0, 60.0)
    found = BetterPriceSearch(company, HomesResponse([home], 4)).run(np.full(4, 35.0), 40, np.random.default_rng(1))
    # At sqrt(4 * 40) the home would draw 3.6 kW; 2 kW are drawn at 12 / (0.9 (2 / 5 + 1 / 3)).
    assert found.price == pytest.approx(np.full(4, 12 / (0.9 * (2 / 5 + 1 / 3))), rel=1e-5)
    assert company.violation(found.load) < 1e-5


def test_homes_response_is_the_sum_of_best_answers_and_its_derivative() -> None:
    random = np.random.default_rng(4)
    homes, price = odd_homes(random), random.uniform(5, 15, SLOTS)
    respond = HomesResponse(homes, SLOTS).answer
    answer = respond(price)
    assert answer.load == pytest.approx(
        solve_best_answers(StackedHomes(homes, SLOTS), price, np.ones(len(homes))).load.sum(axis=0)
    )
    direction = random.standard_normal(SLOTS)
    ahead, behind = respond(price + 1e-6 * direction).load, respond(price - 1e-6 * direction).load
    assert (ahead - behind) / 2e-6 == pytest.approx(answer.jacobian @ direction, abs=1e-5)


# --- the certificate ---


@cache
def small_run(*overrides: str) -> tuple[UserOrientedScenario, UserOrientedOutcome]:
    """Play six homes in memory."""
    scenario = load("user_oriented", [*SMALL, *overrides])
    assert isinstance(scenario, UserOrientedScenario)
    run_record = play(scenario)
    assert run_record.settled
    return scenario, UserOrientedOutcome.of(scenario, run_record)


def certify_content(scenario: UserOrientedScenario, content: dict[str, Any]) -> dict[str, Any]:
    return certify(scenario, UserOrientedOutcome.model_validate(content), samples=40)


def with_leader(scenario: UserOrientedScenario, **settings: Any) -> UserOrientedScenario:
    leader = UtilitySettings.model_validate(scenario.leader.model_dump() | settings)
    return scenario.model_copy(update={"leader": leader})


def sound(certificate: dict[str, Any]) -> bool:
    residual = certificate["price_residual"]
    return bool(
        certificate["feasible"]
        and certificate["gap"] <= 1e-6
        and certificate["max_regret"] <= 1e-7
        and certificate["overclaim"] <= 1e-9
        and certificate["bill_residual"] <= 1e-9
        and certificate["balance_residual"] <= 1e-9
        and certificate["load_residual"] <= 1e-3
        and (residual is None or residual <= 1e-4)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("objective", ["welfare", "stackelberg"])
def test_certificate_is_sound_for_a_settled_run(objective: str, form: str) -> None:
    scenario, outcome = small_run(f"leader.objective={objective}", f"population.satisfaction={form}")
    assert any(home.storage for home in scenario.everyone)
    certificate = certify(scenario, outcome, samples=40)
    assert sound(certificate), certificate
    json.dumps(certificate, allow_nan=False)
    assert certificate["system_utility"] == pytest.approx(outcome.system_utility, rel=1e-12)
    assert certificate["welfare_system_utility"] >= certificate["system_utility"] * (1 - 1e-9)


def test_price_search_returns_when_it_starts_at_a_shifted_price() -> None:
    scenario, outcome = small_run("leader.objective=stackelberg", "leader.mu=8")
    leader = scenario.leader
    mu = np.full(SLOTS, leader.mu / np.mean(outcome.baseline_load_kw))
    company = Company(np.full(SLOTS, leader.wholesale_price), mu, *UNBOUNDED, leader.price_min, leader.price_max)
    search = BetterPriceSearch(company, HomesResponse(scenario.everyone, SLOTS))
    price = np.array(outcome.price)
    back = search.run(price * np.linspace(0.9, 1.1, SLOTS), 0, np.random.default_rng(1))
    assert back.utility == pytest.approx(outcome.leader_utility, rel=1e-7)
    assert back.price == pytest.approx(price, rel=1e-2)


@pytest.mark.parametrize(
    "override",
    ["leader.capacity.max_kw=38", "population.draw_limit=1.05", "leader.balance.kind=adaptive", "leader.mu=0"],
)
def test_certificate_is_sound_for_a_welfare_run_with_limits(override: str) -> None:
    scenario, outcome = small_run("leader.objective=welfare", override)
    certificate = certify(scenario, outcome, samples=40)
    assert sound(certificate), certificate
    assert certificate["price_distance"]["relative"] < 1e-6
    assert certificate["welfare_price"] == pytest.approx(outcome.price, rel=1e-5)


@pytest.mark.parametrize("override", ["leader.capacity.max_kw=38", "population.draw_limit=1.05", "leader.mu=0"])
def test_gap_from_sums_is_that_of_the_central_programme(override: str) -> None:
    scenario, outcome = small_run("leader.objective=welfare", override)
    certificate = certify(scenario, outcome, samples=0)
    assert certificate["sums_gap"] == pytest.approx(0, abs=1e-9)
    assert certificate["sums_gap"] == pytest.approx(certificate["gap"], abs=1e-9)


def test_certificate_passes_where_the_marginal_cost_moves_more_than_the_price() -> None:
    # The price is known to 1e-6; by mu, the marginal cost is 1e-6 of the largest price and a little more away from it.
    run = runner.run(draw_game("welfare", 22))
    certificate = run.certify()
    assert abs(certificate.root["sums_gap"]) < 1e-9 and certificate.passed, certificate.root["failed"]


def test_gap_from_sums_counts_capacity_that_is_left_unused() -> None:
    scenario, outcome = small_run("leader.objective=welfare", "leader.capacity.max_kw=38")
    dearer = [1.01 * price for price in outcome.price]
    certificate = certify(scenario, answer_price(scenario, dearer), samples=0)
    assert certificate["feasible"] and 1e-6 < certificate["gap"] <= certificate["sums_gap"] < 10 * certificate["gap"]


@pytest.mark.parametrize("seed", range(4))
def test_gap_from_sums_bounds_that_of_the_central_programme_at_any_price(seed: int) -> None:
    random = np.random.default_rng(seed)
    settled, outcome = small_run("leader.objective=welfare")
    limits = {"max_kw": 1.2 * max(outcome.load_kw), "min_kw": 0.5 * min(outcome.load_kw)}
    scenario = with_leader(settled, capacity=limits)
    size = 10.0 ** -random.integers(1, 5)
    price = np.array(outcome.price) * (1 + size * random.uniform(-1, 1, SLOTS))
    certificate = certify(scenario, answer_price(scenario, price.tolist()), samples=0)
    assert certificate["feasible"] and 1e-12 < certificate["gap"] <= certificate["sums_gap"] * (1 + 1e-9) + 1e-9
    assert certificate["sums_gap"] < 1e3 * size**2


@pytest.mark.parametrize("most", [7.0, 9.5])
def test_certificate_is_sound_for_a_welfare_run_at_a_bound_of_the_price(most: float) -> None:
    # Marginal cost is above 7 where wholesale is 8, and the run can do no better than ask the most.
    scenario, outcome = small_run(
        *(
            "leader.objective=welfare",
            "leader.wholesale_price=8",
            "leader.baseline_price=6",
            f"leader.price_max={most}",
        ),
        *("population.storage.share=0", "population.ev=null"),
    )
    certificate = certify(scenario, outcome, samples=0)
    assert (max(outcome.price) == most) == (most == 7)
    assert sound(certificate), certificate
    cheaper = certify(scenario, answer_price(scenario, [0.95 * price for price in outcome.price]), samples=0)
    assert cheaper["gap"] > 1e-5 and cheaper["price_residual"] > 0.1


def test_certificate_is_made_of_sums_when_there_are_many_homes(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, outcome = small_run("leader.objective=welfare", "leader.capacity.max_kw=38")
    whole = certify(scenario, outcome, samples=0)
    monkeypatch.setattr("stackelgrid.games.user_oriented.certificate.CERTIFIED_UP_TO", 5)
    monkeypatch.setattr("stackelgrid.games.user_oriented.certificate.solve_central_programme", None)
    monkeypatch.setattr("stackelgrid.games.user_oriented.certificate.solve_best_answers", None)
    by_sums = certify(scenario, outcome, samples=0)
    assert sound(by_sums) and by_sums["gap"] == whole["sums_gap"]
    assert by_sums["welfare_price"] is None and by_sums["solver_status"] == {"homes": None, "centralised": None}
    wrong = outcome.content()
    wrong["homes"][scenario.everyone[0].id]["load_kw"][3] *= 1.02
    assert not sound(certify_content(scenario, wrong))


def test_certificate_is_not_sound_when_the_objective_is_the_other_one() -> None:
    welfare, welfare_outcome = small_run("leader.objective=welfare")
    leading, leading_outcome = small_run("leader.objective=stackelberg")
    as_leading = certify(leading, welfare_outcome, samples=40)
    as_welfare = certify(welfare, leading_outcome, samples=40)
    assert as_leading["leader_regret"] > 0.1
    assert as_leading["max_home_regret"] < 1e-7
    assert as_welfare["gap"] > 0.01
    assert as_welfare["price_residual"] > 0.1
    assert as_welfare["price_distance"]["rms"] > 1


@pytest.mark.parametrize("objective", ["welfare", "stackelberg"])
def test_certificate_is_not_sound_when_the_price_is_shifted(objective: str) -> None:
    scenario, outcome = small_run(f"leader.objective={objective}")
    shifted = outcome.content()
    shifted["price"] = [1.01 * price for price in shifted["price"]]
    certificate = certify_content(scenario, shifted)
    assert not sound(certificate)
    assert certificate["max_home_regret"] > 1e-6
    assert certificate["bill_residual"] == pytest.approx(0.01 / 1.01, rel=1e-6)


def test_leader_has_the_regret_when_homes_answer_a_shifted_price() -> None:
    scenario, outcome = small_run("leader.objective=stackelberg")
    shifted = outcome.content()
    price = 1.01 * np.array(shifted["price"])
    for home in scenario.everyone:
        problem = HomeProblem(home)
        shifted["homes"][home.id] = problem.summarize(problem.answer(price))
    shifted["price"] = price.tolist()
    shifted["load_kw"] = np.sum([home["load_kw"] for home in shifted["homes"].values()], axis=0).tolist()
    certificate = certify_content(scenario, shifted)
    assert certificate["max_home_regret"] <= 1e-7
    assert certificate["leader_regret"] > 1e-6
    assert not sound(certificate)


def test_certificate_is_not_sound_when_a_home_has_another_load() -> None:
    scenario, outcome = small_run("leader.objective=welfare")
    changed = outcome.content()
    home = changed["homes"][scenario.everyone[0].id]
    home["load_kw"][17] *= 1.01
    certificate = certify_content(scenario, changed)
    assert not sound(certificate)
    assert certificate["balance_residual"] == pytest.approx(home["load_kw"][17] * (1 - 1 / 1.01), rel=1e-6)
    assert certificate["load_residual"] > 1e-3
    assert certificate["max_home_regret"] > 1e-9
    assert certificate["overclaim"] > 1e-9


def test_certificate_is_not_sound_when_a_home_claims_more_utility() -> None:
    scenario, outcome = small_run("leader.objective=welfare")
    changed = outcome.content()
    home = changed["homes"][scenario.everyone[0].id]
    home["utility"] += 0.01
    certificate = certify_content(scenario, changed)
    assert not sound(certificate)
    assert certificate["overclaim"] == pytest.approx(0.01 / max(1, abs(home["utility"])), rel=1e-3)
    # The claim does not change the utility that is computed anew.
    assert certificate["system_utility"] == pytest.approx(outcome.system_utility, rel=1e-12)


def test_certificate_is_not_feasible_when_capacity_is_broken_or_unreachable() -> None:
    scenario, outcome = small_run("leader.objective=welfare")
    peak = max(outcome.load_kw)

    def limit(most: float) -> UserOrientedScenario:
        return with_leader(scenario, capacity={"max_kw": most})

    tight = certify(limit(peak - 1), outcome, samples=0)
    assert not tight["feasible"]
    assert tight["violation"] == pytest.approx(1, rel=1e-6)
    hopeless = certify(limit(0.1), outcome, samples=0)
    assert not hopeless["feasible"]
    assert hopeless["gap"] is None
    assert hopeless["welfare_price"] is None
    assert "widen the capacity" in hopeless["solver_status"]["centralised"]["status"]


def test_certificate_is_not_feasible_when_a_stackelberg_price_is_out_of_bounds() -> None:
    scenario, outcome = small_run("leader.objective=stackelberg")
    highest = max(outcome.price) - 0.1
    bounded = with_leader(scenario, price_max=highest, baseline_price=highest)
    certificate = certify(bounded, outcome, samples=20)
    assert not certificate["feasible"]


@pytest.mark.parametrize(("above", "feasible"), [(1e-14, True), (1e-6, False)])
def test_certificate_is_feasible_when_a_price_exceeds_its_bound_by_rounding(above: float, feasible: bool) -> None:
    scenario, outcome = small_run("leader.objective=stackelberg")
    highest = max(outcome.price) * (1 - above)
    bounded = with_leader(scenario, price_max=highest, baseline_price=highest)
    assert max(outcome.price) > bounded.leader.price_max
    assert certify(bounded, outcome, samples=20)["feasible"] == feasible


def test_leader_has_no_regret_when_ten_thousand_prices_are_tried() -> None:
    scenario, outcome = small_run("leader.objective=stackelberg", "population.storage.share=0", "population.ev=null")
    certificate = certify(scenario, outcome, samples=10_000)
    assert certificate["prices_tried"] > 10_000
    assert certificate["leader_regret"] <= 1e-9


def test_certificate_is_the_same_when_it_is_made_again() -> None:
    scenario, outcome = small_run("leader.objective=stackelberg")
    certificates = [certify(scenario, outcome, samples=40) for _ in range(2)]
    assert certificates[0] == certificates[1]


def test_certificate_is_refused_when_the_outcome_lacks_something() -> None:
    scenario, outcome = small_run("leader.objective=welfare")
    homes = outcome.homes
    name = next(home.id for home in scenario.everyone if home.storage)
    others = {other: home for other, home in homes.items() if other != name}
    short = UserOrientedOutcome.model_validate(
        {
            **outcome.content(),
            **{key: getattr(outcome, key)[:-1] for key in ("price", "load_kw", "baseline_load_kw")},
            "homes": {each: {"load_kw": home.load_kw[:-1], "bill": 1, "utility": 1} for each, home in homes.items()},
        }
    )
    for wrong, why in (
        (outcome.model_copy(update={"homes": others}), f"lacks {name}"),
        (outcome.model_copy(update={"homes": homes | {"stranger": homes[name]}}), "stranger, unknown"),
        (short, "outcome.price has 23 numbers, the scenario 24 slots"),
        (
            outcome.model_copy(update={"homes": others | {name: homes[name].model_copy(update={"storage_kwh": None})}}),
            f"{name}.storage_kwh is missing",
        ),
    ):
        with pytest.raises(CertificateError, match=why):
            certify(scenario, wrong, samples=0)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [("price", [1.0], "load_kw has 24 numbers, price has 1"), ("revenue", float("nan"), "finite number")],
)
def test_outcome_is_refused_when_its_content_is_wrong(key: str, value: Any, why: str) -> None:
    _, outcome = small_run("leader.objective=welfare")
    with pytest.raises(ValidationError, match=why):
        UserOrientedOutcome.model_validate(outcome.content() | {key: value})
