"""A member of a committee: it signs one list a round, and for a quorum of signatures gives the sums of the masks.

What it refuses keeps one home's answer from following from two sums:

- two lists for a round: it signs one, and remembers which before it sends the signature;
- part of a group, or somebody else: a sum is of a whole group of the roster;
- a group of which fewer than two thirds answered this very round: nearly all held, the rest would show;
- an answer of this round to another question than the others: it would be the only one to change;
- an answer that goes back: an older one than in the list before, another of the same round, or one of a boot that was
  replaced;
- a list of another session or roster, or of a round that is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stackelgrid.masks.form import MaskedForm, Words
from stackelgrid.masks.keys import KEY_BYTES, PartyKeys, draw_mask, has_signed
from stackelgrid.masks.roster import QUORUM, Roster, list_subsets
from stackelgrid.masks.standing import Standing, StandingAnswers
from stackelgrid.wire.masks import EntrustedShares, MaskList, MaskSum, Quorum, StandingAnswer, read_share


class ListRefusedError(ValueError):
    """A list, or a quorum for one, that a member does not follow; the message says why."""


class CommitteeMember:
    """The part of one member of the committee of an `epoch` of a roster, with the `keys` of its process.

    `memory` is what `remember` gave before a restart.
    """

    def __init__(
        self,
        name: str,
        roster: Roster,
        epoch: int,
        keys: PartyKeys,
        form: MaskedForm,
        memory: Mapping[str, Any] | None = None,
    ) -> None:
        self._name, self._roster, self._epoch, self._keys, self._form = name, roster, epoch, keys, form
        self._seats = roster.committee(epoch)
        self._subsets = list_subsets(self._seats.index(name))
        self._shared: dict[str, dict[int, bytes]] = {}  # home -> its key with each subset of this member
        memory = memory or {"session": 0, "round": 0, "digest": "", "standing": None}
        self._session, self._round, self._digest = memory["session"], memory["round"], memory["digest"]
        self._standing = StandingAnswers(memory["standing"])
        self._list: MaskList | None = None  # the one that was signed, until a restart

    def remember(self) -> dict[str, Any]:
        """Give what a restart must not lose, as JSON: what was signed, and which answers stood in it."""
        return {
            "session": self._session,
            "round": self._round,
            "digest": self._digest,
            "standing": self._standing.remember(),
        }

    def take_shares(self, entrusted: EntrustedShares) -> list[str]:
        """Open what homes have sealed for this member; list the homes of the roster whose keys it has not got."""
        for home, share in entrusted.shares.items():
            party = self._roster.parties.get(home)
            if party is None or home in self._shared:
                continue
            context = self._roster.of_box(self._epoch, home, self._name)
            content = self._keys.open(read_share(share), party.exchange, context)
            if content is not None and len(content) == KEY_BYTES * len(self._subsets):
                keys = [content[start : start + KEY_BYTES] for start in range(0, len(content), KEY_BYTES)]
                self._shared[home] = dict(zip(self._subsets, keys, strict=True))
        return [home for home in self._roster.parties if home not in self._shared]

    def sign(self, proposed: MaskList, session: int, slots: int) -> str:
        """Sign the list of a round of the session under way, which has so many slots; the same list again, too.

        Raises `ListRefusedError`. What `remember` gives has to be saved before the signature is sent.
        """
        self._require_same_roster(proposed, session)
        if proposed.round < self._round and session == self._session:
            raise ListRefusedError(f"the list is of round {proposed.round}, round {self._round} was signed")
        known = (session, proposed.round) == (self._session, self._round)
        if known and proposed.digest != self._digest:
            raise ListRefusedError(f"a second list for round {proposed.round}")
        if not known:
            self._require_whole_groups(proposed)
            for shape in proposed.shapes:
                if shape[0] != slots:
                    raise ListRefusedError(f"a shape for {shape[0]} slots, the session has {slots}")
            self._accept(proposed, session)
        self._list = proposed
        return self._keys.sign(proposed.signed_bytes())

    def give(self, quorum: Quorum) -> list[MaskSum]:
        """Give the sums of masks for the list that was signed, once enough members have signed it.

        Raises `ListRefusedError`. Of a home whose keys are missing nothing can be given, nor of its group.
        """
        signed = self._list
        if signed is None or (quorum.session, quorum.round) != (signed.session, signed.round):
            raise ListRefusedError(f"round {quorum.round} is not the one that was signed")
        if quorum.digest != signed.digest:
            raise ListRefusedError(f"a quorum for another list of round {quorum.round} than was signed")
        message, parties = signed.signed_bytes(), self._roster.parties
        valid = [
            name
            for name, signature in quorum.signatures.items()
            if name in self._seats and has_signed(parties[name].signing, message, signature)
        ]
        if len(valid) < QUORUM:
            raise ListRefusedError(f"{len(valid)} of {QUORUM} signatures for the list of round {quorum.round}")
        entries = {entry.name: entry for entry in signed.entries}
        return [
            MaskSum.of(subset, number, self._sum_masks(signed, subset, [entries[name] for name in names]))
            for number, names in enumerate(self._roster.groups.values())
            if names[0] in entries and all(name in self._shared for name in names)
            for subset in self._subsets
        ]

    def _sum_masks(self, signed: MaskList, subset: int, entries: list[StandingAnswer]) -> Words:
        """Add up the masks of a subset, each as its answer stands in the sum, (count,)."""
        shapes = [tuple(shape) for shape in signed.shapes]
        total = np.zeros(self._form.count(shapes[0]), np.uint64)
        for entry in entries:
            shape, question = shapes[entry.shape], signed.questions[entry.shape]
            of_answer = signed.session, entry.round, entry.boot, entry.name
            context = self._roster.of_mask(self._epoch, *of_answer, question, shape)
            mask = draw_mask(self._shared[entry.name][subset], context, self._form.count(shape))
            total += mask if entry.shape == 0 else self._form.carry(mask, shape, shapes[0])
        return total

    # --- what it refuses ---

    def _require_same_roster(self, proposed: MaskList, session: int) -> None:
        if (proposed.roster, proposed.epoch) != (self._roster.digest, self._epoch):
            raise ListRefusedError("the list is of another roster or committee")
        if proposed.session != session or session < self._session:
            raise ListRefusedError(f"the list is of session {proposed.session}, this one is {session}")

    def _require_whole_groups(self, proposed: MaskList) -> None:
        entries = {entry.name: entry for entry in proposed.entries}
        parties = self._roster.parties
        if unknown := entries.keys() - parties.keys():
            raise ListRefusedError(f"{min(unknown)} is not in the roster")
        if other := [entry.name for entry in proposed.entries if entry.round == proposed.round and entry.shape != 0]:
            raise ListRefusedError(f"{other[0]} has answered another question in round {proposed.round}")
        for group, names in self._roster.groups.items():
            there = [entries[name] for name in names if name in entries]
            if there and len(there) < len(names):
                raise ListRefusedError(f"{len(there)} of {len(names)} processes of {group}; a sum is of all of them")
            fresh = sum(parties[entry.name].homes for entry in there if entry.round == proposed.round)
            if there and not is_fresh_enough(fresh, self._roster.count_homes(group)):
                raise ListRefusedError(f"{fresh} homes of {group} answered round {proposed.round}, two thirds have to")

    def _accept(self, proposed: MaskList, session: int) -> None:
        """Take over which answers stand. Raises `ListRefusedError` for one that goes back, and takes over nothing."""
        if session != self._session:
            self._standing.begin_session()
        asked = [(digest, tuple(shape)) for digest, shape in zip(proposed.questions, proposed.shapes, strict=True)]
        now = {entry.name: Standing(entry.round, entry.boot, *asked[entry.shape]) for entry in proposed.entries}
        for name, standing in now.items():
            if reason := self._standing.find_objection(name, standing):
                raise ListRefusedError(reason)
            if standing.round > proposed.round:
                raise ListRefusedError(f"the answer of {name} is of round {standing.round}, to come")
        self._standing.replace(now)
        self._session, self._round, self._digest = session, proposed.round, proposed.digest


def is_fresh_enough(fresh: int, homes: int) -> bool:
    """Tell whether so many fresh answers of a group of `homes` are enough for a sum of it."""
    return 3 * fresh >= 2 * homes
