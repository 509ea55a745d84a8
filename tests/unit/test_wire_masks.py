"""The messages of private sums: what is written is read back, and digests hold for what they are of."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stackelgrid.games.user_oriented.messages import LoadResponse, Price
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.wire.codec import MAX_BYTES, BadMessageError, Bodies, Link, describe
from stackelgrid.wire.masks import (
    COMMITTEE,
    MAX_CERTIFICATE,
    MAX_SHARE,
    MAX_SIGNATURE,
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
    digest_question,
)
from stackelgrid.wire.messages import MAX_NAMES, Answer, Message

WORDS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40)
H, NONCE, ASKED = "0f" * 32, "0a" * 16, "5b" * 32
LINK = Link("run", "a1", Bodies(Price, LoadResponse, Price), (24, 2), private_sums=True)
PLAIN = Link("run", "a1", Bodies(Price, LoadResponse, Price), (24, 2))


def entry(name: str, **changes: Any) -> MaskEntry:
    return MaskEntry(name=name, **{"homes": 1, "exchange": "1e" * 32, "signing": "2d" * 32} | changes)


def roster(*entries: MaskEntry, **changes: Any) -> MaskRoster:
    return MaskRoster(
        **{"run": "run", "sender": "a1", "minimum_group": 20, "epoch": 0, "homes": list(entries)} | changes
    )


def mask_list(*names: str, **changes: Any) -> MaskList:
    given: dict[str, Any] = {"run": "run", "sender": "a1", "session": 2, "roster": H, "epoch": 1, "round": 7}
    return MaskList(**given | {"shape": [24, 1], "question": ASKED, "nonces": dict.fromkeys(names, NONCE)} | changes)


@given(WORDS)
def test_words_are_read_as_they_were_written(numbers: list[int]) -> None:
    words = np.array(numbers, np.uint64)
    answer = MaskedAnswer.of(1, 7, H, 0, NONCE, ASKED, (24, 1), words)
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


def test_digest_of_a_list_is_of_all_that_is_in_it_but_not_of_the_order_of_its_names() -> None:
    names = [f"h{number}" for number in range(4)]
    same = mask_list(*names)
    assert mask_list(*reversed(names)).digest == same.digest
    changes: list[dict[str, Any]] = [
        {"run": "s"},
        {"sender": "a2"},
        {"session": 1},
        {"roster": "f" * 64},
        {"epoch": 0},
        {"round": 8},
        {"shape": [24, 2]},
        {"question": H},
        {"nonces": {**same.nonces, "h0": "f" * 32}},
    ]
    others = [mask_list(*names, **change) for change in changes]
    others += [mask_list("x", *names[1:]), mask_list(*names[1:])]
    assert len({same.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_name_is_in_a_roster_once() -> None:
    with pytest.raises(ValidationError, match="h1 is there twice"):
        roster(entry("h1"), entry("h2"), entry("h1", exchange="f" * 64))


def test_question_has_a_digest_of_its_own_that_travel_does_not_change() -> None:
    asked = Price(price=[0.1, 1 / 3, -0.0])
    assert digest_question(Price.model_validate_json(asked.model_dump_json())) == digest_question(asked)
    assert digest_question(Price(price=[0.1, 1 / 3, 1e-300])) != digest_question(asked)


# --- the link ---

UP, DOWN = {"run": "run", "sender": "h1"}, {"run": "run", "sender": "a1"}
KEYS = MaskKeys(**UP, homes=2, exchange="1e" * 32, signing="2d" * 32, certificate="PEM", signature="00ff")
ENTRY = KEYS.entry
AGREED: dict[str, Any] = {"session": 2, "round": 7, "digest": H}
OF_MEMBER: list[Message] = [
    KEYS,
    MaskShares(**UP, roster=H, epoch=0, shares={"h2": "AAAA"}),
    ShareReceipt(**UP, roster=H, epoch=0, missing=["h2"]),
    ListSignature(**UP, **AGREED, signature="3c" * 64),
    MaskSums(**UP, **AGREED, sums=[MaskSum.of(0, 0, np.ones(3, np.uint64)), MaskSum.of(9, 1, np.ones(3, np.uint64))]),
    Answer[MaskedAnswer](**UP, round=1, body=MaskedAnswer.of(2, 1, H, 0, NONCE, ASKED, (24, 1), np.ones(9, np.uint64))),
]
TO_MEMBER: list[Message] = [
    roster(ENTRY),
    EntrustedShares(**DOWN, roster=H, epoch=0, shares={"h1": "AAAA"}),
    mask_list("h1"),
    Quorum(**DOWN, **AGREED, signatures={"h1": "3c" * 64}),
]


def test_message_travels_on_its_topic_and_is_read_as_it_was_written() -> None:
    assert LINK.bodies.answer is MaskedAnswer
    for sent, asked in ((OF_MEMBER, LINK.topics_from_members()), (TO_MEMBER, LINK.topics_from_coordinator("h1"))):
        for message in sent:
            topic = LINK.topic(message, "h1")
            assert topic in [each.replace("+", "h1") for each in asked]
            assert Mailbox(LINK).read(topic, LINK.write(message)) == (LINK, message)
            about = describe(topic, LINK.write(message))
            assert about.sender == message.sender and about.of_coordinator == (sent is TO_MEMBER)
            assert about.round == getattr(message, "round", None)
    assert LINK.topic(roster(ENTRY)) == "stackelgrid/run/a1/committee"


def test_link_without_private_sums_knows_none_of_it() -> None:
    for message in (*OF_MEMBER, *TO_MEMBER):
        with pytest.raises(BadMessageError) as refused:
            PLAIN.read(LINK.topic(message, "h1"), LINK.write(message))
        assert refused.value.reason == ("malformed" if isinstance(message, Answer) else "foreign")
    asked = {*PLAIN.topics_from_members(), *PLAIN.topics_from_coordinator("h1")}
    assert {topic.rsplit("/", 1)[-1] for topic in asked} == {
        *("answer", "receipt", "presence"),
        *("signal", "settlement", "refusal"),
    }
    plain = Answer[LoadResponse](**UP, round=1, body=LoadResponse(homes=1, load_kw=[1.0] * 24, slope=[0.0] * 24))
    with pytest.raises(BadMessageError, match="malformed"):
        LINK.read(LINK.topic(plain), LINK.write(plain))


def test_message_of_somebody_else_is_foreign() -> None:
    for message in (*OF_MEMBER, *TO_MEMBER):
        topic = LINK.topic(message, "h1")
        for change in ({"run": "other"}, {"sender": "h2"}):
            with pytest.raises(BadMessageError, match="foreign"):
                LINK.read(topic, LINK.write(message.model_copy(update=change)))
        for other in (topic.replace("a1", "a2"), topic.replace("/run/", "/other/"), f"{topic}/x"):
            with pytest.raises(BadMessageError, match="foreign"):
                LINK.read(other, LINK.write(message))


def test_answer_has_the_slots_of_its_session() -> None:
    late = Answer[MaskedAnswer](
        **UP, session=2, round=1, body=MaskedAnswer.of(1, 1, H, 0, NONCE, ASKED, (24,), np.ones(1, "u8"))
    )
    with pytest.raises(BadMessageError, match="body is for 24 slots, session 2 has 2"):
        LINK.read(LINK.topic(late), LINK.write(late))


def pem(length: int) -> str:
    """As many characters as a certificate has, in lines."""
    return ("A" * 64 + "\n") * (length // 65)


def test_largest_messages_are_read() -> None:
    """At 96 slots and 100 prices with all their sensitivities, and of a run with as many processes as there can be."""
    link = Link("run", "a1", LINK.bodies, 96, private_sums=True)
    many = [f"{number:064}" for number in range(MAX_NAMES)]
    share, signature = base64.b64encode(bytes(MAX_SHARE * 3 // 4)).decode(), "00" * (MAX_SIGNATURE // 2)
    proof = {"homes": 1_000_000, "certificate": pem(MAX_CERTIFICATE), "signature": signature}
    words = np.full(100 * (2 * 96 + 96 * 97 // 2), 2**64 - 1, np.uint64)
    proven = {"homes": 10**6, "certificate": pem(1000), "signature": "0f" * 72}
    largest: list[Message] = [
        Answer[MaskedAnswer](
            **UP, round=10**6, body=MaskedAnswer.of(10**6, 10**6, H, 10**6, NONCE, ASKED, (96, *[10**6] * 7), words)
        ),
        KEYS.model_copy(update=proof),
        MaskRoster(**DOWN, minimum_group=20, epoch=0, homes=[entry(name, **proven) for name in many]),
        MaskShares(**UP, roster=H, epoch=10**6, shares=dict.fromkeys(many[:COMMITTEE], share)),
        ShareReceipt(**UP, roster=H, epoch=10**6, missing=many),
        EntrustedShares(**DOWN, roster=H, epoch=10**6, shares=dict.fromkeys(many, share)),
        mask_list(*many, session=1, round=10**6, shape=[96, *[10**6] * 7]),
        Quorum(**DOWN, round=10**6, digest=H, signatures=dict.fromkeys(many[:COMMITTEE], "0f" * 64)),
        MaskSums(**UP, round=1, digest=H, sums=[MaskSum.of(s, g, words[:348]) for s in range(6) for g in range(500)]),
    ]
    for message in largest:
        payload = link.write(message)
        assert len(payload) <= link.max_bytes(message.purpose) <= MAX_BYTES
        assert link.read(link.topic(message, "h1"), payload) == message


@pytest.mark.parametrize("purpose", ["keys", "shares", "signature", "quorum"])
def test_payload_of_a_small_purpose_is_kilobytes_at_most(purpose: str) -> None:
    assert LINK.max_bytes(purpose) <= 8 * 1024
    flood = b'{"schema": 1, ' + b",".join(b'"k%d": 0' % number for number in range(10_000)) + b"}"
    with pytest.raises(BadMessageError) as refused:
        LINK.read(f"stackelgrid/run/a1/h1/{purpose}", flood)
    assert refused.value.reason == "oversized"


# --- what no honest sender writes ---

DEEP: Any = []
for _ in range(20):
    DEEP = [DEEP]
WRONG: list[Any] = [None, True, -1, 1.5, 10**30, "", "x", "0" * 31, "F" * 64, "0g" * 32, [], {}, [None], {"": ""}, DEEP]


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places of a message that hold a value."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = content.copy()
    copy[path[0]] = replaced(content[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("message", [*OF_MEMBER, *TO_MEMBER], ids=lambda message: message.purpose)
def test_wrong_value_anywhere_is_refused_or_means_what_it_says(message: Message) -> None:
    content, topic = json.loads(LINK.write(message)), LINK.topic(message, "h1")
    refused = 0
    for place in places(content):
        for value in WRONG:
            changed = replaced(content, place, value)
            try:
                again = LINK.read(topic, json.dumps(changed).encode())
            except BadMessageError as error:
                refused += 1
                assert error.reason in ("foreign", "malformed", "oversized")
            else:
                assert json.loads(LINK.write(again)) == {key: each for key, each in changed.items() if each is not None}
    assert refused > len(places(content)) * len(WRONG) // 2


BAD: dict[str, tuple[Message, Callable[[dict[str, Any]], Any], str]] = {
    "half a word": (OF_MEMBER[5], lambda m: m["body"].update(words="AAAA"), "no words of 8 bytes"),
    "no words": (OF_MEMBER[5], lambda m: m["body"].update(words=""), "no words of 8 bytes"),
    "words that are not base64": (OF_MEMBER[5], lambda m: m["body"].update(words="AAAAAAAAAA*="), "not base64"),
    "no shape": (OF_MEMBER[5], lambda m: m["body"].update(shape=[]), "at least 1 item"),
    "a shape without slots": (OF_MEMBER[5], lambda m: m["body"].update(shape=[0]), "1 to 1000"),
    "a long shape": (OF_MEMBER[5], lambda m: m["body"].update(shape=[24] * 9), "at most 8 items"),
    "a power in the clear": (OF_MEMBER[5], lambda m: m["body"].update(load_kw=[1.0]), "Extra inputs"),
    "a short nonce": (OF_MEMBER[5], lambda m: m["body"].update(nonce="0a" * 15), "match pattern"),
    "a long key": (KEYS, lambda m: m.update(exchange="1e" * 33), "match pattern"),
    "a key in capitals": (KEYS, lambda m: m.update(signing="2D" * 32), "match pattern"),
    "a key and a line end": (KEYS, lambda m: m.update(signing="2d" * 32 + "\n"), "match pattern"),
    "a certificate alone": (KEYS, lambda m: m.pop("signature"), "or neither"),
    "a group of four": (TO_MEMBER[0], lambda m: m.update(minimum_group=4), "greater than or equal to 5"),
    "a roster of nobody": (TO_MEMBER[0], lambda m: m.update(homes=[]), "at least 1 item"),
    "a share that is not base64": (OF_MEMBER[1], lambda m: m["shares"].update(h2="AAA?"), "not base64"),
    "six members": (OF_MEMBER[1], lambda m: m["shares"].update({f"x{n}": "AAAA" for n in range(5)}), "at most 5 items"),
    "six signatures": (
        TO_MEMBER[3],
        lambda m: m["signatures"].update({f"x{n}": "3c" * 64 for n in range(5)}),
        "at most 5 items",
    ),
    "a list without slots": (TO_MEMBER[2], lambda m: m.update(shape=[0]), "1 to 1000"),
    "a list of nobody": (TO_MEMBER[2], lambda m: m.update(nonces={}), "at least 1 item"),
    "an eleventh subset": (OF_MEMBER[4], lambda m: m["sums"][0].update(subset=10), "less than 10"),
    "two sums for one group": (OF_MEMBER[4], lambda m: m["sums"].append(m["sums"][0]), "two sums"),
    "another schema": (KEYS, lambda m: m.update(schema=2), "Input should be 1"),
}


@pytest.mark.parametrize(("message", "spoil", "why"), BAD.values(), ids=list(BAD))
def test_malformed_message_is_refused_with_the_reason(
    message: Message, spoil: Callable[[dict[str, Any]], Any], why: str
) -> None:
    content, mailbox = json.loads(LINK.write(message)), Mailbox(LINK)
    spoil(content)
    assert mailbox.read(LINK.topic(message, "h1"), json.dumps(content).encode()) is None
    assert mailbox.rejected == {"malformed": 1} and why in mailbox.objection


@given(st.sampled_from([*OF_MEMBER, *TO_MEMBER]), st.binary(max_size=200))
def test_any_bytes_are_refused(message: Message, payload: bytes) -> None:
    with pytest.raises(BadMessageError):
        LINK.read(LINK.topic(message, "h1"), payload)
