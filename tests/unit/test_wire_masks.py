"""The messages of private sums: what is written is read back, and digests hold for what they are of."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stackelgrid.wire.masks import MaskedAnswer, MaskEntry, MaskList, MaskRoster, MaskSum, StandingAnswer

WORDS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40)
H, BOOT = "0f" * 32, "0a" * 16


def entry(name: str, **changes: Any) -> MaskEntry:
    return MaskEntry(name=name, **{"homes": 1, "exchange": "1e" * 32, "signing": "2d" * 32} | changes)


def roster(*entries: MaskEntry, **changes: Any) -> MaskRoster:
    return MaskRoster(**{"run": "r", "sender": "a1", "minimum_group": 20, "epoch": 0, "homes": list(entries)} | changes)


def mask_list(*entries: StandingAnswer, **changes: Any) -> MaskList:
    given: dict[str, Any] = {"run": "r", "sender": "a1", "session": 2, "roster": H, "epoch": 1, "round": 7}
    return MaskList(**given | {"shapes": [[24, 1], [24, 3]], "entries": list(entries)} | changes)


def standing(name: str, **changes: Any) -> StandingAnswer:
    return StandingAnswer(**{"name": name, "round": 7, "boot": BOOT, "shape": 0} | changes)


@given(WORDS)
def test_words_are_read_as_they_were_written(numbers: list[int]) -> None:
    words = np.array(numbers, np.uint64)
    answer = MaskedAnswer.of(1, H, 0, BOOT, (24, 1), words)
    for again in (MaskedAnswer.model_validate_json(answer.model_dump_json()), MaskSum.of(9, 0, words)):
        assert again.words_array().dtype == np.uint64 and again.words_array().tolist() == numbers
    assert answer.slots == 24 and answer.peak_kw is None and answer.fresh


def test_digest_of_a_roster_is_of_its_homes_and_not_of_session_epoch_or_order() -> None:
    homes = [entry(f"h{number}", exchange=f"{number:064x}") for number in range(5)]
    same = roster(*homes)
    shuffled = random.Random(1).sample(homes, 5)
    assert roster(*shuffled, epoch=2, session=3).digest == same.digest
    proven = entry("h0", exchange="0" * 64, certificate="PEM", signature="00")
    others = [
        roster(*homes, run="s"),
        roster(*homes, sender="a2"),
        roster(*homes, minimum_group=21),
        roster(*homes[:4]),
        roster(proven, *homes[1:]),
        *(
            roster(homes[0].model_copy(update=change), *homes[1:])
            for change in ({"name": "x"}, {"homes": 2}, {"exchange": "f" * 64}, {"signing": "f" * 64})
        ),
    ]
    assert len({same.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_digest_of_a_list_is_of_all_that_is_in_it_but_not_of_the_order_of_its_entries() -> None:
    entries = [standing(f"h{number}") for number in range(4)]
    same = mask_list(*entries)
    assert mask_list(*reversed(entries)).digest == same.digest
    changes: list[dict[str, Any]] = [
        {"run": "s"},
        {"sender": "a2"},
        {"session": 1},
        {"roster": "f" * 64},
        {"epoch": 0},
        {"round": 8},
        {"shapes": [[24, 3], [24, 1]]},
    ]
    others = [mask_list(*entries, **change) for change in changes]
    for change in ({"name": "x"}, {"round": 6}, {"boot": "f" * 32}, {"shape": 1}):
        others.append(mask_list(entries[0].model_copy(update=change), *entries[1:]))
    assert len({same.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_name_is_in_a_roster_and_in_a_list_once() -> None:
    with pytest.raises(ValidationError, match="h1 is there twice"):
        roster(entry("h1"), entry("h2"), entry("h1", exchange="f" * 64))
    with pytest.raises(ValidationError, match="h1 is there twice"):
        mask_list(standing("h1"), standing("h1", round=6))
