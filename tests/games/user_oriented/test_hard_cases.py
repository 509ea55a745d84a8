"""Games at the edge of what can be played: each ends in order, at the price that a closed form or a search gives."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stackelgrid
from benchmarks.random_games.best_price import find_best_price
from benchmarks.random_games.best_welfare import find_best_welfare
from stackelgrid import cli
from stackelgrid.games.user_oriented.leader import Objective
from stackelgrid.runner import Run
from stackelgrid.scenarios import yaml_file

TRUTH = Path(__file__).parent / "truth"
OBJECTIVES: tuple[Objective, ...] = ("stackelberg", "welfare")
Content = dict[str, Any]


def game(slots: int, homes: list[Content], **leader: Any) -> Content:
    company = {"baseline_price": 4, "wholesale_price": 2.0, "mu": 0.5, "price_max": 12} | leader
    return {"schema": 1, "game": "user_oriented", "slots": slots, "leader": company, "homes": homes}


def home(name: str, *, full: float = 4, valuation: float = 9, omega: Any = 1, alpha: float = 2) -> Content:
    taste = {"form": "log", "omega": omega, "alpha": alpha}
    return {"id": name, "elastic": [{"max_kw": full, "valuation": valuation, "satisfaction": taste}]}


def per_slot(random: np.random.Generator, slots: int, low: float, high: float) -> list[float]:
    return random.uniform(low, high, slots).tolist()


def play(content: Content, objective: Objective) -> Run:
    """Play a game, and check what holds of every run that ends in order."""
    content = content | {"leader": content["leader"] | {"objective": objective}}
    run = stackelgrid.run(content)
    leader, outcome = run.scenario.leader, run.outcome
    assert run.settled
    assert leader.price_min <= min(outcome.price) <= max(outcome.price) <= leader.price_max
    np.testing.assert_allclose(outcome.load_kw, np.sum([h.load_kw for h in outcome.homes.values()], axis=0), atol=1e-9)
    json.dumps([run.result.content(), run.journal], allow_nan=False)
    return run


def find_loss(content: Content, run: Run) -> float:
    """Give what the run loses against the best of a search of another kind, relative to max(|best|, 1)."""
    if run.scenario.leader.objective == "stackelberg":
        best, reached = find_best_price(spell_out(content)).utility, run.outcome.leader_utility
    else:
        best, reached = find_best_welfare(spell_out(content)).utility, run.outcome.system_utility
    return float((best - reached) / max(abs(best), 1))


def spell_out(content: Content) -> Content:
    """Give every leader's value that a game leaves out."""
    wholesale = np.broadcast_to(content["leader"]["wholesale_price"], content["slots"]).tolist()
    return content | {"leader": {"price_min": 0.0} | content["leader"] | {"wholesale_price": wholesale}}


# --- nobody buys ---


PRICED_OUT = game(
    3,
    [home("a", valuation=0.2), home("b", valuation=0.2)],
    baseline_price=0.3,
    wholesale_price=90,
    price_max=0.5,
)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_run_has_no_par_when_all_demand_is_priced_out(objective: Objective) -> None:
    run = play(PRICED_OUT, objective)
    assert run.outcome.load_kw == [0, 0, 0]
    assert run.result.content()["outcome"]["par"] is None
    assert run.outcome.baseline_par == pytest.approx(1)


def test_report_and_summary_say_that_nobody_draws(tmp_path: Path) -> None:
    run = stackelgrid.run(PRICED_OUT, out=tmp_path / "run", certify=True, report=True)
    assert run.certificate is not None and run.certificate.feasible
    assert "none, as nobody draws" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["outcome"]["par"] is None
    assert stackelgrid.load(tmp_path / "run").outcome == run.outcome


@pytest.mark.parametrize(
    ("wholesale", "doubt"),
    [
        (90, "leader.wholesale_price: 90 lies above price_max 0.5, so that"),
        ([0.1, 90, 0.1], "leader.wholesale_price: 90 lies above price_max 0.5 in 1 of 3 slots, so that"),
        (0.5, None),
    ],
)
def test_check_asks_for_the_unit_of_a_wholesale_price_above_price_max(
    wholesale: Any,
    doubt: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "game.yaml"
    file.write_text(json.dumps(PRICED_OUT | {"leader": PRICED_OUT["leader"] | {"wholesale_price": wholesale}}))
    monkeypatch.setattr(sys, "argv", ["stackelgrid", "check", str(file)])
    assert cli.main() == 0
    out, err = capfd.readouterr()
    assert "no errors" in out
    assert (f"{file}: {doubt}" in err and "is it per MWh?" in err) if doubt else err == ""


# --- few slots, few homes, little to choose ---


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_price_is_the_best_one_when_wholesale_is_zero_or_below_in_some_hours(objective: Objective) -> None:
    random = np.random.default_rng(4)
    homes = [home(f"h{n}", omega=per_slot(random, 6, 0.6, 1.4), valuation=random.uniform(6, 14)) for n in range(5)]
    content = game(6, homes, wholesale_price=[3.0, 2.5, 0.0, -4.0, 0.0, 2.0])
    assert find_loss(content, play(content, objective)) <= 1e-6


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("slots", [1, 3])
def test_price_of_one_log_home_has_its_closed_form_without_a_charge_on_deviation(
    objective: Objective, slots: int
) -> None:
    """x = x_max (v / (omega p) - 1 / alpha): p* = sqrt(c v alpha / omega), and p = c for the welfare."""
    content = game(slots, [home("one", full=20)], wholesale_price=9.0, mu=0, baseline_price=14, price_max=18)
    run = play(content, objective)
    best = np.sqrt(9 * 9 * 2) if objective == "stackelberg" else 9
    np.testing.assert_allclose(run.outcome.price, best, rtol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_five_identical_homes_have_the_price_of_one(objective: Objective) -> None:
    omega = per_slot(np.random.default_rng(7), 4, 0.7, 1.3)
    runs = [
        play(game(4, [home(f"h{n}", omega=omega, full=20) for n in range(count)], baseline_price=8), objective)
        for count in (1, 5)
    ]
    np.testing.assert_allclose(runs[1].outcome.price, runs[0].outcome.price, rtol=1e-6)
    assert runs[1].outcome.leader_utility == pytest.approx(5 * runs[0].outcome.leader_utility, rel=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_inelastic_homes_pay_the_highest_price_or_the_marginal_cost(objective: Objective) -> None:
    load = np.array([2.0, 5.0, 3.0])
    content = game(3, [{"id": "stiff", "inelastic": [{"load_kw": load.tolist()}]}])
    run = play(content, objective)
    cost = 2 + 2 * (0.5 / load.mean()) * (load - load.mean())
    np.testing.assert_allclose(run.outcome.price, np.full(3, 12) if objective == "stackelberg" else cost, rtol=1e-6)


def test_best_price_lies_on_a_kink_in_every_slot() -> None:
    """U' at full power is v (omega - alpha): below it all is sold, above it revenue falls, if alpha < omega / 2."""
    omega = [0.8, 1.0, 1.2, 1.4]
    taste = {"form": "quadratic", "omega": omega, "alpha": 0.25}
    homes = [{"id": f"h{n}", "elastic": [{"max_kw": 4, "valuation": 8, "satisfaction": taste}]} for n in range(3)]
    run = play(game(4, homes, wholesale_price=0, mu=0), "stackelberg")
    np.testing.assert_allclose(run.outcome.price, 8 * (np.array(omega) - 0.25), rtol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_price_is_the_only_one_within_equal_bounds(objective: Objective) -> None:
    run = play(game(3, [home("a"), home("b")], price_min=4, price_max=4), objective)
    assert run.outcome.price == [4, 4, 4]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_quarters_of_a_day_are_priced_as_well_as_hours(objective: Objective) -> None:
    random = np.random.default_rng(96)
    homes = [home(f"h{n}", omega=per_slot(random, 96, 0.8, 1.2), full=9) for n in range(4)]
    content = game(96, homes, wholesale_price=per_slot(random, 96, 1, 4), baseline_price=8, mu=0.2)
    assert find_loss(content, play(content, objective)) <= 1e-6


# --- capacity ---


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_capacity_that_no_price_keeps_is_exceeded_as_little_as_possible(objective: Objective) -> None:
    stiff = {"id": "stiff", "inelastic": [{"load_kw": [5.0, 1.0]}]}
    run = play(game(2, [stiff, home("soft")], capacity={"max_kw": 3}), objective)
    least = 5 + 4 * (9 / 12 - 1 / 2)  # at price_max; the violation is that of the worst slot
    assert max(run.outcome.load_kw) == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_capacity_is_kept_when_no_load_bends_at_the_first_prices(objective: Objective) -> None:
    content = yaml_file.parse((TRUTH / "capacity_between_slopes.yaml").read_text())
    run = play(content, objective)
    assert run.outcome.load_kw[0] <= 5.5 * (1 + 1e-6)
    if objective == "welfare":
        assert run.outcome.price[0] == pytest.approx(9 / 13, rel=1e-6)


def test_leader_finds_the_higher_of_two_hills() -> None:
    content = yaml_file.parse((TRUTH / "two_hills.yaml").read_text())
    run = play(content, "stackelberg")
    assert run.outcome.leader_utility == pytest.approx(10, rel=1e-9)
    assert run.outcome.price[0] == pytest.approx(5, rel=1e-5)
