"""Scenarios of all games: homes are listed or drawn, and told what is wrong when they are neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stackelgrid.scenarios import Scenario, ScenarioError, dump, list_shipped, load
from stackelgrid.scenarios.yaml_file import parse, spell

GAMES = ("user_oriented", "prosumer", "load_call", "storage_market")
WITH_HORIZON = ("user_oriented", "storage_market")


def shipped_content(game: str) -> dict[str, Any]:
    """The shipped case as its file has it, readable from anywhere."""
    content: dict[str, Any] = parse(dump(load(game)))
    return content


def listed(game: str) -> dict[str, Any]:
    """The shipped case with the homes that would be drawn, or are listed, spelled out."""
    content = shipped_content(game)
    content.pop("population", None)
    content["homes"] = [home.model_dump(mode="json", exclude_none=True) for home in load(game).everyone]
    return content


def read(tmp_path: Path, content: dict[str, Any]) -> Scenario:
    path = tmp_path / "case.yaml"
    path.write_text(spell(content))
    return load(str(path))


@pytest.mark.parametrize("game", GAMES)
def test_homes_are_the_same_when_drawn_or_listed(game: str, tmp_path: Path) -> None:
    content = listed(game)
    for home in content["homes"]:
        home.pop("horizon", None)
    assert read(tmp_path, content).everyone == load(game).everyone


@pytest.mark.parametrize("game", GAMES)
def test_scenario_is_refused_when_homes_are_neither_drawn_nor_listed(game: str, tmp_path: Path) -> None:
    content = {key: value for key, value in listed(game).items() if key != "homes"}
    with pytest.raises(ScenarioError, match="give either population or homes, not both and not neither"):
        read(tmp_path, content)


@pytest.mark.parametrize("game", ["user_oriented", "storage_market"])
def test_scenario_is_refused_when_homes_are_both_drawn_and_listed(game: str, tmp_path: Path) -> None:
    content = {**shipped_content(game), "homes": listed(game)["homes"]}
    assert "population" in content
    with pytest.raises(ScenarioError, match="give either population or homes, not both and not neither"):
        read(tmp_path, content)


@pytest.mark.parametrize("game", GAMES)
def test_scenario_is_refused_when_it_has_no_homes(game: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="for 0 homes; there must be a home for each"):
        read(tmp_path, {**listed(game), "homes": []})


def test_scenario_is_refused_when_a_home_has_another_horizon(tmp_path: Path) -> None:
    content = listed("user_oriented")
    tenant = {"id": "tenant", "horizon": 5, "elastic": [{"max_kw": 1.0, "valuation": 9, "satisfaction": {"alpha": 1}}]}
    with pytest.raises(ScenarioError, match=r"homes\.60\.horizon is 5, slots is 24; make them equal"):
        read(tmp_path, {**content, "homes": [*content["homes"], tenant]})


@pytest.mark.parametrize("game", sorted(set(GAMES) - set(WITH_HORIZON)))
def test_horizon_is_unknown_when_the_game_has_none(game: str, tmp_path: Path) -> None:
    content = listed(game)
    content["homes"][0]["horizon"] = content["slots"]
    with pytest.raises(ScenarioError, match=r"homes\.0\.horizon: unknown key"):
        read(tmp_path, content)


def test_shipped_cases_cover_every_game() -> None:
    assert {load(name).game for name in list_shipped()} == set(GAMES)


@pytest.mark.parametrize(
    ("load_kw", "doubt"),
    [
        ([0.4, 1.2], ""),
        ([0.001, 0.002], "homes.0: its load_kw is 0.036 kWh a day, a home has 0.1 to 100"),
        ([14.0, 20.0], "homes.0: its load_kw is 408 kWh a day, a home has 0.1 to 100"),
        ([400.0, 3000.0], "homes.0: inelastic.0.load_kw is up to 3,000 kW, a home has at most 100"),
    ],
)
def test_home_in_another_unit_is_asked_about(load_kw: list[float], doubt: str, tmp_path: Path) -> None:
    leader = {"objective": "welfare", "baseline_price": 25, "wholesale_price": 10, "mu": 2, "price_max": 60}
    homes = [{"id": f"h{number}", "inelastic": [{"load_kw": load_kw}]} for number in range(2)]
    content = {"schema": 1, "game": "user_oriented", "slots": 2, "leader": leader, "homes": homes}
    asked = "; are its numbers in W or Wh, or energies of intervals taken for kW?"
    assert read(tmp_path, content).find_doubts() == ([f"{doubt}, and 1 more like it{asked}"] if doubt else [])


@pytest.mark.parametrize("name", list_shipped())
def test_shipped_case_leaves_no_doubt(name: str) -> None:
    assert load(name).find_doubts() == []


def test_homes_go_to_the_aggregator_that_they_name_and_the_others_in_turn() -> None:
    homes = [{"id": name, "inelastic": [{"load_kw": [1.0] * 24}]} for name in "abcd"]
    homes[1]["aggregator"] = homes[2]["aggregator"] = "a2"
    leader = {"baseline_price": 9, "wholesale_price": 3, "mu": 1, "price_max": 20}
    scenario = load({"game": "user_oriented", "leader": leader, "aggregators": 2, "homes": homes})
    members = {name: [home.id for (home,) in processes] for name, processes in scenario.households().items()}
    assert members == {"a1": ["a"], "a2": ["b", "c", "d"]}


@pytest.mark.parametrize(
    ("named", "words"),
    [("a9", "homes.0.aggregator: 'a9' is none of a1 to a2"), ("a1", "no home is left for a2")],
)
def test_aggregator_that_is_not_there_or_has_no_home_is_refused(named: str, words: str) -> None:
    homes = [{"id": name, "aggregator": named, "inelastic": [{"load_kw": [1.0] * 24}]} for name in "ab"]
    leader = {"baseline_price": 9, "wholesale_price": 3, "mu": 1, "price_max": 20}
    with pytest.raises(ScenarioError, match=words):
        load({"game": "user_oriented", "leader": leader, "aggregators": 2, "homes": homes})


def three_days(**second: Any) -> dict[str, Any]:
    """Two homes that plan again every six hours."""
    load_kw = [1.0] * 72
    return {
        "game": "user_oriented",
        "calendar": {"start": "2026-06-01T00:00", "every": "6h", "days": 3},
        "leader": {"baseline_price": 20, "wholesale_price": 15, "mu": 4, "price_max": 60},
        "homes": [{"id": "h1", "inelastic": [{"load_kw": load_kw}]}, {"id": "h2"} | second],
    }


@pytest.mark.parametrize(("slot", "session", "begins"), [(30, 2, 7), (72, 9, 49)])
def test_limit_that_is_not_kept_in_a_later_session_is_refused(slot: int, session: int, begins: int) -> None:
    load_kw = [1.0] * 72
    load_kw[slot - 1] = 5.0
    within = f"in slot {slot - begins + 1} it draws .* widen draw_limit"
    with pytest.raises(ScenarioError, match=rf"home h2: {within} \(session {session}, which begins in slot {begins} "):
        load(three_days(inelastic=[{"load_kw": load_kw}], draw_limit={"max_kw": 3}))


def test_many_sessions_are_rehearsed_up_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stackelgrid.scenarios.base._MOST_REHEARSED", 2)
    with pytest.raises(ScenarioError, match=r"\(session 12, which begins in slot 67 of the run\)"):
        load(three_days(inelastic=[{"load_kw": [1.0] * 71 + [5.0]}], draw_limit={"max_kw": 3}))


def test_car_that_is_charged_in_sessions_before_is_not_refused() -> None:
    trip = {"leave": 39, "back": 42, "uses_kwh": 30}  # at its first level it could not leave in session 7
    car = {"capacity_kwh": 40, "initial_kwh": 5, "charge_kw": 5, "wear": {"fast": 0.1}, "trips": [trip]}
    assert len(load(three_days(ev=[car])).sessions) == 12


def test_case_that_was_changed_claims_no_fit() -> None:
    fitted = load("user_oriented")
    assert "leader.mu" in fitted.calibrated
    assert load("user_oriented", seed=fitted.seed).calibrated == fitted.calibrated
    assert load("user_oriented", ["population.homes=4"]).calibrated == {}
    assert load("user_oriented", seed=fitted.seed + 1).calibrated == {}


def test_scenario_with_other_homes_has_their_places() -> None:
    scenario = load("user_oriented", ["population.homes=4", "aggregators=2"])
    first, *_ = scenario.everyone
    assert len(scenario.topology.names) == 7
    alone = scenario.with_homes([first])
    assert alone.everyone == [first]
    assert set(alone.topology.names) - {"leader", "a1", "a2"} == {first.id}
