"""The load call game in dated runs: baselines from loads by slot, days of 23 and 25 hours, and consumers' history."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stackelgrid
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.games.load_call.aggregator import AggregatorTerms, History, share_fairly, solve_calls
from stackelgrid.games.load_call.certificate import solve_mpcc, solve_planner
from stackelgrid.games.load_call.home import Consumer
from stackelgrid.games.load_call.leader import UtilitySettings
from stackelgrid.games.load_call.outcome import LoadCallOutcome
from stackelgrid.scenarios import ScenarioError, load
from stackelgrid.testbed.in_memory import play

EVENT = {"first": "01:00", "last": "21:00"}


def dated(calendar: dict[str, Any], slots: int, **leader: Any) -> dict[str, Any]:
    """Five consumers with a load by slot, two of them with a process of their own each."""
    random = np.random.default_rng(slots)
    return {
        "schema": 1,
        "game": "load_call",
        "calendar": {"timezone": "Europe/Brussels"} | calendar,
        "homes_per_process": 2,
        "leader": {"target_kwh": 60, "peak_price": 5.8, "off_peak_price": 2.6, "event": EVENT} | leader,
        "aggregator": {"fairness": 0.02, "reward": 1},
        "homes": [
            {
                "id": f"c{number}",
                "load_kw": random.uniform(1, 3, slots).tolist(),
                "alpha": 0.05 * 3**number,
                "beta": 0.5,
            }
            for number in range(5)
        ],
    }


@pytest.mark.parametrize("minutes", [60, 15])
@pytest.mark.parametrize(("start", "hours"), [("2026-03-29T00:00", 23), ("2026-10-25T00:00", 25)])
def test_day_of_a_clock_change_settles_and_adds_up(start: str, hours: int, minutes: int) -> None:
    slots = hours * 60 // minutes
    raw = dated({"start": start, "slot_minutes": minutes}, slots)
    scenario = load(raw)
    outcome = scenario.outcome(play(scenario))
    assert isinstance(outcome, LoadCallOutcome)
    assert outcome.times is not None and len(outcome.times) == slots
    date = start[:11]
    begins, ends = {23: ("+01:00", "+02:00"), 25: ("+02:00", "+01:00")}[hours]
    assert outcome.event == [(f"{date}01:00:00{begins}", f"{date}21:00:00{ends}")]
    # The event has an hour less, or more, in which the clock changes.
    in_event = slice(60 // minutes, slots - 3 * 60 // minutes)
    for home, given_home in zip(scenario.everyone, raw["homes"], strict=True):
        drawn = np.array(given_home["load_kw"])[in_event]
        assert len(drawn) * minutes / 60 == 20 + hours - 24
        assert home.baseline_kwh == pytest.approx(drawn.sum() * minutes / 60)
        shifted = outcome.shifted_kwh[home.id]
        assert outcome.bills[home.id] == pytest.approx(5.8 * (home.baseline_kwh - shifted) + 2.6 * shifted)
    assert sum(outcome.calls_kwh.values()) == pytest.approx(60)
    assert outcome.achieved_kwh == pytest.approx(sum(outcome.shifted_kwh.values()))
    certificate = scenario.certificate(outcome, 0)
    assert certificate["feasible"] and certificate["max_regret"] <= 1e-8


def test_load_by_slot_is_called_as_its_baseline_is() -> None:
    raw = dated({"start": "2026-06-01T00:00", "slot_minutes": 15}, 96)
    by_slot = load(raw)
    for home, consumer in zip(raw["homes"], by_slot.everyone, strict=True):
        del home["load_kw"]
        home["baseline_kwh"] = consumer.baseline_kwh
    del raw["calendar"], raw["leader"]["event"]
    at_once = load(raw)
    one, other = (scenario.outcome(play(scenario)) for scenario in (by_slot, at_once))
    for key in ("calls_kwh", "shifted_kwh", "bills", "rewards"):
        assert getattr(one, key) == pytest.approx(getattr(other, key), rel=1e-12)
    assert other.event is None and "event" not in other.content()


# --- history ---


def test_calls_weigh_what_consumers_shifted_in_earlier_sessions() -> None:
    run = stackelgrid.run(dated({"start": "2026-03-28T00:00", "days": 4}, 95))
    run.certify()
    assert run.settled
    outcomes = [session.outcome for session in run.result.sessions]
    assert outcomes[0].performance is None
    called, shifted = (dict.fromkeys(outcomes[0].calls_kwh, 0.0) for _ in range(2))
    for outcome in outcomes:
        if outcome.performance is not None:
            assert outcome.performance == pytest.approx({name: shifted[name] / called[name] for name in called})
            fair = np.array(list(outcome.performance.values()))
            calls = np.array(list(outcome.calls_kwh.values()))
            deviation = np.sum((calls - fair * calls.sum() / fair.sum()) ** 2)
            assert outcome.squared_deviation == pytest.approx(deviation)
        for name in called:
            called[name] += outcome.calls_kwh[name]
            shifted[name] += outcome.shifted_kwh[name]
    # Who shifts little of its calls is called for less the next day, and the target is met better.
    first, second = outcomes[:2]
    assert second.calls_kwh["c4"] < first.calls_kwh["c4"]
    assert second.success_rate > first.success_rate + 0.05
    for session in run.result.sessions:
        assert session.certificate is not None
        regret = session.certificate.number("max_regret")
        assert regret is not None and regret <= 1e-8


def test_aggregator_that_is_killed_between_two_sessions_knows_what_consumers_shifted_before() -> None:
    raw = dated({"start": "2026-03-28T00:00", "days": 4}, 95)
    crash = {"kind": "crash", "node": "a1", "at": {"session": 3}, "restart_after_s": 0.01}
    run, undisturbed = (
        stackelgrid.run(raw, faults=plan) for plan in (FaultPlan.model_validate({"faults": [crash]}), None)
    )
    assert [fault.kind for fault in run.faults] == ["crash", "restart"] and run.complete
    assert [each.outcome for each in run.result.sessions] == [each.outcome for each in undisturbed.result.sessions]


@given(st.integers(0, 2**32), st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_calls_are_a_planners_whatever_the_history(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    homes = [
        Consumer(id=f"c{n}", baseline_kwh=random.uniform(10, 100), alpha=10 ** random.uniform(-2, 0), beta=0.5)
        for n in range(count)
    ]
    baseline = np.array([home.baseline_kwh for home in homes])
    leader = UtilitySettings(
        target_kwh=random.uniform(0.1, 0.95) * baseline.sum(), peak_price=6, off_peak_price=3, commission=1
    )
    terms = AggregatorTerms(fairness=10 ** random.uniform(-3, -1), reward=1)
    performance = random.uniform(0, 1, count) * (random.uniform(size=count) < 0.8)
    willing = np.array([home.solve_yhat(4) for home in homes])
    fair = share_fairly(leader.target_kwh, performance)
    assert fair.sum() == pytest.approx(leader.target_kwh)
    calls = solve_calls(leader.target_kwh, baseline, willing, 1 / (2 * terms.fairness), fair)
    plan = solve_planner(homes, leader, terms, performance)
    assert calls.sum() == pytest.approx(leader.target_kwh, rel=1e-9)
    assert calls.min() >= 0 and (calls <= baseline).all()
    utility = np.minimum(calls, willing).sum() - terms.fairness * np.sum((calls - fair) ** 2)
    assert utility >= plan.utility - 1e-7 * (1 + abs(plan.utility))
    np.testing.assert_allclose(calls, plan.calls, atol=1e-3)


def test_calls_are_those_of_the_papers_program_with_a_history() -> None:
    pytest.importorskip("pyscipopt")
    homes = [Consumer(id=f"c{n}", baseline_kwh=50 + 10 * n, alpha=0.02 * 2**n, beta=0.5) for n in range(5)]
    leader = UtilitySettings(target_kwh=150, peak_price=6, off_peak_price=3, commission=1)
    terms, performance = AggregatorTerms(fairness=0.01, reward=1), np.array([1, 0.2, 0.9, 0, 0.5])
    willing, baseline = (
        np.array(each) for each in zip(*((home.solve_yhat(4), home.baseline_kwh) for home in homes), strict=True)
    )
    calls = solve_calls(150, baseline, willing, 50, share_fairly(150, performance))
    np.testing.assert_allclose(calls, solve_mpcc(homes, leader, terms, performance).calls, atol=0.05)


def test_performance_is_one_where_a_consumer_was_not_called() -> None:
    history = History(called_kwh={"p": [0, 40, 10]}, shifted_kwh={"p": [0, 10, 10]})
    assert history.rate("p") == [1, 0.25, 1]
    np.testing.assert_allclose(share_fairly(9, np.zeros(3)), 3)


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event": None}, r"load_kw is given by slot; say in leader.event which slots are of the event"),
        ({"event": {"first": "10:10", "last": "12:00"}}, r"event: no slot of 60 min begins at 10:10; move it"),
        ({"event": {"first": 2, "last": 50}}, r"leader.event.last is 50, the horizon has 48 slots"),
        ({"event": {"first": 2, "last": 20}}, r"leader.target_kwh: 60 is above the 0 kWh .* in session 2"),
        ({"target_kwh": 500}, r"leader.target_kwh: 500 is above the [\d.]+ kWh .* in session 1"),
    ],
)
def test_dated_run_is_refused_when_its_event_does_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        load(dated({"start": "2026-06-01T00:00", "days": 2}, 48, **change))


@pytest.mark.parametrize(
    ("home", "message"),
    [
        ({"baseline_kwh": 5.0}, "give either baseline_kwh or load_kw"),
        ({"load_kw": None}, "give either baseline_kwh or load_kw"),
        ({"load_kw": [1.0] * 24}, "load_kw has 24 numbers, slots is 96"),
    ],
)
def test_consumer_is_refused_when_its_baseline_is_not_clear(home: dict[str, Any], message: str) -> None:
    raw = dated({"start": "2026-06-01T00:00", "slot_minutes": 15}, 96)
    raw["homes"][0] |= home
    with pytest.raises(ScenarioError, match=message):
        load(raw)


# --- forecasts ---


def test_perfect_forecast_calls_as_without_one_and_meters_what_was_settled() -> None:
    raw = dated({"start": "2026-03-28T00:00", "days": 2}, 47)
    plain, known = stackelgrid.run(raw), stackelgrid.run({**raw, "forecast": {}})
    for before, after in zip(plain.result.sessions, known.result.sessions, strict=True):
        one, other = before.outcome.content(), after.outcome.content()
        assert one == {key: other[key] for key in one}
        assert not any(key.startswith(("metered", "settled", "imbalance")) for key in one)
        assert other["metered_kwh"] == other["settled_kwh"] and other["metered_bills"] == other["bills"]
        assert other["imbalance_kwh"] == other["imbalance_cost"] == 0


@pytest.mark.parametrize("price", [None, 9.0])
@pytest.mark.parametrize("rule", ["persistence", {"noisy": {"sigma": 0.8}}])
def test_meters_count_the_load_that_comes_less_what_is_shifted_of_it(rule: Any, price: float | None) -> None:
    leader = {} if price is None else {"imbalance_price": price}
    raw = {**dated({"start": "2026-03-28T00:00", "days": 3}, 71, **leader), "forecast": {"load": rule}}
    raw["homes"][0]["load_kw"][24:] = [0.0] * 47  # it has nothing to shift from the second day on
    run, again = stackelgrid.run(raw), stackelgrid.run(raw)
    assert [each.outcome for each in run.result.sessions] == [each.outcome for each in again.result.sessions]
    hours = [20, 20 - 1, 20]  # of the event; clocks change on the second day
    first, missed, short = 1, 0.0, 0
    for number, session in enumerate(run.result.sessions):
        outcome = session.outcome
        assert sum(outcome.calls_kwh.values()) == pytest.approx(60)
        for home in raw["homes"]:
            name, drawn = home["id"], sum(home["load_kw"][first : first + hours[number]])
            shifted = outcome.metered_shifted_kwh[name]
            assert shifted == min(outcome.shifted_kwh[name], drawn) or shifted == pytest.approx(drawn)
            assert outcome.metered_kwh[name] == pytest.approx(drawn - shifted, abs=1e-9)
            bill = 5.8 * outcome.metered_kwh[name] + 2.6 * shifted
            assert outcome.metered_bills[name] == pytest.approx(bill, abs=1e-9)
            assert outcome.metered_rewards[name] == pytest.approx(shifted, abs=1e-9)
            short += shifted < outcome.shifted_kwh[name] - 1e-9
        settled, metered = (sum(kwh.values()) for kwh in (outcome.settled_kwh, outcome.metered_kwh))
        assert metered == pytest.approx(settled + outcome.imbalance_kwh, abs=1e-9)
        assert outcome.imbalance_cost == pytest.approx((price or 5.8) * outcome.imbalance_kwh, abs=1e-9)
        assert outcome.metered_commission == pytest.approx(sum(outcome.metered_shifted_kwh.values()), abs=1e-9)
        missed += abs(outcome.imbalance_kwh)
        first += session.slots
    assert missed > 1 and (short > 0 or rule != "persistence")
    known = stackelgrid.run(run.scenario.with_foresight())
    assert all(abs(session.outcome.imbalance_kwh) < 1e-9 for session in known.result.sessions)


def test_aggregator_knows_the_baseline_that_consumers_foresee() -> None:
    raw = {**dated({"start": "2026-06-01T00:00", "days": 3}, 72), "forecast": {"load": "persistence"}}
    scenario = load(raw)
    (settings,) = (
        scenario.aggregator_settings(name, {process: list(homes) for process, homes in members.items()})
        for name, members in scenario.topology.members.items()
    )
    listed = [baselines for homes in settings.baseline_kwh.values() for baselines in homes]
    for home, baselines in zip(raw["homes"], listed, strict=True):
        days = [sum(home["load_kw"][24 * day + 1 : 24 * day + 21]) for day in range(3)]
        assert baselines == pytest.approx([days[0], days[0], days[1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forecast": {"pv": "perfect"}}, "forecast: pv: a baseline is of what a consumer draws"),
        ({"forecast": {"price": "perfect"}}, "forecast: price: the tariff is public"),
        ({"forecast": {"load": [1.0]}}, "forecast.load has 1 numbers, the run has 48 slots"),
        ({"homes": [{"id": "c", "baseline_kwh": 90, "alpha": 1}]}, r"homes\.0\.forecast: baseline_kwh is one number"),
        ({"calendar": {"start": "2026-06-01T00:00", "days": 2, "every": "12h"}}, "hours are called for twice"),
    ],
)
def test_forecast_is_refused_where_nothing_is_foreseen(change: dict[str, Any], message: str) -> None:
    raw = {**dated({"start": "2026-06-01T00:00", "days": 2}, 48), "forecast": {"load": "persistence"}}
    with pytest.raises(ScenarioError, match=message):
        load({**raw, **change})
