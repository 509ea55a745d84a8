"""A home's process as a party of private sums: it masks what it answers, and serves on a committee when it is its turn.

What a home refuses: a roster that it is not in, or with keys that nobody vouches for; too few homes; a second roster in
a session in which it has answered under another, since two sums would then differ by whoever is not in both; more
committees of a roster than `MOST_EPOCHS`. A mask belongs to one answer alone, by its nonce, so that none is used again,
after a restart either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stackelgrid.masks.committee import CommitteeMember, ListRefusedError
from stackelgrid.masks.fixed_point import write_words
from stackelgrid.masks.form import MaskedForm
from stackelgrid.masks.keys import PartyKeys, draw_mask, is_exchange_key
from stackelgrid.masks.roster import MOST_EPOCHS, SUBSETS, Roster
from stackelgrid.masks.shares import seal_shares
from stackelgrid.transport.base import Publish
from stackelgrid.wire.codec import Link
from stackelgrid.wire.masks import (
    EntrustedShares,
    ListSignature,
    MaskedAnswer,
    MaskEntry,
    MaskKeys,
    MaskList,
    MaskRoster,
    MaskShares,
    MaskSums,
    Quorum,
    ShareReceipt,
    digest_question,
)
from stackelgrid.wire.messages import Body, Message

Prove = Callable[[MaskEntry, str, str], MaskEntry]
"""From an entry of a roster, run and aggregator to the same entry with what proves that its keys are its owner's."""
Vouch = Callable[[str, str, MaskEntry], str | None]
"""From run, aggregator and a roster's entry to the reason why its keys are not believed, or None."""


@dataclass(frozen=True)
class PartySettings:
    """What a process brings to private sums: its `homes`, what their connections carry, the least group it is part of.

    `prove` makes certificate and signature of its keys, where the run has certificates; `vouch` checks those of others.
    """

    homes: int
    minimum_group: int
    max_kw: float | None = None
    prove: Prove = lambda entry, run, aggregator: entry
    vouch: Vouch = lambda run, aggregator, entry: None


class Party:
    """A home's process as a party: `draw_nonce` draws a random name for each answer, 32 hexadecimal digits.

    `memory` is what `remember` gave before a restart. `object_to` gets in words what it refuses, with a kind.
    """

    def __init__(
        self,
        name: str,
        link: Link,
        form: MaskedForm,
        settings: PartySettings,
        secret: bytes,
        draw_nonce: Callable[[], str],
        object_to: Callable[[str, str], None],
        memory: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.link = name, link
        self._form, self._settings, self._draw_nonce, self._object_to = form, settings, draw_nonce, object_to
        self._keys = PartyKeys(secret)
        self._roster: Roster | None = None
        self._objection: tuple[int, str] | None = None  # of the last session in which one was refused, the first
        self._epoch = 0
        self._member: CommitteeMember | None = None
        self._entrusted: EntrustedShares | None = None  # of a roster that has not come yet
        memory = memory or {"session": 0, "answered": "", "signed": None}
        self._bound_in = memory["session"]  # the session in which it last answered
        self._bound_to: str = memory["answered"]  # the roster under which it did
        self._signed: Mapping[str, Any] | None = memory["signed"]  # in whatever committee
        self._session = max(1, self._bound_in)

    def may_answer(self, session: int) -> bool:
        """Tell whether a roster is in force under which it may answer in a session."""
        return self._roster is not None and session == self._session

    @property
    def objection(self) -> str | None:
        """Why no roster is in force though one has come in this session, None where one is or none has."""
        if self._roster is not None or self._objection is None or self._objection[0] < self._session:
            return None
        return self._objection[1]

    @property
    def roster(self) -> Roster | None:
        """The roster in force."""
        return self._roster

    def remember(self) -> dict[str, Any]:
        """Give what a restart must not lose, as JSON."""
        return {
            "session": self._bound_in,
            "answered": self._bound_to,
            "signed": self._signed,
        }

    def start(self) -> list[Publish]:
        """Publish the public keys, after each connection."""
        entry = MaskEntry(
            name=self.name, homes=self._settings.homes, exchange=self._keys.exchange, signing=self._keys.signing
        )
        proven = self._settings.prove(entry, self.link.run, self.link.coordinator)
        keys = MaskKeys(run=self.link.run, sender=self.name, **proven.model_dump(exclude={"name"}))
        return [self._publish(keys, retain=True)]

    def move(self, link: Link) -> list[Publish]:
        """Go to another aggregator, whose roster is another; give what clears the keys at the one before."""
        cleared = self.leave()
        self.link = link
        self._roster = self._member = self._entrusted = self._objection = None
        return cleared

    def leave(self) -> list[Publish]:
        """Clear the retained keys."""
        return [Publish(f"{self.link.root}/{self.name}/{MaskKeys.purpose}", b"", qos=1, retain=True)]

    def begin_session(self, number: int) -> None:
        """Go on to a session, in which the roster in force stays until another comes."""
        self._session = max(self._session, number)

    def receive(self, message: Message) -> list[Publish]:
        """Take a message of the aggregator about masks; what is refused is said to `object_to`."""
        match message:
            case MaskRoster():
                return self._on_roster(message)
            case EntrustedShares():
                return self._on_shares(message)
            case MaskList():
                return self._on_list(message)
            case Quorum():
                return self._on_quorum(message)
        return []

    def mask(self, answer_round: int, question: Body, answer: Body) -> MaskedAnswer:
        """Mask the answer to a question of a round.

        Raises `FixedPointRangeError` where a number of it has no place. What `remember` gives has to be saved before
        the answer is sent.
        """
        roster, shape = self._roster, self._form.shape(question)
        assert roster is not None
        bounds = self._form.bounds(shape, self._settings.max_kw, question)
        words = write_words(self._form.flatten(answer, shape), bounds, len(roster.parties))
        asked, nonce = digest_question(question), self._draw_nonce()
        context = roster.of_mask(self._epoch, self._session, answer_round, asked, nonce, self.name)
        for subset in range(len(SUBSETS)):
            key = self._keys.make_subset_key(roster.of_subset(self._epoch, subset))
            words += draw_mask(key, context, len(words))
        self._bound_in, self._bound_to = self._session, roster.digest
        of_answer = answer_round, roster.digest, self._epoch, nonce
        return MaskedAnswer.of(self._settings.homes, *of_answer, asked, shape, words)

    # --- the roster ---

    def _on_roster(self, message: MaskRoster) -> list[Publish]:
        roster = Roster.of(message)
        if self._roster is not None and (roster.digest, message.epoch) == (self._roster.digest, self._epoch):
            return self._share(message)  # asked again
        if reason := self._find_objection(roster, message):
            self._object_to("roster", reason)
            if self._roster is not None and self._bound_in != max(self._session, message.session):
                self._roster = self._member = None  # the aggregator goes on without this one
            session = max(self._session, message.session)
            if self._objection is None or self._objection[0] < session:
                self._objection = session, reason
            return []
        self._roster, self._epoch, self._member = roster, message.epoch, None
        self.begin_session(message.session)
        if self.name in roster.committee(message.epoch):
            self._member = CommitteeMember(self.name, roster, message.epoch, self._keys, self._form, self._signed)
        steps = self._share(message)
        if self._entrusted is not None:
            steps += self._on_shares(self._entrusted)
        return steps

    def _find_objection(self, roster: Roster, message: MaskRoster) -> str | None:
        """Give the reason why this process does not answer under a roster, or None."""
        own = roster.parties.get(self.name)
        of_own = self._settings.homes, self._keys.exchange, self._keys.signing
        if own is None or (own.homes, own.exchange, own.signing) != of_own:
            return f"{self.name} is not in it with its homes and keys"
        if roster.minimum_group != self._settings.minimum_group:  # with another, groups would be others as well
            agreed = self._settings.minimum_group
            return f"groups of {roster.minimum_group} homes or more, agreed are {agreed} (privacy.minimum_group)"
        if message.epoch >= MOST_EPOCHS:
            return f"committee {message.epoch} of a roster, {MOST_EPOCHS - 1} is the last"
        if reason := roster.find_objection() or self._find_change(roster, message):
            return reason
        return None if roster.digest == self._bound_to else self._find_doubt(roster)  # it was checked, and may expire

    def _find_change(self, roster: Roster, message: MaskRoster) -> str | None:
        """Give what must not change in a session in which this process has answered, and does with a roster."""
        session = max(self._session, message.session)
        if self._bound_in == session and self._bound_to != roster.digest:
            return f"a second roster in session {session}"
        return None

    def _find_doubt(self, roster: Roster) -> str | None:
        """Give whose keys nobody vouches for or can seal by, or None."""
        for entry in roster.parties.values():
            if not is_exchange_key(entry.exchange):
                return f"the keys of {entry.name} are none"
            if reason := self._settings.vouch(self.link.run, self.link.coordinator, entry):
                return f"the keys of {entry.name} are not believed: {reason}"
        return None

    def _share(self, message: MaskRoster) -> list[Publish]:
        """Seal for each member of the committee the keys of the subsets that it is in, where they are wanted."""
        roster, epoch = self._roster, message.epoch
        if roster is None or self.name not in message.wanted:
            return []
        return [
            self._publish(
                MaskShares(
                    run=self.link.run,
                    sender=self.name,
                    session=self._session,
                    roster=roster.digest,
                    epoch=epoch,
                    shares=seal_shares(self._keys, roster, epoch, self.name),
                )
            )
        ]

    # --- the committee ---

    def _on_shares(self, entrusted: EntrustedShares) -> list[Publish]:
        if self._roster is None or (entrusted.roster, entrusted.epoch) != (self._roster.digest, self._epoch):
            self._entrusted = entrusted
            return []
        self._entrusted = None
        if self._member is None:
            self._object_to("entrusted", f"{self.name} is not in the committee")
            return []
        missing = self._member.take_shares(entrusted)
        return [
            self._publish(
                ShareReceipt(
                    run=self.link.run,
                    sender=self.name,
                    session=self._session,
                    roster=entrusted.roster,
                    epoch=entrusted.epoch,
                    missing=missing,
                )
            )
        ]

    def _on_list(self, proposed: MaskList) -> list[Publish]:
        if self._member is None:
            self._object_to("list", f"{self.name} is not in the committee")
            return []
        try:
            signature = self._member.sign(proposed, self._session, self.link.sessions[self._session - 1])
        except ListRefusedError as error:
            self._object_to("list", str(error))
            return []
        self._signed = self._member.remember()
        return [
            self._publish(
                ListSignature(
                    run=self.link.run,
                    sender=self.name,
                    session=proposed.session,
                    round=proposed.round,
                    digest=proposed.digest,
                    signature=signature,
                )
            )
        ]

    def _on_quorum(self, quorum: Quorum) -> list[Publish]:
        if self._member is None:
            self._object_to("quorum", f"{self.name} is not in the committee")
            return []
        try:
            sums = self._member.give(quorum)
        except ListRefusedError as error:
            self._object_to("quorum", str(error))
            return []
        return [
            self._publish(
                MaskSums(
                    run=self.link.run,
                    sender=self.name,
                    session=quorum.session,
                    round=quorum.round,
                    digest=quorum.digest,
                    sums=sums,
                )
            )
        ]

    def _publish(self, message: Message, *, retain: bool = False) -> Publish:
        return Publish(self.link.topic(message), self.link.write(message), qos=1, retain=retain)
