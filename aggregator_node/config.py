"""An aggregator's configuration."""

from __future__ import annotations

import logging
from typing import Annotated

from pydantic import Field

from aggregator_node.node import AggregatorNode, Journal
from aggregator_node.user_oriented import UserOrientedAggregator
from stackelgrid.node.config import Members, NodeConfig, Rounds
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Name
from stackelgrid.wire.user_oriented import LoadResponse, Price

_LOG = logging.getLogger("aggregator_node")


class AggregatorConfig(NodeConfig):
    """Its `leader`, its `members` (EMC processes and the number of homes behind each), how rounds are kept."""

    leader: Name
    members: Annotated[list[Members], Field(min_length=1)]
    rounds: Rounds = Rounds()


def assemble(config: AggregatorConfig, journal: Journal) -> AggregatorNode:
    """The node of a configuration, its journal kept by the caller."""
    up = Link(config.run, config.leader, Price, LoadResponse, Price, config.slots)
    down = Link(config.run, config.name, Price, LoadResponse, Price, config.slots)
    homes = {member.name: member.homes for member in config.members}
    policy = config.rounds.policy()
    return AggregatorNode(config.name, up, down, homes, policy, UserOrientedAggregator(), journal=journal)


def build(config: AggregatorConfig) -> AggregatorNode:
    """The node of a configuration, its journal in the process's log."""
    return assemble(config, lambda record: _LOG.info("round", extra={"data": dict(record)}))
