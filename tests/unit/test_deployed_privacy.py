"""The level of privacy that `provision` gives a scenario which chooses none."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from stackelgrid import cli
from stackelgrid.deploy.privacy import protect
from stackelgrid.errors import ConfigError
from stackelgrid.scenarios import load


@pytest.mark.parametrize(
    ("game", "changes", "sums", "sensitivity", "told"),
    [
        ("user_oriented", ["aggregators=3"], "committee", "full", "masked sums of 20 homes or more"),
        ("user_oriented", [], "off", "none", "loads alone .*, to leader.algorithm loads_only"),
        ("user_oriented", ["leader.algorithm=newton"], "off", "full", "for which leader.algorithm newton asks"),
        ("user_oriented", ["leader.algorithm=paper_003"], "off", "none", "to leader.algorithm paper_003"),
        ("user_oriented", ["aggregators=3", "rounds.missing=exclude"], "off", "none", "loads alone"),
        ("user_oriented", ["aggregators=3", "privacy.sums=off"], "off", "full", "as the scenario says"),
        ("user_oriented", ["aggregators=3", "privacy.minimum_group=21"], "off", "none", "loads alone"),
        ("prosumer", [], "off", "full", "read the answer of each home"),
    ],
)
def test_scenario_without_a_level_gets_the_highest_that_it_can_keep(
    game: str, changes: list[str], sums: str, sensitivity: str, told: str
) -> None:
    protected, sentences = protect(load(game, changes))
    assert (protected.privacy.sums, protected.privacy.sensitivity) == (sums, sensitivity)
    assert re.search(told, sentences[0])
    protected.verify()


def test_level_that_homes_would_not_play_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.price_band: 1 to 30, .* or choose sums and sensitivity"):
        protect(load("user_oriented", ["privacy.price_band=[1, 30]"]))


@pytest.mark.parametrize(
    ("homes", "level", "algorithm"),
    [
        (5, {"sums": "committee", "minimum_group": 5}, "newton"),
        (4, {"sensitivity": "none", "minimum_group": 5}, "loads_only"),
    ],
)
def test_nodes_are_configured_for_the_level_that_provision_tells(
    homes: int,
    level: dict[str, str],
    algorithm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sets = [f"--set=population.homes={homes}", "--set=aggregators=1", "--set=privacy.minimum_group=5"]
    words = ["provision", "user_oriented", "--broker=mqtts://127.0.0.1:8883", f"--out={tmp_path}", *sets]
    monkeypatch.setattr(sys, "argv", ["stackelgrid", *words])
    assert cli.main() == 0
    told = "masked sums of 5 homes or more" if homes == 5 else "sums are not masked: aggregators: a1 has 4 homes"
    assert told in capsys.readouterr().out
    home, leader = (
        json.loads((tmp_path / place).read_text()) for place in ("homes/h1/config.json", "leaders/leader/config.json")
    )
    assert home["privacy"] == {**level, "questions_per_session": 100}
    assert leader["utility"]["algorithm"] == algorithm
    assert load(str(tmp_path / "scenario/scenario.yaml")).privacy.model_dump() == home["privacy"]
