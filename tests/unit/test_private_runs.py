"""Whole runs with private sums: they end as with exact answers, and where a sum is missing the journal says so."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.grid import Tree, grid
from support.grid import play as play_grid
from support.scripted_node import Scripted, finish

import emc_node.config
import stackelgrid
from stackelgrid.faults.in_memory import FaultyMemory
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.masks.roster import Roster
from stackelgrid.node.private_sums import draw_from_seed
from stackelgrid.rounds.settings import PrivacySettings
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.in_memory import MemoryRun
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.memory import DeadlockError
from stackelgrid.ui.words import describe_inner_round
from stackelgrid.wire.masks import MaskRoster

PRIVATE = PrivacySettings(sums="committee", minimum_group=5)
STORAGE = {"capacity_kwh": 8.0, "initial_kwh": 3.0, "charge_kw": 2.0, "discharge_kw": 2.0, "wear": {"fast": 0.5}}
DAY = {"start": "2026-06-01T00:00", "timezone": "UTC", "days": 1}


def street(homes: int = 12, *, slots: int = 3, storage: bool = True, leader: Any = None, **changes: Any) -> Scenario:
    """A street under one aggregator, every other home with a storage, whose answers are masked."""
    random = np.random.default_rng(3)
    return load(
        {
            "schema": 1,
            "game": "user_oriented",
            "seed": 1,
            "aggregators": 1,
            "privacy": PRIVATE.model_dump(mode="json"),
            "rounds": {"deadline_s": 1.0, "return_s": 2.0, "gather_s": 3.0},
            "leader": {
                "objective": "welfare",
                "baseline_price": 9,
                "wholesale_price": random.uniform(2, 5, slots).tolist(),
                "mu": 0.5,
                "price_max": 30,
                "tolerance": 1e-9,
                **(leader or {}),
            },
            "homes": [
                {
                    "id": f"h{number}",
                    "inelastic": [{"load_kw": random.uniform(0.5, 2, slots).tolist()}],
                    "elastic": [
                        {
                            "max_kw": random.uniform(3, 8),
                            "valuation": random.uniform(10, 18),
                            "satisfaction": {"form": "log", "alpha": random.uniform(2, 5)},
                        }
                    ],
                    **({"storage": [STORAGE]} if storage and number % 2 else {}),
                }
                for number in range(1, homes + 1)
            ],
            **({} if "calendar" in changes else {"slots": slots}),
            **changes,
        }
    )


def without_masks(scenario: Scenario) -> RunRecord:
    return in_memory.play(scenario.change(privacy=PrivacySettings()))


def assert_same(private: RunRecord, exact: RunRecord) -> None:
    """Rounds, prices and what each home does are the same, but for what fixed point rounds off."""
    assert private.settled and private.failures == {}
    assert [entry["round"] for entry in private.rounds] == [entry["round"] for entry in exact.rounds]
    for entry, reference in zip(private.rounds, exact.rounds, strict=True):
        assert np.allclose(entry["price"], reference["price"], rtol=0, atol=1e-9)
        assert np.allclose(entry["load_kw"], reference["load_kw"], rtol=0, atol=1e-8)
    for name, account in exact.homes.items():
        assert np.allclose(private.homes[name]["load_kw"], account["load_kw"], rtol=0, atol=1e-8)


# --- without faults ---


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"homes": 20, "aggregators": 2},
        {"homes": 20, "homes_per_process": 2},
        {"homes": 10, "storage": False, "leader": {"objective": "stackelberg"}},
    ],
    ids=["welfare", "two-groups-each", "two-homes-a-process", "several-prices-a-question"],
)
def test_prices_and_rounds_are_those_of_exact_answers(changes: dict[str, Any]) -> None:
    scenario = street(**changes)
    private, exact = in_memory.play(scenario), without_masks(scenario)
    assert_same(private, exact)
    assert private.conclusion["complete"] and private.rejected == {}
    assert [entry["questions"] for entry in private.rounds] == [entry["questions"] for entry in exact.rounds]
    if "leader" in changes:
        assert max(entry["questions"] for entry in private.rounds) > 2


def test_run_repeats_itself_byte_for_byte() -> None:
    scenario = street()
    first, again = in_memory.play(scenario), in_memory.play(scenario)
    assert (first.rounds, first.aggregator_rounds, first.homes) == (again.rounds, again.aggregator_rounds, again.homes)
    assert (first.messages, first.bytes) == (again.messages, again.bytes)


def count_masks(scenario: Scenario) -> tuple[RunRecord, Counter[str]]:
    """Play a run, and count the messages about masks by what they are for."""
    run = MemoryRun(scenario)
    purposes = ("signal", "shares", "entrusted", "holding", "list", "signature", "quorum", "masks")
    below = "stackelgrid/memory/a1"

    def receive(topic: str, payload: bytes, now: float) -> Any:
        return finish() if topic == f"{below}/signal" and not payload else []

    topics = [f"{below}/signal", f"{below}/committee", *(f"{below}/+/{purpose}" for purpose in purposes[1:])]
    tap = Scripted("tap", topics, receive=receive)
    record = run.finish(run.transport.run([tap, *(build(False) for build in run.builds.values())]))
    return record, Counter(topic.rpartition("/")[2] for topic, payload in tap.received if payload)


def test_sessions_of_the_same_homes_keep_the_roster() -> None:
    scenario = street(slots=24, calendar=DAY | {"horizon": "6h", "every": "6h"})
    assert len(scenario.sessions) == 4
    record, said = count_masks(scenario)
    assert_same(record, without_masks(scenario))
    assert said["shares"] == 12 and said["entrusted"] == said["holding"] == 5
    rounds = len(record.rounds)
    assert said["list"] == said["signature"] == said["quorum"] == said["masks"] == 5 * rounds


def test_run_that_was_interrupted_goes_on_with_its_roster(tmp_path: Path) -> None:
    """The broker and the homes have forgotten it; the aggregator has not."""

    def interrupt(record: dict[str, Any]) -> None:
        if record["round"] == 2:
            raise KeyboardInterrupt

    whole = stackelgrid.run(street(), out=tmp_path / "whole")
    stackelgrid.run(street(), out=tmp_path / "run", on_round=interrupt)
    again = stackelgrid.resume(tmp_path / "run")
    assert again.complete and again.result.rejected == {}
    first, second = ((tmp_path / name / "rounds.jsonl").read_bytes() for name in ("whole", "run"))
    assert first == second
    assert again.result.traffic[:-1] == whole.result.traffic[:-1], "no second committee was needed"


def test_round_counts_the_messages_that_set_masks_up_and_sum_them() -> None:
    record, said = count_masks(street())
    of_masks = sum(said.values()) - said["signal"]
    plain = without_masks(street())
    for each, reference in zip(record.aggregator_rounds, plain.aggregator_rounds, strict=True):
        assert each["messages"] > reference["messages"]
    more = sum(each["messages"] for each in record.aggregator_rounds) - sum(
        each["messages"] for each in plain.aggregator_rounds
    )
    late = of_masks - more
    assert 0 <= late <= len(record.rounds), "of five members one is not waited for"


def test_home_shows_in_how_large_a_sum_it_is_or_what_it_refuses() -> None:
    """One that wants larger groups than the others is left out, and they are not."""
    scenario = street()
    run = MemoryRun(scenario)
    first, *others = build_node_configs(scenario, run="memory").homes
    wants_more = first.privacy.model_copy(update={"minimum_group": 6})
    run.builds[first.name] = partial(run._home, first.model_copy(update={"privacy": wants_more}))
    nodes = {name: build(False) for name, build in run.builds.items()}
    record = run.finish(run.transport.run(list(nodes.values())))
    refusal = nodes[first.name].progress.masks
    assert refusal == (None, "groups of 5 homes or more, agreed are 6 (privacy.minimum_group)")
    assert {nodes[each.name].progress.masks for each in others} <= {(5, None), (6, None)}
    assert record.settled and {entry["why"][first.name] for entry in record.aggregator_rounds} == {
        "has sealed nothing for the committee"
    }


# --- members that come and go ---


MEMBERS: Mapping[int, Tree] = {
    1: {"a1": [f"h{number}" for number in range(1, 7)], "a2": [f"h{number}" for number in range(7, 13)]},
    2: {"a1": [f"h{number}" for number in range(1, 8)], "a2": [f"h{number}" for number in range(8, 14)]},  # one moves
    3: {"a1": [f"h{number}" for number in range(2, 8)], "a2": [f"h{number}" for number in range(8, 14)]},  # one leaves
    4: {"a1": [f"h{number}" for number in range(2, 7)], "a2": ["h1", *(f"h{number}" for number in range(7, 14))]},
}


def test_homes_join_leave_and_move_between_sessions() -> None:
    scenario = grid(homes=13, aggregators=2)
    private, exact = (
        play_grid(scenario.change(privacy=privacy), MEMBERS[1], dict(list(MEMBERS.items())[1:]))
        for privacy in (PRIVATE, PrivacySettings())
    )
    assert private.record.failures == {}
    for session, tree in MEMBERS.items():
        of_private, of_exact = private.record.of_session(session), exact.record.of_session(session)
        assert private.members(session) == private.answered(session) == tree
        assert of_private.conclusion["complete"]
        assert np.allclose(of_private.rounds[-1]["price"], of_exact.rounds[-1]["price"], rtol=0, atol=1e-9)


# --- faults ---


@dataclass
class Played:
    """What a run under faults has left, and the rosters by which each aggregator's homes masked, in their order."""

    record: RunRecord
    rosters: list[MaskRoster]
    groups: Mapping[str, tuple[str, ...]]

    @property
    def roster(self) -> Roster:
        return Roster.of(self.rosters[0])

    @property
    def committees(self) -> int:
        return len({(each.digest, each.epoch) for each in self.rosters})

    def names_of_groups(self) -> set[str]:
        return {group for entry in self.record.aggregator_rounds for group in entry.get("not_summed", {})}


def play(scenario: Scenario, *faults: Mapping[str, Any], seed: int = 1) -> Played:
    run = MemoryRun(scenario)
    plan = FaultPlan.model_validate({"seed": seed, "faults": list(faults)})
    transport = FaultyMemory(plan, run.builds, run.run_record.faults.append)
    try:
        result = transport.run(transport.nodes())
    except DeadlockError as deadlock:
        result = deadlock.result
        assert result.crashed
    record = run.finish(result)
    rosters = [
        MaskRoster.model_validate(each["masks"]["roster"])
        for each in run.ledgers["a1"]
        if "roster" in each.get("masks", {})
    ]
    return Played(record, rosters, Roster.of(rosters[0]).groups if rosters else {})


@functools.cache
def calm() -> Played:
    """A run without faults of two groups, and of a committee that has members in both and leaves some out of each."""
    played = play(street())
    assert len(played.groups) == 2
    return played


@functools.cache
def exact() -> RunRecord:
    return without_masks(street())


def test_home_has_saved_what_it_signs_and_answers_before_anybody_hears_of_it() -> None:
    """What it would forget over a restart, two lists are signed for, or two rosters answered under."""
    run, below = MemoryRun(street()), "stackelgrid/memory/a1"
    heard: list[tuple[Any, Any]] = []  # what was said, what its sender had saved then

    def receive(topic: str, payload: bytes, now: float) -> Any:
        if topic == f"{below}/signal":
            return [] if payload else finish()
        said = json.loads(payload)
        saved = run._memories[said["sender"]]["masks"]["party"]
        if topic.endswith("/answer"):
            heard.append((said["body"]["roster"], saved["answered"]))
        else:
            heard.append(((said["round"], said["digest"]), (saved["signed"]["round"], saved["signed"]["digest"])))
        return []

    tap = Scripted("tap", [f"{below}/signal", f"{below}/+/answer", f"{below}/+/signature"], receive=receive)
    run.finish(run.transport.run([tap, *(build(False) for build in run.builds.values())]))
    assert len(heard) > 17 and all(said == saved for said, saved in heard)


def test_member_that_cannot_save_what_it_would_sign_signs_nothing() -> None:
    """After a restart it would not know which list of the round was signed."""
    run, full = MemoryRun(street()), calm().roster.committee(0)[0]
    (config,) = (each for each in build_node_configs(street(), run="memory").homes if each.name == full)
    draw = draw_from_seed(street().seed, full)
    node = emc_node.config.assemble(config, lambda settled: None, lambda memory: False, None, draw)
    signed: list[str] = []

    def receive(topic: str, payload: bytes, now: float) -> Any:
        if topic.endswith("/signature"):
            signed.append(json.loads(payload)["sender"])
        return finish() if topic.endswith("/signal") and not payload else []

    tap = Scripted("tap", ["stackelgrid/memory/a1/signal", "stackelgrid/memory/a1/+/signature"], receive=receive)
    others = [build(False) for name, build in run.builds.items() if name != full]
    record = run.finish(run.transport.run([tap, node, *others]))
    assert record.settled and record.conclusion["complete"], "four of five are enough"
    assert set(signed) == set(calm().roster.committee(0)[1:])
    assert any("no list is signed" in remark for remark in node.progress.remarks)


def crash(node: str, *, lose: bool = False, **of_fault: Any) -> dict[str, Any]:
    return {"kind": "crash", "node": node, "at": {"round": 2}, "restart_after_s": 0.01, "lose_state": lose, **of_fault}


LOST_KEYS = "has come back with other keys than masks were set up with"


def outsider() -> str:
    """A home that is not in the committee."""
    committee = calm().roster.committee(0)
    return next(name for name in calm().roster.parties if name not in committee)


@pytest.mark.parametrize("member", [True, False])
def test_home_that_is_restarted_goes_on_with_its_keys(member: bool) -> None:
    name = calm().roster.committee(0)[0] if member else outsider()
    played = play(street(), crash(name))
    assert [fault.kind for fault in played.record.faults] == ["crash", "restart"]
    assert_same(played.record, exact())
    assert played.record.conclusion["complete"] and played.record.rejected == {}
    assert played.committees == 1


@pytest.mark.parametrize("member", [True, False])
@pytest.mark.parametrize("lose", [True, False])
def test_group_of_a_home_that_is_gone_stands_still_and_the_journal_says_why(member: bool, lose: bool) -> None:
    """One that comes back without its keys is gone until the next session, as one that does not come back."""
    name = calm().roster.committee(0)[0] if member else outsider()
    played = play(street(), crash(name, lose=lose, restart_after_s=0.01 if lose else None))
    (group,) = (group for group, names in played.groups.items() if name in names)
    assert played.record.settled and not played.record.conclusion["complete"]
    later = [entry for entry in played.record.aggregator_rounds if entry["round"] > 1]
    assert later and all(
        entry["not_summed"].keys() == {group} and name in entry["not_summed"][group] for entry in later
    )
    assert played.committees == 1  # one of five may be missing
    told = [event["text"] for event in describe_inner_round("a1", later[0]) if "text" in event]
    assert told[0].startswith(f"{name} has not answered in round 2: ")
    assert told[1].startswith(f"{group} of a1 is not summed in round 2: ")
    if lose:
        assert played.record.failures == {} and played.record.rejected.keys() == {"masks"}
        assert all(entry["why"] == {name: LOST_KEYS} and entry["ms"] < 100 for entry in later), "nobody waits for it"


@pytest.mark.parametrize("away_s", [3.04, 3.5])
def test_home_that_is_away_while_masks_are_set_up_is_left_out_until_the_next_session(away_s: float) -> None:
    """It is expected back for as long as a step of setting up may take, once."""
    scenario = street(13, slots=24, calendar=DAY | {"horizon": "12h"})
    record = play(scenario, crash("h13", at={"seconds": 0.0}, restart_after_s=away_s)).record
    why: dict[int, set[str]] = {1: set(), 2: set()}
    for entry in record.aggregator_rounds:
        why[entry["session"]] |= {entry["why"].get("h13", "")}
        assert entry["excluded"] == list(entry["why"])
        assert entry["ms"] < 100, "nobody waits for it"
    left_out = "was not there when masks were set up"
    assert why == {1: {"has sealed nothing for the committee"}, 2: {"" if away_s < 3.1 else left_out}}
    assert record.of_session(2).conclusion["complete"] is (away_s < 3.1)
    assert record.failures == {}


def test_aggregator_all_of_whose_groups_stand_still_is_believed_by_the_leader() -> None:
    """They go on along their sums, and by no more than their connections carry, while the price falls to a quarter."""
    scenario = street(20, aggregators=2)
    record = play(scenario, *(crash(name, restart_after_s=None) for name in ("h1", "h5"))).record
    of_a1 = [entry for entry in record.aggregator_rounds if entry["aggregator"] == "a1" and entry["round"] > 1]
    assert all(len(entry["not_summed"]) == 2 for entry in of_a1)
    assert record.settled and all(entry["quarantined"] == [] for entry in record.rounds)


def test_committee_without_two_members_is_replaced() -> None:
    """They are both of one group, so that the other has to be summed by others."""
    committee = calm().roster.committee(0)
    group, gone = next(
        (group, seated[:2])
        for group, names in calm().groups.items()
        if len(seated := [name for name in committee if name in names]) > 1
    )
    played = play(street(), *(crash(name, restart_after_s=None) for name in gone))
    assert played.record.settled
    assert [(each.digest, each.epoch) for each in played.rosters] == [
        (calm().roster.digest, 0),
        (calm().roster.digest, 1),
    ]
    assert played.names_of_groups() == {group}
    assert {each["node"] for each in played.record.missing if each["action"] == "not summed"} == {f"{group} of a1"}


def test_aggregator_that_is_killed_while_its_committee_is_silent_replaces_it() -> None:
    """After the restart it still has a round to be summed, and asks its question again for the next committee."""
    committee = calm().roster.committee(0)
    group, gone = next(
        (group, seated[:2])
        for group, names in calm().groups.items()
        if len(seated := [name for name in committee if name in names]) > 1
    )
    scenario = street().change(rounds=street().rounds.model_copy(update={"return_s": 0.0}))
    killed = [crash(name, restart_after_s=None) for name in gone]
    played = play(scenario, *killed, crash("a1", at={"seconds": 1.0}))
    assert [fault.kind for fault in played.record.faults].count("restart") == 1
    assert played.record.settled and played.committees == 2
    assert played.names_of_groups() == {group}


MOMENTS = [0.002, 0.009, 0.013, 0.017, 0.021, 0.025]
"""Seconds of a run of 0.05 s: gathering, while masks are set up, in rounds, while masks are summed, settling."""


@pytest.mark.parametrize("lose", [True, False])
@pytest.mark.parametrize("moment", MOMENTS)
def test_aggregator_goes_on_after_a_kill_at_any_moment(moment: float, lose: bool) -> None:
    played = play(street(), crash("a1", at={"seconds": moment}, lose=lose))
    assert [fault.kind for fault in played.record.faults] == ["crash", "restart"]
    assert_same(played.record, exact())
    assert played.record.conclusion["complete"] and played.record.rejected == {}


@pytest.mark.parametrize(
    "fault",
    [
        crash("leader"),
        {"kind": "broker", "at": {"round": 2}, "seconds": 0.5, "keep_retained": True},
        {"kind": "broker", "at": {"round": 2}, "seconds": 0.5, "keep_retained": False},
        {"kind": "broker", "at": {"seconds": 0.009}, "seconds": 0.5, "keep_retained": False},
        {"kind": "delay", "seconds": 0.3, "jitter_s": 0.2},
        {"kind": "duplication", "probability": 0.5, "copies": 2},
        {"kind": "reordering", "probability": 0.3, "seconds": 0.1},
    ],
    ids=["leader", "broker", "broker-forgets", "broker-at-set-up", "late", "twice", "reordered"],
)
def test_sums_stay_exact_whatever_happens_to_leader_broker_or_order(fault: dict[str, Any]) -> None:
    played = play(street(), fault)
    assert played.record.faults
    assert_same(played.record, exact())
    assert played.record.conclusion["complete"]


@pytest.mark.parametrize("seed", range(4))
def test_lost_messages_cost_tries_and_no_sum_is_wrong(seed: int) -> None:
    played = play(street(), {"kind": "loss", "probability": 0.1}, seed=seed)
    assert played.record.faults and played.record.settled and played.record.failures == {}
    assert played.record.conclusion["complete"] is not any(
        entry["held"] or entry["excluded"] or entry.get("not_summed") for entry in played.record.aggregator_rounds
    )
    if played.record.conclusion["complete"]:
        assert_same(played.record, exact())


@pytest.mark.parametrize("seed", range(3))
def test_sum_that_a_bit_has_spoilt_is_refused_and_the_journal_names_its_homes(seed: int) -> None:
    """The highest bits of a masked answer are far beyond what connections carry."""
    played = play(street(), {"kind": "corruption", "probability": 0.03}, seed=seed)
    assert played.record.faults and played.record.settled and played.record.failures == {}
    for entry in played.record.aggregator_rounds:
        for group, why in entry.get("not_summed", {}).items():
            assert set(played.groups[group]) & set(re.findall(r"h\d+", why))
