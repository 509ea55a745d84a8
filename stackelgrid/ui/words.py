"""A run's rounds and faults as events and in words: of a run that is on, and of one that has ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stackelgrid.run_record import FaultRecord
from stackelgrid.scenarios import Scenario
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.ui.events import Event

MISSING = {
    "held": "counts with its last answer",
    "excluded": "is left out",
    "quarantined": "is in quarantine",
}
"""What is done without the answer of a node, as in a journal, and in words."""


def describe_tree(scenario: Scenario) -> Event:
    """Give the nodes of a run, and its slots."""
    topology, run = scenario.topology, scenario.run
    homes = {process: len(each) for processes in topology.members.values() for process, each in processes.items()}
    nodes: list[dict[str, Any]] = [{"name": LEADER, "role": "leader", "parent": None}]
    nodes += [{"name": name, "role": "aggregator", "parent": LEADER} for name in topology.aggregators]
    nodes += [
        {"name": name, "role": "home", "parent": above, "homes": homes[name]}
        for name, above in topology.aggregator_of.items()
    ]
    sessions = [
        {"number": each.number, "first": each.first, "slots": each.slots, "binding": each.binding}
        for each in scenario.sessions
    ]
    return {
        "type": "tree",
        "nodes": nodes,
        "scenario": scenario.title,
        "homes": len(scenario.everyone),
        "game": scenario.game,
        "money": scenario.money,
        "slots": scenario.slots,
        "slot_hours": scenario.slot_hours,
        "times": None if run.times is None else [time.isoformat() for time in run.times],
        "sessions": sessions,
        "max_rounds": scenario.leader.max_rounds,
        **({} if scenario.gates is None else {"grid": True}),
    }


def describe_round(record: Mapping[str, Any], asked: int | None = None) -> Iterator[Event]:
    """Give the events of a finished round of the leader: the round, who missed it, and both in words.

    `asked` is the number of its members, where the record does not name those who missed it.
    """
    yield {"type": "round", "session": 1, **record}
    yield from describe_missing(record)
    if asked is None:
        asked = record["answered"] + sum(len(record.get(action, [])) for action in MISSING)
    session = f"Session {record['session']}, round" if "session" in record else "Round"
    text = f"{session} {record['round']}: {record['answered']} of {asked} have answered the leader"
    yield {"type": "message", "text": text, "level": "info"}


def describe_missing(record: Mapping[str, Any]) -> Iterator[Event]:
    """Give the events of those who missed a round of a coordinator."""
    masked = {"held": "has not answered"} if "not_summed" in record else {}  # what stands in is a sum of its group
    for action, words in {**MISSING, **masked}.items():
        if names := record.get(action, []):
            yield describe_nodes(action, names)
        for name in names:
            why = record.get("why", {}).get(name)
            yield describe_trouble(f"{name} {words} in round {record['round']}" + (f": {why}" if why else ""))


def describe_inner_round(aggregator: str, record: Mapping[str, Any]) -> Iterator[Event]:
    """Give the events of a finished round of an aggregator with its homes."""
    kept = ("round", "session", "inner", "answered", "held", "excluded", "quarantined", "again", "ms")
    yield {"type": "inner", "aggregator": aggregator, **{key: record[key] for key in kept if key in record}}
    yield from describe_missing(record)
    for group, why in record.get("not_summed", {}).items():
        yield describe_trouble(f"{group} of {aggregator} is not summed in round {record['round']}: {why}")


def describe_fault(record: FaultRecord) -> Event:
    """Give the event of a fault that has struck."""
    where = f" of messages from {record.from_} to {record.to}" if record.to is not None else f" of {record.node}"
    text = f"{record.node} is back" if record.kind == "restart" else f"Fault: {record.kind}{where}"
    if record.kind == "broker":
        text = "Fault: the broker is down"
    content = record.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"seconds"})
    return {"type": "fault", "text": text, **content, "nodes": [] if record.kind == "broker" else record.nodes}


def describe_nodes(state: str, names: list[str]) -> Event:
    """Give the event of nodes that have a new state."""
    return {"type": "node", "state": state, "names": names}


def describe_end(state: str, message: str = "") -> Event:
    """Give the event of the end, with what there is to say of it."""
    return {"type": "end", "state": state} | ({"message": message} if message else {})


def describe_trouble(text: str) -> Event:
    """Give the event of what is not as it should be, in words."""
    return {"type": "message", "text": text, "level": "warning"}
