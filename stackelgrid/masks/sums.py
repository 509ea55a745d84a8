"""The aggregator's part in private sums: bring a roster about, and have the masks of each round's answers summed.

To set up, it collects public keys, sends the roster to all, collects what each home has sealed for the committee,
passes that on, and waits until the members hold it. Of a finished round it sends the members the list of the answers
to its question, of the groups of which all have answered, collects signatures until a quorum has signed the same, sends
these, and collects sums of masks. A group of which somebody has not answered keeps its last sum: one that nearly all
are in would tell of the others. Where the committee does not answer, the next one by rule takes its place, and the
question has to be asked again, in another round, since masks belong to a committee.

No step waits longer than `tries` deadlines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal

import numpy as np

from stackelgrid.masks.fixed_point import read_numbers
from stackelgrid.masks.form import MaskedForm, Words
from stackelgrid.masks.keys import has_signed, is_exchange_key
from stackelgrid.masks.party import Vouch
from stackelgrid.masks.roster import MISSING, MOST_EPOCHS, QUORUM, SUBSETS, Roster, list_subsets
from stackelgrid.masks.shares import have_one_commitment
from stackelgrid.transport.base import FetchRetained, Publish
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
    decode_words,
    digest_question,
)
from stackelgrid.wire.messages import Body, Message


@dataclass(frozen=True)
class SumSettings:
    """The least group, how long a step waits per try and how often it tries, and who vouches for keys."""

    minimum_group: int
    deadline_s: float
    tries: int
    vouch: Vouch = lambda run, aggregator, entry: None


@dataclass(frozen=True, slots=True)
class SetUp:
    """Event: homes may be asked. `groups` are those of the roster, each with its number of homes.

    The roster is a new one, or one that was `kept` from the session before.
    """

    groups: Mapping[str, int]
    kept: bool = False


@dataclass(frozen=True, slots=True)
class SetUpFailed:
    """Event: there can be no private sums in this session, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class CommitteeReplaced:
    """Event: the committee did not answer. The next is set up; after `SetUp` the question is to be asked anew."""

    epoch: int


@dataclass(frozen=True)
class GroupSums:
    """Event: the sums of a round. `answers` are bodies by group, those in `held` of an earlier round.

    Groups in `excluded` have none, for the reasons in `why`, as those that are held have.
    """

    answers: dict[str, Body]
    held: tuple[str, ...]
    excluded: tuple[str, ...]
    why: Mapping[str, str]


Step = Publish | FetchRetained | SetUp | SetUpFailed | CommitteeReplaced | GroupSums
GroupCheck = Callable[[Roster, str, Body, Body], str | None]
"""From roster, group, question and the body of its sum to the reason why the sum is refused, or None."""


@dataclass
class _Wait:
    """A step that waits for messages: until when, and how often it was asked for."""

    until: float
    tries: int = 1


@dataclass
class _Setting:
    """The setting up of a roster: which step it is at, the shares and receipts so far."""

    step: Literal["keys", "shares", "receipts"]
    wait: _Wait
    shares: dict[str, Mapping[str, str]] = field(default_factory=dict)
    receipts: dict[str, frozenset[str]] = field(default_factory=dict)


@dataclass
class _Summing:
    """The summing of one round: the list, its signatures and sums of masks so far."""

    question: Body
    answers: Mapping[str, MaskedAnswer]
    proposed: MaskList
    summed: tuple[str, ...]
    why: dict[str, str]
    wait: _Wait
    signatures: dict[str, str] = field(default_factory=dict)
    has_quorum: bool = False
    sums: dict[str, dict[tuple[int, int], str]] = field(default_factory=dict)


class SumCollector:
    """The aggregator's part: `check` holds the sum of a group against what its connections carry.

    It is told the session and who is there, then each finished round; messages and clock readings bring it on, as they
    do a `Coordinator`. What it refuses is counted in `refused` by kind, and said to `object_to` in words.
    """

    def __init__(
        self,
        link: Link,
        form: MaskedForm,
        settings: SumSettings,
        check: GroupCheck,
        object_to: Callable[[str, str], None] = lambda kind, detail: None,
    ) -> None:
        self.link = link
        self._form, self._settings, self._check, self._object_to = form, settings, check, object_to
        self._session = 0
        self._keys: dict[str, MaskEntry] = {}  # of all members that have published theirs
        self._there: Mapping[str, int] = {}  # who is there, with how many homes
        self._roster: Roster | None = None
        self._message: MaskRoster | None = None
        self._dropped: dict[str, str] = {}  # those who are in no roster of this session, and why
        self._setting: _Setting | None = None
        self._summing: _Summing | None = None
        self._is_bound = False  # homes may have answered under the roster in this session, and answer under no other
        self._has_failed = False  # none of its committees has answered
        self._keyless: frozenset[str] = frozenset()  # those of whose masks the committee has too few keys
        self._shares: Mapping[str, Mapping[str, str]] = {}  # what each home has sealed for the committee, by member
        self._latest: dict[str, Body] = {}
        self.refused: Counter[str] = Counter()
        self._messages = self._bytes = 0

    # --- what a restart must not lose ---

    @property
    def roster(self) -> Roster | None:
        """The roster in force, None before the first is set up."""
        return self._roster if self._setting is None else None

    @property
    def is_set_up(self) -> bool:
        """Tell whether homes may be asked in this session."""
        return self._roster is not None and self._setting is None and not self._has_failed and self._session > 0

    def remember(self) -> dict[str, Any]:
        """Give the roster in force, as JSON, for a ledger."""
        assert self._message is not None
        roster = self._message.model_dump(mode="json", by_alias=True)
        shares = {home: dict(sealed) for home, sealed in self._shares.items()}
        return {**self.remember_session(), "roster": roster, "shares": shares, "keyless": sorted(self._keyless)}

    def remember_session(self) -> dict[str, Any]:
        """Give the same where the roster is still the one that was given before."""
        return {"session": self._session, "dropped": dict(self._dropped)}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Take over what `remember` or `remember_session` gave."""
        if "roster" in memory:
            self._message = MaskRoster.model_validate(memory["roster"])
            self._roster, self._shares = Roster.of(self._message), memory["shares"]
            self._keyless = frozenset(memory["keyless"])
        self._session, self._dropped = memory["session"], dict(memory["dropped"])
        self._is_bound = True
        self._latest.clear()

    def recall_sums(self, sums: GroupSums) -> None:
        """Take over the sums of a round that was finished before a restart."""
        self._latest.update(sums.answers)

    # --- setting up ---

    def start(self) -> list[Step]:
        """Send again what is in force, after each connection: a broker may have lost it, and homes with it."""
        if self._message is None:
            return []
        in_force = self._setting is None or self._setting.step == "receipts"
        shares = [self._send_shares(member) for member in self._committee] if in_force else []
        return [self._send_roster(), *shares]

    def leave(self) -> list[Publish]:
        """Clear what is retained for the members, by whichever start of this node."""
        cleared = [f"{self.link.root}/{MaskRoster.purpose}"]
        cleared += [f"{self.link.root}/{member}/{EntrustedShares.purpose}" for member in sorted(self._keys)]
        return [Publish(topic, b"", qos=1, retain=True) for topic in cleared]

    def note_keys(self, message: MaskKeys) -> list[Step]:
        """Take the public keys of a member, which come before it is asked for them, and after each of its starts."""
        self._keys[message.sender] = message.entry
        setting = self._setting
        return self._send_roster_if_complete() if setting is not None and setting.step == "keys" else []

    def set_up(self, session: int, there: Mapping[str, int], now: float) -> list[Step]:
        """Begin a session with the members that are there, each with the number of homes that it is registered with.

        Where these are those of the roster in force, it holds. In a session that has begun, and in which no committee
        has answered, begin again with the first of them.
        """
        if session == self._session and self._is_bound and self._message is not None:
            return [] if self._setting is not None else self._count(self._ask_for_shares(0, now))
        self._is_bound = self._has_failed = False
        self._session, self._there, self._dropped = session, dict(there), {}
        self._summing = None
        self._latest.clear()
        if self._setting is None and self._roster is not None and self._holds(self._roster):
            return [replace(self._announce(), kept=True)]
        self._setting = _Setting("keys", self._wait(now))
        return self._count(self._send_roster_if_complete())

    def _holds(self, roster: Roster) -> bool:
        """Tell whether a roster is of those who are there, with the keys they have now, and has its first committee."""
        known = all(self._keys.get(name, party).public == party.public for name, party in roster.parties.items())
        of_roster = {name: party.homes for name, party in roster.parties.items()}
        if not known or of_roster != self._there or self._epoch > 0 or self._keyless:
            return False
        return all(self._vouch(party) is None for party in roster.parties.values())  # certificates expire

    def explain_missing(self, members: Iterable[str]) -> dict[str, str]:
        """Say of each of `members` that cannot answer under the roster in force why; it may in another session."""
        assert self._roster is not None
        why = {}
        for name in members:
            party = self._roster.parties.get(name)
            if party is None:
                why[name] = self._dropped.get(name, "was not there when masks were set up")
            elif self._keys.get(name, party).public != party.public:
                why[name] = "has come back with other keys than masks were set up with"
        return why

    def _vouch(self, entry: MaskEntry) -> str | None:
        """Give the reason why the keys of a member are not believed, or None."""
        if not is_exchange_key(entry.exchange):
            return "nobody can seal by them"
        return self._settings.vouch(self.link.run, self.link.coordinator, entry)

    def _announce(self) -> SetUp:
        assert self._roster is not None
        self._setting, self._is_bound = None, True
        return SetUp({group: self._roster.count_homes(group) for group in self._roster.groups})

    def _send_roster_if_complete(self) -> list[Step]:
        missing = [name for name in self._there if name not in self._keys]
        return [] if missing else self._send_new_roster()

    def _send_new_roster(self) -> list[Step]:
        """Send a roster of those whose keys have come and are believed."""
        assert self._setting is not None
        believed = []
        for name in self._there:
            if name in self._dropped:
                continue
            if name not in self._keys:
                self._dropped[name] = "has sent no keys for masks"
            elif self._keys[name].homes != self._there[name]:
                said = f"says that it has {self._keys[name].homes} homes, registered are {self._there[name]}"
                self._dropped[name] = said
                self._refuse("keys", f"{name} {said}")
            elif reason := self._vouch(self._keys[name]):
                self._dropped[name] = f"its keys are not believed: {reason}"
                self._refuse("keys", f"{name}: {reason}")
            else:
                believed.append(self._keys[name])
        if not believed:
            return self._fail("no member has sent keys that are believed")
        message = MaskRoster(
            run=self.link.run,
            sender=self.link.coordinator,
            session=self._session,
            minimum_group=self._settings.minimum_group,
            epoch=0,
            homes=believed,
        )
        roster = Roster.of(message)
        if reason := roster.find_objection():
            return self._fail(reason)
        self._roster, self._message = roster, message
        self._setting = _Setting("shares", _Wait(self._setting.wait.until))
        return [self._send_roster()]

    def _send_roster(self) -> Publish:
        """Send the roster, and say whose shares are wanted."""
        assert self._message is not None and self._roster is not None
        setting, wanted = self._setting, []
        if setting is not None and setting.step == "shares":
            wanted = [name for name in self._roster.parties if name not in setting.shares]
        message = self._message.model_copy(update={"wanted": wanted})
        return Publish(self.link.topic(message), self.link.write(message), qos=1, retain=True)

    def _fail(self, reason: str) -> list[Step]:
        self._setting = self._roster = self._message = None
        return [SetUpFailed(reason)]

    def _on_shares(self, message: MaskShares, now: float) -> list[Step]:
        setting, roster = self._setting, self._roster
        if setting is None or roster is None or setting.step != "shares" or not self._is_current(message):
            return []
        if message.sender not in roster.parties or set(message.shares) != set(roster.committee(self._epoch)):
            self._refuse("shares", f"{message.sender} has sealed nothing for the committee of the roster")
            return []
        if not have_one_commitment(message.shares.values()):
            self._refuse("shares", f"{message.sender} has sealed other keys for one member than for another")
            return []
        setting.shares[message.sender] = message.shares
        return self._entrust(now) if setting.shares.keys() == roster.parties.keys() else []

    def _entrust(self, now: float) -> list[Step]:
        assert self._setting is not None
        self._setting.step, self._setting.wait = "receipts", self._wait(now)
        self._shares = self._setting.shares
        return [self._send_roster(), *(self._send_shares(member) for member in self._committee)]

    def _send_shares(self, member: str) -> Publish:
        assert self._roster is not None
        message = EntrustedShares(
            run=self.link.run,
            sender=self.link.coordinator,
            session=self._session,
            roster=self._roster.digest,
            epoch=self._epoch,
            shares={home: shares[member] for home, shares in self._shares.items()},
        )
        return Publish(self.link.topic(message, member), self.link.write(message), qos=1, retain=True)

    def _on_receipt(self, message: ShareReceipt, now: float) -> list[Step]:
        setting = self._setting
        if setting is None or setting.step != "receipts" or not self._is_current(message):
            return []
        if message.sender not in self._committee:
            self._refuse("holding", f"{message.sender} is not in the committee")
            return []
        setting.receipts[message.sender] = frozenset(message.missing)
        return self._finish_receipts(now) if len(setting.receipts) == len(self._committee) else []

    def _finish_receipts(self, now: float) -> list[Step]:
        """Go on with the members that hold the keys; without a home of whose keys too many members have got none."""
        assert self._setting is not None and self._roster is not None
        receipts = self._setting.receipts
        complaints = Counter(home for missing in receipts.values() for home in missing)
        keyless = {home for home, count in complaints.items() if count > MISSING and home in self._roster.parties}
        if keyless and not self._is_bound:
            self._dropped |= dict.fromkeys(sorted(keyless), "the committee cannot open what it has sealed")
            self._setting = _Setting("shares", self._wait(now))
            return self._send_new_roster()
        self._keyless = frozenset(keyless)
        return self._replace_committee(now) if len(receipts) < QUORUM else [self._announce()]

    def _on_setting_deadline(self, setting: _Setting, now: float) -> list[Step]:
        last, setting.wait = setting.wait.tries >= self._settings.tries, self._wait(now, setting.wait.tries + 1)
        assert self._roster is not None or setting.step == "keys"
        match setting.step:
            case "keys":
                return self._send_new_roster() if last else [FetchRetained()]
            case "shares" if last:
                return self._go_on_without_shares(setting, now)
            case "shares":
                return [self._send_roster()]
            case "receipts" if last:
                return self._finish_receipts(now)
            case "receipts":
                return [self._send_shares(name) for name in self._committee if name not in setting.receipts]

    def _go_on_without_shares(self, setting: _Setting, now: float) -> list[Step]:
        """Go on without those whose shares have not come.

        Once homes may have answered under the roster it stays, and there are no sums of the groups of the silent ones.
        """
        assert self._roster is not None
        if self._is_bound:
            return self._entrust(now)
        silent = sorted(self._roster.parties.keys() - setting.shares.keys())
        self._dropped |= dict.fromkeys(silent, "has sealed nothing for the committee")
        setting.wait = self._wait(now)
        return self._send_new_roster()

    def _replace_committee(self, now: float) -> list[Step]:
        """Set up the next committee of the same roster."""
        self._summing = None
        if self._epoch + 1 >= MOST_EPOCHS:
            self._setting, self._has_failed = None, True
            return [SetUpFailed(f"{MOST_EPOCHS} committees did not answer")]
        return [CommitteeReplaced(self._epoch + 1), *self._ask_for_shares(self._epoch + 1, now)]

    def _ask_for_shares(self, epoch: int, now: float) -> list[Step]:
        """Set up a committee of the roster in force."""
        assert self._message is not None
        self._has_failed = False
        self._message = self._message.model_copy(update={"epoch": epoch, "session": self._session})
        self._setting = _Setting("shares", self._wait(now))
        return [self._send_roster()]

    # --- the sums of a round ---

    def open(self, number: int, question: Body, answers: Mapping[str, MaskedAnswer], now: float) -> list[Step]:
        """Have the sums of a round made from the answers to its question, of the groups of which all have answered."""
        roster = self._roster
        assert roster is not None and self.is_set_up
        shape, digest = self._form.shape(question), digest_question(question)
        counted = {
            name: answer
            for name, answer in answers.items()
            if answer.round == number and self.find_objection(name, question, answer) is None
        }
        why = {}
        for group, names in roster.groups.items():
            missing = [name for name in names if name not in counted]
            keyless = [name for name in names if name in self._keyless]
            if missing:
                why[group] = f"{len(missing)} of {len(names)} processes have not answered, {missing[0]} the first"
            elif keyless:
                why[group] = f"the committee has no keys of {', '.join(keyless)}"
        summed = tuple(group for group in roster.groups if group not in why)
        if not summed:
            return [self._conclude({}, why)]
        listed = {name: counted[name] for group in summed for name in roster.groups[group]}
        proposed = MaskList(
            run=self.link.run,
            sender=self.link.coordinator,
            session=self._session,
            roster=roster.digest,
            epoch=self._epoch,
            round=number,
            question=digest,
            shape=list(shape),
            nonces={name: answer.nonce for name, answer in listed.items()},
        )
        self._summing = _Summing(question, listed, proposed, summed, why, self._wait(now))
        return self._count([self._send(proposed, member) for member in self._committee])

    def find_objection(self, name: str, question: Body, answer: MaskedAnswer) -> str | None:
        """Give the reason why the masked answer of a member to a question has no place in a sum, or None."""
        roster, shape = self._roster, self._form.shape(question)
        if roster is None or name not in roster.parties:
            return f"{name} is not in the roster"
        if (answer.roster, answer.epoch) != (roster.digest, self._epoch):
            return "its mask is of another roster or committee"
        if answer.homes != roster.parties[name].homes:
            return f"{name} answers for {answer.homes} homes, the roster has {roster.parties[name].homes}"
        if tuple(answer.shape) != shape or len(answer.words_array()) != self._form.count(shape):
            return f"{len(answer.words_array())} words of shape {answer.shape}, asked was {list(shape)}"
        return None if answer.question == digest_question(question) else "it answers another question of this round"

    def abandon(self) -> None:
        """Drop the round whose sums are under way: they are wanted no longer."""
        self._summing = None

    def receive(self, message: Message, now: float, size: int = 0) -> list[Step]:
        """Take a message of a member about masks, of `size` bytes."""
        if self._setting is not None or self._summing is not None:
            self._messages += 1
            self._bytes += size
        return self._count(self._receive(message, now))

    def _receive(self, message: Message, now: float) -> list[Step]:
        match message:
            case MaskKeys():
                return self.note_keys(message)
            case MaskShares():
                return self._on_shares(message, now)
            case ShareReceipt():
                return self._on_receipt(message, now)
            case ListSignature():
                return self._on_signature(message, now)
            case MaskSums():
                return self._on_sums(message, now)
        return []

    def next_deadline(self) -> float | None:
        """Give the time at which to call `tick`, or None."""
        under_way = self._setting or self._summing
        return None if under_way is None else under_way.wait.until

    def tick(self, now: float) -> list[Step]:
        """Ask again, or go on without those who do not answer, once the deadline has passed."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return []
        if self._setting is not None:
            return self._count(self._on_setting_deadline(self._setting, now))
        assert self._summing is not None
        return self._count(self._on_summing_deadline(self._summing, now))

    def _on_signature(self, message: ListSignature, now: float) -> list[Step]:
        summing, roster = self._summing, self._roster
        if summing is None or roster is None or message.round != summing.proposed.round:
            return []
        proposed, sender = summing.proposed, message.sender
        if sender not in self._committee or message.digest != proposed.digest:
            self._refuse("signature", f"that of {sender} is not of the list, or it is not in the committee")
            return []
        if not has_signed(roster.parties[sender].signing, proposed.signed_bytes(), message.signature):
            self._refuse("signature", f"that of {sender} is not by its key")
            return []
        summing.signatures[sender] = message.signature
        if summing.has_quorum or len(summing.signatures) < QUORUM:
            return [self._send_quorum(summing, sender)] if summing.has_quorum and sender not in summing.sums else []
        summing.has_quorum, summing.wait = True, self._wait(now)
        return [self._send_quorum(summing, member) for member in summing.signatures]

    def _send_quorum(self, summing: _Summing, member: str) -> Publish:
        quorum = Quorum(
            run=self.link.run,
            sender=self.link.coordinator,
            session=self._session,
            round=summing.proposed.round,
            digest=summing.proposed.digest,
            signatures=summing.signatures,
        )
        return self._send(quorum, member)

    def _on_sums(self, message: MaskSums, now: float) -> list[Step]:
        summing = self._summing
        if summing is None or message.round != summing.proposed.round:
            return []
        if message.digest != summing.proposed.digest or not self._may_give(message, summing):
            self._refuse("masks", f"those of {message.sender} are not what it was asked for")
            return []
        summing.sums[message.sender] = {(each.subset, each.group): each.words for each in message.sums}
        all_there = summing.sums.keys() >= summing.signatures.keys()
        return self._finish_sums(summing, agreeing=1 if all_there else 2) or []

    def _may_give(self, message: MaskSums, summing: _Summing) -> bool:
        """Tell whether the sums of masks are of subsets that the sender is in, and each of as many numbers as asked."""
        if message.sender not in self._committee:
            return False
        own = list_subsets(self._committee.index(message.sender))
        count = self._form.count(tuple(summing.proposed.shape))
        return all(each.subset in own and len(each.words_array()) == count for each in message.sums)

    def _on_summing_deadline(self, summing: _Summing, now: float) -> list[Step]:
        last, summing.wait = summing.wait.tries >= self._settings.tries, self._wait(now, summing.wait.tries + 1)
        if summing.has_quorum and (found := self._finish_sums(summing, agreeing=1)):
            return found
        if last:
            return self._replace_committee(now)
        unsigned = [name for name in self._committee if name not in summing.signatures]
        silent = [name for name in summing.signatures if name not in summing.sums]
        asked: list[Step] = [self._send(summing.proposed, member) for member in unsigned]
        if summing.has_quorum:  # a member that was restarted has to see the list again
            asked += [self._send(summing.proposed, member) for member in silent]
            asked += [self._send_quorum(summing, member) for member in silent]
        return asked

    def _finish_sums(self, summing: _Summing, agreeing: int) -> list[Step]:
        """Take the masks off once so many sums of each subset agree, and more than of any others; else give nothing."""
        assert self._roster is not None
        groups = list(self._roster.groups)
        chosen: dict[tuple[int, int], str] = {}
        for key in product(range(len(SUBSETS)), map(groups.index, summing.summed)):
            found = Counter(sums[key] for sums in summing.sums.values() if key in sums).most_common(2)
            if not found or found[0][1] < agreeing or (len(found) > 1 and found[1][1] == found[0][1]):
                return []
            chosen[key] = found[0][0]
        self._summing = None
        for member, sums in summing.sums.items():
            if any(chosen.get(key, words) != words for key, words in sums.items()):
                self._refuse("masks", f"those of {member} are others than most members give")
        bodies = {}
        for group in summing.summed:
            masks = [decode_words(chosen[subset, groups.index(group)]) for subset in range(len(SUBSETS))]
            bodies[group] = self._read(summing, group, masks)
        return [self._conclude(bodies, summing.why, summing.question)]

    def _read(self, summing: _Summing, group: str, masks: Sequence[Words]) -> Body:
        """Read the body of a group's sum, from which the masks of each subset are taken."""
        assert self._roster is not None
        answers = [summing.answers[name].words_array() for name in self._roster.groups[group]]
        total = np.sum(answers, axis=0) - np.sum(masks, axis=0)
        shape = tuple(summing.proposed.shape)
        return self._form.read(read_numbers(total), shape, self._roster.count_homes(group))

    def _conclude(self, bodies: Mapping[str, Body], why: dict[str, str], question: Body | None = None) -> GroupSums:
        """Give the sums that are within what connections carry; for other groups an earlier one stands, if there is."""
        assert self._roster is not None
        good = {}
        for group, body in bodies.items():
            assert question is not None
            reason = self._check(self._roster, group, question, body)
            if reason is None:
                good[group] = body
            else:
                self._refuse("sum", reason)
                why[group] = f"{reason}; it is one of {', '.join(self._roster.groups[group])}"
        self._latest.update(good)
        answers = {group: self._latest[group] for group in self._roster.groups if group in self._latest}
        held = tuple(group for group in answers if group not in good)
        excluded = tuple(group for group in self._roster.groups if group not in answers)
        return GroupSums(answers, held, excluded, why)

    # --- both ---

    def take_traffic(self) -> tuple[int, int]:
        """Take the numbers of messages and of their bytes since this was last asked, to set up and to sum."""
        taken = self._messages, self._bytes
        self._messages = self._bytes = 0
        return taken

    def _count(self, steps: list[Step]) -> list[Step]:
        sent = [len(step.payload) for step in steps if isinstance(step, Publish)]
        self._messages += len(sent)
        self._bytes += sum(sent)
        return steps

    def _refuse(self, kind: str, detail: str) -> None:
        self.refused[kind] += 1
        self._object_to(kind, detail)

    @property
    def _epoch(self) -> int:
        assert self._message is not None
        return self._message.epoch

    @property
    def _committee(self) -> tuple[str, ...]:
        assert self._roster is not None
        return self._roster.committee(self._epoch)

    def _is_current(self, message: MaskShares | ShareReceipt) -> bool:
        assert self._roster is not None
        return (message.roster, message.epoch) == (self._roster.digest, self._epoch)

    def _wait(self, now: float, tries: int = 1) -> _Wait:
        return _Wait(now + self._settings.deadline_s, tries)

    def _send(self, message: MaskList | Quorum, member: str) -> Publish:
        return Publish(self.link.topic(message, member), self.link.write(message), qos=1)
