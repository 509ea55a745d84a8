"""Private sums: whatever gets lost, late, twice or killed, a sum is exact and of a whole group, or there is none."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pytest

from stackelgrid.masks.fixed_point import FixedPointRangeError, read_numbers, write_words
from stackelgrid.masks.form import Shape, Words
from stackelgrid.masks.keys import PartyKeys, commit_to, draw_mask
from stackelgrid.masks.party import Party, PartySettings
from stackelgrid.masks.roster import MISSING, MOST_EPOCHS, SUBSETS, Roster, list_subsets
from stackelgrid.masks.sums import CommitteeReplaced, GroupSums, SetUp, SetUpFailed, SumCollector, SumSettings
from stackelgrid.transport.base import Publish
from stackelgrid.wire.arrays import Array
from stackelgrid.wire.codec import Bodies, Link
from stackelgrid.wire.masks import (
    EntrustedShares,
    ListSignature,
    MaskedAnswer,
    MaskEntry,
    MaskKeys,
    MaskList,
    MaskRoster,
    MaskShares,
    MaskSum,
    MaskSums,
    Quorum,
    ShareReceipt,
    encode_share,
    read_share,
)
from stackelgrid.wire.messages import Body, Message

Said = TypeVar("Said", bound=Message)
SLOTS = 3


class Question(Body):
    price: list[float]


class Loads(Body):
    """What homes draw: of one, or of the group that a sum is of."""

    kw: list[float]
    homes: int = 1


class LoadForm:
    """The loads of the slots, in kW."""

    def shape(self, question: Body) -> Shape:
        assert isinstance(question, Question)
        return (len(question.price),)

    def count(self, shape: Shape) -> int:
        (slots,) = shape
        return slots

    def flatten(self, answer: Body, shape: Shape) -> Array:
        assert isinstance(answer, Loads)
        return np.array(answer.kw)

    def bounds(self, shape: Shape, max_kw: float | None, question: Body) -> Array:
        return np.full(shape[0], np.inf if max_kw is None else max_kw)

    def read(self, total: Array, shape: Shape, homes: int) -> Loads:
        return Loads(kw=total.tolist(), homes=homes)


FORM = LoadForm()
LINK = Link("run", "a1", Bodies(Question, Loads, Question), (SLOTS,) * 5, private_sums=True)


def entry(name: str, **changes: Any) -> MaskEntry:
    return MaskEntry(name=name, **{"homes": 1, "exchange": "1e" * 32, "signing": "2d" * 32} | changes)


class Network:
    """A collector and its parties in virtual time; what they say to each other goes through the bytes of a link.

    With `faults` messages get lost, late or come twice. `change` gives what becomes of a message to a receiver.
    """

    def __init__(self, homes: int = 11, seed: int = 0, *, faults: bool = False, **settings: Any) -> None:
        self.random, self.faults, self.now = np.random.default_rng(seed), faults, 0.0
        self.names = [f"h{number:02}" for number in range(homes)]
        self.settings = PartySettings(**{"homes": 1, "minimum_group": 5, "max_kw": 20.0} | settings)
        self.change: Callable[[str, Message], Sequence[Message]] = lambda receiver, message: [message]
        self.heard: list[Message] = []
        self.objections: list[tuple[str, str, str]] = []
        self.events: list[Any] = []
        self.plain: dict[str, Words] = {}  # what is under the mask of a nonce
        self._queue: list[tuple[float, int, str, Publish]] = []
        self._order = itertools.count()
        self._retained: dict[str, Publish] = {}
        self.disks: dict[str, tuple[bytes, dict[str, Any] | None]] = {}
        self.parties: dict[str, Party] = {}
        self.start_collector()
        for name in self.names:
            self.start(name)

    # --- nodes ---

    def start(self, name: str, *, lose_state: bool = False) -> None:
        """Start a party, perhaps again: with what it remembered before, or with an empty disk."""
        if lose_state:
            del self.disks[name]
        secret, memory = self.disks.setdefault(name, (self.random.bytes(32), None))
        party = self.parties[name] = Party(
            name,
            LINK,
            FORM,
            self.settings,
            secret,
            lambda: self.random.bytes(16).hex(),
            lambda kind, why: self.objections.append((name, kind, why)),
            memory,
        )
        self._send(party.start())
        for publish in list(self._retained.values()):
            if self._is_for(name, publish):
                self._deliver_later(name, publish)

    def kill(self, name: str) -> None:
        del self.parties[name]
        self._queue = [each for each in self._queue if each[2] != name]

    def start_collector(self, memory: dict[str, Any] | None = None) -> None:
        settings = SumSettings(self.settings.minimum_group, deadline_s=1.0, tries=3)
        self.collector = SumCollector(LINK, FORM, settings, lambda roster, group, question, body: None)
        if memory is not None:
            self.collector.recall(json.loads(json.dumps(memory)))
        for topic, publish in list(self._retained.items()):
            if topic.endswith("/keys"):
                self._deliver_later("a1", publish)

    # --- the network ---

    def do(self, steps: Sequence[object]) -> None:
        """Carry out what the collector wants."""
        self._send([step for step in steps if isinstance(step, Publish)])
        self.events += [step for step in steps if not isinstance(step, Publish)]

    def _send(self, steps: Sequence[Publish]) -> None:
        for step in steps:
            if step.retain:
                self._retained[step.topic] = step
            for receiver in ("a1", *self.parties):
                if self._is_for(receiver, step):
                    self._deliver_later(receiver, step)

    def _is_for(self, receiver: str, publish: Publish) -> bool:
        *_, member, purpose = publish.topic.split("/")
        if purpose in ("keys", "shares", "holding", "signature", "masks"):
            return receiver == "a1"
        return receiver in self.parties and (purpose == "committee" or member == receiver)

    def _deliver_later(self, receiver: str, publish: Publish) -> None:
        copies = int(self.random.choice([0, 1, 2], p=[0.04, 0.9, 0.06])) if self.faults else 1
        for _ in range(copies):
            late = 0.01 * self.random.exponential() if self.random.random() > 0.05 * self.faults else 1.5
            heapq.heappush(self._queue, (self.now + late, next(self._order), receiver, publish))

    def run(self, *kinds: type, steps: Sequence[object] = ()) -> Any:
        """Carry out steps, let time pass until the collector says one of these, and give it; None where it does not."""
        seen = len(self.events)
        self.do(steps)
        while not (found := [event for event in self.events[seen:] if isinstance(event, kinds)]):
            deadline = self.collector.next_deadline()
            if not self._queue and deadline is None:
                return None
            if deadline is None or (self._queue and self._queue[0][0] < deadline):
                self.now, _, receiver, publish = heapq.heappop(self._queue)
                self._deliver(receiver, LINK.read(publish.topic, publish.payload))
            else:
                self.now = max(self.now, deadline)
                self.do(self.collector.tick(self.now))
        return found[0]

    def _deliver(self, receiver: str, sent: Message) -> None:
        for message in self.change(receiver, sent):
            self.heard.append(message)
            if receiver == "a1":
                self.do(self.collector.receive(message, self.now))
            elif receiver in self.parties:
                self.tell(receiver, message)

    def tell(self, name: str, message: Message) -> list[Message]:
        """Give a party a message; what it remembers is saved before its answers, which are given, are sent."""
        steps = self.parties[name].receive(message)
        self.save(name)
        self._send(steps)
        return [LINK.read(step.topic, step.payload) for step in steps]

    def save(self, name: str) -> None:
        self.disks[name] = self.disks[name][0], json.loads(json.dumps(self.parties[name].remember()))

    # --- a run ---

    def set_up(self, session: int = 1) -> Any:
        """Set up a session with those who are there."""
        for party in self.parties.values():
            party.begin_session(session)
        there = dict.fromkeys(sorted(self.parties), self.settings.homes)
        return self.run(SetUp, SetUpFailed, steps=self.collector.set_up(session, there, self.now))

    def mask(self, name: str, number: int, question: Question, session: int = 1) -> MaskedAnswer | None:
        """Have a party answer, if it may."""
        party = self.parties.get(name)
        if party is None or not party.may_answer(session):
            return None
        loads = self.random.uniform(-20, 20, SLOTS)
        masked = party.mask(number, question, Loads(kw=loads.tolist()))
        self.plain[masked.nonce] = write_words(loads, np.full(SLOTS, np.inf), len(self.names))
        self.save(name)
        return masked

    def ask(self, number: int, session: int = 1) -> dict[str, MaskedAnswer]:
        """Ask all who are there, each the same."""
        answers = {name: self.mask(name, number, question_of(number), session) for name in self.names}
        return {name: masked for name, masked in answers.items() if masked is not None}

    def sum_up(self, number: int, answers: Mapping[str, MaskedAnswer]) -> Any:
        """Have the sums made, and check those that are new."""
        steps = self.collector.open(number, question_of(number), answers, self.now)
        event = self.run(GroupSums, CommitteeReplaced, SetUpFailed, steps=steps)
        if isinstance(event, GroupSums):
            for group in set(event.answers) - set(event.held):
                assert event.answers[group] == self.add_up(group, answers)
        return event

    def add_up(self, group: str, answers: Mapping[str, MaskedAnswer]) -> Loads:
        """Add up what is under the masks of a group, bit for bit."""
        assert self.collector.roster is not None
        names = self.collector.roster.groups[group]
        total = np.sum([self.plain[answers[name].nonce] for name in names], axis=0, dtype=np.uint64)
        return Loads(kw=read_numbers(total).tolist(), homes=len(names))

    # --- what was said ---

    @property
    def roster(self) -> Roster:
        assert self.collector.roster is not None
        return self.collector.roster

    def said(self, kind: type[Said]) -> list[Said]:
        return [message for message in self.heard if isinstance(message, kind)]

    def refusals(self, kind: str) -> list[str]:
        return [why for _, of, why in self.objections if of == kind]


def question_of(number: int) -> Question:
    return Question(price=[float(number)] * SLOTS)


def begun(homes: int = 11, **settings: Any) -> Network:
    """Give a network whose first session is set up."""
    network = Network(homes, **settings)
    assert isinstance(network.set_up(), SetUp)
    return network


def committee_of(network: Network) -> tuple[str, ...]:
    return network.roster.committee(network.collector.remember()["roster"]["epoch"])


def changed(message: Said, **changes: Any) -> Said:
    """Give a message with other content; what a copy had already found of itself would stay."""
    return type(message).model_validate(message.model_dump(by_alias=True) | changes)


def drop(kind: type[Message], *names: str) -> Callable[[str, Message], Sequence[Message]]:
    """Lose the messages of a kind to or from some."""
    return lambda receiver, message: (
        [] if isinstance(message, kind) and {receiver, message.sender} & set(names) else [message]
    )


# --- sums ---


@pytest.mark.parametrize("homes", [5, 6, 11, 40])
def test_sums_of_groups_are_exact_and_together_the_sum_of_all(homes: int) -> None:
    network = begun(homes)
    for number in (1, 2, 3):
        answers = network.ask(number)
        sums = network.sum_up(number, answers)
        assert not sums.held and not sums.excluded and not sums.why
        assert sum(body.homes for body in sums.answers.values()) == homes
        together = np.sum([body.kw for body in sums.answers.values()], axis=0)
        plain = sum(read_numbers(network.plain[answer.nonce]) for answer in answers.values())
        np.testing.assert_allclose(together, plain, rtol=0, atol=1e-6)
    assert not +network.collector.refused


def test_groups_have_at_least_the_minimum_and_everybody_once() -> None:
    for homes in range(5, 60):
        parties = {f"h{number}": entry(f"h{number}", homes=1 + number % 3) for number in range(homes)}
        roster = Roster("run", "a1", f"{homes:064x}", 7, parties)
        counts = [roster.count_homes(group) for group in roster.groups]
        assert sum(counts) == roster.homes and sorted(sum(roster.groups.values(), ())) == sorted(parties)
        assert min(counts) >= min(7, roster.homes)


def test_masked_words_alone_look_uniform_and_no_two_have_the_same_mask() -> None:
    network = begun(5)
    still = Loads(kw=[1.0] * SLOTS)
    words = np.array([network.parties["h00"].mask(1, question_of(1), still).words_array() for _ in range(1000)])
    assert len(np.unique(words)) == words.size
    differences = np.unique(words[1:] - words[:-1])
    assert len(differences) == words[1:].size
    counts = np.bincount(words.view(np.uint8).ravel(), minlength=256)
    expected = words.size * 8 / 256
    spread = np.sum((counts - expected) ** 2 / expected)  # chi-square with 255 degrees: 255 on average, 23 up or down
    assert 165 < spread < 345


def test_masks_keys_and_boxes_are_for_one_thing_each() -> None:
    """Otherwise a list that names another question, round, session or home has masks that come off."""
    roster = Roster("run", "a1", "0" * 64, 5, {})
    others = [replace(roster, run="s"), replace(roster, aggregator="a2"), replace(roster, digest="1" * 64)]
    mask = (0, 1, 2, "question", "nonce", "h1")
    changed_masks = [(*mask[:place], other, *mask[place + 1 :]) for place, other in enumerate((9, 8, 7, "x", "y", "z"))]
    contexts = [each.of_mask(*mask) for each in (roster, *others)] + [roster.of_mask(*each) for each in changed_masks]
    contexts += [each.of_subset(0, 1) for each in (roster, *others)] + [roster.of_subset(1, 1), roster.of_subset(0, 2)]
    boxes = [(0, "h1", "h2"), (1, "h1", "h2"), (0, "h3", "h2"), (0, "h1", "h3"), (0, "h2", "h1")]
    contexts += [roster.of_box(*box) for box in boxes]
    contexts += [roster.of_commitment(*whose) for whose in ((0, "h1"), (1, "h1"), (0, "h2"))]
    masks = [draw_mask(bytes(32), context, 2).tobytes() for context in contexts]
    masks += [draw_mask(bytes([1] * 32), contexts[0], 2).tobytes()]
    assert len(set(masks)) == len(masks) == 25


def test_two_members_miss_a_part_of_each_mask_and_three_have_all() -> None:
    seats = range(5)
    for two in itertools.combinations(seats, MISSING):
        assert set().union(*map(list_subsets, two)) != set(range(len(SUBSETS)))
        assert set().union(*(list_subsets(seat) for seat in seats if seat not in two)) == set(range(len(SUBSETS)))


@pytest.mark.parametrize("gone", list(itertools.combinations(range(5), 2)))
def test_sums_are_exact_with_two_members_gone_after_the_quorum(gone: tuple[int, ...]) -> None:
    network = begun()
    network.change = drop(MaskSums, *(committee_of(network)[seat] for seat in gone))
    sums = network.sum_up(1, network.ask(1))
    assert isinstance(sums, GroupSums) and len(sums.answers) == 2


@pytest.mark.parametrize("lost", [MaskList, ListSignature, Quorum, MaskSums])
def test_what_is_lost_once_is_asked_for_again(lost: type[Message]) -> None:
    network, seen = begun(), set[tuple[str, str]]()

    def lose(receiver: str, message: Message) -> Sequence[Message]:
        first = isinstance(message, lost) and (receiver, message.sender) not in seen
        seen.add((receiver, message.sender)) if isinstance(message, lost) else None
        return [] if first else [message]

    network.change = lose
    assert isinstance(network.sum_up(1, network.ask(1)), GroupSums)


def test_group_of_which_somebody_has_not_answered_keeps_its_last_sum() -> None:
    network = begun()
    (first, names), (second, others) = network.roster.groups.items()
    answers = network.ask(1)
    before = network.sum_up(1, answers)
    later = network.ask(2)
    held = network.sum_up(2, later | {names[0]: answers[names[0]]})
    assert held.held == (first,) and held.answers[first] == before.answers[first] and names[0] in held.why[first]
    nobody = network.sum_up(3, {})
    assert nobody.held == (first, second) and nobody.answers == held.answers and others[0] in nobody.why[second]
    named = {name for each in network.said(MaskList) if each.round == 2 for name in each.nonces}
    assert named == set(others), "no list names a part of a group"
    assert not network.refusals("list")


def test_answers_of_another_round_are_in_no_sum_though_the_question_is_the_same() -> None:
    network = begun()
    answers = network.ask(1)
    sums = network.run(GroupSums, steps=network.collector.open(2, question_of(1), answers, network.now))
    assert not sums.answers and set(sums.excluded) == set(network.roster.groups)


def test_collector_has_no_home_in_its_roster_whose_keys_it_does_not_believe() -> None:
    network = Network()
    disbelieve = replace(
        network.collector._settings, vouch=lambda run, aggregator, entry: "unheard of" if entry.name == "h03" else None
    )
    network.collector._settings = disbelieve
    network.set_up()
    assert set(network.roster.parties) == set(network.names) - {"h03"} and network.collector.refused["keys"] == 1


def test_group_that_never_answered_as_a_whole_has_no_sum() -> None:
    network = begun()
    (first, names), (second, _) = network.roster.groups.items()
    answers = network.ask(1)
    del answers[names[-1]]
    sums = network.sum_up(1, answers)
    assert list(sums.answers) == [second] and sums.excluded == (first,)


# --- committees ---


def test_committee_that_does_not_answer_is_replaced_and_the_next_one_sums() -> None:
    network = begun()
    before = committee_of(network)
    network.change = drop(MaskList, *before[:2])
    assert network.sum_up(1, network.ask(1)) == CommitteeReplaced(1)
    assert isinstance(network.run(SetUp, SetUpFailed), SetUp)
    assert committee_of(network) == network.roster.committee(1) != before
    network.change = lambda receiver, message: [message]
    assert len(network.sum_up(2, network.ask(2)).answers) == 2


def test_group_of_a_home_that_is_gone_when_a_committee_is_replaced_has_no_sum() -> None:
    network = begun(16)
    later = network.roster.committee(1)
    gone = next(name for name in network.names if name not in {*network.roster.committee(0), *later})
    network.sum_up(1, network.ask(1))
    network.kill(gone)
    network.change = drop(MaskList, *network.roster.committee(0)[:2])
    assert isinstance(network.sum_up(2, network.ask(2)), CommitteeReplaced)
    network.change = lambda receiver, message: [message]
    assert isinstance(network.run(SetUp, SetUpFailed), SetUp)
    sums = network.sum_up(3, network.ask(3))
    assert len(sums.held) == 1 and gone in network.roster.groups[sums.held[0]]
    network.start_collector(network.collector.remember())
    network.start(gone)
    network.run()
    sums = network.sum_up(4, network.ask(4))
    assert len(sums.excluded) == 1 and "the committee has no keys of" in sums.why[sums.excluded[0]]


def test_session_fails_after_three_committees_and_may_begin_again_with_the_first() -> None:
    network = begun()
    network.change = drop(MaskList, *network.names)
    for number in range(1, MOST_EPOCHS):
        assert network.sum_up(number, network.ask(number)) == CommitteeReplaced(number)
        assert isinstance(network.run(SetUp, SetUpFailed), SetUp)
    failed = network.sum_up(MOST_EPOCHS, network.ask(MOST_EPOCHS))
    assert isinstance(failed, SetUpFailed) and "committees" in failed.reason and not network.collector.is_set_up
    network.change = lambda receiver, message: [message]
    before = network.roster.digest
    assert isinstance(network.set_up(1), SetUp) and network.roster.digest == before
    assert committee_of(network) == network.roster.committee(0)
    assert len(network.sum_up(9, network.ask(9)).answers) == 2
    network.kill("h07")
    assert isinstance(network.set_up(1), SetUp) and network.roster.digest == before, "homes answer under no other"
    network.start("h07")
    network.change = drop(MaskList, *network.names)
    for number in (10, 11):
        network.sum_up(number, network.ask(number))
        network.run(SetUp, SetUpFailed)
    assert isinstance(network.sum_up(12, network.ask(12)), SetUpFailed)
    network.change = lambda receiver, message: [message]
    assert isinstance(network.set_up(2), SetUp)
    assert committee_of(network) == network.roster.committee(0)
    assert len(network.sum_up(13, network.ask(13, 2)).answers) == 2


def forged(quorum: int) -> Callable[[str, Message], Sequence[Message]]:
    """Add something to each sum of masks of the members that sort first."""
    liars: set[str] = set()

    def lie(receiver: str, message: Message) -> Sequence[Message]:
        if not isinstance(message, MaskSums):
            return [message]
        if len(liars) < quorum:
            liars.add(message.sender)
        if message.sender not in liars:
            return [message]
        wrong = np.full(SLOTS, int(message.sender[1:]) + 7, np.uint64)
        sums = [MaskSum.of(each.subset, each.group, each.words_array() + wrong) for each in message.sums]
        return [message.model_copy(update={"sums": sums})]

    return lie


def test_member_that_lies_is_outvoted_and_counted() -> None:
    network = begun()
    network.change = forged(1)
    assert len(network.sum_up(1, network.ask(1)).answers) == 2
    assert network.collector.refused["masks"] == 1


def test_members_do_not_vote_in_subsets_of_others() -> None:
    network = begun()
    one, two, *silent = committee_of(network)[:4]
    of_others = len(SUBSETS) - 1
    assert not {of_others} & {*list_subsets(0), *list_subsets(1)}

    def vote(receiver: str, message: Message) -> Sequence[Message]:
        if not isinstance(message, MaskSums) or message.sender in silent:
            return [] if isinstance(message, MaskSums) else [message]
        if message.sender not in (one, two):
            return [message]
        groups = range(len(network.roster.groups))
        votes = [MaskSum.of(of_others, group, np.zeros(SLOTS, np.uint64)) for group in groups]
        return [message.model_copy(update={"sums": [*message.sums, *votes]})]

    network.change = vote
    assert isinstance(network.sum_up(1, network.ask(1)), CommitteeReplaced)
    assert network.collector.refused["masks"] >= 2


def test_two_members_that_lie_each_for_itself_bring_about_no_sum() -> None:
    network = begun()
    network.change = forged(2)
    assert isinstance(network.sum_up(1, network.ask(1)), CommitteeReplaced)


@pytest.mark.parametrize("closed", [1, 2, 3])
def test_home_whose_keys_do_not_open_at_three_members_is_left_out(closed: int) -> None:
    network = Network()

    def spoil(receiver: str, message: Message) -> Sequence[Message]:
        if not isinstance(message, MaskShares) or message.sender != "h03":
            return [message]
        commitment = read_share(next(iter(message.shares.values())))[:32]
        spoilt = dict.fromkeys(sorted(message.shares)[:closed], encode_share(commitment + bytes(40)))
        return [message.model_copy(update={"shares": message.shares | spoilt})]

    network.change = spoil
    assert isinstance(network.set_up(), SetUp)
    assert ("h03" in network.roster.parties) is (closed < 3)
    assert set(network.roster.parties) >= set(network.names) - {"h03"}
    began = network.now
    assert len(network.sum_up(1, network.ask(1)).answers) == 2
    assert network.now - began < 1.0, "what cannot come is not waited for"


@pytest.mark.parametrize(("same_digest", "same_list"), [(False, False), (True, False), (True, True)])
def test_home_that_gives_each_member_other_keys_is_left_out(same_digest: bool, same_list: bool) -> None:
    """Otherwise honest members give other sums of masks than each other, of all groups, for good."""
    network = Network()
    party = PartyKeys(network.disks["h03"][0])

    def split(receiver: str, message: Message) -> Sequence[Message]:
        if not isinstance(message, MaskShares) or message.sender != "h03":
            return [message]
        roster = Roster.of(network.said(MaskRoster)[-1])
        shares, context = {}, roster.of_commitment(0, "h03")
        for seat, member in enumerate(roster.committee(0)):
            own, first = ([bytes([of, n] * 16) for n in range(len(SUBSETS))] for of in (seat, 0))
            of_digest, of_list = (
                b"".join(commit_to(key, context) for key in (first if same else own))
                for same in (same_digest, same_list)
            )
            content = of_list + b"".join(own[n] for n in list_subsets(seat))
            box = party.seal(content, roster.parties[member].exchange, roster.of_box(0, "h03", member))
            shares[member] = encode_share(hashlib.sha256(of_digest).digest() + box)
        return [message.model_copy(update={"shares": shares})]

    network.change = split
    assert isinstance(network.set_up(), SetUp)
    assert set(network.roster.parties) == set(network.names) - {"h03"}
    assert len(network.sum_up(1, network.ask(1)).answers) == 2


@pytest.mark.parametrize("point", ["00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f"])
def test_home_whose_key_is_a_point_of_low_order_is_left_out(point: str) -> None:
    """Nobody can seal for it: homes would end, were it in the committee, and it chooses keys until it is."""
    network = Network()
    network.change = lambda receiver, message: [
        changed(message, exchange=point) if isinstance(message, MaskKeys) and message.sender == "h03" else message
    ]
    assert isinstance(network.set_up(), SetUp)
    assert set(network.roster.parties) == set(network.names) - {"h03"}
    assert network.collector.refused["keys"] == 1


def test_home_that_says_another_number_of_homes_than_it_is_registered_with_is_left_out() -> None:
    """Otherwise the sum of its group is for homes that are not there, and refused for good."""
    network = Network()
    network.change = lambda receiver, message: [
        changed(message, homes=2) if isinstance(message, MaskKeys) and message.sender == "h03" else message
    ]
    assert isinstance(network.set_up(), SetUp)
    assert set(network.roster.parties) == set(network.names) - {"h03"}
    assert network.collector.explain_missing(["h03"]) == {"h03": "says that it has 2 homes, registered are 1"}


def test_roster_changes_with_the_number_of_homes_that_a_member_is_registered_with() -> None:
    network = begun()
    there = dict.fromkeys(network.names, 1) | {"h03": 2}
    event = network.run(SetUp, steps=network.collector.set_up(2, there, network.now))
    assert not event.kept and "h03" not in network.roster.parties


def test_home_that_does_not_share_its_keys_is_left_out_of_the_session() -> None:
    network = Network()
    network.change = drop(MaskShares, "h03")
    assert isinstance(network.set_up(), SetUp)
    assert set(network.roster.parties) == set(network.names) - {"h03"}
    assert network.ask(1).keys() == network.roster.parties.keys()
    network.change = lambda receiver, message: [message]
    network.set_up(2)
    assert set(network.roster.parties) == set(network.names)


# --- sessions ---


def test_roster_stays_while_the_same_are_there_with_the_same_keys() -> None:
    network = begun()
    shared = len(network.said(MaskShares))
    first = network.roster.digest
    network.do(network.collector.set_up(2, dict.fromkeys(network.names, 1), network.now))
    assert isinstance(network.events[-1], SetUp) and len(network.said(MaskShares)) == shared
    network.start("h04", lose_state=True)
    network.run()
    network.set_up(3)
    assert network.roster.digest != first and set(network.roster.parties) == set(network.names)
    network.kill("h07")
    network.set_up(4)
    assert set(network.roster.parties) == set(network.names) - {"h07"}


def test_too_few_homes_have_no_private_sums() -> None:
    network = Network(4)
    failed = network.set_up()
    assert isinstance(failed, SetUpFailed) and "4 processes, a committee needs 5" in failed.reason
    network = Network(6, minimum_group=7)
    assert "6 homes, at least 7" in network.set_up().reason


def test_aggregator_that_was_restarted_goes_on_with_its_roster() -> None:
    network = begun()
    sums = network.sum_up(1, network.ask(1))
    network.start_collector(network.collector.remember())
    network.collector.recall_sums(sums)
    network.do(network.collector.start())
    assert network.collector.is_set_up
    assert len(network.sum_up(2, network.ask(2)).answers) == 2
    nobody = network.sum_up(3, {})
    assert nobody.held == ("group-1", "group-2")


# --- whatever happens ---


@pytest.mark.parametrize("first", range(0, 24, 6))
def test_whatever_happens_sums_are_exact_and_lists_whole(first: int) -> None:
    """Messages get lost, late and come twice; parties are killed, with their disk or without, and the collector too."""
    exact = sum(count_exact_rounds(seed) for seed in range(first, first + 6))
    assert exact > 18, "of sixty"


def count_exact_rounds(seed: int) -> int:
    """Play two sessions of five rounds; give the number of those in which some group has a new sum."""
    network = Network(int(np.random.default_rng(seed).integers(6, 17)), seed, faults=True)
    random, exact, number = np.random.default_rng([seed, 1]), 0, 0
    for session in (1, 2):
        event = network.set_up(session)
        for _ in range(5):
            if not isinstance(event, SetUp | GroupSums):
                break
            number += 1
            kill_some(network, random)
            answers = {name: masked for name, masked in network.ask(number, session).items() if random.random() > 0.03}
            event = network.sum_up(number, answers)
            exact += isinstance(event, GroupSums) and len(event.answers) > len(event.held)
            if isinstance(event, CommitteeReplaced):
                event = network.run(SetUp, SetUpFailed)
            if random.random() < 0.2 and network.collector.is_set_up:
                network.start_collector(network.collector.remember())
    check_what_was_said(network)
    return exact


def kill_some(network: Network, random: np.random.Generator) -> None:
    for name in network.names:
        if name not in network.parties:
            network.start(name)
        elif random.random() < 0.04:
            network.kill(name)
            if random.random() < 0.7:
                network.start(name, lose_state=random.random() < 0.2)


def check_what_was_said(network: Network) -> None:
    """No member gives masks for two lists of a round, and no list has a part of a group."""
    rosters = {message.digest: Roster.of(message) for message in network.said(MaskRoster)}
    lists = {message.digest: message for message in network.said(MaskList)}
    given: dict[tuple[str, int, int], set[str]] = {}
    for message in network.said(MaskSums):
        given.setdefault((message.sender, message.session, message.round), set()).add(message.digest)
        listed = lists[message.digest]
        for names in rosters[listed.roster].groups.values():
            assert len(names) >= 5 and sum(name in listed.nonces for name in names) in (0, len(names))
    assert all(len(digests) == 1 for digests in given.values())


# --- what is refused ---


ROUND = 3


@dataclass
class Case:
    """A network in its first session, a member of its committee, and the honest list and quorum of round 3."""

    network: Network
    member: str
    proposed: MaskList
    quorum: Quorum

    def sign(self, proposed: MaskList) -> ListSignature | None:
        """Have the member sign a list, None where it refuses."""
        said = self.network.tell(self.member, proposed)
        return next((message for message in said if isinstance(message, ListSignature)), None)

    def give(self, quorum: Quorum) -> MaskSums | None:
        said = self.network.tell(self.member, quorum)
        return next((message for message in said if isinstance(message, MaskSums)), None)

    def changed(self, **changes: Any) -> MaskList:
        return changed(self.proposed, **{"round": ROUND + 1} | changes)

    def agreed(self, proposed: MaskList, by: Sequence[str]) -> Quorum:
        """Give the quorum for a list that these parties sign, whatever they think of it."""
        signatures = {name: PartyKeys(self.network.disks[name][0]).sign(proposed.signed_bytes()) for name in by}
        agreed = {"session": proposed.session, "round": proposed.round, "digest": proposed.digest}
        return Quorum(run="run", sender="a1", **agreed, signatures=signatures)


@pytest.fixture
def case() -> Case:
    network = begun()
    network.sum_up(ROUND, network.ask(ROUND))
    member = committee_of(network)[0]
    (proposed, *_), (quorum, *_) = network.said(MaskList), network.said(Quorum)
    network.objections.clear()
    return Case(network, member, proposed, quorum)


def without(nonces: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: nonce for name, nonce in nonces.items() if name not in names}


LISTS: dict[str, tuple[Callable[[Case], MaskList], str]] = {
    "a second one for the round": (
        lambda case: case.changed(round=ROUND, question="0" * 64),
        "a second list for round 3",
    ),
    "one of a round that is over": (
        lambda case: case.changed(round=ROUND - 1),
        "list is of round 2, round 3 was signed",
    ),
    "one with somebody else": (
        lambda case: case.changed(nonces={**case.proposed.nonces, "x": "0" * 32}),
        "x is not in the roster",
    ),
    "one without a home": (
        lambda case: case.changed(nonces=without(case.proposed.nonces, "h03")),
        r"\d of \d processes of group-\d; a sum is of all of them",
    ),
    "one of a home alone": (
        lambda case: case.changed(nonces={"h03": case.proposed.nonces["h03"]}),
        r"1 of \d processes of group-\d; a sum is of all of them",
    ),
    "one of the next session": (lambda case: case.changed(session=2), "list is of session 2, this one is 1"),
    "one of another roster": (lambda case: case.changed(roster="0" * 64), "of another roster or committee"),
    "one of another committee": (lambda case: case.changed(epoch=1), "of another roster or committee"),
    "one for other slots": (lambda case: case.changed(shape=[SLOTS + 1]), "a shape for 4 slots, the session has 3"),
    "one of a shape that is none": (lambda case: case.changed(shape=[SLOTS, 1]), "is none of this game"),
}


@pytest.mark.parametrize(("make", "why"), LISTS.values(), ids=list(LISTS))
def test_member_refuses_a_list(case: Case, make: Callable[[Case], MaskList], why: str) -> None:
    assert case.sign(make(case)) is None
    (objection,) = case.network.refusals("list")
    assert re.search(why, objection)
    assert case.sign(case.proposed) is not None, "it goes on with the one that it has signed"
    assert case.sign(case.changed()) is not None, "and with the next"


QUORUMS: dict[str, tuple[Callable[[Case], Quorum], str]] = {
    "of three": (lambda case: case.agreed(case.proposed, committee_of(case.network)[:3]), "3 of 4 signatures"),
    "with one of no member": (
        lambda case: case.agreed(case.proposed, [*committee_of(case.network)[:3], outside(case.network)]),
        "3 of 4 signatures",
    ),
    "with one of another list": (
        lambda case: case.quorum.model_copy(
            update={
                "signatures": case.agreed(case.proposed, committee_of(case.network)[:3]).signatures
                | case.agreed(case.changed(), committee_of(case.network)[3:4]).signatures
            }
        ),
        "3 of 4 signatures",
    ),
    "for another list of the round": (
        lambda case: case.agreed(case.changed(round=ROUND, question="0" * 64), committee_of(case.network)),
        "for another list of round 3",
    ),
    "of another round": (
        lambda case: case.agreed(case.changed(), committee_of(case.network)),
        "round 4 is not the one that was signed",
    ),
    "of another session": (
        lambda case: case.agreed(case.changed(session=2, round=ROUND), committee_of(case.network)),
        "round 3 is not the one that was signed",
    ),
}


def outside(network: Network) -> str:
    return next(name for name in network.names if name not in committee_of(network))


@pytest.mark.parametrize(("make", "why"), QUORUMS.values(), ids=list(QUORUMS))
def test_member_refuses_a_quorum(case: Case, make: Callable[[Case], Quorum], why: str) -> None:
    assert case.give(make(case)) is None
    (objection,) = case.network.refusals("quorum")
    assert why in objection
    assert case.give(case.quorum) is not None


def test_home_that_is_no_member_refuses_what_is_for_one(case: Case) -> None:
    name = outside(case.network)
    entrusted = EntrustedShares(run="run", sender="a1", roster=case.proposed.roster, epoch=0, shares={})
    for message in (case.proposed, case.quorum, entrusted):
        assert case.network.tell(name, message) == []
    assert [kind for who, kind, why in case.network.objections if "not in the committee" in why] == [
        "list",
        "quorum",
        "entrusted",
    ]


def test_member_remembers_over_a_restart_what_it_has_signed(case: Case) -> None:
    network, before = case.network, case.give(case.quorum)
    network.kill(case.member)
    network.start(case.member)
    network.run()
    assert case.give(case.quorum) is None, "it has not seen the list since"
    assert case.sign(case.changed(round=ROUND, question="0" * 64)) is None
    assert case.sign(case.changed(round=ROUND - 1)) is None
    assert case.sign(case.proposed) is not None
    assert case.give(case.quorum) == before


def test_member_remembers_over_a_restart_in_which_session_it_has_signed(case: Case) -> None:
    """It has not answered in it, and so does not know of it otherwise."""
    network = case.network
    network.parties[case.member].begin_session(2)
    assert case.sign(case.changed(session=2)) is not None
    network.kill(case.member)
    network.start(case.member)
    network.run()
    assert case.sign(case.changed(round=ROUND + 2)) is None
    assert network.refusals("list")[-1] == "the list is of session 1, this one is 2"


def test_member_remembers_what_it_has_signed_in_another_committee(case: Case) -> None:
    """Otherwise an aggregator goes on to another committee and back, and has two lists signed."""
    network = case.network
    home = next(name for name in network.roster.committee(1) if name in network.roster.committee(0))
    message = network.said(MaskRoster)[-1]
    for epoch in (1, 0, 1):
        network.tell(home, changed(message, epoch=epoch))
        network.tell(home, case.changed(round=ROUND, epoch=epoch, question="0" * 64))
        assert "a second list for round 3" in network.refusals("list")[-1]


def test_masks_do_not_come_off_where_a_list_names_another_question_or_nonce(case: Case) -> None:
    """So that an aggregator that asks one home another price, or for two answers, has nothing of them."""
    true = case.give(case.quorum)
    assert true is not None
    for number, change in enumerate(
        ({"question": "0" * 64}, {"nonces": dict.fromkeys(case.proposed.nonces, "0" * 32)}), start=ROUND + 1
    ):
        other = case.changed(round=number, **change)
        assert case.sign(other) is not None
        given = case.give(case.agreed(other, committee_of(case.network)))
        assert given is not None
        for one, another in zip(true.sums, given.sums, strict=True):
            assert (one.words_array() != another.words_array()).all()


# --- rosters that a home refuses ---


def signed_in(network: Network) -> MaskRoster:
    return network.said(MaskRoster)[-1]


ROSTERS: dict[str, tuple[Callable[[MaskRoster], dict[str, Any]], str]] = {
    "without it": (lambda it: {"homes": it.homes[1:]}, "h00 is not in it with its homes and keys"),
    "with other keys of it": (
        lambda it: {"homes": [it.homes[0].model_copy(update={"signing": "0" * 64}), *it.homes[1:]]},
        "h00 is not in it with its homes and keys",
    ),
    "with keys to seal by that are not its own": (
        lambda it: {"homes": [it.homes[0].model_copy(update={"exchange": "0" * 64}), *it.homes[1:]]},
        "h00 is not in it with its homes and keys",
    ),
    "with other homes behind it": (
        lambda it: {"homes": [it.homes[0].model_copy(update={"homes": 9}), *it.homes[1:]]},
        "h00 is not in it with its homes and keys",
    ),
    "of small groups": (lambda it: {"minimum_group": 5}, "groups of 5 homes or more, agreed are 7"),
    "of other groups": (lambda it: {"minimum_group": 8}, "groups of 8 homes or more, agreed are 7"),
    "of four processes": (
        lambda it: {
            "homes": [each.model_copy(update={"homes": 1 + 5 * (each.name == "h01")}) for each in it.homes[:4]]
        },
        "4 processes, a committee needs 5",
    ),
    "of too few homes": (lambda it: {"homes": it.homes[:6]}, "6 homes, at least 7 are to be in a sum"),
    "of a fourth committee": (lambda it: {"epoch": 3}, "committee 3 of a roster, 2 is the last"),
    "with a key that nobody can seal by": (
        lambda it: {"homes": [*it.homes[:-1], it.homes[-1].model_copy(update={"exchange": "0" * 64})]},
        "the keys of h10 are none",
    ),
    "with keys that nobody vouches for": (
        lambda it: {"homes": [*it.homes[:-1], it.homes[-1].model_copy(update={"name": "x"})]},
        "the keys of x are not believed: unheard of",
    ),
}


@pytest.mark.parametrize(("change", "why"), ROSTERS.values(), ids=list(ROSTERS))
def test_home_refuses_a_roster(change: Callable[[MaskRoster], dict[str, Any]], why: str) -> None:
    vouch: Any = lambda run, aggregator, entry: "unheard of" if entry.name == "x" else None  # noqa: E731
    network = begun(minimum_group=7, vouch=vouch)
    honest = changed(network.said(MaskRoster)[-1], wanted=network.names)
    forged_one = changed(honest, **change(honest))
    assert network.tell("h00", forged_one) == []
    (objection,) = network.refusals("roster")
    assert why in objection
    assert not network.parties["h00"].may_answer(1)
    assert network.tell("h00", honest) and network.parties["h00"].may_answer(1)


def test_home_answers_under_one_roster_a_session() -> None:
    network = begun()
    honest = changed(network.said(MaskRoster)[-1], wanted=network.names)
    smaller = changed(honest, homes=honest.homes[:-1])
    network.tell("h00", smaller)
    network.tell("h00", honest)
    assert not network.objections, "it has not answered yet"
    network.ask(1)
    for restart in (False, True):
        if restart:
            network.kill("h00")
            network.start("h00")
            network.run()
        assert network.tell("h00", smaller) == []
        assert network.refusals("roster")[-1] == "a second roster in session 1"
        masked = network.mask("h00", 2, question_of(2))
        assert masked is not None and masked.roster == honest.digest
    network.parties["h00"].begin_session(2)
    assert network.tell("h00", changed(smaller, session=2))
    masked = network.mask("h00", 3, question_of(3), 2)
    assert masked is not None and masked.roster == smaller.digest


def test_home_that_moves_answers_under_no_roster_of_before_nor_under_another_in_that_session() -> None:
    network = begun()
    network.ask(1)
    party, here = network.parties["h00"], network.said(MaskRoster)[-1]
    (cleared,) = party.move(replace(LINK, coordinator="a2"))
    assert (cleared.topic, cleared.payload) == ("stackelgrid/run/a1/h00/keys", b"")
    assert not party.may_answer(1)
    there = changed(here, sender="a2")
    assert party.receive(there) == [] and network.refusals("roster") == ["a second roster in session 1"]
    party.begin_session(2)
    party.receive(changed(there, session=2))
    assert party.may_answer(2)


def test_number_beyond_the_connection_is_not_masked() -> None:
    network = begun()
    party = network.parties["h00"]
    before = party.remember()
    for beyond in (20.1, -20.1, 1e9, float("nan")):
        with pytest.raises(FixedPointRangeError, match="number 1 of the answer is"):
            party.mask(1, question_of(1), Loads.model_construct(kw=[0.0, beyond, 0.0]))
    assert party.remember() == before
    with pytest.raises(FixedPointRangeError, match=r"at most 4\.29497e\+08 can be masked"):
        write_words(np.array([5e8]), np.array([np.inf]), 4)
    largest = write_words(np.full(1, 4e8), np.full(1, np.inf), 4)
    assert read_numbers(4 * largest) == [1.6e9]


# --- what a collector refuses ---


def test_collector_counts_what_is_no_part_of_its_sums() -> None:
    network, forged_messages = Network(), Counter[str]()

    def add(receiver: str, message: Message) -> Sequence[Message]:
        """Let a forged message come before each honest one."""
        other = next(name for name in network.names if name != message.sender)
        changes: dict[type[Message], list[dict[str, Any]]] = {
            MaskShares: [{"shares": {"h00": "AAAA"}}, {"sender": "x"}],
            ShareReceipt: [{"sender": "x"}],
            ListSignature: [
                {"digest": "0" * 64},
                {"signature": "0" * 128},
                {"sender": other},
                {"sender": "x"},
            ],
        }
        if isinstance(message, MaskSums):
            whole, short = message.sums, [MaskSum.of(0, 0, np.zeros(SLOTS + 1, np.uint64))]
            of_others = next(n for n in range(len(SUBSETS)) if n not in {each.subset for each in whole})
            changes[MaskSums] = [
                {"digest": "0" * 64},
                {"sums": short},
                {"sums": [*whole, MaskSum.of(of_others, 0, np.zeros(SLOTS, np.uint64))]},
                {"sender": "x"},
            ]
        forged_now = [message.model_copy(update=change) for change in changes.get(type(message), [])]
        forged_messages[message.purpose] += len(forged_now)
        return [*forged_now, message]

    network.change = add
    assert isinstance(network.set_up(), SetUp)
    assert len(network.sum_up(1, network.ask(1)).answers) == 2
    refused = network.collector.refused
    assert refused["shares"] and refused["holding"] and refused["signature"] and refused["masks"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"roster": "0" * 64}, "another roster or committee"),
        ({"epoch": 1}, "another roster or committee"),
        ({"homes": 2}, "answers for 2 homes, the roster has 1"),
        ({"shape": [SLOTS, 1]}, "3 words of shape"),
        ({"words": MaskSum.of(0, 0, np.zeros(2, np.uint64)).words}, "2 words of shape"),
        ({"question": "0" * 64}, "another question"),
    ],
)
def test_answer_that_fits_in_no_sum_leaves_its_group_without_one(change: dict[str, Any], why: str) -> None:
    network = begun()
    answers = network.ask(1)
    answers["h05"] = answers["h05"].model_copy(update=change)
    objection = network.collector.find_objection("h05", question_of(1), answers["h05"])
    assert objection is not None and why in objection
    sums = network.sum_up(1, answers)
    assert len(sums.answers) == len(sums.excluded) == 1 and "h05" in network.roster.groups[sums.excluded[0]]
    assert network.collector.find_objection("x", question_of(1), answers["h01"]) == "x is not in the roster"


def test_sum_that_no_connection_carries_is_refused_and_the_last_one_stands() -> None:
    network = begun()
    before = network.sum_up(1, network.ask(1))
    network.collector._check = lambda roster, group, question, body: "too much" if group == "group-1" else None
    sums = network.sum_up(2, network.ask(2))
    assert sums.held == ("group-1",) and sums.answers["group-1"] == before.answers["group-1"]
    assert "too much; it is one of h" in sums.why["group-1"] and network.collector.refused["sum"] == 1
