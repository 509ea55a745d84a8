"""The EMC as a state machine: member of its aggregator, answering for the homes of this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from stackelgrid.calendar import Session
from stackelgrid.masks.fixed_point import FixedPointRangeError
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.node.progress import MaskStatus, Progress
from stackelgrid.node.record import Recorder, discard
from stackelgrid.rounds import Member, QuestionReceived, RefusalReceived, SettlementReceived
from stackelgrid.rounds.settings import HomeModel, PrivacySettings
from stackelgrid.rounds.strategy import HomeStrategy, MeasuringHomeStrategy, StatefulHomeStrategy
from stackelgrid.transport.base import Action, Compute, FetchRetained, Finish, Publish, Reconnect
from stackelgrid.wire.codec import Link, RegistrarLink
from stackelgrid.wire.masks import EntrustedShares, MaskList, MaskRoster, Quorum
from stackelgrid.wire.messages import Body, Place
from stackelgrid.wire.roles import Role

if TYPE_CHECKING:
    from stackelgrid.masks.party import Party

_LOG = logging.getLogger("emc_node")

LINGER_S = 60.0
"""Seconds that an EMC waits for the end of the run after it has acknowledged the last settlement."""

CreateStrategy = Callable[[Sequence[Any], Session], HomeStrategy[Any, Any, Any]]
"""Creates the strategy of homes in a session. Raises `ValueError` for homes that have no feasible schedule."""

CreateParty = Callable[[Link, Callable[[str, str], None], Mapping[str, Any]], "tuple[Party, Mapping[str, Any]]"]
"""Creates a process's part in private sums, from its link, what hears its refusals, and what was saved of it before.

Gives besides what of it never changes and is to be saved with the rest.
"""


@dataclass(frozen=True)
class _Plan:
    """The last settlement that the homes follow: its session, the states in which they began that, what each does."""

    session: int
    states: Mapping[str, Any]
    accounts: Mapping[str, Any]


class EmcNode:
    """Answers each signal for its homes, and carries out the settlements alone.

    `homes` are those of the whole run; `create` makes the strategy of what they are in a session. They go into a
    session as the plan before has left them: the last that was settled, as far as it reaches; after its end, and
    without one, everything rests.
    `act` receives, once a session, what each home will do; this stays in the home (in a simulation: with the run's
    results). `privacy` bounds how many different questions of a session are answered, counted anew after a restart.
    `remember` gets what later answers depend on, where they do: after each answer, and the plan before its receipt;
    `memory` is the last of it from before a restart. In a run with a `registrar` it goes to the aggregator that its
    latest place names: between two sessions, or when its own has been silent for too long. With `create_party` its
    answers are masked, and `plain` is the game's model of an answer before that.
    """

    role = Role.HOME

    def __init__(
        self,
        name: str,
        link: Link,
        homes: Sequence[HomeModel],
        create: CreateStrategy,
        sessions: Sequence[Session],
        act: Recorder,
        remember: Recorder = discard,
        memory: Mapping[str, Any] | None = None,
        privacy: PrivacySettings | None = None,
        registrar: RegistrarLink | None = None,
        create_party: CreateParty | None = None,
        plain: type[Body] | None = None,
    ) -> None:
        self.name = name
        memory = memory or {}
        self._place: Mapping[str, Any] = memory.get("place", {})  # the number and the aggregator of the one it is at
        self._next_place: Place | None = None
        link = replace(link, coordinator=self._place.get("aggregator", link.coordinator))
        self.mailbox = Mailbox(link) if registrar is None else Mailbox(link, registrar)
        self.progress = Progress()
        self._link, self._carry_out, self._remember = link, act, remember
        self._registrar = registrar
        self._link_before: Link | None = None
        self._in_session = False  # between the first question of a session and its settlement
        self._homes, self._create, self._sessions = homes, create, sessions
        self._member = Member(name, link, renumbered=True)  # an aggregator may come back without its disk
        self._leave_by: float | None = None
        self._remarks: list[str] = []  # about this session
        self._privacy = privacy or PrivacySettings()
        self._plan: _Plan | None = None
        if memory.get("plan"):
            self._follow(_Plan(**memory["plan"]))
        self._plain = plain or link.bodies.answer
        self._kept: Mapping[str, Any] = {}  # of this session, what a restart would lose
        self._waiting: QuestionReceived | None = None  # for the roster of masks
        self._answer_before: tuple[int, Body, Body] | None = None  # a restart: its round, its question, itself
        self._party: Party | None = None
        self._saved = True  # whether what the party must not forget is on disk
        if create_party is not None:
            self._party, self._of_party = create_party(link, self._reject_mask, memory.get("masks", {}))
        self._begin_session(memory.get("session", 1))
        self._resume(memory)
        if self._party is not None:
            self._keep()

    def _begin_session(self, number: int) -> None:
        """Begin a session with the homes as their plan has left them. Raises `ValueError` when they cannot be."""
        self._session = self._sessions[number - 1]
        self._answered = set[bytes]()
        if self._party is not None:
            self._party.begin_session(number)
            self._show_masks(self._party)
        self._states = self.find_states(self._session)
        foreseen = [home.foresee(self._session) for home in self._homes]
        homes = [home.in_session(self._session, self._states.get(home.id)) for home in foreseen]
        self._strategy: HomeStrategy[Any, Any, Any] | None = self._create(homes, self._session)

    def find_states(self, session: Session) -> Mapping[str, Any]:
        """Find the states in which the homes go into a session by their plan; none of a run's beginning."""
        plan = self._plan
        if plan is None or plan.session == session.number:
            return {} if plan is None else plan.states
        planned = self._sessions[plan.session - 1]
        passed = planned.until(session)
        states = {}
        for home in self._homes:
            state, account = plan.states.get(home.id), plan.accounts[home.id]
            foreseen = home.foresee(planned)
            there = foreseen.in_session(planned, state)
            done = account if foreseen is home else there.meter(account, home.in_session(planned, state))
            states[home.id] = there.advance(passed, done)
        return {name: state for name, state in states.items() if state}

    def _go_on_to(self, number: int) -> None:
        """Go on to the session of the aggregator's message, if it is another."""
        if number <= self._session.number:
            return
        for remark in self._remarks:
            self.progress.remarks.remove(remark)
        self._remarks.clear()
        try:
            self._begin_session(number)
        except ValueError as error:
            self._strategy = None
            _LOG.error("no part in a session", extra={"data": {"session": number, "cause": str(error)}})
            self.note_remark(f"no part in session {number}: {error}")

    def note_remark(self, remark: str) -> None:
        """Note for whoever looks after the home a line about the session that it is in."""
        if remark not in self._remarks:
            self._remarks.append(remark)
            self.progress.remarks.append(remark)

    def _resume(self, memory: Mapping[str, Any]) -> None:
        """Take over what was saved before a restart."""
        number = self._session.number
        if "answer" not in memory or not isinstance(self._strategy, StatefulHomeStrategy):
            self._member.resume(0, None, session=number)
            return
        self._strategy.recall(memory["homes"])
        self._kept = {key: memory[key] for key in ("round", "question", "answer", "homes")}
        answer = self._plain.model_validate(memory["answer"])
        question = self._link.bodies.signal.model_validate(memory["question"])
        if self._party is None:
            self._member.resume(memory["round"], answer, question, session=number)
        else:  # it has to be masked anew
            self._answer_before = memory["round"], question, answer
            self._member.resume(0, None, session=number)

    @property
    def subscriptions(self) -> Sequence[str]:
        """Give the topics of the aggregator's signals and settlement, and of the home's place."""
        places = () if self._registrar is None else (self._registrar.topic_of_place(self.name),)
        return (*self._member.subscriptions, *places)

    @property
    def coordinator(self) -> str:
        """Give the name of its aggregator."""
        return self._link.coordinator

    @property
    def session(self) -> int:
        """Give the number of the session that it is in."""
        return self._session.number

    @property
    def last_will(self) -> Publish:
        """Give the message by which the aggregator learns that the connection is lost."""
        return self._member.last_will

    def start(self, now: float) -> Sequence[Action]:
        """Come online after a connect."""
        self._member.note_contact(now)
        keys = [] if self._party is None else self._party.start()
        return [*keys, *self._perform(self._member.start())]

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take a message from the broker."""
        if not payload:
            run_is_over = topic == self._link.topic_to_member("signal", self.name) and self._leave_by is not None
            return self._leave() if run_is_over else []
        if self._link_before is not None and topic.startswith(f"{self._link_before.root}/"):
            return []  # it was under way when the home went to another aggregator
        read = self.mailbox.read(topic, payload)
        if read is None:
            return []
        if isinstance(read[1], Place):
            return self._note_place(read[1])
        if isinstance(read[1], MaskRoster | EntrustedShares | MaskList | Quorum):
            self._member.note_contact(now)
            return self._serve_masks(read[1])
        steps = self._member.receive(read[1])
        self._member.note_contact(now)
        return self._perform(steps)

    def next_deadline(self) -> float | None:
        """Give the time at which the aggregator has been silent for too long, or the end of the run is overdue."""
        return self._leave_by if self._leave_by is not None else self._member.next_deadline()

    def tick(self, now: float) -> Sequence[Action]:
        """Act on the deadline."""
        if self._leave_by is None:
            steps = self._member.tick(now)
            return self._move() if steps and self._next_place is not None else self._perform(steps)
        return self._leave() if now >= self._leave_by else []

    def _perform(self, steps: Sequence[object]) -> list[Action]:
        """Pass the member's actions on and respond to its events."""
        actions: list[Action] = []
        for step in steps:
            match step:
                case Publish() | FetchRetained():
                    actions.append(step)
                case QuestionReceived():
                    actions += self._answer(step)
                case SettlementReceived():
                    actions += self._settle(step)
                case RefusalReceived(round_number, reason, final):
                    self.progress.note_refusal(round_number, reason, final=final)
        return actions

    # --- its place ---

    def _note_place(self, place: Place) -> list[Action]:
        """Keep a place for the end of the session; between two sessions go there at once."""
        if place.number < self._place.get("number", 0):
            return []
        self._next_place = None if place.aggregator == self._link.coordinator else place
        return [] if self._in_session else self._move()

    def _move(self) -> list[Action]:
        """Go to another aggregator, if the registrar has named one: clear the presence here, and connect anew."""
        place, self._next_place = self._next_place, None
        if place is None or self._leave_by is not None:
            return []
        _LOG.info("moved", extra={"data": {"from": self._link.coordinator, "to": place.aggregator}})
        farewell = self._perform(self._member.leave())
        self._link_before, self._link = self._link, replace(self._link, coordinator=place.aggregator)
        self.mailbox.replace(self._link_before, self._link)
        self._member.move(self._link)
        if self._party is not None:
            farewell += self._party.move(self._link)
            self._show_masks(self._party)
        self._in_session = False
        self._place = {"number": place.number, "aggregator": place.aggregator}
        self._keep({})
        return [*farewell, Reconnect()]

    # --- its part in a session ---

    def _answer(self, question: QuestionReceived) -> list[Action]:
        self._in_session = True
        self._go_on_to(question.session)
        strategy, session = self._strategy, self._session

        def then(body: Any, now: float) -> list[Action]:
            if self._session is not session:
                return []  # it has gone on meanwhile
            masked = body if self._party is None else self._mask(self._party, question, body)
            self._save(question, body)
            if masked is None:
                return []
            actions = self._perform(self._member.answer(question.round, masked))
            if actions:
                self.progress.count_answer()
            return actions

        self.progress.start_round(question.round)
        if self._refuses(question.body) or strategy is None:
            return []
        if self._party is not None and not self._party.may_answer(question.session):
            self._waiting = question
            return []
        known, self._answer_before = self._answer_before, None
        if known is not None and known[:2] == (question.round, question.body):
            return then(known[2], 0.0)
        solve = partial(self.progress.work, strategy.answer, question.body)
        return then(solve(), 0.0) if strategy.quick else [Compute(solve, then)]

    def _refuses(self, question: Body) -> bool:
        """Refuse and count a question with which the homes would disclose more than they are set to."""
        if self._refuses_price("signal", question):
            return True
        if self._privacy.sensitivity == "none" and question.asks_sensitivity:
            self.mailbox.reject("sensitivity", "signal", "a sensitivity is asked (privacy.sensitivity: none)")
            return True
        answered, most = self._answered.union(question.questions), self._privacy.questions_per_session
        if len(answered) > most:
            allowed = f"at most {most} are answered (privacy.questions_per_session)"
            self.mailbox.reject("over_budget", "signal", f"{len(answered)} different questions, {allowed}")
            return True
        self._answered = answered
        return False

    def _refuses_price(self, kind: str, body: Body) -> bool:
        """Refuse and count a message with a price that the contract of the homes does not allow."""
        band, asked = self._privacy.price_band, body.price_range
        if band is None or asked is None or band[0] <= asked[0] <= asked[1] <= band[1]:
            return False
        allowed = f"{band[0]:g} to {band[1]:g} are allowed (privacy.price_band)"
        self.mailbox.reject("price", kind, f"prices from {asked[0]:g} to {asked[1]:g}, {allowed}")
        return True

    def _save(self, question: QuestionReceived, answer: Body) -> None:
        """Save what a restart would lose, before the answer is sent."""
        homes = self._strategy.remember() if isinstance(self._strategy, StatefulHomeStrategy) else None
        if homes is not None:
            bodies = {"question": question.body.model_dump(mode="json"), "answer": answer.model_dump(mode="json")}
            self._keep({"round": question.round, **bodies, "homes": homes})
        elif self._party is not None:
            self._keep()

    def _keep(self, kept: Mapping[str, Any] | None = None) -> bool:
        """Save what a restart would lose; of this session `kept`, or what was kept before. Tell whether it is saved."""
        self._kept = self._kept if kept is None else kept
        masks = {} if self._party is None else {"masks": {**self._of_party, "party": self._party.remember()}}
        return self._remember({**self._of_session(), **self._kept, **masks}) is not False

    def _of_session(self) -> dict[str, Any]:
        """Give what of a run of several sessions is saved besides."""
        if len(self._sessions) == 1:
            return {}
        place = {"place": self._place} if self._place else {}
        return {"session": self._session.number, "plan": None if self._plan is None else asdict(self._plan), **place}

    def _settle(self, settlement: SettlementReceived) -> list[Action]:
        self._go_on_to(settlement.session)
        session = self._session
        refused = self._refuses_price("settlement", settlement.body)

        def then(accounts: Any, now: float) -> Sequence[Action]:
            if self._session is not session:
                return []  # it has gone on meanwhile, without this plan
            if accounts is not None:
                self._carry_out(self._adopt(accounts) if len(self._sessions) > 1 else accounts)
            return self._acknowledge(now)

        if self._strategy is None or refused:  # the homes have no part in the session, or do not follow it
            return [Compute(lambda: None, then)]
        plan = self._plan
        if plan is not None and plan.session == session.number:  # it was restarted after it had saved that
            return [Compute(lambda: plan.accounts, then)]
        return [Compute(partial(self.progress.work, self._strategy.settle, settlement.body), then)]

    def _adopt(self, accounts: Mapping[str, Any]) -> dict[str, Any]:
        """Follow what was settled from now on, and save it; give the record of it."""
        states = dict(self._states)
        if isinstance(self._strategy, MeasuringHomeStrategy):
            for name, measured in self._strategy.measured_states.items():
                states[name] = {**states.get(name, {}), **measured}
        self._follow(_Plan(self._session.number, states, accounts))
        self._keep({})
        return {"session": self._session.number, "states": states, "homes": accounts}

    def _follow(self, plan: _Plan) -> None:
        self._plan = plan
        self.progress.settled_until = self._sessions[plan.session - 1].end

    def _acknowledge(self, now: float) -> list[Action]:
        """Confirm the settlement; that of the last session ends the run."""
        self.progress.settle()
        if self._session.number == len(self._sessions):
            self._leave_by = now + LINGER_S
        self._in_session = False
        return [*self._perform(self._member.acknowledge([])), *self._move()]

    def _leave(self) -> list[Action]:
        self._leave_by = None
        keys = [] if self._party is None else self._party.leave()
        return [*keys, *self._perform(self._member.leave()), Finish()]

    # --- its part in private sums ---

    def _serve_masks(self, message: MaskRoster | EntrustedShares | MaskList | Quorum) -> list[Action]:
        """Take a message about masks; save what it changes before anything is sent. Answer what has waited for it."""
        party = self._party
        assert party is not None
        before = party.remember()
        steps = party.receive(message)
        self._show_masks(party)
        if party.remember() != before:
            self._saved = self._keep()
        if isinstance(message, MaskList) and not (self._saved or self._keep()):
            self.note_remark("no list is signed: after a restart nobody would know which one was")
            return []  # the others of the committee go on without it
        waiting = self._waiting
        if waiting is None or not party.may_answer(waiting.session):
            return [*steps]
        self._waiting = None
        return [*steps, *self._answer(waiting)]

    def _mask(self, party: Party, question: QuestionReceived, answer: Body) -> Body | None:
        """Mask an answer; None where it cannot be, which whoever looks after the home is told."""
        if not party.may_answer(question.session):
            return None
        try:
            return party.mask(question.round, question.body, answer)
        except FixedPointRangeError as error:
            _LOG.error("no masked answer", extra={"data": {"round": question.round, "cause": str(error)}})
            self.note_remark(f"round {question.round} is not answered: {error}")
            return None

    def _show_masks(self, party: Party) -> None:
        """Note in how large a sum the homes are, or why in none."""
        roster = party.roster
        homes = None if roster is None else roster.count_homes(roster.find_group(self.name))
        self.progress.masks = MaskStatus(homes, party.objection)

    def _reject_mask(self, kind: str, detail: str) -> None:
        """Count what the party refuses."""
        self.mailbox.reject("masks", kind, detail)
