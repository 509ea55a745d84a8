"""A finished run as its folder tells it, checked before anything is drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.model import explain
from stackelgrid.registry import find
from stackelgrid.run_result import Certificate, FaultOccurrence, RunResult, parse
from stackelgrid.run_result import RunResult as Result
from stackelgrid.scenarios import yaml_file
from stackelgrid.wire.arrays import Finite

if TYPE_CHECKING:
    from stackelgrid.report.game import GameReport


__all__ = ["Certificate", "FaultOccurrence", "Result"]


class ReportError(ConfigError):
    """A folder that cannot be reported on; the message names the file, what is wrong with it and the mend."""


class Part(BaseModel):
    """Base of what is read: keys that the report has no use for are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Anything(Part):
    """Whatever there is, in `model_extra`."""

    model_config = ConfigDict(extra="allow")


def of_game(name: str) -> GameReport:
    """What the game of a name brings to its report."""
    game = find(name)
    if game.report is None:
        from stackelgrid.report.game import PLAIN

        return PLAIN
    report: GameReport = game.load("report")
    return report


def for_report(result: Result[Any]) -> Result[Any]:
    """Give the same result, its outcome by the model of the game's report, where the game itself has none."""
    if result.outcome is None or find(result.game).outcome is not None:
        return result
    outcome: Any = of_game(result.game).outcome
    read: Result[Any] = RunResult[outcome].model_validate(result.content())
    return read


def check_numbers(result: Result[Any]) -> None:
    """Raise `ValueError` for a number of the certificate that the game's report names and that is none."""
    if result.certificate is not None:
        for rule in of_game(result.game).rules:
            result.certificate.number(rule.key)


class RoundRecord(Anything):
    """A line of rounds.jsonl: what all games have, and the game's own account in `model_extra`.

    `residual` is the relative change still wanted, None when none could be worked out.
    """

    round: int
    residual: Finite | None
    held: list[str]
    excluded: list[str]
    again: int

    def number(self, key: str) -> float | None:
        """A number of the game's account, None where there is none."""
        value = (self.model_extra or {}).get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class Leader(Part):
    """The leader's settings, as far as all games have them."""

    tolerance: float = 1e-6
    max_rounds: int = 40


class PlayedScenario(Part):
    """scenario.yaml, as far as the report of any game needs it."""

    leader: Leader = Leader()
    slots: int = 24


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, outcome and scenario by the models of the game's `report`.

    `manifest` is {} where there is none.
    """

    folder: Path
    report: GameReport
    result: Result[Any]
    rounds: list[RoundRecord]
    scenario: Any
    manifest: dict[str, Any]


def read(folder: Path) -> RunFolder:
    """Read the folder of a run that has ended. Raises `ReportError`."""
    result = for_report(read_result(folder / "result.json"))
    report = of_game(result.game)
    finished = RunFolder(
        folder,
        report,
        result,
        _read_rounds(folder / "rounds.jsonl", result.rounds),
        _read_scenario(folder / "scenario.yaml", report.scenario),
        _read_manifest(folder / "manifest.json"),
    )
    report.check(finished)
    return finished


def read_result(path: Path) -> Result[Any]:
    """Read a result.json. Raises `ReportError`."""
    if not path.is_file():
        raise ReportError(f"{path}: there is no such file; name the folder of a finished `stackelgrid run`")
    content = _parsed(path, _text(path))
    try:
        result = parse(content)
        check_numbers(for_report(result))
        return result
    except ValidationError as error:
        raise ReportError(f"{explain(str(path), error)}\n{path}: put the file back or run again") from None
    except ValueError as error:
        raise ReportError(f"{path}: {error}; put the file back or run again") from None


def _read_rounds(path: Path, expected: int) -> list[RoundRecord]:
    lines = _text(path).splitlines() if expected or path.is_file() else []
    if len(lines) != expected:
        raise ReportError(f"{path}: {len(lines)} rounds, but result.json counts {expected}; run the scenario again")
    return [
        _checked(f"{path}, line {number}", _parsed(f"{path}, line {number}", line), RoundRecord)
        for number, line in enumerate(lines, start=1)
    ]


def _read_scenario(path: Path, model: type[BaseModel]) -> BaseModel:
    try:
        content = yaml_file.parse(_text(path))
    except ValueError as error:
        raise ReportError(f"{path}: not YAML: {error}; put back the scenario played") from None
    return _checked(path, content, model)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = _parsed(path, _text(path))
    if not isinstance(content, dict):
        raise ReportError(f"{path}: not a mapping of keys; remove the file")
    return content


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror}); name the folder of a finished run") from None
    except UnicodeDecodeError:
        raise ReportError(f"{path}: not a text file in UTF-8; run the scenario again") from None


def _parsed(source: Path | str, text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ReportError(f"{source}: {constant} is no number of JSON; run the scenario again")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ReportError(f"{source}: not JSON ({error}); run the scenario again") from None


Read = TypeVar("Read", bound=BaseModel)


def _checked(source: Path | str, content: Any, model: type[Read]) -> Read:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ReportError(f"{explain(str(source), error)}\n{source}: put the file back or run again") from None
