"""A fault plan against nodes that run already: what can be done to a process from outside, and when.

`OutsideFaults` is a state machine: it takes readings of the clock and the rounds that were heard, and gives the steps
that are due. Who carries them out knows the machines: a Compose project (`stackelgrid.deploy.disturb`) or the processes
of one machine (`stackelgrid.faults.agent`).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from stackelgrid.errors import ConfigError
from stackelgrid.faults.plan import BrokerOutage, Crash, Cut, Fault, FaultPlan, Moment, OnNode, Slow, Stall
from stackelgrid.run_record import FaultRecord

BROKER = "broker"


class Act(StrEnum):
    """A thing that is done to a process from outside; each of the second three undoes one of the first."""

    KILL = "kill"
    PAUSE = "pause"
    DISCONNECT = "disconnect"
    START = "start"
    RESUME = "resume"
    CONNECT = "connect"


UNDONE_BY = {Act.KILL: Act.START, Act.PAUSE: Act.RESUME, Act.DISCONNECT: Act.CONNECT}


@dataclass(frozen=True)
class Step:
    """An act that is due now, on a node or on the `BROKER`, and the record of the fault that it begins, if it does."""

    act: Act
    node: str
    record: FaultRecord | None = None


class OutsideFaults:
    """The faults of `plan` on the nodes `names`, done by the `acts` that are possible there.

    A node that is in one fault is spared by others until it is over. Raises `ConfigError` for a plan with faults that
    nobody can do from outside, or that names none of these nodes.
    """

    def __init__(self, plan: FaultPlan, names: Collection[str], acts: Collection[Act]) -> None:
        self._waiting: list[tuple[int, Fault, str]] = []
        self._slow: list[tuple[int, Slow, str]] = []
        for number, fault in enumerate(plan.faults):
            where = f"faults.{number}: {fault.kind}"
            act = _find_act(fault, where)
            if act not in acts:
                raise ConfigError(
                    f"{where}: cannot be done to these processes, nobody here can {act} them; leave it out"
                )
            if isinstance(fault, BrokerOutage):
                struck = [name for name in names if name == BROKER]
            else:
                assert isinstance(fault, OnNode)
                struck = [name for name in names if name != BROKER and fault.concerns(name)]
            if not struck:
                raise ConfigError(
                    f"{where}: none of these is meant by it: {', '.join(sorted(names))}; name one of them"
                )
            for name in struck:
                if isinstance(fault, Slow):
                    self._slow.append((number, fault, name))
                else:
                    self._waiting.append((number, fault, name))
        self._ends: list[tuple[float, int, Step]] = []
        self._order = itertools.count()
        self._in_fault: set[str] = set()
        self._round = 0

    @property
    def is_over(self) -> bool:
        """True when every fault has struck and ended."""
        return not (self._waiting or self._slow or self._ends)

    def next_deadline(self, seconds: float) -> float:
        """Give when to look again, were no round heard before; `inf` is never."""
        begins = [at for _, fault, _ in self._waiting if (at := _moment(fault).seconds) is not None and at > seconds]
        return min([*begins, *(end for end, _, _ in self._ends[:1])], default=inf)

    def look(self, seconds: float, round_number: int, session: int = 1) -> Sequence[Step]:
        """Give what is due `seconds` after the beginning, when the leader asks `round_number` in `session`."""
        steps = []
        while self._ends and self._ends[0][0] <= seconds:
            _, _, step = heapq.heappop(self._ends)
            self._in_fault.discard(step.node)
            steps.append(step)
        for entry in list(self._waiting):
            number, fault, node = entry
            if (
                entry in self._waiting
                and node not in self._in_fault
                and _is_due(_moment(fault), seconds, round_number, session)
            ):
                self._waiting.remove(entry)
                steps.append(self._begin(number, fault, node, seconds, round_number))
        if round_number > self._round:
            self._round = round_number
            for number, slow, node in self._slow:
                if node not in self._in_fault and slow.during.holds(round_number, seconds):
                    steps.append(self._begin(number, slow, node, seconds, round_number))
        self._slow = [each for each in self._slow if not _has_passed(each[1], seconds, round_number)]
        return steps

    def release(self) -> Sequence[Step]:
        """Give what undoes all that is in force, for a plan that is left before its end."""
        steps = [step for _, _, step in sorted(self._ends)]
        self._ends.clear()
        self._waiting.clear()
        self._slow.clear()
        return steps

    def _begin(self, number: int, fault: Fault, node: str, seconds: float, round_number: int) -> Step:
        act = _find_act(fault, "")
        lasts = fault.restart_after_s if isinstance(fault, Crash) else getattr(fault, "seconds", None)
        if lasts is not None:
            heapq.heappush(self._ends, (seconds + lasts, next(self._order), Step(UNDONE_BY[act], node)))
        else:  # killed for good: nothing else can happen to it
            self._waiting = [each for each in self._waiting if each[2] != node]
            self._slow = [each for each in self._slow if each[2] != node]
        self._in_fault.add(node)
        heard = round_number or None
        of_node = None if isinstance(fault, BrokerOutage) else node
        return Step(act, node, FaultRecord(fault=number, kind=fault.kind, node=of_node, round=heard, seconds=seconds))


def _find_act(fault: Fault, where: str) -> Act:
    """Find the act that a fault begins with. Raises `ConfigError` where it takes the node's own process."""
    match fault:
        case Crash(lose_state=True):
            raise ConfigError(f"{where}: lose_state: what a node has kept is not deleted from outside; leave it out")
        case BrokerOutage(keep_retained=False):
            raise ConfigError(f"{where}: keep_retained: what it has kept is not deleted from outside; leave it out")
        case Crash() | BrokerOutage():
            return Act.KILL
        case Stall() | Slow():
            return Act.PAUSE
        case Cut():
            return Act.DISCONNECT
    raise ConfigError(
        f"{where}: only the node's own process can do it; from outside there are crash, stall, slow, cut and broker; "
        "leave it out, or start the node with --faults"
    )


def _moment(fault: Fault) -> Moment:
    assert isinstance(fault, Crash | Stall | Cut | BrokerOutage)
    return fault.at


def _is_due(moment: Moment, seconds: float, round_number: int, session: int) -> bool:
    if moment.round is not None:
        return round_number >= moment.round
    if moment.session is not None:
        return session >= moment.session
    return moment.seconds is not None and seconds >= moment.seconds


def _has_passed(slow: Slow, seconds: float, round_number: int) -> bool:
    if slow.during.rounds is not None:
        return round_number >= slow.during.rounds[1]
    return slow.during.seconds is not None and seconds > slow.during.seconds[1]
