"""Who takes part in a sum: the processes of one aggregator with their public keys, their groups, their committees.

Everybody derives groups and committees from the roster's digest H alone, so that nobody has to be believed:

- the committee of epoch e: the five names with the least SHA-256(H, e, name);
- the groups: all names by SHA-256(H, "group", name), cut into as many parts as have the minimum of homes. A process
  says itself how many homes are behind it. So that none fills a group alone, it counts for a quarter of the minimum at
  most.

The ten subsets are those of three of the five members; each home shares a key with each of them. Two members may be
missing: one of every three is still there. Two members who tell each other all they know miss one of the keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from stackelgrid.wire.masks import COMMITTEE, MaskEntry, MaskRoster

MISSING = 2
"""So many members may be missing when masks are summed."""
SUBSETS = tuple(combinations(range(COMMITTEE), MISSING + 1))
QUORUM = 4
"""So many members have to sign the same list: any two quorums share three, one more than may be hostile."""
MOST_EPOCHS = 3
"""A roster has so many committees, so that nobody tries until one pleases."""
_LARGEST_SHARE = 4
"""A process counts for at most this part of the least group: it takes four of them to make one."""


@dataclass(frozen=True)
class Roster:
    """The parties of the sums of one aggregator: `parties` by name, groups of at least `minimum_group` homes."""

    run: str
    aggregator: str
    digest: str
    minimum_group: int
    parties: Mapping[str, MaskEntry]

    @classmethod
    def of(cls, message: MaskRoster) -> Roster:
        """Read the roster of a message."""
        parties = {entry.name: entry for entry in message.homes}
        return cls(message.run, message.sender, message.digest, message.minimum_group, parties)

    @property
    def homes(self) -> int:
        """The number of homes."""
        return sum(party.homes for party in self.parties.values())

    def find_objection(self) -> str | None:
        """Give the reason why no sums can be private with this roster, or None."""
        if len(self.parties) < COMMITTEE:
            return f"{len(self.parties)} processes, a committee needs {COMMITTEE}"
        if self._weigh(self.parties) < self.minimum_group:
            shares = "" if self.homes < self.minimum_group else ", of which a process counts for a quarter at most"
            least = f"at least {self.minimum_group} are to be in a sum (privacy.minimum_group)"
            return f"{self.homes} homes, {least}{shares}"
        return None

    def committee(self, epoch: int) -> tuple[str, ...]:
        """Give the names of the committee of an epoch, in the order in which subsets count them."""
        return tuple(sorted(self.parties, key=lambda name: self._hash(str(epoch), name))[:COMMITTEE])

    @cached_property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """The names of each group, by the name of the group."""
        whole = self._weigh(self.parties)
        wanted = max(whole // self.minimum_group, 1)
        parts: list[list[str]] = [[]]
        for name in sorted(self.parties, key=lambda name: self._hash("group", name)):
            if self._weigh(parts[-1]) >= whole / wanted:
                parts.append([])
            parts[-1].append(name)
        while len(parts) > 1 and (short := next((p for p in parts if self._weigh(p) < self.minimum_group), None)):
            parts.remove(short)
            min(parts, key=self._weigh).extend(short)
        return {f"group-{number}": tuple(part) for number, part in enumerate(parts, 1)}

    def count_homes(self, group: str) -> int:
        """Count the homes of a group."""
        return sum(self.parties[name].homes for name in self.groups[group])

    def find_group(self, name: str) -> str:
        """Find the group that a process is in."""
        return next(group for group, names in self.groups.items() if name in names)

    def _weigh(self, names: Iterable[str]) -> int:
        return weigh((self.parties[name].homes for name in names), self.minimum_group)

    def _hash(self, *words: str) -> bytes:
        return hashlib.sha256("\0".join((self.digest, *words)).encode()).digest()

    # --- contexts: what a key, a box or a mask is for ---

    def of_subset(self, epoch: int, subset: int) -> bytes:
        """Give the context of the key that a home shares with a subset."""
        return self._context("key", epoch, subset)

    def of_box(self, epoch: int, home: str, member: str) -> bytes:
        """Give the context of the box in which a home seals its keys for a member."""
        return self._context("box", epoch, home, member)

    def of_commitment(self, epoch: int, home: str) -> bytes:
        """Give the context of the commitments to the keys that a home shares with the subsets."""
        return self._context("commitment", epoch, home)

    def of_mask(self, epoch: int, session: int, answer_round: int, question: str, nonce: str, home: str) -> bytes:
        """Give the context of the mask of one answer to a question, which its digest names."""
        return self._context("mask", epoch, session, answer_round, question, nonce, home)

    def _context(self, *words: object) -> bytes:
        return "\0".join(map(str, ("stackelgrid", self.run, self.aggregator, self.digest, *words))).encode()


def weigh(homes: Iterable[int], minimum_group: int) -> int:
    """Count the homes of processes that have so many each, of none more than a quarter of the least group."""
    most = minimum_group // _LARGEST_SHARE
    return sum(min(number, most) for number in homes)


def list_subsets(seat: int) -> list[int]:
    """List the numbers of the subsets that the member on a seat of the committee belongs to."""
    return [number for number, subset in enumerate(SUBSETS) if seat in subset]
