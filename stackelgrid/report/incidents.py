"""The incidents of a run, round by round: the faults of its plan, and members who did not answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stackelgrid.report.words import plural
from stackelgrid.run_result import FaultOccurrence, RunResult

NAMED = 3
"""Nodes that are named; more of them are counted."""
_BRIEFLY = {"broker": "broker killed"}
_MEANINGS = {
    "broker": "broker killed, and back",
    "restart": "restart: back from its crash",
    "held": "held: its last answer stood in",
    "excluded": "excluded: left out",
    "quarantined": "quarantined: not listened to any more",
    "not summed": "not summed: the last sum of the group stood in, or it was left out",
    "asked again by": "asked members again",
}

Event = tuple[int | None, str, int]
"""The round of the leader, None for between rounds; the node; how often."""


@dataclass(frozen=True)
class Incident:
    """`what` happened to `whom`, and how often in each round of the leader (None: between rounds).

    `planned` is true of a fault of the plan, false of a reaction to one.
    """

    what: str
    whom: str
    times: Mapping[int | None, int]
    planned: bool = True

    @property
    def label(self) -> str:
        """The incident in a few words."""
        return f"{_BRIEFLY.get(self.what, self.what)} {self.whom}".strip()

    @property
    def meaning(self) -> str:
        """`what`, explained."""
        return _MEANINGS.get(self.what, self.what)

    @property
    def rounds(self) -> str:
        """The rounds, as in "1–3, 7"."""
        numbers = _list_ranges(sorted(number for number in self.times if number is not None))
        return ", ".join([*numbers, *(["between rounds"] if None in self.times else [])])


def list_incidents(result: RunResult[Any], named: int = NAMED) -> list[Incident]:
    """List faults in the order of their first round, then the reactions; up to `named` nodes are named one by one."""
    faults = [*_list_node_faults(result.struck, named), *_list_message_faults(result.struck, named)]
    return [*faults, *_list_reactions(result, named)]


def _list_node_faults(occurrences: Sequence[FaultOccurrence], named: int) -> Iterator[Incident]:
    """List the faults of nodes by kind, whatever fault of the plan it was."""
    kinds: dict[str, list[Event]] = {}
    for each in occurrences:
        if not each.from_:
            kinds.setdefault(each.kind, []).append((each.round, each.node, each.times))
    for kind, events in kinds.items():
        yield from _group_by_node(kind, events, named)


def _list_message_faults(occurrences: Sequence[FaultOccurrence], named: int) -> Iterator[Incident]:
    """List the faults of messages by fault of the plan, with senders and receivers."""
    faults: dict[int, list[FaultOccurrence]] = {}
    for each in occurrences:
        if each.from_:
            faults.setdefault(each.fault, []).append(each)
    for mine in faults.values():
        senders = _join_names({name for each in mine for name in each.from_}, named)
        receivers = _join_names({name for each in mine for name in each.to}, named)
        times = _sum_by_round((each.round, each.times) for each in mine)
        yield Incident(mine[0].kind, f"{senders} → {receivers}", times)


def _list_reactions(result: RunResult[Any], named: int) -> Iterator[Incident]:
    """List the members that were held, excluded or asked again."""
    for action in dict.fromkeys(entry.action for entry in result.missing):
        missing = [(entry.round, entry.node, 1) for entry in result.missing if entry.action == action]
        yield from _group_by_node(action, missing, named, planned=False)
    again = [(entry.round, entry.by, entry.members) for entry in result.asked_again]
    yield from _group_by_node("asked again by", again, named, planned=False)


def _group_by_node(what: str, events: Sequence[Event], named: int, *, planned: bool = True) -> Iterator[Incident]:
    """Give an incident for each node where they are few, else one for all."""
    nodes = sorted({node for _, node, _ in events})
    groups = [[node] for node in nodes] if len(nodes) <= named else [nodes]
    for group in groups:
        times = _sum_by_round((number, count) for number, node, count in events if node in group)
        yield Incident(what, _join_names(group, named), times, planned)


def _join_names(nodes: Iterable[str], named: int) -> str:
    """Name the nodes where they are few, else count them."""
    known = sorted(nodes)
    return ", ".join(known) if len(known) <= max(named, 1) else plural(len(known), "node")


def _sum_by_round(times: Iterable[tuple[int | None, int]]) -> Mapping[int | None, int]:
    total: Counter[int | None] = Counter()
    for number, count in times:
        total[number] += count
    return total


def _list_ranges(numbers: Sequence[int]) -> list[str]:
    """Write 1, 2, 3, 7 as "1–3" and "7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [str(first) if first == last else f"{first}–{last}" for first, last in runs]
