"""The state of each node of a run that is on, as it shows from outside: by the messages on the broker."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from stackelgrid.scenarios.topology import LEADER
from stackelgrid.transport.base import Action, Publish
from stackelgrid.wire.codec import ROOT

_HIDING = ("offline", "crashed", "left", "quarantined")
"""The states of a node of which the broker has nothing to say."""
_AGAIN = re.compile(rb'"again":\[([^\]]*)\]')


class NodeStates:
    """The state of each node. Changes are gathered until `flush` gives `write` each new state with its nodes.

    Threads may note states while others do.
    """

    def __init__(self, write: Callable[[str, list[str]], None]) -> None:
        self._write = write
        self._states: dict[str, str] = {}
        self._changed: dict[str, None] = {}
        self._lock = threading.Lock()

    def note(self, state: str, names: Iterable[str]) -> None:
        """Note the state of nodes. One that is away does not hear a question; one that has settled may leave."""
        with self._lock:
            for name in names:
                before = self._states.get(name)
                hidden = (state, before) == ("left", "settled") or (
                    before in _HIDING and state in ("asked", "late", "offline")
                )
                if state != before and not hidden:
                    self._states[name] = state
                    self._changed[name] = None

    def flush(self) -> None:
        """Write the states that have changed since the last time."""
        with self._lock:
            by_state: defaultdict[str, list[str]] = defaultdict(list)
            for name in self._changed:
                by_state[self._states[name]].append(name)
            self._changed.clear()
            for state, names in by_state.items():
                self._write(state, names)


class Observer:
    """A client of the broker that receives all messages of a run, sends none, and notes what they say of the nodes.

    `members` has those of each coordinator.
    """

    name = "observer"
    last_will: Publish | None = None

    def __init__(self, run: str, members: Mapping[str, Sequence[str]], states: NodeStates) -> None:
        self.subscriptions = (f"{ROOT}/{run}/#",)
        self._members, self._states = members, states

    def start(self, now: float) -> Sequence[Action]:
        """Wait for messages."""
        return []

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Note what a message says; its body is not read."""
        match topic.split("/")[2:]:
            case [coordinator, "signal"] if payload:
                self._note_signal(payload, self._members.get(coordinator, ()))
            case [_, member, "signal"] if payload:
                self._note_signal(payload, [member])
            case [coordinator, *_, "settlement"] if coordinator == LEADER:
                self._states.note("settled", [LEADER])
            case [_, member, "answer"]:
                self._states.note("answered", [member])
            case [_, member, "receipt"]:
                self._states.note("settled", [member])
            case [_, member, "presence"]:
                state = "left" if not payload else "offline" if b'"offline"' in payload else "online"
                self._states.note(state, [member])
        return []

    def _note_signal(self, payload: bytes, asked: Sequence[str]) -> None:
        header, _, _ = payload.partition(b'"body"')
        again = _AGAIN.search(header)
        names = re.findall(rb'"([^"]*)"', again[1]) if again else []
        if names:
            self._states.note("late", [name.decode() for name in names])
        else:
            self._states.note("asked", asked)

    def next_deadline(self) -> float | None:
        """Wait for no time."""
        return None

    def tick(self, now: float) -> Sequence[Action]:
        """Do nothing."""
        return []
