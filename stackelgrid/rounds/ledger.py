"""Write finished rounds down and read them back, so that a coordinator that was killed can go on.

Strategies are deterministic: given the same rounds in the same order, a new one comes to the same next question.
So a ledger holds the answers that came in, and nothing that was computed from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from stackelgrid.rounds.coordinator import Round
from stackelgrid.rounds.strategy import Question
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.messages import Body

Entry = Mapping[str, Any]
"""One entry, ready for JSON. A node may add keys of its own to those of a round."""


class Ledger(Protocol):
    """Entries in the order in which they were appended, those from before a restart included."""

    def __iter__(self) -> Iterator[Entry]:
        """Iterate from the first entry on."""

    def append(self, entry: Entry) -> None:
        """Store an entry for good: once this returns, `kill -9` does not lose it, unless the disk did not take it."""

    def clear(self) -> None:
        """Drop the entries so far. On disk they stay until the next is appended, so that no kill leaves none."""


def dump_round(finished: Round) -> dict[str, Any]:
    """Write a finished round as an entry."""
    return {
        "number": finished.number,
        "question": _dump_question(finished.body),
        "answers": {name: body.model_dump(mode="json") for name, body in finished.answers.items()},
        "held": list(finished.held),
        "excluded": list(finished.excluded),
        "quarantined": dict(finished.quarantined),
    }


def load_round(entry: Entry, bodies: Bodies) -> Round:
    """Read a round back from its entry. Its times are not in the entry and come back as 0."""
    answers = {name: bodies.answer.model_validate(body) for name, body in entry["answers"].items()}
    question = _load_question(entry["question"], bodies.signal)
    held, excluded, quarantined = tuple(entry["held"]), tuple(entry["excluded"]), entry.get("quarantined", {})
    return Round(entry["number"], question, answers, held, excluded, 0, 0.0, 0.0, quarantined)


def _dump_question(question: Question) -> dict[str, Any]:
    """Write a question, the same for all members or one for each, as a part of an entry."""
    if isinstance(question, Body):
        return {"all": question.model_dump(mode="json")}
    return {"each": {name: body.model_dump(mode="json") for name, body in question.items()}}


def _load_question(content: Mapping[str, Any], model: type[Body]) -> Question:
    """Read back what `_dump_question` has written."""
    if "all" in content:
        return model.model_validate(content["all"])
    return {name: model.model_validate(body) for name, body in content["each"].items()}
