"""The part of a fault plan that nodes in processes of their own cannot do: broker outages, connections, restarts.

A node reports each fault as it happens (`FaultReport`). Where the controller has to act, the node waits until it has
started the fault (`Acknowledgement`), so a fault at a round happens before the round's question, as exactly
as under the virtual clock. `stackelgrid.testbed.processes` carries these messages.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from types import TracebackType

from broker import RunningBroker
from stackelgrid.faults.messages import Acknowledgement, FaultOrder, FaultReport
from stackelgrid.faults.plan import BrokerOutage, Crash, Fault, FaultPlan, MomentFault, OnConnection
from stackelgrid.faults.proxy import Proxy
from stackelgrid.run_record import FaultRecord, RunRecord
from stackelgrid.transport.address import Address


class FaultController(AbstractContextManager["FaultController"]):
    """The controller of one run under `plan`.

    `names` are its nodes, `broker_url` is where its broker listens, `broker` the broker itself unless it belongs to
    others. Every record of a fault is added to `run_record` and given to `on_fault`.

    While the run goes on, `add` may add faults to the plan. A connection that no fault of the plan concerns when the
    run begins is not proxied: faults of it that are added later are simulated by the node.
    """

    def __init__(
        self,
        plan: FaultPlan,
        names: Collection[str],
        broker_url: str,
        broker: RunningBroker | None,
        run_record: RunRecord,
        on_fault: Callable[[FaultRecord], None],
    ) -> None:
        self._plan = plan.model_copy(update={"faults": [*plan.faults]})
        self._broker, self._run_record, self._on_fault = broker, run_record, on_fault
        self._added = queue.SimpleQueue[Fault]()
        self._numbers = itertools.count(len(plan.faults))
        disturbed = [fault for fault in plan.faults if isinstance(fault, OnConnection)]
        proxied = [name for name in names if any(fault.concerns(name) for fault in disturbed)]
        self._proxy = Proxy(Address.parse(broker_url), proxied)
        self._before: dict[str, list[int]] = {name: [] for name in names}  # the faults that each node has met
        self._began: dict[str, float] = {}
        self._crashes: dict[str, int] = {}  # the crash of each killed node, until `take_crash` is called
        self._began_at = time.monotonic()
        self._outages = [
            (number, fault)
            for number, fault in enumerate(plan.faults)
            if isinstance(fault, BrokerOutage) and fault.at.seconds is not None
        ]
        self._outage_ends = 0.0
        self._outage: BrokerOutage | None = None

    def __enter__(self) -> FaultController:
        self._proxy.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._proxy.__exit__(kind, error, trace)

    @property
    def broker_is_down(self) -> bool:
        """True from the beginning of an outage until the broker is restarted."""
        return self._outage is not None

    def add(self, fault: Fault) -> int:
        """Add a fault to the plan, from any thread; return its number."""
        self._added.put(fault)
        return next(self._numbers)

    def take_added(self) -> Iterator[Fault]:
        """Take the faults that were added into the plan, and give each, for the nodes that are there to learn of it."""
        while not self._added.empty():
            self._plan.faults.append(self._added.get())
            yield self._plan.faults[-1]

    def order(self, name: str) -> FaultOrder:
        """Give the order with which a node is started, for the first time or again."""
        return FaultOrder(plan=self._plan, before=self._before[name], began=self._began.get(name))

    def broker_url(self, name: str) -> str | None:
        """Give the address at which a node finds its broker; None for that of the broker itself."""
        return self._proxy.url(name)

    def receive(self, report: FaultReport) -> Acknowledgement | None:
        """Take in a report of a node, and start the fault if that is up to the controller."""
        # The clocks of nodes begin when they start. In a run's record there is one, that of their controller.
        record = report.record.model_copy(update={"seconds": time.monotonic() - self._began_at})
        fault = self._plan.faults[record.fault]
        self._record(record)
        if record.kind == "restart" or not isinstance(fault, MomentFault):
            return None
        self._began[report.node] = report.began
        self._before[report.node].append(record.fault)
        match fault:
            case Crash():
                self._crashes[report.node] = record.fault
                return None
            case OnConnection():
                if not self._proxy.disturb(report.node, fault):
                    return Acknowledgement(fault=record.fault, simulated=True)
            case BrokerOutage():
                self._stop_broker(fault)
            case _:
                return None
        return Acknowledgement(fault=record.fault)

    def take_crash(self, name: str) -> tuple[int, Crash] | None:
        """Give the fault by which a node has just been killed, and its number; None where no fault of the plan did."""
        number = self._crashes.pop(name, None)
        fault = None if number is None else self._plan.faults[number]
        return (number, fault) if number is not None and isinstance(fault, Crash) else None

    def update(self) -> None:
        """Start the outages that are due by the clock, end those that are over."""
        now = time.monotonic()
        for number, fault in list(self._outages):
            if fault.at.seconds is not None and now - self._began_at >= fault.at.seconds and not self.broker_is_down:
                self._outages.remove((number, fault))
                in_round = 1 + len(self._run_record.rounds)
                seconds = now - self._began_at
                self._record(FaultRecord(fault=number, kind=fault.kind, round=in_round, seconds=seconds))
                self._stop_broker(fault)
        if self._outage is not None and now >= self._outage_ends:
            assert self._broker is not None
            keep_retained, self._outage = self._outage.keep_retained, None
            self._broker.restart(keep_retained=keep_retained)

    def _record(self, record: FaultRecord) -> None:
        self._run_record.faults.append(record)
        self._on_fault(record)

    def _stop_broker(self, outage: BrokerOutage) -> None:
        assert self._broker is not None
        if self._outage is None:
            self._broker.kill()
        self._outage, self._outage_ends = outage, time.monotonic() + outage.seconds
