"""The load call game: the paper's figures, KKT conditions, independent optima, and what rounds may and may not do."""

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

from stackelgrid.certify import CertificateError
from stackelgrid.games.load_call.aggregator import LoadCallAggregator, LoadCallSettings, Terms, best_calls
from stackelgrid.games.load_call.certificate import certificate, mpcc, planner, willing
from stackelgrid.games.load_call.home import Consumer, Consumers
from stackelgrid.games.load_call.leader import UtilitySettings
from stackelgrid.games.load_call.messages import Achieved, Call, Mission, Shift
from stackelgrid.games.load_call.scenario import LoadCallScenario
from stackelgrid.rounds.strategy import Ask, Reply
from stackelgrid.scenarios.scenario import ScenarioError, load
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


def outcome_of(scenario: LoadCallScenario) -> dict[str, Any]:
    run_record = play(scenario)
    assert run_record.settled
    assert not run_record.failures
    return scenario.outcome(run_record)


# --- the paper's figures ---


def test_target_800_as_printed() -> None:
    outcome = outcome_of(shipped())
    calls, shifted = outcome["calls_kwh"], outcome["shifted_kwh"]
    assert [name for name, call in calls.items() if f"{call:.2f}" == "52.43"] == ["c1", "c3", "c4", "c5", "c8", "c10"]
    assert f"{calls['c2']:.2f}" == "152.43"
    assert f"{outcome['success_rate']:.1%}" == "84.0%"
    assert f"{shifted['c1']:.2f}" == "7.55"
    assert {name for name in calls if shifted[name] == calls[name]} == {"c2", "c6", "c7", "c9"}  # who complies in full


def test_interior_full_and_partial_compliers_differ_by_commission_over_twice_fairness() -> None:
    calls = outcome_of(shipped())["calls_kwh"]
    assert calls["c2"] - calls["c1"] == pytest.approx(1 / (2 * 0.005), rel=1e-12)


def test_target_1500_as_printed() -> None:
    outcome = outcome_of(shipped("leader.target_kwh=1500"))
    assert f"{outcome['success_rate']:.1%}" == "73.0%"
    assert max(outcome["rewards"], key=outcome["rewards"].get) == "c2"


def test_small_coefficients_share_800_equally() -> None:
    easy = [f"homes.{number}.alpha=0.001" for number in range(10)]
    outcome = outcome_of(shipped(*easy))
    assert list(outcome["calls_kwh"].values()) == [80.0] * 10
    assert outcome["success_rate"] == 1.0


def test_less_fairness_concentrates_the_call_on_the_large_consumer() -> None:
    """Of 1,500 kWh the others can be called for 925, so the large one is called for 575 however dear unfairness is."""
    weights = [0.05, 0.005, 0.0015, 0.001, 0.0009, 0.0008, 0.0007]
    outcomes = [outcome_of(shipped("leader.target_kwh=1500", f"aggregator.fairness={weight}")) for weight in weights]
    deviations = [outcome["squared_deviation"] for outcome in outcomes]
    large = [outcome["calls_kwh"]["c2"] for outcome in outcomes]
    assert large[:3] == pytest.approx([575] * 3)
    assert deviations[:3] == pytest.approx([deviations[0]] * 3)
    assert np.all(np.diff(deviations[2:]) > 0)
    assert np.all(np.diff(large[2:]) > 0)


def test_the_limit_of_no_fairness_is_reached_before_zero() -> None:
    """From lambda = kappa / (2 max d) down the calls no longer depend on lambda."""
    limit = 1 / (2 * 800)
    at, below = (
        outcome_of(shipped("leader.target_kwh=1500", f"aggregator.fairness={weight!r}"))["calls_kwh"]
        for weight in (limit, limit * 1e-9)
    )
    assert at["c2"] == 800
    assert below == at


def test_the_certificate_of_the_shipped_case() -> None:
    scenario = shipped()
    told = scenario.certificate(outcome_of(scenario), samples=0)
    assert abs(told["gap"]) < 1e-10
    assert told["max_regret"] < 1e-10
    assert told["feasible"]
    assert told["violation"] < 1e-9
    assert told["call_distance"] < 1e-6
    assert told["shift_residual"] < 1e-5
    assert told["bill_residual"] == told["balance_residual"] == 0
    assert told["mpcc"] is None or abs(told["mpcc"]["gap"]) < 1e-6  # None without pyscipopt


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
def test_games_at_the_edge_are_certified_too(override: str) -> None:
    scenario = shipped(override)
    told = scenario.certificate(outcome_of(scenario), samples=0)
    assert abs(told["gap"]) < 1e-9
    assert told["max_regret"] < 1e-9
    assert told["feasible"]
    assert told["mpcc"] is None or abs(told["mpcc"]["gap"]) < 1e-6


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
def test_best_calls_meet_the_kkt_conditions(pairs: list[tuple[float, float]], share: float, spread: float) -> None:
    baseline = np.array([d for d, _ in pairs])
    limit = baseline * [part for _, part in pairs]
    target = share * float(baseline.sum())
    calls = best_calls(target, baseline, limit, spread)
    assert calls.sum() == pytest.approx(target, rel=1e-12, abs=1e-9)
    assert np.all((calls >= 0) & (calls <= baseline))
    assert kkt_residual(calls, target, baseline, limit, spread) <= 1e-7 * max(1.0, target)


def test_a_target_beyond_the_baselines_calls_for_all_of_them() -> None:
    baseline = np.array([1.0, 2.0, 3.0])
    assert best_calls(7.0, baseline, baseline / 2, 1.0).tolist() == baseline.tolist()


# --- the distributed game against planners who know everything ---


def drive(
    homes: Sequence[Consumer], leader: UtilitySettings, terms: Terms, per_process: int = 1
) -> tuple[Any, Achieved]:
    """Rounds without nodes: the calls (n,) last made, and what the utility is told."""
    members = {f"m{start}": list(homes[start : start + per_process]) for start in range(0, len(homes), per_process)}
    aggregator = aggregator_of({name: [home.baseline_kwh for home in some] for name, some in members.items()}, terms)
    processes = {name: Consumers(some) for name, some in members.items()}
    step: Ask | Reply = aggregator.open(mission_of(leader))
    while isinstance(step, Ask):
        assert isinstance(step.body, Mapping)
        asked = step.body
        step = aggregator.on_answers(asked, {name: who.answer(asked[name]) for name, who in processes.items()}, [], [])
    assert isinstance(step.body, Achieved)
    return np.concatenate([asked[name].calls() for name in processes]), step.body  # type: ignore[attr-defined]


def aggregator_of(baseline: Mapping[str, list[float]], terms: Terms) -> LoadCallAggregator:
    told = LoadCallSettings(fairness=terms.fairness, reward=terms.reward, baseline_kwh=dict(baseline))
    return told.strategy(1, {name: len(numbers) for name, numbers in baseline.items()})


def mission_of(leader: UtilitySettings) -> Mission:
    mission = leader.strategy(1).open().ask
    assert isinstance(mission, Mission)
    return mission


def drawn(number: int, count: int) -> tuple[list[Consumer], UtilitySettings, Terms]:
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
    return homes, leader, Terms(fairness=float(10 ** random.uniform(-4, -1.5)), reward=1)


def utility(told: Achieved, terms: Terms) -> float:
    return told.shifted_kwh - terms.fairness * told.squared_deviation


def test_the_distributed_optimum_is_the_papers_single_level_optimum() -> None:
    """200 games of 2 to 12 consumers against the MPCC in SCIP; relative to the commission that is at stake."""
    pytest.importorskip("pyscipopt")
    for number in range(200):
        homes, leader, terms = drawn(number, 2 + number % 11)
        calls, told = drive(homes, leader, terms)
        reference = mpcc(homes, leader, terms)
        error = abs(utility(told, terms) - reference.utility)
        assert error < 1e-6 * leader.target_kwh, number
        # Strong concavity: whoever is within `error` of the optimum is within this of the calls (SCIP's own 1e-6 too).
        assert terms.fairness * np.sum((calls - reference.calls) ** 2) <= error + 2e-6 * leader.target_kwh
        assert told.gap == 0
        assert told.call_rounds <= len(homes) + 1


@pytest.mark.parametrize(("count", "games"), [(3, 40), (10, 50), (30, 50), (100, 40), (300, 15), (1000, 5)])
def test_the_distributed_optimum_is_the_planners(count: int, games: int) -> None:
    """200 games of up to 1,000 consumers against the concave program that knows every yhat, in Clarabel."""
    for number in range(games):
        homes, leader, terms = drawn(1000 * count + number, count)
        calls, told = drive(homes, leader, terms, per_process=max(1, count // 20))
        reference = planner(homes, leader, terms)
        assert utility(told, terms) == pytest.approx(reference.utility, rel=1e-6, abs=1e-6)
        assert terms.fairness * np.sum((calls - reference.calls) ** 2) <= 1e-6 * max(1, abs(reference.utility))
        assert told.called_kwh == pytest.approx(leader.target_kwh, rel=1e-12)
        assert told.gap == 0
        assert told.call_rounds <= 6


def test_n_plus_1_rounds_can_be_needed() -> None:
    """Each consumer but the last few per mille complies with what the ones before were called for, and no more."""
    n, target, short = 6, 600.0, 0.5
    limits: list[float] = []
    for k in range(n):
        call = (target - sum(limits)) / (n - k)
        limits.append(call * (1 - short))
        short /= 2 * (n - k)
    homes = [Consumer(id=f"c{i}", baseline_kwh=500, alpha=(SAVING / 2) / y, beta=0) for i, y in enumerate(limits)]
    leader = UtilitySettings(target_kwh=target, peak_price=5.7982, off_peak_price=2.6369)
    calls, told = drive(homes, leader, Terms(fairness=1e-4, reward=1))
    assert told.call_rounds == n + 1
    assert told.gap == 0
    assert calls.sum() == pytest.approx(target)


def test_the_upper_bound_never_rises_and_holds() -> None:
    """Utility plus gap of every round is an upper bound of the optimum, and falls to it."""
    scenario = shipped("leader.target_kwh=1500", "aggregator.fairness=0.001")
    run_record = play(scenario)
    bounds = [record["utility"] + record["gap"] for record in run_record.below]
    optimum = planner(scenario.everyone, scenario.leader, scenario.aggregator).utility
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
def test_a_consumer_shifts_what_costs_it_least(
    baseline: float, alpha: float, beta: float, most: float | None, called: float, off_peak: float
) -> None:
    called = min(called, baseline)
    home = Consumer(id="c", baseline_kwh=baseline, alpha=alpha, beta=beta, most_kwh=most)
    call = Call(call_kwh=[called], peak_price=5.0, off_peak_price=off_peak, reward=1.0)
    account = Consumers([home]).settle(call)["c"]

    def cost(y: float) -> float:
        return 5.0 * (baseline - y) + off_peak * y + alpha * y**2 + beta * y - 1.0 * y

    ceiling = called if most is None else min(called, most)
    found = minimize_scalar(cost, bounds=(0, ceiling), method="bounded", options={"xatol": 1e-9})
    assert 0 <= account["shifted_kwh"] <= ceiling
    assert account["cost"] <= min(found.fun, cost(0), cost(ceiling)) + 1e-9 * (1 + abs(found.fun))
    assert account["cost"] == pytest.approx(
        account["bill"] - account["reward"] + alpha * account["shifted_kwh"] ** 2 + beta * account["shifted_kwh"]
    )
    assert willing(home, 5.0 - off_peak + 1.0) == pytest.approx(home.willing_kwh(5.0 - off_peak + 1.0), abs=1e-8)


def test_a_call_for_other_homes_moves_nobody() -> None:
    homes = Consumers([Consumer(id=f"c{i}", baseline_kwh=10, alpha=0.01) for i in range(3)])
    call = Call(call_kwh=[5.0], peak_price=5.0, off_peak_price=1.0, reward=1.0)
    assert homes.answer(call).shifts().tolist() == [0, 0, 0]
    assert [account["call_kwh"] for account in homes.settle(call).values()] == [0, 0, 0]


# --- whatever members do ---


def shift(*kwh: float) -> Shift:
    return Shift(homes=len(kwh), shifted_kwh=PackedArray.of(np.array(kwh)[:, None]) if len(kwh) > 1 else list(kwh))


def three(target: float = 150.0) -> tuple[LoadCallAggregator, Ask]:
    aggregator = aggregator_of({"m1": [100.0], "m2": [100.0], "m3": [100.0, 100.0]}, Terms(fairness=0.005, reward=1))
    return aggregator, aggregator.open(Mission(target_kwh=target, peak_price=5.0, off_peak_price=2.0, commission=1.0))


def test_an_excluded_member_is_not_called_and_the_others_make_up_for_it() -> None:
    aggregator, asked = three()
    step = aggregator.on_answers(asked.body, {"m1": shift(37.5), "m2": shift(37.5)}, [], ["m3"])
    assert isinstance(step, Ask)
    assert isinstance(step.body, Mapping)
    assert {name: body.calls().tolist() for name, body in step.body.items()} == {  # type: ignore[attr-defined]
        "m1": [75.0],
        "m2": [75.0],
        "m3": [0.0, 0.0],
    }
    step = aggregator.on_answers(step.body, {"m1": shift(75.0), "m2": shift(75.0)}, [], ["m3"])
    assert isinstance(step, Reply)
    assert isinstance(step.body, Achieved)
    assert (step.body.excluded, step.body.homes, step.body.fresh, step.body.gap) == (2, 2, False, 0)
    assert step.body.called_kwh == pytest.approx(150)
    # Given anew, the mission calls everybody again.
    again = aggregator.open(Mission(target_kwh=150.0, peak_price=5.0, off_peak_price=2.0, commission=1.0))
    assert again.body["m3"].calls().tolist() == [37.5, 37.5]  # type: ignore[index]


def test_what_the_others_cannot_make_up_for_is_said() -> None:
    aggregator, asked = three(target=350.0)
    step = aggregator.on_answers(asked.body, {"m1": shift(87.5), "m2": shift(87.5)}, [], ["m3"])
    step = aggregator.on_answers(step.body, {"m1": shift(100.0), "m2": shift(100.0)}, [], ["m3"])
    assert isinstance(step, Reply)
    assert isinstance(step.body, Achieved)
    assert (step.body.called_kwh, step.body.shifted_kwh) == (200, 200)


def test_a_held_answer_shows_nothing() -> None:
    aggregator, asked = three()
    first = {"m1": shift(10.0), "m2": shift(37.5), "m3": shift(37.5, 37.5)}
    step = aggregator.on_answers(asked.body, first, [], [])
    assert isinstance(step, Ask)
    # c2 is called for more now; its answer of 37.5 is of the round before and no sign of unwillingness.
    more = {name: Shift(homes=body.homes, shifted_kwh=body.shifted_kwh) for name, body in first.items()}
    calls = step.body["m3"].calls()  # type: ignore[index]
    assert calls[0] > 37.5
    more["m3"] = shift(*calls.tolist())
    step = aggregator.on_answers(step.body, more, ["m2"], [])
    assert isinstance(step, Reply)
    assert isinstance(step.body, Achieved)
    assert (step.body.held, step.body.fresh) == (1, False)
    assert step.body.gap == pytest.approx(calls[0] - 37.5)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8))
def test_no_answers_keep_the_rounds_going_or_end_the_node(seed: int, n: int) -> None:
    """Answers above the call, ones that change from round to round, members that come and go."""
    random = np.random.default_rng(seed)
    names = [f"m{i}" for i in range(n)]
    aggregator = aggregator_of({name: [100.0] for name in names}, Terms(fairness=0.001, reward=1))
    step: Ask | Reply = aggregator.open(Mission(target_kwh=60.0 * n, peak_price=5, off_peak_price=2, commission=1))
    lost: set[str] = set()
    rounds = 0
    while isinstance(step, Ask):
        rounds += 1
        excluded = [name for name in names if random.random() < 0.1]
        held = [name for name in names if name not in excluded and random.random() < 0.1]
        lost.update(excluded)
        answers = {name: shift(random.choice([0.0, 1e12, 200 * random.random()])) for name in names}
        step = aggregator.on_answers(step.body, {k: v for k, v in answers.items() if k not in excluded}, held, excluded)
        assert rounds <= n + 1 + len(lost)
    assert isinstance(step.body, Achieved)
    Achieved.model_validate_json(step.body.model_dump_json())
    assert step.body.shifted_kwh <= step.body.called_kwh <= 60.0 * n * (1 + 1e-12)


def test_a_mission_that_nobody_answered_calls_nobody() -> None:
    aggregator, _ = three()
    leader = UtilitySettings(target_kwh=150, peak_price=5, off_peak_price=2).strategy(1)
    settlement = leader.open().settlement
    assert isinstance(settlement, Mission)
    ending = aggregator.settle(settlement)
    assert isinstance(ending.body, Mapping)
    assert all(not body.calls().any() for body in ending.body.values())  # type: ignore[attr-defined]


def test_a_target_of_nothing_calls_nobody() -> None:
    outcome = outcome_of(shipped("leader.target_kwh=0"))
    assert set(outcome["calls_kwh"].values()) == {0.0}
    assert outcome["bills"] == outcome["baseline_bills"]
    assert outcome["success_rate"] == 1


def test_a_consumer_that_nobody_hears_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """c3 answers in vain: the others are called for the whole target, and the settlement says that it is incomplete."""

    class Mute(MemoryTransport):
        def delays(self, sender: str, receiver: str, publish: Publish, now: float) -> Sequence[float]:
            return () if sender == "c3" else super().delays(sender, receiver, publish, now)

    monkeypatch.setattr(in_memory, "MemoryTransport", Mute)
    scenario = shipped("rounds.missing=exclude", "rounds.deadline_s=1", "rounds.gather_s=2")
    run_record = play(scenario)
    outcome = scenario.outcome(run_record)
    assert not run_record.failures
    assert run_record.settled
    assert not run_record.conclusion["complete"]
    assert {entry["node"] for entry in run_record.missing} == {"c3"}
    assert outcome["calls_kwh"]["c3"] == outcome["shifted_kwh"]["c3"] == 0
    assert sum(outcome["calls_kwh"].values()) == pytest.approx(800)
    assert outcome["achieved_kwh"] == pytest.approx(sum(outcome["shifted_kwh"].values()))
    assert scenario.certificate(outcome, samples=0)["gap"] > 1e-3  # c3 would have been called


def test_nobody_hears_of_anothers_call_or_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call goes to its consumer alone, what a consumer shifts to the aggregator alone, and sums to the utility."""
    heard: list[tuple[str, str, dict[str, Any]]] = []

    class Tapped(MemoryTransport):
        def delays(self, sender: str, receiver: str, publish: Publish, now: float) -> Sequence[float]:
            body = json.loads(publish.payload).get("body") if publish.payload else None
            if body is not None:
                heard.append((publish.topic.split("/", 2)[2], receiver, body))
            return super().delays(sender, receiver, publish, now)

    monkeypatch.setattr(in_memory, "MemoryTransport", Tapped)
    play(shipped())
    calls = [(topic, receiver) for topic, receiver, body in heard if "call_kwh" in body]
    assert len(calls) == 30  # two rounds and the settlement, ten consumers
    assert all(topic in (f"a1/{receiver}/signal", f"a1/{receiver}/settlement") for topic, receiver in calls)
    assert {receiver for _, receiver, body in heard if set(body) == {"homes", "shifted_kwh"}} == {"a1"}
    to_leader = [body for _, receiver, body in heard if receiver == "leader"]
    assert all(set(body) == set(Achieved.model_fields) for body in to_leader)
    assert {name for *_, body in heard for name in body} == {
        name for model in (Mission, Achieved, Call, Shift) for name in model.model_fields
    }


# --- many ---


def test_two_thousand_consumers_settle_in_a_handful_of_rounds() -> None:
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
    outcome = scenario.outcome(run_record)
    assert run_record.settled
    assert outcome["call_rounds"] <= 6
    told = scenario.certificate(outcome, samples=0)
    assert abs(told["gap"]) < 1e-8
    assert told["max_regret"] < 1e-8
    assert told["feasible"]
    assert told["mpcc"] is None


def test_a_consumer_is_the_same_in_any_population() -> None:
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
def test_a_scenario_that_cannot_be_played_is_refused(override: str, message: str) -> None:
    with pytest.raises(ScenarioError) as refusal:
        shipped(override)
    assert message in str(refusal.value)


def test_baselines_are_those_of_the_members() -> None:
    told = LoadCallSettings(fairness=1, reward=1, baseline_kwh={"m1": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"settings.baseline_kwh.m1 has 2 numbers, m1 has 1 homes"):
        told.strategy(1, {"m1": 1})
    with pytest.raises(ValueError, match=r"settings.baseline_kwh.m2 has 0 numbers, m2 has 1 homes"):
        told.strategy(1, {"m1": 2, "m2": 1})


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
def test_a_shift_that_makes_no_sense_is_not_read(body: str) -> None:
    with pytest.raises(ValidationError):
        Shift.model_validate_json(body)


# --- the certificate can fail ---


def tampered(change: str) -> dict[str, Any]:
    """The certificate of the shipped case's outcome, changed."""
    scenario = shipped()
    outcome = outcome_of(scenario)
    if change == "unfair calls":
        outcome["calls_kwh"] |= {"c1": outcome["calls_kwh"]["c1"] - 5, "c3": outcome["calls_kwh"]["c3"] + 5}
    elif change == "target missed":
        outcome["calls_kwh"]["c2"] -= 1
        outcome["shifted_kwh"]["c2"] -= 1
    elif change == "lazy consumer":
        outcome["shifted_kwh"]["c9"] -= 10
    elif change == "overbilled":
        outcome["bills"]["c4"] += 1
    elif change == "overclaimed":
        outcome["achieved_kwh"] += 1
    return certificate(scenario.everyone, scenario.leader, scenario.aggregator, outcome)


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
def test_the_certificate_finds_what_is_wrong(change: str, key: str, least: float) -> None:
    told = tampered(change)
    assert told[key] >= least
    assert told["feasible"] == (change != "target missed")


def test_no_certificate_of_homes_that_did_not_settle() -> None:
    scenario = shipped()
    outcome = outcome_of(scenario)
    del outcome["calls_kwh"]["c5"]
    with pytest.raises(CertificateError, match=r"outcome.calls_kwh lacks c5"):
        scenario.certificate(outcome, samples=0)


def test_the_scenario_of_the_documentation_plays(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/games/load_call.md").read_text()
    path = tmp_path / "documented.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    scenario = load(str(path))
    run_record = play(scenario)
    outcome = scenario.outcome(run_record)
    assert run_record.settled and outcome["call_rounds"] == 2
    assert outcome["calls_kwh"] == pytest.approx({"shop": 70, "flat": 20})
    assert outcome["shifted_kwh"] == pytest.approx({"shop": 70, "flat": 8.75})
