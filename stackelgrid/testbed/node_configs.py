"""The configurations of the nodes of a run, the same for a process of its own and for transport memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
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
from stackelgrid.node.limits import register_aggregator
from stackelgrid.registry import find
from stackelgrid.scenarios import Scenario
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.wire.messages import RegisteredMember


@dataclass(frozen=True)
class NodeConfigs:
    """A configuration for each node of a run."""

    leader: LeaderConfig[Any]
    aggregators: list[AggregatorConfig[Any]]
    homes: list[EmcConfig[Any]]


def build_node_configs(scenario: Scenario, run: str, broker: str = "", *, gather: bool = False) -> NodeConfigs:
    """Build the configurations of `run` on `broker`.

    With `gather`, nodes write beside their configuration the files that the testbed reads after the run.
    """
    game = find(scenario.game)
    leader_config, aggregator_config, emc_config = (
        package.config.config_model(game) for package in (leader_node, aggregator_node, emc_node)
    )
    common = {
        "run": run,
        "game": scenario.game,
        "slots": scenario.slots,
        "calendar": scenario.calendar,
        "gates": scenario.gates,
        "scenario": digest(scenario),
        "broker": broker,
    }
    aggregators: list[AggregatorConfig[Any]] = [
        aggregator_config(
            **common,
            name=name,
            leader=LEADER,
            settings=scenario.aggregator_settings(name, {process: list(homes) for process, homes in members.items()}),
            members=[
                RegisteredMember(name=process, homes=len(homes), max_kw=_add_limits(map(scenario.connection_kw, homes)))
                for process, homes in members.items()
            ],
            rounds=scenario.rounds,
            privacy=scenario.privacy_settings(),
            account_file=Path(f"{name}.account.json") if gather else None,
            ledger_file=Path(f"{name}.ledger") if gather else None,
        )
        for name, members in scenario.topology.members.items()
    ]
    homes: list[EmcConfig[Any]] = [
        emc_config(
            **common,
            name=name,
            aggregator=aggregator,
            homes=households,
            algorithm=scenario.home_algorithm(),
            privacy=scenario.privacy_settings(),
            schedule_file=Path(f"{name}.schedule.json") if gather else None,
            ledger_file=Path(f"{name}.ledger.json") if gather else None,
        )
        for aggregator, members in scenario.topology.members.items()
        for name, households in members.items()
    ]
    # An aggregator may use up all its tries, wait for one to return, and more in an inner game, before it answers.
    rounds = scenario.rounds
    steps = 2 + (_STEPS_OF_MASKS if scenario.privacy_settings().sums == "committee" else 0)
    patient = rounds.model_copy(
        update={
            "tries": steps * rounds.tries + scenario.inner_rounds + ceil(rounds.return_s / rounds.deadline_s),
            "gather_s": rounds.gather_s + rounds.deadline_s,
        }
    )
    leader = leader_config(
        **common,
        name=LEADER,
        utility=scenario.leader_settings(),
        members=[register_aggregator(aggregator.name, aggregator.members) for aggregator in aggregators],
        rounds=patient,
        journal_file=Path("../rounds.jsonl") if gather else None,
        conclusion_file=Path("leader.conclusion.json") if gather else None,
        ledger_file=Path("leader.ledger") if gather else None,
    )
    return NodeConfigs(leader, aggregators, homes)


_STEPS_OF_MASKS = 6
"""To set masks up an aggregator waits for keys, shares and receipts; for a committee that it replaces, for signatures,
shares and receipts."""
_MEMBERSHIP = ("aggregators", "homes_per_process", "population")
"""Keys of a scenario that say who takes part."""


def digest(scenario: Scenario) -> str:
    """Give a digest of all that the nodes of a scenario share.

    Of listed homes it knows their names and places alone, so that it gives nothing private away. Title, how long nodes
    wait for each other, and where data files are do not count. Homes of a grid come and go, so its nodes do not either.
    """
    shared = scenario.model_dump(exclude={"title", "calibrated", "rounds", "homes"})
    if scenario.gates is not None:
        shared = {key: value for key, value in shared.items() if key not in _MEMBERSHIP}
    else:
        shared["nodes"] = {
            aggregator: {process: [home.id for home in homes] for process, homes in members.items()}
            for aggregator, members in scenario.topology.members.items()
        }
    return _digest(shared)


def digest_everything(scenario: Scenario) -> str:
    """Give a digest of all that is played, for the desk alone: what is private to homes is in it."""
    return _digest(scenario.model_dump(exclude={"title", "calibrated", "rounds"}))


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(
        content, sort_keys=True, default=lambda value: value.name if isinstance(value, Path) else str(value)
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _add_limits(limits: Iterable[float | None]) -> float | None:
    """Add limits in kW; None where one is unknown, or where all are zero."""
    known = list(limits)
    total = sum(limit for limit in known if limit is not None)
    return total if None not in known and total > 0 else None
