"""What rounds promise, held against what happened in a run.

Each promise is a function from the evidence to what breaks it, one line each. Exceptions are part of a promise and
stand in its docstring; what they excuse is told by the faults that happened, not by those that were planned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Any

import numpy as np

from stackelgrid.faults.plan import BrokerOutage, Corruption, Crash, Lie
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios import Scenario
from stackelgrid.soak.cases import Case, scenario
from stackelgrid.soak.stage import Evidence
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.result import build_result

_LEADER = "leader"
_RELATIVE = 1e-6
_MOST_PENDING = 2000
_ROUNDS_IN_PEACE = 100
"""Without faults no case needs half as many."""
_COUNTED = ("call_rounds", "call_journal")
"""How a result was come by; a member that missed a round changes that and not the result."""


def broken(evidence: Evidence) -> list[str]:
    """Everything that should not have happened; empty when all promises were kept."""
    return [f"{promise.__name__.replace('_', ' ')}: {what}" for promise in PROMISES for what in promise(evidence)]


def nodes_die_of_the_plan_alone(evidence: Evidence) -> Iterator[str]:
    """No exception leaves a node, whatever it receives."""
    planned = {node for fault, node in evidence.happened if isinstance(fault, Crash)}
    for name, error in evidence.crashed.items():
        if name not in planned or type(error).__name__ != "KilledError":
            yield f"{name} died of {error!r}"


def the_run_ends(evidence: Evidence) -> Iterator[str]:
    """Every node that lives leaves in good order, unless a coordinator above it is gone for good."""
    for name in evidence.stuck:
        if not evidence.crashed.keys() & _above(evidence, name) and not _forgotten_by_broker(evidence):
            yield f"{name} waits for ever"


def the_leader_settles(evidence: Evidence) -> Iterator[str]:
    """A leader that lives settles.

    It may lose its members under policy `fail`, when none of them has ever answered, or when those who did are in
    quarantine for what they or the network made of it; it may run out of rounds while faults go on or nobody answers.
    """
    conclusion, case = evidence.run_record.conclusion, evidence.case
    if _LEADER in evidence.crashed:
        return
    if not conclusion:
        yield "it came to no end"
    elif conclusion.get("lost"):
        nobody = not evidence.ledgers.get(_LEADER)
        if case.scenario.rounds.missing != "fail" and not nobody and not _any(evidence, Lie, Corruption):
            yield f"it lost {conclusion['lost']}, policy {case.scenario.rounds.missing}"
    elif not conclusion["settled"]:
        rounds, in_peace = len(evidence.ledgers[_LEADER]), _rounds_in_peace(evidence)
        unanswered = not evidence.ledgers[_LEADER][-1]["answers"]
        if rounds < case.scenario.leader.max_rounds or (in_peace > _ROUNDS_IN_PEACE and not unanswered):
            yield f"not settled after {rounds} rounds, {in_peace} of them after the last fault"


def nobody_honest_is_refused(evidence: Evidence) -> Iterator[str]:
    """Nodes that tell the truth over links that change nothing understand each other, whatever else goes wrong."""
    if evidence.run_record.rejected and not _any(evidence, Lie, Corruption):
        yield f"{evidence.run_record.rejected}"


def a_round_counts_every_member_once(evidence: Evidence) -> Iterator[str]:
    """Rounds of a ledger are numbered in order; in each a member has answered, is held or is excluded, one of them.

    An aggregator drops a round when its leader asks the next or when nobody answers it; the leader drops none.
    """
    for coordinator, members in _members(evidence).items():
        rounds = _rounds(evidence, coordinator)
        numbers = [entry["number"] for entry in rounds]
        if numbers != (list(range(1, len(rounds) + 1)) if coordinator == _LEADER else sorted(set(numbers))):
            yield f"{coordinator} has rounds {numbers}"
        for entry in rounds:
            answers, held, excluded = set(entry["answers"]), set(entry["held"]), set(entry["excluded"])
            if answers | excluded != members or answers & excluded or not held <= answers:
                yield f"{coordinator} round {entry['number']}: answers {answers}, held {held}, excluded {excluded}"


def an_answer_is_what_the_member_said_in_that_round(evidence: Evidence) -> Iterator[str]:
    """A fresh answer was said by the member in that very round, a held one is the last that counted before.

    Messages corrupted on their way may say anything.
    """
    if _any(evidence, Corruption):
        return
    said: dict[tuple[str, str, int], list[Any]] = {}
    for spoken in evidence.spoken:
        if spoken.purpose == "answer":
            coordinator, member = spoken.topic.split("/")[2:4]
            said.setdefault((coordinator, member, spoken.content["round"]), []).append(spoken.content["body"])
    for coordinator in _members(evidence):
        latest: dict[str, Any] = {}
        for entry in _rounds(evidence, coordinator):
            for member, body in entry["answers"].items():
                where = f"{coordinator} round {entry['number']}: {member}"
                if member in entry["held"]:
                    if latest.get(member) != body:
                        yield f"{where} is held with something else than its last answer"
                elif _told(body) not in said.get((coordinator, member, entry["number"]), []):
                    yield f"{where} never gave that answer in this round"
            latest |= {name: body for name, body in entry["answers"].items() if name not in entry["held"]}


def whoever_is_missing_is_recorded(evidence: Evidence) -> Iterator[str]:
    """The journal and `missing` of the result name those whom a round went on without."""
    entries = _rounds(evidence, _LEADER)
    journal = evidence.run_record.rounds
    if [record["round"] for record in journal] != [entry["number"] for entry in entries]:
        yield f"the journal has rounds {[record['round'] for record in journal]}, the ledger {len(entries)}"
        return
    recorded = {(each["round"], each["node"]): each["action"] for each in evidence.run_record.missing}
    for record, entry in zip(journal, entries, strict=True):
        for action, said in (("held", ("held",)), ("excluded", ("excluded", "quarantined"))):
            for node in entry[action]:
                if recorded.get((entry["number"], node)) not in said:
                    yield f"{node} was {action} in round {entry['number']}"
        if record["answered"] != len(entry["answers"]) - len(entry["held"]):
            yield f"round {entry['number']} says that {record['answered']} answered"


def a_question_is_asked_in_one_way(evidence: Evidence) -> Iterator[str]:
    """A coordinator never asks two questions under one number, nor says two last words, not even after a crash.

    One that lost its disk does not remember.
    """
    first: dict[tuple[str, int | None], Any] = {}
    without_disk = _without_disk(evidence)
    for spoken in evidence.spoken:
        if spoken.purpose not in ("signal", "settlement") or not spoken.payload or spoken.sender in without_disk:
            continue
        said = {key: value for key, value in spoken.content.items() if key != "again"}
        round_number = said["round"] if spoken.purpose == "signal" else None
        if first.setdefault((spoken.topic, round_number), said) != said:
            yield f"{spoken.topic} says two things in round {said['round']}, the other at {spoken.seconds:.3f} s"


def a_settlement_is_known_to_those_alive(evidence: Evidence) -> Iterator[str]:
    """Every home that lives acts on the settlement in the end.

    Not so where no coordinator lives to tell it, nor where the broker forgot it while a home was away. Of homes that
    never heard of it the leader says that they did not acknowledge.
    """
    run_record = evidence.run_record
    untold = set(run_record.conclusion.get("unacknowledged", []))
    for aggregator, processes in _processes(evidence).items():
        for name, homes in processes.items():
            if homes <= run_record.homes.keys():
                continue
            nobody = evidence.crashed.keys() & ({name} | _above(evidence, name))
            if not nobody and not _forgotten_by_broker(evidence):
                yield f"{name} does not know"
            if run_record.conclusion and not untold & {name, aggregator}:
                yield f"{name} does not know, the leader believes it does"


def a_complete_result_is_that_of_no_faults(evidence: Evidence) -> Iterator[str]:
    """A settlement on a round that everybody answered is what it would have been without faults, to 1e-6.

    It may be anything where a node lied or a message was corrupted on its way, or where an aggregator without its disk
    had to pass on a settlement that it no longer understood. In the storage market homes move one after the other, so
    that a round which some of them missed leads elsewhere: there the result is the same as without faults when nobody
    missed any and nobody forgot anything; if not, it still is about the very schedules that homes ended with.
    """
    run_record, case = evidence.run_record, evidence.case
    everybody = {home.id for home in case.scenario.everyone}
    if not run_record.conclusion.get("complete") or _clueless(evidence) or _any(evidence, Lie, Corruption):
        return
    if run_record.homes.keys() != everybody:
        return
    outcome = _outcome(case.scenario, run_record)
    if case.scenario.game == "storage_market":
        forgot = any(isinstance(fault, Crash) and node in _all_processes(evidence) for fault, node in evidence.happened)
        if not forgot:
            yield from _adds_up(case.scenario, run_record.homes, outcome)
        if forgot or run_record.missing:
            return
    yield from _differences(outcome, _outcome_in_peace(case), "")


def who_remembers_vouches(evidence: Evidence) -> Iterator[str]:
    """What the leader settled as complete every aggregator that kept its disk tells its homes as complete."""
    if not evidence.run_record.conclusion.get("complete") or _any(evidence, Corruption):
        return
    aggregators = _processes(evidence).keys() - _without_disk(evidence)
    for spoken in evidence.spoken:
        last_word = spoken.purpose == "settlement" and spoken.payload and spoken.sender in aggregators
        if last_word and not spoken.content["complete"]:
            yield f"{spoken.sender} does not vouch for what was settled, at {spoken.seconds:.3f} s"


def memory_is_bounded(evidence: Evidence) -> Iterator[str]:
    """Ledgers grow by one entry a round, and one for each question of the leader; queues stay short."""
    if evidence.most_pending > _MOST_PENDING:
        yield f"{evidence.most_pending} messages held up at a node"
    for coordinator in _members(evidence):
        entries = evidence.ledgers.get(coordinator, [])
        questions = [entry["round"] for entry in entries if "signal" in entry]
        if len(set(questions)) != len(questions):
            yield f"{coordinator} remembers questions {questions}"


PROMISES: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    nodes_die_of_the_plan_alone,
    the_run_ends,
    the_leader_settles,
    nobody_honest_is_refused,
    a_round_counts_every_member_once,
    an_answer_is_what_the_member_said_in_that_round,
    whoever_is_missing_is_recorded,
    a_question_is_asked_in_one_way,
    a_settlement_is_known_to_those_alive,
    a_complete_result_is_that_of_no_faults,
    who_remembers_vouches,
    memory_is_bounded,
)


# --- who is who ---


def _processes(evidence: Evidence) -> dict[str, dict[str, set[str]]]:
    """The homes behind each EMC process of each aggregator."""
    scenario = evidence.case.scenario
    return {
        aggregator: {
            (homes[0].id if scenario.homes_per_process == 1 else f"{aggregator}-p{number}"): {h.id for h in homes}
            for number, homes in enumerate(processes, start=1)
        }
        for aggregator, processes in scenario.households().items()
    }


def _all_processes(evidence: Evidence) -> set[str]:
    return set(chain.from_iterable(_processes(evidence).values()))


def _members(evidence: Evidence) -> dict[str, set[str]]:
    processes = _processes(evidence)
    return {_LEADER: set(processes), **{aggregator: set(names) for aggregator, names in processes.items()}}


def _above(evidence: Evidence, name: str) -> set[str]:
    """The coordinators that `name` hears of the settlement from."""
    return {_LEADER} | {aggregator for aggregator, names in _processes(evidence).items() if name in names}


# --- what happened ---


def _any(evidence: Evidence, *kinds: type) -> bool:
    return any(isinstance(fault, kinds) for fault, _ in evidence.happened)


def _without_disk(evidence: Evidence) -> set[str]:
    """Coordinators that came back without their disk."""
    lost = {node for fault, node in evidence.happened if isinstance(fault, Crash) and fault.lose_state}
    return lost & _members(evidence).keys()


def _clueless(evidence: Evidence) -> bool:
    """Whether an aggregator without its disk told its homes a last word that it does not vouch for."""
    said = [spoken for spoken in evidence.spoken if spoken.purpose == "settlement" and spoken.payload]
    without_disk = _without_disk(evidence)
    return any(spoken.sender in without_disk and not spoken.content["complete"] for spoken in said)


def _forgotten_by_broker(evidence: Evidence) -> bool:
    return any(isinstance(fault, BrokerOutage) and not fault.keep_retained for fault, _ in evidence.happened)


def _rounds_in_peace(evidence: Evidence) -> int:
    """How many rounds the leader asked after the last fault had begun to do what it does."""
    begun = [record.seconds for record in evidence.run_record.faults if record.kind != "restart"]
    over = max(begun, default=0.0)
    said = (spoken for spoken in evidence.spoken if spoken.sender == _LEADER and spoken.purpose == "signal")
    return len({spoken.content["round"] for spoken in said if spoken.payload and spoken.seconds > over})


def _rounds(evidence: Evidence, coordinator: str) -> list[Mapping[str, Any]]:
    return [entry for entry in evidence.ledgers.get(coordinator, []) if "number" in entry]


def _told(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body of a ledger as it travels."""
    return {key: value for key, value in body.items() if value is not None}


# --- the result ---


def _outcome_in_peace(case: Case) -> Any:
    """The outcome without faults; of a drawn scenario, which many cases share, worked out once."""
    if case.number is None:
        return _outcome(case.scenario, in_memory.play(case.scenario))
    return _outcome_of_drawn(case.scenario.game, case.number)


@cache
def _outcome_of_drawn(game: str, number: int) -> Any:
    drawn = scenario(game, number)
    return _outcome(drawn, in_memory.play(drawn))


def _outcome(scenario: Scenario, run_record: RunRecord) -> Any:
    """Give the outcome as result.json has it."""
    return build_result(scenario, run_record).content()["outcome"]


def _differences(found: Any, expected: Any, where: str) -> Iterator[str]:
    """Where two results differ by more than 1e-6 of the largest number of a list, or of a number itself."""
    if isinstance(expected, dict):
        for key in expected:
            if key in _COUNTED:
                continue
            if key not in found:
                yield f"{where}.{key} is missing"
            else:
                yield from _differences(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict | list | str):
        for number, each in enumerate(expected):
            yield from _differences(found[number], each, f"{where}.{number}")
    elif isinstance(expected, list | float | int) and not isinstance(expected, bool):
        one, other = np.array(found, float), np.array(expected, float)
        scale = max(float(np.max(np.abs(other), initial=0.0)), 1e-6)
        if one.shape != other.shape or np.max(np.abs(one - other), initial=0.0) > _RELATIVE * scale:
            yield f"{where.removeprefix('.')} is {found}, without faults {expected}"
    elif found != expected:
        yield f"{where.removeprefix('.')} is {found}, without faults {expected}"


def _adds_up(scenario: Any, homes: Mapping[str, Any], outcome: Mapping[str, Any]) -> Iterator[str]:
    """The demand that was dispatched is that expected, with what homes changed, MW."""
    usual = sum(home.preferred_load() for home in scenario.everyone)
    drawn = np.sum([told["load_kw"] for told in homes.values()], axis=0)
    demand = scenario.leader.expected + (drawn - usual) / 1000
    if not np.allclose(demand, outcome["load_mw"], rtol=_RELATIVE):
        yield f"homes draw {demand.tolist()} MW, dispatched was {outcome['load_mw']}"
