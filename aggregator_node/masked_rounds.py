"""Rounds with homes whose answers are masked: what stands between them and the strategy, which gets sums of groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from stackelgrid.calendar import Session
from stackelgrid.masks.form import MaskedForm
from stackelgrid.masks.roster import Roster
from stackelgrid.masks.sums import GroupSums, Step, SumCollector, SumSettings
from stackelgrid.node.limits import MemberLimits
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.rounds import Round
from stackelgrid.rounds.ledger import Entry
from stackelgrid.rounds.settings import AggregatorSettings
from stackelgrid.rounds.strategy import AggregatorStrategy, Ask
from stackelgrid.wire.codec import Link
from stackelgrid.wire.masks import MaskedAnswer
from stackelgrid.wire.messages import Body

_OUTSIDE = "outside"
"""The name under which a strategy finds the homes that are in no group."""


@dataclass(frozen=True)
class Masks:
    """How the answers of the homes are masked: the game's form, the collector's settings, the body of a sum."""

    form: MaskedForm
    settings: SumSettings
    body: type[Body]


class MaskedRounds:
    """What is under way of an aggregator's rounds besides its questions: a roster, then the sums of each round.

    The `collector` brings both about; sums are held against `limits`, and what is refused is counted in `mailbox`.
    `signal` is the leader's as long as masks are set up for it, `asked` what the homes were asked last until the leader
    has its reply, `finished` the round whose masks are being summed. `has_groups` tells whether the session is played
    with groups yet.
    """

    def __init__(self, link: Link, masks: Masks, limits: MemberLimits, mailbox: Mailbox) -> None:
        self._body, self._limits, self._mailbox = masks.body, limits, mailbox
        objects = partial(mailbox.reject, "masks")
        self.collector = SumCollector(link, masks.form, masks.settings, self._check_sum, objects)
        self._tries, self._again = masks.settings.tries, 0
        self.signal: Body | None = None
        self.asked: Ask[Any] | None = None
        self.finished: Round | None = None
        self.begin_session()

    @property
    def may_ask(self) -> bool:
        """Tell whether homes may be asked: masks are set up, and the session is played with groups."""
        return self.has_groups and self.collector.is_set_up

    def begin_session(self) -> None:
        """Go on to a session, whose groups are not known yet."""
        self.has_groups = False
        self._outside: list[str] = []

    def abandon(self) -> None:
        """Drop what is under way: the leader goes on."""
        self.signal = self.asked = self.finished = None
        self._again = 0
        self.collector.abandon()

    def form_groups(
        self, settings: AggregatorSettings, session: Session, homes: Mapping[str, int]
    ) -> AggregatorStrategy[Any, Any, Any, Any, Any, Any]:
        """Create the strategy of a session with the groups of the roster; some of the `homes` may be in none."""
        roster = self.collector.roster
        assert roster is not None
        groups = {group: roster.count_homes(group) for group in roster.groups}
        limits = {group: self._limits.add_limits(names) for group, names in roster.groups.items()}
        known = {group: limit for group, limit in limits.items() if limit is not None}
        outside = sum(homes.values()) - sum(groups.values())
        self.has_groups, self._outside = True, [_OUTSIDE] if outside else []
        return settings.group_strategy(session, {**groups, **dict.fromkeys(self._outside, outside)}, known)

    def explain_missing(self, homes: Mapping[str, int]) -> dict[str, str]:
        """Say of each of the `homes` that cannot answer in this session why."""
        return self.collector.explain_missing(homes) if self.has_groups else {}

    def sum_up(self, finished: Round, now: float) -> list[Step]:
        """Have the masks of a finished round summed."""
        self.finished = finished
        answers = {name: body for name, body in finished.answers.items() if isinstance(body, MaskedAnswer)}
        assert isinstance(finished.body, Body)
        if not self.collector.is_set_up:
            return []
        return self.collector.open(finished.number, finished.body, answers, now)

    def ask_again(self, finished: Round) -> Ask[Any] | None:
        """Give the question of a round that has no sum once more, as often as a round has tries."""
        self._again += 1
        return Ask(finished.body) if self._again < self._tries else None

    def take_question(self) -> Ask[Any] | None:
        """Give what the homes were asked under the committee before; after a restart that is of a finished round."""
        if self.asked is None and self.finished is not None:
            self.asked = Ask(self.finished.body)
        return self.asked

    def list_excluded(self, sums: GroupSums) -> list[str]:
        """List the groups without a sum, and the homes that are in no group under a name of their own."""
        self._again = 0
        return [*sums.excluded, *self._outside]

    def describe(self, finished: Round, sums: GroupSums) -> dict[str, Any]:
        """Give what the sums of a round took, and why groups have none, with the keys of a journal."""
        messages, size = self.collector.take_traffic()
        counted = {"messages": finished.messages + messages, "bytes": finished.bytes + size}
        return {**counted, **({"not_summed": dict(sums.why)} if sums.why else {})}

    # --- checks ---

    def check_answer(self, name: str, question: Body, body: Body) -> str | None:
        """Give the reason why the masked answer of a home is refused, or None."""
        if not isinstance(body, MaskedAnswer):
            return None
        reason = self.collector.find_objection(name, question, body)
        if reason is not None:
            self._mailbox.reject("refused", f"{name}/answer", reason)
        return reason

    def _check_sum(self, roster: Roster, group: str, question: Body, body: Body) -> str | None:
        return self._limits.check_sum(group, roster.groups[group], question, body)

    # --- the ledger ---

    def dump(self, sums: GroupSums) -> Entry:
        """Write the sums of a round as a part of an entry."""
        return {
            "answers": {group: body.model_dump(mode="json") for group, body in sums.answers.items()},
            "held": list(sums.held),
            "excluded": list(sums.excluded),
            "why": dict(sums.why),
        }

    def recall(self, entry: Entry) -> GroupSums:
        """Take over what `dump` has written before a restart."""
        answers = {group: self._body.model_validate(body) for group, body in entry["answers"].items()}
        sums = GroupSums(answers, tuple(entry["held"]), tuple(entry["excluded"]), entry["why"])
        self.collector.recall_sums(sums)
        return sums
