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
from stackelgrid.testbed.cast import cast
from stackelgrid.testbed.played import Played, missing_in
from stackelgrid.testbed.scenario import Scenario
from stackelgrid.transport.base import Carried
from stackelgrid.transport.memory import DeadlockError, MemoryTransport


def play(scenario: Scenario, watch: Callable[[dict[str, Any]], None] = lambda record: None) -> Played:
    """Run `scenario` to its end; `watch` sees each finished round of the leader."""
    began = time.perf_counter()
    everyone = cast(scenario, run="memory")
    played = Played("memory", "none", 1)

    def journal(record: Mapping[str, Any]) -> None:
        played.rounds.append(dict(record))
        watch(played.rounds[-1])

    nodes: list[Any] = [leader_node.config.assemble(everyone.leader, journal, played.conclusion.update, [])]
    for config in everyone.aggregators:
        account: dict[str, Any] = played.aggregators.setdefault(config.name, {})
        below = partial(_add_to, played.below, config.name)
        nodes.append(aggregator_node.config.assemble(config, below, account.update, []))
    nodes += [emc_node.config.assemble(config, played.homes.update) for config in everyone.homes]
    try:
        carried = MemoryTransport(scenario.seed).run(nodes)
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
    played.rejected = dict(sum((node.mailbox.rejected for node in nodes), Counter()))
    played.missing = missing_in(played.rounds, played.below)
    played.elapsed_s = time.perf_counter() - began
    return played


def _add_to(below: list[dict[str, Any]], aggregator: str, record: Mapping[str, Any]) -> None:
    below.append({"aggregator": aggregator, **record})
