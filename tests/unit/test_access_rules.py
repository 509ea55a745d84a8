"""Access rules before any broker has them, and how what a broker refused is counted from its log."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.access import A1, A2, DESK, ENROLMENT, EVERYONE, HOMES, LEADER, LOG, REGISTRAR

from broker.access import Node, Role, Rules, covers, make_rules
from broker.refusals import UNKNOWN, Refusals
from stackelgrid.registry import find
from stackelgrid.wire.codec import Link, RegistrarLink
from stackelgrid.wire.enrolment import node_topic, stranger_topic

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
def test_rule_covers_a_filter_when_it_matches_all_its_topics(rule: str, asked: str) -> None:
    within = matched(asked) <= matched(rule)
    if covers(rule, asked):
        assert within
    elif not rule.endswith("+/#"):  # the one form in which a rule says the same in two ways, and no rule of ours
        assert not within or not matched(asked)


@given(FILTERS, st.sampled_from(TOPICS))
def test_rule_covers_a_topic_when_it_matches_it(rule: str, topic: str) -> None:
    assert covers(rule, topic) == (topic in matched(rule))


def test_rules_are_read_as_they_were_written() -> None:
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
def test_rules_allow_the_topics_of_every_game_and_no_others(game: str) -> None:
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
            everybody = set() if bodies.addressed else {node.name for node in members}
            for topic in down:
                hear = {member.name} if topic.endswith("refusal") else {member.name, DESK.name} | everybody
                assert {node.name for node in EVERYONE if granted.may_write(node.name, topic)} == {coordinator.name}
                assert {node.name for node in EVERYONE if granted.may_read(node.name, topic)} == hear
            for topic in up:
                assert {node.name for node in EVERYONE if granted.may_write(node.name, topic)} == {member.name}
                private = topic.endswith("answer") and member.role is Role.home
                told = {REGISTRAR.name} if topic.endswith("presence") else set()
                hear_up = {coordinator.name} | (set() if private else {DESK.name}) | told
                assert {node.name for node in EVERYONE if granted.may_read(node.name, topic)} == hear_up
        assert all(granted.may_read(coordinator.name, asked) for asked in link.topics_from_members())


def test_rosters_and_places_reach_those_whom_they_are_for() -> None:
    granted, registrar = make_rules(EVERYONE), RegistrarLink("run")
    upper = Link("run", LEADER.name, find("user_oriented").bodies("upper"), 24)
    for topic, writer, readers in (
        (registrar.topic_of_roster, REGISTRAR, {LEADER.name}),
        (registrar.topic_of_place("h1"), REGISTRAR, {HOMES[0].name, REGISTRAR.name}),
        (upper.topic_of_roster("a2"), LEADER, {A2.name}),
    ):
        assert {node.name for node in EVERYONE if granted.may_write(node.name, topic)} == {writer.name}
        assert {node.name for node in EVERYONE if granted.may_read(node.name, topic)} == readers


@pytest.mark.parametrize("home", [HOMES[0], Node("h1", Role.home, "a1", moved_from="a2")], ids=["staying", "moving"])
def test_nobody_hears_of_masks_but_an_aggregator_and_its_homes(home: Node) -> None:
    everyone = [*(node for node in EVERYONE if node.name != home.name), home]
    granted = make_rules(everyone)
    for aggregator in filter(None, (home.above, home.moved_from)):
        link = Link("run", aggregator, find("user_oriented").bodies("lower"), 24, private_sums=True)
        homes = {node.name for node in everyone if aggregator in (node.above, node.moved_from)}
        plain = {*replace(link, private_sums=False).topics_from_coordinator(home.name)}
        for topic in {*link.topics_from_coordinator(home.name)} - plain:
            assert {node.name for node in everyone if granted.may_write(node.name, topic)} == {aggregator}
            heard = homes if topic.endswith("/committee") else {home.name}
            assert {node.name for node in everyone if granted.may_read(node.name, topic)} == heard
        for purpose in ("keys", "shares", "holding", "signature", "masks"):
            topic = f"{link.root}/{home.name}/{purpose}"
            assert {node.name for node in everyone if granted.may_write(node.name, topic)} == {home.name}
            assert {node.name for node in everyone if granted.may_read(node.name, topic)} == {aggregator}
        assert all(granted.may_read(aggregator, asked) for asked in link.topics_from_members())
    above = {
        topic for name in ("a1", "a2") for topic in granted.write[name] if topic.startswith("stackelgrid/+/leader/")
    }
    assert not [topic for topic in above if topic.endswith(("keys", "shares", "holding", "signature", "masks"))]


# Counting, from what Mosquitto logs.


def test_refusals_are_counted_by_name_and_kind_and_logged_once() -> None:
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
def test_refusals_read_any_log(lines: list[bytes]) -> None:
    refusals = Refusals(make_rules(EVERYONE))
    for line in lines:
        refusals.read(line)
        refusals.read(b"03:28:13: " + line)
    json.loads(refusals.text())


def test_requests_and_heartbeats_reach_those_whom_they_are_for() -> None:
    granted, h1 = make_rules(EVERYONE), HOMES[0]

    def who(may: Callable[[str, str], bool], topic: str) -> set[str]:
        return {node.name for node in EVERYONE if may(node.name, topic)}

    for node in (LEADER, A1, h1):
        asks, told = (node_topic("run", node.name, purpose) for purpose in ("request", "answer"))
        assert who(granted.may_write, asks) == {node.name} and who(granted.may_read, asks) == {REGISTRAR.name}
        assert who(granted.may_write, told) == {REGISTRAR.name}
        assert who(granted.may_read, told) == {node.name, REGISTRAR.name}
    stranger = "0" * 32
    asks, told = (stranger_topic(stranger, purpose) for purpose in ("request", "answer"))
    assert who(granted.may_write, asks) == {ENROLMENT.name} and who(granted.may_read, asks) == {REGISTRAR.name}
    assert who(granted.may_write, told) == {REGISTRAR.name} and who(granted.may_read, told) == {ENROLMENT.name}
    assert not granted.may_write(ENROLMENT.name, node_topic("enrolment", "h1", "request"))
    for coordinator, member in ((LEADER, A1), (A1, h1)):
        beat = f"stackelgrid/run/{coordinator.name}/{member.name}/heartbeat"
        assert who(granted.may_write, beat) == {member.name} and who(granted.may_read, beat) == {DESK.name}
