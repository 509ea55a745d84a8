"""Fault plans in YAML: shipped ones by name, or a file. They are checked against the scenario of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from broker import BrokerKind
from stackelgrid.errors import ConfigError
from stackelgrid.faults.plan import BrokerOutage, FaultPlan, Lie, MomentFault, OnLink, OnNode, Partition
from stackelgrid.model import explain
from stackelgrid.scenarios import Scenario, yaml_file
from stackelgrid.transport.address import hide_password


class FaultPlanError(ConfigError):
    """A fault plan that cannot be used; the message names file, key, value and mend."""


def list_shipped() -> dict[str, Path]:
    """List the plans that come with the package, by name."""
    return yaml_file.list_shipped("faults")


def is_plan(source: str) -> bool:
    """Say whether `source` is a fault plan rather than a scenario: a shipped one, or a file with `faults`."""
    if source in list_shipped():
        return True
    try:
        content = yaml_file.read(Path(source), "fault plan")
    except ValueError:
        return False  # reading it as a scenario reports what is wrong
    return "faults" in content and "game" not in content


def load(source: str | Mapping[str, Any]) -> FaultPlan:
    """Read a plan: a shipped name, a YAML file or its content. Raises `FaultPlanError`."""
    if isinstance(source, Mapping):
        return _parse("fault_plan", dict(source))
    try:
        path = yaml_file.find(source, list_shipped(), "fault plan")
        content = yaml_file.read(path, "fault plan")
    except ValueError as error:
        raise FaultPlanError(str(error)) from None
    return _parse(str(path), content)


def _parse(source: str, content: dict[str, Any]) -> FaultPlan:
    try:
        return FaultPlan.model_validate(content)
    except ValidationError as error:
        raise FaultPlanError(explain(source, error, content, FaultPlan)) from None


def fit(
    source: str | Path | Mapping[str, Any] | FaultPlan, scenario: Scenario, broker: str = BrokerKind.AUTO
) -> FaultPlan:
    """Fit a plan, or that of a name, a file or content, to a scenario: `home:N` and `aggregator:N` become names.

    `home:N` is the N-th EMC process, counted aggregator by aggregator, `aggregator:N` the N-th aggregator.

    Refused are names of nodes that the scenario does not have, faults of a broker that is not the run's own, and of the
    embedded one what it cannot do. Raises `FaultPlanError`.
    """
    topology = scenario.topology
    named = {f"home:{number}": name for number, name in enumerate(topology.aggregator_of, start=1)}
    named |= {f"aggregator:{number}": name for number, name in enumerate(topology.aggregators, start=1)}
    if not isinstance(source, str | Path | Mapping | FaultPlan):
        kind = type(source).__name__
        raise FaultPlanError(f"fault_plan: {kind} is no plan; give a name, a file, its content or a FaultPlan")
    if isinstance(source, Path):
        source = str(source)
    general = source if isinstance(source, FaultPlan) else load(source)
    plan = FaultPlan.model_validate(_rename(general.model_dump(by_alias=True), named))
    names = topology.names
    for number, fault in enumerate(plan.faults):
        where = f"{source if isinstance(source, str) else 'fault_plan'}: faults.{number}"
        session, sessions = fault.at.session if isinstance(fault, MomentFault) else None, len(scenario.sessions)
        if session is not None and session > sessions:
            raise FaultPlanError(f"{where}.at.session: {session}, the run has {sessions}; choose one of them")
        match fault:
            case OnLink():
                _require_known(f"{where}.from", [fault.from_], names)
                _require_known(f"{where}.to", [fault.to], names)
            case Partition():
                for group, members in enumerate(fault.groups):
                    _require_known(f"{where}.groups.{group}", members, names)
            case OnNode():
                _require_known(f"{where}.node", [fault.node], names)
                if isinstance(fault, Lie) and fault.as_ is not None:
                    _require_known(f"{where}.as", [fault.as_], names)
            case BrokerOutage() if BrokerKind.of(broker) is None:
                raise FaultPlanError(
                    f"{where}: the broker at {hide_password(broker)} is not ours to kill; leave --broker away"
                )
            case BrokerOutage() if broker == BrokerKind.EMBEDDED and fault.keep_retained:
                raise FaultPlanError(
                    f"{where}.keep_retained: the embedded broker keeps nothing over a restart; "
                    "set keep_retained: false or take --broker mosquitto"
                )
    return plan


def _rename(content: Any, named: Mapping[str, str]) -> Any:
    """Replace every text that is a key of `named`."""
    if isinstance(content, dict):
        return {key: _rename(value, named) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_rename(value, named) for value in content]
    return named.get(content, content) if isinstance(content, str) else content


def dump(plan: FaultPlan) -> str:
    """Give the plan as YAML, every value spelled out."""
    return yaml_file.dump(plan)


def _require_known(key: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names if len(names) <= 6 else [*names[:5], "…", names[-1]])
            raise FaultPlanError(f"{key}: no node of this scenario is called {pattern!r}; there are {shown}")
