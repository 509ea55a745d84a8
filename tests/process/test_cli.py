"""The command line: exit codes, and one message that names file, key, value and mend for whatever is wrong."""

import json
import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

import stackelgrid
from stackelgrid import cli, runner
from stackelgrid.registry import list_games
from stackelgrid.scenarios.yaml_file import spell
from stackelgrid.testbed import processes

SMALL = ["--set", "population.homes=6", "--set", "aggregators=2"]


@pytest.fixture(autouse=True)
def work_in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run one command in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["stackelgrid", *words])
    code = cli.main()
    out, err = capfd.readouterr()
    return code, out, err


def scenario(**changes: Any) -> dict[str, Any]:
    home = {
        "id": "flat",
        "horizon": 4,
        "inelastic": [{"load_kw": [1, 1, 2, 1]}],
        "elastic": [{"max_kw": 3, "valuation": 10}],
        "storage": [{"capacity_kwh": 5, "initial_kwh": 2, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 0.3}}],
    }
    leader = {"objective": "welfare", "baseline_price": 9, "wholesale_price": 3, "mu": 1, "price_max": 30}
    return {"schema": 1, "game": "user_oriented", "slots": 4, "leader": leader, "homes": [home], **changes}


def with_home(**changes: Any) -> dict[str, Any]:
    whole = scenario()
    whole["homes"][0].update(changes)
    return whole


def with_leader(**changes: Any) -> dict[str, Any]:
    whole = scenario()
    whole["leader"].update(changes)
    return whole


STORAGE = {"capacity_kwh": 5, "initial_kwh": 2, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 0.3}}
EV_IN_A_HURRY = {**STORAGE, "capacity_kwh": 40, "final_kwh": 30, "available": {"first": 2, "last": 3}}

BAD = {
    "unknown key": (with_leader(colour="red"), ["leader.colour", "unknown key", "red"]),
    "wrong length": (with_leader(wholesale_price=[1, 2]), ["leader.wholesale_price", "2", "4 slots"]),
    "wrong load length": (with_home(inelastic=[{"load_kw": [1, 2]}]), ["homes.0", "load_kw has 2 numbers", "4 slots"]),
    "negative capacity": (with_home(storage=[{**STORAGE, "capacity_kwh": -1}]), ["capacity_kwh", "-1"]),
    "negative capacity of supply": (with_leader(capacity={"max_kw": -5}), ["leader.capacity.max_kw", "-5"]),
    "energy need out of reach": (
        with_home(storage=[EV_IN_A_HURRY]),
        ["homes.0", "final_kwh 30", "lengthen the window"],
    ),
    "draw limit too tight": (
        with_home(draw_limit={"max_kw": 1.5}, storage=[]),
        ["home flat", "slot 3", "draw_limit", "widen"],
    ),
    "a home twice": (scenario(homes=[scenario()["homes"][0]] * 2), ["homes.1.id", "'flat'", "own id"]),
    "a home with a node's name": (with_home(id="a1"), ["homes.0.id", "'a1'", "another id"]),
    "no homes": (scenario(homes=None), ["population or homes"]),
    "not a number": (with_leader(mu="much"), ["leader.mu", "much"]),
    "not finite": (with_leader(mu=float("nan")), ["leader.mu"]),
    "another schema": (scenario(schema=2), ["schema", "2"]),
    "another game": (scenario(game="chess"), ["game", "chess"]),
    "no wear": (with_home(storage=[{**STORAGE, "wear": {"fast": 0}}]), ["wear.fast", "0"]),
    "price outside its bounds": (with_leader(price_max=5), ["baseline_price 9", "5"]),
}


@pytest.mark.parametrize("name", BAD)
def test_run_and_check_refuse_a_bad_scenario(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    content, expected = BAD[name]
    path = tmp_path / "bad.yaml"
    path.write_text(spell(content))
    for words in (["run", str(path), "--out", "out"], ["check", str(path)]):
        code, out, err = command(monkeypatch, capfd, *words)
        assert code == 2
        assert out == ""
        assert str(path) in err
        for part in expected:
            assert part in err, err
        assert "Traceback" not in err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "no_such"], ["no_such", "user_oriented"]),
        (["run", "user_oriented", "--set", "leader.mu"], ["leader.mu", "KEY.PATH=VALUE"]),
        (["run", "user_oriented", "--set", "leader.mu.x=1"], ["leader.mu.x", "no keys below"]),
        (["run", "user_oriented", "--set", "seed=-1"], ["seed", "-1"]),
        (["run", "user_oriented", "--set", "population.day=2016-01-01"], ["population.day", "2016-06-14"]),
        (["run", "user_oriented", "--set", "population.day=2016-13-14"], ["population.day", "month"]),
        (["run", "user_oriented", "--set", "population.profiles=none.csv"], ["none.csv", "cannot be read"]),
        (["run", "user_oriented", "--set", "aggregators=100"], ["aggregators", "100"]),
        (["run", "user_oriented", "--broker", "http://x"], ["--broker", "http://x", "mqtt://HOST:PORT"]),
        (["run", "user_oriented", "--broker", "mqtt://nowhere:"], ["mqtt://nowhere", "mqtt://host:port"]),
        (["run", "user_oriented", "--broker", "mqtt://me:secret@x/y"], ["--broker mqtt://me@x/y", "mqtt://host:port"]),
        (["run", "user_oriented", "--broker", "mqtts://127.0.0.1?ca=none.crt"], ["none.crt cannot be read"]),
        (["run", "user_oriented", "--certs", "certs"], ["--certs certs", "--broker mqtts://HOST:PORT"]),
        (["report", "nowhere"], ["nowhere", "stackelgrid runs"]),
        (["certify", "nowhere"], ["nowhere: no such file", "stackelgrid runs"]),
        (["schema", "chess"], ["chess", "user_oriented"]),
        (["dance"], ["dance"]),
        (["rnu"], ["Did you mean 'run'?"]),
        (["certs", "ad"], ["Did you mean 'add'?"]),
        (["run", "user_oriented", "--sed", "1"], ["--sed", "--seed"]),
        (["run", "user_orientd"], ["user_orientd: no such file", "did you mean user_oriented?"]),
        (["check", "user_oriented", "--faults", "agregator-dies"], ["did you mean aggregator-dies?"]),
        (["schema", "prosumr"], ["did you mean prosumer?"]),
        (
            ["compare-algorithms", "user_oriented", "--algorithms", "newtn,paper_003"],
            ["--algorithms newtn,paper_003: 'newtn' is not", "did you mean newton?"],
        ),
    ],
)
def test_command_refuses_bad_usage(
    words: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(monkeypatch, capfd, *words)
    assert code == 2
    assert out == ""
    for part in expected:
        assert part in err, err
    assert not Path("runs").exists()


def test_check_refuses_a_file_that_is_not_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for content in (b"a: [1", b"- 1", b"\xff\xfe", b""):
        (tmp_path / "bad.yaml").write_bytes(content)
        code, _, err = command(monkeypatch, capfd, "check", "bad.yaml")
        assert code == 2
        assert "bad.yaml" in err


def test_summary_shows_a_title_as_it_is(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    title = "[bold] day [x]"
    words = ["run", "prosumer", "--transport", "memory", "--no-certify", "--out", "out"]
    code, out, _ = command(monkeypatch, capfd, *words, "--set", f"title='{title}'")
    assert code == 0
    assert title in out


def test_run_ends_with_4_when_the_broker_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "_CONNECT_S", 0.3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody answers there
        address = f"mqtt://127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = command(monkeypatch, capfd, "run", "user_oriented", *SMALL, "--broker", address, "--out", "out")
    assert code == 4
    assert address in err
    assert not Path("out").exists()


def test_run_refuses_a_folder_that_exists(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/notes").write_text("precious")
    code, _, err = command(monkeypatch, capfd, "run", "user_oriented", *SMALL, "--out", "mine")
    assert code == 2
    assert "mine" in err
    assert "exists" in err
    assert [path.name for path in Path("mine").iterdir()] == ["notes"]


def test_run_writes_a_folder_that_can_be_played_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    memory = ["--transport", "memory", "--json"]
    code, out, _ = command(monkeypatch, capfd, "run", "user_oriented", *SMALL, *memory, "--out", "a")
    assert code == 0
    result = json.loads(out)
    assert result == json.loads(Path("a/result.json").read_text())
    assert {"schema", "game", "scenario", "seed", "transport", "broker", "settled", "rounds", "elapsed_s"} <= set(
        result
    )
    assert {"messages", "bytes", "homes", "processes", "outcome", "certificate", "missing"} <= set(result)
    assert {path.name for path in Path("a").iterdir()} >= {
        "result.json",
        "rounds.jsonl",
        "scenario.yaml",
        "manifest.json",
        "report.html",
        "figures",
    }
    assert len(Path("a/rounds.jsonl").read_text().splitlines()) == result["rounds"]
    code, out, _ = command(monkeypatch, capfd, "run", "a/scenario.yaml", *memory, "--out", "b")
    assert code == 0
    assert json.dumps(json.loads(out)["outcome"]) == json.dumps(result["outcome"])
    code, out, _ = command(monkeypatch, capfd, "certify", "a")
    assert code == 0
    assert json.loads(out)["max_regret"] == pytest.approx(result["certificate"]["max_regret"], abs=1e-9)


def test_run_ends_with_3_when_rounds_run_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "user_oriented", *SMALL, "--set", "leader.max_rounds=1", "--transport", "memory", "--out", "short"]
    code, _, err = command(monkeypatch, capfd, *words)
    assert code == 3
    assert "leader.max_rounds" in err
    assert json.loads(Path("short/result.json").read_text())["settled"] is False


COARSE = [*SMALL, "--set", "leader.tolerance=0.2", "--transport", "memory"]


def test_failed_certificate_is_one_red_line_and_code_5_where_it_is_required(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    code, _, err = command(monkeypatch, capfd, "run", "user_oriented", *COARSE, "--out", "coarse", "--quiet")
    (line,) = err.splitlines()
    assert code == 0
    assert re.fullmatch(r"the certificate does not pass: regret of the leader: .*e-0\d, limit 1.0e-06", line)
    monkeypatch.setenv("FORCE_COLOR", "1")
    code, out, err = command(monkeypatch, capfd, "certify", "coarse", "--require-certificate")
    assert (code, err.splitlines()[-1]) == (5, f"\x1b[31m{line}\x1b[0m") and json.loads(out)["failed"]
    monkeypatch.setenv("NO_COLOR", "1")
    code, again, err = command(monkeypatch, capfd, "certify", "coarse")
    assert (code, again, err.splitlines()[-1]) == (0, out, line)


def test_required_certificate_fails_when_none_can_be_made(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    memory = [*SMALL, "--transport", "memory", "--quiet"]
    run = ["run", "user_oriented", *memory, "--require-certificate"]
    assert command(monkeypatch, capfd, *run) == (0, "", "")
    monkeypatch.setattr(runner, "CERTIFIED_UP_TO", 5)
    code, _, err = command(monkeypatch, capfd, *run, "--out", "large")
    assert (code, err) == (5, "not certified, with 6 homes: stackelgrid certify large\n")
    crash = {"kind": "crash", "node": "home:1", "at": {"round": 2}}
    Path("plan.yaml").write_text(spell({"faults": [crash]}))
    code, _, err = command(monkeypatch, capfd, *run, "--set", "rounds.missing=exclude", "--faults", "plan.yaml")
    assert code == 4 and "not certified: not every home answered" in err
    code, _, err = command(monkeypatch, capfd, *run, "--no-certify")
    assert code == 2 and "drop one" in err
    assert command(monkeypatch, capfd, "run", "user_oriented", *memory, "--no-certify") == (0, "", "")


def test_scenarios_and_schema_name_every_game(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = command(monkeypatch, capfd, "scenarios")
    assert code == 0
    listed = {line.split()[0] for line in out.splitlines() if line}
    assert {*list_games()} <= listed
    titled = [line for line in out.splitlines() if line and not line.endswith(":")]
    assert len({line.index(line.split(maxsplit=1)[1]) for line in titled}) == 1  # one column
    for game in list_games():
        code, out, _ = command(monkeypatch, capfd, "schema", game)
        assert code == 0
        assert "leader" in json.loads(out)["properties"]
    code, out, _ = command(monkeypatch, capfd, "check", "user_oriented")
    assert code == 0
    assert "a user_oriented game of 60 homes, 4 aggregators and 24 slots; no errors" in out
    one = ["--set", "population.homes=1", "--set", "aggregators=1"]
    code, out, _ = command(monkeypatch, capfd, "check", "user_oriented", *one)
    assert code == 0
    assert "a user_oriented game of 1 home, 1 aggregator and 24 slots; no errors" in out


@pytest.mark.parametrize("words", ["", "run", "certs", "certs add", "provision"])
def test_short_help_is_the_long_one(
    words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    short, long = (command(monkeypatch, capfd, *words.split(), flag) for flag in ("-h", "--help"))
    assert short[1].startswith("Usage: stackelgrid")
    assert short == long == (0, short[1], "")


def test_help_needs_nothing_that_a_run_needs() -> None:
    code = "import sys, stackelgrid.cli; print(*{'numpy', 'pydantic', 'rich', 'ruamel', 'starlette'} & {*sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded == "\n"


def test_help_lists_every_command_by_purpose(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = command(monkeypatch, capfd, "--help")[1]
    lists = out[out.index("\nRuns:") :]
    headings = [line[:-1] for line in lists.splitlines() if line and not line.startswith(" ")]
    assert headings == [*cli.COMMANDS]
    lines = [line.split(maxsplit=1) for line in lists.splitlines() if line.startswith(" ")]
    assert lines[0][0] == "run"
    assert {name for name, _ in lines} == {*typer.main.get_group(cli.app).commands}
    assert not [about for _, about in lines if not about.endswith(".") or about.endswith("...")]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("swe", {"sweep"}),
        ("run --transport m", {"mqtt", "memory"}),
        ("run user", {"user_oriented"}),
        ("run street --faults aggregator-d", {"aggregator-dies"}),
        ("run --resume user", {"user-run"}),
        ("certify user", {"user-run", "user_oriented"}),
        ("report user", {"user-run"}),
        ("init --game user", {"user_oriented"}),
        ("schema user", {"user_oriented"}),
    ],
)
def test_completion_offers_what_may_follow(
    typed: str, offered: set[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("runs/user-run").mkdir(parents=True)
    Path("runs/user-run/rounds.jsonl").touch()
    monkeypatch.setenv("_STACKELGRID_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"stackelgrid {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    code, out, err = command(monkeypatch, capfd)
    assert (code, {*out.split()}, err) == (0, offered, "")


def test_version_is_that_of_the_installed_package(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, capfd, "--version") == (0, f"stackelgrid {version('stackelgrid')}\n", "")


@pytest.mark.parametrize("game", list_games())
def test_init_writes_a_scenario_that_is_checked_and_settles(
    game: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(monkeypatch, capfd, "init", "my own.yaml", "--game", game)
    assert (code, err) == (0, "")
    assert out == f"my own.yaml: a {game} game; change it, then: stackelgrid run 'my own.yaml'\n"
    written = (tmp_path / "my own.yaml").read_text()
    assert written.count("#") > 10 and f"\ngame: {game}\n" in written and max(map(len, written.splitlines())) <= 120
    code, out, err = command(monkeypatch, capfd, "check", "my own.yaml")
    assert code == 0 and out.endswith("no errors\n") and err == ""
    run = stackelgrid.run("my own.yaml")
    assert run.settled and run.complete
    assert run.certify(samples=5).passed


def test_init_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scenario.yaml").write_text("mine")
    code, _, err = command(monkeypatch, capfd, "init")
    assert (code, err) == (2, "scenario.yaml: it exists already; name a new file\n")
    assert (tmp_path / "scenario.yaml").read_text() == "mine"
    for words, said in (
        (["nowhere/new.yaml"], "nowhere/new.yaml: No such file or directory; "),
        (["new.yaml", "--game", "chess"], "'chess' is not a game that is installed"),
    ):
        code, _, err = command(monkeypatch, capfd, "init", *words)
        assert code == 2 and err.startswith(said) and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scenario.yaml"]
