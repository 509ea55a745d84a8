"""The leader's mathematics: marginal cost, the local model, the searches, and the number of rounds to the price."""

import itertools

import numpy as np
import pytest

from stackelgrid.games.user_oriented.algorithms.newton import choose_search
from stackelgrid.games.user_oriented.hill_climb import HillClimb
from stackelgrid.games.user_oriented.home import Home, HomeProblem
from stackelgrid.games.user_oriented.leader import UserOrientedLeader, adaptive_balance, fixed_balance
from stackelgrid.games.user_oriented.local_response import LocalResponse, Observation, estimate_exponent
from stackelgrid.games.user_oriented.messages import LoadResponse
from stackelgrid.games.user_oriented.search import Objective, PriceFound, PricingProblem
from stackelgrid.games.user_oriented.stackelberg import StackelbergSearch
from stackelgrid.games.user_oriented.utility_company import UtilityCompany
from stackelgrid.games.user_oriented.welfare import WelfareSearch
from stackelgrid.scenarios import load
from stackelgrid.testbed.in_memory import play
from stackelgrid.wire.arrays import PackedArray

SLOTS = 24


def company(random: np.random.Generator, **bounds: float) -> UtilityCompany:
    return UtilityCompany(
        wholesale_price=random.uniform(1, 5, SLOTS),
        mu=random.uniform(0, 0.01, SLOTS),
        load_min=np.full(SLOTS, bounds.get("load_min", -np.inf)),
        load_max=np.full(SLOTS, bounds.get("load_max", np.inf)),
        price_min=0.1,
        price_max=30.0,
    )


def answer(problems: list[HomeProblem], price: np.ndarray) -> Observation:
    schedules = [problem.answer(price) for problem in problems]
    coupling = sum((s.coupling for s in schedules if s.coupling is not None), np.zeros((SLOTS, SLOTS)))
    return Observation(
        price, sum(s.load for s in schedules), sum(s.slope for s in schedules), coupling, homes=len(schedules)
    )


def negotiate(problems: list[HomeProblem], leader: UtilityCompany, objective: str, start: float) -> Observation:
    search = StackelbergSearch(leader) if objective == "stackelberg" else WelfareSearch(leader)
    observed = [answer(problems, np.full(SLOTS, start))]
    for _ in range(40):
        result = search.next(observed)
        if isinstance(result, PriceFound):
            return observed[0]
        observed = [answer(problems, price) for price in (result.price, *result.others)]
    raise AssertionError("did not settle in 40 rounds")


def test_marginal_cost_is_the_gradient_of_the_cost() -> None:
    random = np.random.default_rng(1)
    leader, at = company(random), random.uniform(100, 400, SLOTS)

    def cost(x: np.ndarray) -> float:
        return float(leader.wholesale_price @ x) + leader.deviation_charge(x)

    step = 1e-3
    numeric = [(cost(at + step * unit) - cost(at - step * unit)) / (2 * step) for unit in np.eye(SLOTS)]
    np.testing.assert_allclose(leader.marginal_cost(at), numeric, atol=1e-7)
    moved = at + random.normal(size=SLOTS)
    np.testing.assert_allclose(
        leader.marginal_cost(moved) - leader.marginal_cost(at), leader.cost_curvature @ (moved - at), atol=1e-12
    )


@pytest.mark.parametrize("form", ["log", "power", "quadratic"])
def test_local_model_is_exact_for_one_appliance_inside_its_bounds(form: str) -> None:
    setting = {"population.satisfaction": form, "population.homes": 3, "population.storage.share": 0}
    chosen = load("user_oriented", [*(f"{k}={v}" for k, v in setting.items()), "population.ev=null", "aggregators=1"])
    problem = HomeProblem(chosen.everyone[0])
    before, now = (answer([problem], np.full(SLOTS, price)) for price in (9.24, 9.0))
    model = LocalResponse(now, estimate_exponent(before, now, np.ones(SLOTS)))
    there = answer([problem], np.full(SLOTS, 8.8))
    np.testing.assert_allclose(model.load(there.price), there.load, rtol=1e-9)
    np.testing.assert_allclose(np.diag(model.jacobian(there.price)), there.slope, rtol=1e-7)
    step = 1e-4
    slopes = [np.diag(model.jacobian(there.price + sign * step)) for sign in (1, -1)]
    np.testing.assert_allclose(model.curvature(there.price), (slopes[0] - slopes[1]) / (2 * step), rtol=1e-4, atol=1e-6)


def test_stackelberg_price_has_its_closed_form_when_satisfaction_is_log() -> None:
    # L_t = K_t / p_t - A_t without storage or bounds, mu = 0: p* = sqrt(K c / A).
    chosen = load("user_oriented", ["population.homes=6", "population.storage.share=0", "population.ev=null"])
    problems = [HomeProblem(home) for home in chosen.everyone]
    leader = UtilityCompany(np.full(SLOTS, 3.2), np.zeros(SLOTS), *np.full((2, SLOTS), [[-np.inf], [np.inf]]), 0.1, 30)
    settled = negotiate(problems, leader, "stackelberg", 9.24)
    observed = [answer(problems, np.full(SLOTS, price)).load for price in (9.0, 9.2)]
    k = (observed[0] - observed[1]) / (1 / 9.0 - 1 / 9.2)
    a = k / 9.0 - observed[0]
    np.testing.assert_allclose(settled.price, np.sqrt(k * 3.2 / a), rtol=1e-9)


@pytest.mark.parametrize("objective", ["stackelberg", "welfare"])
def test_load_keeps_the_capacity_when_it_binds(objective: str) -> None:
    chosen = load("user_oriented", ["population.homes=12"])
    problems = [HomeProblem(home) for home in chosen.everyone]
    free = answer(problems, np.full(SLOTS, 9.24))
    mean = free.load.mean()
    bounds = {"load_min": 0.75 * mean, "load_max": 1.1 * mean}
    random = np.random.default_rng(3)
    leader = UtilityCompany(
        random.uniform(7, 9, SLOTS) if objective == "welfare" else np.full(SLOTS, 3.2),
        fixed_balance(0.9, free.load),
        np.full(SLOTS, bounds["load_min"]),
        np.full(SLOTS, bounds["load_max"]),
        0.1,
        60.0,
    )
    settled = negotiate(problems, leader, objective, 9.24)
    assert leader.violation(settled.load) <= 1e-6 * mean
    at_bound = np.isclose(settled.load, bounds["load_max"], rtol=1e-6) | np.isclose(
        settled.load, bounds["load_min"], rtol=1e-6
    )
    assert at_bound.any()
    if objective == "welfare":  # price = marginal cost + multiplier, which is zero off the bounds and signed on them
        multiplier = settled.price - leader.marginal_cost(settled.load)
        np.testing.assert_allclose(multiplier[~at_bound], 0, atol=1e-5)
        high = np.isclose(settled.load, bounds["load_max"], rtol=1e-6)
        assert (multiplier[high] >= -1e-5).all()
        assert (multiplier[at_bound & ~high] <= 1e-5).all()


def settle(problems: list[HomeProblem], objective: Objective, overstated: float) -> tuple[np.ndarray, int]:
    """The price that the leader settles, and in which round; its first answer bends `overstated` times too much."""
    rules = company(np.random.default_rng(3))
    leader = UserOrientedLeader(
        choose_search, PricingProblem(rules, objective), np.full(SLOTS, 9.0), lambda load: rules.mu
    )
    decision = leader.open()
    for number in range(1, 41):
        question = decision.ask
        observed, *others = [answer(problems, price) for price in question.prices]
        bends = [other for other, _ in zip(others, range(question.sensitivities - 1), strict=False)]
        body = LoadResponse(
            homes=len(problems),
            load_only=int(number > 1 and overstated != 1),
            load_kw=observed.load.tolist(),
            slope=(observed.slope * (overstated if number == 1 else 1)).tolist(),
            coupling=PackedArray.of(observed.coupling),
            other_loads_kw=PackedArray.of(np.array([other.load for other in others])) if others else None,
            other_slopes=PackedArray.of(np.array([other.slope for other in bends])) if bends else None,
            other_couplings=[PackedArray.of(other.coupling) for other in bends] or None,
        )
        decision = leader.decide(decision.ask, {"a1": body}, ())
        if decision.settle:
            return np.array(decision.settlement.price), number
    raise AssertionError("did not settle in 40 rounds")


@pytest.mark.parametrize("objective", ["stackelberg", "welfare"])
@pytest.mark.parametrize("overstated", [30.0, 1e6, 1e9])
def test_price_is_the_same_after_a_sensitivity_that_did_not_come_true(objective: Objective, overstated: float) -> None:
    """Even where the leader finds no price for the false answer, it settles only on one that later answers confirm."""
    problems = [HomeProblem(home) for home in load("user_oriented", ["population.homes=8"]).everyone]
    truthful, _ = settle(problems, objective, 1.0)
    deceived, rounds = settle(problems, objective, overstated)
    assert rounds > 1 and np.allclose(deceived, truthful, rtol=1e-4)


def test_balance_is_larger_far_from_the_mean_when_it_is_adaptive() -> None:
    baseline = np.array([1.0, 2.0, 2.0, 3.0])
    np.testing.assert_allclose(fixed_balance(0.8, baseline), 0.4)
    np.testing.assert_allclose(adaptive_balance(2, 1, 0.15, baseline), [1.0, 0.5, 0.5, 1.0])


def test_par_and_utility_fall_a_little_when_the_balance_is_adaptive() -> None:
    found = []
    for settings in ([], ["leader.balance={kind: adaptive, high: 2, low: 0.5}"]):
        chosen = load("user_oriented", settings)
        found.append(chosen.outcome(play(chosen)))
    fixed, adaptive = found
    assert adaptive.par < fixed.par
    assert 0.99 * fixed.system_utility < adaptive.system_utility < fixed.system_utility


@pytest.mark.parametrize(
    ("objective", "form", "storage"),
    list(itertools.product(["stackelberg", "welfare"], ["log", "power", "quadratic"], [0, 0.5])),
)
@pytest.mark.parametrize("homes", [6, 60])
def test_run_settles_within_twelve_rounds(objective: str, form: str, storage: float, homes: int) -> None:
    overrides = [
        f"leader.objective={objective}",
        f"population.satisfaction={form}",
        f"population.homes={homes}",
        f"population.storage.share={storage}",
        *([] if storage else ["population.ev=null"]),
    ]
    run_record = play(load("user_oriented", overrides))
    assert run_record.settled
    assert len(run_record.rounds) <= 12
    assert run_record.rounds[-1]["residual"] <= 1e-6


def test_leader_utility_is_lower_at_sampled_prices() -> None:
    chosen = load("user_oriented", ["population.homes=9", "aggregators=1"])
    run_record = play(chosen)
    problems = [HomeProblem(home) for home in chosen.everyone]
    baseline, last = run_record.rounds[0], run_record.rounds[-1]
    mu = fixed_balance(chosen.leader.mu, np.array(baseline["load_kw"]))
    leader = UtilityCompany(
        np.full(SLOTS, chosen.leader.wholesale_price), mu, *np.full((2, SLOTS), [[-np.inf], [np.inf]]), 1, 30
    )
    price, random = np.array(last["price"]), np.random.default_rng(5)
    for scale in (1e-4, 1e-3, 1e-2, 0.1, 0.3):
        for _ in range(60):
            tried = np.clip(price * (1 + scale * random.normal(size=SLOTS)), 1, 30)
            earned = leader.utility(tried, answer(problems, tried).load)
            assert earned <= last["leader_utility"] * (1 + 1e-6)


def test_shipped_case_gives_the_four_figures_of_the_paper() -> None:
    run_record = play(load("user_oriented"))
    first, last = run_record.rounds[0], run_record.rounds[-1]
    found = [first["peak_kw"], first["par"], last["peak_kw"], last["par"]]
    np.testing.assert_allclose(found, [447.04, 1.377, 433.99, 1.134], rtol=5e-3)


def test_par_falls_and_mean_price_rises_when_mu_grows() -> None:
    calibrated = load("user_oriented").leader.mu
    ends = [
        play(load("user_oriented", [f"leader.mu={factor * calibrated}"])).rounds[-1] for factor in (0.2, 0.6, 1, 1.5, 2)
    ]
    assert np.all(np.diff([end["par"] for end in ends]) < 0)
    assert np.all(np.diff([np.mean(end["price"]) for end in ends]) > 0)


@pytest.mark.parametrize(
    ("most", "start", "appliances"),
    [(69.16, 30.47, [(45, 37), (49, 37)]), (54.38, 25.93, [(43, 11), (42, 41)]), (72.45, 30.3, [(1, 29), (3, 13)])],
)
def test_stackelberg_prices_never_leave_their_bounds(
    most: float, start: float, appliances: list[tuple[float, float]]
) -> None:
    elastic = [{"max_kw": 2.0, "valuation": v, "satisfaction": {"alpha": alpha}} for v, alpha in appliances]
    home = Home.model_validate({"id": "a", "horizon": 2, "inelastic": [{"load_kw": [1.0, 2.0]}], "elastic": elastic})
    problem, unbounded = HomeProblem(home), np.full(2, np.inf)
    climb = HillClimb(UtilityCompany(np.full(2, 5.0), np.zeros(2), -unbounded, unbounded, 0.0, most))
    price: np.ndarray | None = np.full(2, start)
    for _ in range(20):
        schedule = problem.answer(price)
        price = climb.step(Observation(price, schedule.load, schedule.slope, np.zeros((2, 2)), homes=1))
        if price is None:
            break
        assert np.all(price <= most)
