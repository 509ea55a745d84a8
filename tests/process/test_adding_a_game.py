"""docs/adding-a-game.md, followed both ways: as a package of its own, and as a folder of this repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "adding-a-game.md"
BLOCK = re.compile(r"^`(\S+\.(?:toml|py|yaml))`.*\n(?:.+\n)*\n```\w+\n((?s:.*?))^```$", re.MULTILINE)
FILES = dict(BLOCK.findall(TUTORIAL.read_text()))
PUBLISHED = '''
"""What a paper would print of the game."""

from stackelgrid.claims import Figure, Paper

REBATE = Figure("worked by hand", "rebate", "5.455", "cents", "derived", "5 kW over the slopes",
                ours=lambda runs: runs.outcome("rebate").rebate[0])
PAPER = Paper("rebate", "Rebates", "three homes and a flat", (REBATE,), ())
'''

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Commands where the tutorial's package is installed; they call its scenario `evening.yaml`."""
    folder = tmp_path_factory.mktemp("package")
    source, site = folder / "rebate-game", folder / "site"
    for name, content in FILES.items():
        write(source / name, content)
    write(folder / "evening.yaml", FILES["evening.yaml"])
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    offline = ["--no-index", "--no-build-isolation", "--target", str(site), str(source)]
    subprocess.run([*install, *offline], check=True, timeout=100)
    return partial(call, folder, site, "-m")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this repository's packages to which the game is added: one folder and one scenario."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("leader_node", "aggregator_node", "emc_node", "broker", "stackelgrid"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, content in FILES.items():
        if name.startswith("rebate_game/"):
            path = tree / "stackelgrid/games/rebate" / name.removeprefix("rebate_game/")
            write(path, content.replace("rebate_game", "stackelgrid.games.rebate"))
    write(tree / "stackelgrid/scenarios/cases/rebate.yaml", FILES["evening.yaml"])
    return tree


@pytest.fixture(scope="module")
def in_tree(tree: Path) -> Command:
    """Commands of that copy."""
    return partial(call, tree, tree, "-m")


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def call(folder: Path, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with the packages in `site` before those that are installed."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=110
    )


def play(command: Command, scenario: str, *options: str) -> dict[str, Any]:
    played = command("stackelgrid", "run", scenario, "--json", *options)
    assert played.returncode == 0, played.stderr
    return json.loads(played.stdout)


def test_tutorial_has_every_file_of_the_game() -> None:
    parts = ["__init__", "aggregator", "certificate", "home", "leader", "messages", "outcome", "samples", "scenario"]
    assert sorted(FILES) == ["evening.yaml", "pyproject.toml", *(f"rebate_game/{part}.py" for part in parts)]


@pytest.mark.parametrize("transport", ["memory", "mqtt"])
@pytest.mark.parametrize(("place", "scenario"), [("package", "evening.yaml"), ("in_tree", "rebate")])
def test_added_game_is_played_certified_and_reported(
    place: str, scenario: str, transport: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    result = play(request.getfixturevalue(place), scenario, "--transport", transport, "--out", str(tmp_path / "run"))
    assert result["settled"] and result["complete"]
    assert result["processes"] == (1 if transport == "memory" else 7)
    # `flat` gives up its 0.5 kW; the others share 5 kW at r = 5 / (1/2 + 1/6 + 1/4).
    assert result["outcome"]["rebate"] == pytest.approx([60 / 11] * 3, rel=1e-9)
    given = {name: home["curtailed_kw"][0] for name, home in result["outcome"]["homes"].items()}
    assert given == pytest.approx({"bakery": 30 / 11, "flat": 0.5, "house": 10 / 11, "workshop": 15 / 11}, rel=1e-9)
    assert result["certificate"]["feasible"] and result["certificate"]["max_regret"] == 0.0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Rebates for three evening hours" in page


@pytest.mark.parametrize(("place", "scenario"), [("package", "evening.yaml"), ("in_tree", "rebate")])
def test_scenario_of_an_added_game_is_checked(place: str, scenario: str, request: pytest.FixtureRequest) -> None:
    command = request.getfixturevalue(place)
    refused = command("stackelgrid", "check", scenario, "--set", "leader.target_kw=9")
    assert refused.returncode == 2
    assert "leader.target_kw is 9, the homes give up at most 8; lower it" in refused.stderr
    misspelt = command("stackelgrid", "check", scenario, "--set", "homes.0.capp_kw=9")
    assert misspelt.returncode == 2 and "homes.0.capp_kw: unknown key" in misspelt.stderr
    schema = json.loads(command("stackelgrid", "schema", "rebate").stdout)
    assert "target_kw" in json.dumps(schema)


@pytest.mark.parametrize("place", ["package", "in_tree"])
def test_soak_plays_an_added_game(place: str, request: pytest.FixtureRequest) -> None:
    soaked = request.getfixturevalue(place)("stackelgrid.soak", "--from", "1", "--runs", "20", "--jobs", "1")
    assert soaked.returncode == 0, soaked.stdout + soaked.stderr
    assert re.search(r"^rebate +[1-9]", soaked.stdout, re.MULTILINE), soaked.stdout


@pytest.mark.parametrize("place", ["package", "in_tree"])
def test_devices_know_an_added_game(place: str, request: pytest.FixtureRequest) -> None:
    usage = request.getfixturevalue(place)("emc_node", "init", "--help")
    assert re.search(r"one of [\w, \n]*rebate", usage.stdout)


def test_added_case_is_listed(in_tree: Command) -> None:
    listed = in_tree("stackelgrid", "scenarios")
    assert re.search(r"^rebate +Rebates for three evening hours$", listed.stdout, re.MULTILINE)


def test_reproduction_has_the_paper_of_an_added_game(tree: Path) -> None:
    game = tree / "stackelgrid/games/rebate"
    write(game / "published.py", PUBLISHED)
    names = (game / "__init__.py").read_text()
    write(game / "__init__.py", names.replace("package=__name__,", 'package=__name__, published="published:PAPER",'))
    code = """if True:
        from stackelgrid.study.reproduction import RunCache, find_papers, write_document
        print(write_document([paper for paper in find_papers() if paper.game == "rebate"], RunCache()))
    """
    document = call(tree, tree, "-c", code)
    assert document.returncode == 0, document.stderr
    assert re.search(r"\| 5\.4545 cents \|.*\| reproduced \|$", document.stdout, re.MULTILINE)


def test_game_of_a_package_is_unknown_where_it_is_not_installed(tmp_path: Path) -> None:
    write(tmp_path / "evening.yaml", FILES["evening.yaml"])
    refused = call(tmp_path, tmp_path, "-m", "stackelgrid", "check", "evening.yaml")
    assert refused.returncode == 2
    assert "'rebate' is not a game that is installed; those are" in refused.stderr
