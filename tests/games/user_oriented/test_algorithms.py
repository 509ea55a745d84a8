"""The leader's algorithms: closed forms, the shipped case, what a home is asked, and what a run counts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stackelgrid
from stackelgrid import cli
from stackelgrid.errors import ConfigError
from stackelgrid.games.user_oriented.algorithms.loads_only import meet_secant
from stackelgrid.games.user_oriented.algorithms.paper_003 import bound_price, fit_scale
from stackelgrid.games.user_oriented.hill_climb import HillClimb
from stackelgrid.games.user_oriented.home import Home, HomeProblem
from stackelgrid.games.user_oriented.leader import fixed_balance
from stackelgrid.games.user_oriented.local_response import Observation
from stackelgrid.games.user_oriented.samples import small_scenario
from stackelgrid.games.user_oriented.utility_company import UtilityCompany
from stackelgrid.registry import list_algorithms
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios import load
from stackelgrid.transport.memory import MemoryTransport

WITHOUT_STORAGE = {"population.storage.share": 0, "population.ev.share": 0}
LOG = [(3.0, 6.6, 3.0), (5.0, 6.4, 3.2), (2.0, 6.9, 3.0)]
"""Appliances with logarithmic satisfaction, largest rate, valuation, alpha: at no limit at prices of 5.2 to 19.8."""


def two_slots(algorithm: str, objective: str = "stackelberg", **leader: Any) -> dict[str, Any]:
    """Three homes that draw A / p - b each, A = max_kw valuation, b = max_kw / alpha."""
    elastic = [
        {"max_kw": rate, "valuation": valuation, "satisfaction": {"form": "log", "alpha": alpha}}
        for rate, valuation, alpha in LOG
    ]
    company = {
        "baseline_price": 9,
        "wholesale_price": [4.0, 6.0],
        "mu": 0,
        "price_min": 5.2,
        "price_max": 19.8,
    } | leader
    return {
        "schema": 1,
        "game": "user_oriented",
        "slots": 2,
        "leader": {"algorithm": algorithm, "objective": objective, "tolerance": 1e-8, **company},
        "homes": [{"id": f"h{number}", "elastic": [each]} for number, each in enumerate(elastic)],
    }


def closed_form() -> tuple[float, float]:
    return sum(rate * valuation for rate, valuation, _ in LOG), sum(rate / alpha for rate, _, alpha in LOG)


@pytest.mark.parametrize("algorithm", ["newton", "loads_only", "paper_003"])
def test_price_of_logarithmic_homes_is_the_closed_form(algorithm: str) -> None:
    # (p - c)(A / p - b) is largest where c A / p^2 = b.
    scale, offset = closed_form()
    run = stackelgrid.run(two_slots(algorithm))
    assert run.settled
    np.testing.assert_allclose(run.outcome.price, np.sqrt(np.array([4.0, 6.0]) * scale / offset), rtol=1e-7)


@pytest.mark.parametrize("algorithm", ["loads_only", "dual_decomposition"])
def test_welfare_price_without_charge_is_the_wholesale_price(algorithm: str) -> None:
    run = stackelgrid.run(two_slots(algorithm, "welfare", wholesale_price=[7.0, 8.0]))
    assert run.settled
    np.testing.assert_allclose(run.outcome.price, [7.0, 8.0], rtol=1e-8)


@pytest.mark.parametrize("algorithm", ["newton", "loads_only", "paper_003"])
def test_price_keeps_the_capacity(algorithm: str) -> None:
    scale, offset = closed_form()
    most = scale / 10.0 - offset  # the load at 10
    free = np.sqrt(np.array([4.0, 6.0]) * scale / offset)
    run = stackelgrid.run(two_slots(algorithm, capacity={"max_kw": most}))
    assert run.settled
    np.testing.assert_allclose(run.outcome.price, np.maximum(free, 10.0), rtol=1e-6)
    assert max(run.outcome.load_kw) <= most * (1 + 1e-6)
    assert free[0] < 10.0 < free[1]


def test_dual_decomposition_prices_the_capacity() -> None:
    scale, offset = closed_form()
    run = stackelgrid.run(
        two_slots(
            "dual_decomposition", "welfare", capacity={"max_kw": scale / 8.5 - offset}, wholesale_price=[7.0, 9.0]
        ),
        {"leader.max_rounds": 200},
    )
    assert run.settled
    np.testing.assert_allclose(run.outcome.price, [8.5, 9.0], rtol=1e-6)


@pytest.fixture(scope="module")
def shipped() -> dict[str, stackelgrid.Run]:
    return {name: stackelgrid.run("user_oriented", {"leader.algorithm": name}) for name in ("newton", "loads_only")}


def test_loads_alone_lead_to_the_price_of_newton_in_the_shipped_case(shipped: dict[str, stackelgrid.Run]) -> None:
    newton, loads = shipped["newton"], shipped["loads_only"]
    assert newton.settled and loads.settled
    np.testing.assert_allclose(loads.outcome.price, newton.outcome.price, rtol=0, atol=1e-6)
    assert loads.result.questions <= 100


def test_loads_alone_lead_to_the_welfare_price() -> None:
    small = {"population.homes": 12, "leader.objective": "welfare", "leader.tolerance": 1e-8}
    prices = [
        stackelgrid.run("user_oriented", {**small, "leader.algorithm": name}) for name in ("newton", "loads_only")
    ]
    assert all(run.settled for run in prices)
    np.testing.assert_allclose(prices[1].outcome.price, prices[0].outcome.price, rtol=1e-6)


def one_slot(leader: dict[str, Any], *appliances: dict[str, Any]) -> dict[str, Any]:
    homes = [{"id": f"h{number}", "elastic": [each]} for number, each in enumerate(appliances)]
    company = {"algorithm": "loads_only", "mu": 0, **leader}
    return {"schema": 1, "game": "user_oriented", "slots": 1, "leader": company, "homes": homes}


def test_loads_alone_find_the_higher_of_two_hills() -> None:
    # One buys 4 (1 - p / 10), the other 11.5 (1 - p / 2): 10 at p = 5 from the first alone, less at 1.26 from both.
    quadratic = {"form": "quadratic", "omega": 1.0, "alpha": 1.0}
    first, second = (
        {"max_kw": most, "valuation": valuation, "satisfaction": quadratic} for most, valuation in ((4, 10), (11.5, 2))
    )
    run = stackelgrid.run(one_slot({"baseline_price": 1.3, "wholesale_price": 0, "price_max": 9}, first, second))
    assert run.settled
    assert run.outcome.price == pytest.approx([5.0], rel=1e-6)
    assert run.outcome.leader_utility == pytest.approx(10.0, rel=1e-9)


def test_loads_alone_keep_a_capacity_that_no_slope_shows() -> None:
    # At 4 the first home buys nothing, at 0.5 both are at their limits; between, they buy 2.25 / p - 0.75 and 3.
    log = [{"form": "log", "omega": omega, "alpha": 4} for omega in (4, 5)]
    first, second = (
        {"max_kw": 3, "valuation": valuation, "satisfaction": each} for valuation, each in zip((3, 8), log, strict=True)
    )
    company = {"objective": "welfare", "baseline_price": 4, "wholesale_price": 0.5, "price_max": 15}
    run = stackelgrid.run(one_slot({**company, "capacity": {"max_kw": 5.5}}, first, second))
    assert run.settled and run.result.questions <= 100
    assert run.outcome.price == pytest.approx([9 / 13], rel=1e-6)


@pytest.mark.parametrize("seed", [2, 3, 11, 25, 29, 35])
def test_loads_alone_lead_where_a_climb_with_sensitivities_leads(seed: int) -> None:
    random = np.random.default_rng(seed)
    drawn = small_scenario(random, int(random.integers(1, 8)))
    drawn["leader"] |= {"objective": "stackelberg", "tolerance": 1e-6, "algorithm": "loads_only"}
    run = stackelgrid.run({"schema": 1, "game": "user_oriented", **drawn})
    homes, company = [HomeProblem(home) for home in run.scenario.everyone], run.scenario.leader.company(4)
    price = np.full(4, run.scenario.leader.baseline_price)
    baseline = sum(home.answer(price).load for home in homes)
    climb = HillClimb(replace(company, mu=fixed_balance(run.scenario.leader.mu, baseline)), 1e-9)
    best = -np.inf
    for _ in range(60):
        schedules = [home.answer(price) for home in homes]
        load = np.sum([each.load for each in schedules], axis=0)
        slope = np.sum([each.slope for each in schedules], axis=0)
        bend = np.sum([each.sensitivity for each in schedules], axis=0)
        best = max(best, climb.company.utility(price, load))
        ahead = climb.step(Observation(price, load, slope, bend - np.diag(slope), len(homes)))
        if ahead is None:
            break
        price = ahead
    assert run.settled and run.result.questions <= 100
    assert run.outcome.leader_utility == pytest.approx(best, rel=1e-7)


def test_paper_settles_on_the_price_of_newton_where_nothing_is_stored() -> None:
    small = {"population.homes": 12, **WITHOUT_STORAGE}
    newton, paper = (
        stackelgrid.run("user_oriented", {**small, "leader.algorithm": name}) for name in ("newton", "paper_003")
    )
    assert newton.settled and paper.settled
    np.testing.assert_allclose(paper.outcome.price, newton.outcome.price, rtol=1e-6)


def test_paper_does_not_settle_where_half_of_the_homes_store() -> None:
    run = stackelgrid.run("user_oriented", {"population.homes": 12, "leader.algorithm": "paper_003"})
    assert not run.settled and run.result.rounds == 40


def test_paper_begins_at_random_from_the_seed() -> None:
    def second_price(seed: int) -> list[float]:
        scenario = two_slots("paper_003") | {"seed": seed}
        price: list[float] = stackelgrid.run(scenario).journal[1]["price"]
        return price

    assert second_price(1) == second_price(1) != second_price(2)
    assert all(5.2 <= price <= 19.8 for price in second_price(3))


@pytest.mark.parametrize("algorithm", ["loads_only", "paper_003", "dual_decomposition"])
def test_home_sends_only_loads_to_an_algorithm_that_asks_no_more(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: Counter[str] = Counter()
    delays = MemoryTransport.delays

    def read(self: MemoryTransport, sender: str, receiver: str, publish: Any, now: float) -> Any:
        message = json.loads(publish.payload) if publish.payload else {}
        if publish.topic.endswith("/answer"):
            sent.update(message["body"].keys())
        return delays(self, sender, receiver, publish, now)

    monkeypatch.setattr(MemoryTransport, "delays", read)
    stackelgrid.run("user_oriented", {"population.homes": 4, "leader.algorithm": algorithm, "leader.max_rounds": 6})
    assert sent["load_kw"] and not sent.keys() & {"slope", "coupling", "other_slopes", "other_couplings"}
    stackelgrid.run("user_oriented", {"population.homes": 4, "leader.max_rounds": 2})
    assert sent["slope"] and sent["coupling"]


def test_unknown_algorithm_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"leader\.algorithm: 'newtown' .* did you mean newton\?"):
        load("user_oriented", ["leader.algorithm=newtown"])
    with pytest.raises(ConfigError) as refused:
        load("user_oriented", ["leader.algorithm=simplex"])
    (line,) = str(refused.value).splitlines()
    assert "leader.algorithm" in line and "'simplex'" in line
    assert ", ".join(list_algorithms("user_oriented")) in line
    assert list_algorithms("user_oriented")[:4] == ["newton", "loads_only", "paper_003", "dual_decomposition"]


def test_run_whose_questions_are_used_up_is_not_settled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("leader.questions_per_session=9", "population.homes=4", "leader.algorithm=loads_only")
    folder = tmp_path / "run"
    command = ["stackelgrid", "run", "user_oriented", "--transport", "memory", "--out", str(folder)]
    monkeypatch.setattr("sys.argv", [*command, *(f"--set={each}" for each in few)])
    code, said = cli.main(), capsys.readouterr().err
    result = json.loads((folder / "result.json").read_text())
    why = "all 9 questions are asked; raise leader.questions_per_session"
    assert (code, result["settled"], result["stopped"]) == (3, False, why)
    assert result["rounds"] < 40
    assert why in said and why in (folder / "report.html").read_text()


# --- counts ---


def test_messages_and_bytes_of_the_rounds_add_up(shipped: dict[str, stackelgrid.Run]) -> None:
    for run in shipped.values():
        *rounds, rest = run.result.traffic
        assert [each.round for each in rounds] == list(range(1, run.result.rounds + 1)) and rest.round is None
        assert sum(each.messages for each in run.result.traffic) == run.result.messages
        assert sum(each.bytes for each in run.result.traffic) == run.result.bytes
        assert sum(each.questions for each in rounds) == run.result.questions
        # A signal of the leader and 4 answers; a signal of each of 4 aggregators and 60 answers.
        assert {each.messages for each in rounds} == {1 + 4 + 4 + 60}
        assert {record["messages"] for record in run.journal} == {1 + 4}
        # Presence: 64, and again once an aggregator has gathered; settlements and receipts; what is cleared at the end.
        assert rest.messages == (64 + 4) + (1 + 4 + 4 + 60) + (64 + 5)
    assert {record["questions"] for record in shipped["newton"].journal[:1]} == {1}
    assert {record["questions"] for record in shipped["loads_only"].journal} == {12, 4}


def test_traffic_of_a_run_whose_messages_are_not_all_counted_has_rounds_alone() -> None:
    one = {"round": 1, "questions": 2, "messages": 3, "bytes": 40}
    inner = [{"aggregator": name, **one} for name in ("a1", "a2", "a2")]
    record = RunRecord("mqtt", "none", 9, rounds=[one], aggregator_rounds=inner, messages=12, bytes=170)
    sums = {"round": 1, "questions": 4, "messages": 12, "bytes": 160}
    assert record.traffic == [sums, {"round": None, "questions": 0, "messages": 0, "bytes": 10}]
    assert replace(record, bytes=150).traffic == [sums]


def test_journal_counts_the_bytes_of_the_leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[int] = Counter()
    delays = MemoryTransport.delays

    def count(self: MemoryTransport, sender: str, receiver: str, publish: Any, now: float) -> Any:
        message = json.loads(publish.payload) if publish.payload else {}
        first = receiver == "a1" or sender != "leader"  # a signal is one message, whoever receives it
        if "leader" in (sender, receiver) and first and publish.topic.endswith(("/signal", "/answer")) and message:
            seen[message["round"]] += len(publish.payload)
        return delays(self, sender, receiver, publish, now)

    monkeypatch.setattr(MemoryTransport, "delays", count)
    run = stackelgrid.run("user_oriented", {"population.homes": 8}, out=tmp_path / "run")
    journal = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert {record["round"]: record["bytes"] for record in journal} == dict(seen)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["questions"] == run.result.questions


# --- parts ---


@given(st.integers(2, 8), st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_update_meets_its_secant_and_stays_negative_semidefinite(slots: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    root, truth_root = random.normal(size=(2, slots, slots))
    known, truth = -root @ root.T - 1e-3 * np.eye(slots), -truth_root @ truth_root.T
    step = random.normal(size=slots)
    updated = meet_secant(known, step, truth @ step)
    np.testing.assert_allclose(updated @ step, truth @ step, rtol=1e-6, atol=1e-6 * np.abs(truth).max())
    np.testing.assert_allclose(updated, updated.T, atol=1e-8 * np.abs(updated).max())
    assert np.linalg.eigvalsh(updated).max() <= 1e-9 * np.abs(updated).max()


def test_load_that_rises_with_its_price_teaches_nothing() -> None:
    known = -np.eye(3)
    assert np.array_equal(meet_secant(known, np.ones(3), np.ones(3)), known)


def test_load_that_does_not_move_along_a_step_is_learnt_so() -> None:
    updated = meet_secant(-np.diag([1.0, 2.0, 3.0]), np.ones(3), np.zeros(3))
    np.testing.assert_allclose(updated @ np.ones(3), 0, atol=1e-12)
    assert np.linalg.eigvalsh(updated).max() <= 1e-12


def test_fit_of_two_answers_is_exact_for_logarithmic_homes() -> None:
    scale, _ = closed_form()
    homes = [Home.model_validate({"horizon": 2, **home}) for home in two_slots("newton")["homes"]]
    prices = np.array([[8.0, 9.5], [9.0, 8.5]])
    before, now = (
        Observation(price, sum(HomeProblem(home).answer(price).load for home in homes), None, np.zeros((2, 2)))
        for price in prices
    )
    np.testing.assert_allclose(fit_scale(before, now, None), scale, rtol=1e-9)
    assert np.array_equal(fit_scale(now, now, np.array([3.0, 4.0])), [3.0, 4.0])


def test_price_bounds_follow_from_the_capacity() -> None:
    company = UtilityCompany(np.zeros(3), np.zeros(3), np.full(3, 2.0), np.array([5.0, np.inf, 0.5]), 1.0, 20.0)
    lower, upper = bound_price(company, scale=np.full(3, 24.0), offset=np.full(3, 1.0))
    # 24 / p - 1 lies in [2, 5] for p in [4, 8]; without an upper bound from price_min on; never for [2, 0.5].
    np.testing.assert_allclose(lower, [4.0, 1.0, 16.0])
    np.testing.assert_allclose(upper, [8.0, 8.0, 16.0])
