"""What a game brings to each role. Plain, pure methods on bodies; they know nothing of topics, rounds or clocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from stackelgrid.wire.messages import Body

Said = Body | Mapping[str, Body]
"""What a coordinator says: one body for all its members or, on an addressed link, also a body for each by name."""


@dataclass(frozen=True)
class Decision:
    """What a leader wants after a round: `ask` on or, when `settle`, end with `settlement`.

    `settlement` is what is settled should the run end here, wanted or not. `residual` is the largest relative change
    still wanted, None when none could be worked out; `account` tells the journal in numbers what the round brought.
    """

    ask: Said
    settlement: Said
    settle: bool = False
    residual: float | None = None
    account: Mapping[str, Any] = field(default_factory=dict)


class LeaderStrategy(Protocol):
    """The leader's part of a game."""

    def open(self) -> Decision:
        """The first signal, and what is settled when nobody answers it: the world without the game."""

    def decide(self, signal: Said, answers: Mapping[str, Body], held: Collection[str]) -> Decision:
        """The next signal, or the settlement, given each aggregator's answer to `signal`.

        The answers of those `held` are of an earlier round; aggregators that are in neither were excluded.
        """


@dataclass(frozen=True)
class Ask:
    """An aggregator asks its homes. `account` goes into the journal of the round before, if there was one."""

    body: Said
    account: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An aggregator has its answer to the leader's signal."""

    body: Body
    account: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """What an aggregator makes of the leader's settlement: the last word to its homes.

    `account` stays with the aggregator (or on the desk, for verification).
    """

    body: Said
    account: Mapping[str, Any] = field(default_factory=dict)


class AggregatorStrategy(Protocol):
    """The aggregator's part of a game: between a signal and its answer it plays rounds with its homes."""

    def open(self, signal: Body) -> Ask | Reply:
        """The leader asks: the first question to the homes, or an answer that needs none of them.

        A signal may come before the last one was answered; that one's answer is then no longer wanted.
        """

    def follow(
        self, asked: Said, answers: Mapping[str, Body], held: Collection[str], excluded: Collection[str]
    ) -> Ask | Reply:
        """The homes have answered what they were `asked`: ask on, or reply to the leader.

        The answers of those `held` are of an earlier round; the members `excluded` are in none of them.
        """

    def settle(self, settlement: Body) -> Ending:
        """The leader's last word, as the homes are to hear it."""


class HomeStrategy(Protocol):
    """The part of a game of the homes behind one EMC process."""

    @property
    def brief(self) -> bool:
        """Whether an answer takes no longer than receiving a message, so that it may as well be worked out at once."""

    def answer(self, signal: Body) -> Body:
        """What the homes do at this signal."""

    def settle(self, settlement: Body) -> Mapping[str, Any]:
        """What the homes will do, by home: private, for their owners and for verification on a desk."""
