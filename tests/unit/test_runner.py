"""The runner: a run played from Python, kept in a folder or not, read again."""

from __future__ import annotations

import csv
import json
import pickle
import re
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stackelgrid
from stackelgrid.certify import CertificateError
from stackelgrid.errors import ConfigError
from stackelgrid.registry import list_games
from stackelgrid.scenarios import load
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.result import build_result
from stackelgrid.testbed.run_folder import find_commit
from stackelgrid.testing import build_plan

DOC = Path(__file__).parents[2] / "docs" / "python.md"
README = DOC.parents[1] / "README.md"
FOUR = {"population.homes": 4, "aggregators": 2}


def test_readme_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n((?s:.*?))^```$", README.read_text(), re.MULTILINE)
    ended = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    run, *described, passed = ended.stdout.splitlines()
    assert run.startswith("<Run user_oriented on memory: settled, complete") and passed == "True"
    assert len(example.splitlines()) == 10
    assert described[0].split() == ["baseline_bill_cents", "bill_cents"] and described[1].split()[0] == "count"
    header, *bills = csv.reader((tmp_path / "bills.csv").read_text().splitlines())
    assert header == ["home", "baseline_bill_cents", "bill_cents"] and len(bills) == 20
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"bills.csv", "load.png"}


def test_version_is_that_of_the_installed_package() -> None:
    assert stackelgrid.__version__ == version("stackelgrid")


def test_example_of_the_reference_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n((?s:.*?))^```$", DOC.read_text(), re.MULTILINE)
    ended = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("[('crash', ")
    assert (tmp_path / "ten-homes" / "report.html").exists()


def test_package_imports_no_runner_until_it_is_used() -> None:
    code = "import sys, stackelgrid; print('numpy' in sys.modules); stackelgrid.run; print('numpy' in sys.modules)"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.split() == ["False", "True"]
    assert {"Run", "__version__", "load", "run"} <= set(dir(stackelgrid))
    with pytest.raises(AttributeError, match="no attribute 'walk'"):
        stackelgrid.walk  # type: ignore[attr-defined]  # noqa: B018


def test_fault_plan_is_given_as_its_content() -> None:
    plan = {"faults": [{"kind": "crash", "node": "aggregator:1", "at": {"round": 2}, "restart_after_s": 1}]}
    assert [fault.kind for fault in stackelgrid.run("user_oriented", FOUR, faults=plan).faults] == ["crash", "restart"]
    with pytest.raises(ConfigError, match=r"fault_plan: faults\.0\.kind: "):
        stackelgrid.run("user_oriented", FOUR, faults={"faults": [{"kind": "crush", "node": "leader"}]})
    with pytest.raises(ConfigError, match=r"fault_plan: faults\.0\.node: no node of this scenario is called 'h99'"):
        stackelgrid.run(
            "user_oriented", FOUR, faults={"faults": [{"kind": "crash", "node": "h99", "at": {"round": 1}}]}
        )


def test_run_in_memory_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = stackelgrid.run("user_oriented", FOUR)
    assert run.settled and run.folder is None and list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="has no folder to write a report to; play it with out=FOLDER"):
        run.report()


@pytest.mark.parametrize("game", list_games())
def test_load_gives_what_run_gave(game: str, tmp_path: Path) -> None:
    played = stackelgrid.run(game, FOUR if game == "user_oriented" else None, out=tmp_path / "run", seed=5)
    read = stackelgrid.load(tmp_path / "run")
    assert read.result == played.result
    assert read.journal == json.loads(json.dumps(played.journal))
    assert read.outcome == played.outcome is not None
    assert read.scenario.everyone == played.scenario.everyone and read.scenario.seed == 5
    assert read.record is None and not read.interrupted


def test_run_whose_result_leaves_keys_out_has_a_repr(tmp_path: Path) -> None:
    stackelgrid.run("prosumer", out=tmp_path / "run")
    file = tmp_path / "run" / "result.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: content[key] for key in content.keys() - {"missing", "failures"}}))
    assert repr(stackelgrid.load(tmp_path / "run")).startswith("<Run prosumer on memory: settled")


def test_run_is_the_same_out_of_a_pickle() -> None:
    run = stackelgrid.run("user_oriented", FOUR)
    assert run.plot.load is not None  # figures are left out
    again = pickle.loads(pickle.dumps(run))
    assert again.result == run.result and again.outcome == run.outcome
    assert again.homes.equals(run.homes) and dir(again.plot) == dir(run.plot)


def test_manifest_has_the_command_without_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["run", "user_oriented", "--broker", "mqtt://grid:secret@host:18830", "--broker=mqtts://grid:secret@host"]
    monkeypatch.setattr("sys.argv", ["/somewhere/stackelgrid", *words])
    stackelgrid.run("user_oriented", FOUR, out=tmp_path / "run")
    shown = json.loads((tmp_path / "run" / "manifest.json").read_text())["command"]
    assert shown == ["stackelgrid", *words[:3], "mqtt://grid@host:18830", "--broker=mqtts://grid@host"]


def test_commit_is_that_of_the_checkout(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def find() -> str | None:
        find_commit.cache_clear()
        return find_commit(tmp_path)

    try:
        assert find() is None
        git("init", "--quiet")
        assert find() is None  # nothing is committed
        (tmp_path / "code.py").write_text("1")
        git("add", "code.py")
        git("commit", "--quiet", "--message", "one")
        git("tag", "v1")
        (tmp_path / "notes").write_text("not tracked")
        assert find() == git("rev-parse", "HEAD")
        (tmp_path / "code.py").write_text("two")
        assert find() == f"{git('rev-parse', 'HEAD')}-dirty"
        (tmp_path / "within").mkdir()
        assert find_commit(tmp_path / "within") is None  # as of a package installed below somebody's repository
    finally:
        find_commit.cache_clear()


@pytest.mark.parametrize(
    "overrides", [{"leader.mu": 0.5, "population.homes": 4}, ["leader.mu=0.5", "population.homes=4"]]
)
def test_run_takes_a_scenario_in_any_form(overrides: Any) -> None:
    run = stackelgrid.run("user_oriented", overrides)
    assert stackelgrid.run(run.scenario).outcome == run.outcome
    assert run.scenario.leader.model_dump()["mu"] == 0.5
    with pytest.raises(ConfigError, match="give overrides and seed to load"):
        stackelgrid.run(load("user_oriented"), overrides)


def test_certificate_is_kept_in_the_folder(tmp_path: Path) -> None:
    run = stackelgrid.run("user_oriented", FOUR, out=tmp_path / "run")
    assert run.certificate is None
    certificate = run.certify(samples=10)
    assert certificate.root["passed"] and run.certificate == certificate
    assert stackelgrid.load(tmp_path / "run").certificate == certificate


def test_run_keeps_its_folder_when_the_process_goes_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = stackelgrid.run("user_oriented", FOUR, out="run")
    read = stackelgrid.load("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    run.certify(samples=5)
    assert run.folder == read.folder == tmp_path / "run"
    assert read.report() == tmp_path / "run" / "report.html"
    assert stackelgrid.load(tmp_path / "run").certificate == run.certificate


@pytest.mark.parametrize("name", ["../outside", "a/b", ".hidden", "..", "two\nlines", "a\0b"])
def test_name_that_no_run_can_have_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^name: .* cannot be that of a run; give one that prints on one line"):
        stackelgrid.run("user_oriented", FOUR, name=name)
    assert list(tmp_path.iterdir()) == []


def test_overrides_may_be_numbers_of_numpy() -> None:
    run = stackelgrid.run("user_oriented", {"population.homes": np.int64(4), "leader.mu": np.float32(0.5)})
    assert len(run.scenario.everyone) == 4 and run.scenario.leader.model_dump()["mu"] == 0.5


@pytest.mark.parametrize("value", [Path("there"), date(2026, 11, 29), {"a": {1, 2}}])
def test_override_that_is_no_yaml_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^overrides: leader\.mu: {type(value).__name__} cannot be written as YAML"):
        stackelgrid.run("user_oriented", {"leader.mu": value})


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ({"transport": "carrier"}, "transport: 'carrier' is none; give memory or mqtt"),
        ({"transport": "mqtt", "broker": "foo"}, "broker: give auto, mosquitto, embedded or an address"),
        ({"faults": 5}, "fault_plan: int is no plan; give a name"),
        ({"faults": []}, "fault_plan: list is no plan; give a name"),
        ({"out": "a\0b"}, "--out a\0b: cannot be made"),
        ({"transport": "mqtt", "broker": "mqtts://127.0.0.1:1", "certs": "nowhere"}, "nowhere"),
    ],
)
def test_argument_that_cannot_be_used_is_refused(
    argument: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        stackelgrid.run("user_oriented", FOUR, **argument)
    assert list(tmp_path.iterdir()) == []


def test_certificate_of_no_samples_is_refused() -> None:
    with pytest.raises(ConfigError, match="samples: -1 deviations cannot be tried; give 1 or more"):
        stackelgrid.run("user_oriented", FOUR).certify(samples=-1)


def test_notebook_shows_the_summary_of_a_run() -> None:
    run = stackelgrid.run("user_oriented", {**FOUR, "title": "Four & more"})
    html = run._repr_html_()
    assert "<strong>Four &amp; more</strong>: Settled in 3 rounds." in html
    assert "Peak load</th>" in html and "Certificate" not in html
    run.certify(samples=5)
    assert "Certificate</th><td>all " in run._repr_html_()
    unfinished = stackelgrid.run("user_oriented", FOUR, faults=build_plan(kind="crash", node="leader", at={"round": 1}))
    assert "not a single round was finished" in unfinished._repr_html_()


def test_certificate_is_refused_when_a_home_is_missing() -> None:
    crash = build_plan(kind="crash", node="home:1", at={"round": 2})
    run = stackelgrid.run("user_oriented", {**FOUR, "rounds.missing": "exclude"}, faults=crash)
    assert not run.complete and run.missing[0].action == "excluded"
    with pytest.raises(CertificateError, match="not every home answered the last round"):
        run.certify()


def test_callbacks_follow_a_run(tmp_path: Path) -> None:
    rounds: list[int] = []
    faults: list[str] = []
    steps: list[str] = []
    run = stackelgrid.run(
        "user_oriented",
        FOUR,
        faults="aggregator-dies",
        out=tmp_path / "run",
        certify=True,
        report=True,
        on_round=lambda record: rounds.append(record["round"]),
        on_fault=lambda record: faults.append(record.kind),
        on_step=steps.append,
    )
    assert rounds == list(range(1, len(run.journal) + 1))
    assert faults == ["crash", "restart"]
    assert steps == ["certifying", "drawing"]
    assert run.certificate is not None and (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("folder", "said"),
    [("nothing", r"result\.json: cannot be read \(No such file"), ("empty", r"result\.json.*game")],
)
def test_folder_of_no_run_is_refused(folder: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "result.json").write_text("{}")
    with pytest.raises(ConfigError, match=said):
        stackelgrid.load(tmp_path / folder)


def test_session_with_a_home_that_is_not_in_the_scenario_is_not_certified() -> None:
    scenario = load("user_oriented", ["population.homes=4"])
    record = in_memory.play(scenario)
    assert build_result(scenario, record).certifiable
    record.homes["newcomer"] = record.homes.pop("h4")  # as many homes as before
    result = build_result(scenario, record)
    assert result.newcomers == ["newcomer"] and not result.certifiable
