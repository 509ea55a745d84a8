"""A scenario as one configuration per node: each is one that its node accepts."""

from __future__ import annotations

import pytest

import aggregator_node.config
import emc_node.config
import leader_node.config
from stackelgrid.registry import find, list_games
from stackelgrid.scenarios import load
from stackelgrid.testbed.node_configs import build_node_configs


@pytest.mark.parametrize("game", list_games())
@pytest.mark.parametrize("deadline_s", [0.01, 5, 3600])
def test_node_accepts_its_configuration(game: str, deadline_s: float) -> None:
    scenario = load(game, [f"rounds.deadline_s={deadline_s}"])
    configs = build_node_configs(scenario, "run-1", "mqtt://127.0.0.1:1883", gather=True)
    packages = (
        (leader_node.config, [configs.leader]),
        (aggregator_node.config, configs.aggregators),
        (emc_node.config, configs.homes[:3]),
    )
    for package, of_role in packages:
        for config in of_role:
            text = config.model_dump_json(exclude_none=True)
            assert package.config_model(find(game)).model_validate_json(text) == config


@pytest.mark.parametrize("game", list_games())
def test_leader_waits_longer_than_its_aggregators(game: str) -> None:
    configs = build_node_configs(load(game), "run-1")
    leader, below = configs.leader.rounds, configs.aggregators[0].rounds
    assert leader.deadline_s * leader.tries > below.deadline_s * below.tries + below.return_s
    assert leader.gather_s > below.gather_s
