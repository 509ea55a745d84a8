"""What a scenario file must not say, in any game: one clear message, and which."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

import emc_node.config
import emc_node.status
from stackelgrid import runner, text_file
from stackelgrid.calendar import Session
from stackelgrid.errors import ConfigError
from stackelgrid.games.user_oriented.messages import LoadResponse
from stackelgrid.node import config as node_config
from stackelgrid.registry import find
from stackelgrid.scenarios import ScenarioError, list_shipped, load
from stackelgrid.testbed import fault_plans
from stackelgrid.testbed.fault_plans import FaultPlanError
from stackelgrid.transport import tls
from stackelgrid.transport.address import Address


@pytest.mark.parametrize(
    ("game", "override", "message"),
    [
        ("load_call", "leader.target_kwh=true", "leader.target_kwh: give a number, without quotes (found True)"),
        ("load_call", 'leader.target_kwh="800"', "leader.target_kwh: give a number, without quotes (found '800')"),
        ("load_call", "leader.target_kwh=1:30", "leader.target_kwh: give a number (found '1:30')"),
        ("load_call", "homes.0.alpha=yes", "homes.0.alpha: give a number (found 'yes')"),
        ("prosumer", "homes.0.pv_cost=0", "homes.0.pv_cost: It must be greater than 0 (found 0)"),
        (
            "prosumer",
            "homes.0.pv_cost=x",
            "homes.0.pv_cost: give a number, or a list of numbers, one per slot (found 'x')",
        ),
        ("prosumer", "leader=5", "leader: give a mapping of keys (found 5)"),
        ("prosumer", "homes.0.pv_kw=20", "homes.0.pv_kw: give a list (found 20)"),
        ("storage_market", "leader.generators.0.max_mw=-1", "leader.generators.0.max_mw: It must be greater than 0"),
        ("user_oriented", "rounds.tries=0", "rounds.tries: It must be greater than or equal to 1 (found 0)"),
        ("user_oriented", "leader.baseline_price=null", "leader.baseline_price: give a number (found None)"),
        (
            "user_oriented",
            "leader.balance.kind=fix",
            ": leader.balance.kind: It must be 'fixed' or 'adaptive' (found 'fix')",
        ),
        (
            "user_oriented",
            "leader.wholesale_price=[1]",
            "leader.wholesale_price has 1 numbers, the horizon has 24 slots; give one per slot",
        ),
        ("user_oriented", "leader.price_max=5", "is outside price_min 1 .. price_max 5; set it between them"),
        ("prosumer", "homes.0.id=a b", "homes.0.id: It must match pattern '^[A-Za-z0-9_-]{1,64}$' (found 'a b')"),
        ("user_oriented", "leader.balance={low: 1}", ": leader.balance.kind: missing; add it"),
        ("user_oriented", "leader.balance={kind: adaptive, low: x}", ": leader.balance.low: give a number (found 'x')"),
    ],
)
def test_scenario_error_is_one_line_for_one_mistake(game: str, override: str, message: str) -> None:
    with pytest.raises(ScenarioError) as told:
        load(game, [override])
    assert message in str(told.value)
    assert str(told.value).count("\n") == 0


@pytest.mark.parametrize(
    ("game", "override", "meant"),
    [
        ("user_oriented", "leader.muu=1", "mu"),
        ("user_oriented", "leader.balance={kind: adaptive, lowest: 1}", "low"),
        ("user_oriented", "calendar={start: 2026-03-28T00:00, timzone: Europe/Berlin}", "timezone"),
        ("street", "data.prices.tiem=cost", "time"),
        ("street", "forecast.lod=perfect", "load"),
        ("street", "populaton.homes=3", "population"),
        ("prosumer", "homes.1.pvv_kw=[1]", "pv_kw"),
        ("storage_market", "leader.generators.0.maximum_mw=1", "max_mw"),
    ],
)
def test_unknown_key_comes_with_the_one_that_was_meant(game: str, override: str, meant: str) -> None:
    with pytest.raises(ScenarioError) as told:
        load(game, [override])
    first = str(told.value).splitlines()[0]
    assert first.startswith(f"--set {override}: ") and f": unknown key; did you mean {meant}? (found " in first


def test_unknown_key_like_none_is_to_be_removed() -> None:
    far, long = "leader.xyz=1", f"leader.{'mu' * 50}=1"
    for override in (far, long):
        with pytest.raises(ScenarioError, match="unknown key; remove it or correct its spelling"):
            load("user_oriented", [override])


def test_scenario_error_is_short_for_many_like_mistakes() -> None:
    with pytest.raises(ScenarioError) as told:
        load("prosumer", [f"homes.0.pv_kw={[-1] * 24}"])
    lines = str(told.value).splitlines()
    assert len(lines) == 4
    assert lines[-1].endswith("homes.0.pv_kw: and 21 more like it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: 1\nschema: 1\n", "line 2, column 1: the key 'schema' is there twice, first in line 1; remove one"),
        ("leader:\n  mu: 1\n  mu: 2\n", "line 3, column 3: the key 'mu' is there twice, first in line 2; remove one"),
        ('title: "\\ud800 x"\n', "title: '\\ud800' is half of a character; write the whole one"),
        ("", "a scenario is a mapping of keys; this is an empty file"),
        ("- 1\n", "a scenario is a mapping of keys; this is a list"),
    ],
)
def test_load_refuses_a_file_that_is_no_scenario(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as told:
        load(str(path))
    assert message in str(told.value) and str(path) in str(told.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"schema: 1\nschema: 1\n", "line 2, column 1: the key 'schema' is there twice, first in line 1; remove one"),
        (b"", "a fault plan is a mapping of keys; this is an empty file"),
        (b"title: 2020-13-44\n", "line 1, column 8: month must be in 1..12"),
        (b"\xff\xfe", "not text in UTF-8; save it as UTF-8"),
    ],
)
def test_load_refuses_a_file_that_is_no_fault_plan(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert not fault_plans.is_plan(str(path))
    with pytest.raises(FaultPlanError) as told:
        fault_plans.load(str(path))
    assert message in str(told.value) and str(path) in str(told.value)


def test_mistake_of_a_fault_is_named_by_the_keys_of_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "faults: [{kind: los}, {from: a1}, {kind: loss}, {kind: loss, probability: 2}, "
        "{kind: crash, node: a1, at: {round: 0}}]"
    )
    with pytest.raises(FaultPlanError) as told:
        fault_plans.load(str(path))
    first, *others = str(told.value).splitlines()
    assert first.startswith(f"{path}: faults.0.kind: It must be 'loss', 'delay', ")
    assert first.endswith(" or 'broker' (found 'los')")
    assert others == [
        f"{path}: faults.1.kind: missing; add it",
        f"{path}: faults.2: give probability or burst, one of them (found {{'kind': 'loss'}})",
        f"{path}: faults.3.probability: It must be less than or equal to 1 (found 2)",
        f"{path}: faults.4.at.round: It must be greater than or equal to 1 (found 0)",
    ]


def test_content_with_half_of_a_character_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"leader\.note: '.udc00' is half of a character"):
        load({"game": "prosumer", "leader": {"note": "\udc00"}})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("leader.mu=-1", "--set leader.mu=-1: leader.mu: It must be greater than or equal to 0 (found -1)"),
        ("aggregators=1000", "--set aggregators=1000: aggregators: 1000 for 60 homes"),
        ("population.homes=1", "--set population.homes=1: aggregators: 4 for 1 homes"),
        ("leader.mu=1,0", "--set leader.mu=1,0: leader.mu: give a number with a point before its decimals"),
        ("leader=mu:1.0", "--set leader=mu:1.0: leader: give a mapping of keys; put a space after the colon"),
        (f"leader.mu={'9' * 5000}", "leader.mu: give a finite number (found '999999999"),
        ("homes.².id=x", "--set homes.².id=x: "),
        ("population.segments.residential.valuation.²=9", "valuation.²=9: ² is no index of a list of 2; they count"),
    ],
)
def test_mistake_of_an_override_is_blamed_on_its_option(override: str, message: str) -> None:
    with pytest.raises(ScenarioError) as told:
        load("user_oriented", [override])
    assert message in str(told.value)
    assert str(told.value).startswith("--set ") and "user_oriented.yaml" not in str(told.value)


def test_mistake_in_a_file_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = list_shipped()["user_oriented"].read_text(encoding="utf-8").replace("objective: ", "objektive: ")
    path.write_text(text, encoding="utf-8")
    line = 1 + [each.strip().partition(":")[0] for each in text.splitlines()].index("objektive")
    with pytest.raises(ScenarioError) as told:
        load(str(path))
    assert str(told.value).startswith(f"{path}, line {line}: leader.objektive: unknown key")


def test_many_mistakes_have_few_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("game: load_call\nleader: {}\nhomes:\n" + "  - {id: 1, alpha: x, beta: y}\n" * 2000)
    with pytest.raises(ScenarioError) as told:
        load(str(path))
    lines = str(told.value).splitlines()
    assert len(lines) == 10 and lines[-1].endswith("more mistakes")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pipe", "cannot be read (a pipe or a device, not a file); name a file that you may read"),
        ("device", "cannot be read (a pipe or a device, not a file); name a file that you may read"),
        ("folder", "cannot be read (a folder, not a file); name a file that you may read"),
        ("long name", "cannot be read (File name too long); name a file that you may read"),
        ("huge", "larger than 256 MiB; cut it down to what is needed"),
    ],
)
def test_load_refuses_what_is_no_file_to_read(kind: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300 if kind == "long name" else "mine.yaml")
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "folder":
            path.mkdir()
        case "huge":
            with path.open("wb") as file:
                file.truncate(2**40)
    for read in (load, fault_plans.load):
        with pytest.raises(ConfigError) as told:
            read(str(path))
        assert str(told.value) == f"{path}: {message}"
    assert not fault_plans.is_plan(str(path))


TWO_HOMES = """\
schema: 1
game: user_oriented
slots: 2
leader: {objective: welfare, baseline_price: 9, wholesale_price: 3, mu: 1.0, price_max: 30}
homes:
  - {id: flat, elastic: [{max_kw: 6, valuation: 12}]}
  - {id: shop, inelastic: [{load_kw: [1, 2]}]}
"""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("homes.1={id: shop}", "homes.1: neither inelastic, elastic nor storage; give it one or leave it out"),
        ("homes.0.elastic.0.max_kw=1e308", "homes.0.elastic.0.max_kw: It must be less than or equal to 1000000000"),
        ("homes.0.elastic.0.max_kw=1e-308", "homes.0.elastic.0.max_kw: It must be greater than 0"),
        ("homes.0.elastic.0.valuation=1e300", "homes.0.elastic.0.valuation: It must be less than or equal to"),
        ("homes.1.inelastic.0.load_kw=[1e9, 1e9]", "homes: their connections carry 1e+09 kW together, more than 1e+09"),
        ("homes.0.horizon=3", "homes.0.horizon is 3, slots is 2; make them equal"),
        ("leader.mu=1e300", "leader.mu: It must be less than or equal to 1000000000"),
        (
            "homes=[{id: flat, elastic: [{max_kw: 6, valuation: 1e-3}]}]",
            "leader.baseline_price: at 9 nobody draws or feeds in anything",
        ),
    ],
)
def test_scenario_is_refused_that_a_node_would_refuse(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(TWO_HOMES)
    with pytest.raises(ScenarioError) as told:
        load(str(path), [override])
    assert message in str(told.value)


def test_dra_is_refused_by_check_as_by_its_aggregator() -> None:
    with pytest.raises(ScenarioError, match=r"dras\.0\.quadratic: It must be less than or equal to 1000000 "):
        load("storage_market", ["dras.0.quadratic=1e9"])


def test_configuration_whose_lengths_disagree_is_refused() -> None:
    path = {"run": "r", "name": "flat", "game": "user_oriented", "slots": 3, "aggregator": "a1"}
    home = {"id": "flat", "horizon": 2, "elastic": [{"max_kw": 6, "valuation": 12}]}
    with pytest.raises(ValidationError, match=r"homes\.0\.horizon is 2, slots is 3; make them equal"):
        emc_node.config.config_model(find("user_oriented")).model_validate({**path, "homes": [home]})


def test_run_in_which_nobody_draws_has_an_outcome(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(TWO_HOMES)
    ended = runner.run(path, ["homes.1.inelastic.0.load_kw=[0, 0]", "leader.wholesale_price=20"], certify=True)
    assert ended.settled and ended.outcome.load_kw == [0, 0] and ended.outcome.par is None
    assert ended.outcome.baseline_par > 0


def test_leader_outlives_answers_of_no_load() -> None:
    settings = find("user_oriented").load("leader")
    leader = settings(baseline_price=9, wholesale_price=3, mu=1, price_max=30).strategy(Session(2))
    price = leader.open().ask
    nothing = LoadResponse(homes=1, load_kw=[0.0, 0.0], slope=[0.0, 0.0])
    decided = leader.decide(price, {"a1": nothing}, ())
    assert decided.ask == price and not decided.settle and decided.account["par"] is None
    some = LoadResponse(homes=1, load_kw=[1.0, 2.0], slope=[-0.1, -0.1])
    assert leader.decide(price, {"a1": some}, ()).ask != price


@pytest.mark.parametrize(
    "read",
    [
        lambda path: node_config.load(path, emc_node.config.config_model),
        lambda path: Address.parse(f"mqtt://me@localhost?password_file={path}").login,
        tls.make_context,
        lambda path: tls.find_out_of_date(path, "the certificate"),
        tls.Tls(ca=Path("pipe"), certificate=Path("pipe"), key=Path("pipe")).context,
    ],
)
def test_pipe_is_refused_wherever_a_file_is_named(
    read: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises((ConfigError, ValueError), match=r"a pipe or a device, not a file|is no certificate"):
        read(*([] if hasattr(read, "__self__") else [tmp_path / "pipe"]))


def test_status_of_a_pipe_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert emc_node.status.main(["--file", str(tmp_path / "pipe")]) == 2
    assert "is no file" in capsys.readouterr().err


def test_file_without_an_end_is_read_no_further_than_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_file, "LARGEST_FILE", 2**20)
    endless = Path("/proc/self/pagemap")  # which says that it has 0 bytes
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        text_file.read_text(endless, "latin-1")


def test_unknown_key_of_a_plan_comes_with_the_one_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("faults:\n  - {kind: loss, form: a1, probability: 1}\n  - {kind: crash, node: a1, at: {roun: 2}}\n")
    with pytest.raises(FaultPlanError) as told:
        fault_plans.load(str(path))
    assert str(told.value).splitlines() == [
        f"{path}: faults.0.form: unknown key; did you mean from? (found 'a1')",
        f"{path}: faults.1.at.roun: unknown key; did you mean round? (found 2)",
    ]


def test_unknown_key_of_a_plan_is_not_taken_for_one_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("faults: [{kind: crash, node: a1, at: {round: 2}, probabilty: 1}]\n")
    with pytest.raises(FaultPlanError) as told:
        fault_plans.load(str(path))
    assert str(told.value) == (f"{path}: faults.0.probabilty: unknown key; remove it or correct its spelling (found 1)")
