"""The folder of a run that has ended, read and checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stackelgrid.calendar import Session
from stackelgrid.errors import ConfigError
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.model import Finite, explain
from stackelgrid.registry import find
from stackelgrid.report.parts import PLAIN_RULES, Rule
from stackelgrid.run_result import RunResult, SessionResult, parse
from stackelgrid.scenarios import Scenario, ScenarioError, load, yaml_file
from stackelgrid.text_file import parse_json, read_text

FAULTS = "faults.yaml"
"""The plan of a run under faults."""


class ReportError(ConfigError):
    """A folder that cannot be reported on; the message names the file, what is wrong with it and the mend."""


class RoundRecord(BaseModel):
    """A line of rounds.jsonl: the keys of all games, and the game's own in `model_extra`.

    `residual` is the relative change still wanted, None when none could be computed.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    round: int
    residual: Finite | None
    held: list[str]
    excluded: list[str]
    again: int

    def number(self, key: str) -> float | None:
        """Give a number of the game's own, None where there is none."""
        value = (self.model_extra or {}).get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class PlayedSession:
    """A session of a run, its scenario as it was foreseen and its result, as those of a run of its own."""

    session: Session
    scenario: Any
    result: RunResult[Any]

    @property
    def outcome(self) -> Any:
        """The outcome, of the game's own class; None when no round was finished."""
        return self.result.outcome


@dataclass(frozen=True)
class RunFolder:
    """The content of a run's folder; `scenario` is of the game's own class.

    Where there is no manifest it is {}, where there is no fault plan that is None.
    """

    folder: Path
    result: RunResult[Any]
    rounds: list[RoundRecord]
    scenario: Any
    manifest: dict[str, Any]
    faults: FaultPlan | None = None

    @cached_property
    def sessions(self) -> list[PlayedSession]:
        """The sessions, in the order of time: the run itself where it has only one."""
        if not self.result.sessions:
            return [PlayedSession(self.scenario.session, self.scenario.in_session(self.scenario.session), self.result)]
        return [
            PlayedSession(
                session, self.scenario.in_session(session, found.states), self.result.of_session(session.number)
            )
            for session, found in zip(self.scenario.sessions, self.result.sessions, strict=True)
        ]


def read(folder: Path, scenario: Scenario | None = None) -> RunFolder:
    """Read the folder of a run that has ended; its scenario too, unless that is given. Raises `ReportError`."""
    result = read_result(folder / "result.json")
    rounds = _read_rounds(folder / "rounds.jsonl", result.rounds)
    played = _read_scenario(folder / "scenario.yaml") if scenario is None else scenario
    if len(played.sessions) != (sessions := len(result.sessions) or 1):
        raise ReportError(
            f"{folder / 'scenario.yaml'}: calendar makes {len(played.sessions)} sessions, result.json has {sessions}; "
            "put back the scenario that was played"
        )
    return RunFolder(
        folder, result, rounds, played, _read_manifest(folder / "manifest.json"), _read_faults(folder / FAULTS)
    )


def read_result(path: Path) -> RunResult[Any]:
    """Read a result.json. Raises `ReportError`."""
    content = _parse_json(path, _read_text(path))
    try:
        result = parse(content)
        _check_certificates(result)
    except ValidationError as error:
        raise ReportError(f"{explain(str(path), error)}; put the file back or run again") from None
    except ValueError as error:
        raise ReportError(f"{path}: {error}; put the file back or run again") from None
    return result


def _check_certificates(result: RunResult[Any]) -> None:
    """Check that what the rules of the game judge is a number, in every session. Raises `ValueError` with the key."""
    game = find(result.game)
    rules: Sequence[Rule] = PLAIN_RULES if game.report is None else game.load("report").rules
    certified: Sequence[RunResult[Any] | SessionResult[Any]] = result.sessions if result.sessions else [result]
    for number, each in enumerate(certified):
        if each.certificate is None:
            continue
        try:
            for rule in rules:
                each.certificate.number(rule.key)
                if rule.within is not None and each.outcome is not None:
                    rule.of(each.outcome, each.certificate)
        except ValueError as error:
            raise ValueError(f"sessions.{number}.{error}" if result.sessions else str(error)) from None


def read_journal(path: Path) -> list[Any]:
    """Read the lines of a rounds.jsonl. Raises `ReportError`."""
    lines = _read_text(path).splitlines()
    return [_parse_json(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1)]


def _read_rounds(path: Path, expected: int) -> list[RoundRecord]:
    return parse_rounds(path, read_journal(path) if expected or path.is_file() else [], expected)


def parse_rounds(path: Path, records: Sequence[Any], expected: int) -> list[RoundRecord]:
    """Check the lines of a rounds.jsonl. Raises `ReportError`."""
    if len(records) != expected:
        raise ReportError(f"{path}: {len(records)} rounds, but result.json counts {expected}; run the scenario again")
    return [_read_round(f"{path}, line {number}", record) for number, record in enumerate(records, start=1)]


def _read_round(source: str, content: Any) -> RoundRecord:
    try:
        return RoundRecord.model_validate(content)
    except ValidationError as error:
        raise ReportError(f"{explain(source, error)}; put the file back or run again") from None


def _read_scenario(path: Path) -> Any:
    try:
        return load(str(path))
    except ScenarioError as error:
        raise ReportError(f"{error}; put back the scenario that was played") from None


def _read_faults(path: Path) -> FaultPlan | None:
    if not path.is_file():
        return None
    try:
        content = yaml_file.read(path, "fault plan")
        return FaultPlan.model_validate(content)
    except ValidationError as error:
        raise ReportError(f"{explain(str(path), error, content)}; put back the plan that was played") from None
    except ValueError as error:
        raise ReportError(f"{error}; put back the plan that was played") from None


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = _parse_json(path, _read_text(path))
    if not isinstance(content, dict):
        raise ReportError(f"{path}: not a mapping of keys; remove the file")
    return content


def _read_text(path: Path) -> str:
    try:
        return read_text(path, mend="name the folder of a finished `stackelgrid run`, or a run of `stackelgrid runs`")
    except ValueError as error:
        raise ReportError(f"{path}: {error}") from None


def _parse_json(source: Path | str, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ReportError(f"{source}: {error}; run the scenario again") from None
