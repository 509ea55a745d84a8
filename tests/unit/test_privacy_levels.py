"""The level of privacy: what a scenario may choose, what homes then answer, and what the result says of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import stackelgrid
from stackelgrid.games.user_oriented.home import UserOrientedHomes
from stackelgrid.registry import list_algorithms
from stackelgrid.report.tables import headline
from stackelgrid.rounds.settings import PrivacySettings
from stackelgrid.run_result import parse
from stackelgrid.scenarios import Scenario, ScenarioError, load
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.result import build_result

SMALL = ("population.homes=4", "aggregators=2")


def test_levels_at_their_defaults_leave_no_trace_in_files() -> None:
    assert PrivacySettings().model_dump() == {"questions_per_session": 100}
    assert "privacy" not in load("storage_market").model_dump()


@pytest.mark.parametrize("game", ["prosumer", "load_call"])
@pytest.mark.parametrize("level", ["sums=committee", "sensitivity=none"])
def test_game_that_asks_each_home_for_itself_refuses_the_level_with_the_reason(game: str, level: str) -> None:
    key, _, value = level.partition("=")
    with pytest.raises(ScenarioError, match=rf"privacy\.{key}: {value}; in this game each home is asked for itself"):
        load(game, [f"privacy.{level}"])
    assert load(game, ["privacy.sums=off", "privacy.minimum_group=30"]).privacy.minimum_group == 30


@pytest.mark.parametrize(
    ("game", "key"),
    [
        ("prosumer", "price_band=[0, 1]"),
        ("load_call", "price_band=[0, 1]"),
        ("prosumer", "questions_per_session=7"),
        ("load_call", "questions_per_session=7"),
        ("storage_market", "questions_per_session=7"),
    ],
)
def test_bound_that_homes_of_the_game_would_not_keep_is_refused(game: str, key: str) -> None:
    with pytest.raises(ScenarioError, match=rf"privacy\.{key.partition('=')[0]}: homes of this game"):
        load(game, [f"privacy.{key}"])


def committee(*changes: str) -> Scenario:
    """Load a street of 60 homes with masked sums."""
    return load("user_oriented", ["privacy.sums=committee", "aggregators=3", *changes])


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        (["aggregators=4"], r"aggregators: a1 has 15 homes, .*minimum_group 20 or more; lower aggregators"),
        (["homes_per_process=5"], "homes_per_process: a1 has 4 processes, of which 5 .*lower it"),
        (["rounds.missing=exclude"], r"rounds\.missing: exclude, .* set it to hold"),
        (["rounds.quarantine_for=[silent, refused]"], r"rounds\.quarantine_for: silent, .* leave refused alone"),
    ],
)
def test_masked_sums_are_refused_where_one_home_could_show(changes: list[str], refused: str) -> None:
    with pytest.raises(ScenarioError, match=refused):
        committee(*changes)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["homes_per_process=4"],
        ["rounds.missing=fail"],
        ["rounds.quarantine_for=[silent]", "rounds.quarantine_after=0"],
    ],
)
def test_masked_sums_are_allowed_where_groups_are_large_and_nobody_is_left_out(changes: list[str]) -> None:
    assert committee(*changes).privacy_settings().sums == "committee"


def test_minimum_group_is_no_less_than_a_committee() -> None:
    with pytest.raises(ScenarioError, match=r"privacy\.minimum_group"):
        load("user_oriented", ["privacy.minimum_group=4"])


@pytest.mark.parametrize("algorithm", list_algorithms("user_oriented"))
@pytest.mark.parametrize("objective", ["stackelberg", "welfare"])
def test_homes_that_keep_sensitivities_play_with_algorithms_that_ask_none_alone(algorithm: str, objective: str) -> None:
    changes = [*SMALL, f"leader.algorithm={algorithm}"]
    changes += [f"leader.objective={objective}", "privacy.sensitivity=none", "leader.max_rounds=6"]
    if algorithm == "newton":
        with pytest.raises(
            ScenarioError, match=r"leader\.algorithm: newton asks .*; use leader\.algorithm: loads_only"
        ):
            load("user_oriented", changes)
        return
    record = in_memory.play(load("user_oriented", changes))
    assert len(record.rounds) > 1
    assert record.rejected == {}
    assert record.missing == []


@pytest.mark.parametrize("algorithm", ["loads_only", "dual_decomposition"])
def test_question_that_confirms_a_price_asks_for_no_sensitivity_that_homes_may_keep(algorithm: str) -> None:
    scenario = load("user_oriented", [*SMALL, f"leader.algorithm={algorithm}", "privacy.sensitivity=none"])
    leader, homes = scenario.leader_settings().strategy(scenario.session), UserOrientedHomes(scenario.everyone)
    decision = leader.open()
    while not decision.settle:
        assert not decision.ask.asks_sensitivity
        decision = leader.decide(decision.ask, {"a1": homes.answer(decision.ask)}, ())
    assert not decision.ask.asks_sensitivity
    assert leader.decide(decision.ask, {"a1": homes.answer(decision.ask)}, ()).settle


@pytest.mark.parametrize(
    ("game", "sensitivity", "questions"),
    [("user_oriented", "full", 100), ("prosumer", "none", None), ("load_call", "none", None)],
)
def test_result_tells_the_level_that_was_played(game: str, sensitivity: str, questions: int | None) -> None:
    scenario = load(game, ["leader.max_rounds=1"])
    content = build_result(scenario, in_memory.play(scenario)).content()
    assert content["privacy"] == {
        "sums": "off",
        "sensitivity": sensitivity,
        "minimum_group": 20,
        "price_band": None,
        "questions_per_session": questions,
    }


@pytest.mark.parametrize(("certified", "keys"), [(False, "unsigned"), (True, "certificates")])
def test_result_tells_who_vouches_for_the_keys_of_masks(certified: bool, keys: str) -> None:
    changes = ["population.homes=10", "aggregators=2", "leader.max_rounds=1"]
    scenario = load("user_oriented", [*changes, "privacy.sums=committee", "privacy.minimum_group=5"])
    record = in_memory.play(scenario)
    record.certified = certified
    privacy = build_result(scenario, record).privacy
    assert privacy is not None
    assert (privacy.sums, privacy.minimum_group, privacy.keys) == ("committee", 5, keys)


def test_report_tells_the_level_in_a_line() -> None:
    run = stackelgrid.run(
        "user_oriented",
        {
            "population.homes": 4,
            "aggregators": 2,
            "leader.max_rounds": 1,
            "leader.algorithm": "loads_only",
            "privacy": {"sensitivity": "none", "price_band": [0, 40], "questions_per_session": 100},
        },
    )
    said = dict(headline(run.result))["Privacy"]
    assert said == (
        "aggregators read the answer of each home; without sensitivities; at most 100 questions a session; "
        "prices from 0 to 40"
    )
    content = run.result.content()
    content["privacy"] |= {"sums": "committee", "keys": "certificates"}
    assert dict(headline(parse(content)))["Privacy"].startswith(
        "aggregators read sums of 20 homes or more, keys signed by certificates; "
    )
    del content["privacy"]
    assert "Privacy" not in dict(headline(parse(content)))


def test_home_whose_sums_are_not_masked_imports_nothing_that_encrypts() -> None:
    loaded = "import sys, emc_node.__main__, emc_node.config; print('cryptography' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
