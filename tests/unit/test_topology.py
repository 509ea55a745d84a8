"""A scenario as one configuration per node: each is one that its node accepts."""

from __future__ import annotations

import pytest

import aggregator_node.config
import emc_node.config
import leader_node.config
from stackelgrid.registry import find, names
from stackelgrid.scenarios.scenario import load
from stackelgrid.testbed.topology import cast


@pytest.mark.parametrize("game", names())
@pytest.mark.parametrize("deadline_s", [0.01, 5, 3600])
def test_every_node_accepts_its_configuration(game: str, deadline_s: float) -> None:
    everyone = cast(load(game, [f"rounds.deadline_s={deadline_s}"]), "run-1", "mqtt://127.0.0.1:1883", written=True)
    rooms = (
        (leader_node.config, [everyone.leader]),
        (aggregator_node.config, everyone.aggregators),
        (emc_node.config, everyone.homes[:3]),
    )
    for room, configs in rooms:
        for config in configs:
            text = config.model_dump_json(exclude_none=True)
            assert room.config_model(find(game)).model_validate_json(text) == config


@pytest.mark.parametrize("game", names())
def test_the_leader_waits_longer_than_its_aggregators(game: str) -> None:
    everyone = cast(load(game), "run-1")
    leader, below = everyone.leader.rounds, everyone.aggregators[0].rounds
    assert leader.deadline_s * leader.tries > below.deadline_s * below.tries + below.return_s
    assert leader.gather_s > below.gather_s
