"""A whole run in one process under a virtual clock: the same nodes, the same messages, no broker."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import aggregator_node.config
import emc_node.config
import leader_node.config
from aggregator_node.config import AggregatorConfig
from emc_node.config import EmcConfig
from stackelgrid.faults.in_memory import Build, FaultyMemory
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.rounds.ledger import Entry
from stackelgrid.testbed.cast import cast
from stackelgrid.testbed.played import Played, missing_in
from stackelgrid.testbed.scenario import Scenario
from stackelgrid.transport.base import Carried
from stackelgrid.transport.memory import DeadlockError, MemoryTransport


def play(
    scenario: Scenario,
    watch: Callable[[dict[str, Any]], None] = lambda record: None,
    plan: FaultPlan | None = None,
    tell: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Played:
    """Run `scenario` to its end, under a fault plan if there is one.

    `watch` sees each finished round of the leader, `tell` each fault as it happens.
    """
    began = time.perf_counter()
    played = Played("memory", "none", 1)

    def journal(record: Mapping[str, Any]) -> None:
        played.rounds.append(dict(record))
        watch(played.rounds[-1])

    def happened(record: dict[str, Any]) -> None:
        played.faults.append(record)
        tell(record)

    builds, rejected = _builds(scenario, played, journal)
    try:
        if plan is None:
            carried = MemoryTransport(scenario.seed).run([build(False) for build in builds.values()])
        else:
            transport = FaultyMemory(plan, builds, happened, scenario.seed)
            carried = transport.run(transport.nodes())
    except DeadlockError as stuck:
        carried = stuck.carried
        if not carried.crashed:
            raise
    except KeyboardInterrupt:
        carried = Carried()
        played.interrupted = True
    played.messages = sum(traffic.sent for traffic in carried.traffic.values())
    played.bytes = sum(traffic.sent_bytes for traffic in carried.traffic.values())
    played.failures = {name: repr(error) for name, error in carried.crashed.items()}
    played.rejected = dict(sum(rejected, Counter()))
    played.missing = missing_in(played.rounds, played.below)
    played.elapsed_s = time.perf_counter() - began
    return played


def _builds(
    scenario: Scenario, played: Played, journal: Callable[[Mapping[str, Any]], None]
) -> tuple[dict[str, Build], list[Counter[str]]]:
    """What makes each node, at first and when it comes back, and what all that were made have rejected."""
    everyone = cast(scenario, run="memory")
    ledgers: dict[str, list[Entry]] = {}
    rejected: list[Counter[str]] = []

    def build(name: str, assemble: Callable[[list[Entry]], Any], lose_state: bool) -> Any:
        if lose_state:
            ledgers.pop(name, None)
        node = assemble(ledgers.setdefault(name, []))
        rejected.append(node.mailbox.rejected)
        return node

    def leader(ledger: list[Entry]) -> Any:
        return leader_node.config.assemble(everyone.leader, journal, played.conclusion.update, ledger)

    def aggregator(config: AggregatorConfig[Any], ledger: list[Entry]) -> Any:
        account = played.aggregators.setdefault(config.name, {})
        below = partial(_add_to, played.below, config.name)
        return aggregator_node.config.assemble(config, below, account.update, ledger)

    def home(config: EmcConfig[Any], ledger: list[Entry]) -> Any:
        return emc_node.config.assemble(config, played.homes.update)

    builds: dict[str, Build] = {everyone.leader.name: partial(build, everyone.leader.name, leader)}
    builds |= {config.name: partial(build, config.name, partial(aggregator, config)) for config in everyone.aggregators}
    builds |= {config.name: partial(build, config.name, partial(home, config)) for config in everyone.homes}
    return builds, rejected


def _add_to(below: list[dict[str, Any]], aggregator: str, record: Mapping[str, Any]) -> None:
    below.append({"aggregator": aggregator, **record})
