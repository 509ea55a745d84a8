"""docs/interface.md has every command, option, exit code and key of result.json, and none that is not there."""

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel, RootModel

import broker.__main__
import broker.refusals
import leader_node.__main__
from stackelgrid import cli, runner
from stackelgrid.errors import ExitCode
from stackelgrid.registry import find, list_games
from stackelgrid.run_record import Outcome
from stackelgrid.run_result import RunResult
from stackelgrid.ui import openapi
from stackelgrid.ui.launcher import Launcher
from stackelgrid.ui.server import Interface

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "interface.md").read_text(encoding="utf-8")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def section(heading: str) -> str:
    """The text below a heading, down to the next one of the same level."""
    level = heading.partition(" ")[0]
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def name_all(text: str) -> set[str]:
    """What stands in the text as code."""
    return set(re.findall(r"`([^`\n]+)`", text))


def list_commands(group: Any, *above: str) -> Iterator[tuple[str, set[str]]]:
    """Each command with its options."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from list_commands(command, *above, name)
        else:
            options = {each for one in command.params for each in [*one.opts, *one.secondary_opts]}
            yield " ".join([*above, name]), {each for each in options if each.startswith("--")}


def read_usage(program: str) -> dict[str, set[str]]:
    """The commands of a program that the page has, each with its options."""
    lines = re.findall(rf"^{program}\b ?(.*(?:\n .*)*)", section("## Commands"), re.MULTILINE)
    usage: dict[str, set[str]] = defaultdict(set)
    for each in lines:
        usage[re.split(r"  | \[| -| [A-Z]", each)[0].strip()] |= {*OPTION.findall(each)}
    return usage


def list_keys(model: type[BaseModel]) -> set[str]:
    """The keys that a model writes, its own and those of the models in it but outcomes."""
    if issubclass(model, RootModel):
        return set()
    fields = {field.alias or name: field for name, field in model.model_fields.items() if not field.exclude}
    inside = (inner for field in fields.values() for inner in find_models(field.annotation))
    return set(fields).union(*(list_keys(inner) for inner in inside if not issubclass(inner, Outcome)))


def find_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from find_models(inner)


def test_page_has_every_command_with_its_options() -> None:
    there = dict(list_commands(typer.main.get_command(cli.app)))
    assert read_usage("stackelgrid") == there


def test_page_has_the_commands_under_the_headings_of_help() -> None:
    headings = re.findall(r"^### (.*)$", section("## Commands"), re.MULTILINE)
    assert headings[: len(cli.COMMANDS)] == [*cli.COMMANDS]


def test_page_has_the_options_of_no_command() -> None:
    there = {each for one in typer.main.get_command(cli.app).params for each in one.opts if each.startswith("--")}
    introduction = section("## Commands").partition("\n### ")[0]
    assert {*OPTION.findall(introduction)} == there | {"--help"}


@pytest.mark.parametrize(
    ("program", "main"),
    [
        ("leader-node, aggregator-node, emc-node", leader_node.__main__.main),
        ("python -m broker", broker.__main__.main),
        ("python -m broker.refusals", broker.refusals.main),
    ],
    ids=["nodes", "broker", "refusals"],
)
def test_page_has_the_options_of_other_programs(
    program: str, main: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [program, "--help"])
    with pytest.raises(SystemExit):
        main()
    there = {*OPTION.findall(capsys.readouterr().out)} - {"--help"}
    (usage,) = re.findall(rf"^{re.escape(program)} (.*(?:\n .*)*)", section("### Other programs"), re.MULTILINE)
    assert {*OPTION.findall(usage)} == there


def test_page_has_every_exit_code() -> None:
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", section("### Exit codes"), re.MULTILINE)]
    assert codes == [*ExitCode]


def spell_path(path: str) -> str:
    """A path of the OpenAPI document, as the page has it."""
    return re.sub(r"{(\w+)}", lambda found: {"run": "ID", "game": "GAME"}.get(found[1], "NAME"), path)


def test_page_has_every_request_of_the_http_interface() -> None:
    paths = openapi.describe(Interface(Launcher(Path()), "", "").operations)["paths"]
    there = {f"{method.upper()} {spell_path(path)}" for path, methods in paths.items() for method in methods}
    assert {*re.findall(r"`((?:GET|POST|DELETE) [^`?]+)`", section("## HTTP"))} == there | {"GET /openapi.json"}


def test_page_has_every_key_of_a_result() -> None:
    common = section("## result.json").partition("`outcome` of `")[0]
    keys = list_keys(RunResult[Any])
    assert keys - name_all(common) == set()
    first = {key for line in common.splitlines() for key in name_all(line.partition(" | ")[0])}
    assert first - keys == set()


@pytest.mark.parametrize("game", list_games())
def test_page_has_every_key_of_an_outcome(game: str) -> None:
    (part,) = re.findall(
        rf"^`outcome` of `{game}`(.*?)(?=^`outcome` of|\Z)", section("## result.json"), re.M | re.DOTALL
    )
    keys = list_keys(find(game).load("outcome"))
    named = name_all(part) | {"times", "slot_hours"}
    assert {"times", "slot_hours"} <= name_all(section("## result.json"))
    assert keys - named == set()
    first = {key for line in part.splitlines() if line.startswith("| `") for key in name_all(line.split(" | ")[0])}
    assert first - keys == set()


def test_page_has_every_file_of_a_run(tmp_path: Path) -> None:
    runner.run("user_oriented", {"population.homes": 4}, faults="sleepy-home", out=tmp_path / "run")
    listed = {*re.findall(r"^(\S+(?:\.[a-z]+|/))[ ,]", section("## A run's folder"), re.MULTILINE)}
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        re.sub(r"^simbench_2016_days\b(?!\.LIC)", "NAME", name) for name in found if "LICENSE" not in name
    } <= listed
    assert {"report.html", "figures/", "tables/", "logs/", "nodes/", "events.jsonl"} <= listed
    first = json.loads((tmp_path / "run" / "rounds.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert {*first} - name_all(section("## rounds.jsonl")) == set()


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{path.name}" for path in sorted(DOCS.glob("*.md")) if path.name != "interface.md")]
)
def test_commands_of_a_page_can_be_given(page: str) -> None:
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.DOTALL)
    for line in re.findall(r"^(?:\$ )?stackelgrid (.*)$", "".join(blocks).replace("\\\n", " "), re.MULTILINE):
        command, words = typer.main.get_command(cli.app), shlex.split(line, comments=True)
        if re.search(r"[…\[|]|\.\.\.|^[A-Z]", " ".join(words)) or words[0].startswith("--"):
            continue  # a synopsis
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command, *words = command.commands[words[0]], *words[1:]
        command.make_context(line, words)  # raises for an option that is not there
