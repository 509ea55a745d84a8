"""A finished run as its folder tells it, checked before anything is drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from leader_node.user_oriented import UtilitySettings
from stackelgrid.node.config import explain
from stackelgrid.wire.arrays import Finite, Vector


class ReportError(Exception):
    """A folder that cannot be reported on; the message names the file, what is wrong with it and the mend."""


class Part(BaseModel):
    """Base of what is read: keys that the report has no use for are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class HomeAccount(Part):
    """A home at the last price: kW and stored kWh per slot, money. `baseline_bill` is its bill at the flat price."""

    load_kw: Vector
    bill: Finite
    utility: Finite
    storage_kwh: Vector | None = None
    baseline_bill: Finite | None = None


class Outcome(Part):
    """What the user-oriented pricing game came to; see `stackelgrid.testbed.result.outcome`."""

    price: Vector
    load_kw: Vector
    baseline_load_kw: Vector
    peak_kw: Finite
    par: Finite
    baseline_peak_kw: Finite
    baseline_par: Finite
    leader_utility: Finite
    system_utility: Finite
    revenue: Finite
    homes: dict[str, HomeAccount]

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        slots = len(self.price)
        arrays = {"load_kw": self.load_kw, "baseline_load_kw": self.baseline_load_kw}
        for name, home in self.homes.items():
            arrays |= {f"homes.{name}.load_kw": home.load_kw, f"homes.{name}.storage_kwh": home.storage_kwh or []}
        for key, array in arrays.items():
            if array and len(array) != slots:
                raise ValueError(f"{key} has {len(array)} numbers, price has {slots}")
        return self


class Certificate(Part):
    """What `stackelgrid certify` found. Any number may be missing: each objective and method has its own."""

    method: str | None = None
    gap: Finite | None = None
    max_regret: Finite | None = None
    max_home_regret: Finite | None = None
    leader_regret: Finite | None = None
    price_residual: Finite | None = None
    feasible: bool | None = None
    violation: Finite | None = None
    overclaim: Finite | None = None
    bill_residual: Finite | None = None
    balance_residual: Finite | None = None
    load_residual: Finite | None = None
    welfare_price: Vector | None = None
    price_distance: dict[str, Finite | None] | None = None
    welfare_system_utility: Finite | None = None
    system_utility: Finite | None = None


class Missing(Part):
    """A member that a round went on without."""

    round: int
    node: str
    action: str


class Result(Part):
    """result.json of the user-oriented pricing game. `outcome` is None when not a single round was finished."""

    game: str
    scenario: str
    seed: int
    transport: str
    broker: str
    settled: bool
    complete: bool
    rounds: int
    elapsed_s: Finite
    messages: int
    bytes: int
    rejected: dict[str, int] = {}
    homes: int
    processes: int
    money: str
    outcome: Outcome | None
    certificate: Certificate | None
    missing: list[Missing] = []
    failures: dict[str, str] = {}

    @field_validator("game")
    @classmethod
    def _known(cls, game: str) -> str:
        if game != "user_oriented":
            raise ValueError("there is a report of user_oriented only")
        return game

    @field_validator("outcome", mode="before")
    @classmethod
    def _nothing_found(cls, outcome: Any) -> Any:
        return outcome or None

    @model_validator(mode="after")
    def _welfare_length(self) -> Self:
        welfare = self.certificate and self.certificate.welfare_price
        if welfare and self.outcome and len(welfare) != len(self.outcome.price):
            raise ValueError(
                f"certificate.welfare_price has {len(welfare)} numbers, outcome.price has {len(self.outcome.price)}"
            )
        return self


class RoundRecord(Part):
    """A line of rounds.jsonl, as far as the report shows it.

    `residual` is the relative price change still wanted, None when none could be worked out.
    """

    round: int
    peak_kw: Finite
    leader_utility: Finite
    residual: Finite | None
    held: list[str]
    excluded: list[str]
    again: int


class PlayedScenario(Part):
    """scenario.yaml, as far as the report shows it: the homes are left alone."""

    leader: UtilitySettings
    aggregators: int = 1


@dataclass(frozen=True)
class Finished:
    """A run's folder. `manifest` is {} where there is none."""

    folder: Path
    result: Result
    rounds: list[RoundRecord]
    scenario: PlayedScenario
    manifest: dict[str, Any]

    @property
    def wholesale_price(self) -> list[float]:
        """c_t, money per kWh, one number per slot of the outcome."""
        price = self.scenario.leader.wholesale_price
        slots = len(self.result.outcome.price) if self.result.outcome else 1
        return price if isinstance(price, list) else [price] * slots


def read(folder: Path) -> Finished:
    """Read the folder of a run that has ended. Raises `ReportError`."""
    result = _read_result(folder / "result.json")
    finished = Finished(
        folder,
        result,
        _read_rounds(folder / "rounds.jsonl", result.rounds),
        _read_scenario(folder / "scenario.yaml"),
        _read_manifest(folder / "manifest.json"),
    )
    if result.outcome and len(finished.wholesale_price) != len(result.outcome.price):
        raise ReportError(
            f"{folder / 'scenario.yaml'}: leader.wholesale_price has {len(finished.wholesale_price)} numbers, "
            f"result.json has {len(result.outcome.price)} slots; put back the scenario that was played"
        )
    return finished


def _read_result(path: Path) -> Result:
    if not path.is_file():
        raise ReportError(f"{path}: there is no such file; name the folder of a finished `stackelgrid run`")
    return _checked(path, _parsed(path, _text(path)), Result)


def _read_rounds(path: Path, expected: int) -> list[RoundRecord]:
    lines = _text(path).splitlines() if expected or path.is_file() else []
    if len(lines) != expected:
        raise ReportError(f"{path}: {len(lines)} rounds, but result.json counts {expected}; run the scenario again")
    return [
        _checked(f"{path}, line {number}", _parsed(f"{path}, line {number}", line), RoundRecord)
        for number, line in enumerate(lines, start=1)
    ]


def _read_scenario(path: Path) -> PlayedScenario:
    try:
        content = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise ReportError(f"{path}: not YAML: {' '.join(str(error).split())}; put back the scenario played") from None
    return _checked(path, content, PlayedScenario)


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


Read = TypeVar("Read", bound=Part)


def _checked(source: Path | str, content: Any, model: type[Read]) -> Read:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ReportError(f"{explain(str(source), error)}\n{source}: put the file back or run again") from None
