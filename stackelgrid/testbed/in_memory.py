"""A whole run in one process under a virtual clock: the same nodes, the same messages, no broker."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aggregator_node.config
import emc_node.config
import leader_node.config
from aggregator_node.config import AggregatorConfig
from emc_node.config import EmcConfig
from leader_node.config import LeaderConfig
from stackelgrid.faults.in_memory import Build, FaultyMemory
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.gates import Clock, read_wall_clock
from stackelgrid.interrupts import allow_interrupts
from stackelgrid.node.heartbeat import with_heartbeat
from stackelgrid.node.private_sums import Draw, draw_from_seed
from stackelgrid.rounds.ledger import Entry, Ledger
from stackelgrid.run_record import FaultRecord, RunRecord
from stackelgrid.scenarios import Scenario
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.testbed.recovery import MARK, RecoveryLog
from stackelgrid.transport.base import Traffic, TransportResult
from stackelgrid.transport.memory import DeadlockError, MemoryTransport

_LONGEST_REASON = 200


def play(
    scenario: Scenario,
    on_round: Callable[[dict[str, Any]], None] = lambda record: None,
    plan: FaultPlan | None = None,
    on_fault: Callable[[FaultRecord], None] = lambda record: None,
    log: RecoveryLog | None = None,
) -> RunRecord:
    """Run `scenario` to its end, under a fault plan if there is one.

    `on_round` gets each finished round of the leader, `on_fault` each fault as it happens. With a `log` the run goes on
    from there, and is kept in it; then there is no plan.
    """
    with log.explain_damage() if log is not None and log.lines else nullcontext():
        run = MemoryRun(scenario, on_round, log)
        nodes = [build(False) for build in run.builds.values()] if plan is None else []
    run_record = run.run_record

    def note(record: FaultRecord) -> None:
        run_record.faults.append(record)
        on_fault(record)

    try:
        with allow_interrupts():
            if plan is None:
                result = run.transport.run(nodes)
            else:
                transport = FaultyMemory(plan, run.builds, note, scenario.seed)
                result = transport.run(transport.nodes())
    except DeadlockError as deadlock:
        result = deadlock.result
        if not result.crashed:
            raise
    except KeyboardInterrupt:
        result = TransportResult(traffic=run.transport.traffic)
        run_record.interrupted = True
    return run.finish(result)


class MemoryRun:
    """A run in memory: `builds` builds each of its nodes, at first and after a crash.

    Nodes write into `run_record` and `ledgers`, those of the coordinators by name, and into the `log` if there is one;
    what is in that from before an interrupt is not played again. `on_round` gets each finished round of the leader.
    """

    def __init__(
        self,
        scenario: Scenario,
        on_round: Callable[[dict[str, Any]], None] = lambda record: None,
        log: RecoveryLog | None = None,
    ) -> None:
        self.run_record = RunRecord("memory", "none", 1)
        self.transport = MemoryTransport(scenario.seed)
        self._sessions = len(scenario.sessions)
        self.ledgers: dict[str, list[Entry]] = {}
        self._memories: dict[str, Mapping[str, Any]] = {}  # of homes
        self._draws: dict[str, Draw] = {}
        self._seed = scenario.seed
        self._on_round, self._log = on_round, log
        self._began = time.perf_counter()
        self._rejected: list[Counter[str]] = []  # of each node that was built
        self._counted = (0, 0)  # messages and bytes of before an interrupt, without those by which nodes came together
        self._gathering: tuple[int, int] | None = None  # messages and bytes by which they did
        configs = build_node_configs(scenario, run="memory")
        self._clock = run_clock(scenario)
        self.transport.horizon_s += scenario.slots * scenario.slot_hours * 3600 if scenario.gates is not None else 0
        self.builds: dict[str, Build] = {configs.leader.name: partial(self._leader, configs.leader)}
        self.builds |= {config.name: partial(self._aggregator, config) for config in configs.aggregators}
        self.builds |= {config.name: partial(self._home, config) for config in configs.homes}
        if log is not None:
            self._recall(log.lines)

    def finish(self, result: TransportResult) -> RunRecord:
        """Add to the record what is known once the transport has ended."""
        run_record = self.run_record
        run_record.messages, run_record.bytes = self._count(result.traffic)
        run_record.failures = {name: describe(error) for name, error in result.crashed.items()}
        if self._sessions > 1:
            run_record.divide(self._sessions)
        run_record.rejected = dict(sum(self._rejected, Counter()))
        run_record.elapsed_s = time.perf_counter() - self._began
        return run_record

    def _count(self, traffic: Mapping[str, Traffic]) -> tuple[int, int]:
        """Count messages and bytes as if there had been no interrupt: nodes come together once."""
        messages, size = self._counted
        sent = traffic.values()
        return messages + sum(each.sent for each in sent), size + sum(each.sent_bytes for each in sent)

    def _leader(self, config: LeaderConfig[Any], lose_state: bool) -> Any:
        ledger = self._ledger(config.name, lose_state, self._mark)
        return self._register(leader_node.config.assemble(config, self._journal, self._conclude, ledger, self._clock))

    def _aggregator(self, config: AggregatorConfig[Any], lose_state: bool) -> Any:
        def conclude(account: Mapping[str, Any]) -> None:
            self.run_record.add_account(config.name, account)
            self._keep("account", config.name, account)

        def journal(record: Mapping[str, Any]) -> None:
            self.run_record.aggregator_rounds.append({"aggregator": config.name, **record})
            self._keep("round", config.name, record)

        ledger = self._ledger(config.name, lose_state)
        node = aggregator_node.config.assemble(config, journal, conclude, ledger)
        return self._register(with_heartbeat(node, config, self._clock))

    def _home(self, config: EmcConfig[Any], lose_state: bool) -> Any:
        if lose_state:
            self._memories.pop(config.name, None)

        def act(settled: Mapping[str, Any]) -> None:
            self.run_record.add_schedules(settled)
            self._keep("schedules", config.name, settled)

        def remember(memory: Mapping[str, Any]) -> None:
            self._memories[config.name] = memory
            self._keep("memory", config.name, memory)

        memory = self._memories.get(config.name)
        draw = self._draws.setdefault(config.name, draw_from_seed(self._seed, config.name))
        node = emc_node.config.assemble(config, act, remember, memory, draw)
        return self._register(with_heartbeat(node, config, self._clock))

    def _register(self, node: Any) -> Any:
        self._rejected.append(node.mailbox.rejected)
        return node

    def _ledger(self, name: str, lose_state: bool, then: Callable[[Entry], None] = lambda entry: None) -> Ledger:
        if lose_state:
            self.ledgers.pop(name, None)
        entries = self.ledgers.setdefault(name, [])
        return entries if self._log is None else _KeptLedger(entries, partial(self._keep, "ledger", name), then)

    def _journal(self, record: Mapping[str, Any]) -> None:
        self.run_record.rounds.append(dict(record))
        self._on_round(self.run_record.rounds[-1])

    def _conclude(self, conclusion: Mapping[str, Any]) -> None:
        """Take how a session has ended; one that was played again, or comes after that, replaces what it was before."""
        record = self.run_record.conclusion
        if "session" not in conclusion:
            record.update(conclusion)
            return
        ended = record.setdefault("sessions", [])
        while ended and ended[-1]["session"] >= conclusion["session"]:
            ended.pop()
        ended.append(conclusion)

    # --- an interrupt, and after it ---

    def _keep(self, kind: str, node: str, record: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.keep(kind, node, record)

    def _mark(self, entry: Entry) -> None:
        """Mark in the log that the leader has finished a round or a session."""
        messages, size = self._count(self.transport.traffic)
        if self._gathering is None:  # it has finished its first round, and nothing else
            rounds = [*self.run_record.aggregator_rounds, *([entry["account"]] if "account" in entry else [])]
            self._gathering = (
                messages - sum(each["messages"] for each in rounds),
                size - sum(each["bytes"] for each in rounds),
            )
        mark = {
            "messages": messages,
            "bytes": size,
            "gathering": self._gathering,
            "rejected": dict(sum(self._rejected, Counter())),
            "elapsed_s": time.perf_counter() - self._began,
        }
        self._keep(MARK, LEADER, mark)

    def _recall(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Take over what nodes had kept before an interrupt."""
        run_record = self.run_record
        for line in lines:
            node, record = line["node"], line["record"]
            match line["kind"]:
                case "ledger":
                    self.ledgers.setdefault(node, []).append(record)
                case "memory":
                    self._memories[node] = record
                case "round":
                    run_record.aggregator_rounds.append({"aggregator": node, **record})
                case "account":
                    run_record.add_account(node, record)
                case "schedules":
                    run_record.add_schedules(record)
                case _:
                    mark = record
        if not lines:
            return
        self._gathering = messages, size = tuple(mark["gathering"])
        self._counted = mark["messages"] - messages, mark["bytes"] - size
        self._rejected.append(Counter(mark["rejected"]))
        self._began -= mark["elapsed_s"]
        entries = self.ledgers[LEADER]
        run_record.rounds = [dict(entry["account"]) for entry in entries if "number" in entry]
        if ended := [entry["conclusion"] for entry in entries if "conclusion" in entry]:
            run_record.conclusion["sessions"] = ended


class _KeptLedger:
    """A ledger whose entries are kept in a file, too."""

    def __init__(self, entries: list[Entry], *keep: Callable[[Entry], None]) -> None:
        self._entries, self._keep = entries, keep

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def clear(self) -> None:
        """Drop the entries; the file has them all."""
        self._entries.clear()

    def append(self, entry: Entry) -> None:
        """Store an entry."""
        self._entries.append(entry)
        for keep in self._keep:
            keep(entry)


def run_clock(scenario: Scenario) -> Clock:
    """Make the clock of a run under a virtual clock: it begins at the first gate."""
    if scenario.gates is None:
        return read_wall_clock  # which nobody reads
    first = scenario.gates.open_at(scenario.sessions[0]).astimezone(UTC)
    return lambda now: first + timedelta(seconds=now)


def describe(error: Exception) -> str:
    """Tell in one line what a node ended with, and where: a run in memory has no logs."""
    text = " ".join(str(error).split())
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {text[:_LONGEST_REASON]} ({Path(frame.filename).name}, line {frame.lineno})"
