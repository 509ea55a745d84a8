"""The soak test: fresh seeds every time, seeds that once broke a promise, and violations that have to be found."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from stackelgrid.cli import app
from stackelgrid.errors import ConfigError
from stackelgrid.faults.plan import Crash, FaultPlan, Lie
from stackelgrid.scenarios import dump
from stackelgrid.soak import play as played
from stackelgrid.soak.cases import Case, build_case, draw_case, draw_scenario, games
from stackelgrid.soak.marks import find_marks, list_marks
from stackelgrid.soak.play import Evidence, SentMessage, play
from stackelgrid.soak.promises import PROMISES, find_violations
from stackelgrid.soak.replay import replay
from stackelgrid.soak.shrink import Recipe, find_broken, shrink
from stackelgrid.soak.tally import soak
from stackelgrid.soak.timeline import Ask, Event
from stackelgrid.testbed import fault_plans

FRESH, FRESH_S = 30, 20.0

FOUND = [json.loads(line) for line in Path(__file__).with_name("found_cases.jsonl").read_text().splitlines()]
"""Cases that once broke a promise, and why: the arguments of `build_case`."""


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


@pytest.mark.parametrize("found", FOUND, ids=[f"{found['game']}-{found['seed']}" for found in FOUND])
def test_case_that_once_broke_a_promise_keeps_all(found: dict[str, Any]) -> None:
    arguments = {key: value for key, value in found.items() if key != "why"}
    assert find_violations(play(build_case(**arguments))) == [], found["why"]


def test_seed_repeats_the_same_run() -> None:
    for seed in range(4):
        assert draw_case(seed) == draw_case(seed)
        assert play(draw_case(seed)).messages == play(draw_case(seed)).messages
    assert len({draw_case(seed).plan.model_dump_json() for seed in range(100)}) == 100


def test_seeds_cover_every_game_fault_and_policy() -> None:
    drawn = [draw_case(seed) for seed in range(600)]
    assert {case.scenario.game for case in drawn} == set(games())
    assert {case.scenario.rounds.missing for case in drawn} == {"hold", "exclude", "fail"}
    assert {case.scenario.aggregators for case in drawn} == {1, 2, 3, 4}
    assert {case.scenario.homes_per_process for case in drawn} == {1, 2, 3, 4}
    assert max(len(case.scenario.everyone) for case in drawn) == 24
    assert any(home.storage for case in drawn for home in case.scenario.everyone if hasattr(home, "storage"))
    kinds = {fault.kind for case in drawn for fault in case.plan.faults}
    known = re.findall(r"'(\w+)'", str(FaultPlan.model_json_schema()["properties"]["faults"]["items"]["discriminator"]))
    assert kinds == {kind for kind in known if kind.islower()} & kinds and len(kinds) == 15
    lies = {fault.how for case in drawn for fault in case.plan.faults if isinstance(fault, Lie)}
    assert lies == set(get_args(Lie.model_fields["how"].annotation))
    crashes = [fault for case in drawn for fault in case.plan.faults if isinstance(fault, Crash)]
    assert {crash.lose_state for crash in crashes} == {True, False}
    assert any(crash.restart_after_s is None for crash in crashes)


@pytest.mark.parametrize("game", games())
def test_run_without_faults_keeps_all_promises(game: str) -> None:
    for number in range(5):
        evidence = play(Case("test", draw_scenario(game, number), FaultPlan(), number))
        assert find_violations(evidence) == []
        assert evidence.run_record.conclusion["complete"] and not evidence.waiting


@pytest.mark.parametrize(
    ("game", "number", "every"),
    [
        ("user_oriented", 1, 1),
        ("user_oriented", 3, 3),
        ("prosumer", 0, 1),
        ("load_call", 0, 1),
        ("storage_market", 4, 2),
        ("storage_market", 7, 1),
    ],
)
def test_run_of_several_sessions_without_faults_keeps_all_promises(game: str, number: int, every: int) -> None:
    evidence = play_sessions(game, number, every)
    assert find_violations(evidence) == []
    assert len(evidence.sessions) > 1 and all(session.conclusion["complete"] for session in evidence.sessions)


# --- violations ---


def play_sessions(game: str, number: int, every: int) -> Evidence:
    """A run of a few slots that plans again after so many, in which nothing went wrong."""
    return play(Case("test", draw_scenario(game, number, None, every), FaultPlan(), number, every=every))


def test_state_that_a_session_does_not_pass_on_is_found() -> None:
    number = next(
        number for number in range(40) if any(h.storage for h in draw_scenario("user_oriented", number).everyone)
    )
    evidence = play_sessions("user_oriented", number, 2)
    evidence.sessions[1].states.clear()
    assert list(PROMISES["a home's state goes on"](evidence))


def play_undisturbed(game: str = "user_oriented") -> Evidence:
    """A run in which nothing went wrong."""
    return play(Case("test", draw_scenario(game, 5), FaultPlan(), 5))


def crash_home(evidence: Evidence) -> None:
    evidence.errors["h1"] = ValueError("h1")


def leave_home_waiting(evidence: Evidence) -> None:
    evidence.waiting.append("h1")


def quarantine_victim(evidence: Evidence) -> None:
    evidence.run_record.rounds[0]["quarantined"] = ["a1"]


def forget_conclusion(evidence: Evidence) -> None:
    evidence.run_record.conclusion.clear()


def unsettle(evidence: Evidence) -> None:
    evidence.run_record.conclusion["settled"] = False


def lose_members(evidence: Evidence) -> None:
    evidence.run_record.conclusion |= {"settled": False, "lost": ["a1"]}


def drop_round(evidence: Evidence) -> None:
    """The last round may be dropped where a session lost its members, and no other one."""
    evidence.run_record.conclusion["lost"] = ["a1"]
    del evidence.ledgers["leader"][1]


def repeat_state(evidence: Evidence) -> None:
    evidence.ledgers["a1"] += [{"state": {}}] * 2


def skip_numbers_in_a_restart(evidence: Evidence) -> None:
    life = evidence.lives[0]
    later = replace(life.rounds[-1], number=life.rounds[-1].number + 3, closed=None)
    evidence.lives.append(replace(life, number=1, rounds=[later], settlements=[]))


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
    evidence.run_record.rounds[-1]["price"][0] *= 1 + 1e-3


def pile_up_messages(evidence: Evidence) -> None:
    evidence.max_pending["h1"] = 10_000


def leave_member_out(evidence: Evidence) -> None:
    seen = evidence.lives[0].rounds[0]
    member = next(iter(seen.counted))
    del seen.counted[member]
    seen.entry = {**seen.entry, "excluded": [member], "answers": {}}


def leave_returning_member_out(evidence: Evidence) -> None:
    """It has left one second before the round goes on without it; `return_s` is ten."""
    seen = evidence.lives[0].rounds[0]
    member, answer = seen.counted.popitem()
    seen.closed, seen.away = answer.seconds + 1.0, {member: answer.seconds}
    seen.entry = {**seen.entry, "excluded": [member], "answers": {}}


def leave_answer_out(evidence: Evidence) -> None:
    seen = evidence.lives[0].rounds[0]
    seen.entry = {**seen.entry, "excluded": list(seen.counted), "answers": {}}


def prolong_round(evidence: Evidence) -> None:
    evidence.lives[0].rounds[0].closed = 1000.0


def prolong_round_of_liar(evidence: Evidence) -> None:
    evidence.lives[1].rounds[0].closed = 1.0


def ask_needlessly(evidence: Evidence) -> None:
    evidence.lives[0].rounds[0].asks.append(Ask(1.0, ("a1",), frozenset(), frozenset()))


def count_quarantined_member(evidence: Evidence) -> None:
    seen = evidence.lives[0].rounds[0]
    seen.quarantined = frozenset(seen.counted)


def forget_member(evidence: Evidence) -> None:
    seen = evidence.lives[0].rounds[1]
    seen.entry = {**seen.entry, "excluded": list(seen.counted), "answers": {}}


def settle_unconfirmed(evidence: Evidence) -> None:
    evidence.run_record.conclusion["complete"] = False


def gather_late(evidence: Evidence) -> None:
    evidence.lives[0].gathered = 1.0


def end_settlement_late(evidence: Evidence) -> None:
    evidence.lives[0].settlements[0].ended = 30.0


def leave_signal(evidence: Evidence) -> None:
    evidence.retained.append("stackelgrid/memory/leader/signal")


def miscount_message(evidence: Evidence) -> None:
    evidence.lives[0].stale += 1


def take_false_message(evidence: Evidence) -> None:
    sent = next(each for each in evidence.messages if each.purpose == "answer")
    false = sent.payload.replace(sent.sender.encode(), b"h99")
    evidence.messages.append(SentMessage(9.0, sent.sender, sent.topic, false))
    evidence.events[sent.about.coordinator].append(Event(9.0, 0, "receive", sent.topic, false))


def withhold_answer(evidence: Evidence) -> None:
    events = evidence.events[next(iter(evidence.case.scenario.topology.aggregator_of))]
    events.remove(next(each for each in events if each.kind == "send" and each.about.purpose == "answer"))


def answer_unasked(evidence: Evidence) -> None:
    events = evidence.events[next(iter(evidence.case.scenario.topology.aggregator_of))]
    number = next(n for n, each in enumerate(events) if each.kind == "send" and each.about.purpose == "answer")
    events.insert(number, events[number])


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (leave_member_out, "a round waits for its members"),
        (leave_returning_member_out, "a round waits for its members"),
        (leave_answer_out, "the first answer in time counts"),
        (prolong_round, "a round ends in time"),
        (prolong_round_of_liar, "liars cost one patience"),
        (ask_needlessly, "who is missing is asked again"),
        (count_quarantined_member, "a member in quarantine counts nowhere"),
        (forget_member, "whoever has answered is held"),
        (settle_unconfirmed, "an incomplete settlement was confirmed"),
        (gather_late, "rounds begin in time"),
        (end_settlement_late, "settlements end in time"),
        (leave_signal, "nothing but settlements is left"),
        (miscount_message, "what is ignored is counted"),
        (take_false_message, "what is no message is refused"),
        (withhold_answer, "who is asked answers"),
        (answer_unasked, "who is asked answers"),
        (crash_home, "nodes crash by the plan alone"),
        (leave_home_waiting, "every node ends"),
        (quarantine_victim, "a lie removes its liar alone"),
        (forget_conclusion, "the leader settles"),
        (unsettle, "the leader settles"),
        (lose_members, "the leader settles"),
        (drop_round, "a round counts every member once"),
        (repeat_state, "memory is bounded"),
        (skip_numbers_in_a_restart, "rounds are numbered one after the other"),
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


def test_violation_is_found_when_a_liar_moves_the_price_too_far() -> None:
    lie = {"kind": "lie", "node": "h1", "how": "slope", "factor": 10.0}
    evidence = play(build_case("user_oriented", 4, seed=1, rounds={}, faults=[lie]))
    assert find_violations(evidence) == []
    evidence.run_record.rounds[-1]["price"][0] *= 3
    assert any("h1 has moved a price" in line for line in find_violations(evidence))


def test_violation_is_found_when_a_lie_takes_an_aggregator_of_honest_homes() -> None:
    lie = {"kind": "lie", "node": "h1", "how": "scaled", "factor": 0.9}
    evidence = play(build_case("user_oriented", 4, seed=1, rounds={}, faults=[lie]))
    above = evidence.case.scenario.topology.aggregator_of["h1"]
    assert len(evidence.case.scenario.topology.members[above]) > 1 and find_violations(evidence) == []
    evidence.run_record.rounds[0]["held"] = [above]
    assert any(f"went on without {above}" in line for line in find_violations(evidence))
    evidence.run_record.conclusion |= {"settled": False, "lost": [above]}
    assert any(line.startswith("the leader settles: it lost") for line in find_violations(evidence))


def test_violation_is_found_when_a_market_does_not_add_up() -> None:
    evidence = play_undisturbed("storage_market")
    evidence.run_record.missing.append({"round": 1, "node": "a1", "action": "held"})  # so that only the balance counts
    assert find_violations(evidence) == []
    next(iter(evidence.run_record.homes.values()))["load_kw"][0] += 10.0
    assert any("homes draw" in line for line in find_violations(evidence))


# --- shrinking and marks ---


def test_violation_is_found_when_a_restarted_home_is_silent() -> None:
    crash = {"kind": "crash", "node": "h1", "at": {"round": 2}, "restart_after_s": 0.05}
    evidence = play(build_case("storage_market", 5, seed=1, rounds={"return_s": 2.0}, faults=[crash]))
    assert find_violations(evidence) == []
    answers = [each for each in evidence.events["h1"] if each.kind == "send" and each.about.purpose == "answer"]
    evidence.events["h1"].remove(next(each for each in answers if each.life == 1))
    assert any(line.startswith("who is asked answers: h1") for line in find_violations(evidence))


def test_failing_case_is_shrunk_to_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that is killed for good never has the settlement; here that is taken for a broken promise."""
    monkeypatch.setattr(played, "HORIZON_S", 4000.0)
    loss = {"kind": "loss", "probability": 0.3, "to": "a1", "during": {"seconds": [0.0, 3.0]}}
    crash = {"kind": "crash", "node": "h2", "at": {"round": 1}}
    case = build_case("user_oriented", 4, seed=1, rounds={"deadline_s": 1.0}, faults=[loss, crash, loss])

    def find_uninformed(evidence: Evidence) -> Iterator[str]:
        if "h2" in {home.id for home in evidence.case.scenario.everyone} and "h2" not in evidence.run_record.homes:
            yield "h2 does not have it"

    monkeypatch.setitem(PROMISES, "everybody has it", find_uninformed)
    smallest = shrink(case)
    assert [fault["kind"] for fault in smallest.faults] == ["crash"]
    assert (smallest.homes, smallest.max_rounds, smallest.rounds) == (2, 1, {})
    assert find_broken(smallest.build()) == {"everybody has it"}
    test: dict[str, Any] = {"build_case": build_case, "play": play, "find_violations": find_violations}
    exec(smallest.format_test(), test)
    with pytest.raises(AssertionError):
        test["test_case_of_seed_1_keeps_all_promises"]()


def test_recipe_builds_the_case_that_it_is_of() -> None:
    for seed in range(20):
        case = draw_case(seed)
        assert play(Recipe.of(case).build()).messages == play(case).messages


def test_case_that_keeps_its_promises_is_not_shrunk() -> None:
    with pytest.raises(ValueError, match="keeps all promises"):
        shrink(draw_case(3))


def test_marks_are_all_reached_by_some_seeds() -> None:
    missing = set(list_marks())
    together = (149, 512, 1216, 77_000, 77_001, 77_002, 77_025, 77_070)  # reach them all, as long as none is drawn anew
    for seed in (*together, *range(77_100, 77_600)):
        missing -= find_marks(play(draw_case(seed)))
        if not missing:
            break
    assert not missing


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
    with pytest.raises(ConfigError, match="neither a seed nor the folder"):
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
