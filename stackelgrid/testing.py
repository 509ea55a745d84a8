"""A pytest plugin: whole runs as fixtures, for tests of your own scenario, game or node.

    def test_it_settles(testbed):
        run = testbed("my_scenario.yaml", {"leader.mu": 0.8})
        assert run.settled and run.complete
        assert_certified(run)

Fixtures: `testbed`, `fault_plan`, `stackelgrid_broker`; functions: `assert_certified`. Where Stackelgrid is installed,
pytest finds the plugin by itself; docs/testing.md has examples. Every pytest of the environment loads this module, so
heavy modules are imported where they are used. It may be imported before pytest registers the plugin, so it has no
`assert` to be rewritten (PYTEST_DONT_REWRITE).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from broker import RunningBroker
    from stackelgrid.faults.plan import FaultPlan
    from stackelgrid.runner import Run


@pytest.fixture(scope="session")
def stackelgrid_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Start a broker on a free port of 127.0.0.1 (`.url`): Mosquitto where it is installed, else the embedded one."""
    import broker

    with broker.start(broker.BrokerKind.AUTO, tmp_path_factory.mktemp("stackelgrid-broker")) as running:
        yield running


@pytest.fixture
def testbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Testbed:
    """Play scenarios to their end: `run = testbed("user_oriented", {"population.homes": 10})`."""
    return Testbed(tmp_path_factory, lambda: request.getfixturevalue("stackelgrid_broker"))


@pytest.fixture
def fault_plan() -> Callable[..., FaultPlan]:
    """Build fault plans for `testbed(..., faults=plan)`; see `build_plan`."""
    return build_plan


def build_plan(*faults: Mapping[str, Any], title: str = "", seed: int = 0, **fault: Any) -> FaultPlan:
    """Build a fault plan of mappings, each as in a plan's file, or of the keywords of a single fault.

    `from` and `as` are reserved in Python: the keywords are `from_` and `as_`. Names of nodes are checked when the plan
    is played with a scenario. Raises `FaultPlanError`.
    """
    from pydantic import ValidationError

    from stackelgrid.faults.plan import FaultPlan
    from stackelgrid.model import explain
    from stackelgrid.testbed.fault_plans import FaultPlanError

    listed = [*faults, fault] if fault else [*faults]
    content = {"title": title, "seed": seed, "faults": listed}
    try:
        return FaultPlan.model_validate(content)
    except ValidationError as error:
        raise FaultPlanError(explain("fault_plan", error, content, FaultPlan)) from None


class Testbed:
    """The fixture `testbed`. Each call plays a run of its own."""

    __test__ = False  # pytest is not to take it for a class of tests

    def __init__(self, folders: pytest.TempPathFactory, shared_broker: Callable[[], RunningBroker]) -> None:
        self._folders, self._shared_broker = folders, shared_broker

    def __call__(
        self,
        scenario: str | Path | Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        *,
        seed: int | None = None,
        transport: Literal["memory", "mqtt"] = "memory",
        faults: str | Path | FaultPlan | None = None,
    ) -> Run:
        """Play a scenario to its end; the arguments are those of `stackelgrid.run`.

        A run over MQTT shares the broker of `stackelgrid_broker`, unless the plan has the broker fail. `Run.folder` is
        a new folder in pytest's temporary one. Raises `ScenarioError` and `FaultPlanError` for what cannot be played,
        `BrokerStartError` when no broker starts.
        """
        from broker import BrokerKind
        from stackelgrid import runner

        folder = self._folders.mktemp("stackelgrid-run") / "run"
        broker = BrokerKind.AUTO if transport != "mqtt" or _stops_broker(faults) else self._shared_broker().url
        ended = runner.run(scenario, settings, transport=transport, broker=broker, faults=faults, out=folder, seed=seed)
        if ended.interrupted:
            raise KeyboardInterrupt  # the run ended in good order; pytest is to end too
        return ended


def _stops_broker(faults: str | Path | FaultPlan | None) -> bool:
    """Say whether a fault plan stops the broker."""
    from stackelgrid.faults.plan import BrokerOutage, FaultPlan
    from stackelgrid.testbed import fault_plans

    if faults is None:
        return False
    plan = faults if isinstance(faults, FaultPlan) else fault_plans.load(str(faults))
    return any(isinstance(fault, BrokerOutage) for fault in plan.faults)


def assert_certified(run: Run, gap: float = 1e-6, regret: float = 1e-6) -> None:
    """Assert that a run is complete, feasible, within `gap` of the reference, and no player's regret is above `regret`.

    Both are relative, to quantities that docs/games defines. Raises `AssertionError` with each number that is exceeded,
    and by how much.
    """
    __tracebackhide__ = True
    from stackelgrid.certify import CertificateError

    try:
        found = (run.certificate or run.certify()).root
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
