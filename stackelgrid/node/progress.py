"""How far a node has come: what it tells of itself, for its log, its status and its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, TypeVarTuple, Unpack

Account = Mapping[str, Any]
Given = TypeVarTuple("Given")
Result = TypeVar("Result")


class Progress:
    """What a node tells as it goes on; nothing of it comes back into the game.

    `state` is `waiting` before the first round, `round` in the one numbered `round`, `settled` from the last word on;
    the process that the node runs in says that it is `over`, or `lost` with the broker or by a crash.
    `answers` counts those given to a coordinator. `on_round` gets the account of each round that a coordinator has
    finished (`answered`, `held`, `excluded`, `quarantined`, `again`, `ms` and more), `on_worked` the seconds that each
    computation took. `working_since` is when the one that is under way began, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.state: Literal["waiting", "round", "settled", "over", "lost"] = "waiting"
        self.round = 0
        self.answers = 0
        self.working_since: float | None = None
        self.on_round: Callable[[Account], None] = _unheard
        self.on_worked: Callable[[float], None] = _unheard

    def asked(self, round_number: int) -> None:
        """A round is on."""
        self.state, self.round = "round", round_number

    def settled(self) -> None:
        """The last word is said, or heard."""
        self.state = "settled"

    def ended(self, *, lost: bool) -> None:
        """The node has done its work, or cannot go on."""
        self.state = "lost" if lost else "over"

    def answered(self) -> None:
        """An answer is on its way."""
        self.answers += 1

    def finished(self, account: Account) -> None:
        """A coordinator's round is over."""
        self.on_round(account)

    def work(self, job: Callable[[Unpack[Given]], Result], *given: *Given) -> Result:
        """The result of a computation, in whatever thread it runs."""
        self.working_since = began = time.monotonic()
        try:
            return job(*given)
        finally:
            self.working_since = None
            self.on_worked(time.monotonic() - began)


def _unheard(told: Any) -> None:
    """Nobody wants to know."""
