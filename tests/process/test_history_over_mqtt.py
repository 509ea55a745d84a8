"""Histories of nodes that are processes: nothing is lost by kills, and what they hold still adds up."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from unit.test_sessions import two_days

from stackelgrid.errors import ConfigError
from stackelgrid.history.summary import to_rows
from stackelgrid.history.tables import ENDING, History, Period
from stackelgrid.scenarios import load
from stackelgrid.testbed.node_configs import build_node_configs

PACKAGES = {"leader": "leader_node", "a1": "aggregator_node", "h1": "emc_node", "h2": "emc_node"}
SESSIONS = 8


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.02)


class Grid:
    """A grid of a leader, an aggregator and two homes, each a process with a history, in a folder."""

    def __init__(self, url: str, folder: Path) -> None:
        self._folder = folder
        described = two_days(2, days=2, horizon="6h", every="6h", start="2026-06-01T00:00")
        gates = {"gates": {"intraday_minutes": 60, "clock": "simulated"}, "rounds": {"deadline_s": 2, "return_s": 60}}
        configs = build_node_configs(load(described | gates | {"aggregators": 1}), "grid", url, gather=True)
        for config in (configs.leader, *configs.aggregators, *configs.homes):
            files = {"history_file": Path(f"{config.name}{ENDING}")}
            files |= {"journal_file": Path("rounds.jsonl")} if config is configs.leader else {}
            text = config.model_copy(update=files).model_dump_json(exclude_none=True)
            (folder / f"{config.name}.json").write_text(text)
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        for name in names:
            command = [sys.executable, "-m", PACKAGES[name], "--config", str(self._folder / f"{name}.json")]
            with (self._folder / f"{name}.log").open("ab") as log:
                self.nodes[name] = subprocess.Popen([*command, "--log", "json"], stderr=log)

    def kill(self, *names: str) -> None:
        for name in names:
            self.nodes[name].kill()
            self.nodes[name].wait()

    def rows(self, node: str, table: str) -> list[dict[str, Any]]:
        with History(self._folder / f"{node}{ENDING}") as history:
            return to_rows(history.tabulate(table, Period()))

    def count(self, node: str) -> int:
        try:
            return len(self.rows(node, "sessions"))
        except ConfigError:  # it is being made
            return 0


@pytest.fixture
def grid(mosquitto_url: str, tmp_path: Path) -> Iterator[Grid]:
    grid = Grid(mosquitto_url, tmp_path)
    yield grid
    grid.kill(*grid.nodes)


def test_histories_of_a_grid_whose_nodes_are_killed_add_up(grid: Grid, tmp_path: Path) -> None:
    grid.start(*PACKAGES)
    for number, killed in ((1, ["leader"]), (4, ["a1", "h1"])):
        wait_for(lambda number=number: grid.count("leader") >= number, f"session {number}")
        grid.kill(*killed)
        grid.start(*killed)
    assert grid.nodes["leader"].wait(120) == 0
    for name in ("a1", "h1", "h2"):
        assert grid.nodes[name].wait(120) == 0
        with closing(sqlite3.connect(tmp_path / f"{name}{ENDING}")) as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    sessions = {name: {row["session"]: row for row in grid.rows(name, "sessions")} for name in PACKAGES}
    assert list(sessions["leader"]) == list(range(1, SESSIONS + 1))
    missing = grid.rows("leader", "missing")
    silent = {(row["session"], row["member"]) for row in missing if row["action"] == "unacknowledged"}
    for name in ("a1", "h1", "h2"):  # the leader knows whom a settlement has not reached
        for number in sessions["leader"].keys() - sessions[name].keys():
            assert {(number, name), (number, "a1")} & silent
    loads = {
        name: {(row["session"], row["slot"]): row["load_kw"] for row in grid.rows(name, "slots")} for name in PACKAGES
    }
    whole = [n for n in sessions["leader"] if all(n in each and each[n]["complete"] for each in sessions.values())]
    assert {1, SESSIONS} <= {*whole}
    for key, total in loads["leader"].items():
        if key[0] in whole:
            assert loads["a1"][key] == pytest.approx(total, abs=1e-9)
            assert loads["h1"][key] + loads["h2"][key] == pytest.approx(total, abs=1e-9)
