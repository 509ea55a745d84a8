"""Add file, row and column to what a game's model refuses in a number that came from a column."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from stackelgrid.scenarios.measured.data_file import FromColumn


def with_origins(error: ValidationError, content: Mapping[str, Any]) -> ValidationError:
    """Rewrite the mistakes in a scenario's `content`, as `spell_out` made it, with file, row and column.

    Of the numbers of a column that are refused, the first is reported. A mistake elsewhere stays as it is.
    """
    mistakes = [(mistake, _Place.of(mistake["loc"], content)) for mistake in error.errors(include_url=False)]
    slots: dict[tuple[int | str, ...], list[int]] = {}
    for _, place in mistakes:
        if place.slot is not None:
            slots.setdefault(place.path, []).append(place.slot)
    rewritten = [
        _rewrite(mistake, place, len(slots.get(place.path, [])))
        for mistake, place in mistakes
        if place.slot is None or place.slot == slots[place.path][0]
    ]
    return ValidationError.from_exception_data(error.title, rewritten)


def _rewrite(mistake: ErrorDetails, place: _Place, slots: int) -> InitErrorDetails:
    """Rewrite a mistake at its place; `slots` is the number of its column's numbers that are refused."""
    kind, message, where = mistake["type"], mistake["msg"], mistake["loc"]
    if place.column is not None and place.slot is not None:
        others = f", one of {slots} such {place.column.word}s" if slots > 1 else ""
        message = message.removeprefix("Value error, ").replace("Input should", "the number must", 1)
        message = f"{place.column.origin(place.slot)}{others}: {message}; correct the file, or write numbers"
        kind, where = "from_column", place.path
    elif place.column is not None and kind.endswith("_type") and where == place.path:
        kind = "from_column"
        message = "this key takes a single value, a column gives one per slot; write the value"
    context = mistake["ctx"] if kind == "union_tag_invalid" else None
    return InitErrorDetails(type=PydanticCustomError(kind, message, context), loc=where, input=mistake["input"])


@dataclass(frozen=True)
class _Place:
    """The place of a mistake in a scenario: the `path` to a key and, if that has a `column`, the `slot` in it."""

    path: tuple[int | str, ...]
    column: FromColumn | None = None
    slot: int | None = None

    @classmethod
    def of(cls, loc: Sequence[int | str], content: Any) -> _Place:
        """Find it by pydantic's `loc`, of which some steps are alternatives of a union and not in the content."""
        path: list[int | str] = []
        for step in loc:
            if isinstance(content, FromColumn) and isinstance(step, int):
                return cls(tuple(path), content, step)
            keys: Container[object] = range(len(content)) if isinstance(content, list) else ()
            if step in (content if isinstance(content, dict) else keys):
                content = content[step]
                path.append(step)
        return cls(tuple(path), content if isinstance(content, FromColumn) else None)
