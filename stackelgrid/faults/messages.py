"""The messages between a fault controller and a node in a process of its own, one JSON object a line."""

from __future__ import annotations

from stackelgrid.faults.plan import Fault, FaultPlan
from stackelgrid.model import StrictModel
from stackelgrid.run_record import FaultRecord


class FaultOrder(StrictModel):
    """The first line to a node: its plan and, after a restart, the faults that happened to it `before`.

    `began` is when the node was first started, on the machine's monotonic clock; None at the first start.
    """

    plan: FaultPlan
    before: list[int] = []
    began: float | None = None


class FaultReport(StrictModel):
    """A fault has happened to `node`, which was first started at `began`."""

    node: str
    began: float
    record: FaultRecord


class Acknowledgement(StrictModel):
    """The controller has started fault number `fault`: the connection is disturbed, or the broker is down.

    With `simulated` it has not: there is nothing between the node and its broker, and the node simulates the fault.
    """

    fault: int
    simulated: bool = False


class FaultAddition(StrictModel):
    """One more fault for the plan of a run that is on, under the next number."""

    add: Fault


def write_line(message: StrictModel) -> str:
    """Write a message as JSON, without the end of the line."""
    return message.model_dump_json(by_alias=True, exclude_unset=True)
