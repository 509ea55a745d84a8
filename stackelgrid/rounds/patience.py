"""The wait of a coordinator for its members: short where the others were quick, and bounded over a whole run.

A slow member and a lossy link look the same from outside, and so does a member that is late on purpose. So nobody is
judged: a member that is missing is asked again soon, and the seconds that a run waits for one member are counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

_GROWTH = 1.5
"""The ratio of one wait until the missing are asked again to the one before."""
_SEARCHING = 2 / 3
"""The part of a member's patience that may be used up before rounds that confirm nothing stop to wait for it."""


@dataclass
class Wait:
    """The wait for answers to a question that was asked at `opened_at`.

    Once half of the `expected` members have answered, the others have as long again for nothing, until `free_until`.
    From then on `Patience` counts the seconds. The missing are asked again at `ask_at`, more and more rarely.
    `deadline` is the end of this try.
    """

    opened_at: float
    deadline: float
    expected: Collection[str]
    asked_at: float
    ask_at: float
    interval: float
    tries: int = 1
    answered: int = 0  # of the expected
    free_until: float = math.inf
    last_at: float = -math.inf  # when the latest answer came

    @property
    def counts_from(self) -> float:
        """Give the time from which a missing member's patience runs out; inf before half have answered."""
        return max(self.free_until, self.last_at)

    def ask_again(self, now: float) -> None:
        """Note that the missing are asked again, and when the next time is."""
        self.asked_at = now
        self.ask_at = now + self.interval
        self.interval *= _GROWTH


class Patience:
    """The seconds that a coordinator has waited for each member, of `limit_s` in a whole run.

    A member is charged from the answer before its own, and not before half of the members have answered twice over:
    the seconds by which it alone prolongs a round. They never come back, so that no pattern of prompt and late answers
    costs a run more than `limit_s`. `quickest_s` is the shortest wait before the missing are asked again.
    """

    def __init__(self, limit_s: float, quickest_s: float) -> None:
        self.limit_s = limit_s
        self.spent_s: defaultdict[str, float] = defaultdict(float)
        self._quickest_s = quickest_s
        self._pace_s = math.inf  # between a question and the answers of half of the members, when last asked

    def is_used_up(self, member: str, *, confirming: bool) -> bool:
        """Tell whether a round goes on without `member`; one that confirms a result waits longer than others."""
        return self.spent_s[member] >= self.limit_s * (1.0 if confirming else _SEARCHING)

    def forget(self, member: str) -> None:
        """Forget a member that has left for good."""
        self.spent_s.pop(member, None)

    def renew(self) -> None:
        """Count anew for everybody."""
        self.spent_s.clear()

    def open(self, now: float, deadline_s: float, expected: Collection[str]) -> Wait:
        """Begin to wait for the answers to a question."""
        first = 2 * self._pace_s
        return Wait(now, now + deadline_s, expected, now, now + first, _GROWTH * first)

    def note_answer(self, wait: Wait, member: str, now: float) -> None:
        """Note the answer of `member`, its first to this question."""
        self._charge(wait, member, now)
        wait.last_at = now
        wait.answered += member in wait.expected
        if wait.free_until == math.inf and 2 * wait.answered >= len(wait.expected):
            self._pace_s = max(now - wait.asked_at, self._quickest_s)
            wait.free_until = 2 * now - wait.opened_at
            wait.ask_at, wait.interval = now + self._pace_s, _GROWTH * self._pace_s

    def close(self, wait: Wait, missing: Collection[str], now: float) -> None:
        """End the wait without the `missing`."""
        for member in missing:
            self._charge(wait, member, now)

    def awaited_until(self, wait: Wait, member: str, *, late: bool) -> float:
        """Give the time until which a missing member is waited for; one that is `late` has no more than is free."""
        return wait.free_until if late else wait.counts_from + self.limit_s - self.spent_s[member]

    def _charge(self, wait: Wait, member: str, now: float) -> None:
        self.spent_s[member] += max(0.0, now - wait.counts_from)
