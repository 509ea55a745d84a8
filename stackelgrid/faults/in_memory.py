"""A fault plan under the virtual clock: nodes are killed and restarted, brokers fail, and no real time passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stackelgrid.faults.injection import FaultInjectingNode, OnFault
from stackelgrid.faults.plan import BrokerOutage, Crash, FaultPlan, MomentFault, OnConnection
from stackelgrid.node.protocol import RunNode
from stackelgrid.run_record import FaultRecord
from stackelgrid.transport.base import Node, Publish
from stackelgrid.transport.memory import MemoryTransport, Outage
from stackelgrid.wire.codec import describe
from stackelgrid.wire.roles import Role

Build = Callable[[bool], RunNode]
"""Builds a node; the argument says whether the files that it wrote before are lost."""


class KilledError(Exception):
    """A node was killed by fault `number` of the plan."""

    def __init__(self, number: int, crash: Crash) -> None:
        super().__init__(f"killed by fault {number} of the plan")
        self.number, self.crash = number, crash


class SimulatedActuator:
    """Kills by an exception that only the transport catches; `fail_broker` gets broker outages, the rest the node."""

    def __init__(self, fail_broker: Callable[[BrokerOutage], None]) -> None:
        self._fail_broker = fail_broker

    def kill(self, number: int, crash: Crash) -> None:
        """Raise `KilledError`."""
        raise KilledError(number, crash)

    def stop(self, seconds: float) -> bool:
        """Leave it to the node."""
        return True

    def disturb(self, number: int, fault: OnConnection | BrokerOutage) -> bool:
        """Leave a connection to the node; the broker is the transport's."""
        if isinstance(fault, BrokerOutage):
            self._fail_broker(fault)
            return False
        return True


class FaultyMemory(MemoryTransport):
    """Carries nodes under a plan. `builds` builds each node, by name, at first and after a crash."""

    def __init__(self, plan: FaultPlan, builds: Mapping[str, Build], on_fault: OnFault, seed: int = 0) -> None:
        super().__init__(seed, jitter_s=0.001)
        self._plan, self._builds, self._on_fault = plan, builds, on_fault
        self._roles: dict[str, Role] = {}
        self._before: dict[str, list[int]] = {name: [] for name in builds}  # the faults that each node has met
        self._failing: list[BrokerOutage] = []
        self._round = 1  # the leader's; the first before it has asked that
        self._outages = [
            (number, fault)
            for number, fault in enumerate(plan.faults)
            if isinstance(fault, BrokerOutage) and fault.at.seconds is not None
        ]

    def nodes(self) -> Sequence[Node]:
        """Build the nodes, each under the plan."""
        return [self._inject(build(False), None) for build in self._builds.values()]

    def _inject(self, node: RunNode, began: float | None) -> FaultInjectingNode:
        self._roles[node.name] = node.role
        actuator = SimulatedActuator(self._failing.append)
        return FaultInjectingNode(node, self._plan, actuator, self._note, tuple(self._before[node.name]), began)

    def _note(self, record: FaultRecord) -> None:
        happened_once = isinstance(self._plan.faults[record.fault], MomentFault) and record.kind != "restart"
        if happened_once and record.node is not None:
            self._before[record.node].append(record.fault)
        self._on_fault(record)

    def restart_node(self, name: str, error: Exception, now: float) -> tuple[float, Node] | None:
        """Restart a node that the plan killed if the plan says so; one that failed by itself stays away."""
        if not isinstance(error, KilledError) or not error.crash.restarts(self._roles[name]):
            return None
        node = self._builds[name](error.crash.lose_state)
        return error.crash.restart_after_s or 0.0, self._inject(node, 0.0)

    def outage(self, sender: str, publish: Publish, now: float) -> Outage | None:
        """Fail the broker before it takes in the leader's question of a round, or the first message after a time."""
        if self._roles.get(sender) is Role.LEADER:
            about = describe(publish.topic, publish.payload)
            if about.purpose == "signal" and about.round is not None:
                self._round = about.round
        due = [outage for outage in self._outages if outage[1].at.seconds is not None and now >= outage[1].at.seconds]
        if due:  # a second one starts when the first is over
            number, fault = due[0]
            self._outages.remove(due[0])
            self._on_fault(FaultRecord(fault=number, kind=fault.kind, round=self._round, seconds=now))
            self._failing.append(fault)
        if not self._failing:
            return None
        outage = self._failing.pop(0)
        return Outage(outage.seconds, outage.keep_retained)
