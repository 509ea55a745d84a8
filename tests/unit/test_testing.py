"""The pytest plugin: its fixtures, its messages, the examples of docs/testing.md, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import broker
from stackelgrid.certify import CertificateError
from stackelgrid.errors import ConfigError
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.runner import conclude
from stackelgrid.scenarios import ScenarioError
from stackelgrid.testbed.fault_plans import FaultPlanError
from stackelgrid.testing import Testbed, assert_certified

pytest_plugins = ["stackelgrid.testing"]

DOC = Path(__file__).parents[2] / "docs" / "testing.md"
FOUR = {"population.homes": 4, "aggregators": 2}
TWO_HOMES = {
    "schema": 1,
    "game": "user_oriented",
    "slots": 2,
    "leader": {"objective": "welfare", "baseline_price": 9, "wholesale_price": 4, "mu": 0, "price_max": 30},
    "homes": [
        {
            "id": name,
            "elastic": [{"max_kw": 8, "valuation": 5, "satisfaction": {"form": "log", "alpha": 2, "omega": 1}}],
        }
        for name in ("bakery", "flat")
    ],
}
"""With mu 0 a kWh costs 4, whatever is drawn."""


def pytest_in(*options: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "stackelgrid.testing", "-p", "no:cacheprovider", *options]


def test_documentation_examples_pass(tmp_path: Path) -> None:
    examples = re.findall(r"^```python\n((?s:.*?))^```$", DOC.read_text(), re.MULTILINE)
    assert len(examples) == 2
    (tmp_path / "test_cut.py").write_text("\n\n".join(examples))
    ended = subprocess.run(pytest_in(), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout


def test_testbed_takes_a_name_a_file_or_content(testbed: Testbed, tmp_path: Path) -> None:
    from_content = testbed(TWO_HOMES)
    # Of x_max (v / (omega p) - 1 / alpha), equation (10), at the marginal cost: 8 (5 / 4 - 1 / 2).
    assert from_content.outcome.price == pytest.approx([4, 4], rel=1e-9)
    assert from_content.outcome.load_kw == pytest.approx([2 * 6, 2 * 6], rel=1e-9)
    from_file = testbed(from_content.folder / "scenario.yaml")
    assert from_file.outcome == from_content.outcome
    assert from_file.folder != from_content.folder
    by_name = testbed("user_oriented", FOUR, seed=5)
    assert by_name.result.seed == 5 and by_name.result.homes == 4


@pytest.mark.parametrize("value", [5, 2.5, 1e-7, True, "a: b", None, [1, 2.5], {"kind": "fixed"}, "1e-6", "no"])
def test_settings_keep_their_type(testbed: Testbed, value: object) -> None:
    """Every kind of value comes out as it went in: 1e-7 a number, "1e-6" and "no" words."""
    with pytest.raises(ScenarioError) as refused:
        testbed("user_oriented", {"leader.unknown": value})
    assert f"leader.unknown: unknown key; remove it or correct its spelling (found {value!r})" in str(refused.value)


def test_fault_plan_takes_keywords_or_dicts(testbed: Testbed, fault_plan: Callable[..., FaultPlan]) -> None:
    one = fault_plan(kind="loss", from_="home:1", to="a*", probability=0.5, seed=7)
    assert one == fault_plan({"kind": "loss", "from": "home:1", "to": "a*", "probability": 0.5}, seed=7)
    with pytest.raises(FaultPlanError, match=r"fault_plan: faults\.0: give probability or burst, one of them"):
        fault_plan(kind="loss")
    with pytest.raises(FaultPlanError, match="no node of this scenario is called 'h99'"):
        testbed("user_oriented", FOUR, faults=fault_plan(kind="stall", node="h99", at={"round": 1}, seconds=1))
    shipped = testbed("user_oriented", FOUR, faults="aggregator-dies")
    assert [fault.kind for fault in shipped.faults] == ["crash", "restart"] and shipped.complete


def test_testbed_returns_the_run_when_it_does_not_settle(
    testbed: Testbed, fault_plan: Callable[..., FaultPlan]
) -> None:
    short = testbed("user_oriented", {**FOUR, "leader.max_rounds": 1})
    assert not short.settled and len(short.journal) == 1
    headless = testbed("user_oriented", FOUR, faults=fault_plan(kind="crash", node="leader", at={"round": 2}))
    assert not headless.settled and headless.failures.keys() == {"leader"}
    assert "not settled, not complete, 1 rounds, failures {'leader'" in repr(headless)
    with pytest.raises(CertificateError, match="nothing to certify"):
        headless.certify()
    with pytest.raises(AssertionError, match="not every home answered the last round"):
        assert_certified(headless)


def test_run_over_mqtt_shares_the_broker_unless_it_fails(
    testbed: Testbed, stackelgrid_broker: broker.RunningBroker, fault_plan: Callable[..., FaultPlan]
) -> None:
    over_mqtt = testbed("user_oriented", FOUR, transport="mqtt")
    assert over_mqtt.result.broker == stackelgrid_broker.url
    assert over_mqtt.outcome.price == pytest.approx(testbed("user_oriented", FOUR).outcome.price, rel=1e-9)
    # The broker that fails is another one: this one goes on answering.
    outage = fault_plan(kind="broker", at={"round": 2}, seconds=0.1, keep_retained=False)
    bounced = testbed("user_oriented", {**FOUR, "rounds.deadline_s": 1}, transport="mqtt", faults=outage)
    assert bounced.result.faults == {"broker": 1} and bounced.settled
    assert bounced.result.broker != stackelgrid_broker.url
    assert broker.answers(stackelgrid_broker.port)
    with pytest.raises(ConfigError, match="transport: 'pigeon' is none; give memory or mqtt"):
        testbed("user_oriented", FOUR, transport="pigeon")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ({}, None),
        ({"gap": 3e-6}, "gap is 3e-06, 2e-06 above the 1e-06 allowed"),
        ({"max_regret": 0.5}, "max_regret is 0.5, 0.5 above the 1e-06 allowed"),
        ({"gap": None}, "gap is unknown: there is no reference to measure it by"),
        ({"gap": float("nan")}, "gap is nan"),
        ({"feasible": False, "violation": 0.25}, "not feasible: the worst violation of a limit is 0.25"),
    ],
)
def test_assert_certified_names_what_is_exceeded(testbed: Testbed, instead: dict[str, Any], said: str | None) -> None:
    run = testbed(TWO_HOMES)
    run.result = run.result.with_certificate({**run.certify().root, **instead})
    if said is None:
        assert_certified(run)
        return
    with pytest.raises(AssertionError) as failure:
        assert_certified(run)
    assert str(failure.value).partition("is not certified: ")[2].startswith(said)


def test_assert_certified_fails_when_the_price_is_no_equilibrium(testbed: Testbed) -> None:
    run = testbed("user_oriented", FOUR)
    assert_certified(run)
    record = replace(run.record, rounds=[*run.journal, {**run.journal[-1], "price": [9.0] * 24}])
    with pytest.raises(AssertionError, match="max_regret is"):
        assert_certified(conclude(run.scenario, record, None))


def test_plugin_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'pydantic', 'ruamel', 'scipy', 'cvxpy', 'matplotlib', 'typer', 'rich', 'paho'}"
    code = f"import sys, stackelgrid.testing; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_plugin_works_when_it_is_both_installed_and_named(tmp_path: Path) -> None:
    """Installed, pytest finds it by its entry point; a test may name it all the same."""
    known = tmp_path / "site" / "found-1.dist-info"
    known.mkdir(parents=True)
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: found\nVersion: 1\n")
    (known / "entry_points.txt").write_text("[pytest11]\nstackelgrid.testing = stackelgrid.testing\n")
    (tmp_path / "test_it.py").write_text(
        "pytest_plugins = ['stackelgrid.testing']\ndef test_it(testbed): assert callable(testbed)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


ENDLESS = """
def test_it(testbed, fault_plan):
    cut = fault_plan(kind="partition", groups=[["leader"], ["aggregator:1"]])
    slow = {"population.homes": 4, "aggregators": 2, "rounds.deadline_s": 600}
    testbed("user_oriented", slow, transport="mqtt", faults=cut)
"""


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (signal.SIGINT, pytest.ExitCode.INTERRUPTED),
        (signal.SIGALRM, pytest.ExitCode.TESTS_FAILED),  # as pytest-timeout's, when the time of a test is over
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_no_process_stays_when_pytest_is_ended(tmp_path: Path, how: signal.Signals, code: int) -> None:
    (tmp_path / "test_endless.py").write_text(ENDLESS)
    command = pytest_in("--timeout=100", "--timeout-method=signal", f"--basetemp={tmp_path / 'base'}")
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        nodes = 1 + 2 + 4
        wait_for(lambda: len(list(tmp_path.glob("base/stackelgrid-run0/run/logs/*.jsonl"))) == nodes)
        family = psutil.Process(running.pid).children(recursive=True)
        assert len(family) >= 1 + 1 + nodes  # with a broker and the forkserver
        running.send_signal(how)
        said, _ = running.communicate(timeout=30)
        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == []
        assert running.returncode == code, said.decode()
    finally:
        running.kill()
        running.communicate()


def test_failing_test_shows_its_run(tmp_path: Path) -> None:
    (tmp_path / "test_fails.py").write_text(
        "def test_it(testbed): assert not testbed('user_oriented', {'population.homes': 4}).settled\n"
    )
    ended = subprocess.run(pytest_in(), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
    assert re.search(r"<Run user_oriented on memory: settled, complete, \d+ rounds, in \S+>\.settled", ended.stdout)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
