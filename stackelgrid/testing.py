"""A pytest plugin: whole runs as fixtures, for the tests of one's own scenario, game or node.

    def test_it_settles(testbed):
        run = testbed("my_scenario.yaml", {"leader.mu": 0.8})
        assert run.settled and run.complete
        assert_certified(run)

Fixtures: `testbed`, `fault_plan`, `stackelgrid_broker`; functions: `assert_certified`. Where Stackelgrid is installed
pytest finds the plugin by itself; docs/testing.md has examples. Every pytest of the environment loads this module, so
what is heavy is imported by those who use it. It may be imported before pytest takes it for a plugin: there is no
`assert` in it to be rewritten (PYTEST_DONT_REWRITE).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from broker import RunningBroker
    from stackelgrid.faults.plan import FaultPlan
    from stackelgrid.run_record import RunRecord
    from stackelgrid.scenarios.scenario import Scenario

Transport = Literal["memory", "mqtt"]

_SAMPLES = 200
"""Deviations that a certificate tries at random, unless told otherwise."""


@pytest.fixture(scope="session")
def stackelgrid_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """A broker on a free port of 127.0.0.1 (`.url`): Mosquitto where it is installed, else the embedded one."""
    import broker

    with broker.start(broker.BrokerKind.AUTO, tmp_path_factory.mktemp("stackelgrid-broker")) as running:
        yield running


@pytest.fixture
def testbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Testbed:
    """Plays scenarios to their end: `run = testbed("user_oriented", {"population.homes": 10})`."""
    return Testbed(tmp_path_factory, lambda: request.getfixturevalue("stackelgrid_broker"))


@pytest.fixture
def fault_plan() -> Callable[..., FaultPlan]:
    """Builds fault plans for `testbed(..., faults=plan)`; see `plan_of`."""
    return plan_of


def plan_of(*faults: Mapping[str, Any], title: str = "", seed: int = 0, **fault: Any) -> FaultPlan:
    """A fault plan: each fault a mapping as in a plan's file, or a single one as keywords.

    `from` and `as` are no names in Python: the keywords are `from_` and `as_`. Names of nodes are looked up when the
    plan meets a scenario. Raises `FaultPlanError`.
    """
    from pydantic import ValidationError

    from stackelgrid.faults.plan import FaultPlan
    from stackelgrid.model import explain
    from stackelgrid.testbed.fault_plans import FaultPlanError

    listed = [*faults, fault] if fault else [*faults]
    try:
        return FaultPlan.model_validate({"title": title, "seed": seed, "faults": listed})
    except ValidationError as error:
        raise FaultPlanError(explain("fault_plan", error)) from None


class Testbed:
    """What the fixture `testbed` is; call it as often as you like, each call is a run of its own."""

    __test__ = False  # pytest is not to take it for a class of tests

    def __init__(self, folders: pytest.TempPathFactory, shared_broker: Callable[[], RunningBroker]) -> None:
        self._folders, self._shared_broker = folders, shared_broker

    def __call__(
        self,
        scenario: str | Path | Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        *,
        seed: int | None = None,
        transport: Transport = "memory",
        faults: str | Path | FaultPlan | None = None,
    ) -> Run:
        """Play a scenario to its end.

        `scenario` is a shipped name, a YAML file, or the content of one (paths in it from the root); `settings` change
        its values, as `{"leader.mu": 0.8, "homes.0.id": "bakery"}`. On `memory` all is in this process and no time
        passes; on `mqtt` every node is a process, on the broker of `stackelgrid_broker`, or on one of the run's own
        when the plan has the broker fail. `faults` is a shipped plan, a YAML file, or what `fault_plan` built.

        A run that does not settle, or that loses nodes, is returned like any other. Raises `ScenarioError` and
        `FaultPlanError` for what cannot be played, `BrokerStartError` when no broker starts.
        """
        from stackelgrid.scenarios.scenario import load
        from stackelgrid.testbed import in_memory, processes
        from stackelgrid.testbed import run_folder as store

        folder = self._folders.mktemp("stackelgrid-run")
        checked = load(_file(scenario, folder), _overrides(settings or {}), seed)
        plan = None if faults is None else _plan(faults, checked, folder)
        store.write_scenario(folder, checked)
        if plan is not None:
            store.write_faults(folder, plan)
        if transport == "memory":
            run_record = in_memory.play(checked, plan=plan)
            store.write_rounds(folder, run_record)
        elif transport == "mqtt":
            run_record = processes.play(checked, folder, self._broker(plan), f"test-{secrets.token_hex(4)}", plan=plan)
        else:
            raise ValueError(f"transport is {transport!r}; give memory or mqtt")
        if run_record.interrupted:
            raise KeyboardInterrupt  # a run ends in good order on it; pytest is to end too
        return Run(checked, run_record, folder)

    def _broker(self, plan: FaultPlan | None) -> str:
        from broker import BrokerKind
        from stackelgrid.faults.plan import BrokerOutage

        fails = plan is not None and any(isinstance(fault, BrokerOutage) for fault in plan.faults)
        return BrokerKind.AUTO if fails else self._shared_broker().url


@dataclass(frozen=True, repr=False)
class Run:
    """A run that has ended. `folder` is what `stackelgrid run` leaves but for the result and the report."""

    scenario: Scenario
    run_record: RunRecord
    folder: Path
    _certificates: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether the leader declared a settlement."""
        return self.run_record.settled

    @property
    def complete(self) -> bool:
        """Whether everybody answered the round on which the run ended."""
        return bool(self.run_record.conclusion.get("complete"))

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The leader's journal, a record per finished round, as in rounds.jsonl: round 3 is `rounds[2]`."""
        return self.run_record.rounds

    @property
    def outcome(self) -> dict[str, Any]:
        """As in result.json, by game; {} when no round was finished."""
        outcome: dict[str, Any] = self.result["outcome"]
        return outcome

    @property
    def missing(self) -> list[dict[str, Any]]:
        """Whom a round went on without: {`round`, `node`, `action`: held, excluded or quarantined}."""
        return self.run_record.missing

    @property
    def faults(self) -> list[dict[str, Any]]:
        """What of the plan happened, in order: {`fault`: its number in the plan, `kind`, where, `round`, `seconds`}."""
        return self.run_record.faults

    @property
    def failures(self) -> dict[str, str]:
        """Nodes that died, by name, and why."""
        return self.run_record.failures

    @property
    def result(self) -> dict[str, Any]:
        """All of result.json, without a certificate."""
        from stackelgrid.testbed.result import build_result

        return build_result(self.scenario, self.run_record).content()

    def certificate(self, samples: int = _SAMPLES) -> dict[str, Any]:
        """How far the outcome is from an equilibrium; `samples` deviations are tried at random.

        Raises `CertificateError` of a run in which somebody did not answer the last round: there is no equilibrium of
        all to certify.
        """
        from stackelgrid.certify import CertificateError

        silent = {home.id for home in self.scenario.everyone} - self.run_record.homes.keys()
        if not self.complete or silent:
            raise CertificateError(f"not every home answered the last round of {self}: nothing to certify")
        if samples not in self._certificates:
            self._certificates[samples] = self.scenario.certificate(self.outcome, samples)
        return self._certificates[samples]

    def __repr__(self) -> str:
        how = "settled" if self.settled else "not settled"
        how += ", complete" if self.complete else ", not complete"
        told = f"{self.scenario.game} on {self.run_record.transport}: {how}, {len(self.rounds)} rounds"
        for name, entries in (("missing", self.missing), ("failures", self.failures)):
            told += f", {name} {_shortened(entries)}" if entries else ""
        return f"<Run {told}, in {self.folder}>"


def assert_certified(run: Run, gap: float = 1e-6, regret: float = 1e-6) -> None:
    """Assert that a run is complete, feasible, within `gap` of the reference and leaves nobody more than `regret`.

    Both are relative, and what they are relative to is the game's: see docs/games. Raises `AssertionError` that names
    each number that is not kept, and by how much.
    """
    __tracebackhide__ = True
    from stackelgrid.certify import CertificateError

    try:
        found = run.certificate()
    except CertificateError as error:
        raise AssertionError(str(error)) from None
    wrong = []
    for name, allowed in (("gap", gap), ("max_regret", regret)):
        value = found[name]
        if value is None:
            wrong.append(f"{name} is unknown: there is no reference to measure it by")
        elif not value <= allowed:
            wrong.append(f"{name} is {value:.3g}, {value - allowed:.3g} above the {allowed:g} allowed")
    if not found["feasible"]:
        wrong.append(f"not feasible: the worst violation of a limit is {found['violation']:.3g}")
    if wrong:
        raise AssertionError(f"{run} is not certified: {'; '.join(wrong)}")


def _file(scenario: str | Path | Mapping[str, Any], folder: Path) -> str:
    """The scenario as what `load` reads: a name or a path; content is written down first, as JSON, which is YAML."""
    if not isinstance(scenario, Mapping):
        return str(scenario)
    path = folder / "scenario.yaml"
    path.write_text(json.dumps(dict(scenario)))
    return str(path)


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    """The settings as `KEY.PATH=VALUE`."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _plan(faults: str | Path | FaultPlan, scenario: Scenario, folder: Path) -> FaultPlan:
    """The plan, held against the scenario that it meets."""
    from stackelgrid.faults.plan import FaultPlan
    from stackelgrid.testbed import fault_plans

    if not isinstance(faults, FaultPlan):
        return fault_plans.fitted(str(faults), scenario)
    path = folder / "faults.yaml"
    path.write_text(fault_plans.dump(faults))
    return fault_plans.fitted(str(path), scenario)


def _shortened(entries: Any) -> str:
    words = repr(entries)
    return words if len(words) <= 200 else f"{words[:200]}…"
