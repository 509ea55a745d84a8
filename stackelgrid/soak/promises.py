"""The promises of the round protocol, checked on a run.

Each promise has a function from the evidence to its violations, one line each; its docstring has the exceptions. An
exception applies where its fault has happened, not where it was planned only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from stackelgrid import registry
from stackelgrid.calendar import Session
from stackelgrid.faults.plan import BrokerOutage, Corruption, Crash, FaultPlan, Lie
from stackelgrid.masks.roster import MOST_EPOCHS
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios import Scenario
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.soak import conduct, private_sums
from stackelgrid.soak.cases import Case, draw_scenario
from stackelgrid.soak.play import Evidence
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.result import build_result
from stackelgrid.wire.codec import AnotherGameError

_RELATIVE = 1e-6
_MOST_MOVED = 1.5
_MAX_PENDING = 1000
"""Messages on a link: fifteen a second, at the shortest deadline, for the minute to which delays of four hops come."""
_MAX_UNDISTURBED_ROUNDS = 100
"""Rounds after the last fault within which a leader settles; without faults no case needs half as many."""
_ROUND_KEYS = ("call_rounds", "call_journal")
"""Keys of an outcome that count rounds; they differ where a member missed one, and the rest does not."""


def find_violations(evidence: Evidence) -> list[str]:
    """List the violations of all promises, each after the promise's name."""
    return [f"{promise}: {violation}" for promise, find in PROMISES.items() for violation in find(evidence)]


def find_crashes(evidence: Evidence) -> Iterator[str]:
    """No exception leaves a node, whatever it receives.

    A node ends where its coordinator plays another game, and so it does where a link has made that of a signal.
    """
    planned = {node for fault, node in evidence.faults if isinstance(fault, Crash)}
    for name, error in evidence.errors.items():
        if isinstance(error, AnotherGameError) and _any(evidence, Corruption):
            continue
        if name not in planned or type(error).__name__ != "KilledError":
            yield f"{name} crashed: {error!r}"


def find_waiting_nodes(evidence: Evidence) -> Iterator[str]:
    """Every node that is alive leaves in good order, unless a coordinator above it is gone for good."""
    for name in evidence.waiting:
        if not evidence.errors.keys() & _above(evidence, name) and not _broker_lost_messages(evidence):
            yield f"{name} waits for ever"


def find_missing_settlement(evidence: Evidence) -> Iterator[str]:
    """A leader that is alive settles.

    It may lose its members under policy `fail`, when none of them has answered in the session, or when those who did
    are in quarantine for false or damaged answers; it may run out of rounds while faults go on or nobody answers, and
    stop when its questions are used up.
    """
    if LEADER in evidence.errors:
        return
    entries = _rounds(evidence, LEADER)
    for session in evidence.sessions:
        conclusion, case = session.conclusion, evidence.case
        own = {record["round"] for record in session.rounds}
        if not conclusion:
            yield "it did not conclude"
        elif conclusion.get("lost"):
            answered = {name for each in entries if each["number"] in own for name in each["answers"]}
            honest = answered - conduct.list_liars(evidence)
            if case.scenario.rounds.missing != "fail" and honest and not _any(evidence, Corruption):
                yield f"it lost {conclusion['lost']}, policy {case.scenario.rounds.missing}"
        elif not conclusion["settled"]:
            rounds, undisturbed = len(own), _count_undisturbed_rounds(evidence, own)
            unanswered = not next(entry for entry in entries if entry["number"] == max(own))["answers"]
            early = rounds < case.scenario.leader.max_rounds and not conclusion.get("stopped")
            if early or (undisturbed > _MAX_UNDISTURBED_ROUNDS and not unanswered):
                yield f"not settled after {rounds} rounds, {undisturbed} of them after the last fault"


def find_victims(evidence: Evidence) -> Iterator[str]:
    """A lie takes nobody but the liar out of the run: whoever is in quarantine has lied, or was spoken for by a liar.

    A link that changes messages makes a liar of whoever sent them. With private sums, a liar's group has no sum.
    """
    if _any(evidence, Corruption):
        return
    liars = conduct.list_liars(evidence)
    for record in (*evidence.run_record.rounds, *evidence.run_record.aggregator_rounds):
        for name in set(record["quarantined"]) - liars:
            yield f"{name} is in quarantine in round {record['round']} and has not lied"
    if liars and {fault.kind for fault in evidence.case.plan.faults} == {"lie"} and not evidence.case.private:
        for record in (*evidence.run_record.rounds, *evidence.run_record.aggregator_rounds):
            for name in {*record["held"], *record["excluded"]} - liars - _above_liars_alone(evidence, liars):
                yield f"round {record['round']} went on without {name}, and nothing but lies is wrong"


def _above_liars_alone(evidence: Evidence, liars: set[str]) -> set[str]:
    """Name the aggregators that have liars alone: they answer nothing where nobody answers them."""
    return {name for name, members in evidence.case.scenario.topology.members.items() if members.keys() <= liars}


def find_refusals(evidence: Evidence) -> Iterator[str]:
    """Nothing is refused where no node lies and no link changes a message, whatever else goes wrong.

    Only what is said about masks, and comes too late, is.
    """
    rejected = {reason: count for reason, count in evidence.run_record.rejected.items() if reason != conduct.BY_MASKS}
    if rejected and not _any(evidence, Lie, Corruption):
        yield f"{rejected}"


def find_miscounts(evidence: Evidence) -> Iterator[str]:
    """Rounds of a ledger are numbered in order; in each a member has answered, is held or is excluded, one of them.

    An aggregator drops a round when its leader asks the next or when nobody answers it; the leader drops none but the
    one in which a session lost its members.
    """
    dropped = _list_dropped_rounds(evidence)
    for coordinator, members in _members(evidence).items():
        rounds = _rounds(evidence, coordinator)
        numbers = [entry["number"] for entry in rounds]
        due = set(range(1, max(numbers, default=0) + 1)) - dropped if coordinator == LEADER else set()
        if numbers != sorted(set(numbers)) or not due <= set(numbers):
            yield f"{coordinator} has rounds {numbers}"
        for entry in rounds:
            answers, held, excluded = set(entry["answers"]), set(entry["held"]), set(entry["excluded"])
            if answers | excluded != members or answers & excluded or not held <= answers:
                yield f"{coordinator} round {entry['number']}: answers {answers}, held {held}, excluded {excluded}"


def _list_dropped_rounds(evidence: Evidence) -> set[int]:
    """List the rounds in which the leader lost its members: of each session that ended so the one after its last."""
    dropped, last = set(), 0
    for session in evidence.sessions:
        last = max((record["round"] for record in session.rounds), default=last)
        if session.conclusion.get("lost"):
            last += 1
            dropped.add(last)
    return dropped


def find_wrong_answers(evidence: Evidence) -> Iterator[str]:
    """A fresh answer was sent by the member in that very round, a held one is no older than the last that counted.

    Messages that were corrupted on their way may contain anything.
    """
    if _any(evidence, Corruption):
        return
    sent: dict[tuple[str, str, int], list[Any]] = {}
    for message in evidence.messages:
        if message.purpose == "answer":
            key = (message.about.coordinator, message.about.sender, message.content["round"])
            sent.setdefault(key, []).append(message.content["body"])
    for coordinator in _members(evidence):
        counted: dict[str, int] = {}  # the round of each member's last answer that counted
        for entry in _rounds(evidence, coordinator):
            for member, body in entry["answers"].items():
                where = f"{coordinator} round {entry['number']}: {member}"
                if member in entry["held"]:
                    numbers = range(counted.get(member, 1), entry["number"] + 1)
                    if not any(conduct.drop_none(body) in sent.get((coordinator, member, n), []) for n in numbers):
                        yield f"{where} is held with something else than its last answer or a later one"
                elif conduct.drop_none(body) not in sent.get((coordinator, member, entry["number"]), []):
                    yield f"{where} never sent that answer in this round"
            counted |= dict.fromkeys(entry["answers"].keys() - set(entry["held"]), entry["number"])


def find_unrecorded_members(evidence: Evidence) -> Iterator[str]:
    """The journal and `missing` of the result name the members that a round went on without."""
    entries = _rounds(evidence, LEADER)
    journal = evidence.run_record.rounds
    if [record["round"] for record in journal] != [entry["number"] for entry in entries]:
        yield f"the journal has rounds {[record['round'] for record in journal]}, the ledger {len(entries)}"
        return
    recorded = {(each["round"], each["node"]): each["action"] for each in evidence.run_record.missing}
    for record, entry in zip(journal, entries, strict=True):
        for action, names in (("held", ("held",)), ("excluded", ("excluded", "quarantined"))):
            for node in entry[action]:
                if recorded.get((entry["number"], node)) not in names:
                    yield f"{node} was {action} in round {entry['number']}"
        if record["answered"] != len(entry["answers"]) - len(entry["held"]):
            yield f"round {entry['number']} says that {record['answered']} answered"


def find_miscounted_rounds(evidence: Evidence) -> Iterator[str]:
    """An aggregator's journal counts the rounds that each question of the leader has led to, from 1.

    One that lost its disk begins anew. With private sums a question may be asked again before there is a sum.
    """
    if evidence.case.private:
        return
    for aggregator in _processes(evidence).keys() - _without_disk(evidence):
        expected: list[tuple[int, int]] = []
        inner = 0
        for entry in evidence.ledgers.get(aggregator, []):
            if "round" not in entry:
                continue
            inner = 0 if "signal" in entry else inner + 1
            if inner:
                expected.append((entry["round"], inner))
        journal = [each for each in evidence.run_record.aggregator_rounds if each["aggregator"] == aggregator]
        found = [(each["round"], each["inner"]) for each in journal]
        if found != expected:
            yield f"{aggregator}'s journal has {found}, its ledger {expected}"


def find_changed_questions(evidence: Evidence) -> Iterator[str]:
    """A coordinator never asks two questions under one number, nor settles a session in two ways.

    Not even after a crash; one that lost its disk may.
    """
    first: dict[tuple[str, str, int], Any] = {}
    without_disk = _without_disk(evidence)
    for message in evidence.messages:
        if message.purpose not in ("signal", "settlement") or not message.payload or message.sender in without_disk:
            continue
        content = {key: value for key, value in message.content.items() if key != "again"}
        number = content["round"] if message.purpose == "signal" else content.get("session", 1)
        if first.setdefault((message.topic, message.purpose, number), content) != content:
            yield f"{message.topic} has two contents in round {content['round']}, one at {message.seconds:.3f} s"


def find_uninformed_homes(evidence: Evidence) -> Iterator[str]:
    """Every home that is alive acts on the last settlement in the end.

    It may not where no coordinator is alive to send it, nor where the broker lost it while the home was away. The
    leader reports of a home without a settlement, of whichever session, that it did not acknowledge it.
    """
    for number, session in enumerate(evidence.sessions, start=1):
        unacknowledged = set(session.conclusion.get("unacknowledged", []))
        for aggregator, processes in _processes(evidence).items():
            for name, homes in processes.items():
                if homes <= session.homes.keys():
                    continue
                gone = evidence.errors.keys() & ({name} | _above(evidence, name))
                if number == len(evidence.sessions) and not gone and not _broker_lost_messages(evidence):
                    yield f"{name} does not have it"
                if session.conclusion and not unacknowledged & {name, aggregator}:
                    yield f"{name} does not have it, the leader reports that it has, session {number}"


def find_lost_states(evidence: Evidence) -> Iterator[str]:
    """A home goes into a session as its last plan has left it; without one, and without its disk, as at first.

    A plan that ends before is followed to its end.
    """
    scenario, records = evidence.case.scenario, evidence.sessions
    forgetful = _forgot(evidence)
    topology = scenario.topology.members
    owners = {home.id: name for processes in topology.values() for name, homes in processes.items() for home in homes}
    for home in scenario.everyone if len(records) > 1 else ():
        planned: tuple[Session, RunRecord] | None = None
        for session, record in zip(scenario.sessions, records, strict=True):
            if home.id not in record.homes or owners[home.id] in forgetful:
                continue
            expected: Mapping[str, Any] = {}
            if planned is not None:
                before, plan = planned
                ready = home.in_session(before, plan.states.get(home.id))
                expected = ready.advance(before.until(session), plan.homes[home.id])
            if record.states.get(home.id, {}) != expected:
                yield f"{home.id} is {record.states.get(home.id)} before session {session.number}, not {expected}"
            planned = session, record


def find_outcome_differences(evidence: Evidence) -> Iterator[str]:
    """A settlement on a round that everybody answered is what it would have been without faults, from the same states.

    It may be anything where a node lied or a message was corrupted on its way, or where an aggregator without its disk
    passed on a settlement that it could not confirm, or, of several sessions, a home without its disk. Where it depends
    on who missed a round, as a game with a `disagreement` says, it is the same as without faults when nobody missed one
    and no home lost its state; if not, it still agrees with the schedules that homes ended with. With private sums, a
    question that is asked again because its committee did not answer moves homes on as well.
    """
    if _has_unconfirmed_settlement(evidence) or _any(evidence, Lie, Corruption):
        return
    case = evidence.case
    if len(evidence.sessions) == 1:
        yield from _find_differences_of_session(evidence, case, evidence.run_record)
        return
    for session, record in zip(case.scenario.sessions, evidence.sessions, strict=True) if not _forgot(evidence) else ():
        alone = replace(case, scenario=case.scenario.in_session(session, record.states))
        for difference in _find_differences_of_session(evidence, alone, replace(record, states={})):
            yield f"session {session.number}: {difference}"


def _find_differences_of_session(evidence: Evidence, case: Case, run_record: RunRecord) -> Iterator[str]:
    everybody = {home.id for home in case.scenario.everyone}
    if not run_record.conclusion.get("complete") or run_record.homes.keys() != everybody:
        return
    outcome = _outcome(case.scenario, run_record)
    game = registry.find(case.scenario.game)
    if game.disagreement is not None:
        forgot = _forgot(evidence) or set(private_sums.list_asked_again(evidence))
        if not forgot:
            yield from game.load("disagreement")(case.scenario, run_record, outcome)
        if forgot or run_record.missing:
            return
    yield from _find_differences(outcome, _compute_undisturbed_outcome(case), game.precision)


def find_moved_prices(evidence: Evidence) -> Iterator[str]:
    """A home that lies alone moves the price by 1.5 times what it can with its load alone, and no more.

    In drawn scenarios of one session, in games with a `settled_price`, by lies in its own name. With its load alone a
    home can be away, feed in what it draws, draw all or half of what its connection carries, answer a load that does
    not bend with the price, the one that it lies about, or now and then one and now and then the other, as in the case.
    """
    case, faults = evidence.case, evidence.case.plan.faults
    liars = {fault.node for fault in faults if isinstance(fault, Lie)}
    alone = len(liars) == 1 and all(isinstance(fault, Lie) and fault.how != "impersonate" for fault in faults)
    if (
        not alone
        or case.number is None
        or case.private
        or case.every is not None
        or registry.find(case.scenario.game).settled_price is None
    ):
        return
    (liar,) = liars
    settled = evidence.run_record.conclusion.get("settled") and evidence.run_record.rounds
    if not settled or case.scenario.homes_per_process > 1 or liar not in case.scenario.topology.aggregator_of:
        return
    drawn = case.scenario.game, case.number, case.homes
    moved = _measure_move(evidence.run_record, *drawn)
    loads = frozenset(fault.factor for fault in faults if isinstance(fault, Lie) and fault.how == "load")
    most = _MOST_MOVED * _measure_most(*drawn, liar, loads)
    if moved > most + _RELATIVE:
        of_load = [fault for fault in faults if isinstance(fault, Lie) and fault.how in ("load", "nan")]
        run_record = in_memory.play(case.scenario, plan=case.plan.model_copy(update={"faults": of_load}))
        most = max(most, _MOST_MOVED * _measure_move(run_record, *drawn))
    if moved > most + _RELATIVE:
        yield f"{liar} has moved a price by {moved:.3%}, with its load alone by {most / _MOST_MOVED:.3%}"


def find_unconfirmed_settlements(evidence: Evidence) -> Iterator[str]:
    """Every aggregator that kept its disk sends its homes a complete settlement where the leader sent one.

    One in whose name another answered the leader knows nothing of what it is said to have answered.
    """
    if _any(evidence, Corruption):
        return
    complete = {number for number, each in enumerate(evidence.sessions, start=1) if each.conclusion.get("complete")}
    impersonated = {fault.as_ for fault, _ in evidence.faults if isinstance(fault, Lie) and fault.how == "impersonate"}
    aggregators = _processes(evidence).keys() - _without_disk(evidence) - impersonated
    for message in evidence.messages:
        settlement = message.purpose == "settlement" and message.payload and message.sender in aggregators
        if settlement and not message.content["complete"] and message.about.session in complete:
            yield f"{message.sender} sent a settlement that is not complete, at {message.seconds:.3f} s"


def find_growth(evidence: Evidence) -> Iterator[str]:
    """Ledgers grow by an entry a round, one for each question of the leader and one a session; queues stay short.

    What a node that flaps is still to say, the plan holds up.
    """
    members = _members(evidence)
    flapping = {fault.node for fault in evidence.case.plan.faults if isinstance(fault, Lie) and fault.how == "flapping"}
    for node, pending in evidence.max_pending.items():
        if node not in flapping and pending > _MAX_PENDING * (len(members.get(node, ())) + 1):
            yield f"{pending} messages held up at {node}"
    for coordinator in members:
        entries = evidence.ledgers.get(coordinator, [])
        questions = [entry["round"] for entry in entries if "signal" in entry]
        if len(set(questions)) != len(questions):
            yield f"{coordinator} has questions {questions} in its ledger"
        rounds, sessions = _rounds(evidence, coordinator), len(evidence.case.scenario.sessions)
        most = len(rounds) + len(questions) + sessions
        if (
            evidence.case.private
        ):  # the sums of each round, the roster with each committee, and the one after the session
            most += len(rounds) + MOST_EPOCHS * (len(questions) + sessions)
        if len(entries) > most:
            yield f"{coordinator} has {len(entries)} entries in its ledger for {len(rounds)} rounds"


PROMISES: dict[str, Callable[[Evidence], Iterator[str]]] = {
    "nodes crash by the plan alone": find_crashes,
    "every node ends": find_waiting_nodes,
    "the leader settles": find_missing_settlement,
    "a lie removes its liar alone": find_victims,
    "no honest message is refused": find_refusals,
    "a round counts every member once": find_miscounts,
    "an answer is the member's own of that round": find_wrong_answers,
    "missing members are recorded": find_unrecorded_members,
    "rounds are counted by question": find_miscounted_rounds,
    "a round has one question": find_changed_questions,
    "every home alive has the settlement": find_uninformed_homes,
    "a home's state goes on": find_lost_states,
    "a complete outcome is that without faults": find_outcome_differences,
    "a liar moves no more than its load can": find_moved_prices,
    "aggregators confirm a complete settlement": find_unconfirmed_settlements,
    "memory is bounded": find_growth,
    "a round waits for its members": conduct.find_impatience,
    "a round ends in time": conduct.find_delays,
    "liars cost one patience": conduct.find_costly_liars,
    "the first answer in time counts": conduct.find_ignored_answers,
    "who is missing is asked again": conduct.find_needless_questions,
    "rounds are numbered one after the other": conduct.find_gaps,
    "a member in quarantine counts nowhere": conduct.find_counted_liars,
    "whoever has answered is held": conduct.find_forgotten_members,
    "an incomplete settlement was confirmed": conduct.find_unconfirmed_rounds,
    "rounds begin in time": conduct.find_slow_gatherings,
    "settlements end in time": conduct.find_slow_settlements,
    "nothing but settlements is left": conduct.find_leftovers,
    "what is ignored is counted": conduct.find_uncounted_messages,
    "what is no message is refused": conduct.find_false_messages,
    "who is refused is told why": conduct.find_silent_refusals,
    "who is asked answers": conduct.find_silent_members,
    "a home gives one answer to one question": conduct.find_second_thoughts,
    "a committee gives masks for one list a round": private_sums.find_second_lists,
    "a sum is of a whole group that was asked the same": private_sums.find_small_sums,
    "a sum is that of what is under the masks": private_sums.find_wrong_sums,
    "a mask is used once, under one roster a session": private_sums.find_reused_masks,
}


# --- prices ---


def _measure_move(run_record: RunRecord, game: str, number: int, homes: int | None) -> float:
    """Give the largest relative difference of a slot's price from that of the undisturbed run of a drawn scenario."""
    settled_price = registry.find(game).load("settled_price")
    price, undisturbed = (np.array(settled_price(each)) for each in (run_record, _play_drawn(game, number, homes)))
    return float(np.max(np.abs(price - undisturbed) / np.abs(undisturbed)))


@cache
def _measure_most(game: str, number: int, homes: int | None, liar: str, loads: frozenset[float]) -> float:
    """Give the most that a home of a drawn scenario moves the price with its load alone, one of `loads` included."""
    scenario = draw_scenario(game, number, homes)
    connection = next(scenario.connection_kw(home) for home in scenario.everyone if home.id == liar) or 0.0
    moved = []
    ways = [
        ("nan", 1.0),
        ("scaled", 0.0),
        ("scaled", -1.0),
        ("slope", 0.0),
        *(("load", load) for load in sorted({*loads, connection, connection / 2})),
    ]
    for how, factor in ways:
        plan = FaultPlan.model_validate({"faults": [{"kind": "lie", "node": liar, "how": how, "factor": factor}]})
        moved.append(_measure_move(in_memory.play(scenario, plan=plan), game, number, homes))
    return max(moved)


# --- nodes ---


def _processes(evidence: Evidence) -> dict[str, dict[str, set[str]]]:
    """Give the homes behind each EMC process of each aggregator."""
    members = evidence.case.scenario.topology.members
    return {
        aggregator: {name: {home.id for home in homes} for name, homes in processes.items()}
        for aggregator, processes in members.items()
    }


def _members(evidence: Evidence) -> dict[str, set[str]]:
    """Give the members of each coordinator."""
    topology = evidence.case.scenario.topology
    return {LEADER: set(topology.aggregators)} | {name: set(below) for name, below in topology.members.items()}


def _above(evidence: Evidence, name: str) -> set[str]:
    """Name the coordinators through which `name` receives the settlement."""
    return {LEADER, evidence.case.scenario.topology.above.get(name, LEADER)}


# --- faults ---


def _any(evidence: Evidence, *kinds: type) -> bool:
    return any(isinstance(fault, kinds) for fault, _ in evidence.faults)


def _without_disk(evidence: Evidence) -> set[str]:
    """Name the coordinators that were restarted without their disk."""
    lost = {node for fault, node in evidence.faults if isinstance(fault, Crash) and fault.lose_state}
    return lost & _members(evidence).keys()


def _forgot(evidence: Evidence) -> set[str]:
    """Name the homes' processes that were restarted without their disk."""
    lost = {node for fault, node in evidence.faults if isinstance(fault, Crash) and fault.lose_state}
    return lost & evidence.case.scenario.topology.aggregator_of.keys()


def _has_unconfirmed_settlement(evidence: Evidence) -> bool:
    """Say whether an aggregator without its disk sent its homes a settlement that it could not confirm."""
    settlements = [message for message in evidence.messages if message.purpose == "settlement" and message.payload]
    without_disk = _without_disk(evidence)
    return any(message.sender in without_disk and not message.content["complete"] for message in settlements)


def _broker_lost_messages(evidence: Evidence) -> bool:
    return any(isinstance(fault, BrokerOutage) and not fault.keep_retained for fault, _ in evidence.faults)


def _count_undisturbed_rounds(evidence: Evidence, rounds: set[int]) -> int:
    """Count those of these rounds that the leader asked after the last fault had begun."""
    last = max((record.seconds for record in evidence.run_record.faults if record.kind != "restart"), default=0.0)
    signals = (each for each in evidence.messages if (each.sender, each.purpose) == (LEADER, "signal") and each.payload)
    return len(rounds & {signal.content["round"] for signal in signals if signal.seconds > last})


def _rounds(evidence: Evidence, coordinator: str) -> list[Mapping[str, Any]]:
    return [entry for entry in evidence.ledgers.get(coordinator, []) if "number" in entry]


# --- outcomes ---


def _compute_undisturbed_outcome(case: Case) -> Any:
    """Give the outcome without faults; that of a drawn scenario, which many cases share, is computed once."""
    if case.every is not None:
        return _compute_session_outcome(_Session(case.scenario))
    if case.number is None:
        return _outcome(case.scenario, in_memory.play(case.scenario))
    return _compute_drawn_outcome(case.scenario.game, case.number, case.homes, case.private)


@dataclass(frozen=True)
class _Session:
    """A session as a scenario of its own, the same as another of the same content."""

    scenario: Scenario = field(compare=False)
    content: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", self.scenario.model_dump_json(exclude={"seed", "rounds", "title"}))


@cache
def _compute_session_outcome(session: _Session) -> Any:
    return _outcome(session.scenario, in_memory.play(session.scenario))


@cache
def _compute_drawn_outcome(game: str, number: int, homes: int | None, private: bool) -> Any:
    return _outcome(draw_scenario(game, number, homes, private=private), _play_drawn(game, number, homes, private))


@cache
def _play_drawn(game: str, number: int, homes: int | None, private: bool = False) -> RunRecord:
    return in_memory.play(draw_scenario(game, number, homes, private=private))


def _outcome(scenario: Scenario, run_record: RunRecord) -> Any:
    """Give the outcome as result.json has it."""
    return build_result(scenario, run_record).content()["outcome"]


def _find_differences(found: Any, expected: Any, precision: float, where: str = "") -> Iterator[str]:
    """Name where two outcomes differ by more than this part of the largest number of a list, or of a number itself."""
    if isinstance(expected, dict):
        for key in expected:
            if key in _ROUND_KEYS:
                continue
            if key not in found:
                yield f"{where}.{key} is missing"
            else:
                yield from _find_differences(found[key], expected[key], precision, f"{where}.{key}")
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict | list | str):
        for number, each in enumerate(expected):
            yield from _find_differences(found[number], each, precision, f"{where}.{number}")
    elif isinstance(expected, list | float | int) and not isinstance(expected, bool):
        one, other = np.array(found, float), np.array(expected, float)
        scale = max(float(np.max(np.abs(other), initial=0.0)), 1e-6)
        if one.shape != other.shape or np.max(np.abs(one - other), initial=0.0) > precision * scale:
            yield f"{where.removeprefix('.')} is {found}, without faults {expected}"
    elif found != expected:
        yield f"{where.removeprefix('.')} is {found}, without faults {expected}"
