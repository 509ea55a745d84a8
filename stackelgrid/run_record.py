"""What a run left behind, whatever carried it: the raw material of result.json."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field

from stackelgrid.model import StrictModel


class FaultRecord(StrictModel):
    """A fault of a plan that happened: its number in the plan, its kind, where, in which round, after how many seconds.

    A fault on messages has `from_` and `to`, any other its `node`. `round` is that of the conversation in which it
    happened; None is none. A node that is back from a crash is of kind `restart`, under the number of the crash.
    """

    model_config = ConfigDict(populate_by_name=True)

    fault: int
    kind: str
    node: str | None = None
    from_: Annotated[str | None, Field(alias="from")] = None
    to: str | None = None
    round: int | None
    seconds: float

    @property
    def nodes(self) -> list[str]:
        """The nodes that it happened to: one, or sender and receiver."""
        return [name for name in (self.node, self.from_, self.to) if name is not None]

    def content(self) -> dict[str, Any]:
        """Give the same as JSON has it; keys that were not given stay away."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


@dataclass
class RunRecord:
    """A run that has ended.

    `rounds` is the leader's journal, `below` the aggregators' (each record with its `aggregator`), `conclusion` how the
    leader ended ({} when it did not), `aggregators` what each made of the settlement, `homes` each home's settled
    schedule, `missing` who was held or excluded when, `faults` what of a plan happened, `failures` nodes that died, by
    name.
    """

    transport: str
    broker: str
    processes: int
    rounds: list[dict[str, Any]] = field(default_factory=list)
    below: list[dict[str, Any]] = field(default_factory=list)
    conclusion: dict[str, Any] = field(default_factory=dict)
    aggregators: dict[str, dict[str, Any]] = field(default_factory=dict)
    homes: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: list[dict[str, Any]] = field(default_factory=list)
    faults: list[FaultRecord] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    bytes: int = 0
    elapsed_s: float = 0.0
    interrupted: bool = False

    @property
    def settled(self) -> bool:
        """Whether the leader declared a settlement."""
        return bool(self.conclusion.get("settled"))

    @property
    def lost(self) -> bool:
        """Whether the run ended because a node or the broker was lost for good."""
        return not self.interrupted and (not self.conclusion or bool(self.conclusion.get("lost")))

    @property
    def inner_rounds(self) -> int:
        """The rounds that aggregators played with their homes, of the aggregator that played most."""
        return max(Counter(record["aggregator"] for record in self.below).values(), default=0)


def missing_in(leader_rounds: list[dict[str, Any]], below: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The members that a round went on without, and what was done about each: of the leader, then of those `below`.

    A round that the leader did not finish does not count.
    """
    finished = {record["round"] for record in leader_rounds}
    missing = [
        {"round": record["round"], "node": node, "action": action}
        for record in [*leader_rounds, *below]
        if record["round"] in finished
        for action in ("held", "excluded", "quarantined")
        for node in record.get(action, [])
    ]
    return sorted(missing, key=lambda entry: (entry["round"], entry["node"]))


class Outcome(StrictModel):
    """Base of what comes out of a run of a game, `outcome` in result.json. Built once, by `of`; then only read."""

    @classmethod
    def of(cls, scenario: Any, run_record: RunRecord) -> Self:
        """Build it from a run of `scenario`, a game's own, in which at least one round was finished."""
        raise NotImplementedError

    def content(self) -> dict[str, Any]:
        """The same as JSON has it; keys that were not given stay away."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
