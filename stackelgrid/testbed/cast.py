"""Who plays: a scenario as one configuration per node, the same for a process of its own and for memory."""

from __future__ import annotations

from dataclasses import dataclass

from aggregator_node.config import AggregatorConfig
from emc_node.config import EmcConfig
from leader_node.config import LeaderConfig
from stackelgrid.node.config import Members
from stackelgrid.testbed.scenario import Scenario

LEADER = "leader"


@dataclass(frozen=True)
class Cast:
    """The nodes of a run."""

    leader: LeaderConfig
    aggregators: list[AggregatorConfig]
    homes: list[EmcConfig]

    @property
    def processes(self) -> int:
        """How many nodes there are."""
        return 1 + len(self.aggregators) + len(self.homes)


def cast(scenario: Scenario, run: str, broker: str = "", *, written: bool = False) -> Cast:
    """One configuration per node. When they are `written` to files, nodes leave beside these what the desk gathers."""
    common = {"run": run, "game": scenario.game, "slots": scenario.slots, "broker": broker}
    aggregators, homes = [], []
    for aggregator, processes in scenario.households().items():
        members = []
        for number, households in enumerate(processes, start=1):
            name = households[0].id if scenario.homes_per_process == 1 else f"{aggregator}-p{number}"
            members.append(Members(name=name, homes=len(households)))
            homes.append(
                EmcConfig.model_validate(
                    {
                        **common,
                        "name": name,
                        "aggregator": aggregator,
                        "homes": households,
                        "schedule_file": f"{name}.schedule.json" if written else None,
                    }
                )
            )
        aggregators.append(
            AggregatorConfig.model_validate(
                {**common, "name": aggregator, "leader": LEADER, "members": members, "rounds": scenario.rounds}
            )
        )
    # An aggregator may use up all its tries before it answers: the leader waits longer than that.
    patient = scenario.rounds.model_copy(update={"tries": 2 * scenario.rounds.tries + 1})
    leader = LeaderConfig.model_validate(
        {
            **common,
            "name": LEADER,
            "utility": scenario.leader,
            "members": [Members(name=a.name, homes=sum(member.homes for member in a.members)) for a in aggregators],
            "rounds": patient.model_copy(update={"gather_s": scenario.rounds.gather_s + scenario.rounds.deadline_s}),
            "journal_file": "../rounds.jsonl" if written else None,
            "conclusion_file": "leader.conclusion.json" if written else None,
        }
    )
    return Cast(leader, aggregators, homes)
