"""A run's name that was used before: no node takes the earlier run's ledger or messages for its own."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from stackelgrid.errors import ExitCode
from stackelgrid.node.config import NodeConfig
from stackelgrid.scenarios import load
from stackelgrid.testbed.node_configs import build_node_configs

QUICK = ["population.homes=2", "aggregators=1", "rounds.deadline_s=60"]
DEARER = "leader.wholesale_price=7"


def configure(folder: Path, run: str, broker_url: str, *changes: str) -> None:
    """Write the configuration of each node, into a folder of its own."""
    configs = build_node_configs(load("user_oriented", [*QUICK, *changes]), run, broker_url, gather=True)
    everyone: list[tuple[str, NodeConfig]] = [("leader_node", configs.leader)]
    everyone += [("aggregator_node", config) for config in configs.aggregators]
    everyone += [("emc_node", config) for config in configs.homes]
    for package, config in everyone:
        place = folder / package / config.name
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text(config.model_dump_json(exclude_none=True))


def play(folder: Path, *packages: str) -> dict[str, tuple[int, str]]:
    """Start the nodes of these packages; give the exit code and the log of each, once all have ended."""
    with ExitStack() as stack:
        nodes = {}
        for place in sorted(path.parent for package in packages for path in folder.glob(f"{package}/*/config.json")):
            command = [sys.executable, "-m", place.parent.name, "--config", str(place / "config.json")]
            nodes[place.name] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            stack.callback(nodes[place.name].kill)
        ended = {name: node.communicate(timeout=300)[1] for name, node in nodes.items()}
        return {name: (nodes[name].returncode, log) for name, log in ended.items()}


def test_nodes_refuse_what_an_earlier_run_of_the_name_left(mosquitto_url: str, tmp_path: Path) -> None:
    configure(tmp_path, "again", mosquitto_url)
    everyone = ("leader_node", "aggregator_node", "emc_node")
    assert {code for code, _ in play(tmp_path, *everyone).values()} == {ExitCode.SETTLED}
    configure(tmp_path, "again", mosquitto_url, DEARER)
    refused = play(tmp_path, *everyone)
    assert {code for code, _ in refused.values()} == {ExitCode.BAD_INPUT}, refused
    assert "utility.wholesale_price was 3.21424 and is 7.0; give the new run another name" in refused["leader"][1]
    assert "settings of other nodes have changed; give the new run another name" in refused["a1"][1]
    for home in ("h1", "h2"):
        assert "again/a1/settlement: another run again is there, with other prices" in refused[home][1]

    for path in tmp_path.glob("*/*/*.ledger*"):
        path.unlink()
    refused = play(tmp_path, "aggregator_node", "emc_node")
    assert {code for code, _ in refused.values()} == {ExitCode.BAD_INPUT}, refused
    assert "again/leader/settlement: another run again is there, with other prices" in refused["a1"][1]
