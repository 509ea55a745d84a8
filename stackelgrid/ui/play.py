"""Play a run for the server, in a process of its own: `python -m stackelgrid.ui.play RUNS`.

The first line of standard input is the `Order`, each further one a fault to add. Each has a line on standard output for
its answer: the run's id, the fault's number, or the error. When standard input ends, so does the run, as by Ctrl-C.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from broker import BrokerStartError
from stackelgrid import runner
from stackelgrid.certify import CertificateError
from stackelgrid.errors import ConfigError, explain_os_error
from stackelgrid.faults.plan import FaultPlan, Slow
from stackelgrid.interrupts import ignore_signals, raise_on_signals
from stackelgrid.scenarios import Scenario, ScenarioError
from stackelgrid.scenarios.topology import LEADER
from stackelgrid.testbed import fault_plans
from stackelgrid.testbed.fault_plans import FaultPlanError
from stackelgrid.testbed.start import RunStart
from stackelgrid.transport.base import BrokerUnreachableError
from stackelgrid.ui.check import Check, read_plan, read_scenario
from stackelgrid.ui.recorder import FaultRefusedError, Recorder

_LONGEST_NAME = 50
_LONGEST = 5000
"""Characters of an answer that are sent; it quotes what the order has."""


class Order(Check):
    """What is played: a scenario under a plan.

    `name` begins that of its folder; without one, the scenario's does. Over MQTT coordinators wait `pace_s` seconds
    before each question, so that a person can follow.
    """

    transport: Literal["mqtt", "memory"] = "mqtt"
    pace_s: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = 0.0
    certify: bool = True
    name: (
        Annotated[str, Field(min_length=1, max_length=_LONGEST_NAME, pattern=r"^[^/\x00-\x1f.][^/\x00-\x1f]*$")] | None
    ) = None

    @property
    def folder_name(self) -> str:
        """The beginning of the name of its folder, as a run can have it: it prints, and does not begin with a dot."""
        name = self.name or (Path(self.scenario).stem if isinstance(self.scenario, str) else "run")
        return "".join(letter if letter.isprintable() else "-" for letter in name[:_LONGEST_NAME]).lstrip(".") or "run"


def main(root: str) -> int:
    """Play the run that standard input orders, in a new folder in `root`."""
    raise_on_signals()
    try:
        order = Order.model_validate_json(sys.stdin.readline())
        _play(order, Path(root))
    except KeyboardInterrupt:
        pass  # before there was a run
    except ScenarioError as error:
        key, message = error.mistakes[0]
        _answer({"error": message, "key": key or None})
    except FaultPlanError as error:
        _answer({"error": str(error), "key": "faults"})
    except (ConfigError, BrokerStartError, BrokerUnreachableError) as error:
        _answer({"error": str(error)})
    ignore_signals()
    return 0


def _play(order: Order, root: Path) -> None:
    scenario = read_scenario(order)
    plan = _build_plan(order, scenario)
    recorder = Recorder(scenario, plan)

    def begin(start: RunStart) -> None:
        recorder.begin(start)
        _answer({"id": recorder.folder.name})
        threading.Thread(target=_take_faults, args=[recorder], daemon=True).start()

    ended, message = None, ""
    try:
        ended = runner.run(
            scenario,
            transport=order.transport,
            faults=plan,
            out=_choose_folder(root, order.folder_name),
            certify=order.certify,
            report=True,
            on_round=recorder.note_round,
            on_fault=recorder.note_fault,
            on_step=recorder.note_step,
            on_start=begin,
        )
    except runner.UnwrittenError as error:
        ended, message = error.run, str(error)
    except CertificateError as error:
        ended, message = runner.load(recorder.folder), f"the certificate could not be made: {error}"
    except Exception as error:
        if not recorder.has_begun:
            raise
        message = (
            explain_os_error(error) if isinstance(error, OSError) else None
        ) or f"{type(error).__name__}: {error}"
        raise
    finally:
        recorder.end(ended, message)


def _choose_folder(root: Path, name: str) -> Path:
    """Choose a folder that is not there, by name and time."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    numbered = (f"{name}-{stamp}{'' if number == 1 else f'-{number}'}" for number in itertools.count(1))
    return next(root / each for each in numbered if not (root / each).exists())


def _build_plan(order: Order, scenario: Scenario) -> FaultPlan | None:
    """Build the plan of the order, with the pace as its last faults."""
    plan = None if order.faults is None else fault_plans.fit(read_plan(order.faults), scenario)
    if order.pace_s == 0:
        return plan
    if order.transport == "memory":
        message = "no time passes in memory; leave it out, or take transport mqtt"
        raise ScenarioError(message, [("pace_s", message)])
    if order.pace_s > (most := scenario.rounds.deadline_s / 2):
        message = f"{order.pace_s:g} is more than half of rounds.deadline_s; give at most {most:g}"
        raise ScenarioError(message, [("pace_s", message)])
    # An aggregator that plays rounds of its own waits before each of them, too.
    waiting = [LEADER] if scenario.inner_rounds == 1 else scenario.topology.aggregators
    pace = [Slow(kind="slow", node=name, seconds=order.pace_s) for name in waiting]
    plan = plan or FaultPlan()
    return plan.model_copy(update={"faults": [*plan.faults, *pace]})


def _take_faults(recorder: Recorder) -> None:
    """Add the faults that come on standard input; end the run when that ends."""
    for line in sys.stdin:
        try:
            _answer({"fault": recorder.add_fault(json.loads(line))})
        except FaultRefusedError as error:
            _answer({"error": str(error), "key": error.key})
    os.kill(os.getpid(), signal.SIGINT)


def _answer(content: dict[str, Any]) -> None:
    print(json.dumps({key: value[:_LONGEST] if isinstance(value, str) else value for key, value in content.items()}))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
