"""The worth of planning again: the table that `compare-planning` puts beside a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from stackelgrid.model import Finite, StrictModel, explain
from stackelgrid.report.parts import Section, Table, drop_rounding
from stackelgrid.report.run_folder import ReportError
from stackelgrid.report.words import number
from stackelgrid.text_file import parse_json, read_text

FILE = "planning.json"


@dataclass(frozen=True)
class CarriedOut:
    """The slots of a session that bind, as they came: `load_kw` of all meters and `imbalance_kwh`, (B,).

    `unserved_kwh` is load that connections did not carry; `homes_pay`, less what they are paid, and their utility after
    that are money, and so is the cost of supply, imbalance, and all else that somebody has for it.
    """

    load_kw: Sequence[float]
    imbalance_kwh: Sequence[float]
    unserved_kwh: float
    homes_pay: float
    homes_utility: float
    supply_cost: float


class Plan(StrictModel):
    """The result of a plan, of all slots that bound: energy and peak of the meters, money, utilities.

    `imbalance_kwh` is what meters counted beyond what was settled or short of it, `unserved_kwh` load that connections
    did not carry. `welfare` is the utility of the homes and what the company earns, `worth` its gain over planning once
    per horizon.
    """

    plan: str
    settled: bool
    sessions: int
    energy_kwh: Finite
    peak_kw: Finite
    imbalance_kwh: Finite
    unserved_kwh: Finite
    homes_pay: Finite
    homes_utility: Finite
    company_earns: Finite
    welfare: Finite
    worth: Finite


class Planning(StrictModel):
    """The plans by which a scenario was played, `planned_once` and others."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    game: str
    scenario: str
    seed: int
    money: str
    plans: list[Plan]


def show_plans(folder: Path) -> list[Section]:
    """Show the table of plans where the folder of a run has one. Raises `ReportError`."""
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        found = Planning.model_validate(parse_json(read_text(path, mend="remove it")))
    except ValidationError as error:
        raise ReportError(f"{explain(str(path), error)}; remove the file") from None
    except ValueError as error:
        raise ReportError(f"{path}: {error}") from None
    money = found.money
    columns = {
        "Energy (kWh)": "energy_kwh",
        "Peak (kW)": "peak_kw",
        "Imbalance (kWh)": "imbalance_kwh",
        f"Homes pay ({money})": "homes_pay",
        f"Homes' utility ({money})": "homes_utility",
        f"Company earns ({money})": "company_earns",
        f"Worth ({money})": "worth",
    }
    rows = [
        [
            plan.plan.replace("_", " ").capitalize(),
            "yes" if plan.settled else "no",
            f"{plan.sessions:,}",
            *(number(getattr(plan, key)) for key in columns.values()),
        ]
        for plan in map(_drop_rounding, found.plans)
    ]
    unsettled = "" if all(plan.settled for plan in found.plans) else " Of a plan that did not settle, the last rounds."
    note = (
        "The same days as the scenario says, planned once per horizon, and with perfect foresight. Worth: by how much "
        "the homes' utility and what the company earns are above those of planning once."
        f"{unsettled}"
    )
    return [Section("What planning again was worth", [Table(note, ["Settled", "Sessions", *columns], [rows])])]


def _drop_rounding(plan: Plan) -> Plan:
    imbalance, worth = drop_rounding(plan.imbalance_kwh, plan.energy_kwh), drop_rounding(plan.worth, plan.welfare)
    return plan.model_copy(update={"imbalance_kwh": imbalance, "worth": worth})
