"""The rounds of a leader as its messages tell them, for who has no desk with the leader's journal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stackelgrid.wire.messages import Answer, Body, Message, Settlement, Signal

_SUMMED = ("load_kw", "pv_kw", "dr_kw")
"""The keys of a round that add up from those of the same names in its answers."""


class HeardRounds:
    """Puts questions and answers together to rounds, with the keys of rounds.jsonl that can be known from outside."""

    def __init__(self) -> None:
        self._question: Signal[Any] | None = None
        self._asked_at = 0.0
        self._again = 0
        self._answers: dict[str, Body] = {}

    def receive(self, message: Message, now: float) -> Iterator[dict[str, Any]]:
        """Take in a message between the leader and its aggregators; give the round that it ends, if any."""
        asked = 0 if self._question is None else self._question.round
        match message:
            case Signal() if message.round > asked:
                yield from self._end(now)
                self._question, self._asked_at, self._again, self._answers = message, now, 0, {}
            case Signal() if message.round == asked:
                self._again += len(message.again)
            case Answer() if message.round == asked:
                self._answers[message.sender] = message.body
            case Settlement():
                yield from self._end(now)
                self._answers = {}

    def _end(self, now: float) -> Iterator[dict[str, Any]]:
        if self._question is None or not self._answers:
            return
        price = getattr(self._question.body, "price", None)
        sums = {
            key: np.sum([getattr(body, key) for body in self._answers.values()], axis=0).tolist()
            for key in _SUMMED
            if all(isinstance(getattr(body, key, None), list) for body in self._answers.values())
        }
        yield {
            "round": self._question.round,
            "session": self._question.session,
            **({"price": price} if isinstance(price, list) else {}),
            **sums,
            "residual": None,
            "answered": len(self._answers),
            "again": self._again,
            "ms": round(1000 * (now - self._asked_at), 3),
        }
