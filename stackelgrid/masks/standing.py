"""The answers that stand in the sums of a session: which one of each home, and that none of them goes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from stackelgrid.masks.form import Shape


class Standing(NamedTuple):
    """The answer of a home that stands in a sum: its round, its boot, and the question by digest and shape."""

    round: int
    boot: str
    question: str
    shape: Shape


class StandingAnswers:
    """What stood in the last list of each home. `memory` is what `remember` gave before a restart."""

    def __init__(self, memory: Mapping[str, Any] | None = None) -> None:
        memory = memory or {"standing": {}, "replaced": {}}
        self._standing = {
            home: Standing(number, boot, question, tuple(shape))
            for home, (number, boot, question, shape) in memory["standing"].items()
        }
        self._replaced = {home: set(boots) for home, boots in memory["replaced"].items()}

    def remember(self) -> dict[str, Any]:
        """Give what a restart must not lose, as JSON."""
        return {
            "standing": {home: [*of[:3], list(of.shape)] for home, of in self._standing.items()},
            "replaced": {home: sorted(boots) for home, boots in self._replaced.items()},
        }

    def begin_session(self) -> None:
        """Go on to a session: its answers are others. Boots that were replaced stay so."""
        for home, before in self._standing.items():
            self._standing[home] = before._replace(round=0)

    def find_objection(self, home: str, standing: Standing) -> str | None:
        """Give the reason why an answer may not stand in a list after the last one, or None."""
        before = self._standing.get(home)
        if standing.boot in self._replaced.get(home, ()):
            return f"the answer of {home} is of a boot that was replaced"
        if before is not None and standing.round < before.round:
            return f"the answer of {home} is of round {standing.round}, after one of round {before.round}"
        if before is not None and standing.round == before.round and standing != before:
            return f"a second answer of {home} to round {standing.round}"
        return None

    def replace(self, standing: Mapping[str, Standing]) -> None:
        """Take over the answers of a list."""
        for home, now in standing.items():
            before = self._standing.get(home)
            if before is not None and before.boot != now.boot:
                self._replaced.setdefault(home, set()).add(before.boot)
        self._standing |= standing
