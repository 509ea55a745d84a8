"""Promises about private sums: what members of committees have given is held against what homes had under their masks.

As in `promises`, each has a function from the evidence to its violations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from stackelgrid import registry
from stackelgrid.faults.plan import Corruption, Crash, Lie
from stackelgrid.masks.fixed_point import read_numbers
from stackelgrid.masks.roster import Roster
from stackelgrid.soak.play import Evidence, SentMessage
from stackelgrid.soak.timeline import SeenRound
from stackelgrid.wire.masks import MaskList, MaskRoster

_OF_MASKS = ("masks", "shares", "lists")
"""Lies that leave answers as they are."""


def find_second_lists(evidence: Evidence) -> Iterator[str]:
    """A member gives masks for one list a round, whatever its committee, and all of a committee for the same."""
    by_member: dict[tuple[str, str, int, int], str] = {}
    by_committee: dict[tuple[str, int, int, str, int], str] = {}
    lists = _read_lists(evidence)
    for message in _sent(evidence, "masks"):
        about, digest = message.about, message.content["digest"]
        of_round = about.session, about.round or 0
        if by_member.setdefault((about.coordinator, message.sender, *of_round), digest) != digest:
            yield f"{message.sender} gives masks for two lists of round {about.round}, at {message.seconds:.3f} s"
        listed = lists.get(digest)
        if listed is None:
            continue
        committee = listed.roster, listed.epoch
        if by_committee.setdefault((about.coordinator, *of_round, *committee), digest) != digest:
            yield f"a committee gives masks for two lists of round {about.round}, at {message.seconds:.3f} s"


def find_small_sums(evidence: Evidence) -> Iterator[str]:
    """Sums of masks are of whole groups with the least number of homes, of answers to one question of that round."""
    lists, rosters = _read_lists(evidence), _read_rosters(evidence)
    least = evidence.case.scenario.privacy.minimum_group
    for message in _sent(evidence, "masks"):
        where = f"{message.sender} at {message.seconds:.3f} s"
        listed = lists.get(message.content["digest"])
        if listed is None:
            yield f"{where} gives masks for a list that nobody has sent"
            continue
        roster = rosters[listed.roster]
        groups = list(roster.groups)
        for number in {each["group"] for each in message.content["sums"]}:
            names = roster.groups[groups[number]]
            if roster.count_homes(groups[number]) < least:
                yield f"{where} gives masks of {roster.count_homes(groups[number])} homes, the least is {least}"
            if missing := [name for name in names if name not in listed.nonces]:
                yield f"{where} gives masks of a group without {missing}"
        answers = [evidence.masked[nonce] for nonce in listed.nonces.values() if nonce in evidence.masked]
        if {(each.round, each.question) for each in answers} - {(listed.round, listed.question)}:
            yield f"{where} gives masks of answers to several questions"


def find_wrong_sums(evidence: Evidence) -> Iterator[str]:
    """A sum is, bit for bit, that of what its homes had under their masks.

    Not where a home lied about its numbers or a link changed a message. A member that lies, while others are missing,
    is not always outvoted; alone it is.
    """
    if not evidence.case.private:
        return
    lies = [fault for fault, _ in evidence.faults if isinstance(fault, Lie)]
    alone = all(isinstance(fault, Lie) for fault in evidence.case.plan.faults) and len({lie.node for lie in lies}) == 1
    about_numbers = any(lie.how not in _OF_MASKS for lie in lies)
    if about_numbers or any(isinstance(fault, Corruption) for fault, _ in evidence.faults):
        return
    if any(lie.how == "masks" for lie in lies) and not alone:
        return
    rosters = _read_rosters(evidence)
    form = registry.find(evidence.case.scenario.game).load("masked")
    for aggregator in evidence.case.scenario.topology.aggregators:
        finished: Mapping[str, Any] = {}
        for entry in evidence.ledgers.get(aggregator, []):
            finished = entry if "number" in entry else finished
            sums = entry.get("sums")
            for group in set(sums["answers"]) - set(sums["held"]) if sums else ():
                answers = finished["answers"]
                roster = next(
                    rosters[answer["roster"]] for answer in answers.values() if answer["round"] == finished["number"]
                )
                nonces = [answers[name]["nonce"] for name in roster.groups[group]]
                total = np.array([evidence.masked[nonce].plain for nonce in nonces]).sum(axis=0)
                shape = tuple(answers[roster.groups[group][0]]["shape"])
                expected = form.read(read_numbers(total), shape, roster.count_homes(group)).model_dump(mode="json")
                if sums["answers"][group] != expected:
                    yield f"{aggregator} round {finished['number']}: the sum of {group} is not that of its homes"


def find_reused_masks(evidence: Evidence) -> Iterator[str]:
    """No two answers have the same mask, and none of a home has two rosters in a session."""
    masks: dict[bytes, str] = {}
    rosters: dict[tuple[str, str, int], str] = {}
    forgot = {node for fault, node in evidence.faults if isinstance(fault, Crash) and fault.lose_state}
    for nonce, masked in evidence.masked.items():
        if masks.setdefault((masked.words - masked.plain).tobytes(), nonce) != nonce:
            yield f"{masked.home} uses a mask twice, the second time in round {masked.round}"
        of_session = masked.home, masked.aggregator, masked.session
        if masked.home not in forgot and rosters.setdefault(of_session, masked.roster) != masked.roster:
            yield f"{masked.home} answers under two rosters in session {masked.session}"


def find_unable(evidence: Evidence, seen: SeenRound) -> set[str]:
    """Name the members that cannot mask an answer to a round: not in its roster, or back with other keys."""
    members = set(evidence.case.scenario.topology.members.get(seen.coordinator, ()))
    answers = [answer for answer in seen.entry["answers"].values() if answer.get("round") == seen.number]
    if not answers:
        return members
    roster = _read_rosters(evidence)[answers[0]["roster"]]
    forgot = {node for fault, node in evidence.faults if isinstance(fault, Crash) and fault.lose_state}
    return members - (roster.parties.keys() - forgot)


def list_asked_again(evidence: Evidence) -> list[str]:
    """List the aggregators that asked their homes in a round of which there was no sum."""
    if not evidence.case.private:
        return []
    ledgers = {name: evidence.ledgers.get(name, []) for name in evidence.case.scenario.topology.aggregators}
    return [
        name
        for name, entries in ledgers.items()
        if sum("number" in entry for entry in entries) > sum("sums" in entry for entry in entries)
    ]


def _sent(evidence: Evidence, purpose: str) -> Iterator[SentMessage]:
    return (message for message in evidence.messages if message.purpose == purpose and message.payload)


def _read_lists(evidence: Evidence) -> dict[str, MaskList]:
    """Read all lists that aggregators have sent, by their digests."""
    found = (MaskList.model_validate_json(message.payload) for message in _sent(evidence, "list"))
    return {each.digest: each for each in found}


def _read_rosters(evidence: Evidence) -> dict[str, Roster]:
    """Read all rosters that aggregators have sent, by their digests."""
    found = (MaskRoster.model_validate_json(message.payload) for message in _sent(evidence, "committee"))
    return {each.digest: Roster.of(each) for each in found}
