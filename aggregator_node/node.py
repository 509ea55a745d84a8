"""The aggregator as a state machine: member of the leader, coordinator of its homes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aggregator_node.masked_rounds import MaskedRounds, Masks
from stackelgrid.calendar import Session
from stackelgrid.masks.sums import CommitteeReplaced, GroupSums, SetUp, SetUpFailed
from stackelgrid.node.limits import MemberLimits
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import Progress
from stackelgrid.node.record import Recorder
from stackelgrid.rounds import (
    Coordinator,
    Member,
    MembersGathered,
    MembersLost,
    QuestionReceived,
    RefusalReceived,
    Round,
    RoundPolicy,
    SettlementAcknowledged,
    SettlementReceived,
)
from stackelgrid.rounds.ledger import Entry, Ledger, dump_round, load_round
from stackelgrid.rounds.settings import AggregatorSettings
from stackelgrid.rounds.strategy import Ask, Reply
from stackelgrid.transport.base import Action, FetchRetained, Finish, Publish
from stackelgrid.wire.codec import Link, RegistrarLink
from stackelgrid.wire.masks import ListSignature, MaskKeys, MaskShares, MaskSums, ShareReceipt
from stackelgrid.wire.messages import AggregatorRoster, Body, Message, RegisteredMember
from stackelgrid.wire.roles import Role

_LOG = logging.getLogger("aggregator_node")


class AggregatorNode:
    """Answers each of the leader's signals after rounds with its homes, as many as its strategy wants.

    `members` are the processes of its homes. `journal` stores one record for each finished round with them, `conclude`
    the strategy's account of each settlement. It is in the session of the leader's last message. Before its members
    have gathered, the node tells the leader so. Rounds that are in the `ledger` are not played again: the node goes on
    after the last of them. That of a grid keeps of earlier sessions only what the last has left. In a run with a
    `registrar` the leader may tell it other members, who take part from the first signal on of the session that it
    names, or of a later one. With `masks` its homes' answers are masked, and what its strategy gets are the sums of
    groups: before the first question of a session it sets a roster up, and after each round it has masks summed.
    """

    role = Role.AGGREGATOR

    def __init__(
        self,
        name: str,
        up: Link,
        down: Link,
        members: Sequence[RegisteredMember],
        policy: RoundPolicy,
        settings: AggregatorSettings,
        sessions: Sequence[Session],
        *,
        journal: Recorder,
        conclude: Recorder,
        ledger: Ledger,
        registrar: RegistrarLink | None = None,
        of_grid: bool = False,
        masks: Masks | None = None,
    ) -> None:
        self.name = name
        self.mailbox = Mailbox(up, down)
        self.progress = Progress()
        self._up, self._down, self._policy = up, down, policy
        self._settings, self._sessions = settings, sessions
        self._homes = {member.name: member.homes for member in members}
        self._takes_rosters = registrar is not None
        self._roster: AggregatorRoster | None = None  # in force
        self._next_roster: AggregatorRoster | None = None
        self._journal, self._conclude, self._ledger, self._of_grid = journal, conclude, ledger, of_grid
        self._member = Member(name, up)
        self._limits = MemberLimits(members, Role.HOME, self.mailbox)
        self._coordinator = Coordinator(
            down, list(self._homes), policy, self._check_answer, self._limits.check_receipt, of_grid=of_grid
        )
        self._masked = None if masks is None else MaskedRounds(down, masks, self._limits, self.mailbox)
        self._has_gathered = False
        self._leader_round = 0  # the round of the leader's last signal
        self._inner_rounds = 0  # how many rounds with the homes that signal has led to
        self._answered_round = 0  # the last of the leader's rounds that was answered
        self._next_question: Ask[Any] | None = None  # after a restart: to be asked once the homes have gathered
        self._leave_by: float | None = None
        self._left: dict[int, Mapping[str, Any]] = {}  # by session, the state that its settlement leaves
        self._entered = 0  # the session of the leader's last message
        self._opening: QuestionReceived | None = None  # of a session in which no round with the homes is finished
        self._replay_ledger()

    def _begin_session(self, number: int) -> None:
        """Begin a session with the state that the last settlement before it has left."""
        self._session = self._sessions[number - 1]
        before = max((earlier for earlier in self._left if earlier < number), default=None)
        self._state = None if before is None else self._left[before]
        self._left = {session: state for session, state in self._left.items() if session == before or session >= number}
        self._settings_now = self._settings.in_session(self._session, self._state)
        self._strategy = self._settings_now.strategy(self._session, self._homes)
        if self._masked is not None:
            self._masked.begin_session()

    def _go_on_to(self, number: int, now: float) -> list[Action]:
        """Go on to the session of the leader's message, if it is another, with the members that it told for it."""
        if number <= self._entered:
            return []
        self._entered = number
        if self._of_grid:
            self._drop_past()
        roster = self._next_roster
        if roster is not None and roster.session <= number:
            return self._change_members(number, roster, now)
        if number == self._session.number:
            return []
        steps = self._coordinator.begin_session(number, now)
        self._begin_session(number)
        return self._perform(steps, now)

    def _drop_past(self) -> None:
        """Drop from the ledger what earlier sessions need no longer."""
        last = max(self._left, default=self._session.number)
        self._ledger.clear()
        self._ledger.append(
            {
                "session": last,
                "state": self._left.get(last),
                "asked": self._coordinator.rounds,
                "quarantined": dict(self._coordinator.quarantined),
            }
        )
        if self._roster is not None:
            self._keep_roster(last, self._roster)
        if self._masked is not None and self._masked.collector.roster is not None:
            self._ledger.append({"session": last, "masks": self._masked.collector.remember()})

    # --- the roster ---

    def _note_roster(self, roster: AggregatorRoster, now: float) -> list[Action]:
        """Keep a newer roster for the first signal of its session.

        As long as nothing has begun it is taken up at once, and so is one that this signal has overtaken.
        """
        known = self._next_roster or self._roster
        if known is not None and roster.number <= known.number:
            return []
        self._next_roster = roster
        if not self._entered and not self._has_gathered:
            return self._change_members(self._session.number, roster, now)
        if self._opening is None or roster.session > self._opening.session:
            return []
        self._entered = self._opening.session - 1
        return self._open(self._opening, now)

    def _change_members(self, number: int, roster: AggregatorRoster, now: float) -> list[Action]:
        """Begin a session with the members of a roster."""
        self._next_roster = None
        self._keep_roster(number, roster)
        steps = self._adopt_roster(number, roster, now)
        self._begin_session(number)
        return self._perform(steps, now)

    def _keep_roster(self, number: int, roster: AggregatorRoster) -> None:
        self._ledger.append({"session": number, "roster": roster.model_dump(mode="json", by_alias=True)})

    def _adopt_roster(self, number: int, roster: AggregatorRoster, now: float) -> Sequence[object]:
        self._roster = roster
        self._homes = {member.name: member.homes for member in roster.members}
        self._limits.begin_session(roster.members)
        up, down = self._up, self._down
        self._up = self._member.link = replace(up, homes=max(up.homes or 1, sum(self._homes.values())))
        self._down = self._coordinator.link = replace(down, homes=max([down.homes or 1, *self._homes.values()]))
        self.mailbox.replace(up, self._up)
        self.mailbox.replace(down, self._down)
        return self._coordinator.begin_session(number, now, list(self._homes))

    @property
    def subscriptions(self) -> Sequence[str]:
        """Give the topics of the leader's messages and of the homes'."""
        rosters = [self._up.topic_of_roster(self.name)] if self._takes_rosters else []
        return [*self._member.subscriptions, *rosters, *self._coordinator.subscriptions]

    @property
    def coordinator(self) -> str:
        """Give the name of its leader."""
        return self._up.coordinator

    @property
    def session(self) -> int:
        """Give the number of the session that it is in."""
        return self._session.number

    @property
    def last_will(self) -> Publish:
        """Give the message by which the leader learns that the connection is lost."""
        return self._member.last_will

    def start(self, now: float) -> Sequence[Action]:
        """Begin, or go on after a reconnect."""
        self._member.note_contact(now)
        presence = self._member.start(gathering=not self._has_gathered)
        masks = [] if self._masked is None else self._masked.collector.start()
        return self._perform([*presence, *self._coordinator.start(now), *masks], now)

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take a payload from the broker."""
        if not payload:
            # The leader clears its signal when the run is over.
            over = topic == self._up.topic_to_member("signal", self.name) and self._leave_by is not None
            return self._leave() if over else self._perform(self._coordinator.note_cleared(topic, now), now)
        read = self.mailbox.read(topic, payload)
        if read is None:
            return self._perform(self._coordinator.note_unreadable(topic, self.mailbox.objection, now), now)
        link, message = read
        if link is self._up:
            self._member.note_contact(now)
            if isinstance(message, AggregatorRoster):
                return self._note_roster(message, now)
            steps = self._member.receive(message)
            self._member.note_contact(now)
            return self._perform(steps, now)
        if self._masked is not None and isinstance(message, _OF_MASKS):
            known = message.sender in self._homes
            return self._receive_masks(self._masked, message, now, len(payload)) if known else []
        return self._perform(self._coordinator.receive(message, now, len(payload)), now)

    def next_deadline(self) -> float | None:
        """Give the time at which to call `tick`, or None."""
        if self._leave_by is not None:
            return self._leave_by
        of_masks = None if self._masked is None else self._masked.collector.next_deadline()
        deadlines = (self._coordinator.next_deadline(), self._member.next_deadline(), of_masks)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def tick(self, now: float) -> Sequence[Action]:
        """Act on the deadline."""
        if self._leave_by is not None:
            return self._leave() if now >= self._leave_by else []
        masks = [] if self._masked is None else self._masked.collector.tick(now)
        return self._perform([*self._coordinator.tick(now), *self._member.tick(now), *masks], now)

    def _perform(self, steps: Sequence[object], now: float) -> list[Action]:
        """Pass the actions of coordinator and member on and respond to their events."""
        actions: list[Action] = []
        for step in steps:
            match step:
                case Publish() | FetchRetained():
                    actions.append(step)
                case MembersGathered():
                    actions += self._begin(step, now)
                case QuestionReceived():
                    actions += self._open(step, now)
                case Round() if step.answers and self._masked is not None:
                    actions += self._sum_up(self._masked, step, now)
                case Round() if step.answers:
                    actions += self._continue(step, step.answers, step.held, step.excluded, step.closed_at)
                case Round() | MembersLost():
                    # Without any home's answer there is none to the leader; the leader's policy takes effect.
                    _LOG.error("homes lost", extra={"data": {"round": self._leader_round}})
                case SettlementReceived():
                    actions += self._settle(step, now)
                case RefusalReceived(round_number, reason, final):
                    self.progress.note_refusal(round_number, reason, final=final)
                case SettlementAcknowledged():
                    actions += self._acknowledge(step, now)
                case SetUp() | GroupSums() | CommitteeReplaced() | SetUpFailed() if self._masked is not None:
                    actions += self._on_masks(self._masked, step, now)
        return actions

    def _begin(self, gathered: MembersGathered, now: float) -> list[Action]:
        """Come online and ask what is to be asked: after a restart what follows from the rounds in the ledger."""
        if gathered.absent:
            _LOG.warning(gathered.describe("homes' processes"), extra={"data": {"absent": gathered.absent}})
        actions = [] if self._has_gathered else self._perform(self._member.start(), now)
        self._has_gathered = True
        if self._masked is not None and self._masked.signal is not None:
            return [*actions, *self._set_masks_up(self._masked, now)]
        if self._masked is not None and self._masked.finished is not None:
            return [*actions, *self._sum_up(self._masked, self._masked.finished, now)]
        if self._next_question is not None:
            question, self._next_question = self._next_question, None
            actions += self._ask_or_reply(question, now)
        return actions

    def _open(self, question: QuestionReceived, now: float) -> list[Action]:
        """Begin with the leader's signal. The homes' answers to the one before, if any are missing, are dropped."""
        self._abandon(now)
        if question.session > self._entered:
            self._opening = question
        actions = self._go_on_to(question.session, now)
        if (question.session > 1 or self._masked is not None) and not self._coordinator.rounds:
            self._coordinator.skip_to(question.round - 1)  # without its ledger: homes know the numbers before
        self._drop_next_question()
        self._leader_round, self._inner_rounds = question.round, 0
        signal = question.body.model_dump(mode="json")
        self._ledger.append(
            {**self._of_session(), "round": question.round, "signal": signal, "asked": self._coordinator.rounds}
        )
        self.progress.start_round(question.round)
        if not self._homes:
            return actions  # the leader waits for no answer of an aggregator without homes
        if self._masked is not None and not self._masked.may_ask:
            self._masked.signal = question.body
            return [*actions, *self._set_masks_up(self._masked, now)]
        return [*actions, *self._ask_or_reply(self.progress.work(self._strategy.open, question.body), now)]

    def _continue(
        self,
        finished: Round,
        answers: Mapping[str, Body],
        held: Sequence[str],
        excluded: Sequence[str],
        now: float,
        of_masks: Mapping[str, Any] | None = None,
    ) -> list[Action]:
        """Go on with the homes' answers, or with the sums of groups of them."""
        self._opening = None
        next_step = self.progress.work(self._strategy.on_answers, finished.body, answers, held, excluded)
        if self._masked is None:  # else that was written before its masks were summed
            self._ledger.append({**self._of_session(), "round": self._leader_round, **dump_round(finished)})
        account = {
            "round": self._leader_round,
            **self._of_session(),
            "inner": self._inner_rounds,
            **next_step.account,
            **finished.account,
            **(of_masks or {}),
            "ms": round(1000 * (now - finished.opened_at), 3),
        }
        self._journal(account)
        self.progress.finish_round(account)
        return self._ask_or_reply(next_step, now)

    def _abandon(self, now: float) -> None:
        """Drop what is under way with the homes: the leader goes on."""
        self._coordinator.abandon(now)
        if self._masked is not None:
            self._masked.abandon()

    def _ask_or_reply(self, next_step: Ask[Any] | Reply[Any], now: float) -> list[Action]:
        if isinstance(next_step, Ask):
            if self._coordinator.is_gathering and self._has_gathered:
                self._next_question = next_step  # asked once the new homes have come
                return []
            self._inner_rounds += 1
            if self._masked is not None:
                self._masked.asked = next_step
            return self._perform(self._coordinator.ask(next_step.body, now), now)
        if self._masked is not None:
            self._masked.asked = None
        self._answered_round = self._leader_round
        actions = self._perform(self._member.answer(self._leader_round, next_step.body), now)
        if actions:
            self.progress.count_answer()
        return actions

    def _drop_next_question(self) -> None:
        """Drop the question from before a restart, which the leader no longer waits for. Its number was used then."""
        if self._next_question is not None:
            self._next_question = None
            self._coordinator.skip_to(self._coordinator.rounds + 1)

    def _settle(self, settlement: SettlementReceived, now: float) -> list[Action]:
        """Pass the leader's settlement on to the homes."""
        self._opening = None
        self._abandon(now)
        actions = self._go_on_to(settlement.session, now)
        self._drop_next_question()
        ending = self.progress.work(self._strategy.settle, settlement.body)
        states = {} if not self._state else {self.name: self._state}
        record = {**self._of_session(), "states": states, "account": ending.account, **self._of_roster()}
        self._conclude(record if self._of_session() else ending.account)
        if self._session.number < len(self._sessions) and self._session.number not in self._left:
            state = self._settings_now.advance(self._session, ending.account)
            self._left[self._session.number] = state
            self._ledger.append({**self._of_session(), "state": state})
        self.progress.settle()
        # After a restart without a ledger the strategy does not know the answers that the settlement rests on.
        complete = settlement.complete and settlement.round == self._answered_round
        steps = self._coordinator.settle(ending.body, settled=settlement.settled, complete=complete, now=now)
        return [*actions, *self._perform(steps, now)]

    def _of_roster(self) -> dict[str, Any]:
        """Give the roster in force for the record of a session; nothing as long as there is none."""
        if self._roster is None:
            return {}
        return {"roster": {"number": self._roster.number, "members": list(self._homes)}}

    def _of_session(self) -> dict[str, int]:
        """Give the key by which records of several sessions are told apart."""
        return {"session": self._session.number} if len(self._sessions) > 1 else {}

    def _acknowledge(self, acknowledged: SettlementAcknowledged, now: float) -> list[Action]:
        """Confirm the settlement to the leader.

        That of the last session ends the run: wait for its end no longer than the leader may ask again.
        """
        if self._session.number == len(self._sessions):
            self._leave_by = now + (self._policy.tries + 1) * self._policy.deadline_s
        return self._perform(self._member.acknowledge(list(acknowledged.missing)), now)

    # --- private sums ---

    def _on_masks(
        self, masked: MaskedRounds, event: SetUp | GroupSums | CommitteeReplaced | SetUpFailed, now: float
    ) -> list[Action]:
        """Respond to an event of the collector of sums; after a failure the leader's policy takes effect."""
        match event:
            case SetUp(kept=kept):
                return self._go_on_with_masks(masked, kept, now)
            case GroupSums():
                return self._on_sums(masked, event, now)
            case CommitteeReplaced(epoch):
                _LOG.warning("committee replaced", extra={"data": {"round": self._leader_round, "epoch": epoch}})
            case SetUpFailed(reason):
                _LOG.error("no private sums", extra={"data": {"round": self._leader_round, "cause": reason}})
        return []

    def _receive_masks(self, masked: MaskedRounds, message: Message, now: float, size: int) -> list[Action]:
        actions = self._perform(masked.collector.receive(message, now, size), now)
        if isinstance(message, MaskKeys):  # others than in the roster, perhaps
            self._coordinator.unable = masked.explain_missing(self._homes)
        return actions

    def _set_masks_up(self, masked: MaskedRounds, now: float) -> list[Action]:
        """Set a roster up with the members that are there, once they have gathered."""
        if not self._has_gathered or self._coordinator.is_gathering:
            return []
        there = {name: self._homes[name] for name in self._coordinator.list_expected(now)}
        return self._perform(masked.collector.set_up(self._session.number, there, now), now)

    def _go_on_with_masks(self, masked: MaskedRounds, kept: bool, now: float) -> list[Action]:
        """Begin with the leader's signal, or ask again what another committee was asked about."""
        collector = masked.collector
        masks = collector.remember_session() if kept else collector.remember()
        self._ledger.append({**self._of_session(), "masks": masks})
        self._form_groups(masked)
        if masked.signal is not None:
            signal, masked.signal = masked.signal, None
            return self._ask_or_reply(self.progress.work(self._strategy.open, signal), now)
        question = masked.take_question()
        return [] if question is None else self._ask_or_reply(question, now)

    def _form_groups(self, masked: MaskedRounds) -> None:
        """Play the session with the groups of the roster; rounds do not wait for homes that cannot answer."""
        if not masked.has_groups:
            self._strategy = masked.form_groups(self._settings_now, self._session, self._homes)
        self._coordinator.unable = masked.explain_missing(self._homes)

    def _sum_up(self, masked: MaskedRounds, finished: Round, now: float) -> list[Action]:
        """Have the masks of a finished round summed; first write it down, unless it is from before a restart."""
        if finished is not masked.finished:
            self._ledger.append({**self._of_session(), "round": self._leader_round, **dump_round(finished)})
        return self._perform(masked.sum_up(finished, now), now)

    def _on_sums(self, masked: MaskedRounds, sums: GroupSums, now: float) -> list[Action]:
        """Go on with the sums of groups; without any, ask the homes again."""
        finished, masked.finished = masked.finished, None
        if finished is None:
            return []
        if not sums.answers:
            _LOG.warning("no sums", extra={"data": {"round": self._leader_round, "not_summed": dict(sums.why)}})
            question = masked.ask_again(finished)
            return [] if question is None else self._ask_or_reply(question, now)
        self._ledger.append({**self._of_session(), "sums": masked.dump(sums)})
        excluded, account = masked.list_excluded(sums), masked.describe(finished, sums)
        return self._continue(finished, sums.answers, sums.held, excluded, now, account)

    def _check_answer(self, name: str, question: Body, body: Body) -> str | None:
        """Give the reason why an answer of a home is refused, or None."""
        reason = self._limits.check_answer(name, question, body)
        return reason if reason is not None or self._masked is None else self._masked.check_answer(name, question, body)

    def _leave(self) -> list[Action]:
        masks = [] if self._masked is None else self._masked.collector.leave()
        farewell = (*masks, *self._coordinator.leave(), *self._member.leave())
        return [*(step for step in farewell if isinstance(step, Publish)), Finish()]

    def _replay_ledger(self) -> None:
        """Take the rounds from before a restart, up to the question or the answer that comes next.

        Of the sessions before the last only the state that they have left counts, and who is in quarantine.
        """
        next_step: Ask[Any] | Reply[Any] | None = None
        entries = list(self._ledger)
        last = max((entry.get("session", 1) for entry in entries), default=1)
        for entry in entries:
            if "state" in entry:
                self._left[entry["session"]] = entry["state"]
            if "state" in entry or ("roster" not in entry and entry.get("session", 1) < last):
                self._coordinator.recall(entry.get("number", entry.get("asked", 0)), entry.get("quarantined", {}))
            if "roster" in entry:
                self._recall_roster(entry)
            if "masks" in entry and self._masked is not None:
                self._masked.collector.recall(entry["masks"])
        self._entered = last if entries else 0
        self._coordinator.begin_session(last, 0.0)
        self._begin_session(last)
        for entry in entries:
            if "state" not in entry and "roster" not in entry and entry.get("session", 1) == last:
                next_step = self._replay_entry(entry, next_step)
        if self._masked is not None and (self._masked.finished is not None or self._masked.signal is not None):
            self._member.resume(self._leader_round, None, session=last)
        match next_step:
            case Ask():
                self._next_question = next_step
                self._member.resume(self._leader_round, None, session=last)
            case Reply(body):
                self._answered_round = self._leader_round
                self._member.resume(self._leader_round, body, session=last)

    def _replay_entry(self, entry: Entry, next_step: Ask[Any] | Reply[Any] | None) -> Ask[Any] | Reply[Any] | None:
        """Take over an entry of the session under way; give what comes next, None where that has to do with masks."""
        masked = self._masked
        if masked is not None and "masks" in entry:
            return self._recall_masks(masked, next_step)
        if masked is not None and "sums" in entry:
            return self._recall_sums(masked, entry["sums"])
        if "signal" in entry:
            self._leader_round, self._inner_rounds = entry["round"], 0
            self._coordinator.skip_to(entry["asked"])
            signal = self._up.bodies.signal.model_validate(entry["signal"])
            if masked is None:
                return self._strategy.open(signal)
            masked.finished, masked.signal = None, None if masked.has_groups else signal
            return self._strategy.open(signal) if masked.has_groups else None
        finished = load_round(entry, self._down.bodies)
        self._inner_rounds += 1
        self._coordinator.resume(finished)
        if masked is None:
            return self._strategy.on_answers(finished.body, finished.answers, finished.held, finished.excluded)
        masked.finished = finished
        return None

    def _recall_masks(
        self, masked: MaskedRounds, next_step: Ask[Any] | Reply[Any] | None
    ) -> Ask[Any] | Reply[Any] | None:
        """Take over that masks were set up: at the beginning of a session, or with another committee in a round."""
        self._form_groups(masked)
        if masked.signal is not None:
            signal, masked.signal = masked.signal, None
            return self._strategy.open(signal)
        if masked.finished is not None:
            finished, masked.finished = masked.finished, None
            return Ask(finished.body)
        return next_step

    def _recall_sums(self, masked: MaskedRounds, entry: Entry) -> Ask[Any] | Reply[Any]:
        finished, masked.finished = masked.finished, None
        assert finished is not None
        sums = masked.recall(entry)
        return self._strategy.on_answers(finished.body, sums.answers, sums.held, masked.list_excluded(sums))

    def _recall_roster(self, entry: Entry) -> None:
        self._adopt_roster(entry["session"], AggregatorRoster.model_validate(entry["roster"]), 0.0)


_OF_MASKS = (MaskKeys, MaskShares, ShareReceipt, ListSignature, MaskSums)
