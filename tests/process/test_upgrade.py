"""A staged upgrade from version 0.2.0: its nodes play with those of today, whose files its nodes have written.

Its wheel is built from the commit that set the version, and unpacked: nothing is installed or downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import aggregator_node.config
import emc_node.config
from emc_node.config import open_ledger
from stackelgrid.node.config import load as load_config
from stackelgrid.node.ledger import SqliteLedger
from stackelgrid.scenarios import load
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.node_configs import digest

ROOT = Path(__file__).parents[2]
VERSION, COMMIT = "0.2.0", "32a64dd80c7e8e521bd1cdbff23e0e53578af665"
CASE = "street_week"
SETS = [
    "population.homes=4", "aggregators=2", "rounds.deadline_s=60",
    "calendar.slot_minutes=60", "calendar.every=12h", "calendar.days=1",
]  # fmt: skip
"""Two sessions of a day in hours."""
CASES = ["user_oriented", "street_week", "prosumer", "load_call", "storage_market"]
TODAY = {"leader", "a2", "h1", "h2"}
"""The nodes that are upgraded: of each aggregator, old and new, one home is old and one is new."""

PROVISION = f"""
import json, sys
import stackelgrid
from stackelgrid.scenarios import load
from stackelgrid.testbed.node_configs import build_node_configs, digest

sets, url = {SETS!r}, sys.argv[1]
configs = build_node_configs(load({CASE!r}, sets), "upgrade", url, gather=True)
nodes = {{"leader": [configs.leader], "aggregator": configs.aggregators, "emc": configs.homes}}
print(json.dumps({{
    "from": stackelgrid.__file__,
    "digests": {{name: digest(load(name)) for name in {CASES!r}}},
    "configs": {{
        node.name: [role, json.loads(node.model_dump_json())] for role, each in nodes.items() for node in each
    }},
}}))
"""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of version 0.2.0, a folder for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("before")
    archived = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=False)
    if archived.returncode:
        pytest.skip(f"the commit of version {VERSION}, {COMMIT[:7]}, is not in this clone")
    (folder / "source").mkdir()
    subprocess.run(["tar", "-x"], input=archived.stdout, cwd=folder / "source", check=True)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=folder / "source", check=True, capture_output=True, timeout=100)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.startswith(f"stackelgrid-{VERSION}-")
    zipfile.ZipFile(wheel).extractall(folder / "packages")
    return folder / "packages"


def environment(packages: Path | None) -> dict[str, str]:
    return os.environ | ({} if packages is None else {"PYTHONPATH": str(packages)})


@pytest.fixture(scope="module")
def provisioned(before: Path, mosquitto_url: str) -> dict[str, Any]:
    """The configurations that the desk of 0.2.0 wrote, and its digests of the shipped cases."""
    command = [sys.executable, "-c", PROVISION, mosquitto_url]
    done = subprocess.run(command, env=environment(before), cwd=before, check=True, capture_output=True, text=True)
    provisioned: dict[str, Any] = json.loads(done.stdout)
    assert Path(provisioned["from"]).is_relative_to(before)
    return provisioned


def test_digests_of_shipped_cases_are_those_of_the_version_before(provisioned: dict[str, Any]) -> None:
    """Else a home that is configured anew would not know its run again."""
    assert {name: digest(load(name)) for name in provisioned["digests"]} == provisioned["digests"]


@pytest.fixture(scope="module")
def played(before: Path, provisioned: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nodes of both versions have played to its end."""
    folder = tmp_path_factory.mktemp("upgrade")
    with ExitStack() as stack:
        nodes = {}
        for name, (role, config) in provisioned["configs"].items():
            place = folder / name
            place.mkdir()
            (place / "config.json").write_text(json.dumps(config))
            command = [sys.executable, "-m", f"{role}_node", "--config", str(place / "config.json"), "--log", "json"]
            packages = None if name in TODAY else before
            log = stack.enter_context((place / "log").open("wb"))
            nodes[name] = subprocess.Popen(command, env=environment(packages), cwd=folder, stderr=log)
            stack.callback(nodes[name].wait)
            stack.callback(nodes[name].kill)
        for name, node in nodes.items():
            assert node.wait(120) == 0, (name, (folder / name / "log").read_text()[-2000:])
    return folder


def test_nodes_of_the_version_before_play_with_those_of_today(played: Path) -> None:
    in_one_process = in_memory.play(load(CASE, SETS))
    journal = [json.loads(line) for line in (played / "rounds.jsonl").read_text().splitlines()]
    assert len(journal) == len(in_one_process.rounds) > 3
    conclusion = json.loads((played / "leader" / "leader.conclusion.json").read_text())
    for session in conclusion["sessions"]:
        assert session["settled"] and session["complete"] and not session["unacknowledged"]
    assert journal[-1]["price"] == pytest.approx(in_one_process.rounds[-1]["price"], rel=1e-9)
    for name in ("h1", "h2", "h3", "h4"):
        logged = [json.loads(line) for line in (played / name / "log").read_text().splitlines()]
        (ended,) = (line for line in logged if line["event"] == "ended")
        assert ended["rejected"] == {}
        settled = [json.loads(line) for line in (played / name / f"{name}.schedule.json").read_text().splitlines()]
        assert len(settled) == 2
        for session in settled:
            expected = in_one_process.of_session(session["session"]).homes[name]
            assert session["homes"][name]["load_kw"] == pytest.approx(expected["load_kw"], rel=1e-9)


def test_ledgers_of_the_version_before_are_gone_on_with(played: Path) -> None:
    config = load_config(played / "a1" / "config.json", aggregator_node.config.config_model)
    assert config.ledger_file is not None
    ledger = SqliteLedger(config.ledger_file, config.terms())
    assert sum("number" in entry for entry in ledger) > 3
    _, memory = open_ledger(load_config(played / "h3" / "config.json", emc_node.config.config_model))
    assert memory is not None
    assert memory["session"] == 2
