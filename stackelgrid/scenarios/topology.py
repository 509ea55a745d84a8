"""The nodes of a run: their names, who is above whom, and which homes share a process."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from stackelgrid.rounds.settings import HomeModel

LEADER = "leader"
"""The name of the leader in every run."""
NODE_NAME = re.compile(r"leader|a\d+(-p\d+)?")
"""Names of leader, aggregators and processes of several homes, which no home may have."""


@dataclass(frozen=True)
class RunTopology:
    """The tree of nodes of a scenario, the same in each of its runs.

    `members` has the EMC processes of each aggregator, and for each process the homes that it answers for.
    """

    members: Mapping[str, Mapping[str, Sequence[Any]]]

    @classmethod
    def of(cls, households: Mapping[str, Sequence[Sequence[HomeModel]]], homes_per_process: int) -> Self:
        """Name the EMC processes: after their home where each has one, else by aggregator and number."""
        return cls(
            {
                aggregator: {
                    homes[0].id if homes_per_process == 1 else f"{aggregator}-p{number}": homes
                    for number, homes in enumerate(processes, start=1)
                }
                for aggregator, processes in households.items()
            }
        )

    @cached_property
    def aggregators(self) -> list[str]:
        """The aggregators' names."""
        return list(self.members)

    @cached_property
    def aggregator_of(self) -> dict[str, str]:
        """The aggregator of each EMC process, aggregator by aggregator."""
        return {process: aggregator for aggregator, processes in self.members.items() for process in processes}

    @cached_property
    def above(self) -> dict[str, str]:
        """The node that each one but the leader answers to."""
        return dict.fromkeys(self.aggregators, LEADER) | self.aggregator_of

    @cached_property
    def names(self) -> list[str]:
        """The names of all nodes, from the leader down."""
        return [LEADER, *self.above]
