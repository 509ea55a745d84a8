"""docs/adding-a-game.md, followed to the letter: its files as a package of their own, installed, and played."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "adding-a-game.md"
BLOCK = re.compile(r"^`(\S+\.(?:toml|py|yaml))`.*\n(?:.+\n)*\n```\w+\n((?s:.*?))^```$", re.MULTILINE)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tutorial's folder."""
    folder = tmp_path_factory.mktemp("tutorial") / "rebate-game"
    for name, content in BLOCK.findall(TUTORIAL.read_text()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.fixture(scope="module")
def environment(package: Path) -> dict[str, str]:
    """Where the package is installed, beside what is there already."""
    site = package.parent / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    offline = ["--no-index", "--no-build-isolation", "--target", str(site), str(package)]
    subprocess.run([*install, *offline], check=True, timeout=100)
    return {**os.environ, "PYTHONPATH": str(site)}


def stackelgrid(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stackelgrid", *arguments]
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)


def play(environment: dict[str, str], package: Path, *options: str) -> dict[str, Any]:
    command = stackelgrid(environment, "run", str(package / "evening.yaml"), "--json", *options)
    assert command.returncode == 0, command.stderr
    return json.loads(command.stdout)


def test_all_files_of_the_tutorial_are_found(package: Path) -> None:
    found = sorted(str(path.relative_to(package)) for path in package.rglob("*.*") if path.is_file())
    parts = ["__init__", "aggregator", "certificate", "home", "leader", "messages", "outcome", "scenario"]
    assert found == ["evening.yaml", "pyproject.toml", *(f"rebate_game/{part}.py" for part in parts)]


@pytest.mark.parametrize("transport", ["memory", "mqtt"])
def test_the_game_of_another_package_is_played(
    package: Path, environment: dict[str, str], tmp_path: Path, transport: str
) -> None:
    result = play(environment, package, "--transport", transport, "--out", str(tmp_path / "run"))
    assert result["settled"] and result["complete"]
    assert result["processes"] == (1 if transport == "memory" else 7)
    # `flat` gives up its 0.5 kW; the others share 5 kW at r = 5 / (1/2 + 1/6 + 1/4).
    assert result["outcome"]["rebate"] == pytest.approx([60 / 11] * 3, rel=1e-9)
    given = {name: home["curtailed_kw"][0] for name, home in result["outcome"]["homes"].items()}
    assert given == pytest.approx({"bakery": 30 / 11, "flat": 0.5, "house": 10 / 11, "workshop": 15 / 11}, rel=1e-9)
    assert result["certificate"]["feasible"] and result["certificate"]["max_regret"] == 0.0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Rebates for three evening hours" in page


def test_its_scenarios_are_checked_like_any_other(package: Path, environment: dict[str, str]) -> None:
    evening = str(package / "evening.yaml")
    refused = stackelgrid(environment, "check", evening, "--set", "leader.target_kw=9")
    assert refused.returncode == 2
    assert "leader.target_kw is 9, the homes give up at most 8; lower it" in refused.stderr
    misspelt = stackelgrid(environment, "check", evening, "--set", "homes.0.capp_kw=9")
    assert misspelt.returncode == 2 and "homes.0.capp_kw: unknown key" in misspelt.stderr
    schema = json.loads(stackelgrid(environment, "schema", "rebate").stdout)
    assert "target_kw" in json.dumps(schema)


def test_without_the_package_there_is_no_such_game(package: Path) -> None:
    command = stackelgrid(dict(os.environ), "check", str(package / "evening.yaml"))
    assert command.returncode == 2
    assert "'rebate' is not a game that is installed; those are" in command.stderr
