"""Check a scenario as the form of the page has it, and say of each key what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from stackelgrid.errors import ConfigError
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.model import StrictModel, list_mistakes
from stackelgrid.scenarios import Scenario, ScenarioError, list_shipped, load
from stackelgrid.testbed import fault_plans
from stackelgrid.testbed.fault_plans import FaultPlanError
from stackelgrid.ui.answers import Checked, Mistake
from stackelgrid.ui.scenario_list import find_plans, find_scenarios


def _read_whole(value: object) -> object:
    """Read 14.0 as 14, as JSON Schema does."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Seed = Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(_read_whole)]


class Check(StrictModel):
    """What is checked: a scenario by its name or content, values to `set` by key, a seed, a plan by name or content."""

    model_config = ConfigDict(strict=True)

    scenario: str | dict[str, Any]
    set: dict[str, Any] = {}
    seed: Seed | None = None
    faults: str | dict[str, Any] | None = None


def check(wanted: Check) -> Checked:
    """Check it: list its mistakes, or the size of the game."""
    try:
        scenario = read_scenario(wanted)
        if wanted.faults is not None:
            fault_plans.fit(read_plan(wanted.faults), scenario)
    except ScenarioError as error:
        return Checked(errors=[Mistake(key=key, message=message) for key, message in error.mistakes])
    except ConfigError as error:
        return Checked(errors=[Mistake(key="faults", message=str(error))])
    return Checked(
        errors=[],
        homes=len(scenario.everyone),
        aggregators=scenario.aggregators,
        slots=scenario.slots,
        sessions=len(scenario.sessions),
        doubts=scenario.find_doubts(),
    )


def read_scenario(wanted: Check) -> Scenario:
    """Read the scenario. Raises `ScenarioError`."""
    source: Any = wanted.scenario
    if isinstance(source, str):
        known = find_scenarios()
        if source not in known:
            there = ", ".join(known)
            message = f"{source!r} is no scenario; there are {there}"
            raise ScenarioError(message, [("scenario", message)])
        source = source if source in list_shipped() else str(known[source])
    return load(source, [f"{key}={json.dumps(value)}" for key, value in wanted.set.items()], wanted.seed)


def read_plan(plan: str | Mapping[str, Any]) -> FaultPlan:
    """Read a fault plan: one by its name, or its content. Raises `FaultPlanError`."""
    if isinstance(plan, str):
        known = find_plans()
        if plan not in known:
            raise FaultPlanError(f"{plan!r} is no fault plan; there are {', '.join(known)}")
        return fault_plans.load(str(known[plan]))
    try:
        return FaultPlan.model_validate(plan)
    except ValidationError as error:
        key, message = list_mistakes(error, plan, FaultPlan)[0]
        raise FaultPlanError(f"{key}: {message}") from None
