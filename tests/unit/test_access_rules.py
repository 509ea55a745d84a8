"""Access rules before any broker has them, and how what a broker refused is counted from its log."""

from __future__ import annotations

import itertools
import json

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.access import Node, Role, Rules, covers, make_rules
from broker.refusals import UNKNOWN, Refusals
from stackelgrid.registry import find
from stackelgrid.wire.codec import Link

LEADER, A1, A2 = (
    Node("leader", Role.leader),
    Node("a1", Role.aggregator, "leader"),
    Node("a2", Role.aggregator, "leader"),
)
MOLE, ROGUE, DESK = Node("mole", Role.home, "a1"), Node("rogue", Role.aggregator, "leader"), Node("desk", Role.observer)
HOMES = [Node(f"h{number}", Role.home, "a1" if number % 2 else "a2") for number in range(1, 7)]
EVERYONE = [LEADER, A1, A2, ROGUE, *HOMES, MOLE, Node("stray", Role.home, "rogue"), DESK]


# The rules, before any broker has them.

LEVELS = st.sampled_from(["a", "b", "$SYS", ""])
FILTERS = st.builds(
    lambda levels, end: "/".join([*levels, *end]),
    st.lists(st.one_of(LEVELS, st.just("+")), min_size=1, max_size=3),
    st.sampled_from([(), (), ("#",)]),
).filter(bool)
TOPICS = [
    "/".join(t)
    for depth in range(1, 5)
    for t in itertools.product(["a", "b", "$SYS", "", "z"], repeat=depth)
    if t != ("",)
]


def matched(topic_filter: str) -> set[str]:
    """Of `TOPICS`, by another implementation; `z` and a fourth level are in no filter but by wildcard."""
    return {topic for topic in TOPICS if paho.topic_matches_sub(topic_filter, topic)}


@given(FILTERS, FILTERS)
def test_a_rule_covers_a_filter_when_it_matches_every_topic_that_the_filter_does(rule: str, asked: str) -> None:
    within = matched(asked) <= matched(rule)
    if covers(rule, asked):
        assert within
    elif not rule.endswith("+/#"):  # the one form in which a rule says the same in two ways, and no rule of ours
        assert not within or not matched(asked)


@given(FILTERS, st.sampled_from(TOPICS))
def test_a_topic_is_covered_when_it_is_matched(rule: str, topic: str) -> None:
    assert covers(rule, topic) == (topic in matched(rule))


def test_the_rules_are_read_back_as_they_were_written() -> None:
    made = make_rules(EVERYONE)
    assert Rules.parse(made.text()) == made
    for bad in (
        "",
        "# nothing\n",
        "topic read a\n",
        "user a\ntopic readwrite b\n",
        "user a\ntopic deny #\n",
        "user a b\n",
    ):
        with pytest.raises(ValueError, match=r"no (access )?rule"):
            Rules.parse(bad)


@pytest.mark.parametrize("game", ["user_oriented", "prosumer", "load_call", "storage_market"])
def test_the_rules_let_every_game_be_played_and_nobody_hear_or_say_anything_beside(game: str) -> None:
    """Each conversation's topics as the codec has them, against everybody: who may is a party to it, or observes."""
    granted = make_rules(EVERYONE)
    for coordinator, bodies in (
        (LEADER, find(game).bodies("upper")),
        (A1, find(game).bodies("lower")),
        (A2, find(game).bodies("lower")),
    ):
        link = Link("run", coordinator.name, bodies, 24)
        members = [node for node in EVERYONE if node.above == coordinator.name]
        for member in members:
            down = link.topics_from_coordinator(member.name)
            up = [f"{link.root}/{member.name}/{purpose}" for purpose in ("answer", "receipt", "presence")]
            hear = {member.name, DESK.name} | (set() if bodies.addressed else {node.name for node in members})
            for topic in down:
                assert {node.name for node in EVERYONE if granted.may_write(node.name, topic)} == {coordinator.name}
                assert {node.name for node in EVERYONE if granted.may_read(node.name, topic)} == hear
            for topic in up:
                assert {node.name for node in EVERYONE if granted.may_write(node.name, topic)} == {member.name}
                private = topic.endswith("answer") and member.role is Role.home
                hear_up = {coordinator.name} | (set() if private else {DESK.name})
                assert {node.name for node in EVERYONE if granted.may_read(node.name, topic)} == hear_up
        assert all(granted.may_read(coordinator.name, asked) for asked in link.topics_from_members())


# Counting, from what Mosquitto logs.


LOG = """03:28:11: mosquitto version 2.0.11 running
03:28:13: New connection from 127.0.0.1:48821 on port 18990.
03:28:13: New client connected from 127.0.0.1:48821 as mole (p2, c1, k60, u'mole').
03:28:13: Will message specified (7 bytes) (r1, q1).
03:28:13: \tstackelgrid/r/a1/h1/presence
03:28:13: Sending CONNACK to mole (0, 0)
03:28:12: Received SUBSCRIBE from mole
03:28:12: \t# (QoS 0)
03:28:12: mole 0 #
03:28:12: mole 0 stackelgrid/r/a1/signal
03:28:12: mole 1 $share/g/stackelgrid/+/a1/signal
03:28:12: mole 1 $share/g/stackelgrid/#
03:28:12: Sending SUBACK to mole
03:28:12: Received PUBLISH from h1 (d0, q0, r0, m0, 'stackelgrid/r/a1/h1/answer', ... (1 bytes))
03:28:12: Sending PUBLISH to a1 (d0, q0, r0, m0, 'stackelgrid/r/a1/h1/answer', ... (1 bytes))
03:28:13: Denied PUBLISH from mole (d0, q1, r0, m2, 'stackelgrid/r/a1/h1/answer', ... (6 bytes))
03:28:13: Denied PUBLISH from mole (d0, q1, r0, m3, 'a/Denied PUBLISH from h1 (d0, q1', ... (6 bytes))
03:28:13: Client mole already connected, closing old connection.
03:28:13: OpenSSL Error[0]: error:0A000126:SSL routines::unexpected eof while reading
03:28:13: Client mole closed its connection.
03:28:14: OpenSSL Error[0]: error:0A000086:SSL routines::certificate verify failed
03:28:14: Client <unknown> disconnected: Protocol error.
03:28:15: OpenSSL Error[0]: error:0A0000C7:SSL routines::peer did not return a certificate
03:28:15: Client connection from 127.0.0.1 failed: error:0A00010B:SSL routines::wrong version number.
03:28:15: Client connection from 127.0.0.1 failed: error:0A00009C:SSL routines::http request.
03:28:52: OpenSSL Error[0]: error:0A000102:SSL routines::unsupported protocol
03:28:53: OpenSSL Error[0]: error:0A0000C1:SSL routines::no shared cipher
03:28:20: Error: Unable to load certificate revocation file "crl.pem". Check crlfile."""


def test_refusals_are_counted_by_name_and_kind_and_told_once() -> None:
    """Lines of Mosquitto 2.0.11, chatter among them."""
    lines = LOG.split("\n")
    refusals = Refusals(make_rules(EVERYONE))
    kept = [told for line in lines if (told := refusals.read(line.encode())) is not None]
    assert json.loads(refusals.text()) == {
        "mole": {"will": 1, "subscribe": 2, "publish": 2, "taken over": 1},
        UNKNOWN: {"certificate": 1, "no certificate": 1, "no tls": 2, "old tls": 1, "handshake": 1},
    }
    told = b"\n".join(kept).decode()
    assert [line for line in told.split("\n") if "Refused" not in line] == [
        lines[0],
        lines[2],
        "03:28:13: Client mole closed its connection.",
        lines[-1],
    ]
    assert told.count("Refused to mole: publish, stackelgrid/r/a1/h1/answer") == 1
    assert len(kept) == 4 + 4 + 5  # one line for each kind of each name


@given(st.lists(st.binary(max_size=80)))
def test_whatever_is_logged_can_be_read(lines: list[bytes]) -> None:
    refusals = Refusals(make_rules(EVERYONE))
    for line in lines:
        refusals.read(line)
        refusals.read(b"03:28:13: " + line)
    json.loads(refusals.text())
