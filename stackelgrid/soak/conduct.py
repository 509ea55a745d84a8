"""Promises about the conduct of each node: held against what the node itself received, whatever happened on the way.

As in `promises`, each has a function from the evidence to its violations. A message that a link has changed may contain
anything, so that nothing is concluded from it. Of a node that is stopped, or whose connection is disturbed, no
punctuality is asked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

from stackelgrid.faults.plan import BrokerOutage, Corruption, Crash, Cut, Hang, Lie, Narrow, Slow, Stall
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.soak.play import Evidence
from stackelgrid.soak.private_sums import find_unable
from stackelgrid.soak.timeline import CoordinatorLife, Event, SeenRound

_DISTURBANCES = (Stall, Cut, Hang, Narrow)
"""Faults from which on a node acts or sends later than it would."""
_EPSILON = 1e-6
"""Seconds: much less than a message takes."""
_ROUND_S = 0.02
"""Seconds, more than an undisturbed round between an aggregator and its homes takes, twice over."""
_MOST_ASKS = 50
"""Waits between askings grow by half each time, from a thousandth of a deadline to a whole one."""
_SETTLEMENT_TRIES = 10
"""A settlement is sent at most this many times as often as a question."""
_SILENCE_S = 30.0
_LINGER_S = 60.0
BY_MASKS = "masks"
"""Why a party of private sums refuses a message, which may be honest and late."""
_MASKED = ("words", "shape")
"""Keys of a masked answer, which tell nothing of what is in it."""
_OF_ONE_HOME = ("call_kwh", "shifted_kwh")
"""Keys of bodies whose list is one number of the only home in a process; other lists have a number per slot."""

# --- rounds ---


def find_impatience(evidence: Evidence) -> Iterator[str]:
    """A round goes on without a member only when its patience is over.

    That is after all tries, or one where all that are missing have missed the round before; `return_s` after a member
    has left; at once where it has never come, is in quarantine, cannot mask its answers in the session, or is late:
    rounds have waited for it for so long that two thirds of its patience may be used up.
    """
    for life in evidence.lives:
        policy, silent = life.policy.policy(), set[str]()
        for seen in life.rounds:
            if seen.closed is None:
                silent = set(life.members)  # it may have ended because nobody had answered
                continue
            missing = set(seen.missing)
            tries = 1 if silent >= missing else policy.tries
            waited = seen.closed >= seen.opened + tries * policy.deadline_s - _EPSILON
            unable = find_unable(evidence, seen) if evidence.case.private else set[str]()
            for name in missing - seen.quarantined - unable:
                left = seen.away.get(name)
                if _may_be_late(life, seen, name):
                    continue
                if name not in seen.away and not waited:
                    yield f"{_where(seen)} ends without {name} after {seen.closed - seen.opened:.3f} s"
                elif left is not None and seen.closed < left + policy.return_s - _EPSILON:
                    yield f"{_where(seen)} ends without {name} {seen.closed - left:.3f} s after it has left"
            silent = missing


def _may_be_late(life: CoordinatorLife, seen: SeenRound, member: str) -> bool:
    """Tell whether rounds have waited so long for a member that they may go on without it."""
    return seen.waited[member] >= life.policy.policy().patience_s * 2 / 3 - _EPSILON


def find_delays(evidence: Evidence) -> Iterator[str]:
    """A round takes its tries and the return of a member at most; it ends as soon as there is nobody to wait for."""
    for life in evidence.lives:
        policy = life.policy
        longest = policy.tries * policy.deadline_s + policy.return_s
        for seen in [] if _is_disturbed(evidence, life.coordinator) else life.rounds:
            if seen.closed is None:
                continue
            if seen.closed > seen.opened + longest + _EPSILON:
                yield f"{_where(seen)} takes {seen.closed - seen.opened:.3f} s, at most {longest:g} s"
            missing = set(seen.missing)
            if not missing <= seen.away.keys() or not seen.counted or (missing and policy.missing == "fail"):
                continue
            left = [at for name, at in seen.away.items() if name in missing and at is not None]
            due = max([seen.changed, seen.opened, *(at + policy.return_s for at in left)])
            if seen.closed > due + _EPSILON:
                yield f"{_where(seen)} ends {seen.closed - due:.3f} s after there is nobody to wait for"


def find_costly_liars(evidence: Evidence) -> Iterator[str]:
    """Where nothing is wrong but that some lie, the rounds with them last one patience of each longer at most.

    Patience counts once half of the members have answered: not where more than half of them lie, as the only one does.
    """
    liars = {node for _, node in evidence.faults}
    if not all(isinstance(fault, Lie) for fault in evidence.case.plan.faults):
        return
    for life in evidence.lives:
        lasted = sum(seen.closed - seen.opened for seen in life.rounds if seen.closed is not None)
        patience_s = max(life.policy.tries * life.policy.deadline_s, life.policy.return_s)
        lying = len(liars.intersection(life.members))
        most = _ROUND_S * len(life.rounds) + patience_s * lying
        if life.coordinator != LEADER and 2 * lying <= len(life.members) and lasted > most:
            yield f"{life.coordinator} has waited {lasted:.3f} s, at most {most:.3f} s"


def find_ignored_answers(evidence: Evidence) -> Iterator[str]:
    """The first answer of a member that comes in time, and is not refused, is the one that counts.

    It does not where the member was late in rounds before.
    """
    for life in evidence.lives:
        for seen in life.rounds:
            if seen.closed is None:
                continue
            for name, event in seen.counted.items():
                found = seen.entry["answers"].get(name)
                if name in seen.missing:
                    if not _may_be_late(life, seen, name):
                        yield f"{_where(seen)} ends without {name}, which has answered at {event.seconds:.3f} s"
                elif found is not None and drop_none(found) != drop_none(event.content["body"]):
                    yield f"{_where(seen)} counts another answer of {name} than its first"
            for name in set(seen.entry["answers"]) - set(seen.entry["held"]) - seen.counted.keys():
                yield f"{_where(seen)} counts an answer of {name}, which gave none"


def find_needless_questions(evidence: Evidence) -> Iterator[str]:
    """Asked again is who has not answered: who comes back at once, others after each deadline, more and more rarely."""
    for life in evidence.lives:
        for seen in life.rounds:
            for ask in seen.asks if seen.closed is not None else ():
                needless = [name for name in set(ask.again) - ask.unanswered if not _may_be_late(life, seen, name)]
                if needless:
                    yield f"{_where(seen)} asks {sorted(needless)} again, who have answered"
            asks = [ask for ask in seen.asks if not ask.came.issuperset(ask.again)]
            waited = max((ask.seconds - seen.opened for ask in asks), default=0.0)
            if len(asks) > _MOST_ASKS + waited / life.policy.deadline_s:
                yield f"{_where(seen)} asks {len(asks)} times"
            if seen.closed is None or _is_disturbed(evidence, life.coordinator):
                continue
            tries = int((seen.closed - seen.opened - _EPSILON) / life.policy.deadline_s)
            asked = Counter(name for ask in seen.asks for name in ask.again)
            for name, at in seen.returned:
                if not any(ask.seconds == at and name in ask.again for ask in seen.asks):
                    yield f"{_where(seen)} does not ask {name} again, which has come back at {at:.3f} s"
            for name in set(seen.missing) - seen.away.keys() - seen.counted.keys() - seen.quarantined:
                if asked[name] < min(tries, life.policy.tries - 1) and not _may_be_late(life, seen, name):
                    yield f"{_where(seen)} asks {name} {asked[name]} times again in {seen.closed - seen.opened:.3f} s"


def find_gaps(evidence: Evidence) -> Iterator[str]:
    """A coordinator numbers its rounds one after the other; after a restart it may leave out one number.

    It may then ask the round again that was open. One that has lost its disk begins anew, and one that sets masks up
    with the number that its leader has come to.
    """
    forgot = {node for fault, node in evidence.faults if isinstance(fault, Crash) and fault.lose_state}
    last: dict[str, int] = {}
    for life in evidence.lives:
        numbers, before = [seen.number for seen in life.rounds], last.get(life.coordinator)
        # One that is first asked in a later session begins with a number that its members cannot know.
        begun_late = evidence.case.private and before is None and life.coordinator != LEADER
        begun_late = begun_late or life.coordinator in forgot or any(seen.session > 1 for seen in life.rounds[:1])
        if numbers and not begun_late:
            numbers.insert(0, 0 if before is None else before)
        steps = {later - earlier for earlier, later in pairwise(numbers)}
        if not steps <= ({1} if life.number == 0 else {0, 1, 2}):
            yield f"{life.coordinator} asks rounds {numbers}"
        last[life.coordinator] = max([*numbers, before or 0])


def find_counted_liars(evidence: Evidence) -> Iterator[str]:
    """A member in quarantine counts nowhere: it is excluded from every round that ends afterwards."""
    for seen in _closed_rounds(evidence):
        for name in seen.quarantined - set(seen.entry["excluded"]):
            yield f"{_where(seen)} counts {name}, which is in quarantine"


def find_forgotten_members(evidence: Evidence) -> Iterator[str]:
    """Policy `hold` holds whoever has ever answered and is not in quarantine, also after a restart with its ledger."""
    answered: dict[str, set[str]] = {}
    quarantined: dict[str, set[str]] = {}
    last: dict[str, tuple[int, int]] = {}
    for seen in _closed_rounds(evidence) if evidence.case.scenario.rounds.missing == "hold" else ():
        name = seen.coordinator
        session, number = last.get(name, (1, 0))
        if seen.number <= number or seen.session > session:  # its ledger is lost, or nothing is held of another session
            answered.pop(name, None)
        last[name] = seen.session, seen.number
        liars = quarantined.setdefault(name, set())
        liars |= seen.quarantined
        known = answered.setdefault(name, set())
        for member in known.intersection(seen.entry["excluded"]) - liars:
            yield f"{_where(seen)} excludes {member}, which has answered before"
        known |= set(seen.entry["answers"]) - set(seen.entry["held"])


def find_unconfirmed_rounds(evidence: Evidence) -> Iterator[str]:
    """A leader settles without all answers only after three rounds from which some were missing."""
    for session in evidence.sessions:
        conclusion, incomplete = session.conclusion, sum(not record["complete"] for record in session.rounds)
        if conclusion.get("settled") and not conclusion["complete"] and incomplete < 3:
            yield f"settled after {incomplete} rounds that were not complete"


# --- gathering and settlement ---


def find_slow_gatherings(evidence: Evidence) -> Iterator[str]:
    """Rounds begin once all members have come, or have come and left, and else `gather_s` after the last arrival.

    No later than ten times `gather_s` after the start; and no earlier than that while a member gathers its own. Nobody
    waits for who is in quarantine from before a restart. An aggregator that has been restarted may be asked before its
    homes have come.
    """
    for life in evidence.lives:
        asked_before = life.number > 0 and life.coordinator != LEADER
        if life.gathered is None or asked_before or _is_disturbed(evidence, life.coordinator):
            continue
        gather_s, where = life.policy.gather_s, f"{life.coordinator} begins at {life.gathered:.3f} s"
        came = [at for at in life.came.values() if at <= life.gathered]
        if came and len(came) == len(set(life.members) - life.quarantined):
            if life.gathered > max(came) + _EPSILON:
                yield f"{where}, all have come at {max(came):.3f} s"
            continue
        last = max((at for at in life.arrivals if at <= life.gathered), default=life.began)
        if life.gathered < min(last, life.began + 9 * gather_s) + gather_s - _EPSILON:
            yield f"{where}, the last came at {last:.3f} s"
        longest = life.began + 10 * gather_s  # as long as the leader waits for an aggregator that gathers
        if life.gathered > (longest if life.coordinator == LEADER else min(last + gather_s, longest)) + _EPSILON:
            yield f"{where}, {life.gathered - life.began:.3f} s after its start, the last came at {last:.3f} s"


def find_slow_settlements(evidence: Evidence) -> Iterator[str]:
    """A settlement ends once all that are there have confirmed it, or the patience with the others is over.

    Until then it is sent again and again, and that ten times as long as a question at most.
    """
    settlements = [(life, seen) for life in evidence.lives for seen in life.settlements]
    for life, seen in settlements:
        policy = life.policy.policy()
        if seen.ended is None or _is_disturbed(evidence, life.coordinator):
            continue
        lasted, longest = seen.ended - seen.sent[0], _SETTLEMENT_TRIES * policy.tries * policy.deadline_s
        if lasted > longest + _EPSILON or (not seen.waiting and seen.ended > seen.changed + _EPSILON):
            yield f"{life.coordinator} ends its settlement at {seen.ended:.3f} s, confirmed at {seen.changed:.3f} s"
        for name in seen.waiting:
            if lasted < min(longest, policy.patience_s - seen.waited.get(name, 0.0)) - _EPSILON:
                yield f"{life.coordinator} does not wait for the receipt of {name}, for {lasted:.3f} s"
            if len(seen.sent) < min(int(lasted / policy.deadline_s), policy.tries):
                yield f"{life.coordinator} sends its settlement {len(seen.sent)} times in {lasted:.3f} s"


def find_leftovers(evidence: Evidence) -> Iterator[str]:
    """When all have left in good order, the broker retains settlements and nothing else.

    What a node sends late may overtake its farewell.
    """
    disturbed = any(map(partial(_is_disturbed, evidence), evidence.events))
    if not evidence.errors and not evidence.waiting and not disturbed and not _has(evidence, Lie):
        for topic in evidence.retained:
            if not topic.endswith("/settlement"):
                yield f"{topic} is retained"


def find_uncounted_messages(evidence: Evidence) -> Iterator[str]:
    """A message that comes twice, or to no open round, is counted and ignored.

    Rounds that end without any answer are not seen to end, and after a restart a coordinator knows of rounds before it.
    """
    for life in evidence.lives:
        if life.number > 0 or any(seen.closed is None for seen in life.rounds):
            continue
        coordinator = vars(evidence.nodes[life.coordinator][life.number])["_coordinator"]  # it tells nobody else
        found = coordinator.stale, coordinator.repeated
        if found != (life.stale, life.repeated):
            yield f"{life.coordinator} counts {found} messages, stale and repeated are {life.stale, life.repeated}"


def find_false_messages(evidence: Evidence) -> Iterator[str]:
    """A message that is none for the node is refused, and no other one, unless its sender is a liar.

    One that took a corrupted question for a message answers what nobody has asked, and may be refused.
    """
    intact = {message.payload for message in evidence.messages}
    misled = {
        name
        for name, events in evidence.events.items()
        for event in events
        if event.kind == "receive" and event.payload and event.payload not in intact and event.rejected is None
    }
    liars = list_liars(evidence) | misled
    for name, events in evidence.events.items():
        for event in events:
            if event.kind != "receive" or event.payload not in intact or not event.payload:
                continue
            false = _find_fault(event, [session.slots for session in evidence.case.scenario.sessions])
            what = f"{event.about.purpose} of {event.about.sender} at {event.seconds:.3f} s"
            if false and event.rejected is None:
                yield f"{name} takes the {what}: {false}"
            of_sum = event.about.purpose == "masks" and event.rejected == "refused"  # a liar's group
            refused = event.rejected not in (None, BY_MASKS) and not (of_sum and liars)
            if not false and refused and event.about.sender not in liars:
                yield f"{name} refuses the {what} as {event.rejected}"


def find_silent_refusals(evidence: Evidence) -> Iterator[str]:
    """Whoever sends an answer that is refused is told why, once, and is told nothing where it is not.

    One in quarantine is told so once a round, whatever it answers.
    """
    for name, events in evidence.events.items():
        quarantined: set[str] = set()
        answer: Event | None = None
        told = 0
        for event in [*events, None]:
            if event is None or event.kind in ("receive", "tick", "start"):
                if answer is not None and told != (answer.rejected is not None):
                    yield f"{name} tells {answer.about.sender} {told} times that it refuses ({answer.rejected})"
                answer, told = None, 0
            if event is None or not event.topic or event.about.coordinator != name:
                continue
            if event.kind == "receive" and event.about.purpose == "answer" and event.about.sender not in quarantined:
                answer = event
            elif event.kind == "send" and event.about.purpose == "refusal" and answer is not None:
                told += 1
                quarantined |= {answer.about.sender} if event.content["final"] else set()


# --- members ---


def find_silent_members(evidence: Evidence) -> Iterator[str]:
    """A member says that it is there, answers each question once, and again where it is asked again.

    A home does so at once, an aggregator after the rounds with its homes. It never changes its answer to a question.
    A home that has been restarted may know its answers from before, and then is silent where it is not asked again. It
    may know in which session it was, and then ignores what comes of an earlier one. An aggregator that has been
    restarted knows what it was asked last. Where answers are masked, both wait for the roster of masks.
    """
    masked = evidence.case.scenario.privacy.sums == "committee"
    for name, coordinator in evidence.case.scenario.topology.above.items():
        if any(isinstance(fault, Stall | Corruption) and node == name for fault, node in evidence.faults):
            continue
        walk = None
        for event in evidence.events.get(name, ()):
            if walk is None or walk.life != event.life:
                sessions = len(evidence.case.scenario.sessions)
                walk = _MemberWalk(name, coordinator, event.life, sessions, walk, masked=masked)
            for problem in walk.read(event):
                yield f"{name} {problem}"


def find_second_thoughts(evidence: Evidence) -> Iterator[str]:
    """A home gives one answer to one question, also after a restart, as long as no disk is lost.

    With a mask on, it looks different each time.
    """
    if evidence.case.private:
        return
    if any(isinstance(fault, Crash) and fault.lose_state for fault, _ in evidence.faults) or _has(evidence, Corruption):
        return
    for name, coordinator in evidence.case.scenario.topology.above.items():
        answers: dict[tuple[int | None, str], bytes] = {}
        asked: Any = None
        for event in evidence.events.get(name, ()) if coordinator != LEADER else ():
            if event.kind == "receive" and event.about.purpose == "signal" and event.payload:
                asked = event.content
            if event.kind == "send" and event.about.purpose == "answer" and asked["round"] == event.about.round:
                question = (event.about.round, str(asked["body"]))
                if answers.setdefault(question, event.payload) != event.payload:
                    yield f"{name} answers round {event.about.round} anew, at {event.seconds:.3f} s"


class _MemberWalk:
    """Follows a member through one of its lives, and finds what it should not have done, or done without delay."""

    def __init__(
        self, name: str, coordinator: str, life: int, sessions: int, before: _MemberWalk | None, *, masked: bool
    ) -> None:
        self.life, self._masked = life, masked
        self._session, self._sessions = 1, sessions
        self._before, self._session_before = (0, 1) if before is None else (before.known_round, before.known_session)
        self._name, self._coordinator, self._is_home = name, coordinator, coordinator != LEADER
        self._due: tuple[float, str] | None = None
        self._begun_by: float | None = None  # an aggregator asks its homes or answers at once
        self._round, self._question = 0, None
        self._answer = self._receipt = b""
        self._settled_at: float | None = None
        self._is_over = False  # its coordinator has cleared the signal
        self._contact = 0.0

    @property
    def known_round(self) -> int:
        """The last round that it was asked, in this life or those before."""
        return max(self._before, self._round)

    @property
    def known_session(self) -> int:
        """The last session that it was called to, in this life or those before."""
        return max(self._session_before, self._session)

    def read(self, event: Event) -> Iterator[str]:
        """Take the next event, and give what is wrong with it."""
        if self._due is not None and event.seconds > self._due[0] + _EPSILON:
            yield f"owes its {self._due[1]} since {self._due[0]:.3f} s"
            self._due = None
        if self._begun_by is not None and event.kind == "send" and event.about.purpose in ("signal", "answer"):
            self._begun_by = None
        if self._begun_by is not None and event.seconds > self._begun_by + _EPSILON:
            yield f"does nothing about the question that it received at {self._begun_by:.3f} s"
            self._begun_by = None
        ours = bool(event.topic) and event.about.coordinator == self._coordinator
        match event.kind:
            case "start" if self._is_home:
                self._due, self._contact = (event.seconds, "presence"), event.seconds
            case "fetch" if self._is_home and abs(event.seconds - self._contact - _SILENCE_S) > _EPSILON:
                yield f"looks for messages {event.seconds - self._contact:.3f} s after the last"
            case "receive" if ours and event.payload and event.rejected is None:
                self._receive(event)
            case "receive" if ours and event.about.purpose == "signal" and not event.payload:
                self._is_over = True
            case "send" if ours and event.payload:
                yield from self._send(event)
            case "finish" if self._is_home:
                yield from self._leave(event)
        heard = event.kind == "receive" and ours and event.payload and event.rejected in (None, BY_MASKS)
        if event.kind == "fetch" or heard:
            self._contact = event.seconds
        if self._is_home and not self._is_last_settled and event.seconds > self._contact + _SILENCE_S + _EPSILON:
            yield f"looks for no messages for {event.seconds - self._contact:.3f} s"

    @property
    def _is_last_settled(self) -> bool:
        return self._settled_at is not None and self._session == self._sessions

    def _receive(self, event: Event) -> None:
        content = event.content
        if event.about.purpose in ("signal", "settlement") and event.about.session != self._session:
            if event.about.session < self._session:
                return
            self._session, self._round, self._question = event.about.session, 0, None
            self._answer = self._receipt = b""
            self._due = self._settled_at = None
        if event.about.purpose == "settlement":
            if self._settled_at is None or self._receipt:
                earlier = self._session < self._session_before
                self._owe("receipt", event, (self._is_home and not earlier) or bool(self._receipt))
            self._settled_at = event.seconds if self._settled_at is None else self._settled_at
        elif event.about.purpose == "signal" and self._settled_at is None and content["round"] >= self._round:
            again = content.get("again", [])
            named = not again or self._name in again
            # What it answered before its restart it may know, and with that what is older.
            known = self._before > content["round"] or (self._before == content["round"] and not named)
            if content["round"] > self._round or (self._is_home and content["body"] != self._question):
                self._round, self._question, self._answer = content["round"], content["body"], b""
                self._owe("answer", event, self._is_home and not known)
                # A restarted one may know the question.
                self._begun_by = event.seconds if self.life == 0 and not self._masked else None
            elif named and (self._answer or (self._is_home and not known)):
                self._owe("answer", event, True)

    def _leave(self, event: Event) -> Iterator[str]:
        if self._settled_at is None or not self._is_last_settled:
            yield "leaves before it knows the last settlement"
        elif not self._is_over and event.seconds < self._settled_at + _LINGER_S - _EPSILON:
            yield f"leaves {event.seconds - self._settled_at:.3f} s after the settlement, which may come again"

    def _owe(self, what: str, event: Event, at_once: bool) -> None:
        at_once = at_once and not (self._masked and what == "answer")
        self._due = (event.seconds if at_once else math.inf, what)

    def _send(self, event: Event) -> Iterator[str]:
        purpose = event.about.purpose
        if purpose == "answer" and self._round < (event.about.round or 0) <= self._before:  # of before its restart
            self._round, self._due, self._answer = self._before, (math.inf, "answer"), b""
        if purpose in ("answer", "receipt") and (self._due is None or self._due[1] != purpose):
            yield f"sends an {purpose} at {event.seconds:.3f} s that it does not owe"
        if purpose == "answer":
            if event.about.round != self._round:
                yield f"answers round {event.about.round} while {self._round} is asked"
            if self._answer and event.payload != self._answer:
                yield f"gives another answer to round {self._round}"
            self._answer = event.payload
        if purpose == "receipt":
            self._receipt = event.payload
        if self._due is not None and self._due[1] == purpose:
            self._due = None


# --- all ---


def _closed_rounds(evidence: Evidence) -> Iterator[SeenRound]:
    return (seen for life in evidence.lives for seen in life.rounds if seen.closed is not None)


def list_liars(evidence: Evidence) -> set[str]:
    """Name the nodes that have lied, and those in whose name they did."""
    lies = [(fault, node) for fault, node in evidence.faults if isinstance(fault, Lie)]
    return {name for fault, node in lies for name in (node, fault.as_) if name}


def _has(evidence: Evidence, *kinds: type) -> bool:
    return any(isinstance(fault, kinds) for fault, _ in evidence.faults)


def _is_disturbed(evidence: Evidence, name: str) -> bool:
    """Tell whether a node itself, or its connection, was slowed down or stopped."""
    slow = any(isinstance(fault, Slow) and fault.concerns(name) for fault in evidence.case.plan.faults)
    struck = any(isinstance(fault, _DISTURBANCES) and node == name for fault, node in evidence.faults)
    return slow or struck or _has(evidence, BrokerOutage)


def _find_fault(event: Event, sessions: list[int]) -> str:
    """Say why a message is none for its receiver, by rules simpler than those of the codec; empty where it may be."""
    content, about = event.content, event.about
    if not isinstance(content, dict):
        return "it is no JSON object"
    if content.get("run") != event.topic.split("/")[1] or content.get("sender") != about.sender:
        return f"it is of {content.get('sender')} in run {content.get('run')}"
    if about.session > len(sessions):
        return f"it is of session {about.session} of {len(sessions)}"
    slots = sessions[about.session - 1]
    for key, value in (content.get("body") or {}).items():
        if (
            key in _MASKED
            or not isinstance(value, list)
            or not all(isinstance(number, float | int) for number in value)
        ):
            continue
        if not all(map(math.isfinite, value)):
            return f"{key} is not finite"
        if len(value) != (1 if key in _OF_ONE_HOME else slots):
            return f"{key} has {len(value)} numbers for {slots} slots"
    return ""


def drop_none(body: Any) -> Any:
    """Give a body of a ledger as it is sent, without the keys that are null."""
    if isinstance(body, dict):
        return {key: drop_none(value) for key, value in body.items() if value is not None}
    return [drop_none(each) for each in body] if isinstance(body, list) else body


def _where(seen: SeenRound) -> str:
    return f"round {seen.number} of {seen.coordinator}"
