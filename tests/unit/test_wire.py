"""The wire: what is written is read back bit for bit, and nothing else is ever read."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stackelgrid.games.user_oriented.messages import LoadResponse, Price
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.wire.arrays import MAX_SLOTS, PackedArray, PackedTriangle
from stackelgrid.wire.codec import MAX_BYTES, AnotherGameError, BadMessageError, Bodies, Link, RegistrarLink
from stackelgrid.wire.fingerprint import Fingerprint
from stackelgrid.wire.messages import (
    MAX_NAMES,
    AggregatorRoster,
    Answer,
    Message,
    Place,
    Presence,
    Receipt,
    RegisteredMember,
    Roster,
    Settlement,
    Signal,
)

SLOTS = 3
LINK = Link("run-1", "leader", Bodies(Price, LoadResponse, Price), SLOTS)
DOWN = {"run": "run-1", "sender": "leader"}
UP = {"run": "run-1", "sender": "a1"}

finite = st.floats(-1e12, 1e12)
falling = st.floats(-1e12, 0)
names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
rounds = st.integers(1, 1_000_000)
vectors = st.lists(finite, min_size=SLOTS, max_size=SLOTS)
slopes = st.lists(falling, min_size=SLOTS, max_size=SLOTS)
awkward = [5e-324, -0.0, 2.2250738585072014e-308, -1e12, 0.1, 1 / 3, 999999999999.9999, 123456789.12345679]


def matrices(rows: int) -> st.SearchStrategy[PackedArray]:
    return st.lists(finite, min_size=rows * SLOTS, max_size=rows * SLOTS).map(
        lambda cells: PackedArray.of(np.array(cells).reshape(rows, SLOTS))
    )


@st.composite
def responses(draw: st.DrawFn) -> LoadResponse:
    homes = draw(st.integers(1, 4))
    held = draw(st.integers(0, homes))
    return LoadResponse(
        homes=homes,
        held=held,
        excluded=draw(st.integers(0, 3)),
        load_kw=draw(vectors | matrices(homes)),
        slope=draw(slopes),
        coupling=draw(st.none() | matrices(SLOTS)),
    )


prices = vectors.map(lambda numbers: Price(price=numbers))
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Signal[Price], run=st.just("run-1"), sender=st.just("leader"), round=rounds, again=st.lists(names), body=prices
    ),
    st.builds(Answer[LoadResponse], run=st.just("run-1"), sender=names, round=rounds, body=responses()),
    st.builds(
        Settlement[Price],
        run=st.just("run-1"),
        sender=st.just("leader"),
        round=rounds,
        settled=st.booleans(),
        complete=st.booleans(),
        body=prices,
    ),
    st.builds(Receipt, run=st.just("run-1"), sender=names, round=rounds, missing=st.lists(names)),
    st.builds(Presence, run=st.just("run-1"), sender=names, state=st.sampled_from(["online", "offline"])),
)


def bits(value: Any) -> Any:
    """`value` with each float spelled in hexadecimal: -0.0 is not 0.0 here."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [bits(item) for item in value]
    return value


def signal(**changes: Any) -> dict[str, Any]:
    return {"schema": 1, **DOWN, "round": 7, "again": [], "body": {"price": [9.24, 8.0, 7.5]}} | changes


def settlement(**changes: Any) -> dict[str, Any]:
    last_word = {**signal(), "settled": True, "complete": True} | changes
    del last_word["again"]
    return last_word


def answer(**changes: Any) -> dict[str, Any]:
    body = {"homes": 1, "load_kw": [1.0, 2.0, 3.0], "slope": [-0.1, -0.2, -0.3]}
    return {"schema": 1, **UP, "round": 7, "body": body | changes}


def packed(numbers: list[float], shape: list[int]) -> dict[str, Any]:
    return {"shape": shape, "float64": base64.b64encode(np.array(numbers, "<f8").tobytes()).decode()}


def read(content: Any, topic: str | None = None) -> Message:
    """Read bytes or JSON from `topic`, or from the topic its kind belongs on."""
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    if topic is None:
        topic = "stackelgrid/run-1/leader/signal"
        if isinstance(content, dict) and content.get("sender") == "a1":
            topic = "stackelgrid/run-1/leader/a1/answer"
        elif isinstance(content, dict) and "settled" in content:
            topic = "stackelgrid/run-1/leader/settlement"
    return LINK.read(topic, payload)


# --- what is written is read back ---


@settings(max_examples=200, deadline=None)
@given(messages)
@example(Signal[Price](**DOWN, round=1, body=Price(price=awkward[:SLOTS])))
@example(Signal[Price](**DOWN, round=1, body=Price(price=awkward[-SLOTS:])))
@example(
    Answer[LoadResponse](**UP, round=1, body=LoadResponse(homes=1, load_kw=awkward[2:5], slope=[-0.0, -5e-324, -1 / 3]))
)
def test_message_round_trip_is_exact(message: Message) -> None:
    seen = LINK.read(LINK.topic(message), LINK.write(message))
    assert type(seen) is type(message)
    assert bits(seen.model_dump()) == bits(message.model_dump())


@given(st.lists(finite, min_size=6, max_size=6))
@example([*awkward[:4], -5e-324, -0.0])
def test_packed_array_round_trip_is_exact(cells: list[float]) -> None:
    array = np.array(cells).reshape(2, 3)
    body = LoadResponse(homes=2, load_kw=PackedArray.of(array), slope=[0.0] * SLOTS)
    seen = LINK.read(LINK.topic(message := Answer[LoadResponse](**UP, round=1, body=body)), LINK.write(message))
    assert seen.body.loads().tobytes() == array.tobytes()


def test_packed_array_has_rows_in_order_for_any_memory_layout() -> None:
    array = np.arange(6.0).reshape(3, 2).T
    np.testing.assert_array_equal(PackedArray.of(array).array(), [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(PackedArray.of(array[:, ::2]).array(), [[0, 4], [1, 5]])
    np.testing.assert_array_equal(PackedArray.of(array.astype(">f8")).array(), array)


def test_packed_arrays_of_the_same_numbers_are_equal() -> None:
    one, other = (PackedArray.of(np.array([[1.0, 2.0]])) for _ in range(2))
    assert one == other
    np.testing.assert_array_equal(one.array(), other.array())
    assert one == other
    assert one != PackedArray.of(np.array([[1.0, 3.0]]))


def test_load_response_has_a_row_per_home() -> None:
    one = LoadResponse(homes=3, load_kw=[1.0, 2.0, 3.0], slope=[0.0] * SLOTS)
    host = LoadResponse(homes=2, load_kw=PackedArray.of(np.ones((2, SLOTS))), slope=[0.0] * SLOTS)
    assert one.loads().shape == (1, SLOTS)
    assert host.loads().shape == (2, SLOTS)


def test_price_signal_is_readable_json() -> None:
    message = Signal[Price](**DOWN, round=7, again=["a2"], body=Price(price=[9.24, 0.1, -1.5]))
    assert LINK.write(message) == (
        b'{"schema":1,"run":"run-1","sender":"leader","round":7,"again":["a2"],"body":{"price":[9.24,0.1,-1.5]}}'
    )


def test_message_of_another_game_is_refused_for_good() -> None:
    own = Fingerprint(game="user_oriented", slots=SLOTS, scenario="0" * 16)
    link = replace(LINK, fingerprint=own)
    price = Price(price=[1.0, 2.0, 3.0])
    signal = Signal[Price](**DOWN, fingerprint=own, round=1, body=price)
    settlement = Settlement[Price](**DOWN, fingerprint=own, round=1, settled=True, complete=True, body=price)
    for message in (signal, settlement):
        assert link.read(link.topic(message), link.write(message)) == message
        for change, difference in (
            ({"fingerprint": own.model_copy(update={"scenario": "1" * 16})}, "with other prices"),
            ({"fingerprint": own.model_copy(update={"slots": 2}), "body": Price(price=[1.0, 2.0])}, "over 2 slots"),
            ({"fingerprint": own.model_copy(update={"game": "go"}), "body": Receipt(**UP, round=1)}, "game go"),
        ):
            other = message.model_copy(update=change)
            with pytest.raises(AnotherGameError, match=f"another run run-1 is there, .*{difference}.*--run"):
                link.read(link.topic(message), link.write(other))
            assert LINK.read(LINK.topic(message), LINK.write(message)) == message, "without its own it takes any"
        for change, reason in (({"fingerprint": None}, "no fingerprint"), ({"run": "x"}, "in run x")):
            with pytest.raises(BadMessageError, match=f"foreign.*{reason}"):
                link.read(link.topic(message), link.write(message.model_copy(update=change)))


def test_node_outlives_a_message_of_another_game_once_its_coordinator_has_asked_for_its_own() -> None:
    own = Fingerprint(game="user_oriented", slots=SLOTS, scenario="0" * 16)
    link = replace(LINK, fingerprint=own)
    signal = Signal[Price](**DOWN, fingerprint=own, round=1, body=Price(price=[1.0, 2.0, 3.0]))
    damaged = link.write(signal).replace(b"0" * 16, b"0" * 15 + b"1")
    with pytest.raises(AnotherGameError):
        Mailbox(link).read(link.topic(signal), damaged)
    mailbox = Mailbox(link)
    assert mailbox.read(link.topic(signal), link.write(signal)) == (link, signal)
    assert mailbox.read(link.topic(signal), damaged) is None
    assert mailbox.rejected == {"foreign": 1}


def test_answer_of_one_home_is_readable_json_without_absent_keys() -> None:
    message = Answer[LoadResponse](
        **UP, round=7, body=LoadResponse(homes=1, load_kw=[1.5, 2.0, 0.25], slope=[-0.5, 0.0, 0.0])
    )
    assert json.loads(LINK.write(message)) == {
        "schema": 1,
        "run": "run-1",
        "sender": "a1",
        "round": 7,
        "body": {
            "homes": 1,
            "held": 0,
            "excluded": 0,
            "load_only": 0,
            "fixed": 0,
            "load_kw": [1.5, 2.0, 0.25],
            "slope": [-0.5, 0.0, 0.0],
        },
    }


def test_topic_names_run_sender_and_purpose() -> None:
    topics = {
        message.purpose: LINK.topic(message)
        for message in (
            Signal[Price](**DOWN, round=1, body=Price(price=[1.0])),
            Settlement[Price](**DOWN, round=1, settled=True, complete=True, body=Price(price=[1.0])),
            Answer[LoadResponse](**UP, round=1, body=LoadResponse(homes=1, load_kw=[1.0], slope=[0.0])),
            Receipt(**UP, round=1),
            Presence(**UP, state="online"),
        )
    }
    assert topics == {
        "signal": "stackelgrid/run-1/leader/signal",
        "settlement": "stackelgrid/run-1/leader/settlement",
        "answer": "stackelgrid/run-1/leader/a1/answer",
        "receipt": "stackelgrid/run-1/leader/a1/receipt",
        "presence": "stackelgrid/run-1/leader/a1/presence",
    }


def test_answer_is_fresh_when_every_home_answered_this_round() -> None:
    body = LoadResponse(homes=3, load_kw=[1.0] * SLOTS, slope=[0.0] * SLOTS)
    assert body.fresh
    assert not body.model_copy(update={"held": 1}).fresh
    assert not body.model_copy(update={"excluded": 1}).fresh


# --- nothing else is read ---


@pytest.mark.parametrize(("content", "kind"), [(signal(), Signal), (settlement(), Settlement), (answer(), Answer)])
def test_message_is_read_before_the_cases_below_spoil_it(content: dict[str, Any], kind: type[Message]) -> None:
    assert isinstance(read(content), kind)


MALFORMED: dict[str, Any] = {
    "empty": b"",
    "not JSON": b"price is 9.24",
    "cut short": json.dumps(signal()).encode()[:-1],
    "two values": json.dumps(signal()).encode() + b"{}",
    "not an object": b"[1, 2, 3]",
    "not UTF-8": json.dumps(signal()).encode().replace(b"again", b"ag\xffin"),
    "UTF-16": json.dumps(signal()).encode("utf-16"),
    "a lone surrogate": json.dumps(signal()).encode().replace(b"leader", b"\\ud800"),
    "nested deeply": b'{"body":' * 10_000,
    "arrays nested deeply": b"[" * 10_000,
    "another schema": signal(schema=2),
    "schema as text": signal(schema="1"),
    "a key too many": signal(comment="cheap tonight"),
    "a key too many in the body": signal(body={"price": [1.0, 2.0, 3.0], "currency": "EUR"}),
    "the model's own name for schema": {**{k: v for k, v in signal().items() if k != "schema"}, "schema_version": 1},
    "no round": {key: value for key, value in signal().items() if key != "round"},
    "a settlement's keys": settlement() | {"again": []},
    "no body": {key: value for key, value in signal().items() if key != "body"},
    "null body": signal(body=None),
    "round zero": signal(round=0),
    "round negative": signal(round=-1),
    "round too large": signal(round=1_000_001),
    "round as text": signal(round="7"),
    "round as float": signal(round=7.0),
    "round as bool": signal(round=True),
    "round beyond 64 bits": signal(round=10**40),
    "round beyond any integer": json.dumps(signal()).encode().replace(b": 7", b": " + b"9" * 5000),
    "settled as number": settlement(settled=1),
    "settled as text": settlement(settled="yes"),
    "settlement that does not say whether": settlement(settled=None),
    "again with a slash": signal(again=["a/b"]),
    "again with a wildcard": signal(again=["+"]),
    "again with a newline": signal(again=["a1\n"]),
    "again too long": signal(again=["a" * 65]),
    "again without end": signal(again=["a"] * 10_001),
    "NaN": json.dumps(signal()).encode().replace(b"9.24", b"NaN"),
    "infinity": json.dumps(signal()).encode().replace(b"9.24", b"Infinity"),
    "minus infinity": json.dumps(signal()).encode().replace(b"9.24", b"-Infinity"),
    "a float beyond doubles": json.dumps(signal()).encode().replace(b"9.24", b"1e400"),
    "an integer beyond doubles": json.dumps(signal()).encode().replace(b"9.24", b"1" + b"0" * 400),
    "a price missing": signal(body={"price": [1.0, 2.0]}),
    "a price too many": signal(body={"price": [1.0, 2.0, 3.0, 4.0]}),
    "no price": signal(body={"price": []}),
    "a null price": signal(body={"price": [1.0, None, 3.0]}),
    "a nested price": signal(body={"price": [[1.0, 2.0, 3.0]]}),
    "a price beyond all bounds": signal(body={"price": [1e13, 1.0, 1.0]}),
    "a load beyond all bounds": answer(load_kw=[-1e13, 1.0, 1.0]),
    "a load that grows with its price": answer(slope=[0.1, 0.0, 0.0]),
    "a coupling beyond all bounds": answer(coupling=packed([1e300] * 9, [3, 3])),
    "load and slope of different lengths": answer(load_kw=[1.0, 2.0]),
    "slope of another horizon": answer(slope=[0.0, 0.0], load_kw=[0.0, 0.0]),
    "no home": answer(homes=0),
    "held below zero": answer(held=-1),
    "a row too few": answer(homes=2, load_kw=packed([1.0] * 3, [1, 3])),
    "a column too few": answer(homes=2, load_kw=packed([1.0] * 4, [2, 2])),
    "packed flat": answer(load_kw=packed([1.0] * 3, [3])),
    "bytes too few": answer(load_kw=packed([1.0] * 2, [1, 3])),
    "bytes too many": answer(load_kw=packed([1.0] * 4, [1, 3])),
    "half a number": answer(load_kw={"shape": [1, 3], "float64": base64.b64encode(b"\0" * 23).decode()}),
    "packed NaN": answer(load_kw=packed([1.0, float("nan"), 3.0], [1, 3])),
    "packed infinity": answer(load_kw=packed([1.0, float("inf"), 3.0], [1, 3])),
    "not base64": answer(load_kw={"shape": [1, 3], "float64": "!" * 32}),
    "base64 with a gap": answer(load_kw={"shape": [1, 3], "float64": "AAAA AAAA" * 4}),
    "base64 not ASCII": answer(load_kw={"shape": [1, 3], "float64": "é" * 32}),
    "a shape without end": answer(load_kw={"shape": [1_000_000, 1_000_000], "float64": ""}),
    "a shape beyond 64 bits": answer(load_kw={"shape": [10**30, 3], "float64": ""}),
    "a shape of three": answer(load_kw=packed([1.0] * 3, [1, 1, 3])),
    "a shape of none": answer(load_kw={"shape": [], "float64": ""}),
    "a negative shape": answer(load_kw=packed([1.0] * 3, [-1, -3])),
    "coupling not square": answer(coupling=packed([1.0] * 6, [2, 3])),
    "coupling as numbers": answer(coupling=[1.0, 2.0, 3.0]),
}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from([1e-9, 1.0, 1e8]))
def test_triangle_is_read_back_exactly(slots: int, seed: int, size: float) -> None:
    factor = np.random.default_rng(seed).normal(size=(slots, slots))
    matrix = -size * (factor + factor.T)
    packed = PackedTriangle.model_validate_json(PackedTriangle.of(matrix).model_dump_json())
    np.testing.assert_array_equal(packed.array(), matrix)


def compressed(numbers: list[float]) -> str:
    return base64.b64encode(zlib.compress(np.array(numbers).tobytes())).decode()


TRIANGLE = {"slots": 3, "deflated": compressed([-1.0] * 6)}


def test_triangle_is_a_coupling_of_its_slots() -> None:
    read(answer(coupling=TRIANGLE))


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 4},
        {"slots": 2},
        {"slots": 0},
        {"deflated": ""},
        {"deflated": "!" * 20},
        {"deflated": "A" * 20},
        {"deflated": compressed([-1.0] * 5)},
        {"deflated": compressed([-1.0] * 100_000)},
        {"deflated": compressed([float("nan")] * 6)},
        {"deflated": compressed([-1e13] * 6)},
        {"deflated": compressed([-1.0] * 6)[:-8]},
        {"more": 1},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_triangle_is_refused_when_malformed(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadMessageError) as refused:
        read(answer(coupling=TRIANGLE | wrong))
    assert refused.value.reason == "malformed"


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_payload_is_refused_when_malformed(content: Any) -> None:
    with pytest.raises(BadMessageError) as refused:
        read(content)
    assert refused.value.reason == "malformed"
    assert len(refused.value.detail) < 500


LAX = {
    "a price as text": signal(body={"price": ["9.24", 8.0, 7.5]}),
    "a price as bool": signal(body={"price": [True, 8.0, 7.5]}),
    "homes as text": answer(homes="1"),
    "homes as float": answer(homes=1.0),
    "a shape as text": answer(load_kw=packed([1.0] * 3, [1, 3]) | {"shape": ["1", "3"]}),
}


@pytest.mark.parametrize("content", LAX.values(), ids=LAX)
def test_body_is_refused_when_a_number_has_another_type(content: Any) -> None:
    with pytest.raises(BadMessageError):
        read(content)


def test_body_is_refused_when_longer_than_max_slots() -> None:
    Price(price=[1.0] * MAX_SLOTS)
    with pytest.raises(ValidationError, match="at most 1000"):
        Price(price=[1.0] * (MAX_SLOTS + 1))


def test_last_of_two_equal_keys_counts() -> None:
    payload = json.dumps(signal()).encode()
    seen = read(payload.replace(b'"round": 7', b'"round": 7, "round": 8'))
    assert seen == read(signal(round=8))
    with pytest.raises(BadMessageError, match="malformed"):
        read(payload.replace(b'"schema": 1', b'"schema": 1, "schema": 2'))


def test_payload_is_refused_unread_when_too_long() -> None:
    padded = json.dumps(signal()).encode()
    longest = padded + b" " * (LINK.max_bytes("signal") - len(padded))
    assert read(longest) == read(signal())
    with pytest.raises(BadMessageError, match="at most") as refused:
        read(longest + b" ")
    assert refused.value.reason == "oversized"


def test_payload_of_a_small_purpose_is_kilobytes_at_most() -> None:
    link = Link("run-1", "leader", LINK.bodies, 24, homes=60)
    assert link.max_bytes("presence") == 1024
    assert link.max_bytes("receipt") < 6 * 1024
    assert link.max_bytes("answer") < 1024 * 1024
    flood = b'{"schema": 1, ' + b",".join(b'"k%d": 0' % number for number in range(100_000)) + b"}"
    for purpose in ("presence", "receipt", "answer"):
        with pytest.raises(BadMessageError, match="at most") as refused:
            link.read(f"stackelgrid/run-1/leader/a1/{purpose}", flood)
        assert refused.value.reason == "oversized"


@pytest.mark.parametrize("many", [b'"k": 0', b"null", b"{}", b"[]", b"[null]"])
def test_payload_is_refused_unparsed_when_it_would_be_a_list_of_mistakes(many: bytes) -> None:
    """A parser would take seconds and a gigabyte for the largest of them."""
    link = Link("run-1", "leader", LINK.bodies, 24, homes=60)
    head = b'{"schema": 1, "run": "run-1", "sender": "a1", "round": 1, "body": ['
    fitting = (link.max_bytes("answer") - len(head) - 2) // (len(many) + 1)
    with pytest.raises(BadMessageError, match="at most") as refused:
        link.read("stackelgrid/run-1/leader/a1/answer", head + b",".join([many] * fitting) + b"]}")
    assert refused.value.reason == "oversized"


def test_payload_is_refused_unparsed_when_nested_too_deeply() -> None:
    deep = answer(load_kw=[1.0, 2.0, 3.0])
    for _ in range(100):
        deep = {"body": deep}
    with pytest.raises(BadMessageError, match="brackets do not close within 16 levels") as refused:
        read(deep, "stackelgrid/run-1/leader/a1/answer")
    assert refused.value.reason == "malformed"


def test_first_of_many_wrong_names_is_reported_alone() -> None:
    content = {"schema": 1, **UP, "round": 1, "missing": [0] * 900}
    with pytest.raises(BadMessageError) as refused:
        read(content, "stackelgrid/run-1/leader/a1/receipt")
    mistakes = refused.value.__context__
    assert isinstance(mistakes, ValidationError) and mistakes.error_count() == 1


def test_reason_for_refusal_is_short_whatever_the_sender_wrote() -> None:
    with pytest.raises(BadMessageError) as refused:
        read(signal() | {"k" * 10_000: 1})
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(("homes", "slots"), [(1, 1), (1, 24), (1, 1000), (60, 96), (1000, 24), (400, 1000)])
def test_longest_answer_that_homes_can_give_is_read(homes: int, slots: int) -> None:
    number = -1.2345678901234567e-101  # as many characters as a number can have
    link = Link("run-1", "leader", LINK.bodies, slots, homes=homes)
    body = LoadResponse(
        homes=homes,
        load_kw=PackedArray.of(np.full((homes, slots), number)),
        slope=[number] * slots,
        coupling=PackedArray.of(np.full((slots, slots), number)),
    )
    message = Answer[LoadResponse](run="run-1", sender="a1", round=1_000_000, body=body)
    payload = link.write(message)
    assert len(payload) <= MAX_BYTES and link.read(link.topic(message), payload) == message


FOREIGN: dict[str, tuple[str, Any]] = {
    "another run's topic": ("stackelgrid/run-2/leader/signal", signal(run="run-2")),
    "another coordinator's topic": ("stackelgrid/run-1/a1/signal", signal(sender="a1")),
    "an answer to another coordinator": ("stackelgrid/run-1/a2/a1/answer", answer()),
    "another run in the message": ("stackelgrid/run-1/leader/signal", signal(run="run-2")),
    "another coordinator in the message": ("stackelgrid/run-1/leader/signal", signal(sender="a1")),
    "another member in the message": ("stackelgrid/run-1/leader/a2/answer", answer()),
    "a member's signal": ("stackelgrid/run-1/leader/a1/signal", signal(sender="a1")),
    "a coordinator's answer": ("stackelgrid/run-1/leader/answer", answer() | DOWN),
    "another root": ("elsewhere/run-1/leader/signal", signal()),
    "a purpose nobody knows": ("stackelgrid/run-1/leader/gossip", signal()),
    "a topic too short": ("stackelgrid/run-1/leader", signal()),
    "a topic too long": ("stackelgrid/run-1/leader/a1/x/answer", answer()),
    "a member without a name": ("stackelgrid/run-1/leader//answer", answer()),
    "no topic": ("", signal()),
}


@pytest.mark.parametrize(("topic", "content"), FOREIGN.values(), ids=FOREIGN)
def test_message_is_refused_when_it_disagrees_with_its_topic(topic: str, content: Any) -> None:
    with pytest.raises(BadMessageError) as refused:
        read(content, topic)
    assert refused.value.reason == "foreign"


def test_answer_is_refused_when_its_body_is_a_signals() -> None:
    with pytest.raises(BadMessageError, match="malformed"):
        read(signal() | UP, "stackelgrid/run-1/leader/a1/answer")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)


# --- who takes part ---

REGISTRAR = RegistrarLink("run-1")
OF_REGISTRAR = {"schema": 1, "run": "run-1", "sender": "registrar", "number": 7}
HOME = {"name": "h1", "homes": 1, "max_kw": 11.0}


def test_roster_and_place_are_read_back() -> None:
    members = [RegisteredMember(name="h1", max_kw=11.0), RegisteredMember(name="p2", homes=3)]
    whole = Roster(run="run-1", sender="registrar", number=7, aggregators={"a1": members, "a2": []})
    place = Place(run="run-1", sender="registrar", number=7, aggregator="a1", max_kw=11.0)
    assert REGISTRAR.read("stackelgrid/run-1/registrar/roster", REGISTRAR.write(whole)) == whole
    assert REGISTRAR.read("stackelgrid/run-1/registrar/h1/place", REGISTRAR.write(place)) == place
    part = AggregatorRoster(**DOWN, session=1, number=7, members=members)
    assert LINK.topic(part, "a1") == LINK.topic_of_roster("a1") == "stackelgrid/run-1/leader/a1/roster"
    assert LINK.read(LINK.topic(part, "a1"), LINK.write(part)) == part


def test_largest_roster_is_read_whatever_the_homes_of_the_link_were() -> None:
    link = replace(LINK, homes=1)
    names = [f"{number:064}" for number in range(MAX_NAMES - 1)]
    members = [RegisteredMember(name=name, homes=10**6, max_kw=1.2345678901234567e-300) for name in names]
    part = AggregatorRoster(**DOWN, number=2**53, members=members)
    assert link.read(LINK.topic_of_roster("a1"), LINK.write(part)) == part
    whole = Roster(run="run-1", sender="registrar", number=2**53, aggregators={"a1": members})
    assert REGISTRAR.read(REGISTRAR.topic_of_roster, REGISTRAR.write(whole)) == whole


NO_ROSTERS = {
    "a home twice": {"aggregators": {"a1": [HOME], "a2": [HOME]}},
    "an aggregator as a home": {"aggregators": {"a1": [HOME | {"name": "a1"}]}},
    "a member without homes": {"aggregators": {"a1": [HOME | {"homes": 0}]}},
    "a connection that is not finite": {"aggregators": {"a1": [HOME | {"max_kw": 1e999}]}},
    "a key that nobody knows": {"aggregators": {"a1": [HOME | {"price": 1}]}},
    "no number": {"aggregators": {}, "number": 0},
    "no name": {"aggregators": {"a/1": [HOME]}},
    "another sender": {"aggregators": {}, "sender": "h1"},
    "too many names": {"aggregators": {f"a{number}": [] for number in range(MAX_NAMES + 1)}},
    "too many keys": {"aggregators": {"a1": [{}] * 90_000}},
}


@pytest.mark.parametrize("wrong", NO_ROSTERS.values(), ids=NO_ROSTERS)
def test_roster_is_refused_when_it_names_nobody_in_particular(wrong: dict[str, Any]) -> None:
    assert REGISTRAR.read(
        REGISTRAR.topic_of_roster, json.dumps(OF_REGISTRAR | {"aggregators": {"a1": [HOME]}}).encode()
    )
    with pytest.raises(BadMessageError):
        REGISTRAR.read(REGISTRAR.topic_of_roster, json.dumps(OF_REGISTRAR | wrong).encode())


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([REGISTRAR.topic_of_roster, REGISTRAR.topic_of_place("h1"), "stackelgrid/run-1/registrar/x"]),
    st.binary(max_size=200) | json_values.map(lambda value: json.dumps(OF_REGISTRAR | {"aggregator": value}).encode()),
)
def test_any_bytes_of_a_registrar_are_refused_or_read(topic: str, payload: bytes) -> None:
    try:
        assert REGISTRAR.read(topic, payload).sender == "registrar"
    except BadMessageError as refused:
        assert refused.reason in ("foreign", "malformed", "oversized")


# --- whatever arrives ---

TOPICS = [LINK.topic(m) for m in (Presence(**UP, state="online"), Receipt(**UP, round=1))] + [
    "stackelgrid/run-1/leader/signal",
    "stackelgrid/run-1/leader/settlement",
    "stackelgrid/run-1/leader/a1/answer",
]


def refused_or_kept(topic: str, payload: bytes) -> bool:
    """Whether a message was read; what was read survives being written and read again."""
    try:
        message = LINK.read(topic, payload)
    except BadMessageError as refused:
        assert refused.reason in ("foreign", "malformed", "oversized")
        return False
    again = LINK.read(LINK.topic(message), LINK.write(message))
    assert bits(again.model_dump()) == bits(message.model_dump())
    return True


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TOPICS) | st.text(), st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(topic: str, payload: bytes) -> None:
    assert not refused_or_kept(topic, payload)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(TOPICS),
    st.sampled_from([signal(), answer(), answer(load_kw=packed([1.0] * 3, [1, 3]))]),
    st.data(),
)
def test_message_with_one_value_replaced_is_refused_or_valid(
    topic: str, content: dict[str, Any], data: st.DataObject
) -> None:
    changed = json.loads(json.dumps(content))
    place = changed if data.draw(st.booleans()) else changed["body"]
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    refused_or_kept(topic, json.dumps(changed).encode())


@settings(max_examples=300, deadline=None)
@given(messages, st.data())
def test_message_with_flipped_bits_is_refused_or_valid(message: Message, data: st.DataObject) -> None:
    payload = bytearray(LINK.write(message))
    for place in data.draw(st.lists(st.integers(0, 8 * len(payload) - 1), min_size=1, max_size=4)):
        payload[place // 8] ^= 1 << place % 8
    refused_or_kept(LINK.topic(message), bytes(payload))


@pytest.mark.parametrize("cut", [lambda p: p[:-1], lambda p: p[1:], lambda p: p + p, lambda p: p.replace(b"1", b"-")])
def test_message_is_refused_when_a_part_is_missing(cut: Callable[[bytes], bytes]) -> None:
    message = Signal[Price](**DOWN, round=1, body=Price(price=[1.0, 2.0, 3.0]))
    assert not refused_or_kept(LINK.topic(message), cut(LINK.write(message)))
