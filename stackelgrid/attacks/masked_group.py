"""A group of homes with real keys and masks: what its aggregator holds, and what members of its committee tell it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from stackelgrid.attacks.targets import FORM, GAME, Target, make_question
from stackelgrid.masks.fixed_point import read_numbers
from stackelgrid.masks.form import Words
from stackelgrid.masks.keys import PartyKeys, draw_mask
from stackelgrid.masks.party import Party, PartySettings
from stackelgrid.masks.roster import Roster
from stackelgrid.masks.shares import open_share
from stackelgrid.masks.sums import Step, SumCollector, SumSettings
from stackelgrid.registry import find
from stackelgrid.transport.base import Publish
from stackelgrid.wire.arrays import Array
from stackelgrid.wire.codec import Link
from stackelgrid.wire.masks import (
    COMMITTEE,
    SUBSETS,
    EntrustedShares,
    ListSignature,
    MaskedAnswer,
    MaskList,
    MaskRoster,
    MaskSums,
    Quorum,
    digest_question,
)
from stackelgrid.wire.messages import Message

_AGGREGATOR, _EPOCH, _SESSION = "a1", 0, 1


class MaskedGroup:
    """A group that is a roster of its own, set up as in a run; its homes answer prices with masks on.

    The aggregator holds what homes send and makes lists of its choice. Members refuse what the rules forbid.
    """

    def __init__(self, group: Sequence[Target], slots: int, *, sensitivities: bool) -> None:
        self._group, self._sensitivities = group, sensitivities
        self._link = Link("attack", _AGGREGATOR, find(GAME).load("lower"), slots, private_sums=True)
        self._nonces: Counter[str] = Counter()
        self._entrusted: dict[str, EntrustedShares] = {}
        self._parties = {target.name: self._start(target) for target in group}
        settings = SumSettings(len(group), deadline_s=1.0, tries=1)
        self._collector = SumCollector(self._link, FORM, settings, lambda roster, group, question, body: None)
        for party in self._parties.values():
            self._deliver(party.start())
        self._deliver(self._collector.set_up(_SESSION, dict.fromkeys(self._parties, 1), now=0.0))
        assert self._collector.roster is not None
        self._roster: Roster = self._collector.roster
        self._committee = self._roster.committee(_EPOCH)

    def answer(self, home: int, number: int, price: Array) -> MaskedAnswer:
        """Give what a home sends in round `number` when it is asked a price (T,)."""
        target, question = self._group[home], make_question([price], sensitivities=self._sensitivities)
        plain = target.answer([price], sensitivities=self._sensitivities)
        return self._parties[target.name].mask(number, question, plain)

    def find_sum(self, price: Array, answers: Mapping[int, MaskedAnswer]) -> Array | None:
        """Find the sum of the loads (T,) of `answers`, by home; None where the committee refuses a list of them.

        It is of the latest round, and of `price` (T,). Other answers than those leave their masks in it.
        """
        number = max(answer.round for answer in answers.values())
        question = make_question([price], sensitivities=self._sensitivities)
        about = {"run": self._link.run, "sender": _AGGREGATOR, "session": _SESSION, "round": number}
        proposed = MaskList.model_validate(
            {
                **about,
                "roster": self._roster.digest,
                "epoch": _EPOCH,
                "question": digest_question(question),
                "shape": list(FORM.shape(question)),
                "nonces": {self._group[home].name: answer.nonce for home, answer in answers.items()},
            }
        )
        signatures = {
            sent.sender: sent.signature for sent in self._ask_committee(proposed) if isinstance(sent, ListSignature)
        }
        if not signatures:
            return None
        quorum = Quorum.model_validate({**about, "digest": proposed.digest, "signatures": signatures})
        sums = [sent for sent in self._ask_committee(quorum) if isinstance(sent, MaskSums)]
        masks = {each.subset: each.words_array() for sent in sums for each in sent.sums}
        return self._read(answers, list(masks.values())) if len(masks) == SUBSETS else None

    def break_sum(self, answers: Mapping[int, MaskedAnswer]) -> Array:
        """Give the sum of loads (T,) of any answers, as a committee would that keeps no rule."""
        return self._read(answers, [self._pool_mask(home, sent, range(COMMITTEE)) for home, sent in answers.items()])

    def unmask(self, home: int, sent: MaskedAnswer, seats: Collection[int]) -> Array:
        """Take off the masks that members on these `seats` know together, and read what is left as a load (T,)."""
        return self._read({home: sent}, [self._pool_mask(home, sent, seats)])

    def read_difference(self, first: MaskedAnswer, second: MaskedAnswer) -> Array:
        """Read the difference of two answers with their masks on as loads (T,)."""
        return self._read({0: first}, [second.words_array()])

    def reuse_mask(self, home: int, sent: MaskedAnswer, price: Array) -> MaskedAnswer:
        """Give the answer of a home to another price with the mask that is on what it has sent."""
        words = self._group[home].write(price, len(self._group), sensitivities=self._sensitivities)
        mask = self._pool_mask(home, sent, range(COMMITTEE))
        question = digest_question(make_question([price], sensitivities=self._sensitivities))
        about = sent.homes, sent.round, sent.roster, sent.epoch, sent.nonce
        return MaskedAnswer.of(*about, question, sent.shape, words + mask)

    def _read(self, answers: Mapping[int, MaskedAnswer], masks: Sequence[Words]) -> Array:
        """Read the loads (T,) of the sum of answers less masks."""
        first, *others = answers.values()
        total = first.words_array()
        for answer in others:
            total += answer.words_array()
        for mask in masks:
            total -= mask
        return read_numbers(total)[: first.slots]

    def _pool_mask(self, home: int, sent: MaskedAnswer, seats: Collection[int]) -> Words:
        """Add up what members know together of the mask on an answer, (count,)."""
        name, total = self._group[home].name, np.zeros(len(sent.words_array()), np.uint64)
        context = self._roster.of_mask(_EPOCH, _SESSION, sent.round, sent.question, sent.nonce, name)
        for key in self._pool_keys(name, seats).values():
            total += draw_mask(key, context, len(total))
        return total

    def _pool_keys(self, home: str, seats: Collection[int]) -> dict[int, bytes]:
        """Give the keys of subsets that members hold of a home, each opened from what is sealed for it."""
        keys: dict[int, bytes] = {}
        for seat in seats:
            member = self._committee[seat]
            own, share = PartyKeys(_make_secret(member)), self._entrusted[member].shares[home]
            opened = open_share(own, self._roster, _EPOCH, home, member, share)
            assert opened is not None
            keys |= opened
        return keys

    # --- what a run does ---

    def _start(self, target: Target) -> Party:
        def draw_nonce() -> str:
            self._nonces[target.name] += 1
            return hashlib.sha256(f"{target.name} {self._nonces[target.name]}".encode()).hexdigest()[:32]

        settings = PartySettings(homes=1, minimum_group=len(self._group), max_kw=target.kw)
        secret = _make_secret(target.name)
        return Party(target.name, self._link, FORM, settings, secret, draw_nonce, lambda kind, reason: None)

    def _deliver(self, steps: Sequence[Step]) -> None:
        """Carry messages between homes and aggregator until there are none."""
        waiting = list(steps)
        while waiting:
            step = waiting.pop(0)
            if not isinstance(step, Publish):
                continue
            message = self._link.read(step.topic, step.payload)
            if message.sender != _AGGREGATOR:
                waiting += self._collector.receive(message, 0.0)
                continue
            addressed = step.topic.removeprefix(f"{self._link.root}/").split("/")[0]
            if isinstance(message, EntrustedShares):
                self._entrusted[addressed] = message
            for name, party in self._parties.items():
                if isinstance(message, MaskRoster) or name == addressed:
                    waiting += party.receive(message)

    def _ask_committee(self, message: MaskList | Quorum) -> list[Message]:
        """Send a message to each member, and list what they answer."""
        answers = [step for member in self._committee for step in self._parties[member].receive(message)]
        return [self._link.read(step.topic, step.payload) for step in answers]


def _make_secret(name: str) -> bytes:
    return hashlib.sha256(f"secret of {name}".encode()).digest()
