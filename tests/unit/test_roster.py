"""Members that change between two sessions: rosters, places, and what the nodes make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.grid import REGISTRAR, START, TREES, Tree, assert_same, grid, play, replay

import aggregator_node.config
import emc_node.config
import leader_node.config
from stackelgrid.games.user_oriented.messages import LoadResponse, Price
from stackelgrid.gates import Gates
from stackelgrid.node.limits import MemberLimits
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.registry import find
from stackelgrid.rounds import Coordinator, MembersGathered, Round, RoundPolicy
from stackelgrid.scenarios import load
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.base import Action, Compute, FetchRetained, Publish
from stackelgrid.wire.codec import Bodies, Link
from stackelgrid.wire.messages import (
    AggregatorRoster,
    Answer,
    Body,
    Place,
    Presence,
    Receipt,
    RegisteredMember,
    Roster,
    Settlement,
    Signal,
)
from stackelgrid.wire.roles import Role


def test_members_change_between_sessions_and_each_plays_as_if_they_had_always_been_there() -> None:
    scenario = grid()
    played = play(scenario, START, TREES)
    assert played.record.failures == {} and played.record.rejected == {}
    for session, tree in TREES.items():
        present = {name: list(homes) for name, homes in tree.items() if homes}
        assert played.members(session) == played.answered(session) == present
        record = played.record.of_session(session)
        assert record.conclusion["complete"]
        again = replay(scenario, played, session)
        assert len(record.rounds) == len(again.rounds)
        assert_same(record, again)


@pytest.mark.parametrize("node", ["leader", "a1", "a2", "h5"])
def test_roster_survives_a_restart(node: str) -> None:
    scenario = grid()
    crash = {"kind": "crash", "node": node, "at": {"session": 3}, "restart_after_s": 0.01}
    played = play(scenario, START, TREES, [crash])
    assert [record.kind for record in played.record.faults] == ["crash", "restart"]
    assert played.record.failures == {} and played.record.rejected == {}
    for session, tree in TREES.items():
        assert played.members(session) == {name: list(homes) for name, homes in tree.items() if homes}
        assert played.record.of_session(session).conclusion["complete"]


SIX_HOURS = [
    "calendar={start: 2026-06-01T00:00, timezone: UTC, slot_minutes: 60, horizon: 6h, every: 6h, days: 1}",
    "gates={intraday_minutes: 15, clock: simulated}",
]


def test_prosumers_join_and_leave_between_sessions() -> None:
    """A game with an addressed link, in which a game of prosumers is played within each session."""
    both, one = {"a1": ["bus23", "bus27"]}, {"a1": ["bus27"]}
    scenario = load("prosumer", SIX_HOURS)
    played = play(scenario, {"a1": ["bus23"]}, {2: both, 3: one, 4: both})
    assert played.record.failures == {} and played.record.rejected == {}
    for session, tree in {2: both, 3: one, 4: both}.items():
        record, again = played.record.of_session(session), replay(scenario, played, session)
        assert played.members(session) == played.answered(session) == tree
        assert record.settled and record.conclusion["complete"]
        assert record.homes.keys() == again.homes.keys() == set(tree["a1"])
        for name, account in again.homes.items():
            assert np.allclose(record.homes[name]["dr_kw"], account["dr_kw"], rtol=1e-9, atol=1e-9)


def test_homes_of_the_storage_market_move_between_sessions() -> None:
    scenario = load("storage_market", [SIX_HOURS[0].replace("6h", "12h"), SIX_HOURS[1]])
    first, second = ([*homes] for homes in scenario.topology.members.values())
    start = {"a1": first[:3], "a2": second[:3]}
    moved = {"a1": first[1:3], "a2": [*second[:3], first[0]]}
    played = play(scenario, start, {2: moved})
    assert played.record.failures == {} and played.record.rejected == {}
    assert [played.answered(session) for session in (1, 2)] == [start, moved]
    assert all(played.record.of_session(session).conclusion["complete"] for session in (1, 2))


def test_sessions_without_any_home_end_unsettled_and_the_grid_goes_on() -> None:
    played = play(grid(), START, {2: {"a1": [], "a2": []}})
    sessions = [played.record.of_session(number) for number in (1, 2, 3, 4)]
    assert [each.settled for each in sessions] == [True, False, False, False]
    assert [each.stopped for each in sessions] == ["", *3 * ["no home is in the roster"]]
    assert played.record.failures == {}


TREE = st.lists(st.sampled_from([None, "a1", "a2", "a3"]), min_size=6, max_size=6).map(
    lambda places: {
        name: [f"h{number}" for number, place in enumerate(places, start=1) if place == name]
        for name in ("a1", "a2", "a3")
    }
)
FAULT = st.one_of(
    st.builds(lambda p: {"kind": "loss", "probability": p}, st.floats(0.02, 0.3)),
    st.builds(
        lambda node, session, s, lose: {
            "kind": "crash",
            "node": node,
            "at": {"session": session},
            "restart_after_s": s,
            "lose_state": lose and node != "leader",  # which would not come back
        },
        st.sampled_from(["leader", "a1", "a3", "h1", "h4"]),
        st.integers(2, 4),
        st.floats(0.001, 1.0),
        st.booleans(),
    ),
    st.builds(
        lambda number, s, keep: {"kind": "broker", "at": {"round": number}, "seconds": s, "keep_retained": keep},
        st.integers(1, 12),
        st.floats(0.01, 3.0),
        st.booleans(),
    ),
    st.builds(
        lambda node, number, s: {"kind": "cut", "node": node, "at": {"round": number}, "seconds": s},
        st.sampled_from(["leader", "a1", "a2", "h1", "h2"]),
        st.integers(1, 12),
        st.floats(0.01, 3.0),
    ),
    st.builds(lambda p: {"kind": "reordering", "probability": p, "seconds": 0.02}, st.floats(0.05, 0.5)),
)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    TREE.filter(lambda tree: any(tree.values())), st.dictionaries(st.integers(2, 4), TREE), st.lists(FAULT, max_size=3)
)
def test_only_members_of_the_roster_count_whatever_happens(
    start: Tree, trees: dict[int, Tree], faults: list[dict[str, Any]]
) -> None:
    """Each session ends; one that is complete has the result of the same session played by its members alone."""
    scenario = grid()
    played = play(scenario, start, trees, faults)
    assert played.record.failures == {}
    has_memory = not any(fault.get("lose_state") for fault in faults)
    for session in (1, 2, 3, 4):
        record = played.record.of_session(session)
        assert "settled" in record.conclusion
        if has_memory:
            answered, members = played.answered(session), played.members(session)
            assert all(set(homes) <= set(members[name]) for name, homes in answered.items() if name in members)
        if has_memory and record.settled and record.conclusion["complete"]:
            assert_same(record, replay(scenario, played, session))


# --- a coordinator alone ---


class Word(Body):
    text: str


LINK = Link("run-1", "c", Bodies(Word, Word, Word), slots=(1, 1, 1))
POLICY = RoundPolicy(deadline_s=2.0, tries=2, gather_s=30.0, return_s=1.0, quarantine_after=1)
ASK = Word(text="?")


def is_(member: str, state: str) -> Presence:
    return Presence.model_validate({"run": "run-1", "sender": member, "state": state})


def says(member: str, session: int, number: int, text: str = "yes") -> Answer[Word]:
    return Answer[Word](run="run-1", sender=member, session=session, round=number, body=Word(text=text))


def gathered(*members: str) -> Coordinator:
    coordinator = Coordinator(LINK, members, POLICY, lambda member, asked, got: "odd" if got.text == "odd" else None)
    coordinator.start(0.0)
    for member in members:
        coordinator.receive(is_(member, "online"), 0.0)
    return coordinator


def test_newcomers_are_gathered_and_nobody_else() -> None:
    coordinator = gathered("a", "b")
    coordinator.receive(is_("c", "online"), 0.5)  # it is no member yet
    assert coordinator.begin_session(2, 1.0, ["b", "c", "d"]) == [FetchRetained()]
    assert coordinator.is_gathering
    coordinator.receive(is_("c", "online"), 1.1)
    assert coordinator.next_deadline() == 3.0  # one deadline, however many come one after the other
    assert coordinator.receive(is_("d", "online"), 1.5) == [MembersGathered(())]
    coordinator.ask(ASK, 1.5)
    for member in ("b", "c", "d"):
        closed = coordinator.receive(says(member, 2, 1), 1.6)
    assert isinstance(closed[0], Round) and list(closed[0].answers) == ["b", "c", "d"]


def test_newcomer_that_does_not_come_delays_the_others_by_a_deadline_once() -> None:
    coordinator = gathered("a")
    coordinator.begin_session(2, 1.0, ["a", "b"])
    assert coordinator.tick(2.9) == []
    assert coordinator.tick(3.0) == [MembersGathered(("b",))]
    coordinator.ask(ASK, 3.0)
    (closed,) = coordinator.receive(says("a", 2, 1), 3.1)
    assert isinstance(closed, Round) and closed.why == {"b": "has not come yet"}
    assert coordinator.begin_session(3, 4.0, ["a", "b"]) == [MembersGathered(())]
    coordinator.receive(is_("b", "online"), 4.1)
    coordinator.ask(ASK, 4.2)
    coordinator.receive(says("a", 3, 2), 4.3)
    (closed,) = coordinator.receive(says("b", 3, 2), 4.3)
    assert isinstance(closed, Round) and closed.complete


def test_who_stays_keeps_its_quarantine_and_who_has_left_begins_anew() -> None:
    coordinator = gathered("a", "b", "c")
    coordinator.ask(ASK, 0.0)
    for member in ("b", "c"):
        coordinator.receive(says(member, 1, 1, "odd"), 0.1)
    assert coordinator.quarantined.keys() == {"b", "c"}
    coordinator.begin_session(2, 1.0, ["a", "b"])
    assert coordinator.quarantined.keys() == {"b"}
    coordinator.begin_session(3, 2.0, ["a", "b", "c"])
    assert coordinator.receive(is_("c", "online"), 2.1) == [MembersGathered(())]
    coordinator.ask(ASK, 2.1)
    coordinator.receive(says("a", 3, 2), 2.2)
    (closed,) = coordinator.receive(says("c", 3, 2), 2.2)
    assert isinstance(closed, Round)
    assert (list(closed.answers), list(closed.quarantined)) == (["a", "c"], ["b"])


def test_who_stays_keeps_the_seconds_that_it_was_waited_for() -> None:
    coordinator = gathered("a", "b", "c", "d")
    coordinator.ask(ASK, 0.0)
    for member in ("a", "d"):
        coordinator.receive(says(member, 1, 1), 0.1)
    while (deadline := coordinator.next_deadline()) is not None:
        coordinator.tick(deadline)
    coordinator.begin_session(2, 20.0, ["a", "b", "d"])
    coordinator.begin_session(3, 20.0, ["a", "b", "c", "d"])
    coordinator.receive(is_("c", "online"), 20.0)
    coordinator.ask(ASK, 20.0)
    for member in ("a", "d"):
        coordinator.receive(says(member, 3, 2), 20.1)
    assert not any(isinstance(step, Round) for step in coordinator.tick(20.5))  # c is waited for: it has no past
    (closed,) = coordinator.receive(says("c", 3, 2), 20.6)
    assert isinstance(closed, Round) and closed.why == {"b": "late: the run has waited 4 s for it"}


def test_aggregator_may_answer_for_the_homes_of_either_roster_in_one_session() -> None:
    def counts(homes: int, kw: float) -> str | None:
        body = LoadResponse(homes=homes, load_kw=[kw], slope=[-0.1])
        return limits.check_answer("a1", Price(price=[9.0]), body)

    limits = MemberLimits([RegisteredMember(name="a1", homes=2, max_kw=10.0)], Role.AGGREGATOR, Mailbox())
    now = [RegisteredMember(name="a1", homes=3, max_kw=15.0), RegisteredMember(name="a2")]
    limits.begin_session(now)
    assert counts(3, 15.0) is None and counts(2, 10.0) is None
    assert counts(2, 11.0) == counts(4, 1.0) or (counts(2, 11.0) and counts(4, 1.0))
    receipt = Receipt(run="run-1", sender="a1", round=1, missing=["h1", "h2", "h3"])
    assert limits.check_receipt(receipt) is None
    limits.begin_session(now)
    assert counts(3, 15.0) is None
    assert counts(2, 10.0) == "a1 answers for 2 homes, it has 3"
    limits.begin_session([RegisteredMember(name="a1", homes=1)])
    limits.begin_session([RegisteredMember(name="a1", homes=1)])
    assert limits.check_receipt(receipt) is not None


# --- nodes alone ---


def place(number: int, aggregator: str) -> bytes:
    return REGISTRAR.write(Place(run="memory", sender="registrar", number=number, aggregator=aggregator))


class HomeAlone:
    """A home of aggregator a1 and what is sent to it."""

    def __init__(self, memory: Mapping[str, Any] | None = None) -> None:
        configs = build_node_configs(grid(), run="memory")
        config = next(home for home in configs.homes if home.name == "h1")
        self.saved: list[Mapping[str, Any]] = []
        self.node = emc_node.config.assemble(config, lambda settled: None, self.saved.append, memory)
        bodies = find("user_oriented").bodies("lower")
        self.links = {
            name: Link("memory", name, bodies, config.session_slots, 1, config.fingerprint) for name in ("a1", "a2")
        }

    def get_place(self, number: int, aggregator: str) -> Sequence[Action]:
        return self.node.receive(REGISTRAR.topic_of_place("h1"), place(number, aggregator), 1.0)

    def get_question(self, session: int, number: int, aggregator: str = "a1") -> Sequence[Action]:
        link = self.links[aggregator]
        signal = Signal[Price](
            run="memory", sender=aggregator, session=session, round=number, fingerprint=link.fingerprint, body=PRICE
        )
        return self._run(self.node.receive(link.topic(signal), link.write(signal), 1.0))

    def get_settlement(self, session: int, number: int, aggregator: str = "a1") -> Sequence[Action]:
        link = self.links[aggregator]
        settlement = Settlement[Price](
            run="memory",
            sender=aggregator,
            session=session,
            round=number,
            fingerprint=link.fingerprint,
            settled=True,
            complete=True,
            body=PRICE,
        )
        return self._run(self.node.receive(link.topic(settlement), link.write(settlement), 1.0))

    def _run(self, actions: Sequence[Action]) -> Sequence[Action]:
        for action in actions:
            if isinstance(action, Compute):
                return self._run(action.then(action.job(), 1.0))
        return actions


PRICE = Price(price=6 * [9.0])


def describe_topics(actions: Sequence[Action]) -> list[str]:
    """The topics of what is published, with a word for what is no message."""
    return [
        f"{action.topic.removeprefix('stackelgrid/memory/')}{'' if action.payload else ' cleared'}"
        if isinstance(action, Publish)
        else type(action).__name__
        for action in actions
    ]


def test_home_moves_at_once_between_two_sessions() -> None:
    home = HomeAlone()
    home.node.start(0.0)
    assert describe_topics(home.get_place(1, "a2")) == ["a1/h1/presence cleared", "Reconnect"]
    assert "stackelgrid/memory/a2/signal" in home.node.subscriptions
    assert home.node.last_will.topic == "stackelgrid/memory/a2/h1/presence"
    assert describe_topics(home.node.start(2.0)) == ["a2/h1/presence"]
    assert describe_topics(home.get_question(1, 5, "a2")) == ["a2/h1/answer"]
    assert home.get_question(1, 6, "a1") == [] and not home.node.mailbox.rejected  # it was under way
    again = HomeAlone(home.saved[-1])  # a restart with the old configuration
    assert describe_topics(again.node.start(0.0)) == ["a2/h1/presence"]


def test_home_stays_for_the_session_that_it_is_in() -> None:
    home = HomeAlone()
    home.node.start(0.0)
    home.get_question(1, 1)
    assert home.get_place(1, "a2") == []
    assert describe_topics(home.get_question(1, 2)) == ["a1/h1/answer"]
    assert describe_topics(home.get_settlement(1, 2)) == ["a1/h1/receipt", "a1/h1/presence cleared", "Reconnect"]
    assert home.get_settlement(1, 9, "a2") == []  # the session is over for it
    assert describe_topics(home.get_question(2, 10, "a2")) == ["a2/h1/answer"]


def test_home_that_is_alone_in_a_session_moves_after_half_a_minute() -> None:
    home = HomeAlone()
    home.node.start(0.0)
    home.get_question(1, 1)
    home.get_place(1, "a2")
    deadline = home.node.next_deadline()
    assert deadline == 31.0
    assert describe_topics(home.node.tick(deadline)) == ["a1/h1/presence cleared", "Reconnect"]


def test_home_takes_its_latest_place_and_none_of_before() -> None:
    home = HomeAlone()
    home.node.start(0.0)
    home.get_question(1, 1)
    home.get_place(3, "a2")
    home.get_place(4, "a1")  # it is to stay after all
    assert describe_topics(home.get_settlement(1, 1)) == ["a1/h1/receipt"]
    assert describe_topics(home.get_place(5, "a2"))[-1] == "Reconnect"
    assert home.get_place(4, "a1") == []


class AggregatorAlone:
    """Aggregator a1 with a home h1, and what the leader sends to it."""

    def __init__(self, ledger: list[Any] | None = None) -> None:
        configs = build_node_configs(grid(homes=1, aggregators=1), run="memory")
        (config,) = configs.aggregators
        self.ledger: list[Any] = [] if ledger is None else ledger
        self.accounts: list[Mapping[str, Any]] = []
        self.node = aggregator_node.config.assemble(config, lambda record: None, self.accounts.append, self.ledger)
        self.up = configs.leader.members and Link(
            "memory", LEADER, find("user_oriented").bodies("upper"), config.session_slots, 9, config.fingerprint
        )
        self.node.start(0.0)

    def get_roster(self, session: int, number: int, *homes: str) -> Sequence[Action]:
        members = [RegisteredMember(name=home) for home in homes]
        roster = AggregatorRoster(run="memory", sender=LEADER, session=session, number=number, members=members)
        return self.node.receive(self.up.topic_of_roster("a1"), self.up.write(roster), 1.0)

    def get_question(self, session: int, number: int) -> Sequence[Action]:
        signal = Signal[Price](
            run="memory", sender=LEADER, session=session, round=number, fingerprint=self.up.fingerprint, body=PRICE
        )
        return self.node.receive(self.up.topic(signal), self.up.write(signal), 1.0)

    def answer(self, home: str, session: int, number: int) -> Sequence[Action]:
        body = LoadResponse(homes=1, load_kw=6 * [1.0], slope=6 * [-0.1])
        answer = Answer[LoadResponse](run="memory", sender=home, session=session, round=number, body=body)
        return self.node.receive(f"stackelgrid/memory/a1/{home}/answer", self.up.write(answer), 1.0)

    def come(self, home: str) -> Sequence[Action]:
        presence = Presence(run="memory", sender=home, state="online")
        return self.node.receive(f"stackelgrid/memory/a1/{home}/presence", self.up.write(presence), 1.0)


def test_aggregator_that_missed_its_roster_takes_it_up_in_the_session_after() -> None:
    aggregator = AggregatorAlone()
    aggregator.come("h1")
    assert describe_topics(aggregator.get_question(1, 1)) == ["a1/signal"]
    assert describe_topics(aggregator.get_question(2, 2)) == ["a1/signal"]
    assert describe_topics(aggregator.answer("h1", 2, 2)) == ["leader/a1/answer"]
    assert aggregator.get_roster(2, 7, "h1", "h2") == []
    assert describe_topics(aggregator.get_question(2, 3)) == ["a1/signal"]
    assert describe_topics(aggregator.answer("h1", 2, 3)) == ["leader/a1/answer"]
    assert describe_topics(aggregator.get_question(3, 4)) == ["FetchRetained"]
    assert describe_topics(aggregator.come("h2")) == ["a1/signal"]
    again = AggregatorAlone(aggregator.ledger)
    assert describe_topics(again.come("h1")) == []
    assert "a1/signal" in describe_topics(again.come("h2"))


def test_roster_that_its_signal_has_overtaken_is_taken_up() -> None:
    aggregator = AggregatorAlone()
    aggregator.come("h1")
    aggregator.get_question(1, 1)
    aggregator.get_question(2, 2)
    assert describe_topics(aggregator.get_roster(2, 7, "h2")) == ["FetchRetained"]
    assert describe_topics(aggregator.come("h2")) == ["a1/signal"]
    assert describe_topics(aggregator.answer("h2", 2, 3)) == ["leader/a1/answer"]


def test_aggregator_takes_up_the_roster_of_its_first_session_while_it_gathers() -> None:
    aggregator = AggregatorAlone()
    assert describe_topics(aggregator.get_roster(1, 7, "h2")) == ["FetchRetained"]
    assert describe_topics(aggregator.come("h2")) == ["leader/a1/presence"]
    assert aggregator.get_roster(1, 6, "h3") == []


def test_aggregator_without_homes_asks_and_answers_nothing() -> None:
    aggregator = AggregatorAlone()
    aggregator.come("h1")
    aggregator.get_roster(2, 7)
    assert aggregator.get_question(2, 2) == []


def test_leader_takes_up_the_newest_roster_and_none_of_before() -> None:
    leader = build_node_configs(grid(), run="memory").leader
    node = leader_node.config.assemble(leader, lambda record: None, lambda record: None, [])
    node.start(0.0)

    def get_roster(number: int) -> Sequence[Action]:
        members = {"a1": [RegisteredMember(name=f"h{number}")], "a2": []}
        roster = Roster(run="memory", sender="registrar", number=number, aggregators=members)
        return node.receive(REGISTRAR.topic_of_roster, REGISTRAR.write(roster), 1.0)

    told = ["leader/a1/roster", "leader/a2/roster", "leader/a3/roster"]  # a3 is in none any more
    assert describe_topics(get_roster(5)) == told
    assert get_roster(4) == [] == get_roster(5)
    assert describe_topics(get_roster(6)) == told


def test_game_whose_settings_name_its_members_refuses_a_roster() -> None:
    scenario = load("load_call", ["calendar={start: 2026-06-01T00:00, timezone: UTC, slot_minutes: 60, horizon: 1h}"])
    leader = build_node_configs(scenario, run="memory").leader
    node = leader_node.config.assemble(
        leader.model_copy(update={"gates": Gates(day_ahead="12:00", clock="simulated")}),
        lambda record: None,
        lambda record: None,
        [],
    )
    node.start(0.0)
    roster = Roster(run="memory", sender="registrar", number=1, aggregators={"a1": [RegisteredMember(name="h1")]})
    assert node.receive(REGISTRAR.topic_of_roster, REGISTRAR.write(roster), 1.0) == []
    assert node.mailbox.rejected == {"refused": 1}
    assert "baseline" in node.mailbox.objection
