"""A whole run in one process under a virtual clock: the same nodes, the same messages, no broker."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
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
from stackelgrid.interrupts import allow_interrupts
from stackelgrid.rounds.ledger import Entry
from stackelgrid.run_record import FaultRecord, RunRecord
from stackelgrid.scenarios import Scenario
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.base import TransportResult
from stackelgrid.transport.memory import DeadlockError, MemoryTransport

_LONGEST_REASON = 200


def play(
    scenario: Scenario,
    on_round: Callable[[dict[str, Any]], None] = lambda record: None,
    plan: FaultPlan | None = None,
    on_fault: Callable[[FaultRecord], None] = lambda record: None,
) -> RunRecord:
    """Run `scenario` to its end, under a fault plan if there is one.

    `on_round` gets each finished round of the leader, `on_fault` each fault as it happens.
    """
    run = MemoryRun(scenario, on_round)
    run_record = run.run_record

    def note(record: FaultRecord) -> None:
        run_record.faults.append(record)
        on_fault(record)

    try:
        with allow_interrupts():
            if plan is None:
                result = MemoryTransport(scenario.seed).run([build(False) for build in run.builds.values()])
            else:
                transport = FaultyMemory(plan, run.builds, note, scenario.seed)
                result = transport.run(transport.nodes())
    except DeadlockError as deadlock:
        result = deadlock.result
        if not result.crashed:
            raise
    except KeyboardInterrupt:
        result = TransportResult()
        run_record.interrupted = True
    return run.finish(result)


class MemoryRun:
    """A run in memory: `builds` builds each of its nodes, at first and after a crash.

    Nodes write into `run_record` and `ledgers`, those of the coordinators by name. `on_round` gets each finished round
    of the leader.
    """

    def __init__(self, scenario: Scenario, on_round: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
        self.run_record = RunRecord("memory", "none", 1)
        self._sessions = len(scenario.sessions)
        self.ledgers: dict[str, list[Entry]] = {}
        self._memories: dict[str, Mapping[str, Any]] = {}  # of homes
        self._on_round = on_round
        self._began = time.perf_counter()
        self._rejected: list[Counter[str]] = []  # of each node that was built
        configs = build_node_configs(scenario, run="memory")
        self.builds: dict[str, Build] = {configs.leader.name: partial(self._leader, configs.leader)}
        self.builds |= {config.name: partial(self._aggregator, config) for config in configs.aggregators}
        self.builds |= {config.name: partial(self._home, config) for config in configs.homes}

    def finish(self, result: TransportResult) -> RunRecord:
        """Add to the record what is known once the transport has ended."""
        run_record = self.run_record
        run_record.messages = sum(traffic.sent for traffic in result.traffic.values())
        run_record.bytes = sum(traffic.sent_bytes for traffic in result.traffic.values())
        run_record.failures = {name: describe(error) for name, error in result.crashed.items()}
        if self._sessions > 1:
            run_record.divide(self._sessions)
        run_record.rejected = dict(sum(self._rejected, Counter()))
        run_record.elapsed_s = time.perf_counter() - self._began
        return run_record

    def _leader(self, config: LeaderConfig[Any], lose_state: bool) -> Any:
        ledger = self._ledger(config.name, lose_state)
        return self._register(
            leader_node.config.assemble(config, self._journal, self.run_record.conclusion.update, ledger)
        )

    def _aggregator(self, config: AggregatorConfig[Any], lose_state: bool) -> Any:
        def conclude(account: Mapping[str, Any]) -> None:
            self.run_record.add_account(config.name, account)

        def journal(record: Mapping[str, Any]) -> None:
            self.run_record.aggregator_rounds.append({"aggregator": config.name, **record})

        ledger = self._ledger(config.name, lose_state)
        return self._register(aggregator_node.config.assemble(config, journal, conclude, ledger))

    def _home(self, config: EmcConfig[Any], lose_state: bool) -> Any:
        if lose_state:
            self._memories.pop(config.name, None)
        remember = partial(self._memories.__setitem__, config.name)
        memory = self._memories.get(config.name)
        return self._register(emc_node.config.assemble(config, self.run_record.add_schedules, remember, memory))

    def _register(self, node: Any) -> Any:
        self._rejected.append(node.mailbox.rejected)
        return node

    def _ledger(self, name: str, lose_state: bool) -> list[Entry]:
        if lose_state:
            self.ledgers.pop(name, None)
        return self.ledgers.setdefault(name, [])

    def _journal(self, record: Mapping[str, Any]) -> None:
        self.run_record.rounds.append(dict(record))
        self._on_round(self.run_record.rounds[-1])


def describe(error: Exception) -> str:
    """Tell in one line what a node ended with, and where: a run in memory has no logs."""
    text = " ".join(str(error).split())
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {text[:_LONGEST_REASON]} ({Path(frame.filename).name}, line {frame.lineno})"
