"""The record of a run on any transport, from which its result is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field

from stackelgrid.model import StrictModel


class FaultRecord(StrictModel):
    """A fault of a plan that happened: its number in the plan, its kind, where, in which round, after how many seconds.

    A fault on messages has `from_` and `to`, any other its `node`. `round` is that of the conversation in which it
    happened; None is none. Over MQTT `seconds` are those until the testbed heard of it. A node that is back from a
    crash is of kind `restart`, under the number of the crash.
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

    @property
    def occasion(self) -> tuple[int, str, str | None, int | None]:
        """The occasion that it is counted for: a fault on messages once a round, whatever links it struck."""
        return self.fault, self.kind, None if self.to is not None else self.node, self.round

    def content(self) -> dict[str, Any]:
        """Give the same as JSON has it; keys that were not given stay away."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


@dataclass
class RunRecord:
    """The record of a run.

    - `rounds`: the journal of the leader, `aggregator_rounds`: those of the aggregators, each record with its
      `aggregator`;
    - `conclusion`: the leader's final record, {} when there is none;
    - `aggregators`: the account of each aggregator after the settlement, `homes`: each home's settled schedule;
    - `sessions`: of a run of several, a record of each that was begun: what is above, and the `states` in which leader
      and homes went into it. Above are then all rounds, and how it went in all sessions;
    - `rosters`: of a session, the number and members of the roster that each coordinator played by, where it had one;
    - `faults`: the faults of the plan that happened, `failures`: the nodes that died, and `broker`, each with the
      reason;
    - `late`: the EMC processes that had not come when the first round began, `last_errors`: the last warning or error
      that each node logged;
    - `certified`: whether nodes knew each other by certificates;
    - `rejected`: the messages that nodes ignored, by reason; `messages`, `bytes`: those that nodes sent.
    """

    transport: str
    broker: str
    processes: int
    rounds: list[dict[str, Any]] = field(default_factory=list)
    aggregator_rounds: list[dict[str, Any]] = field(default_factory=list)
    conclusion: dict[str, Any] = field(default_factory=dict)
    aggregators: dict[str, dict[str, Any]] = field(default_factory=dict)
    homes: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: dict[str, Any] = field(default_factory=dict)
    rosters: dict[str, dict[str, Any]] = field(default_factory=dict)
    sessions: dict[int, RunRecord] = field(default_factory=dict)
    faults: list[FaultRecord] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    last_errors: dict[str, str] = field(default_factory=dict)
    certified: bool = False
    rejected: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    bytes: int = 0
    elapsed_s: float = 0.0
    interrupted: bool = False

    def of_session(self, number: int) -> RunRecord:
        """Give the record of one of several sessions."""
        return self.sessions.setdefault(number, RunRecord(self.transport, self.broker, self.processes))

    def add_account(self, aggregator: str, account: Mapping[str, Any]) -> None:
        """Add what an aggregator writes down of a settlement, of several with their session."""
        if "session" in account:
            record = self.of_session(account["session"])
            record.aggregators[aggregator] = dict(account["account"])
            record.states.update(account["states"])
            if "roster" in account:
                record.rosters[aggregator] = account["roster"]
        else:
            self.aggregators[aggregator] = dict(account)

    def add_schedules(self, settled: Mapping[str, Any]) -> None:
        """Add what homes will do by a settlement, of several with their session and the states that they began with."""
        if isinstance(settled.get("session"), int):  # no home's name
            record = self.of_session(settled["session"])
            record.homes.update(settled["homes"])
            # One that has lost its disk meanwhile settles anew, from another state.
            record.states = {name: state for name, state in record.states.items() if name not in settled["homes"]}
            record.states.update(settled["states"])
        else:
            self.homes.update(settled)

    def divide(self, sessions: int) -> None:
        """Give each of several `sessions` its part, and sum up how the leader says that they have ended."""
        ended, self.conclusion = [dict(each) for each in self.conclusion.get("sessions", ())], {}
        for each in ended:
            record = self.of_session(each.pop("session"))
            record.states.update(each.pop("states", {}))
            if "roster" in each:
                record.rosters["leader"] = each.pop("roster")
            record.conclusion = each
        for finished in self.rounds:
            self.of_session(finished["session"]).rounds.append(finished)
        for finished in self.aggregator_rounds:
            self.of_session(finished["session"]).aggregator_rounds.append(finished)
        for record in self.sessions.values():
            traffic = record.traffic
            record.messages, record.bytes = (sum(entry[key] for entry in traffic) for key in ("messages", "bytes"))
        if len(ended) < sessions:
            return
        self.conclusion = {key: all(each[key] for each in ended) for key in ("settled", "complete")}
        for key in ("lost", "unacknowledged"):
            self.conclusion[key] = list(dict.fromkeys(name for each in ended for name in each.get(key, ())))
        self.conclusion["stopped"] = next(
            (why for each in ended if (why := each.get("stopped") or each.get("skipped"))), ""
        )
        # A home has taken part where it has a schedule of every session.
        settled = [self.of_session(number + 1).homes for number in range(sessions)]
        self.homes = {name: each for name, each in settled[-1].items() if all(name in homes for homes in settled)}

    @property
    def settled(self) -> bool:
        """True when the leader's stopping rule was met. A settlement is sent in any case."""
        return bool(self.conclusion.get("settled"))

    @property
    def stopped(self) -> str:
        """Why the leader ended the run before the rounds ran out, or skipped the session; empty where it did not."""
        return str(self.conclusion.get("stopped") or self.conclusion.get("skipped", ""))

    @property
    def lost(self) -> bool:
        """True when the run ended because a node or the broker was lost for good."""
        return not self.interrupted and (not self.conclusion or bool(self.conclusion.get("lost")))

    @property
    def inner_rounds(self) -> int:
        """The largest number of rounds that an aggregator played with its homes."""
        return max(Counter(record["aggregator"] for record in self.aggregator_rounds).values(), default=0)

    @property
    def left_out(self) -> list[str]:
        """The nodes that no round of the leader had an answer of."""
        excluded = {(entry["node"], entry["round"]) for entry in self.missing if entry["action"] == "excluded"}
        rounds = Counter(node for node, _ in excluded)
        return sorted(node for node, count in rounds.items() if count == len(self.rounds))

    @property
    def missing(self) -> list[dict[str, Any]]:
        """The members that a round of the leader ended without: {`round`, `node`, `action`, `why`}.

        Where sums are masked, a group without one of that round is `not summed`.
        """
        finished = {record["round"] for record in self.rounds}
        missing = [
            {"round": record["round"], "node": node, "action": action, "why": record.get("why", {}).get(node, "")}
            for record in [*self.rounds, *self.aggregator_rounds]
            if record["round"] in finished
            for action in ("held", "excluded", "quarantined")
            for node in record.get(action, [])
        ]
        missing += [
            {"round": record["round"], "node": f"{group} of {record['aggregator']}", "action": "not summed", "why": why}
            for record in self.aggregator_rounds
            if record["round"] in finished
            for group, why in record.get("not_summed", {}).items()
        ]
        return sorted(missing, key=lambda entry: (entry["round"], entry["node"]))

    @property
    def traffic(self) -> list[dict[str, Any]]:
        """The questions, messages and bytes of each round of the leader, those with the homes included.

        The questions are those that one home was asked. The last entry, of no round, has what is in no round: presence,
        settlement, receipts, and what came to nobody. With it messages and bytes add up to those of the run. There is
        none where those of the run leave some out: of nodes that were killed, or that an observer does not hear.
        """
        traffic = []
        for record in self.rounds:
            number = record["round"]
            inner = [each for each in self.aggregator_rounds if each["round"] == number]
            asked = Counter[str]()
            for each in inner:
                asked[each["aggregator"]] += each["questions"]
            sums = {key: record[key] + sum(each[key] for each in inner) for key in ("messages", "bytes")}
            traffic.append({"round": number, "questions": max(asked.values(), default=record["questions"]), **sums})
        rest = {key: getattr(self, key) - sum(each[key] for each in traffic) for key in ("messages", "bytes")}
        return [*traffic, {"round": None, "questions": 0, **rest}] if min(rest.values()) >= 0 else traffic


class Outcome(StrictModel):
    """Base of a game's outcome, `outcome` in result.json. It is built once, by `of`.

    That of a dated run has besides the `times` at which its slots begin, ISO 8601 with offset, and their length
    `slot_hours`, Δ.
    """

    times: list[str] | None = None
    slot_hours: float = 1.0

    @classmethod
    def of(cls, scenario: Any, run_record: RunRecord) -> Self:
        """Build it from a run of `scenario`, a game's own, in which at least one round was finished."""
        raise NotImplementedError

    def content(self) -> dict[str, Any]:
        """Give the same as JSON has it; keys that were not given stay away."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
