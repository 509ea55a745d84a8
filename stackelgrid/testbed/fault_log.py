"""List the faults of a run by round of the leader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from stackelgrid.run_record import FaultRecord, RunRecord
from stackelgrid.scenarios import Scenario
from stackelgrid.scenarios.topology import LEADER


def list_faults(scenario: Scenario, run_record: RunRecord) -> list[dict[str, Any]]:
    """List the rounds in which a fault happened, and how often: {`fault`, `kind`, `round`, `times`} and where.

    `fault` is its number in the plan, `round` the leader's, None for faults between rounds. Faults of nodes have an
    entry for each `node`, faults on messages one with all senders in `from` and receivers in `to`. A node that is back
    from a crash is of kind `restart`.
    """
    if not run_record.faults:
        return []
    rounds = _Rounds(scenario, run_record)
    found: dict[tuple[int, int, str, str], list[FaultRecord]] = defaultdict(list)
    for record in run_record.faults:
        number = rounds.of(record)
        changed = record.model_copy(update={"round": number})
        found[number or 0, record.fault, record.kind, record.node or ""].append(changed)
    return [_entry(found[key]) for key in sorted(found)]


def _entry(records: Sequence[FaultRecord]) -> dict[str, Any]:
    """Give the entry for the records of one fault in one round."""
    first = records[0]
    entry: dict[str, Any] = {"fault": first.fault, "kind": first.kind, "round": first.round, "times": len(records)}
    if first.node is not None and first.kind != "broker":  # the leader reports the broker's failure in a round
        entry["node"] = first.node
    if first.to is not None:
        entry["from"] = sorted({record.from_ for record in records if record.from_ is not None})
        entry["to"] = sorted({record.to for record in records if record.to is not None})
    return entry


def count_repeated_requests(run_record: RunRecord) -> list[dict[str, Any]]:
    """Count the members that were asked again, by round of the leader and coordinator: {`round`, `by`, `members`}."""
    counted: dict[tuple[int, str], int] = defaultdict(int)
    for record in [*run_record.rounds, *run_record.aggregator_rounds]:
        if record.get("again"):
            counted[record["round"], record.get("aggregator", LEADER)] += record["again"]
    return [{"round": number, "by": name, "members": counted[number, name]} for number, name in sorted(counted)]


class _Rounds:
    """Finds the leader's round for a record, whose own round is that of the conversation in which it happened."""

    def __init__(self, scenario: Scenario, run_record: RunRecord) -> None:
        self._aggregators = scenario.topology.aggregator_of
        self._served: dict[str, list[int]] = defaultdict(list)  # by aggregator, the leader's round of each of its own
        for record in run_record.aggregator_rounds:
            self._served[record["aggregator"]].append(record["round"])
        self._asked = len(run_record.rounds) + (not run_record.settled)

    def of(self, record: FaultRecord) -> int | None:
        """Give the leader's round; None for a record of no round."""
        number = record.round
        if number is None:
            return None
        coordinator = self._coordinator(record.nodes)
        served = list(range(1, self._asked + 1)) if coordinator == LEADER else self._served[coordinator]
        if number <= len(served):
            return served[number - 1]
        # A round that was asked and not finished: the next one, if the leader asked one.
        return min(self._asked, (served[-1] if served else 0) + number - len(served))

    def _coordinator(self, names: Sequence[str]) -> str:
        """Name the coordinator in whose conversation a fault of these nodes happened."""
        return next((self._aggregators[name] for name in names if name in self._aggregators), LEADER)
