"""A fault plan under the virtual clock: nodes die and come back, brokers go away, none of it takes real time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stackelgrid.faults.injection import FaultInjectingNode, OnFault, round_of
from stackelgrid.faults.plan import BrokerOutage, Crash, FaultPlan, OnConnection
from stackelgrid.transport.base import Node, Publish
from stackelgrid.transport.memory import MemoryTransport, Outage

Build = Callable[[bool], Any]
"""Makes a node; told whether what it wrote before is lost."""


class KilledError(Exception):
    """A node was killed by fault `number` of the plan."""

    def __init__(self, number: int, crash: Crash) -> None:
        super().__init__(f"killed by fault {number} of the plan")
        self.number, self.crash = number, crash


class SimulatedActuator:
    """Kills by an exception that nobody catches before the transport; most else is left to the node.

    `spent` gets the number of each fault that the node has met, `fail_broker` those of the broker.
    """

    def __init__(self, spent: list[int], fail_broker: Callable[[BrokerOutage], None]) -> None:
        self._spent, self._fail_broker = spent, fail_broker

    def met(self, number: int) -> None:
        """Remember."""
        self._spent.append(number)

    def kill(self, number: int, crash: Crash) -> None:
        """Raises `KilledError`."""
        raise KilledError(number, crash)

    def stop(self, seconds: float) -> bool:
        """The node stands still by itself."""
        return True

    def disturb(self, number: int, fault: OnConnection | BrokerOutage) -> bool:
        """The node acts cut off by itself; the broker is the transport's."""
        if isinstance(fault, BrokerOutage):
            self._fail_broker(fault)
            return False
        return True


class FaultyMemory(MemoryTransport):
    """Carries nodes under a plan. `builds` makes each node, by name, at first and after a crash."""

    def __init__(self, plan: FaultPlan, builds: dict[str, Build], happened: OnFault, seed: int = 0) -> None:
        super().__init__(seed, jitter_s=0.001)
        self._plan, self._builds, self._happened = plan, builds, happened
        self._spent: dict[str, list[int]] = {}
        self._failing: list[BrokerOutage] = []
        self._round = 1  # the leader's, the first before it has asked that
        self._outages = [
            (number, fault)
            for number, fault in enumerate(plan.faults)
            if isinstance(fault, BrokerOutage) and fault.at.seconds is not None
        ]

    def nodes(self) -> Sequence[Node]:
        """The nodes, under the plan."""
        return [self._injecting(name, build(False), None) for name, build in self._builds.items()]

    def _injecting(self, name: str, node: Any, began: float | None) -> FaultInjectingNode:
        spent = self._spent.setdefault(name, [])
        fate = SimulatedActuator(spent, self._failing.append)
        return FaultInjectingNode(node, self._plan, fate, self._happened, tuple(spent), began)

    def restart_node(self, name: str, error: Exception, now: float) -> tuple[float, Node] | None:
        """A node that the plan killed comes back if the plan says so; one that failed by itself does not."""
        if not isinstance(error, KilledError) or not error.crash.returns(name):
            return None
        node = self._builds[name](error.crash.lose_state)
        return error.crash.restart_after_s or 0.0, self._injecting(name, node, 0.0)

    def outage(self, sender: str, publish: Publish, now: float) -> Outage | None:
        """The broker fails before it takes in the leader's question of a round, or the first message after a time."""
        if sender == "leader" and publish.topic.endswith("/signal") and publish.payload:
            self._round = round_of(publish.payload) or self._round
        for number, fault in self._outages:
            if fault.at.seconds is not None and now >= fault.at.seconds:
                self._outages.remove((number, fault))
                self._happened({"fault": number, "kind": "broker", "round": self._round, "seconds": now})
                self._failing.append(fault)
        if not self._failing:
            return None
        fault = self._failing.pop(0)
        return Outage(fault.seconds, fault.keep_retained)
