"""What a coordinator has to remember to go on after it was killed: every finished round, as it was.

Strategies are deterministic: fed the same rounds in the same order, one that starts anew comes to the same question.
So a ledger holds what came in, not what was made of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from stackelgrid.rounds.coordinator import Round
from stackelgrid.rounds.strategy import Question
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.messages import Body

Entry = Mapping[str, Any]
"""JSON-able; what it holds besides a round is the node's business."""


class Ledger(Protocol):
    """Entries in the order in which they were made, those of before a restart included."""

    def __iter__(self) -> Iterator[Entry]:
        """From the first entry on."""

    def append(self, entry: Entry) -> None:
        """Keep an entry, come what may: when this returns, `kill -9` does not lose it."""


def entered(finished: Round) -> dict[str, Any]:
    """A finished round as an entry."""
    return {
        "number": finished.number,
        "said": said(finished.body),
        "answers": {name: body.model_dump(mode="json") for name, body in finished.answers.items()},
        "held": list(finished.held),
        "excluded": list(finished.excluded),
    }


def read(entry: Entry, bodies: Bodies) -> Round:
    """The round of an entry. How long it took is forgotten."""
    answers = {name: bodies.answer.model_validate(body) for name, body in entry["answers"].items()}
    body = note_contact(entry["said"], bodies.signal)
    return Round(entry["number"], body, answers, tuple(entry["held"]), tuple(entry["excluded"]), 0, 0.0, 0.0)


def said(body: Question) -> dict[str, Any]:
    """What was said, to all or to each, as part of an entry."""
    if isinstance(body, Body):
        return {"all": body.model_dump(mode="json")}
    return {"each": {name: each.model_dump(mode="json") for name, each in body.items()}}


def note_contact(content: Mapping[str, Any], model: type[Body]) -> Question:
    """The opposite of `said`."""
    if "all" in content:
        return model.model_validate(content["all"])
    return {name: model.model_validate(each) for name, each in content["each"].items()}
