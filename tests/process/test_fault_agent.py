"""The agent of a machine plays a fault plan on nodes that run there, over a real broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from stackelgrid.faults.agent import main
from stackelgrid.scenarios import load
from stackelgrid.testbed.node_configs import build_node_configs

SETS = ["population.homes=3", "aggregators=1", "rounds.deadline_s=0.5", "rounds.tries=2", "rounds.return_s=0.5"]
PLAN = {
    "faults": [
        {"kind": "crash", "node": "h1", "at": {"round": 2}},
        {"kind": "slow", "node": "h2", "seconds": 0.3, "during": {"rounds": [1, 2]}},
    ]
}


def test_agent_harms_the_nodes_of_its_machine_at_the_rounds_it_hears(tmp_path: Path, mosquitto_url: str) -> None:
    configs = build_node_configs(load("user_oriented", SETS), "agent", mosquitto_url, gather=True)
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    observer = {key: getattr(configs.leader, key) for key in ("run", "game", "slots", "scenario", "broker")}
    (tmp_path / "observer.json").write_text(json.dumps({"name": "desk", **observer}))
    with ExitStack() as stack:

        def start(module: str, log: str, *words: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", module, *words, "--log", "json"]
            process = subprocess.Popen(command, stderr=stack.enter_context((tmp_path / log).open("wb")))
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        def start_node(package: str, name: str, config: str) -> subprocess.Popen[bytes]:
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_text(config)
            return start(package, f"{name}.log", "--config", str(tmp_path / name / "config.json"))

        homes = {home.name: start_node("emc_node", home.name, home.model_dump_json()) for home in configs.homes}
        words = [f"--node={name}={home.pid}" for name, home in homes.items()]
        files = [str(tmp_path / "plan.json"), "--config", str(tmp_path / "observer.json")]
        agent = start("stackelgrid.faults.agent", "agent.log", *files, *words)
        (aggregator,) = configs.aggregators
        start_node("aggregator_node", aggregator.name, aggregator.model_dump_json())
        while b'"connected"' not in (tmp_path / "agent.log").read_bytes():
            assert agent.poll() is None, (tmp_path / "agent.log").read_text()
        leader = start_node("leader_node", "leader", configs.leader.model_dump_json())
        assert leader.wait(120) == 0
        assert agent.wait(60) == 0
        assert [home.wait(60) for home in homes.values()] == [-signal.SIGKILL, 0, 0]
    logged = [json.loads(line) for line in (tmp_path / "agent.log").read_text().splitlines()]
    struck = [(each["kind"], each["node"], each["round"]) for each in logged if each["event"] == "fault"]
    due = {("crash", "h1", 2), ("slow", "h2", 1)}
    assert due <= set(struck) <= due | {("slow", "h2", 2)}  # a slow home may be so still when round 2 is over
    assert len(struck) == len(set(struck))
    conclusion = json.loads((tmp_path / "leader" / "leader.conclusion.json").read_text())
    assert conclusion["settled"] and not conclusion["complete"]


@pytest.mark.parametrize(
    ("fault", "place", "message"),
    [
        ({"kind": "crash", "restart_after_s": 1}, "{own}", "give the unit of h1"),
        ({"kind": "crash"}, "", "give its name and its process id or unit"),
        ({"kind": "crash"}, "4194304", "there is no such process"),
        ({"kind": "cut", "seconds": 1}, "emc-node", "nobody here can disconnect them"),
    ],
)
def test_agent_refuses_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: dict[str, object], place: str, message: str
) -> None:
    plan = {"faults": [{"node": "h1", "at": {"round": 1}, **fault}]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    process = place.format(own=os.getpid())
    words = [str(tmp_path / "plan.json"), "--config", str(tmp_path / "none.json"), "--node", f"h1={process}"]
    assert main(words) == 2
    assert message in capsys.readouterr().err
