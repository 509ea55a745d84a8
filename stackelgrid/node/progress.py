"""The progress of a node, for its log, its status and its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, TypeVarTuple, Unpack

Account = Mapping[str, Any]
Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class Progress:
    """The progress of a node; nothing of it comes back into the game.

    `state` is `waiting` before the first round, `round` in the one numbered `round`, `settled` from the settlement on;
    the process that the node runs in sets it to `over`, or to `lost` when the broker is lost or the node crashes.
    `answers` counts those given to a coordinator. `on_round` gets the account of each round that a coordinator has
    finished (`answered`, `held`, `excluded`, `quarantined`, `again`, `ms` and more), `on_work` the seconds that each
    computation took. `working_since` is when the computation that is under way began, on the monotonic clock. `remarks`
    are lines that whoever looks after the node should see.
    """

    def __init__(self) -> None:
        self.state: Literal["waiting", "round", "settled", "over", "lost"] = "waiting"
        self.round = 0
        self.answers = 0
        self.remarks: list[str] = []
        self.working_since: float | None = None
        self.on_round: Callable[[Account], None] = lambda account: None
        self.on_work: Callable[[float], None] = lambda seconds: None

    def start_round(self, number: int) -> None:
        """Note that a round is on."""
        self.state, self.round = "round", number

    def finish_round(self, account: Account) -> None:
        """Note that a coordinator's round is over."""
        self.on_round(account)

    def count_answer(self) -> None:
        """Note that an answer is on its way."""
        self.answers += 1

    def settle(self) -> None:
        """Note that the settlement is published, or received."""
        self.state = "settled"

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
