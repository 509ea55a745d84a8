"""Files that a later version of Stackelgrid has written are refused, each by name and with the mend."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.authority import Authority, AuthorityError
from emc_node.config import EmcConfig, open_ledger
from emc_node.devices import read_memory
from stackelgrid import scenarios
from stackelgrid.errors import ConfigError
from stackelgrid.node.ledger import SqliteLedger
from stackelgrid.runner import load, run
from stackelgrid.testbed.node_configs import build_node_configs


def of_a_home(folder: Path) -> EmcConfig[Any]:
    scenario = scenarios.load("user_oriented", ["population.homes=1", "aggregators=1"])
    (config,) = build_node_configs(scenario, "run").homes
    return config.model_copy(update={"ledger_file": folder / "h1.ledger.json"})


def make_newer(file: Path) -> None:
    content = json.loads(file.read_text())
    assert content["schema"] == 1
    file.write_text(json.dumps(content | {"schema": 2}))


def open_ledger_of_a_coordinator(folder: Path) -> None:
    file = folder / "a1.ledger"
    SqliteLedger(file, {})
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA user_version = 2")
    SqliteLedger(file, {})


def open_ledger_of_a_home(folder: Path) -> None:
    config = of_a_home(folder)
    save, _ = open_ledger(config)
    save({"session": 3})
    assert open_ledger(config)[1] == {"session": 3}
    make_newer(folder / "h1.ledger.json")
    open_ledger(config)


def open_register(folder: Path) -> None:
    authority = Authority.init(folder)
    make_newer(folder / "authority" / "register.json")
    authority.revoke("h1")


def load_run(folder: Path) -> None:
    run("user_oriented", {"population.homes": 1, "aggregators": 1}, out=folder / "run")
    make_newer(folder / "run" / "result.json")
    load(folder / "run")


@pytest.mark.parametrize("use", [open_ledger_of_a_coordinator, open_ledger_of_a_home, open_register, load_run])
def test_file_of_a_newer_version_is_refused_with_the_mend(tmp_path: Path, use: Callable[[Path], None]) -> None:
    with pytest.raises((ConfigError, AuthorityError)) as refused:
        use(tmp_path)
    assert "newer version of Stackelgrid" in str(refused.value)
    assert "run that version, or restore a copy of before" in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_home_does_without_a_plan_that_a_newer_version_has_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its devices go on, by the fail-safe; the log says why."""
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"schema": 1, "takes_part": False}))
    kept = read_memory(file)
    assert kept is not None and not kept.takes_part
    file.write_text(json.dumps({"schema": 2, "takes_part": False}))
    assert read_memory(file) is None
    assert "run that version, or restore a copy of before" in caplog.records[-1].__dict__["data"]["cause"]


def test_home_goes_on_with_a_ledger_that_knows_fewer_keys(tmp_path: Path) -> None:
    """Those of the configuration that an earlier version did not have."""
    config = of_a_home(tmp_path)
    terms = config.terms() | {"devices": False}
    before = {key: value for key, value in terms.items() if value is not None}
    assert before != terms
    (tmp_path / "h1.ledger.json").write_text(json.dumps({"terms": before, "memory": {"session": 2}}))
    assert open_ledger(config)[1] == {"session": 2}
    (tmp_path / "h1.ledger.json").write_text(json.dumps({"terms": before | {"run": "other"}, "memory": {"session": 2}}))
    assert open_ledger(config)[1] is None
