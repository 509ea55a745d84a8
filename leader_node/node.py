"""The leader as a state machine: gather the aggregators; in each session wait, ask, decide, ask again, settle."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from leader_node.membership import Membership
from stackelgrid.calendar import Session
from stackelgrid.gates import Opening, Timetable
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.node.record import Recorder
from stackelgrid.rounds import Coordinator, MembersGathered, MembersLost, Round, RoundPolicy, SettlementAcknowledged
from stackelgrid.rounds.ledger import Entry, Ledger, dump_round, load_round
from stackelgrid.rounds.settings import LeaderSettings
from stackelgrid.rounds.strategy import Decision
from stackelgrid.transport.base import Action, Compute, FetchRetained, Finish, Publish
from stackelgrid.wire.codec import Link, RegistrarLink
from stackelgrid.wire.messages import RegisteredMember, Roster
from stackelgrid.wire.roles import Role

_LOG = logging.getLogger("leader_node")
_MAX_CONFIRMATIONS = 2
"""A decision to settle on answers that are not all fresh is asked again this many times before it is settled anyway."""
_LOOK_S = 30.0
"""The time between two looks at the clock while a gate is awaited: clocks are set, and machines sleep."""


class LeaderNode:
    """Coordinator of the aggregators.

    Sessions open by the `timetable`. `journal` stores one record for each finished round, `conclude` one at the end of
    each session. Rounds that are in the `ledger` are not played again: the node goes on after the last of them. In a
    grid the ledger keeps of the sessions that are over the last one's end alone. `members` take part, and once the
    `registrar`, if there is one, has sent a roster, those that it names.
    """

    role = Role.LEADER

    def __init__(
        self,
        name: str,
        link: Link,
        members: Sequence[RegisteredMember],
        policy: RoundPolicy,
        settings: LeaderSettings,
        sessions: Sequence[Session],
        timetable: Timetable,
        *,
        journal: Recorder,
        conclude: Recorder,
        ledger: Ledger,
        registrar: RegistrarLink | None = None,
    ) -> None:
        self.name = name
        self.mailbox = Mailbox(link) if registrar is None else Mailbox(link, registrar)
        self.progress = Progress()
        self.last_will: Publish | None = None
        self._registrar = registrar
        self._membership = Membership(link, members, self.mailbox, settings.fixed_members)
        limits = self._membership.limits
        self._coordinator = Coordinator(
            link,
            self._membership.names,
            policy,
            limits.check_answer,
            limits.check_receipt,
            members_gather=True,
            of_grid=timetable.has_gates,
        )
        self._settings, self._sessions, self._timetable = settings, sessions, timetable
        self._opening: Opening | None = None  # the session that waits for its gate
        self._look_at: float | None = None  # at the clock, meanwhile
        self._journal = journal
        self._conclude = conclude
        self._ledger = ledger
        entries = list(ledger)
        self._has_begun = bool(entries)
        self._replay_ledger(entries)

    def _begin_session(self, number: int, state: Mapping[str, Any] | None) -> None:
        """Begin a session with the state that the one before has left."""
        self._session, self._state = self._sessions[number - 1], state
        self._settings_now = self._settings.foresee(self._session).in_session(self._session, state)
        self._strategy = self._settings_now.strategy(self._session)
        self._rounds_before = self._coordinator.rounds
        self._decision: Decision[Any, Any] | None = None
        self._last_round: Round | None = None
        self._account: Mapping[str, Any] | None = None  # of the last round
        self._all_fresh = False  # in the last round
        self._confirmations = 0
        self._is_open = False
        self._conclusion: dict[str, Any] = {}

    @property
    def subscriptions(self) -> Sequence[str]:
        """Give the topics of the members' answers, receipts and presence, and of the roster."""
        rosters = () if self._registrar is None else (self._registrar.topic_of_roster,)
        return (*self._coordinator.subscriptions, *rosters)

    def start(self, now: float) -> Sequence[Action]:
        """Begin, or go on after a reconnect."""
        return self._perform([*self._membership.announce(self._session.number), *self._coordinator.start(now)], now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take a payload from the broker."""
        if not payload:
            return self._perform(self._coordinator.note_cleared(topic, now), now)
        read = self.mailbox.read(topic, payload)
        if read is None:
            return self._perform(self._coordinator.note_unreadable(topic, self.mailbox.objection, now), now)
        if isinstance(read[1], Roster):
            return self._note_roster(read[1], now)
        return self._perform(self._coordinator.receive(read[1], now, len(payload)), now)

    def next_deadline(self) -> float | None:
        """Give the time at which to call `tick`, or None."""
        deadlines = (self._coordinator.next_deadline(), self._look_at)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def tick(self, now: float) -> Sequence[Action]:
        """Act on the deadline."""
        actions = self._perform(self._coordinator.tick(now), now)
        if self._opening is not None and self._look_at is not None and now >= self._look_at:
            actions += self._await_session(self._opening.number, now)
        return actions

    def _perform(self, steps: Sequence[object], now: float) -> list[Action]:
        """Pass the coordinator's actions on and respond to its events."""
        actions: list[Action] = []
        for step in steps:
            match step:
                case Publish() | FetchRetained():
                    actions.append(step)
                case MembersGathered():
                    actions += self._begin(step, now)
                case Round():
                    actions.append(self._decide(step))
                case MembersLost():
                    actions += self._give_up(step, now)
                case SettlementAcknowledged():
                    actions += self._end_session(step, now)
        return actions

    def _note_roster(self, roster: Roster, now: float) -> Sequence[Action]:
        """Keep a newer roster for the next session; as long as nothing has begun that is the first."""
        if not self._membership.note(roster) or self._has_begun:
            return []
        return self._perform(self._change_members(now), now)

    def _change_members(self, now: float) -> list[object]:
        """Begin a session with the members of the newest roster, and tell each aggregator its own."""
        number = self._session.number
        if not self._membership.begin_session():
            return [*self._coordinator.begin_session(number, now)]
        self._ledger.append({"session": number, **self._membership.entry})
        self._coordinator.link = self._membership.link
        steps = self._coordinator.begin_session(number, now, self._membership.names)
        return [*self._membership.announce(number), *steps]

    def _begin(self, gathered: MembersGathered, now: float) -> Sequence[Action]:
        """Ask the first question of a session that opens; before the first, or after a restart, find which is on."""
        self._has_begun = True
        if gathered.absent:
            _LOG.warning(gathered.describe("aggregators"), extra={"data": {"absent": gathered.absent}})
        if self._is_open:
            return [Compute(partial(self.progress.work, self._strategy.open), self._ask_first)]
        number = self._session.number
        next_opening = self._find_opening(number, now)
        if self._decision is None or next_opening is None or next_opening.number != number:
            self._account = None  # what was not settled leaves nothing
            return self._await_session(number, now)
        _LOG.info("going on", extra={"data": {"round": self._last_round.number if self._last_round else 0}})
        return self._ask_or_settle(now)

    # --- between two sessions ---

    def _await_session(self, number: int, now: float) -> Sequence[Action]:
        """Open session `number`, or the first after it that is not to be skipped, at its gate; leave after the last."""
        opening = self._find_opening(number, now)
        if opening is None:
            return self._leave(now)
        self._skip(range(number, opening.number), now)
        if opening.at <= now:
            return self._open_session(opening.number, now)
        if self._opening is None or self._opening.number != opening.number:
            opens = {"session": opening.number, "opens": opening.opens.isoformat()} if opening.opens else {}
            _LOG.info("waiting for a gate", extra={"data": opens})
        self._opening, self._look_at = opening, min(opening.at, now + _LOOK_S)
        return []

    def _find_opening(self, number: int, now: float) -> Opening | None:
        """Find the next session to open; keep for a restart when an accelerated clock has begun."""
        anchor = self._timetable.anchor
        opening = self._timetable.find_next(number, now)
        if self._timetable.anchor is not None and anchor is None:
            self._ledger.append({"anchor": self._timetable.anchor.isoformat()})
        return opening

    def _skip(self, numbers: range, now: float) -> None:
        """Conclude sessions that could not be opened in time."""
        if not numbers:
            return
        first, last = (self._sessions[number - 1] for number in (numbers[0], numbers[-1]))
        _LOG.warning(
            "sessions skipped",
            extra={"data": {"first": first.number, "last": last.number, "reason": self._timetable.explain(first, now)}},
        )
        for number in numbers:
            reason = self._timetable.explain(self._sessions[number - 1], now)
            conclusion = {"session": number, "settled": False, "complete": False, "skipped": reason}
            self._conclude(conclusion)
        self._keep_end(last.number, conclusion)

    def _open_session(self, number: int, now: float) -> Sequence[Action]:
        """Open a session. Who is a member now is one for the whole of it."""
        self._opening = self._look_at = None
        if number != self._session.number:
            self._begin_session(number, self._find_state(number))
        self._is_open = True
        opened = self._timetable.read(now)
        if opened is not None:
            self._conclusion["opened"] = opened.isoformat(timespec="seconds")
            self._ledger.append({"session": number, "opened": self._conclusion["opened"]})
        return self._perform(self._change_members(now), now)

    def _find_state(self, number: int) -> Mapping[str, Any] | None:
        """Find the state that this session leaves to the later session `number`."""
        if self._account is None:
            return self._state
        return self._settings_now.advance(self._session.until(self._sessions[number - 1]), self._account)

    def _end_session(self, acknowledged: SettlementAcknowledged, now: float) -> Sequence[Action]:
        """Conclude the session and go on to the next."""
        self._conclusion["unacknowledged"] = list(acknowledged.missing)
        if len(self._sessions) == 1:
            self._conclude(self._conclusion)
            return self._leave(now)
        number = self._session.number
        states = {} if not self._state else {"states": {self.name: self._state}}
        conclusion = {"session": number, **self._conclusion, **states, **self._membership.record}
        self._conclude(conclusion)
        if number < len(self._sessions):
            self._keep_end(number, conclusion)
        return self._await_session(number + 1, now)

    def _keep_end(self, number: int, conclusion: Mapping[str, Any]) -> None:
        """Keep in the ledger how session `number` has ended, and what it leaves; in a grid drop what led to it."""
        end = {"session": number, "rounds": self._coordinator.rounds, "conclusion": conclusion}
        end["state"] = self._find_state(number + 1)
        if self._timetable.has_gates:
            anchor = self._timetable.anchor
            end |= {
                "quarantined": dict(self._coordinator.quarantined),
                "anchor": None if anchor is None else anchor.isoformat(),
                **self._membership.entry,
            }
            self._ledger.clear()
        self._ledger.append(end)

    # --- a session ---

    def _ask_first(self, decision: Decision[Any, Any], now: float) -> Sequence[Action]:
        self._decision = decision
        if not self._coordinator.members:
            self._conclusion["stopped"] = "no home is in the roster"
            return self._settle(settled=False, complete=False, now=now)
        return self._ask(decision, now)

    def _ask(self, decision: Decision[Any, Any], now: float) -> Sequence[Action]:
        steps = self._coordinator.ask(decision.ask, now)
        self.progress.start_round(self._coordinator.rounds)
        return self._perform(steps, now)

    def _decide(self, finished: Round) -> Compute:
        """Decide on a finished round, while the node goes on receiving."""

        def then(decision: Decision[Any, Any], now: float) -> Sequence[Action]:
            self._adopt(decision, finished)
            self._record(finished, decision, now)
            return self._ask_or_settle(now)

        return Compute(partial(self._compute_decision, finished), then)

    def _compute_decision(self, finished: Round) -> Decision[Any, Any]:
        """Have the strategy decide. From a round without answers nothing follows: the last decision stays."""
        if not finished.answers and self._decision is not None:
            return self._decision
        return self.progress.work(self._strategy.decide, finished.body, finished.answers, finished.held)

    def _adopt(self, decision: Decision[Any, Any], finished: Round) -> None:
        self._last_round, self._decision = finished, decision
        self._all_fresh = finished.complete and all(body.fresh for body in finished.answers.values())
        self._confirmations += decision.settle and not self._all_fresh

    def _record(self, finished: Round, decision: Decision[Any, Any], now: float) -> None:
        self._account = account = {
            "round": finished.number,
            **({"session": self._session.number} if len(self._sessions) > 1 else {}),
            **decision.account,
            "residual": decision.residual,
            **finished.account,
            "complete": self._all_fresh,
            "ms": round(1000 * (now - finished.opened_at), 3),
        }
        self._ledger.append({**dump_round(finished), "account": account})
        self._journal(account)
        self.progress.finish_round(account)

    def _ask_or_settle(self, now: float) -> Sequence[Action]:
        """Settle when the decision says so and all answers were fresh, or the limits are reached; else ask again."""
        assert self._decision is not None and self._last_round is not None
        confirmed = self._all_fresh or self._confirmations > _MAX_CONFIRMATIONS
        if self._decision.settle and confirmed:
            return self._settle(settled=True, complete=self._all_fresh, now=now)
        if self._decision.stop:
            self._conclusion["stopped"] = self._decision.stop
        rounds = self._last_round.number - self._rounds_before
        if self._decision.stop or rounds >= self._settings_now.max_rounds:
            return self._settle(settled=False, complete=self._all_fresh, now=now)
        return self._ask(self._decision, now)

    def _give_up(self, lost: MembersLost, now: float) -> Sequence[Action]:
        """End the session without an agreement: a round could not go on."""
        _LOG.error("members lost", extra={"data": {"members": lost.members, "round": lost.round}})
        self._conclusion["lost"] = list(lost.members)
        return self._settle(settled=False, complete=False, now=now)

    def _settle(self, *, settled: bool, complete: bool, now: float) -> Sequence[Action]:
        decision = self._decision
        assert decision is not None
        self._conclusion |= {"settled": settled, "complete": complete, "residual": decision.residual}
        self.progress.settle()
        steps = self._coordinator.settle(decision.settlement, settled=settled, complete=complete, now=now)
        return self._perform(steps, now)

    def _leave(self, now: float) -> Sequence[Action]:
        return [*self._perform([*self._coordinator.leave(), *self._membership.leave()], now), Finish()]

    def _replay_ledger(self, entries: Sequence[Entry]) -> None:
        """Take the rounds from before a restart, so that coordinator and strategy are where they were after the last.

        Of the sessions that are over only the state that they have left counts, and who is in quarantine.
        """
        for entry in entries:
            if entry.get("anchor"):
                self._timetable.anchor = datetime.fromisoformat(entry["anchor"])
        ended = [number for number, entry in enumerate(entries) if "conclusion" in entry]
        open_from = ended[-1] + 1 if ended else 0
        for entry in entries[:open_from]:
            self._recall_roster(entry)
            number = entry.get("number", entry.get("rounds", 0))
            self._coordinator.recall(number, entry.get("quarantined", {}))
        number, state = (entries[ended[-1]]["session"] + 1, entries[ended[-1]]["state"]) if ended else (1, None)
        self._coordinator.begin_session(number, 0.0)
        self._begin_session(number, state)
        for entry in entries[open_from:]:
            self._recall_roster(entry)
            if entry.get("session") == self._session.number and "opened" in entry:
                self._conclusion["opened"] = entry["opened"]
            if "number" in entry:
                self._replay(load_round(entry, self._coordinator.link.bodies))
                self._account = entry["account"]

    def _recall_roster(self, entry: Entry) -> None:
        """Take up the roster in an entry of the ledger, if there is one."""
        if "roster" in entry:
            self._membership.adopt(Roster.model_validate(entry["roster"]))
            self._coordinator.link = self._membership.link
            self._coordinator.begin_session(self._coordinator.session, 0.0, self._membership.names)

    def _replay(self, finished: Round) -> None:
        if self._decision is None:
            self._decision = self._strategy.open()
        self._coordinator.resume(finished)
        self._adopt(self._compute_decision(finished), finished)
