"""Deferrable runs: the best start, how a run of the game still settles, and what is reported of it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from support.random_devices import draw_home

import stackelgrid
from stackelgrid.calendar import Session
from stackelgrid.certify import CertificateError
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.games.user_oriented.certificate import certify
from stackelgrid.games.user_oriented.home import Home, HomeProblem, InfeasibleHomeError, UserOrientedHomes, pose_problem
from stackelgrid.games.user_oriented.home.start_choice import StartChoice
from stackelgrid.games.user_oriented.messages import Price
from stackelgrid.games.user_oriented.outcome import schedule_appliances
from stackelgrid.games.user_oriented.reference.start_search import find_best_utility
from stackelgrid.runner import Run
from stackelgrid.wire.arrays import PackedArray

WASHING = {"name": "washing machine", "earliest": 2, "latest": 6, "shape_kw": [2.0, 0.5]}


def home(slots: int = 8, **has: Any) -> Home:
    return Home.model_validate({"id": "h", "horizon": slots, "deferrable": [WASHING], **has})


def starts_at(problem: StartChoice, price: Any) -> list[int | None]:
    problem.choose(np.array(price, float))
    return list(problem.answer(np.array(price, float)).starts)


# --- the best start ---


def test_run_begins_where_it_costs_least() -> None:
    price = np.array([1.0, 9, 4, 9, 3, 8, 1, 1])
    problem = pose_problem(home(inelastic=[{"load_kw": [0.5] * 8}], slot_hours=0.5))
    schedule = problem.answer(price)
    # 2 p_s + p_(s+1) / 2 is 20, 12.5, 19.5, 10 and 16.5 for s = 2..6.
    assert schedule.starts == (5,)
    np.testing.assert_array_equal(schedule.load, [0.5, 0.5, 0.5, 0.5, 2.5, 1, 0.5, 0.5])
    assert problem.summarize(schedule)["bill"] == pytest.approx(0.5 * (0.5 * price.sum() + 10))


def test_run_begins_as_early_as_it_may_at_a_flat_price() -> None:
    assert pose_problem(home()).answer(np.full(8, 7.0)).starts == (2,)


def test_run_begins_where_the_connection_carries_it() -> None:
    busy = home(inelastic=[{"load_kw": [0, 0, 0, 0, 2, 2, 0, 0]}], draw_limit={"max_kw": 3.0})
    assert pose_problem(busy).answer(np.array([1.0, 9, 4, 9, 3, 8, 1, 1])).starts == (3,)
    with pytest.raises(InfeasibleHomeError, match="widen draw_limit"):
        pose_problem(home(draw_limit={"max_kw": 1.0}))


def test_run_begins_in_the_sun_that_feeds_in_for_less() -> None:
    """At noon 2 kW are there, fed in at 1: the run costs less there than at the lowest price."""
    sunny = home(pv=[{"available_kw": [0, 0, 0, 2, 2, 0, 0, 0]}], connection={"feed_in_kw": 5.0}, feed_in_price=1.0)
    assert pose_problem(sunny).answer(np.array([5.0, 3, 3, 9, 9, 5, 5, 5])).starts == (4,)


@pytest.mark.parametrize("seed", range(4))
def test_start_is_the_best_of_all(seed: int) -> None:
    random = np.random.default_rng(seed)
    drawn = draw_home(random, 24).model_dump()
    runs = [
        {"earliest": 5, "latest": 14, "shape_kw": [2.0, 0.5, 1.0]},
        {"earliest": 18, "latest": 21, "shape_kw": [1.0]},
    ]
    price = random.uniform(5, 40, 24)
    one = Home.model_validate(drawn | {"deferrable": runs})
    problem = pose_problem(one)
    found = problem.summarize(problem.answer(price))["utility"]
    reached = []
    for starts in product(range(5, 15), range(18, 22)):
        try:
            fixed = HomeProblem(one.at_starts(starts))
        except InfeasibleHomeError:
            continue
        reached.append(fixed.summarize(fixed.answer(price))["utility"])
    assert found == pytest.approx(max(reached), rel=1e-9, abs=1e-9)


def test_choices_that_are_too_many_are_refused_where_they_matter_to_each_other() -> None:
    runs = [{"earliest": 1, "latest": 20, "shape_kw": [1.0]}] * 3
    many = Home.model_validate({"id": "h", "deferrable": runs})
    assert pose_problem(many).answer(np.arange(24.0)).starts == (1, 1, 1)
    with pytest.raises(InfeasibleHomeError, match="deferrable has 8000 choices of starts, at most 4096"):
        pose_problem(Home.model_validate({"id": "h", "deferrable": runs, "draw_limit": {"max_kw": 9.0}}))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"earliest": 7, "latest": 6}, "earliest 7 is after latest 6; swap them"),
        ({"latest": 8}, "deferrable.0.latest 8: its 2 slots then end with slot 9, the slots are 1..8"),
        ({"shape_kw": []}, "shape_kw"),
        ({"shape_kw": [1.0, -1.0]}, "shape_kw"),
    ],
)
def test_run_that_cannot_be_is_refused_with_its_key(run: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        home(deferrable=[{**WASHING, **run}])
    (error,) = refused.value.errors()
    assert message in f"{error['loc']} {error['msg']}"


# --- starts are kept ---


def flat_but(**cheap: float) -> list[float]:
    """A price of 10 in all slots but those named, `s5=9.0` for slot 5."""
    return [cheap.get(f"s{slot}", 10.0) for slot in range(1, 9)]


def test_start_is_kept_unless_another_gains_more_than_the_share() -> None:
    problem = StartChoice(home(start_changes={"least_gain": 0.02, "at_most": 2}))
    assert starts_at(problem, flat_but()) == [2]  # costs 25
    assert starts_at(problem, flat_but(s5=9.76)) == [2]  # 0.48 less
    assert starts_at(problem, flat_but(s5=9.74)) == [5]  # 0.52 less
    assert starts_at(problem, flat_but(s3=9.0)) == [3]
    assert problem.changes == 2
    assert starts_at(problem, flat_but(s5=1.0)) == [3]


def test_all_prices_of_a_question_are_answered_with_the_same_starts() -> None:
    homes = UserOrientedHomes([home()])
    question = Price.model_validate({"price": flat_but(s5=5.0)})
    first = homes.answer(question)
    assert (np.argmax(first.loads()[0]) + 1, first.starts_changed) == (5, 0)
    both = question.model_copy(update={"others": PackedArray.of(np.array([flat_but(s3=1.0)]))})
    other = homes.answer(both).at_each_price()[1]
    assert np.argmax(other.loads[0]) + 1 == 5


def test_restart_keeps_the_starts() -> None:
    prices = [Price(price=flat_but(**{f"s{slot}": 5.0})) for slot in (2, 5, 3, 4, 2, 5, 3, 4)]
    going_on, restarted = UserOrientedHomes([home()]), UserOrientedHomes([home()])
    for price in prices:
        expected = going_on.answer(price)
        memory = json.loads(json.dumps(restarted.remember()))
        restarted = UserOrientedHomes([home()])
        restarted.recall(memory)
        assert restarted.answer(price) == expected
    assert expected.starts_changed == 5
    assert restarted.settle(prices[0])["h"]["starts"] == going_on.settle(prices[0])["h"]["starts"] == [5]
    assert UserOrientedHomes([home(deferrable=[])]).remember() is None


# --- a run of the game ---


@functools.cache
def played() -> Run:
    return stackelgrid.run(scenario())


def scenario(most: int = 5, least_gain: float = 0.01) -> dict[str, Any]:
    """Two homes whose runs are most of the load: wherever both are, the marginal cost makes another slot cheaper."""
    hours = np.arange(12)
    return {
        "schema": 1,
        "game": "user_oriented",
        "seed": 1,
        "aggregators": 1,
        "slots": 12,
        "leader": {
            "objective": "welfare",
            "baseline_price": 9,
            "wholesale_price": (5 + np.sin(hours / 2)).tolist(),
            "mu": 5,
            "max_rounds": 15,
            "price_max": 30,
        },
        "homes": [
            {
                "id": f"h{number}",
                "horizon": 12,
                "inelastic": [{"load_kw": [0.5] * 12}],
                "elastic": [{"max_kw": 2.0, "valuation": 14.0, "satisfaction": {"alpha": 3.0 + number}}],
                "deferrable": [{**WASHING, "earliest": 3, "latest": 10}],
                "start_changes": {"at_most": most, "least_gain": least_gain},
            }
            for number in range(2)
        ],
    }


def test_run_settles_where_best_starts_have_no_equilibrium() -> None:
    cycling = stackelgrid.run(scenario(most=20, least_gain=0.0))
    assert not cycling.settled
    run = played()
    assert run.settled
    certificate = run.certify().root
    assert certificate["max_regret"] < 1e-6
    assert certificate["gap"] < 1e-6
    assert certificate["price_residual"] < 1e-6
    assert certificate["balance_residual"] < 1e-9


@pytest.mark.parametrize("number", [2, 4])
def test_home_that_restarts_in_a_run_keeps_its_starts(number: int) -> None:
    crash = {"kind": "crash", "node": "h0", "at": {"round": number}, "restart_after_s": 1}
    run = stackelgrid.run(scenario(), faults=FaultPlan.model_validate({"faults": [crash]}))
    assert run.settled
    assert [fault.kind for fault in run.faults][:2] == ["crash", "restart"]
    assert run.outcome == played().outcome


def gain_of_other_starts(run: Run) -> float:
    """What both homes would gain by the best of all starts, from the closed form of a run that nothing couples."""
    price = np.array(run.outcome.price)
    costs = [2 * price[start - 1] + price[start] / 2 for start in range(3, 11)]
    return float(sum(costs[settled.starts[0] - 3] - min(costs) for settled in run.outcome.homes.values()))


def test_certificate_reports_what_other_starts_would_gain() -> None:
    run = played()
    expected = gain_of_other_starts(run)
    assert expected > 0.1
    certificate = run.certify().root
    assert certificate["integrality_money"] == pytest.approx(expected, rel=1e-6)
    assert certificate["integrality_gap"] == pytest.approx(
        expected / abs(sum(settled.utility for settled in run.outcome.homes.values())), rel=1e-6
    )


def test_certificate_refuses_starts_that_are_not_allowed() -> None:
    run = played()
    homes = dict(run.outcome.homes)
    homes["h0"] = homes["h0"].model_copy(update={"starts": [12]})
    with pytest.raises(CertificateError, match=r"homes\.h0\.starts \[12\]"):
        certify(run.scenario, run.outcome.model_copy(update={"homes": homes}), 10)


def test_reference_finds_the_best_of_all_starts() -> None:
    random = np.random.default_rng(3)
    drawn = draw_home(random, 24, quadratic=True).model_dump()
    one = Home.model_validate(drawn | {"deferrable": [{"earliest": 7, "latest": 16, "shape_kw": [2.0, 1.0]}]})
    price = random.uniform(5, 40, 24)
    problems = [HomeProblem(one.at_starts((start,))) for start in range(7, 17)]
    reached = [problem.summarize(problem.answer(price))["utility"] for problem in problems]
    assert find_best_utility(one, price, min(reached)) == pytest.approx(max(reached), rel=1e-6)


def test_run_is_among_the_appliances_at_its_start() -> None:
    run = played()
    for each in run.scenario.everyone:
        settled = run.outcome.homes[each.id]
        appliances = schedule_appliances(each, run.outcome.price, settled.starts)
        np.testing.assert_allclose(np.sum([one.load_kw for one in appliances], axis=0), settled.load_kw, atol=1e-9)
        (washing,) = (one for one in appliances if one.kind == "deferrable")
        assert washing.name == "washing machine"
        assert np.flatnonzero(washing.load_kw).tolist() == [settled.starts[0] - 1, settled.starts[0]]


# --- session by session ---


def in_session(one: Home, number: int, first: int, slots: int, binding: int, state: Any = None) -> tuple[Home, Session]:
    session = Session(slots=slots, number=number, first=first, binding=binding)
    return one.in_session(session, state), session


def test_run_that_has_begun_goes_on_in_the_next_session() -> None:
    whole = home(24, deferrable=[{**WASHING, "shape_kw": [2.0, 0.5, 1.0]}])
    one, first = in_session(whole, 1, 0, 12, 6)
    problem = pose_problem(one)
    schedule = problem.answer(np.where(np.arange(12) == 5, 1.0, 9.0))
    assert schedule.starts == (6,)
    state = json.loads(json.dumps(one.advance(first, problem.summarize(schedule))))
    other, second = in_session(whole, 2, 6, 12, 6, state)
    problem = pose_problem(other)
    schedule = problem.answer(np.arange(12.0, 0, -1))
    np.testing.assert_array_equal(schedule.load, [0.5, 1.0, *[0.0] * 10])
    state = other.advance(second, problem.summarize(schedule))
    last, _ = in_session(whole, 3, 12, 12, 6, state)
    assert not pose_problem(last).answer(np.ones(12)).load.any()


def test_run_that_has_not_begun_is_chosen_anew() -> None:
    whole = home(24, deferrable=[{**WASHING, "latest": 20}])
    one, first = in_session(whole, 1, 0, 12, 6)
    problem = pose_problem(one)
    schedule = problem.answer(np.where(np.arange(12) == 8, 1.0, 9.0))
    assert schedule.starts == (9,)
    other, _ = in_session(whole, 2, 6, 12, 6, one.advance(first, problem.summarize(schedule)))
    # In the slots 7..18 of the run it may begin in slot 7 at the earliest, and ends within the horizon.
    assert other.deferrable[0].starts == list(range(1, 12))


def test_run_that_does_not_fit_into_a_horizon_is_left_for_the_next() -> None:
    whole = home(24, deferrable=[{**WASHING, "earliest": 12, "latest": 16}])
    one, first = in_session(whole, 1, 0, 12, 12)
    problem = pose_problem(one)
    account = problem.summarize(problem.answer(np.ones(12)))
    assert account["starts"] == [None]
    assert not any(account["load_kw"])
    other, _ = in_session(whole, 2, 12, 12, 12, one.advance(first, account))
    assert other.deferrable[0].starts == [1, 2, 3, 4]


def test_run_that_fits_into_no_horizon_begins_as_early_as_it_may() -> None:
    whole = home(24, deferrable=[{**WASHING, "earliest": 12, "latest": 12}])
    one, first = in_session(whole, 1, 0, 12, 12)
    problem = pose_problem(one)
    account = problem.summarize(problem.answer(np.ones(12)))
    assert (account["starts"], account["load_kw"][-1]) == ([12], 2.0)
    other, _ = in_session(whole, 2, 12, 12, 12, one.advance(first, account))
    assert pose_problem(other).answer(np.ones(12)).load.tolist() == [0.5, *[0.0] * 11]


def test_dated_run_draws_each_shape_once() -> None:
    """Two days, planning again every six hours, a run a day: energy is what both shapes take."""
    dated = scenario()
    slots = 47  # the clocks change
    dated["calendar"] = {"start": "2026-03-28T00:00", "timezone": "Europe/Brussels", "days": 2, "every": "6h"}
    del dated["slots"]
    dated["leader"]["wholesale_price"] = (5 + np.sin(np.arange(slots) / 2)).tolist()
    runs = [{**WASHING, "earliest": first, "latest": first + 12} for first in (5, 29)]
    for each in dated["homes"]:
        each |= {"inelastic": [{"load_kw": [0.5] * slots}], "elastic": [], "deferrable": runs}
        del each["horizon"]
    dated["homes"][1]["elastic"] = scenario()["homes"][1]["elastic"]
    run = stackelgrid.run(dated)
    assert run.settled
    drawn = [
        load
        for session, played in zip(run.scenario.sessions, run.result.sessions, strict=True)
        for load in played.outcome.homes["h0"].load_kw[: session.binding]
    ]
    assert sum(drawn) == pytest.approx(0.5 * slots + 2 * 2.5)
    assert sorted(np.round(np.array(drawn) - 0.5, 9)[np.array(drawn) > 0.6]) == [0.5, 0.5, 2.0, 2.0]
