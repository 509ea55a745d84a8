"""A fault plan under the virtual clock: nodes die and come back, brokers go away, none of it takes real time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stackelgrid.faults.impaired import Happened, Impaired
from stackelgrid.faults.plan import BrokerOutage, Crash, FaultPlan
from stackelgrid.transport.base import Node, Publish
from stackelgrid.transport.memory import MemoryTransport, Outage
from stackelgrid.wire.codec import ROOT

Build = Callable[[bool], Any]
"""Makes a node; told whether what it wrote before is lost."""


class KilledError(Exception):
    """A node was killed by fault `number` of the plan."""

    def __init__(self, number: int, crash: Crash) -> None:
        super().__init__(f"killed by fault {number} of the plan")
        self.number, self.crash = number, crash


class VirtualFate:
    """Kills by an exception that nobody catches before the transport; a stop is left to the node."""

    def kill(self, number: int, crash: Crash) -> None:
        """Raises `KilledError`."""
        raise KilledError(number, crash)

    def stop(self, seconds: float) -> bool:
        """The node stands still by itself."""
        return True


class FaultyMemory(MemoryTransport):
    """Carries nodes under a plan. `builds` makes each node, by name, at first and after a crash."""

    def __init__(self, plan: FaultPlan, builds: dict[str, Build], happened: Happened, seed: int = 0) -> None:
        super().__init__(seed, jitter_s=0.001)
        self._plan, self._builds, self._happened = plan, builds, happened
        self._spent: dict[str, list[int]] = {}
        self._outages = [(number, fault) for number, fault in enumerate(plan.faults) if isinstance(fault, BrokerOutage)]

    def nodes(self) -> Sequence[Node]:
        """The nodes, under the plan."""
        return [Impaired(build(False), self._plan, VirtualFate(), self._happened) for build in self._builds.values()]

    def reborn(self, name: str, error: Exception, now: float) -> tuple[float, Node] | None:
        """A node that the plan killed comes back if the plan says so; one that failed by itself does not."""
        if not isinstance(error, KilledError) or error.crash.restart_after_s is None:
            return None
        spent = self._spent.setdefault(name, [])
        spent.append(error.number)
        node = self._builds[name](error.crash.lose_state)
        return error.crash.restart_after_s, Impaired(node, self._plan, VirtualFate(), self._happened, spent, 0.0)

    def outage(self, sender: str, publish: Publish, now: float) -> Outage | None:
        """The broker fails before it takes in the leader's question of a round, or the first message after a time."""
        for number, fault in self._outages:
            asked = _leaders_round(publish)
            by_now = fault.at.seconds is not None and now >= fault.at.seconds
            if by_now or (asked is not None and fault.at.round is not None and asked >= fault.at.round):
                self._outages.remove((number, fault))
                self._happened({"fault": number, "kind": "broker", "round": asked})
                return Outage(fault.seconds, fault.keep_retained)
        return None


def _leaders_round(publish: Publish) -> int | None:
    import re

    if not re.match(rf"{ROOT}/[^/]+/leader(/[^/]+)?/signal$", publish.topic):
        return None
    found = re.search(rb'"round":(\d+)', publish.payload)
    return int(found[1]) if found else None
