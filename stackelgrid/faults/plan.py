"""Fault plans: what goes wrong in a run, where and when. They are checked as scenarios are.

`from`, `to` and `node` are names of nodes, in which `*` and `?` stand for any letters: `a*` is every aggregator of a
shipped case. A window is `rounds` [first, last] of the conversation that a message belongs to, or `seconds`
[first, last] since the node's start; without one, a fault is always in force. Every link and every node draws from a
stream of its own, derived from the plan's seed, so that one fault does not change what another draws.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from stackelgrid.model import StrictModel
from stackelgrid.wire.arrays import LARGEST
from stackelgrid.wire.messages import MAX_NAMES
from stackelgrid.wire.roles import Role

Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class Part(StrictModel):
    """Base of a plan's parts: unknown keys are refused."""

    model_config = ConfigDict(populate_by_name=True)


class Window(Part):
    """The time in which a fault is in force: some rounds or some seconds, ends included; without either, always."""

    rounds: tuple[int, int] | None = None
    seconds: tuple[Seconds, Seconds] | None = None

    def holds(self, round_number: int | None, seconds: float) -> bool:
        """Say whether it includes a message of a round (None: of no round) that arrives after so many seconds."""
        if self.rounds is not None:
            return round_number is not None and self.rounds[0] <= round_number <= self.rounds[1]
        return self.seconds is None or self.seconds[0] <= seconds <= self.seconds[1]

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.rounds is not None and self.seconds is not None:
            raise ValueError("give rounds or seconds, not both")
        for name, bounds in (("rounds", self.rounds), ("seconds", self.seconds)):
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"{name}: the first, {bounds[0]:g}, comes before the last, {bounds[1]:g}; swap them")
        return self


class Moment(Part):
    """The moment of a fault: when the node first receives (the leader: asks) `round`, or after so many `seconds`.

    With `session`, when it first receives (the leader: asks) a round of that session, which is between two sessions.
    Rounds are numbered on from one session to the next. With `message` besides `round`, when the node first receives
    that message of private sums, of that round or a later one.
    """

    round: Annotated[int, Field(ge=1)] | None = None
    message: Literal["list", "signature", "quorum", "masks"] | None = None
    session: Annotated[int, Field(ge=2)] | None = None
    seconds: Seconds | None = None

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        if sum(given is not None for given in (self.round, self.session, self.seconds)) != 1:
            raise ValueError("give round, session or seconds, one of them")
        if self.message is not None and self.round is None:
            raise ValueError("message is one of a round: give round with it")
        return self


class OnLink(Part):
    """Base of the faults on messages between two nodes, on their way from the broker to the receiver."""

    kind: str
    from_: Annotated[str, Field(alias="from")] = "*"
    to: str = "*"
    during: Window = Window()

    def concerns(self, sender: str, receiver: str) -> bool:
        """Say whether it applies to messages of `sender` to `receiver`."""
        return fnmatchcase(sender, self.from_) and fnmatchcase(receiver, self.to)


class Burst(Part):
    """Gilbert and Elliott's two states: a link turns bad with `enter` and good with `leave`, per message."""

    enter: Probability
    leave: Annotated[float, Field(gt=0, le=1)]
    lost_when_good: Probability = 0.0
    lost_when_bad: Probability = 1.0


class Loss(OnLink):
    """Messages are lost: each with `probability`, or in bursts."""

    kind: Literal["loss"]
    probability: Probability | None = None
    burst: Burst | None = None

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        if (self.probability is None) == (self.burst is None):
            raise ValueError("give probability or burst, one of them")
        return self


class Delay(OnLink):
    """Messages are late by `seconds` and up to `jitter_s` more; those on one topic stay in order."""

    kind: Literal["delay"]
    seconds: Seconds
    jitter_s: Seconds = 0.0


class Duplication(OnLink):
    """A message arrives `copies` times more, with `probability`."""

    kind: Literal["duplication"]
    probability: Probability
    copies: Annotated[int, Field(ge=1, le=100)] = 1


class Reordering(OnLink):
    """A message is held back for `seconds`, with `probability`, and later ones overtake it."""

    kind: Literal["reordering"]
    probability: Probability
    seconds: Seconds = 0.05


class Corruption(OnLink):
    """`bits` of a message are flipped, with `probability`."""

    kind: Literal["corruption"]
    probability: Probability
    bits: Annotated[int, Field(ge=1, le=1000)] = 1


class Bandwidth(OnLink):
    """A link carries so many bytes a second, one message after the other."""

    kind: Literal["bandwidth"]
    bytes_per_s: Annotated[float, Field(ge=1, allow_inf_nan=False)]


class Partition(Part):
    """No message passes between a node of one group and a node of another."""

    kind: Literal["partition"]
    groups: Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(min_length=2)]
    during: Window = Window()

    def concerns(self, sender: str, receiver: str) -> bool:
        """Say whether the two are in different groups."""
        of = [
            {number for number, group in enumerate(self.groups) if any(fnmatchcase(name, known) for known in group)}
            for name in (sender, receiver)
        ]
        return bool(of[0] and of[1] and of[0].isdisjoint(of[1]))


class OnNode(Part):
    """Base of the faults of nodes."""

    node: str

    def concerns(self, name: str) -> bool:
        """Say whether it applies to node `name`."""
        return fnmatchcase(name, self.node)


class Stall(OnNode):
    """The node is stopped for `seconds`, as by SIGSTOP and SIGCONT."""

    kind: Literal["stall"]
    at: Moment
    seconds: Seconds


class Crash(OnNode):
    """The node is killed, as by SIGKILL, and restarted after so many seconds if at all, with or without its disk.

    A leader does not come back without its disk: the rounds that it would ask are over for its members.
    """

    kind: Literal["crash"]
    at: Moment
    restart_after_s: Seconds | None = None
    lose_state: bool = False

    def restarts(self, role: Role) -> bool:
        """Say whether a node of that role is restarted."""
        return self.restart_after_s is not None and not (self.lose_state and role is Role.LEADER)


class Slow(OnNode):
    """The node takes `seconds` longer for each answer or question."""

    kind: Literal["slow"]
    seconds: Seconds
    during: Window = Window()


class Lie(OnNode):
    """The node is dishonest, in each answer (`receipt`: in each receipt) with `probability`.

    | how | what it sends |
    |---|---|
    | `shape` | one slot too few |
    | `nan` | a number that is none |
    | `beyond` | numbers a million times too large |
    | `extreme` | every number as large as a message may carry |
    | `scaled` | numbers `factor` times as large: a lie within bounds |
    | `load` | a load of `factor` kW in each slot, all else true |
    | `slope` | a slope `factor` times as steep, all else true |
    | `coupling` | a coupling of `factor` in each slot, all else true |
    | `count` | one of its homes as excluded |
    | `stale` | the answer to an earlier round, as it was |
    | `impersonate` | its answer once more under the name of the member `as` |
    | `late` | nothing until it is asked `times` times more |
    | `flapping` | in each round its presence instead, offline and online in turn, `times` times, `seconds` apart |
    | `receipt` | a receipt in which `times` invented members miss the settlement, and `as` if given |
    | `masks` | sums of masks that are wrong, as one of the committee |
    | `shares` | sealed keys of its masks that do not open |
    | `lists` | to each of the committee another list of answers, as an aggregator |

    Of an answer with its mask on, lies about numbers add to each of them: `scaled`, `load`, `slope` and `coupling`
    `factor`, `beyond` a million, `nan` and `extreme` as much as there is room for.
    """

    kind: Literal["lie"]
    how: Literal[
        "shape", "nan", "beyond", "extreme", "scaled", "load", "slope", "coupling", "count",
        "stale", "impersonate", "late", "flapping", "receipt", "masks", "shares", "lists",
    ]  # fmt: skip
    probability: Probability = 1.0
    factor: Annotated[float, Field(ge=-LARGEST, le=LARGEST)] = 2.0
    times: Annotated[int, Field(ge=1, le=MAX_NAMES)] = 3
    seconds: Seconds = 1.0
    as_: Annotated[str | None, Field(alias="as")] = None
    during: Window = Window()

    @model_validator(mode="after")
    def _check_as(self) -> Self:
        if self.as_ is None and self.how == "impersonate":
            raise ValueError("as names the member to impersonate: give it with how: impersonate")
        if self.as_ is not None and self.how not in ("impersonate", "receipt"):
            raise ValueError(f"as names a member to impersonate or to report: leave it out with how: {self.how}")
        return self


class BrokerOutage(Part):
    """The broker is killed and restarted after `seconds`, with the messages that it had retained or without."""

    kind: Literal["broker"]
    at: Moment
    seconds: Seconds
    keep_retained: bool = True


class OnConnection(OnNode):
    """Base of the faults of a node's connection to the broker, from a moment on, for `seconds`."""

    kind: str
    at: Moment
    seconds: Seconds


class Cut(OnConnection):
    """The connection is reset and every new one refused: the broker publishes the last will, the node connects anew."""

    kind: Literal["cut"]


class Hang(OnConnection):
    """The connection stays and carries nothing, either way; the messages of that time arrive afterwards.

    No longer than the keep-alive of a connection allows; what takes longer is a `cut`.
    """

    kind: Literal["hang"]
    seconds: Annotated[float, Field(ge=0, le=15, allow_inf_nan=False)]


class Narrow(OnConnection):
    """The connection carries so many bytes a second, each way."""

    kind: Literal["narrow"]
    bytes_per_s: Annotated[float, Field(ge=1, allow_inf_nan=False)]


MessageFault = Loss | Delay | Duplication | Reordering | Corruption | Bandwidth | Partition
NodeFault = Stall | Crash | Slow | Lie
ConnectionFault = Cut | Hang | Narrow
MomentFault = Stall | Crash | OnConnection | BrokerOutage
"""The faults that happen once to a node, at a moment."""
Fault = Annotated[MessageFault | NodeFault | ConnectionFault | BrokerOutage, Field(discriminator="kind")]


class FaultPlan(Part):
    """A plan: its faults in the order in which they are applied to a message."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    title: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    faults: list[Fault] = []
