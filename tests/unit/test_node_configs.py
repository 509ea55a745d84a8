"""A scenario as one configuration per node: each is one that its node accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

import aggregator_node.config
import emc_node.config
import leader_node.config
from stackelgrid.registry import find, list_games
from stackelgrid.scenarios import load
from stackelgrid.testbed.node_configs import build_node_configs, digest


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


@pytest.mark.parametrize("game", list_games())
def test_digest_is_of_what_all_nodes_share(game: str) -> None:
    known = {digest(load(game, [change])) for change in ("title=Another", "rounds.tries=9", "title=A third")}
    assert known == {digest(load(game))}
    others = {digest(load(game, [change])) for change in ("leader.tolerance=1e-3", "seed=77", "homes_per_process=2")}
    assert len(known | others) == 4


def test_digest_knows_nothing_of_listed_homes_but_their_names() -> None:
    drawn = load("user_oriented", ["population.homes=3", "aggregators=1"]).everyone
    listed = [home.model_dump(mode="json") for home in drawn]
    content = load("user_oriented", ["aggregators=1"]).model_dump(mode="json", by_alias=True, exclude={"population"})

    def digest_of(homes: list[dict[str, object]]) -> str:
        return digest(load(content | {"homes": homes}))

    private = [listed[0] | {"elastic": listed[1]["elastic"]}, *listed[1:]]
    assert digest_of(private) == digest_of(listed)
    assert digest_of(listed[:2]) != digest_of(listed)


def test_digest_is_the_same_wherever_the_data_files_are(tmp_path: Path) -> None:
    scenario = load("user_oriented")
    assert digest(scenario.copy_data_to(tmp_path)) == digest(scenario)
