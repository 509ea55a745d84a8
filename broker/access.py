"""Access rules of a broker: the topics that each node may write and read, by its role, as text for Mosquitto.

Where a node has no rule for a topic it may do nothing, so this table is complete (RUN is any run, `+`):

| who | writes | reads |
|---|---|---|
| home h of aggregator a | RUN/a/h/answer, receipt, presence, heartbeat, keys, shares, holding, signature, masks | RUN/a/signal, settlement, committee; RUN/a/h/signal, settlement, refusal, entrusted, list, quorum; RUN/registrar/h/place |
| aggregator a of leader l | RUN/l/a/answer, receipt, presence, heartbeat; RUN/a/signal, settlement, committee; RUN/a/HOME/signal, settlement, refusal, entrusted, list, quorum of its homes | RUN/l/signal, settlement; RUN/l/a/signal, settlement, refusal, roster; RUN/a/+/answer, receipt, presence, keys, shares, holding, signature, masks |
| leader l | RUN/l/signal, settlement; RUN/l/AGGREGATOR/signal, settlement, refusal, roster of its aggregators | RUN/l/+/answer, receipt, presence; RUN/registrar/roster |
| each of these, n | RUN/registrar/n/request | RUN/registrar/n/answer |
| observer | nothing | every signal, settlement, receipt, presence and heartbeat; of the answers those to a leader |
| registrar | RUN/registrar/roster; RUN/registrar/NODE/answer, place; enrolment/ID/answer | RUN/registrar/+/request; enrolment/+/request; every presence; its own answers and places |
| enrolment | enrolment/ID/request | enrolment/ID/answer |
| the broker itself | everything, to clear what a revoked node has retained | the same, and $SYS for health checks |

A stranger has no certificate. What it writes and reads goes through the broker for enrolment (`broker.enrolment`): its own
enrolment/ID/request and answer, where ID is its client id.

What private sums need (keys to masks, committee to quorum) nobody reads but an aggregator and its homes: who has a home's
masked answer and the secrets of its mask has the answer.

What a coordinator reads below its own name needs no list of its members: nobody else may write there. A home that moves
to another aggregator may do all this at both of them, until it has come to the other one.
"""  # noqa: E501  (a table)

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from stackelgrid.wire.roles import ENROLMENT, REGISTRAR

UP, DOWN = ("answer", "receipt", "presence"), ("signal", "settlement")
"""The purposes of what a member sends to its coordinator, and of what it receives from it: `docs/wire.md`."""
HEARTBEAT = "heartbeat"
"""The purpose of what a member says of itself to observers."""
TO_ONE = (*DOWN, "refusal")
"""The purposes of what a coordinator may send to one member alone."""
MASKS_UP, MASKS_DOWN, MASKS_TO_ONE = (
    ("keys", "shares", "holding", "signature", "masks"),
    ("committee",),
    ("entrusted", "list", "quorum"),
)
"""The purposes of what an aggregator and its homes need for private sums besides."""


class Role(StrEnum):
    """The role of a certificate's owner."""

    leader = "leader"
    aggregator = "aggregator"
    home = "home"
    observer = "observer"
    registrar = "registrar"
    enrolment = "enrolment"
    broker = "broker"


@dataclass(frozen=True)
class Node:
    """The owner of a certificate: `above` is a home's aggregator, an aggregator's leader, None for the others.

    Behind a home's process are so many `homes`, whose connections carry `max_kw` together. One that is moving has
    `moved_from`, its aggregator of before. Two descriptions of a node are equal where name, role and `above` are.
    """

    name: str
    role: Role
    above: str | None = None
    homes: int = field(default=1, compare=False, repr=False)
    max_kw: float | None = field(default=None, compare=False, repr=False)
    moved_from: str | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Rules:
    """Topic filters by name: what each may write, and what it may read."""

    write: Mapping[str, tuple[str, ...]]
    read: Mapping[str, tuple[str, ...]]

    def may_write(self, name: str, topic: str) -> bool:
        """Say whether what `name` publishes on `topic`, also as a last will, is passed on."""
        return any(covers(rule, topic) for rule in self.write.get(name, ()))

    def may_read(self, name: str, topic_filter: str) -> bool:
        """Say whether `name` receives everything that a subscription to `topic_filter` asks for."""
        if topic_filter.startswith("$share/"):
            topic_filter = topic_filter.split("/", 2)[-1]
        return any(covers(rule, topic_filter) for rule in self.read.get(name, ()))

    def text(self) -> str:
        """Write the rules as Mosquitto's `acl_file`."""
        lines = ["# Who may do what; everything else is refused. Written by stackelgrid certs, which writes it anew."]
        for name in dict.fromkeys((*self.write, *self.read)):
            lines += ["", f"user {name}"]
            lines += [f"topic write {topic}" for topic in self.write.get(name, ())]
            lines += [f"topic read {topic}" for topic in self.read.get(name, ())]
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text: str) -> Rules:
        """Read rules that `text` wrote. Raises `ValueError` for a line that it would not have written."""
        write: dict[str, tuple[str, ...]] = {}
        read: dict[str, tuple[str, ...]] = {}
        name = ""
        for line in filter(None, text.splitlines()):
            match line.split(" "):
                case ["#", *_]:
                    pass
                case ["user", user]:
                    name, write[user], read[user] = user, (), ()
                case ["topic", "write", topic] if name:
                    write[name] += (topic,)
                case ["topic", "read", topic] if name:
                    read[name] += (topic,)
                case _:
                    raise ValueError(f"{line!r} is no access rule")
        if not write:
            raise ValueError("there is no rule in it")
        return cls(write, read)


def covers(rule: str, topic_filter: str) -> bool:
    """Say whether every topic that `topic_filter` matches, in MQTT's sense, is one that `rule` matches too.

    A topic without wildcards is a filter that matches itself.
    """
    allowed, asked = rule.split("/"), topic_filter.split("/")
    if asked[0].startswith("$") and allowed[0] in ("+", "#"):
        return False  # wildcards do not reach the broker's own topics
    for number, level in enumerate(allowed):
        if level == "#":
            return True
        if number == len(asked) or asked[number] == "#" or level not in ("+", asked[number]):
            return False
    return len(asked) == len(allowed)


def make_rules(nodes: Iterable[Node]) -> Rules:
    """Write the rules for `nodes`, each of which has a name of its own."""
    everyone = list(nodes)
    members: dict[str | None, list[str]] = {}
    for node in everyone:
        for above in (node.above, node.moved_from):
            members.setdefault(above, []).append(node.name)
    leaders = [node.name for node in everyone if node.role is Role.leader]
    by_name = {node.name: _grant(node, members.get(node.name, []), leaders) for node in everyone}
    return Rules(
        {name: topics.write for name, topics in by_name.items()},
        {name: topics.read for name, topics in by_name.items()},
    )


@dataclass(frozen=True)
class _Topics:
    write: tuple[str, ...]
    read: tuple[str, ...]


def _grant(node: Node, members: list[str], leaders: list[str]) -> _Topics:
    match node.role:
        case Role.home:
            aggregators = [name for name in (node.above, node.moved_from) if name is not None]
            there = [grant(node, name) for name in aggregators for grant in (_grant_member, _grant_masks_of_home)]
            place = _Topics((), _below(f"+/{REGISTRAR}/{node.name}", ["place"]))
            return _join(*there, _grant_requests(node), place)
        case Role.aggregator:
            roster = _Topics((), _below(f"+/{node.above}/{node.name}", ["roster"]))
            return _join(
                _grant_member(node, node.above),
                roster,
                _grant_coordinator(node, members),
                _grant_masks_of_aggregator(node, members),
                _grant_requests(node),
            )
        case Role.leader:
            rosters = _Topics(
                tuple(topic for member in members for topic in _below(f"+/{node.name}/{member}", ["roster"])),
                _below(f"+/{REGISTRAR}", ["roster"]),
            )
            return _join(_grant_coordinator(node, members), rosters, _grant_requests(node))
        case Role.observer:
            of_all = _below("+/+", DOWN) + _below("+/+/+", (*DOWN, "receipt", "presence", HEARTBEAT))
            return _Topics(
                (), of_all + tuple(topic for leader in leaders for topic in _below(f"+/{leader}/+", ["answer"]))
            )
        case service:
            return _SERVICES[service]


def _join(*topics: _Topics) -> _Topics:
    return _Topics(
        tuple(topic for each in topics for topic in each.write), tuple(topic for each in topics for topic in each.read)
    )


def _grant_member(node: Node, coordinator: str | None) -> _Topics:
    own = f"+/{coordinator}/{node.name}"
    return _Topics(_below(own, (*UP, HEARTBEAT)), _below(f"+/{coordinator}", DOWN) + _below(own, TO_ONE))


def _grant_coordinator(node: Node, members: list[str]) -> _Topics:
    addressed = tuple(topic for member in members for topic in _below(f"+/{node.name}/{member}", TO_ONE))
    return _Topics(_below(f"+/{node.name}", DOWN) + addressed, _below(f"+/{node.name}/+", UP))


def _grant_masks_of_home(node: Node, aggregator: str) -> _Topics:
    own = f"+/{aggregator}/{node.name}"
    return _Topics(_below(own, MASKS_UP), _below(f"+/{aggregator}", MASKS_DOWN) + _below(own, MASKS_TO_ONE))


def _grant_masks_of_aggregator(node: Node, members: list[str]) -> _Topics:
    to_one = tuple(topic for member in members for topic in _below(f"+/{node.name}/{member}", MASKS_TO_ONE))
    return _Topics(_below(f"+/{node.name}", MASKS_DOWN) + to_one, _below(f"+/{node.name}/+", MASKS_UP))


def _grant_requests(node: Node) -> _Topics:
    own = f"+/{REGISTRAR}/{node.name}"
    return _Topics(_below(own, ["request"]), _below(own, ["answer"]))


def _below(root: str, purposes: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"stackelgrid/{root}/{purpose}" for purpose in purposes)


_ANSWERS = _below(f"+/{REGISTRAR}/+", ["answer", "place"])
_SERVICES = {
    Role.registrar: _Topics(
        _below(f"+/{REGISTRAR}", ["roster"]) + _ANSWERS + _below(f"{ENROLMENT}/+", ["answer"]),
        # What it has retained before a restart it reads, to clear what is no longer true.
        _below(f"+/{REGISTRAR}/+", ["request"])
        + _below(f"{ENROLMENT}/+", ["request"])
        + _below("+/+/+", ["presence"])
        + _ANSWERS,
    ),
    Role.enrolment: _Topics(_below(f"{ENROLMENT}/+", ["request"]), _below(f"{ENROLMENT}/+", ["answer"])),
    Role.broker: _Topics(("stackelgrid/#",), ("stackelgrid/#", "$SYS/#")),
}
