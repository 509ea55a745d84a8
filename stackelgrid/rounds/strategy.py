"""What a game brings to each role. Plain, pure methods on bodies; they know nothing of topics, rounds or clocks.

A strategy is generic in what it hears and says: `LeaderStrategy[Price, LoadResponse, Price]` asks with a `Price`, is
answered with a `LoadResponse` per aggregator and settles with a `Price`. On an addressed link, where each member is
asked something of its own, a question is a mapping: `LeaderStrategy[Mapping[str, Offer], Provision, Mapping[str,
Offer]]`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from stackelgrid.wire.messages import Body

Question = Body | Mapping[str, Body]
"""What a coordinator asks: one body for all its members or, on an addressed link, also a body for each by name."""

Asked = TypeVar("Asked", bound=Question)
AskedBelow = TypeVar("AskedBelow", bound=Question)
AnsweredBelow_contra = TypeVar("AnsweredBelow_contra", bound=Body, contravariant=True)
Answered_co = TypeVar("Answered_co", bound=Body, covariant=True)
Answered_contra = TypeVar("Answered_contra", bound=Body, contravariant=True)
Asked_co = TypeVar("Asked_co", bound=Question, covariant=True)
Asked_contra = TypeVar("Asked_contra", bound=Body, contravariant=True)
Settled_co = TypeVar("Settled_co", bound=Question, covariant=True)
Settled_contra = TypeVar("Settled_contra", bound=Body, contravariant=True)
SettledBelow_co = TypeVar("SettledBelow_co", bound=Question, covariant=True)


@dataclass(frozen=True)
class Decision(Generic[Asked_co, Settled_co]):
    """What a leader wants after a round: `ask` on or, when `settle`, end with `settlement`.

    `settlement` is what is settled should the run end here, wanted or not. `residual` is the largest relative change
    still wanted, None when none could be worked out; `account` tells the journal in numbers what the round brought.
    """

    ask: Asked_co
    settlement: Settled_co
    settle: bool = False
    residual: float | None = None
    account: Mapping[str, Any] = field(default_factory=dict)


class LeaderStrategy(Protocol[Asked, Answered_contra, Settled_co]):
    """The leader's part of a game."""

    def open(self) -> Decision[Asked, Settled_co]:
        """Give the first signal, and what is settled when nobody answers it: the world without the game."""

    def decide(
        self, signal: Asked, answers: Mapping[str, Answered_contra], held: Collection[str]
    ) -> Decision[Asked, Settled_co]:
        """Give the next signal, or the settlement, from each aggregator's answer to `signal`.

        The answers of those `held` are of an earlier round; aggregators that are in neither were excluded.
        """


@dataclass(frozen=True)
class Ask(Generic[Asked_co]):
    """An aggregator asks its homes. `account` goes into the journal of the round before, if there was one."""

    body: Asked_co
    account: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply(Generic[Answered_co]):
    """An aggregator has its answer to the leader's signal."""

    body: Answered_co
    account: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending(Generic[Settled_co]):
    """What an aggregator makes of the leader's settlement: the last word to its homes.

    `account` stays with the aggregator (or on the desk, for verification).
    """

    body: Settled_co
    account: Mapping[str, Any] = field(default_factory=dict)


class AggregatorStrategy(
    Protocol[Asked_contra, Answered_co, Settled_contra, AskedBelow, AnsweredBelow_contra, SettledBelow_co]
):
    """The aggregator's part of a game: between a signal and its answer it plays rounds with its homes.

    Generic in what the leader asks, what the aggregator answers and what the leader settles; then the same three
    between the aggregator and its homes.
    """

    def open(self, signal: Asked_contra) -> Ask[AskedBelow] | Reply[Answered_co]:
        """Take the leader's signal: give the first question to the homes, or an answer that needs none of them.

        A signal may come before the last one was answered; that one's answer is then no longer wanted.
        """

    def on_answers(
        self,
        asked: AskedBelow,
        answers: Mapping[str, AnsweredBelow_contra],
        held: Collection[str],
        excluded: Collection[str],
    ) -> Ask[AskedBelow] | Reply[Answered_co]:
        """Take the homes' answers to what they were `asked`: ask on, or reply to the leader.

        The answers of those `held` are of an earlier round; the members `excluded` are in none of them.
        """

    def settle(self, settlement: Settled_contra) -> Ending[SettledBelow_co]:
        """Give the leader's last word as the homes are to hear it."""


class HomeStrategy(Protocol[Asked_contra, Answered_co, Settled_contra]):
    """The part of a game of the homes behind one EMC process."""

    @property
    def quick(self) -> bool:
        """Whether an answer takes no longer than receiving a message, so that it may as well be worked out at once."""

    def answer(self, signal: Asked_contra) -> Answered_co:
        """Answer what the homes do at this signal."""

    def settle(self, settlement: Settled_contra) -> Mapping[str, Any]:
        """Give what the homes will do, by home: private, for their owners and for verification on a desk."""
