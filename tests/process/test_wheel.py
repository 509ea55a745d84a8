"""The wheel, installed without a checkout: its files, the scenarios it plays, its messages for missing packages.

Nothing is downloaded. The environment has the wheel alone; the packages that it needs are those of the environment that
runs the tests, on its path by a .pth file, which leaves that environment's own editable install of Stackelgrid out.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from stackelgrid.__main__ import DESK
from stackelgrid.scenarios import list_shipped

ROOT = Path(__file__).parents[2]
PACKAGES = {"leader_node", "aggregator_node", "emc_node", "broker", "stackelgrid"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=100)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and nothing else."""
    return install(wheel, tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and the packages of the desk."""
    programs = install(wheel, tmp_path_factory.mktemp("desk"))
    site = next(programs.parent.glob("lib/python3*/site-packages"))
    (site / "packages-of-the-tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def install(wheel: Path, environment: Path) -> Path:
    """Install the wheel alone into a new environment; returns the folder of its programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=100)
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps"]
    subprocess.run([*command, "--python", str(environment), str(wheel)], check=True, timeout=100)
    return environment / "bin"


def call(program: Path | str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder of its own, without this checkout on its path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(program), *arguments]
    return subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def call_without(module: str, programs: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `stackelgrid` as if `module` were not installed."""
    code = f"import sys; sys.modules[{module!r}] = None; from stackelgrid.__main__ import main; sys.exit(main())"
    return call(programs / "python", "-c", code, *arguments, folder=folder)


def test_wheel_has_our_packages_at_its_top_and_nothing_else(wheel: Path) -> None:
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    metadata = {name for name in top if name.endswith(".dist-info")}
    assert len(metadata) == 1
    assert top - metadata == PACKAGES


def test_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert any(name.endswith(".service") for name in files) and any(name.endswith("LICENSE.md") for name in files)
    assert files <= set(zipfile.ZipFile(wheel).namelist())


def test_wheel_lists_the_desk_as_an_extra(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        name = next(name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = content.read(name).decode()
    wanted = set(re.findall(r"^Requires-Dist: ([a-z0-9-]+).*extra == .desk.", metadata, re.MULTILINE))
    assert {name.partition("-")[0] for name in wanted} == DESK


def test_installed_wheel_is_not_the_checkout(programs: Path, tmp_path: Path) -> None:
    found = call(programs / "python", "-c", "import stackelgrid, broker; print(broker.__file__)", folder=tmp_path)
    assert Path(found.stdout.strip()).is_relative_to(programs.parent)


@pytest.mark.parametrize("name", sorted(list_shipped()))
def test_shipped_scenario_is_played_in_memory(name: str, programs: Path, tmp_path: Path) -> None:
    part = ("--set", "calendar.days=1", "--set", "population.homes=6") if name == "street_week" else ()
    rest = () if name == "load_call" else ("--no-certify",)  # certificates take the most time, and one is enough
    words = ["run", name, "--transport", "memory", "--json", *part, *rest]
    played = call(programs / "stackelgrid", *words, folder=tmp_path)
    assert played.returncode == 0, played.stderr
    result = json.loads(played.stdout)
    assert result["settled"] and (rest or result["certificate"]["passed"])
    assert list(tmp_path.glob("runs/*/report.html"))


def test_shipped_scenario_is_played_over_the_embedded_broker(programs: Path, tmp_path: Path) -> None:
    played = call(programs / "stackelgrid", "run", "load_call", "--broker", "embedded", "--json", folder=tmp_path)
    assert played.returncode == 0, played.stderr
    assert json.loads(played.stdout)["broker"] == "embedded"


def test_bare_install_says_how_to_install_the_desk(bare: Path, tmp_path: Path) -> None:
    refused = call(bare / "stackelgrid", "scenarios", folder=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.endswith("pip install 'stackelgrid[desk]'\n") and refused.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["jinja2", "matplotlib", "rich", "ruamel", "typer"])
def test_missing_package_is_named_with_what_to_install(module: str, programs: Path, tmp_path: Path) -> None:
    refused = call_without(module, programs, "run", "load_call", "--transport", "memory", "--quiet", folder=tmp_path)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr == f"stackelgrid needs {module}: pip install 'stackelgrid[desk]'\n"


@pytest.mark.parametrize("module", ["clarabel", "cvxpy"])
def test_run_without_a_solver_ends_with_its_result_uncertified(module: str, programs: Path, tmp_path: Path) -> None:
    played = call_without(module, programs, "run", "load_call", "--transport", "memory", "--json", folder=tmp_path)
    assert played.returncode == 0, played.stderr
    assert json.loads(played.stdout)["certificate"] is None
    assert f"not certified: {module} not installed; pip install 'stackelgrid[desk]'" in played.stderr


def test_certificate_lists_a_reference_whose_solver_is_missing(programs: Path, tmp_path: Path) -> None:
    played = call_without("pyscipopt", programs, "run", "load_call", "--transport", "memory", "--json", folder=tmp_path)
    assert played.returncode == 0, played.stderr
    certificate = json.loads(played.stdout)["certificate"]
    assert certificate["passed"] and certificate["mpcc"] is None
    assert certificate["solver_status"]["mpcc"] == {"status": "not made: install pyscipopt"}
    assert "not made: install pyscipopt" in next(tmp_path.glob("runs/*/report.html")).read_text()
