"""What a home seals for the members of a committee: to each the keys of its subsets, to all one commitment.

A share is the commitment, 32 bytes, and a box. In the box are the commitments to the keys of all ten subsets, whose
digest the first one is, and the six keys of this member. So all members have the same keys of a home, or know that they
have not. Otherwise one home that gives each another key makes the sums of honest members disagree, those of all groups
and in each round, and nobody learns who it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from stackelgrid.masks.keys import KEY_BYTES, PartyKeys, commit_to
from stackelgrid.masks.roster import SUBSETS, Roster, list_subsets
from stackelgrid.wire.masks import encode_share, read_share

_DIGEST = hashlib.sha256().digest_size


def seal_shares(keys: PartyKeys, roster: Roster, epoch: int, home: str) -> dict[str, str]:
    """Seal a home's keys for each member of the committee of an `epoch`, by the member's name.

    Raises `ValueError` where nobody can seal for a member.
    """
    own = [keys.make_subset_key(roster.of_subset(epoch, subset)) for subset in range(len(SUBSETS))]
    commitments = b"".join(commit_to(key, roster.of_commitment(epoch, home)) for key in own)
    shares = {}
    for seat, member in enumerate(roster.committee(epoch)):
        content = commitments + b"".join(own[subset] for subset in list_subsets(seat))
        box = keys.seal(content, roster.parties[member].exchange, roster.of_box(epoch, home, member))
        shares[member] = encode_share(hashlib.sha256(commitments).digest() + box)
    return shares


def open_share(
    keys: PartyKeys, roster: Roster, epoch: int, home: str, member: str, share: str
) -> dict[int, bytes] | None:
    """Open what a home has sealed for a `member`: its keys by subset, None where it has committed to others."""
    content, subsets = read_share(share), list_subsets(roster.committee(epoch).index(member))
    commitment, box = content[:_DIGEST], content[_DIGEST:]
    opened = keys.open(box, roster.parties[home].exchange, roster.of_box(epoch, home, member))
    if opened is None or len(opened) != KEY_BYTES * (len(SUBSETS) + len(subsets)):
        return None
    parts = [opened[start : start + KEY_BYTES] for start in range(0, len(opened), KEY_BYTES)]
    commitments, shared = parts[: len(SUBSETS)], dict(zip(subsets, parts[len(SUBSETS) :], strict=True))
    context = roster.of_commitment(epoch, home)
    same = hashlib.sha256(b"".join(commitments)).digest() == commitment
    return shared if same and all(commit_to(key, context) == commitments[n] for n, key in shared.items()) else None


def have_one_commitment(shares: Iterable[str]) -> bool:
    """Tell whether a home's shares for all members begin with the same commitment."""
    return len({read_share(share)[:_DIGEST] for share in shares}) == 1
