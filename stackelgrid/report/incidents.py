"""What went wrong in a run, round by round: the faults of its plan, and what became of members who did not answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stackelgrid.report.words import counted
from stackelgrid.run_result import FaultOccurrence, RunResult

NAMED = 3
"""Nodes told one by one; more of them are counted."""
_BRIEFLY = {"broker": "broker killed"}
_MEANINGS = {
    "broker": "broker killed, and back",
    "restart": "restart: back from its crash",
    "held": "held: its last answer stood in",
    "excluded": "excluded: left out",
    "quarantined": "quarantined: not listened to any more",
    "asked again by": "asked members again",
}

OnFault = tuple[int | None, str, int]
"""In which round of the leader, None for between rounds; to whom; how often."""


@dataclass(frozen=True)
class Mishap:
    """`what` happened to `whom`, by the leader's round (None: between rounds) how often.

    `planned` tells a fault of the plan from what was done about one.
    """

    what: str
    whom: str
    times: Mapping[int | None, int]
    planned: bool = True

    @property
    def label(self) -> str:
        """In a few words."""
        return f"{_BRIEFLY.get(self.what, self.what)} {self.whom}".strip()

    @property
    def meaning(self) -> str:
        """`what`, to somebody who does not know the word."""
        return _MEANINGS.get(self.what, self.what)

    @property
    def rounds(self) -> str:
        """In which rounds, as in "1–3, 7"."""
        numbers = _ranges(sorted(number for number in self.times if number is not None))
        return ", ".join([*numbers, *(["between rounds"] if None in self.times else [])])


def incidents(result: RunResult[Any], named: int = NAMED) -> list[Mishap]:
    """What struck, in the order of its first round, and what was done; up to `named` nodes are told one by one."""
    return [*_of_nodes(result.struck, named), *_of_messages(result.struck, named), *_done(result, named)]


def _of_nodes(strikes: Sequence[FaultOccurrence], named: int) -> Iterator[Mishap]:
    """Of each kind, whatever fault of the plan it was."""
    kinds: dict[str, list[OnFault]] = {}
    for strike in strikes:
        if not strike.from_:
            kinds.setdefault(strike.kind, []).append((strike.round, strike.node, strike.times))
    for kind, happened in kinds.items():
        yield from _by_node(kind, happened, named)


def _of_messages(strikes: Sequence[FaultOccurrence], named: int) -> Iterator[Mishap]:
    """Of each fault of the plan, whose messages to whom."""
    faults: dict[int, list[FaultOccurrence]] = {}
    for strike in strikes:
        if strike.from_:
            faults.setdefault(strike.fault, []).append(strike)
    for mine in faults.values():
        senders = _together({name for strike in mine for name in strike.from_}, named)
        receivers = _together({name for strike in mine for name in strike.to}, named)
        yield Mishap(mine[0].kind, f"{senders} → {receivers}", _summed((each.round, each.times) for each in mine))


def _done(result: RunResult[Any], named: int) -> Iterator[Mishap]:
    """Who was held, excluded or asked again."""
    for action in dict.fromkeys(entry.action for entry in result.missing):
        missing = [(entry.round, entry.node, 1) for entry in result.missing if entry.action == action]
        yield from _by_node(action, missing, named, planned=False)
    again = [(entry.round, entry.by, entry.members) for entry in result.asked_again]
    yield from _by_node("asked again by", again, named, planned=False)


def _by_node(what: str, happened: Sequence[OnFault], named: int, *, planned: bool = True) -> Iterator[Mishap]:
    """One for each node where they are few, else one for all."""
    nodes = sorted({node for _, node, _ in happened})
    groups = [[node] for node in nodes] if len(nodes) <= named else [nodes]
    for group in groups:
        times = _summed((number, count) for number, node, count in happened if node in group)
        yield Mishap(what, _together(group, named), times, planned)


def _together(nodes: Iterable[str], named: int) -> str:
    """By name where they are few."""
    known = sorted(nodes)
    return ", ".join(known) if len(known) <= max(named, 1) else counted(len(known), "node")


def _summed(times: Iterable[tuple[int | None, int]]) -> Mapping[int | None, int]:
    total: Counter[int | None] = Counter()
    for number, count in times:
        total[number] += count
    return total


def _ranges(numbers: Sequence[int]) -> list[str]:
    """1, 2, 3, 7 as "1–3" and "7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [str(first) if first == last else f"{first}–{last}" for first, last in runs]
