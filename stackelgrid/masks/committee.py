"""A member of a committee: it signs one list a round, and for a quorum of signatures gives the sums of the masks.

What it refuses keeps one home's answer from following from two sums:

- two lists for a round: it signs one, and remembers which before it sends the signature, also for a later committee;
- part of a group, or somebody else: a sum is of a whole group of the roster, all of them asked the same;
- a list of another session, roster or committee, or of a round that is over.

A mask belongs to the question that was answered. Where a list names another, the masks that are given do not come off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stackelgrid.masks.form import MaskedForm, Words
from stackelgrid.masks.keys import PartyKeys, draw_mask, has_signed
from stackelgrid.masks.roster import QUORUM, Roster, list_subsets
from stackelgrid.masks.shares import open_share
from stackelgrid.wire.masks import MAX_WORDS, EntrustedShares, MaskList, MaskSum, Quorum


class ListRefusedError(ValueError):
    """A list, or a quorum for one, that a member does not follow; the message says why."""


class CommitteeMember:
    """The part of one member of the committee of an `epoch` of a roster, with the `keys` of its process.

    `memory` is what `remember` gave before a restart, or before its process came into this committee.
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
        memory = memory or {"session": 0, "round": 0, "digest": ""}
        self._session, self._round, self._digest = memory["session"], memory["round"], memory["digest"]
        self._list: MaskList | None = None  # the one that was signed, until a restart

    def remember(self) -> dict[str, Any]:
        """Give what a restart must not lose, as JSON: which list was signed last."""
        return {"session": self._session, "round": self._round, "digest": self._digest}

    def take_shares(self, entrusted: EntrustedShares) -> list[str]:
        """Open what homes have sealed for this member; list the homes of the roster whose keys it has not got."""
        for home, share in entrusted.shares.items():
            if home not in self._roster.parties or home in self._shared:
                continue
            if (shared := open_share(self._keys, self._roster, self._epoch, home, self._name, share)) is not None:
                self._shared[home] = shared
        return [home for home in self._roster.parties if home not in self._shared]

    def sign(self, proposed: MaskList, session: int, slots: int) -> str:
        """Sign the list of a round of the session under way, which has so many slots; the same list again, too.

        Raises `ListRefusedError`. What `remember` gives has to be saved before the signature is sent.
        """
        self._require_same_roster(proposed, session)
        if session == self._session and proposed.round < self._round:
            raise ListRefusedError(f"the list is of round {proposed.round}, round {self._round} was signed")
        if (session, proposed.round) == (self._session, self._round) and proposed.digest != self._digest:
            raise ListRefusedError(f"a second list for round {proposed.round}")
        self._require_whole_groups(proposed)
        self._require_shape(proposed, slots)
        self._session, self._round, self._digest = session, proposed.round, proposed.digest
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
        return [
            MaskSum.of(subset, number, self._sum_masks(signed, subset, names))
            for number, names in enumerate(self._roster.groups.values())
            if names[0] in signed.nonces and all(name in self._shared for name in names)
            for subset in self._subsets
        ]

    def _sum_masks(self, signed: MaskList, subset: int, names: tuple[str, ...]) -> Words:
        """Add up the masks of a subset on the answers of a group, (count,)."""
        count = self._form.count(tuple(signed.shape))
        total = np.zeros(count, np.uint64)
        for name in names:
            nonce = signed.nonces[name]
            context = self._roster.of_mask(self._epoch, signed.session, signed.round, signed.question, nonce, name)
            total += draw_mask(self._shared[name][subset], context, count)
        return total

    # --- what it refuses ---

    def _require_same_roster(self, proposed: MaskList, session: int) -> None:
        if (proposed.roster, proposed.epoch) != (self._roster.digest, self._epoch):
            raise ListRefusedError("the list is of another roster or committee")
        now = max(session, self._session)
        if proposed.session != session or session < now:
            raise ListRefusedError(f"the list is of session {proposed.session}, this one is {now}")

    def _require_whole_groups(self, proposed: MaskList) -> None:
        if unknown := proposed.nonces.keys() - self._roster.parties.keys():
            raise ListRefusedError(f"{min(unknown)} is not in the roster")
        for group, names in self._roster.groups.items():
            there = sum(name in proposed.nonces for name in names)
            if 0 < there < len(names):
                raise ListRefusedError(f"{there} of {len(names)} processes of {group}; a sum is of all of them")

    def _require_shape(self, proposed: MaskList, slots: int) -> None:
        if proposed.shape[0] != slots:
            raise ListRefusedError(f"a shape for {proposed.shape[0]} slots, the session has {slots}")
        try:
            count = self._form.count(tuple(proposed.shape))
        except ValueError as error:
            raise ListRefusedError(f"shape {proposed.shape} is none of this game: {error}") from None
        if not 0 < count <= MAX_WORDS:
            raise ListRefusedError(f"an answer of {count} numbers, at most {MAX_WORDS} are written")
