"""What a game brings to each role. Plain, pure methods on bodies; they know nothing of topics, rounds or clocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from stackelgrid.wire.messages import Body


@dataclass(frozen=True)
class Decision:
    """What a leader wants after a round: ask `body`, or settle on it.

    `residual` is the largest relative change still wanted, None when none could be worked out; `account` says in
    numbers, for the journal, what the round brought.
    """

    body: Body
    settle: bool
    residual: float | None
    account: Mapping[str, Any] = field(default_factory=dict)


class LeaderStrategy(Protocol):
    """The leader's part of a game."""

    def open(self) -> Body:
        """The first signal."""

    def decide(self, signal: Body, answers: Mapping[str, Body], held: Collection[str]) -> Decision:
        """The next signal, or the settlement, given each aggregator's answer to `signal`.

        The answers of those `held` are of an earlier round: they stand, and bend with no price.
        """


class AggregatorStrategy(Protocol):
    """The aggregator's part of a game in which it forwards the leader's signal and sums up."""

    def combine(self, answers: Mapping[str, Body], held: Collection[str], excluded_homes: int) -> Body:
        """The answer to the leader, given the homes' answers, those `held` of an earlier round.

        `excluded_homes` counts the homes that are in none of them.
        """


class HomeStrategy(Protocol):
    """The part of a game of the homes behind one EMC process."""

    @property
    def brief(self) -> bool:
        """Whether an answer takes no longer than receiving a message, so that it may as well be worked out at once."""

    def answer(self, signal: Body) -> Body:
        """What the homes do at this signal."""

    def settle(self, settlement: Body) -> Mapping[str, Any]:
        """What the homes will do, by home: private, for their owners and for verification on a desk."""
