"""The progress of a node, for its log, its status and its metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeVar, TypeVarTuple, Unpack

from stackelgrid.node.home_status import HomeStatus

_LOG = logging.getLogger("stackelgrid.node")

Account = Mapping[str, Any]
Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


MISSING = ("held", "excluded", "quarantined")
"""What a coordinator does about a member whose answer is missing."""


class MaskStatus(NamedTuple):
    """How a home's answers are masked: in a sum of so many `homes`, None as long as no list of them is accepted.

    `objection` is why the last one that came was not.
    """

    homes: int | None = None
    objection: str | None = None


class Verdict(NamedTuple):
    """The end of an examination of what was settled: whether it `passed`, and the `gap` where there is one."""

    passed: bool
    gap: float | None


class Progress:
    """The progress of a node; nothing of it comes back into the game.

    `state` is `waiting` before the first round, `round` in the one numbered `round`, `settled` from the settlement on;
    the process that the node runs in sets it to `over`, or to `lost` when the broker is lost or the node crashes.
    `answers` counts those given to a coordinator. `on_round` gets the account of each round that a coordinator has
    finished (`answered`, `held`, `excluded`, `quarantined`, `why`, `again`, `ms`, …), `on_work` the seconds that each
    computation took. `refusal` is why the coordinator refuses the node's answers, None as long as it does not; when the
    node `is_ignored`, it refuses all that follow. `working_since` is when the computation that is under way began, on
    the monotonic clock. `remarks` are lines that whoever looks after the node should see. `home` is the state of a home
    with devices, None in other nodes. `missing` is how many members a coordinator missed in the last round that it
    finished, by what it did about them. `settled_at` is when it was settled last, in seconds since 1970, None before.
    `settled_until` is the end of what was settled, None without one or without dates. `certificate` is what an observer
    found out about that. `masks` is how a home's answers are masked, None where they are not. `shut_out` is why the
    broker does not accept the node, None as long as it does.
    """

    def __init__(self) -> None:
        self.state: Literal["waiting", "round", "settled", "over", "lost"] = "waiting"
        self.round = 0
        self.answers = 0
        self.remarks: list[str] = []
        self.missing: Mapping[str, int] = {}
        self.settled_at: float | None = None
        self.settled_until: datetime | None = None
        self.shut_out: str | None = None
        self.certificate: Verdict | None = None
        self.home: HomeStatus | None = None
        self.masks: MaskStatus | None = None
        self.refusal: str | None = None
        self.is_ignored = False
        self._refused_round = 0
        self._quarantined: set[str] = set()
        self.working_since: float | None = None
        self.on_round: Callable[[Account], None] = lambda account: None
        self.on_work: Callable[[float], None] = lambda seconds: None

    @property
    def plan_until(self) -> datetime | None:
        """The end of what the node carries out; a home with devices may have ended that earlier."""
        return self.settled_until if self.home is None else self.home.plan_until

    def list_problems(self) -> list[str]:
        """List why the node has no part in the grid, in words for whoever looks after it."""
        problems = []
        if self.refusal is not None:
            what = "ignores all answers of this home" if self.is_ignored else "refused the last answer of this home"
            problems.append(f"the grid {what}: {self.refusal}")
        if self.masks is not None and self.masks.objection is not None:
            problems.append(f"this home refuses the homes that it would be added with: {self.masks.objection}")
        if self.shut_out is not None:
            problems.append(f"the grid's broker does not accept this home: {self.shut_out}")
        return problems

    def start_round(self, number: int) -> None:
        """Note that a round is on; an answer that was refused in an earlier one is forgotten once one was not."""
        if not self.is_ignored and self._refused_round < self.round < number:
            self.refusal = None
        self.state, self.round = "round", number

    def finish_round(self, account: Account) -> None:
        """Note that a coordinator's round is over; log each member that is ignored from now on."""
        for name in set(account["quarantined"]) - self._quarantined:
            self._quarantined.add(name)
            _LOG.warning("member quarantined", extra={"data": {"member": name, "reason": account["why"][name]}})
        self.missing = {action: len(account[action]) for action in MISSING}
        self.on_round(account)

    def count_answer(self) -> None:
        """Note that an answer is on its way."""
        self.answers += 1

    def note_refusal(self, round_number: int, reason: str, *, final: bool) -> None:
        """Note that the coordinator refuses what was answered in a round; a final refusal stays."""
        if (reason, final) != (self.refusal, self.is_ignored):
            _LOG.error("answer refused", extra={"data": {"round": round_number, "reason": reason, "final": final}})
        self.refusal, self._refused_round = reason, round_number
        self.is_ignored = self.is_ignored or final

    def settle(self) -> None:
        """Note that the settlement is published, or received."""
        self.state, self.settled_at = "settled", time.time()

    def end(self, *, lost: bool) -> None:
        """Note that the node has done its work, or cannot go on."""
        self.state = "lost" if lost else "over"

    def work(self, job: Callable[[Unpack[Arguments]], Result], *arguments: *Arguments) -> Result:
        """Give the result of a computation, in whatever thread it runs."""
        self.working_since = began = time.monotonic()
        try:
            return job(*arguments)
        finally:
            self.working_since = None
            self.on_work(time.monotonic() - began)
