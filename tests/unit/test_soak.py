"""The soak test itself: fresh seeds every time, those that once broke a promise, and promises that can be broken."""

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
from stackelgrid.soak import cases, promises, stage
from stackelgrid.soak.cases import Case, draw
from stackelgrid.soak.replay import replay
from stackelgrid.soak.stage import Evidence, Spoken, play
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
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Nodes that complain of what a plan does to them have nothing new to say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_fresh_seeds_keep_all_promises() -> None:
    first = int(time.time()) * 1000
    print(f"seeds from {first} on")
    tally = soak(first, FRESH, FRESH_S, 2, lambda so_far, verdicts: None)
    print(tally.table())
    assert tally.runs > 0
    broken = [f"seed {verdict.seed}: {what}" for verdict in tally.broken for what in verdict.broken]
    assert not broken, "see it again with stackelgrid replay SEED\n" + "\n".join(broken)


@pytest.mark.parametrize("seed", FOUND, ids=str)
def test_a_seed_that_once_broke_a_promise_keeps_all(seed: int) -> None:
    assert judge(seed).broken == (), FOUND[seed]


def test_a_seed_is_one_run() -> None:
    for seed in range(4):
        assert draw(seed) == draw(seed)
        assert play(draw(seed)).spoken == play(draw(seed)).spoken
    assert len({draw(seed).plan.model_dump_json() for seed in range(100)}) == 100


def test_seeds_cover_every_game_every_fault_and_every_policy() -> None:
    drawn = [draw(seed) for seed in range(600)]
    assert {case.scenario.game for case in drawn} == set(cases.GAMES)
    assert {case.scenario.rounds.missing for case in drawn} == {"hold", "exclude", "fail"}
    assert {case.scenario.aggregators for case in drawn} == {1, 2, 3}
    assert {case.scenario.homes_per_process for case in drawn} == {1, 2}
    kinds = {fault.kind for case in drawn for fault in case.plan.faults}
    known = re.findall(r"'(\w+)'", str(FaultPlan.model_json_schema()["properties"]["faults"]["items"]["discriminator"]))
    assert kinds == {kind for kind in known if kind.islower()} & kinds and len(kinds) == 15
    crashes = [fault for case in drawn for fault in case.plan.faults if isinstance(fault, Crash)]
    assert {crash.lose_state for crash in crashes} == {True, False}
    assert any(crash.restart_after_s is None for crash in crashes)


@pytest.mark.parametrize("game", cases.GAMES)
def test_a_run_without_faults_keeps_all_promises(game: str) -> None:
    for number in range(5):
        evidence = play(Case("test", cases.scenario(game, number), FaultPlan(), number))
        assert promises.broken(evidence) == []
        assert evidence.run_record.conclusion["complete"] and not evidence.stuck


# --- promises can be broken ---


def peace(game: str = "user_oriented") -> Evidence:
    """A run in which nothing went wrong."""
    return play(Case("test", cases.scenario(game, 5), FaultPlan(), 5))


def _dies(evidence: Evidence) -> None:
    evidence.crashed["h1"] = ValueError("h1")


def _waits(evidence: Evidence) -> None:
    evidence.stuck.append("h1")


def _does_not_end(evidence: Evidence) -> None:
    evidence.run_record.conclusion.clear()


def _gives_up(evidence: Evidence) -> None:
    evidence.run_record.conclusion["settled"] = False


def _is_refused(evidence: Evidence) -> None:
    evidence.run_record.rejected["refused"] = 1


def _counts_nobody(evidence: Evidence) -> None:
    evidence.ledgers["leader"][-1]["answers"].popitem()


def _counts_twice(evidence: Evidence) -> None:
    evidence.ledgers["a1"].append(evidence.ledgers["a1"][-1])


def _mixes_rounds(evidence: Evidence) -> None:
    first, second = evidence.ledgers["leader"][:2]
    second["answers"] = first["answers"]


def _forgets_who_was_missing(evidence: Evidence) -> None:
    last = evidence.ledgers["leader"][-1]
    last["held"] = [next(iter(last["answers"]))]


def _asks_differently(evidence: Evidence) -> None:
    said = next(spoken for spoken in evidence.spoken if spoken.sender == "leader" and spoken.purpose == "signal")
    other = said.payload.replace(b'"price":[9', b'"price":[8')
    evidence.spoken.append(Spoken(9.0, said.sender, said.topic, other))


def _does_not_know(evidence: Evidence) -> None:
    evidence.run_record.homes.popitem()


def _ends_elsewhere(evidence: Evidence) -> None:
    evidence.run_record.rounds[-1]["price"][0] *= 1 + 1e-5


def _piles_up(evidence: Evidence) -> None:
    evidence.most_pending = 10_000


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (_dies, "nodes die of the plan alone"),
        (_waits, "the run ends"),
        (_does_not_end, "the leader settles"),
        (_gives_up, "the leader settles"),
        (_is_refused, "nobody honest is refused"),
        (_counts_nobody, "a round counts every member once"),
        (_counts_twice, "a round counts every member once"),
        (_mixes_rounds, "an answer is what the member said in that round"),
        (_forgets_who_was_missing, "whoever is missing is recorded"),
        (_asks_differently, "a question is asked in one way"),
        (_does_not_know, "a settlement is known to those alive"),
        (_ends_elsewhere, "a complete result is that of no faults"),
        (_piles_up, "memory is bounded"),
    ],
)
def test_a_broken_promise_is_found(change: Callable[[Evidence], None], promise: str) -> None:
    evidence = peace()
    assert promises.broken(evidence) == []
    change(evidence)
    assert promise in {line.split(":")[0] for line in promises.broken(evidence)}


def test_a_market_that_does_not_add_up_is_found() -> None:
    evidence = peace("storage_market")
    evidence.run_record.missing.append({"round": 1, "node": "a1", "action": "held"})  # so that only the balance counts
    assert promises.broken(evidence) == []
    next(iter(evidence.run_record.homes.values()))["load_kw"][0] += 10.0
    assert any("homes draw" in line for line in promises.broken(evidence))


# --- seeing it again ---


def test_a_replay_tells_messages_faults_and_the_end_in_order() -> None:
    seed = next(seed for seed in range(100) if any(f.kind == "crash" for f in draw(seed).plan.faults))
    evidence, text = play(draw(seed)), replay(str(seed))
    assert f"seed {seed}: {evidence.case.scenario.game}" in text
    times = [float(time) for time in re.findall(r"^ +(\d+\.\d{6})  ", text, re.MULTILINE)]
    assert times == sorted(times)
    assert len(times) == len(evidence.spoken) + len(evidence.run_record.faults) + len(evidence.ended_s)
    assert text.count("***") == len(evidence.run_record.faults)
    assert "signal round 1" in text and "end: " in text


def test_a_run_of_a_folder_is_replayed(tmp_path: Path) -> None:
    case = draw(8)
    (tmp_path / "scenario.yaml").write_text(dump(case.scenario))
    (tmp_path / "faults.yaml").write_text(fault_plans.dump(case.plan))
    assert replay(str(tmp_path)).splitlines()[1:] == replay("8").splitlines()[1:]


def test_the_command_replay_prints_it() -> None:
    done = CliRunner().invoke(app, ["replay", "8"])
    assert done.exit_code == 0 and done.stdout == replay("8") + "\n"


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        replay(str(tmp_path / "nowhere"))


def test_a_run_that_turns_in_circles_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MOST_CALLS", 50)
    evidence = peace()
    assert any("EndlessError" in line for line in promises.broken(evidence))


def test_the_command_counts_what_it_played() -> None:
    command = [sys.executable, "-m", "stackelgrid.soak", "--runs", "10", "--from", "0", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"10 runs, .* 0 broken", done.stdout)
    assert re.search(r"^user_oriented +\d+", done.stdout, re.MULTILINE)
