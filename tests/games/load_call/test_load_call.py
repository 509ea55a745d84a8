"""The load call game: the paper's figures, KKT conditions, independent optima, the rounds and their limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import minimize_scalar

from stackelgrid.calendar import Session
from stackelgrid.certify import CertificateError
from stackelgrid.games.load_call.aggregator import AggregatorTerms, LoadCallAggregator, LoadCallSettings, solve_calls
from stackelgrid.games.load_call.certificate import certify, find_yhat, solve_mpcc, solve_planner
from stackelgrid.games.load_call.home import Consumer, LoadCallHomes
from stackelgrid.games.load_call.leader import UtilitySettings
from stackelgrid.games.load_call.messages import Call, Mission, MissionReport, Shift
from stackelgrid.games.load_call.outcome import LoadCallOutcome
from stackelgrid.games.load_call.scenario import LoadCallScenario
from stackelgrid.rounds.strategy import Ask, Reply
from stackelgrid.scenarios import ScenarioError, load
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.in_memory import play
from stackelgrid.transport.base import Publish
from stackelgrid.transport.memory import MemoryTransport
from stackelgrid.wire.arrays import PackedArray

BASELINE = [90, 800, 80, 115, 95, 105, 118, 112, 110, 100]
SAVING = 5.7982 - 2.6369 + 1


def shipped(*overrides: str) -> LoadCallScenario:
    scenario = load("load_call", list(overrides))
    assert isinstance(scenario, LoadCallScenario)
    return scenario


def outcome_of(scenario: LoadCallScenario) -> LoadCallOutcome:
    run_record = play(scenario)
    assert run_record.settled
    assert not run_record.failures
    return LoadCallOutcome.of(scenario, run_record)


# --- the paper's figures ---


def test_outcome_at_target_800_is_as_printed() -> None:
    outcome = outcome_of(shipped())
    calls, shifted = outcome.calls_kwh, outcome.shifted_kwh
    assert [name for name, call in calls.items() if f"{call:.2f}" == "52.43"] == ["c1", "c3", "c4", "c5", "c8", "c10"]
    assert f"{calls['c2']:.2f}" == "152.43"
    assert f"{outcome.success_rate:.1%}" == "84.0%"
    assert f"{shifted['c1']:.2f}" == "7.55"
    assert {name for name in calls if shifted[name] == calls[name]} == {"c2", "c6", "c7", "c9"}  # who complies in full


def test_calls_of_full_and_partial_compliers_differ_by_commission_over_twice_fairness() -> None:
    calls = outcome_of(shipped()).calls_kwh
    assert calls["c2"] - calls["c1"] == pytest.approx(1 / (2 * 0.005), rel=1e-12)


def test_outcome_at_target_1500_is_as_printed() -> None:
    outcome = outcome_of(shipped("leader.target_kwh=1500"))
    assert f"{outcome.success_rate:.1%}" == "73.0%"
    assert max(outcome.rewards, key=outcome.rewards.get) == "c2"


def test_calls_are_equal_when_coefficients_are_small() -> None:
    easy = [f"homes.{number}.alpha=0.001" for number in range(10)]
    outcome = outcome_of(shipped(*easy))
    assert list(outcome.calls_kwh.values()) == [80.0] * 10
    assert outcome.success_rate == 1.0


def test_calls_concentrate_on_the_large_consumer_when_fairness_falls() -> None:
    """Of 1,500 kWh the others can be called for 925, so the large one is called for 575 however dear unfairness is."""
    weights = [0.05, 0.005, 0.0015, 0.001, 0.0009, 0.0008, 0.0007]
    outcomes = [outcome_of(shipped("leader.target_kwh=1500", f"aggregator.fairness={weight}")) for weight in weights]
    deviations = [outcome.squared_deviation for outcome in outcomes]
    large = [outcome.calls_kwh["c2"] for outcome in outcomes]
    assert large[:3] == pytest.approx([575] * 3)
    assert deviations[:3] == pytest.approx([deviations[0]] * 3)
    assert np.all(np.diff(deviations[2:]) > 0)
    assert np.all(np.diff(large[2:]) > 0)


def test_calls_no_longer_change_when_fairness_is_below_the_limit() -> None:
    """From lambda = kappa / (2 max d) down the calls no longer depend on lambda."""
    limit = 1 / (2 * 800)
    at, below = (
        outcome_of(shipped("leader.target_kwh=1500", f"aggregator.fairness={weight!r}")).calls_kwh
        for weight in (limit, limit * 1e-9)
    )
    assert at["c2"] == 800
    assert below == at


def test_certificate_of_the_shipped_case_holds() -> None:
    scenario = shipped()
    certificate = certify(scenario, outcome_of(scenario), samples=0)
    assert abs(certificate["gap"]) < 1e-10
    assert certificate["max_regret"] < 1e-10
    assert certificate["feasible"]
    assert certificate["violation"] < 1e-9
    assert certificate["call_distance"] < 1e-6
    assert certificate["shift_residual"] < 1e-5
    assert certificate["bill_residual"] == certificate["balance_residual"] == 0
    assert certificate["mpcc"] is None or abs(certificate["mpcc"]["gap"]) < 1e-6  # None without pyscipopt


@pytest.mark.parametrize(
    "override",
    [
        "leader.target_kwh=0",
        "leader.target_kwh=1725",  # all that the baselines come to
        "leader.commission=0",
        "aggregator.reward=0",
        "homes.0.baseline_kwh=0",
        "homes.1.most_kwh=0",
        "homes.3.beta=50",  # would rather not
        "homes_per_process=3",
    ],
)
def test_certificate_holds_when_a_parameter_is_at_its_edge(override: str) -> None:
    scenario = shipped(override)
    certificate = certify(scenario, outcome_of(scenario), samples=0)
    assert abs(certificate["gap"]) < 1e-9
    assert certificate["max_regret"] < 1e-9
    assert certificate["feasible"]
    assert certificate["mpcc"] is None or abs(certificate["mpcc"]["gap"]) < 1e-6


# --- the concave program ---


def kkt_residual(calls: Any, target: float, baseline: Any, limit: Any, spread: float) -> float:
    """How far calls are from a common multiplier nu, in kWh: d/dc [spread min(c, yhat) - c^2 / 2] must allow it."""
    rounding = 1e-9 * max(1.0, target)
    rewarded_right = calls < limit - rounding
    rewarded_left = calls <= limit + rounding
    right = spread * rewarded_right - calls  # what one more kWh brings, where d allows it
    left = spread * rewarded_left - calls  # what the last kWh brought, where there was one
    could_rise, could_fall = calls < baseline - rounding, calls > rounding
    return float(np.max(right[could_rise], initial=-np.inf) - np.min(left[could_fall], initial=np.inf))


consumers = st.lists(
    st.tuples(st.floats(0, 1000), st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))), min_size=1, max_size=12
)


@settings(max_examples=400, deadline=None)
@given(consumers, st.floats(0, 1), st.one_of(st.just(0.0), st.floats(1e-6, 1e9)))
@example([(100.0, 0.5)] * 5, 0.7, 50.0)
@example([(100.0, 0.0), (0.0, 0.0)], 0.0, 50.0)
def test_calls_meet_the_kkt_conditions_of_any_program(
    pairs: list[tuple[float, float]], share: float, spread: float
) -> None:
    baseline = np.array([d for d, _ in pairs])
    limit = baseline * [part for _, part in pairs]
    target = share * float(baseline.sum())
    calls = solve_calls(target, baseline, limit, spread)
    assert calls.sum() == pytest.approx(target, rel=1e-12, abs=1e-9)
    assert np.all((calls >= 0) & (calls <= baseline))
    assert kkt_residual(calls, target, baseline, limit, spread) <= 1e-7 * max(1.0, target)


def test_calls_are_the_baselines_when_the_target_is_beyond_them() -> None:
    baseline = np.array([1.0, 2.0, 3.0])
    assert solve_calls(7.0, baseline, baseline / 2, 1.0).tolist() == baseline.tolist()


# --- the distributed game against planners who know everything ---


def drive(
    homes: Sequence[Consumer], leader: UtilitySettings, terms: AggregatorTerms, per_process: int = 1
) -> tuple[Any, MissionReport]:
    """Rounds without nodes: the calls (n,) last made, and the report to the utility."""
    members = {f"m{start}": list(homes[start : start + per_process]) for start in range(0, len(homes), per_process)}
    aggregator = aggregator_of({name: [home.baseline_kwh for home in some] for name, some in members.items()}, terms)
    processes = {name: LoadCallHomes(some) for name, some in members.items()}
    step: Ask | Reply = aggregator.open(mission_of(leader))
    while isinstance(step, Ask):
        assert isinstance(step.body, Mapping)
        asked = step.body
        step = aggregator.on_answers(asked, {name: who.answer(asked[name]) for name, who in processes.items()}, [], [])
    assert isinstance(step.body, MissionReport)
    return np.concatenate([asked[name].to_array() for name in processes]), step.body  # type: ignore[attr-defined]


def aggregator_of(baseline: Mapping[str, list[float]], terms: AggregatorTerms) -> LoadCallAggregator:
    own_settings = LoadCallSettings(fairness=terms.fairness, reward=terms.reward, baseline_kwh=dict(baseline))
    return own_settings.strategy(Session(1), {name: len(numbers) for name, numbers in baseline.items()})


def mission_of(leader: UtilitySettings) -> Mission:
    mission = leader.strategy(Session(1)).open().ask
    assert isinstance(mission, Mission)
    return mission


def draw_game(number: int, count: int) -> tuple[list[Consumer], UtilitySettings, AggregatorTerms]:
    """A random game: a large consumer, some who would shift everything, some nothing, any target and fairness."""
    random = np.random.default_rng([4, number])
    baseline = random.uniform(80, 150, count)
    baseline[0] = random.choice([100, 800])
    would = baseline * random.uniform(0.01, 1.6, count)
    beta = np.where(random.random(count) < 0.1, 2 * SAVING, random.uniform(0, 1, count))
    most = [float(0.7 * d) if random.random() < 0.2 else None for d in baseline]
    homes = [
        Consumer(
            id=f"c{i}",
            baseline_kwh=baseline[i],
            alpha=float(abs(SAVING - beta[i]) / (2 * would[i])),
            beta=float(beta[i]),
            most_kwh=most[i],
        )
        for i in range(count)
    ]
    target = float(baseline.sum() * random.uniform(0.05, 0.98))
    leader = UtilitySettings(target_kwh=target, peak_price=5.7982, off_peak_price=2.6369)
    return homes, leader, AggregatorTerms(fairness=float(10 ** random.uniform(-4, -1.5)), reward=1)


def utility(report: MissionReport, terms: AggregatorTerms) -> float:
    return report.shifted_kwh - terms.fairness * report.squared_deviation


def test_distributed_optimum_is_that_of_the_papers_single_level_program() -> None:
    """77 games of 2 to 12 consumers against the MPCC in SCIP; relative to the commission that is at stake."""
    pytest.importorskip("pyscipopt")
    for number in range(77):
        homes, leader, terms = draw_game(number, 2 + number % 11)
        calls, report = drive(homes, leader, terms)
        reference = solve_mpcc(homes, leader, terms)
        error = abs(utility(report, terms) - reference.utility)
        assert error < 1e-6 * leader.target_kwh, number
        # Strong concavity: whoever is within `error` of the optimum is within this of the calls (SCIP's own 1e-6 too).
        assert terms.fairness * np.sum((calls - reference.calls) ** 2) <= error + 2e-6 * leader.target_kwh
        assert report.gap == 0
        assert report.call_rounds <= len(homes) + 1


@pytest.mark.parametrize(("count", "games"), [(3, 40), (10, 50), (30, 50), (100, 40), (300, 15), (1000, 5)])
def test_distributed_optimum_is_that_of_the_planner(count: int, games: int) -> None:
    """200 games of up to 1,000 consumers against the concave program that knows every yhat, in Clarabel."""
    for number in range(games):
        homes, leader, terms = draw_game(1000 * count + number, count)
        calls, report = drive(homes, leader, terms, per_process=max(1, count // 20))
        reference = solve_planner(homes, leader, terms)
        assert utility(report, terms) == pytest.approx(reference.utility, rel=1e-6, abs=1e-6)
        assert terms.fairness * np.sum((calls - reference.calls) ** 2) <= 1e-6 * max(1, abs(reference.utility))
        assert report.called_kwh == pytest.approx(leader.target_kwh, rel=1e-12)
        assert report.gap == 0
        assert report.call_rounds <= 6


def test_aggregator_needs_n_plus_1_rounds_when_each_round_shows_one_limit() -> None:
    """Each consumer but the last few per mille complies with what the ones before were called for, and no more."""
    n, target, short = 6, 600.0, 0.5
    limits: list[float] = []
    for k in range(n):
        call = (target - sum(limits)) / (n - k)
        limits.append(call * (1 - short))
        short /= 2 * (n - k)
    homes = [Consumer(id=f"c{i}", baseline_kwh=500, alpha=(SAVING / 2) / y, beta=0) for i, y in enumerate(limits)]
    leader = UtilitySettings(target_kwh=target, peak_price=5.7982, off_peak_price=2.6369)
    calls, report = drive(homes, leader, AggregatorTerms(fairness=1e-4, reward=1))
    assert report.call_rounds == n + 1
    assert report.gap == 0
    assert calls.sum() == pytest.approx(target)


def test_upper_bound_falls_to_the_optimum() -> None:
    """Utility plus gap of every round is an upper bound of the optimum, and falls to it."""
    scenario = shipped("leader.target_kwh=1500", "aggregator.fairness=0.001")
    run_record = play(scenario)
    bounds = [record["utility"] + record["gap"] for record in run_record.aggregator_rounds]
    optimum = solve_planner(scenario.everyone, scenario.leader, scenario.aggregator).utility
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == pytest.approx(optimum, rel=1e-9)


# --- the consumer ---


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0, 1000),
    st.floats(1e-3, 10),
    st.floats(0, 10),
    st.one_of(st.none(), st.floats(0, 1000)),
    st.floats(0, 1000),
    st.floats(-5, 10),
)
def test_consumer_shifts_what_costs_it_least(
    baseline: float, alpha: float, beta: float, most: float | None, called: float, off_peak: float
) -> None:
    called = min(called, baseline)
    home = Consumer(id="c", baseline_kwh=baseline, alpha=alpha, beta=beta, most_kwh=most)
    call = Call(call_kwh=[called], peak_price=5.0, off_peak_price=off_peak, reward=1.0)
    account = LoadCallHomes([home]).settle(call)["c"]

    def cost(y: float) -> float:
        return 5.0 * (baseline - y) + off_peak * y + alpha * y**2 + beta * y - 1.0 * y

    ceiling = called if most is None else min(called, most)
    found = minimize_scalar(cost, bounds=(0, ceiling), method="bounded", options={"xatol": 1e-9})
    assert 0 <= account["shifted_kwh"] <= ceiling
    assert account["cost"] <= min(found.fun, cost(0), cost(ceiling)) + 1e-9 * (1 + abs(found.fun))
    assert account["cost"] == pytest.approx(
        account["bill"] - account["reward"] + alpha * account["shifted_kwh"] ** 2 + beta * account["shifted_kwh"]
    )
    assert find_yhat(home, 5.0 - off_peak + 1.0) == pytest.approx(home.solve_yhat(5.0 - off_peak + 1.0), abs=1e-8)


def test_consumers_shift_nothing_when_the_call_is_for_another_number_of_homes() -> None:
    homes = LoadCallHomes([Consumer(id=f"c{i}", baseline_kwh=10, alpha=0.01) for i in range(3)])
    call = Call(call_kwh=[5.0], peak_price=5.0, off_peak_price=1.0, reward=1.0)
    assert homes.answer(call).to_array().tolist() == [0, 0, 0]
    assert [account["call_kwh"] for account in homes.settle(call).values()] == [0, 0, 0]


# --- whatever members do ---


def shift(*kwh: float) -> Shift:
    return Shift(homes=len(kwh), shifted_kwh=PackedArray.of(np.array(kwh)[:, None]) if len(kwh) > 1 else list(kwh))


def three(target: float = 150.0) -> tuple[LoadCallAggregator, Ask]:
    aggregator = aggregator_of(
        {"m1": [100.0], "m2": [100.0], "m3": [100.0, 100.0]}, AggregatorTerms(fairness=0.005, reward=1)
    )
    return aggregator, aggregator.open(Mission(target_kwh=target, peak_price=5.0, off_peak_price=2.0, commission=1.0))


def test_aggregator_calls_the_others_for_more_when_a_member_is_excluded() -> None:
    aggregator, asked = three()
    step = aggregator.on_answers(asked.body, {"m1": shift(37.5), "m2": shift(37.5)}, [], ["m3"])
    assert isinstance(step, Ask)
    assert isinstance(step.body, Mapping)
    assert {name: body.to_array().tolist() for name, body in step.body.items()} == {  # type: ignore[attr-defined]
        "m1": [75.0],
        "m2": [75.0],
        "m3": [0.0, 0.0],
    }
    step = aggregator.on_answers(step.body, {"m1": shift(75.0), "m2": shift(75.0)}, [], ["m3"])
    assert isinstance(step, Reply)
    assert isinstance(step.body, MissionReport)
    assert (step.body.excluded, step.body.homes, step.body.fresh, step.body.gap) == (2, 2, False, 0)
    assert step.body.called_kwh == pytest.approx(150)
    # Given anew, the mission calls everybody again.
    again = aggregator.open(Mission(target_kwh=150.0, peak_price=5.0, off_peak_price=2.0, commission=1.0))
    assert again.body["m3"].to_array().tolist() == [37.5, 37.5]  # type: ignore[index]


def test_report_says_what_is_called_when_the_others_cannot_reach_the_target() -> None:
    aggregator, asked = three(target=350.0)
    step = aggregator.on_answers(asked.body, {"m1": shift(87.5), "m2": shift(87.5)}, [], ["m3"])
    step = aggregator.on_answers(step.body, {"m1": shift(100.0), "m2": shift(100.0)}, [], ["m3"])
    assert isinstance(step, Reply)
    assert isinstance(step.body, MissionReport)
    assert (step.body.called_kwh, step.body.shifted_kwh) == (200, 200)


def test_aggregator_learns_no_limit_from_a_held_answer() -> None:
    aggregator, asked = three()
    first = {"m1": shift(10.0), "m2": shift(37.5), "m3": shift(37.5, 37.5)}
    step = aggregator.on_answers(asked.body, first, [], [])
    assert isinstance(step, Ask)
    # c2 is called for more now; its answer of 37.5 is of the round before and no sign of unwillingness.
    more = {name: Shift(homes=body.homes, shifted_kwh=body.shifted_kwh) for name, body in first.items()}
    calls = step.body["m3"].to_array()  # type: ignore[index]
    assert calls[0] > 37.5
    more["m3"] = shift(*calls.tolist())
    step = aggregator.on_answers(step.body, more, ["m2"], [])
    assert isinstance(step, Reply)
    assert isinstance(step.body, MissionReport)
    assert (step.body.held, step.body.fresh) == (1, False)
    assert step.body.gap == pytest.approx(calls[0] - 37.5)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8))
def test_rounds_are_bounded_whatever_is_answered(seed: int, n: int) -> None:
    """Answers above the call, ones that change from round to round, members that come and go."""
    random = np.random.default_rng(seed)
    names = [f"m{i}" for i in range(n)]
    aggregator = aggregator_of({name: [100.0] for name in names}, AggregatorTerms(fairness=0.001, reward=1))
    step: Ask | Reply = aggregator.open(Mission(target_kwh=60.0 * n, peak_price=5, off_peak_price=2, commission=1))
    excluded_before: set[str] = set()
    rounds = 0
    while isinstance(step, Ask):
        rounds += 1
        excluded = [name for name in names if random.random() < 0.1]
        held = [name for name in names if name not in excluded and random.random() < 0.1]
        excluded_before.update(excluded)
        answers = {name: shift(random.choice([0.0, 1e12, 200 * random.random()])) for name in names}
        step = aggregator.on_answers(step.body, {k: v for k, v in answers.items() if k not in excluded}, held, excluded)
        assert rounds <= n + 1 + len(excluded_before)
    assert isinstance(step.body, MissionReport)
    MissionReport.model_validate_json(step.body.model_dump_json())
    assert step.body.shifted_kwh <= step.body.called_kwh <= 60.0 * n * (1 + 1e-12)


def test_settlement_calls_nobody_when_nobody_answered_the_mission() -> None:
    aggregator, _ = three()
    leader = UtilitySettings(target_kwh=150, peak_price=5, off_peak_price=2).strategy(Session(1))
    settlement = leader.open().settlement
    assert isinstance(settlement, Mission)
    ending = aggregator.settle(settlement)
    assert isinstance(ending.body, Mapping)
    assert all(not body.to_array().any() for body in ending.body.values())  # type: ignore[attr-defined]


def test_outcome_calls_nobody_when_the_target_is_zero() -> None:
    outcome = outcome_of(shipped("leader.target_kwh=0"))
    assert set(outcome.calls_kwh.values()) == {0.0}
    assert outcome.bills == outcome.baseline_bills
    assert outcome.success_rate == 1


def test_consumer_is_not_called_when_its_answers_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """c3 answers in vain: the others are called for the whole target, and the settlement says that it is incomplete."""

    class Mute(MemoryTransport):
        def delays(self, sender: str, receiver: str, publish: Publish, now: float) -> Sequence[float]:
            return () if sender == "c3" else super().delays(sender, receiver, publish, now)

    monkeypatch.setattr(in_memory, "MemoryTransport", Mute)
    scenario = shipped("rounds.missing=exclude", "rounds.deadline_s=1", "rounds.gather_s=2")
    run_record = play(scenario)
    outcome = LoadCallOutcome.of(scenario, run_record)
    assert not run_record.failures
    assert run_record.settled
    assert not run_record.conclusion["complete"]
    assert {entry["node"] for entry in run_record.missing} == {"c3"}
    assert outcome.calls_kwh["c3"] == outcome.shifted_kwh["c3"] == 0
    assert sum(outcome.calls_kwh.values()) == pytest.approx(800)
    assert outcome.achieved_kwh == pytest.approx(sum(outcome.shifted_kwh.values()))
    assert certify(scenario, outcome, samples=0)["gap"] > 1e-3  # c3 would have been called


def test_messages_keep_calls_and_shifts_between_consumer_and_aggregator(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call goes to its consumer alone, what a consumer shifts to the aggregator alone, and sums to the utility."""
    delivered: list[tuple[str, str, dict[str, Any]]] = []

    class Tapped(MemoryTransport):
        def delays(self, sender: str, receiver: str, publish: Publish, now: float) -> Sequence[float]:
            body = json.loads(publish.payload).get("body") if publish.payload else None
            if body is not None:
                delivered.append((publish.topic.split("/", 2)[2], receiver, body))
            return super().delays(sender, receiver, publish, now)

    monkeypatch.setattr(in_memory, "MemoryTransport", Tapped)
    play(shipped())
    calls = [(topic, receiver) for topic, receiver, body in delivered if "call_kwh" in body]
    assert len(calls) == 30  # two rounds and the settlement, ten consumers
    assert all(topic in (f"a1/{receiver}/signal", f"a1/{receiver}/settlement") for topic, receiver in calls)
    assert {receiver for _, receiver, body in delivered if set(body) == {"homes", "shifted_kwh"}} == {"a1"}
    to_leader = [body for _, receiver, body in delivered if receiver == "leader"]
    assert all(set(body) == set(MissionReport.model_fields) for body in to_leader)
    assert {name for *_, body in delivered for name in body} == {
        name for model in (Mission, MissionReport, Call, Shift) for name in model.model_fields
    }


# --- many ---


def test_game_of_two_thousand_consumers_settles_within_six_rounds() -> None:
    scenario = LoadCallScenario.model_validate(
        {
            "game": "load_call",
            "money": "THB",
            "leader": {"target_kwh": 160_000, "peak_price": 5.7982, "off_peak_price": 2.6369},
            "aggregator": {"fairness": 0.005, "reward": 1},
            "homes_per_process": 50,
            "population": {
                "homes": 2000,
                "alpha": [0.01, 0.1],
                "beta": [0.2, 0.8],
                "large": {"baseline_kwh": 800, "alpha": 0.002},
            },
        }
    )
    scenario.verify()
    run_record = play(scenario)
    outcome = LoadCallOutcome.of(scenario, run_record)
    assert run_record.settled
    assert outcome.call_rounds <= 6
    certificate = certify(scenario, outcome, samples=0)
    assert abs(certificate["gap"]) < 1e-8
    assert certificate["max_regret"] < 1e-8
    assert certificate["feasible"]
    assert certificate["mpcc"] is None


def test_consumer_drawn_is_the_same_in_a_larger_population() -> None:
    few, many = (
        LoadCallScenario.model_validate(
            {
                "game": "load_call",
                "seed": 7,
                "leader": {"target_kwh": 100, "peak_price": 5, "off_peak_price": 2},
                "aggregator": {"fairness": 0.005, "reward": 1},
                "population": {"homes": count, "alpha": [0.01, 0.1], "beta": [0.2, 0.8]},
            }
        ).everyone
        for count in (9, 90)
    )
    assert [home.model_dump(exclude={"id"}) for home in few] == [h.model_dump(exclude={"id"}) for h in many[:9]]
    assert len({home.alpha for home in many}) == 90


# --- refusals ---


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("aggregator.fairness=0", "aggregator.fairness: must be above 0: at 0 the best calls are not unique"),
        ("leader.target_kwh=1725.5", "leader.target_kwh: 1725.5 is above the 1725 kWh"),
        ("aggregators=2", "aggregators: 2; in this game one aggregator calls everybody, set it to 1"),
        ("slots=24", "the horizon has 24 slots; set slots to 1"),
        ("leader.peak_price=1", "peak_price 1 is below off_peak_price 2.6369; swap them"),
        ("homes.0.alpha=0", "homes.0.alpha"),
        ("population.homes=3", "population.alpha"),
        ("homes.1.id=c1", "homes.1.id: 'c1' is there twice"),
    ],
)
def test_scenario_is_refused_when_it_cannot_be_played(override: str, message: str) -> None:
    with pytest.raises(ScenarioError) as refusal:
        shipped(override)
    assert message in str(refusal.value)


def test_aggregator_settings_are_refused_when_baselines_are_not_of_the_members() -> None:
    own_settings = LoadCallSettings(fairness=1, reward=1, baseline_kwh={"m1": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"settings.baseline_kwh.m1 has 2 numbers, m1 has 1 homes"):
        own_settings.strategy(Session(1), {"m1": 1})
    with pytest.raises(ValueError, match=r"settings.baseline_kwh.m2 has 0 numbers, m2 has 1 homes"):
        own_settings.strategy(Session(1), {"m1": 2, "m2": 1})


@pytest.mark.parametrize(
    "body",
    [
        '{"homes": 2, "shifted_kwh": [1.0]}',
        '{"homes": 1, "shifted_kwh": [-1.0]}',
        '{"homes": 1, "shifted_kwh": [1.0, 2.0]}',
        '{"homes": 1, "shifted_kwh": [NaN]}',
        '{"homes": 1, "shifted_kwh": ' + PackedArray.of(np.array([[-1.0]])).model_dump_json() + "}",
        '{"homes": 1, "shifted_kwh": ' + PackedArray.of(np.array([1.0])).model_dump_json() + "}",
        '{"homes": 1, "shifted_kwh": ' + PackedArray.of(np.array([[1.0, 2.0]])).model_dump_json() + "}",
    ],
)
def test_shift_is_refused_when_its_rows_are_malformed(body: str) -> None:
    with pytest.raises(ValidationError):
        Shift.model_validate_json(body)


# --- the certificate can fail ---


def certify_tampered(change: str) -> dict[str, Any]:
    """The certificate of the shipped case's outcome after a change."""
    scenario = shipped()
    content = outcome_of(scenario).content()
    if change == "unfair calls":
        content["calls_kwh"]["c1"] -= 5
        content["calls_kwh"]["c3"] += 5
    elif change == "target missed":
        content["calls_kwh"]["c2"] -= 1
        content["shifted_kwh"]["c2"] -= 1
    elif change == "lazy consumer":
        content["shifted_kwh"]["c9"] -= 10
    elif change == "overbilled":
        content["bills"]["c4"] += 1
    elif change == "overclaimed":
        content["achieved_kwh"] += 1
    return certify(scenario, LoadCallOutcome.model_validate(content), samples=0)


@pytest.mark.parametrize(
    ("change", "key", "least"),
    [
        ("unfair calls", "gap", 0.005 * 50 / 609),
        ("target missed", "violation", 0.999),
        ("lazy consumer", "max_home_regret", 1e-3),
        ("lazy consumer", "shift_residual", 9.99),
        ("overbilled", "bill_residual", 1e-3),
        ("overclaimed", "balance_residual", 0.99),
    ],
)
def test_certificate_shows_the_error_when_an_outcome_is_tampered_with(change: str, key: str, least: float) -> None:
    certificate = certify_tampered(change)
    assert certificate[key] >= least
    assert certificate["feasible"] == (change != "target missed")


def without(outcome: LoadCallOutcome, consumer: str, *keys: str) -> LoadCallOutcome:
    """The outcome without a consumer in `keys`, or in all that are by consumer."""
    content = outcome.content()
    for key in keys or ("calls_kwh", "shifted_kwh", "rewards", "bills", "baseline_bills"):
        del content[key][consumer]
    return LoadCallOutcome.model_validate(content)


def test_certificate_is_refused_when_a_home_did_not_settle() -> None:
    scenario = shipped()
    with pytest.raises(CertificateError, match=r"outcome.calls_kwh lacks c5"):
        certify(scenario, without(outcome_of(scenario), "c5"), samples=0)


def test_certificate_is_refused_when_a_home_is_unknown() -> None:
    content = shipped().model_dump(by_alias=True)
    scenario = LoadCallScenario.model_validate(content | {"homes": content["homes"][1:]})
    with pytest.raises(CertificateError, match=r"outcome.calls_kwh has c1, unknown to the scenario"):
        certify(scenario, outcome_of(shipped()), samples=0)


@pytest.mark.parametrize("key", ["shifted_kwh", "rewards", "bills", "baseline_bills"])
def test_outcome_is_refused_when_a_key_lacks_a_consumer(key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key} is of other consumers than calls_kwh"):
        without(outcome_of(shipped()), "c5", key)


def test_outcome_read_from_its_json_is_the_same() -> None:
    outcome = outcome_of(shipped())
    text = json.dumps(outcome.content())
    assert json.dumps(LoadCallOutcome.model_validate_json(text).content()) == text


def test_documented_scenario_plays_as_documented(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/games/load_call.md").read_text()
    path = tmp_path / "documented.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    scenario = load(str(path))
    run_record = play(scenario)
    outcome = LoadCallOutcome.of(scenario, run_record)
    assert run_record.settled and outcome.call_rounds == 2
    assert outcome.calls_kwh == pytest.approx({"shop": 70, "flat": 20})
    assert outcome.shifted_kwh == pytest.approx({"shop": 70, "flat": 8.75})
