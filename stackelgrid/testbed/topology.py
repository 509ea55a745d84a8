"""Who plays: a scenario as one configuration per node, the same for a process of its own and for memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import aggregator_node.config
import emc_node.config
import leader_node.config
from aggregator_node.config import AggregatorConfig
from emc_node.config import EmcConfig
from leader_node.config import LeaderConfig
from stackelgrid.node.config import Members
from stackelgrid.registry import find
from stackelgrid.scenarios.scenario import Scenario

LEADER = "leader"


@dataclass(frozen=True)
class RunTopology:
    """The nodes of a run."""

    leader: LeaderConfig[Any]
    aggregators: list[AggregatorConfig[Any]]
    homes: list[EmcConfig[Any]]

    @property
    def processes(self) -> int:
        """How many nodes there are."""
        return 1 + len(self.aggregators) + len(self.homes)


def cast(scenario: Scenario, run: str, broker: str = "", *, written: bool = False) -> RunTopology:
    """One configuration per node. When they are `written` to files, nodes leave beside these what the desk gathers."""
    game = find(scenario.game)
    leader_config, aggregator_config, emc_config = (
        room.config.config_model(game) for room in (leader_node, aggregator_node, emc_node)
    )
    common = {"run": run, "game": scenario.game, "slots": scenario.slots, "broker": broker}
    aggregators: list[AggregatorConfig[Any]] = []
    homes: list[EmcConfig[Any]] = []
    for aggregator, processes in scenario.households().items():
        members: dict[str, list[Any]] = {}
        for number, households in enumerate(processes, start=1):
            name = households[0].id if scenario.homes_per_process == 1 else f"{aggregator}-p{number}"
            members[name] = households
            homes.append(
                emc_config(
                    **common,
                    name=name,
                    aggregator=aggregator,
                    homes=households,
                    schedule_file=Path(f"{name}.schedule.json") if written else None,
                )
            )
        aggregators.append(
            aggregator_config(
                **common,
                name=aggregator,
                leader=LEADER,
                settings=scenario.aggregator_settings(aggregator, members),
                members=[
                    Members(name=name, homes=len(households), max_kw=_carried(scenario, households))
                    for name, households in members.items()
                ],
                rounds=scenario.rounds,
                account_file=Path(f"{aggregator}.account.json") if written else None,
                ledger_file=Path(f"{aggregator}.ledger") if written else None,
            )
        )
    # An aggregator may use up all its tries, wait for one to return, and more in an inner game, before it answers.
    rounds = scenario.rounds
    patient = rounds.model_copy(
        update={
            "tries": 2 * rounds.tries + scenario.inner_rounds + ceil(rounds.return_s / rounds.deadline_s),
            "gather_s": rounds.gather_s + rounds.deadline_s,
        }
    )
    leader = leader_config(
        **common,
        name=LEADER,
        utility=scenario.leader,
        members=[
            Members(
                name=aggregator.name,
                homes=sum(member.homes for member in aggregator.members),
                max_kw=_sum(member.max_kw for member in aggregator.members),
            )
            for aggregator in aggregators
        ],
        rounds=patient,
        journal_file=Path("../rounds.jsonl") if written else None,
        conclusion_file=Path("leader.conclusion.json") if written else None,
        ledger_file=Path("leader.ledger") if written else None,
    )
    return RunTopology(leader, aggregators, homes)


def _carried(scenario: Scenario, homes: list[Any]) -> float | None:
    """What the connections of some homes carry together, kW."""
    return _sum(scenario.connection_kw(home) for home in homes)


def _sum(limits: Iterable[float | None]) -> float | None:
    """The sum of limits, where there are any, all known and above zero."""
    known = list(limits)
    total = sum(limit for limit in known if limit is not None)
    return total if None not in known and total > 0 else None
