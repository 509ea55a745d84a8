"""Access rules of a broker: the topics that each node may write and read, by its role, as text for Mosquitto.

Where a node has no rule for a topic it may do nothing, so this table is complete (RUN is any run, `+`):

| who | writes | reads |
|---|---|---|
| home h of aggregator a | RUN/a/h/answer, receipt, presence | RUN/a/signal, settlement; RUN/a/h/signal, settlement, refusal; RUN/registrar/h/place |
| aggregator a of leader l | the same towards l; RUN/a/signal, settlement; RUN/a/HOME/signal, settlement, refusal of its homes | the same from l; RUN/l/a/roster; RUN/a/+/answer, receipt, presence |
| leader l | RUN/l/signal, settlement; RUN/l/AGGREGATOR/signal, settlement, refusal, roster of its aggregators | RUN/l/+/answer, receipt, presence; RUN/registrar/roster |
| registrar | RUN/registrar/roster; RUN/registrar/HOME/place | nothing |
| observer | nothing | every signal, settlement, receipt and presence; of the answers those to a leader |
| the broker itself | everything, to clear what a revoked node has retained | the same, and $SYS for health checks |

What a coordinator reads below its own name needs no list of its members: nobody else may write there.
"""  # noqa: E501  (a table)

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from stackelgrid.wire.codec import REGISTRAR

UP, DOWN = ("answer", "receipt", "presence"), ("signal", "settlement")
"""The purposes of what a member sends to its coordinator, and of what it receives from it: `docs/wire.md`."""
TO_ONE = (*DOWN, "refusal")
"""The purposes of what a coordinator may send to one member alone."""


class Role(StrEnum):
    """The role of a certificate's owner."""

    leader = "leader"
    aggregator = "aggregator"
    home = "home"
    observer = "observer"
    registrar = "registrar"
    broker = "broker"


@dataclass(frozen=True)
class Node:
    """The owner of a certificate: `above` is a home's aggregator, an aggregator's leader, None for the others."""

    name: str
    role: Role
    above: str | None = None


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
        members.setdefault(node.above, []).append(node.name)
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
            own = _grant_member(node)
            return _Topics(own.write, own.read + _below(f"+/{REGISTRAR}/{node.name}", ["place"]))
        case Role.aggregator:
            up, down = _grant_member(node), _grant_coordinator(node, members)
            rosters = _below(f"+/{node.above}/{node.name}", ["roster"])
            return _Topics(up.write + down.write, up.read + rosters + down.read)
        case Role.leader:
            own = _grant_coordinator(node, members)
            rosters = tuple(topic for member in members for topic in _below(f"+/{node.name}/{member}", ["roster"]))
            return _Topics(own.write + rosters, own.read + _below(f"+/{REGISTRAR}", ["roster"]))
        case Role.registrar:
            return _Topics(_below(f"+/{REGISTRAR}", ["roster"]) + _below(f"+/{REGISTRAR}/+", ["place"]), ())
        case Role.observer:
            of_all = _below("+/+", DOWN) + _below("+/+/+", (*DOWN, "receipt", "presence"))
            return _Topics(
                (), of_all + tuple(topic for leader in leaders for topic in _below(f"+/{leader}/+", ["answer"]))
            )
        case Role.broker:
            return _Topics(("stackelgrid/#",), ("stackelgrid/#", "$SYS/#"))


def _grant_member(node: Node) -> _Topics:
    own = f"+/{node.above}/{node.name}"
    return _Topics(_below(own, UP), _below(f"+/{node.above}", DOWN) + _below(own, TO_ONE))


def _grant_coordinator(node: Node, members: list[str]) -> _Topics:
    addressed = tuple(topic for member in members for topic in _below(f"+/{node.name}/{member}", TO_ONE))
    return _Topics(_below(f"+/{node.name}", DOWN) + addressed, _below(f"+/{node.name}/+", UP))


def _below(root: str, purposes: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"stackelgrid/{root}/{purpose}" for purpose in purposes)
