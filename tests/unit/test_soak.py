"""The soak test: fresh seeds every time, seeds that once broke a promise, and violations that have to be found."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stackelgrid.cli import app
from stackelgrid.errors import ConfigError
from stackelgrid.faults.plan import Crash, FaultPlan
from stackelgrid.scenarios import dump
from stackelgrid.soak import play as played
from stackelgrid.soak.cases import Case, draw_case, draw_scenario, games
from stackelgrid.soak.play import Evidence, SentMessage, play
from stackelgrid.soak.promises import PROMISES, find_violations
from stackelgrid.soak.replay import replay
from stackelgrid.soak.tally import judge, soak
from stackelgrid.testbed import fault_plans

FRESH, FRESH_S = 100, 30.0

FOUND = {
    51: "a provider that was held, half-way to its equilibrium, kept the leader from settling",
    107: "an aggregator died of a round in which everybody was excluded",
    112: "the same, the loss on other links",
    80088: "an aggregator that left while its connection was cut turned in circles",
    1795312528032: "an aggregator whose consumers were excluded was refused for telling so",
    1795314384220: "an aggregator that came back gave the number of an unfinished question to another",
    1795315379293: "homes repeated their answer to an aggregator that had lost its disk and asked anew from one",
    1795316053217: "a prosumer that came back while prices went half-way kept the price of nothing",
    1795321827101: "an aggregator that had lost its disk vouched for calls that nobody had answered",
    1795314384067: "bids that a lie had turned back crept for ever after",
    1795881663809: "a leader that left over a narrow connection dropped its last messages",
}


@pytest.fixture(autouse=True)
def disable_logging() -> Iterator[None]:
    """Nodes warn of what a plan does to them."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_runs_of_fresh_seeds_keep_all_promises() -> None:
    first = int(time.time()) * 1000
    print(f"seeds from {first} on")
    tally = soak(first, FRESH, FRESH_S, 2, lambda tally, verdicts: None)
    print(tally.format_table())
    assert tally.runs > 0
    broken = [f"seed {verdict.seed}: {what}" for verdict in tally.failures for what in verdict.violations]
    assert not broken, "see it again with stackelgrid replay SEED\n" + "\n".join(broken)


@pytest.mark.parametrize("seed", FOUND, ids=str)
def test_runs_of_seeds_that_once_broke_a_promise_keep_all(seed: int) -> None:
    assert judge(seed).violations == (), FOUND[seed]


def test_seed_repeats_the_same_run() -> None:
    for seed in range(4):
        assert draw_case(seed) == draw_case(seed)
        assert play(draw_case(seed)).messages == play(draw_case(seed)).messages
    assert len({draw_case(seed).plan.model_dump_json() for seed in range(100)}) == 100


def test_seeds_cover_every_game_fault_and_policy() -> None:
    drawn = [draw_case(seed) for seed in range(600)]
    assert {case.scenario.game for case in drawn} == set(games())
    assert {case.scenario.rounds.missing for case in drawn} == {"hold", "exclude", "fail"}
    assert {case.scenario.aggregators for case in drawn} == {1, 2, 3}
    assert {case.scenario.homes_per_process for case in drawn} == {1, 2}
    kinds = {fault.kind for case in drawn for fault in case.plan.faults}
    known = re.findall(r"'(\w+)'", str(FaultPlan.model_json_schema()["properties"]["faults"]["items"]["discriminator"]))
    assert kinds == {kind for kind in known if kind.islower()} & kinds and len(kinds) == 15
    crashes = [fault for case in drawn for fault in case.plan.faults if isinstance(fault, Crash)]
    assert {crash.lose_state for crash in crashes} == {True, False}
    assert any(crash.restart_after_s is None for crash in crashes)


@pytest.mark.parametrize("game", games())
def test_run_without_faults_keeps_all_promises(game: str) -> None:
    for number in range(5):
        evidence = play(Case("test", draw_scenario(game, number), FaultPlan(), number))
        assert find_violations(evidence) == []
        assert evidence.run_record.conclusion["complete"] and not evidence.waiting


# --- violations ---


def play_undisturbed(game: str = "user_oriented") -> Evidence:
    """A run in which nothing went wrong."""
    return play(Case("test", draw_scenario(game, 5), FaultPlan(), 5))


def crash_home(evidence: Evidence) -> None:
    evidence.errors["h1"] = ValueError("h1")


def leave_home_waiting(evidence: Evidence) -> None:
    evidence.waiting.append("h1")


def forget_conclusion(evidence: Evidence) -> None:
    evidence.run_record.conclusion.clear()


def unsettle(evidence: Evidence) -> None:
    evidence.run_record.conclusion["settled"] = False


def refuse_message(evidence: Evidence) -> None:
    evidence.run_record.rejected["refused"] = 1


def drop_answer(evidence: Evidence) -> None:
    evidence.ledgers["leader"][-1]["answers"].popitem()


def repeat_round(evidence: Evidence) -> None:
    evidence.ledgers["a1"].append(evidence.ledgers["a1"][-1])


def mix_rounds(evidence: Evidence) -> None:
    first, second = evidence.ledgers["leader"][:2]
    second["answers"] = first["answers"]


def hold_unrecorded_member(evidence: Evidence) -> None:
    last = evidence.ledgers["leader"][-1]
    last["held"] = [next(iter(last["answers"]))]


def change_question(evidence: Evidence) -> None:
    signal = next(each for each in evidence.messages if each.sender == "leader" and each.purpose == "signal")
    other = signal.payload.replace(b'"price":[9', b'"price":[8')
    evidence.messages.append(SentMessage(9.0, signal.sender, signal.topic, other))


def forget_home(evidence: Evidence) -> None:
    evidence.run_record.homes.popitem()


def change_price(evidence: Evidence) -> None:
    evidence.run_record.rounds[-1]["price"][0] *= 1 + 1e-5


def pile_up_messages(evidence: Evidence) -> None:
    evidence.max_pending = 10_000


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (crash_home, "nodes crash by the plan alone"),
        (leave_home_waiting, "every node ends"),
        (forget_conclusion, "the leader settles"),
        (unsettle, "the leader settles"),
        (refuse_message, "no honest message is refused"),
        (drop_answer, "a round counts every member once"),
        (repeat_round, "a round counts every member once"),
        (mix_rounds, "an answer is the member's own of that round"),
        (hold_unrecorded_member, "missing members are recorded"),
        (change_question, "a round has one question"),
        (forget_home, "every home alive has the settlement"),
        (change_price, "a complete outcome is that without faults"),
        (pile_up_messages, "memory is bounded"),
    ],
)
def test_violation_is_found_when_the_evidence_is_changed(change: Callable[[Evidence], None], promise: str) -> None:
    evidence = play_undisturbed()
    assert find_violations(evidence) == []
    change(evidence)
    assert promise in PROMISES
    assert promise in {line.split(":")[0] for line in find_violations(evidence)}


def test_violation_is_found_when_a_market_does_not_add_up() -> None:
    evidence = play_undisturbed("storage_market")
    evidence.run_record.missing.append({"round": 1, "node": "a1", "action": "held"})  # so that only the balance counts
    assert find_violations(evidence) == []
    next(iter(evidence.run_record.homes.values()))["load_kw"][0] += 10.0
    assert any("homes draw" in line for line in find_violations(evidence))


# --- replay ---


def test_replay_lists_messages_faults_and_the_end_in_order() -> None:
    seed = next(seed for seed in range(100) if any(f.kind == "crash" for f in draw_case(seed).plan.faults))
    evidence, text = play(draw_case(seed)), replay(str(seed))
    assert f"seed {seed}: {evidence.case.scenario.game}" in text
    times = [float(time) for time in re.findall(r"^ +(\d+\.\d{6})  ", text, re.MULTILINE)]
    assert times == sorted(times)
    assert len(times) == len(evidence.messages) + len(evidence.run_record.faults) + len(evidence.ended_s)
    assert text.count("***") == len(evidence.run_record.faults)
    assert "signal round 1" in text and "end: " in text


def test_replay_of_a_folder_is_that_of_its_run(tmp_path: Path) -> None:
    case = draw_case(8)
    (tmp_path / "scenario.yaml").write_text(dump(case.scenario))
    (tmp_path / "faults.yaml").write_text(fault_plans.dump(case.plan))
    assert replay(str(tmp_path)).splitlines()[1:] == replay("8").splitlines()[1:]


def test_replay_command_prints_the_trace() -> None:
    done = CliRunner().invoke(app, ["replay", "8"])
    assert done.exit_code == 0 and done.stdout == replay("8") + "\n"


def test_replay_is_refused_for_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        replay(str(tmp_path / "nowhere"))


def test_run_is_stopped_in_an_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(played, "MAX_CALLS", 50)
    evidence = play_undisturbed()
    assert any("EndlessError" in line for line in find_violations(evidence))


def test_soak_command_counts_runs_and_violations() -> None:
    command = [sys.executable, "-m", "stackelgrid.soak", "--runs", "10", "--from", "0", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"10 runs, .* 0 broken", done.stdout)
    assert re.search(r"^user_oriented +\d+", done.stdout, re.MULTILINE)
