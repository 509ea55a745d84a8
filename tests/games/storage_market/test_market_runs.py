"""Whole runs of the storage market, their outcome and their certificate."""

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from market_cases import RTS, UNITS, reference_dispatch, scenario_file

from stackelgrid.games.storage_market.home.market_home import StorageMarketHomes
from stackelgrid.games.storage_market.messages import HomesAnswer, Tariff, Turn
from stackelgrid.games.storage_market.outcome import StorageMarketOutcome
from stackelgrid.games.storage_market.report import key_figures
from stackelgrid.run_record import RunRecord
from stackelgrid.run_result import RunResult
from stackelgrid.scenarios import Scenario, ScenarioError, load
from stackelgrid.soak.cases import draw_scenario
from stackelgrid.testbed import in_memory
from stackelgrid.transport.base import Publish
from stackelgrid.transport.memory import MemoryTransport


@functools.cache
def run_record(*overrides: str) -> tuple[Scenario, RunRecord, StorageMarketOutcome]:
    scenario = load("storage_market", list(overrides))
    end = in_memory.play(scenario)
    assert (end.failures, end.rejected, end.missing) == ({}, {}, [])
    return scenario, end, scenario.outcome(end)


def dump(outcome: StorageMarketOutcome) -> str:
    return json.dumps(outcome.content(), allow_nan=False)


@functools.cache
def certificate_of_shipped_case() -> dict[str, Any]:
    scenario, _, outcome = run_record()
    return json.loads(json.dumps(scenario.certificate(outcome, 100), allow_nan=False))


def test_shipped_case_settles_within_100_rounds() -> None:
    scenario, end, outcome = run_record()
    assert end.settled
    assert end.conclusion["complete"]
    assert len(end.rounds) <= 100
    assert set(outcome.homes) == {home.id for home in scenario.everyone}
    assert len(outcome.homes) == 54


def test_shipped_case_is_as_the_docs_describe_it() -> None:
    scenario, _, outcome = run_record()
    assert [sum(home.battery.capacity_kwh for p in s for home in p) for s in scenario.households().values()] == (
        pytest.approx([20_000, 16_000])
    )
    np.testing.assert_allclose(outcome.baseline_load_mw, RTS)
    appliances = sum(a.energy_kwh for home in scenario.everyone for a in home.appliances) / 1000
    assert appliances == pytest.approx(0.1 * RTS.sum())
    assert outcome.baseline_supply_cost == pytest.approx(reference_dispatch(UNITS, RTS)[0], rel=1e-8)


def test_shipped_case_settles_in_an_equilibrium() -> None:
    certificate = certificate_of_shipped_case()
    assert certificate["feasible"]
    assert abs(certificate["gap"]) <= 1e-9
    assert abs(certificate["dispatch_gap"]) <= 1e-9
    assert certificate["price_residual"] <= 1e-5
    assert certificate["slope_residual"] <= 1e-6
    assert certificate["max_dra_regret"] <= 1e-9
    assert certificate["leader_regret"] <= 1e-9
    assert certificate["max_home_regret"] <= 1e-6
    assert certificate["integrality_regret"] <= certificate["inertia"] <= 0.01
    assert 0 <= certificate["integrality_gap"] + 1e-12 <= 1e-6
    assert certificate["balance_residual"] <= 1e-9
    assert certificate["battery_residual"] <= 1e-9
    assert certificate["violation"] <= 1e-9


def test_outcome_balances_power_in_every_hour() -> None:
    scenario, _, outcome = run_record()
    supplied = np.sum(list(outcome.dispatch_mw.values()), axis=0) + np.sum(list(outcome.sold_mw.values()), axis=0)
    np.testing.assert_allclose(supplied, outcome.demand_mw, atol=1e-9)
    changed = np.zeros(24)
    for home in scenario.everyone:
        day = outcome.homes[home.id]
        changed += (np.array(day.load_kw) - home.preferred_load() + day.charge_kw) / 1000
    np.testing.assert_allclose(RTS + changed, outcome.demand_mw, atol=1e-9)


def test_market_lowers_cost_peak_and_par_and_loses_some_energy() -> None:
    _, _, outcome = run_record()
    assert outcome.supply_cost < outcome.supply_cost_without < outcome.baseline_supply_cost
    assert outcome.total_cost < outcome.supply_cost_without
    assert outcome.par < outcome.par_without < outcome.baseline_par
    assert outcome.energy_by_period.peak < outcome.energy_by_period_without.peak
    assert outcome.cost_by_period.peak < outcome.cost_by_period_without.peak
    losses = sum(outcome.losses_mwh.values())
    assert losses > 0
    more = outcome.energy_by_period.total - outcome.energy_by_period_without.total
    stored = sum(level[-1] - outcome.fleet[name].initial for name, level in outcome.level_mwh.items())
    assert more == pytest.approx(losses + stored, abs=1e-9)
    # "At all times" is not so: the valley, in which batteries charge, costs more than without the market.
    assert outcome.cost_by_period.valley > outcome.cost_by_period_without.valley


def test_settled_bids_keep_their_caps_and_earn() -> None:
    _, _, outcome = run_record()
    for (name, sold), a, wear in zip(outcome.sold_mw.items(), (0.15, 0.12), (2, 3), strict=True):
        hours = zip(outcome.price, sold, outcome.charge_mw[name], strict=True)
        earned = sum(price * (q - u) - a * q**2 - wear * q for price, q, u in hours)
        assert outcome.payoff[name] == pytest.approx(earned)
        assert earned > 0
        assert (np.array(sold) <= np.array(outcome.sales_cap_mw[name]) + 1e-9).all()
        assert min(outcome.supply_slope[name]) >= 1 - 1e-9
    caps = np.sum(list(outcome.sales_cap_mw.values()), axis=0)
    np.testing.assert_allclose(caps, outcome.theta * np.array(outcome.load_mw), rtol=1e-6)
    selling = np.sum(list(outcome.sold_mw.values()), axis=0) > np.sum(list(outcome.charge_mw.values()), axis=0)
    assert selling.sum() > 5
    assert (np.array(outcome.clearing_price) <= np.array(outcome.price_cap) + 1e-9)[selling].all()


def test_supply_cost_falls_in_every_round_of_the_schedule() -> None:
    _, end, _ = run_record()
    costs = [record["supply_cost"] for record in end.rounds if record["phase"] == "schedule"]
    assert len(costs) > 10
    for before, after in itertools.pairwise(costs):
        assert after <= before * (1 + 1e-12)


def test_outcome_has_the_same_bytes_when_the_seed_is_the_same() -> None:
    scenario, end, outcome = run_record()
    again = in_memory.play(scenario)
    assert dump(scenario.outcome(again)) == dump(outcome)
    assert (again.messages, again.bytes) == (end.messages, end.bytes)
    assert run_record("seed=7")[2].price != outcome.price


def test_price_is_the_same_when_homes_share_a_process() -> None:
    _, end, outcome = run_record()
    _, other_end, other = run_record("homes_per_process=6")
    assert len(other_end.rounds) == len(end.rounds)
    np.testing.assert_allclose(other.price, outcome.price, rtol=1e-7)  # bids come to rest within that
    assert other.homes.keys() == outcome.homes.keys()


def test_leader_widens_theta_while_that_lowers_its_cost() -> None:
    _, end, outcome = run_record("leader.theta=0.0025")
    assert end.settled
    cleared = {record["theta"]: record["total_cost"] for record in end.rounds if record["phase"] == "market"}
    assert next(iter(cleared)) == 0.0025
    assert outcome.theta == 0.01  # at which no cap binds
    assert cleared[0.01] < cleared[0.005] < cleared[0.0025]
    _, _, wide = run_record()
    assert outcome.total_cost == pytest.approx(wide.total_cost, rel=1e-9)


def test_caps_on_sales_and_on_their_price_bind_in_the_capped_case() -> None:
    scenario = load("storage_market_capped")
    end = in_memory.play(scenario)
    assert end.settled
    outcome = scenario.outcome(end)
    price, paid = np.array(outcome.price), np.array(outcome.clearing_price)
    sold, caps = (np.array(list(each.values())) for each in (outcome.sold_mw, outcome.sales_cap_mw))
    assert outcome.theta == scenario.leader.max_theta == 0.008
    assert (sold > caps - 1e-6).any(axis=1).all(), "each DRA sells as much as it may in some hour"
    capped = price > 45.1
    assert capped.any() and (paid == np.minimum(price, 45)).all()
    assert sold[:, capped].min() > 0.1, "sales go on where they are paid less than the price"
    certificate = scenario.certificate(outcome, 50)
    assert certificate["feasible"]
    for figure in ("max_dra_regret", "max_home_regret", "leader_regret"):
        assert certificate[figure] <= 1e-6
    free = certificate["without_caps"]
    assert free["supply_cost"] < outcome.supply_cost < outcome.supply_cost_without
    assert outcome.total_cost < free["total_cost"] < outcome.supply_cost_without, "caps are the leader's gain"
    assert all(outcome.payoff[name] < free["payoff"][name] for name in outcome.payoff)
    assert certificate["best_other_theta"] < 0.008


@pytest.mark.parametrize("number", [1, 9, 18, 39])
def test_market_settles_in_an_equilibrium_on_random_scenarios(number: int) -> None:
    """Ramps and limits of generators bind in some, caps in others."""
    scenario = draw_scenario("storage_market", number)
    end = in_memory.play(scenario)
    assert end.settled
    certificate = scenario.certificate(scenario.outcome(end), 20)
    assert certificate["feasible"]
    assert certificate["max_home_regret"] <= 1e-6
    assert certificate["integrality_regret"] <= certificate["inertia"]
    assert certificate["max_dra_regret"] <= 1e-6
    assert certificate["slope_residual"] <= 1e-5
    assert certificate["gap"] <= 1e-8


def test_market_settles_when_there_are_six_dras() -> None:
    dras = json.dumps([{"homes": 2, "quadratic": 0.01, "wear": 0.1 * number} for number in range(6)])
    battery = "{capacity_kwh: 4000, power_kw: 1500, initial_kwh: 400}"
    scenario, end, outcome = run_record("population.homes=12", f"population.battery={battery}", f"dras={dras}")
    assert end.settled
    assert len(outcome.sold_mw) == 6
    certificate = scenario.certificate(outcome, 10)
    assert certificate["max_dra_regret"] <= 1e-6


def test_scenario_of_the_docs_settles(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/games/storage_market.md").read_text()
    path = tmp_path / "documented.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    scenario = load(str(path))
    end = in_memory.play(scenario)
    assert end.settled
    assert scenario.outcome(end).supply_cost < scenario.outcome(end).baseline_supply_cost


def test_dra_sells_nothing_when_its_homes_have_no_battery(tmp_path: Path) -> None:
    scenario = load(scenario_file(tmp_path))
    end = in_memory.play(scenario)
    assert end.settled
    outcome = scenario.outcome(end)
    assert max(outcome.sold_mw["a1"]) > 0.1
    assert max(outcome.sold_mw["a2"]) == max(outcome.charge_mw["a2"]) == 0
    assert outcome.fleet["a2"].installed == 0
    assert outcome.payoff["a2"] == 0
    assert outcome.homes["y"].load_kw[3] < 1500  # moved off the peak
    assert scenario.certificate(outcome, 20)["max_dra_regret"] <= 1e-6


def test_market_changes_nothing_when_there_is_no_battery(tmp_path: Path) -> None:
    scenario = load(scenario_file(tmp_path, homes=[{"id": "x"}, {"id": "y"}]))
    end = in_memory.play(scenario)
    assert end.settled
    outcome = scenario.outcome(end)
    assert outcome.supply_cost == outcome.supply_cost_without == outcome.baseline_supply_cost
    assert scenario.certificate(outcome, 1)["max_regret"] <= 1e-9


class Lossy(MemoryTransport):
    """Loses a third of what is sent without guarantee, and repeats another third."""

    def delays(self, sender: str, receiver: str, publish: Publish, now: float) -> Sequence[float]:
        once = super().delays(sender, receiver, publish, now)
        if publish.qos > 0:
            return once
        return [(), once, (*once, *once)][self._stream(sender, receiver).integers(3)]


def test_outcome_has_the_same_bytes_when_the_network_loses_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["population.homes=8", "dras.0.homes=4", "dras.1.homes=4", "rounds.tries=40"]
    scenario = load("storage_market", few)
    end = in_memory.play(scenario)
    monkeypatch.setattr(in_memory, "MemoryTransport", Lossy)
    lossy = in_memory.play(scenario)
    assert lossy.settled
    assert lossy.messages > end.messages
    assert dump(scenario.outcome(lossy)) == dump(scenario.outcome(end))


TAMPERED = {
    "a bid that sells less": (("sold_mw", "a1", 3), -0.1, "max_dra_regret", 1e-3),
    "another slope": (("slope", 3), 0.1, "slope_residual", 0.01),
    "a bid that sells what is not there": (("sold_mw", "a1", 3), 0.5, "violation", 0.1),
    "a price that is not the dual": (("price", 2), 0.5, "price_residual", 0.1),
    "another dispatch": (("dispatch_mw", "g", 3), 1.0, "balance_residual", 0.5),
    "a battery that forgets": (("homes", "x", "battery_kwh", 4), 50.0, "battery_residual", 1e-3),
    "an appliance that shirks": (("homes", "y", "appliances_kwh", 0, 0), 50.0, "violation", 1e-3),
    "an appliance that runs at the peak": (("homes", "y", "appliances_kwh", 0, 3), 900.0, "max_home_regret", 0.05),
}


@pytest.mark.parametrize(("place", "change", "figure", "least"), TAMPERED.values(), ids=TAMPERED)
def test_certificate_exceeds_its_limit_when_the_outcome_is_changed(
    tmp_path: Path, place: tuple[Any, ...], change: float, figure: str, least: float
) -> None:
    scenario = load(scenario_file(tmp_path))
    outcome = scenario.outcome(in_memory.play(scenario))
    assert scenario.certificate(outcome, 5)[figure] < least / 10
    content = outcome.content()
    *path, last = place
    numbers = functools.reduce(lambda part, key: part[key], path, content)
    numbers[last] += change
    assert scenario.certificate(StorageMarketOutcome.model_validate(content), 5)[figure] > least


def test_key_figure_names_the_markets_own_change() -> None:
    _, _, outcome = run_record()
    rows = dict(key_figures(RunResult.model_construct(money="dollars"), outcome))
    change = 100 * (outcome.supply_cost / outcome.supply_cost_without - 1)
    assert rows["Supply cost"].endswith(f"dollars (market: −{-change:.2f} %)")


@settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000), st.integers(1, 8), st.floats(0.02, 0.3), st.integers(1, 8), st.floats(1e-4, 0.02))
def test_market_settles_on_any_small_scenario(seed: int, homes: int, share: float, groups: int, inertia: float) -> None:
    overrides = [
        f"seed={seed}",
        f"population.homes={homes}",
        f"population.flexible_share={share}",
        f"leader.groups={groups}",
        f"leader.inertia={inertia}",
        f"dras=[{{homes: {homes}, quadratic: 0.1, wear: 1}}]",
    ]
    try:
        scenario = load("storage_market", overrides)
    except ScenarioError as error:
        assume("usually draw" not in str(error))
        raise
    end = in_memory.play(scenario)
    assert end.settled
    last = end.rounds[-1]
    assert last["wanted_mwh"] == 0
    assert last["bid_change"] <= 1e-7
    assert last["regret"] <= 5e-7
    assert last["supply_cost"] <= end.rounds[0]["supply_cost"] * (1 + 1e-9)


# --- one home that lies ---

TWELVE = ("population.homes=12", "dras=[{homes: 6, quadratic: 0.15, wear: 2}, {homes: 6, quadratic: 0.12, wear: 3}]")
Change = Callable[[HomesAnswer, Turn], dict[str, Any]]


def rank(by: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(by))


def play_lie(monkeypatch: pytest.MonkeyPatch, liar: str, change: Change) -> RunRecord:
    """Play the small market with one home whose answers are changed on their way."""
    answer = StorageMarketHomes.answer

    def lie(homes: StorageMarketHomes, signal: Tariff) -> HomesAnswer:
        true = answer(homes, signal)
        told = homes._schedules[0].home.id == liar
        return true.model_copy(update=change(true, signal.turn)) if told else true

    with monkeypatch.context() as patched:
        patched.setattr(StorageMarketHomes, "answer", lie)
        return in_memory.play(load("storage_market", list(TWELVE)))


def test_lie_about_offers_changes_the_price_no_more_than_the_load_can(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, clean, _ = run_record(*TWELVE)
    price = np.array(clean.rounds[-1]["price"])
    liar = scenario.everyone[3].id
    connection = scenario.connection_kw(scenario.everyone[3])
    flat = np.full(24, connection / 2)
    at_dear, at_cheap = (np.where(rank(by) < 12, connection, 0.0).tolist() for by in (-price, price))

    def move(change: Change) -> float:
        run = play_lie(monkeypatch, liar, change)
        assert run.settled and not run.failures
        assert len(run.rounds) <= 150
        return float(np.max(np.abs(np.array(run.rounds[-1]["price"]) / price - 1)))

    def stay(answer: HomesAnswer, load: list[float]) -> dict[str, Any]:
        usual = flat.tolist()
        return {
            "load_kw": load,
            "usual_kw": usual,
            "offer_kw": load,
            "starts_kw": load,
            "wanted_kwh": 0.0,
            "regret": 0.0,
        }

    by_load = max(move(lambda answer, turn, load=load: stay(answer, load)) for load in (at_dear, at_cheap))
    random = np.random.default_rng(5)
    lies: list[Change] = [
        lambda answer, turn: {"wanted_kwh": sum(answer.load_kw)},
        lambda answer, turn: {"wanted_kwh": 0.0 if turn.groups == 1 else sum(answer.load_kw)},
        lambda answer, turn: {"regret": 1.0, "wanted_kwh": 0.0},
        lambda answer, turn: {"load_kw": random.permutation(answer.load_kw).tolist()},
        lambda answer, turn: {"usual_kw": random.permutation(answer.usual_kw).tolist()},
        lambda answer, turn: {"offer_kw": random.permutation(answer.load_kw).tolist()},
        lambda answer, turn: {"offer_kw": answer.load_kw, "regret": 1.0},
    ]
    for change in lies:
        assert move(change) <= 1.5 * by_load
