"""The protocols that a game implements, one for each role.

A strategy takes and returns message bodies and knows nothing of topics, rounds or clocks. A *question* is what is asked
in a round, the *signal* the message that carries it: the `signal` that a strategy gets is the body of such a message.
It may keep state, but it is deterministic: the same calls in the same order give the same results.

Each protocol is generic in the bodies that it takes and returns. `LeaderStrategy[Price, LoadResponse, Price]` asks
with a `Price`, gets a `LoadResponse` from each aggregator and settles with a `Price`. On an addressed link, where each
member is asked something of its own, a question is a mapping: `LeaderStrategy[Mapping[str, Offer], Provision,
Mapping[str, Offer]]`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from stackelgrid.wire.messages import Body

Question = Body | Mapping[str, Body]
"""The question of a coordinator: one body for all its members or, on an addressed link, a body for each by name."""

# Bodies exchanged with the coordinator above. `_contra` marks what a strategy only takes, `_co` what it only returns.
UpSignal_contra = TypeVar("UpSignal_contra", bound=Body, contravariant=True)
UpAnswer_co = TypeVar("UpAnswer_co", bound=Body, covariant=True)
UpSettlement_contra = TypeVar("UpSettlement_contra", bound=Body, contravariant=True)

# Bodies exchanged with the members below.
DownSignal = TypeVar("DownSignal", bound=Question)
DownAnswer_contra = TypeVar("DownAnswer_contra", bound=Body, contravariant=True)
DownSettlement_co = TypeVar("DownSettlement_co", bound=Question, covariant=True)


@dataclass(frozen=True)
class Decision(Generic[DownSignal, DownSettlement_co]):
    """A leader's decision after a round: `ask` again or, when `settle` is true, end with `settlement`.

    `settlement` is settled whenever the run ends here, also because the rounds ran out. `stop` says in words why it is
    to end here though nothing was found, and what helps; the run then counts as not settled. `residual` is the largest
    relative change that is still wanted, None when it cannot be computed. `account` goes into the journal: the round in
    numbers.
    """

    ask: DownSignal
    settlement: DownSettlement_co
    settle: bool = False
    residual: float | None = None
    account: Mapping[str, Any] = field(default_factory=dict)
    stop: str = ""


class LeaderStrategy(Protocol[DownSignal, DownAnswer_contra, DownSettlement_co]):
    """The leader's part of a game."""

    def open(self) -> Decision[DownSignal, DownSettlement_co]:
        """Give the first question, before any answer is known.

        Its settlement applies when nobody ever answers: the prices without the game.
        """

    def decide(
        self, signal: DownSignal, answers: Mapping[str, DownAnswer_contra], held: Collection[str]
    ) -> Decision[DownSignal, DownSettlement_co]:
        """Decide what to ask next, or to settle, from the aggregators' `answers` to `signal`, by name.

        An aggregator in `held` did not answer this time: its answer is the one to an earlier signal. One that was
        excluded is in neither. There is always at least one answer.
        """


@dataclass(frozen=True)
class Ask(Generic[DownSignal]):
    """An aggregator's next question to its homes.

    `account` goes into the journal of the round that led to it; it is lost when there was none.
    """

    body: DownSignal
    account: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply(Generic[UpAnswer_co]):
    """An aggregator's answer to the leader. `account` is as in `Ask`."""

    body: UpAnswer_co
    account: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending(Generic[DownSettlement_co]):
    """An aggregator's settlement for its homes, made from the leader's.

    `account` never leaves the aggregator, or the machine of a simulation, where it is used for verification.
    """

    body: DownSettlement_co
    account: Mapping[str, Any] = field(default_factory=dict)


class AggregatorStrategy(
    Protocol[UpSignal_contra, UpAnswer_co, UpSettlement_contra, DownSignal, DownAnswer_contra, DownSettlement_co]
):
    """The aggregator's part of a game: between a signal and its answer it plays rounds with its homes."""

    def open(self, signal: UpSignal_contra) -> Ask[DownSignal] | Reply[UpAnswer_co]:
        """Begin with the leader's signal: ask the homes, or reply at once when that needs none of them.

        A signal may come before the one before it was answered; that answer is then no longer wanted.
        """

    def on_answers(
        self,
        asked: DownSignal,
        answers: Mapping[str, DownAnswer_contra],
        held: Collection[str],
        excluded: Collection[str],
    ) -> Ask[DownSignal] | Reply[UpAnswer_co]:
        """Continue with the `answers` of the homes' processes to `asked`, by name: ask again, or reply to the leader.

        A process in `held` did not answer this time: its answer is the one to an earlier question. One in `excluded`
        has no answer at all. There is always at least one answer.
        """

    def settle(self, settlement: UpSettlement_contra) -> Ending[DownSettlement_co]:
        """Make the homes' settlement from the leader's."""


class HomeStrategy(Protocol[UpSignal_contra, UpAnswer_co, UpSettlement_contra]):
    """The part of a game of the homes in one EMC process."""

    @property
    def quick(self) -> bool:
        """Tell whether `answer` takes no longer than receiving a message: it then runs at once, not in a thread."""

    def answer(self, signal: UpSignal_contra) -> UpAnswer_co:
        """Answer a signal with what the homes would do at it."""

    def settle(self, settlement: UpSettlement_contra) -> Mapping[str, Any]:
        """Give what each home will do, by home.

        It is private: for the home's owner or, on the machine of a simulation, for verification.
        """


@runtime_checkable
class MeasuringHomeStrategy(Protocol):
    """The further part of a `HomeStrategy` whose homes begin a session as they are measured to be."""

    @property
    def measured_states(self) -> Mapping[str, Any]:
        """The states in which homes begin by what was measured, by home, as `HomeModel.in_session` takes them."""


@runtime_checkable
class StatefulHomeStrategy(Protocol):
    """The further part of a `HomeStrategy` whose answers depend on those before, so that a restart loses nothing."""

    def remember(self) -> Any:
        """Give what the answers so far have left, as JSON, None for nothing."""

    def recall(self, memory: Any) -> None:
        """Go on from what `remember` gave before a restart."""
