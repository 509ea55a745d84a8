"""The state of each node of a run that is on, as it shows from outside: by the messages on the broker."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from stackelgrid.scenarios.topology import LEADER
from stackelgrid.transport.base import Action, Publish
from stackelgrid.wire.codec import ROOT

_AGAIN = re.compile(rb'"again":\[([^\]]*)\]')


Note = Callable[[str, Iterable[str]], None]
"""Notes a state, and the nodes that have come to it."""


class NodeObserver:
    """A client of the broker that receives all messages of a run and sends none.

    `note` is given what they say of the states of nodes; `members` has those of each coordinator.
    """

    name = "observer"
    last_will: Publish | None = None

    def __init__(self, run: str, members: Mapping[str, Sequence[str]], note: Note) -> None:
        self.subscriptions = (f"{ROOT}/{run}/#",)
        self._members, self._note = members, note

    def start(self, now: float) -> Sequence[Action]:
        """Wait for messages."""
        return []

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Note what a message says; its body is not read."""
        match topic.split("/")[2:]:
            case [coordinator, *member, "signal"] if payload:
                if coordinator == LEADER:  # which announces no presence
                    self._note("online", [LEADER])
                self._note_signal(payload, member or self._members.get(coordinator, ()))
            case [coordinator, *_, "settlement"] if coordinator == LEADER:
                self._note("settled", [LEADER])
            case [_, member, "answer"]:
                self._note("answered", [member])
            case [_, member, "receipt"]:
                self._note("settled", [member])
            case [_, member, "presence"]:
                state = "left" if not payload else "offline" if b'"offline"' in payload else "online"
                self._note(state, [member])
        return []

    def _note_signal(self, payload: bytes, asked: Sequence[str]) -> None:
        header, _, _ = payload.partition(b'"body"')
        again = _AGAIN.search(header)
        names = re.findall(rb'"([^"]*)"', again[1]) if again else []
        if names:
            self._note("late", [name.decode() for name in names])
        else:
            self._note("asked", asked)

    def next_deadline(self) -> float | None:
        """Wait for no time."""
        return None

    def tick(self, now: float) -> Sequence[Action]:
        """Do nothing."""
        return []
