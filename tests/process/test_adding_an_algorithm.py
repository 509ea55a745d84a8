"""docs/adding-an-algorithm.md, followed: an algorithm of another package, with a leader's half and a home's half."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "adding-an-algorithm.md"
BLOCK = re.compile(r"^`(\S+\.(?:toml|py))`.*\n(?:.+\n)*\n```\w+\n((?s:.*?))^```$", re.MULTILINE)
FILES = dict(BLOCK.findall(TUTORIAL.read_text()))
SMALL = [f"--set={each}" for each in ("population.homes=6", "leader.objective=welfare", "leader.tolerance=1e-7")]

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Python where the tutorial's package is installed."""
    folder = tmp_path_factory.mktemp("package")
    source, site = folder / "sharing-admm", folder / "site"
    for name, content in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(content)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    offline = ["--no-index", "--no-build-isolation", "--target", str(site), str(source)]
    subprocess.run([*install, *offline], check=True, timeout=100)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], check=False, cwd=folder, env=environment, capture_output=True, text=True,
            timeout=110,
        )  # fmt: skip

    return call


def play(command: Command, algorithm: str, transport: str) -> dict[str, Any]:
    choice = ["--set", f"leader.algorithm={algorithm}", "--transport", transport, "--json"]
    played = command("-m", "stackelgrid", "run", "user_oriented", *SMALL, *choice)
    assert played.returncode == 0, played.stderr
    result: dict[str, Any] = json.loads(played.stdout)
    return result


@pytest.fixture(scope="module")
def newton(command: Command) -> dict[str, Any]:
    return play(command, "newton", "memory")


def test_tutorial_has_every_file_of_the_algorithm() -> None:
    assert sorted(FILES) == ["pyproject.toml", *(f"sharing_admm/{part}.py" for part in ("__init__", "home", "leader"))]


@pytest.mark.parametrize("transport", ["memory", "mqtt"])
def test_added_algorithm_comes_to_the_price_of_newton(command: Command, newton: dict[str, Any], transport: str) -> None:
    result = play(command, "admm", transport)
    assert result["settled"] and result["complete"] and result["certificate"]["passed"]
    assert result["rounds"] > newton["rounds"]
    assert result["outcome"]["price"] == pytest.approx(newton["outcome"]["price"], rel=1e-6)
    for key in ("messages", "bytes"):
        assert sum(each[key] for each in result["traffic"]) == result[key]
    *rounds, rest = result["traffic"]
    assert (len(rounds), rest["round"]) == (result["rounds"], None)
    assert min(each["messages"] for each in rounds) >= 1 + 4 + 4 + 6


def test_home_of_an_added_algorithm_loads_no_leader(command: Command) -> None:
    code = """if True:
        import sys
        from stackelgrid.registry import find_homes
        print(find_homes("user_oriented", "admm").__name__)
        loaded = {"sharing_admm.leader", "stackelgrid.games.user_oriented.leader", "cvxpy", "scipy"} & set(sys.modules)
        print(loaded or "nothing else")
    """
    assert command("-c", code).stdout.split("\n")[:2] == ["ProximalHomes", "nothing else"]


def test_added_algorithm_is_compared_with_others(command: Command, tmp_path: Path) -> None:
    options = ["--algorithms", "newton,admm", "--json", "--out", str(tmp_path / "compared"), *SMALL]
    compared = command("-m", "stackelgrid", "compare-algorithms", "user_oriented", *options)
    assert compared.returncode == 0, compared.stderr
    rows = {row["algorithm"]: row for row in json.loads(compared.stdout)["algorithms"]}
    assert rows["admm"]["settled"] and rows["admm"]["title"] == "ADMM for sharing"
    assert max(row["distance"] for row in rows.values()) < 1e-6


def test_algorithm_of_a_package_is_unknown_where_it_is_not_installed(tmp_path: Path) -> None:
    check = [sys.executable, "-m", "stackelgrid", "check", "user_oriented", "--set", "leader.algorithm=admm"]
    refused = subprocess.run(check, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "leader.algorithm: 'admm' is not an algorithm of user_oriented that is installed; name one of newton, " in (
        refused.stderr
    )


def test_home_whose_algorithm_is_not_installed_says_so(command: Command, tmp_path: Path) -> None:
    home = {"id": "h1", "horizon": 2, "inelastic": [{"load_kw": [1.0, 1.0]}]}
    config = {"run": "r", "name": "h1", "game": "user_oriented", "slots": 2, "aggregator": "a1", "homes": [home]}
    path = tmp_path / "h1.json"

    def start(algorithm: str) -> tuple[int, str]:
        path.write_text(json.dumps({**config, "algorithm": algorithm}))
        started = [sys.executable, "-m", "emc_node", "--config", str(path)]
        ended = subprocess.run(started, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=60)
        return ended.returncode, ended.stderr.strip()

    for algorithm, said in (
        ("admm", "not an algorithm of user_oriented"),
        ("newton", "has no home's half; leave it out"),
    ):
        code, line = start(algorithm)
        assert code == 2 and "algorithm" in line and said in line, line
        assert len(line.splitlines()) == 1
