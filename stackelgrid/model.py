"""Models of what is read from files: their base, the numbers that they hold, and messages for what they refuse."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PerSlot = NonNegative | list[NonNegative]
"""A number for all slots, or one per slot."""
PositivePerSlot = Positive | list[Positive]


class StrictModel(BaseModel):
    """A model that refuses unknown keys and whose values cannot change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_WANTED = {
    "missing": "missing; add it",
    "extra_forbidden": "unknown key; remove it or correct its spelling",
    "list_type": "give a list",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "string_type": "give a text",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "dict_type": "give a mapping of keys",
    "model_type": "give a mapping of keys",
    "model_attributes_type": "give a mapping of keys",
    "finite_number": "give a finite number",
}
_OF_ANOTHER_KIND = {"float_type", "float_parsing", "int_type", "int_parsing", "list_type", "model_type", "dict_type"}
_MEMBER_OF_A_UNION = re.compile(r"constrained-|float$|int$|str$|list\[|dict\[|function-|is-instance")
_FEW = 3
"""The number of mistakes of one kind in one list that have a line each."""


def explain(source: str, error: ValidationError) -> str:
    """Write one line per mistake: file, key, what is wrong and what is wanted, the value found."""
    mistakes = [_Mistake.of(found) for found in error.errors(include_url=False)]
    lines: dict[str, None] = {}
    alike: Counter[tuple[str, str]] = Counter()
    for mistake in mistakes:
        if mistake.other_kind and any(mistake.is_explained_by(other) for other in mistakes):
            continue
        line = f"{source}: {mistake.key or '(whole file)'}: {mistake.message}"
        above, _, last = mistake.key.rpartition(".")
        if last.isdigit():
            alike[above, mistake.message] += 1
            if alike[above, mistake.message] > _FEW:
                continue
        lines[line] = None
    more = [f"{source}: {key}: and {count - _FEW} more like it" for (key, _), count in alike.items() if count > _FEW]
    return "\n".join([*lines, *more])


@dataclass(frozen=True)
class _Mistake:
    """A mistake at `key`; one of `other_kind` says only that a value might have been of another kind."""

    key: str
    message: str
    kind: str
    other_kind: bool

    @classmethod
    def of(cls, found: ErrorDetails) -> _Mistake:
        """Read a mistake that pydantic found."""
        steps = [step for step in found["loc"] if not (isinstance(step, str) and _MEMBER_OF_A_UNION.match(step))]
        in_a_union = len(steps) < len(found["loc"])
        kind, shown = found["type"], repr(found["input"])
        value = f" (found {shown})" if len(shown) <= 80 and kind != "missing" else ""
        message = _WANTED.get(kind, found["msg"].removeprefix("Value error, ").replace("Input should", "It must", 1))
        if in_a_union and kind in _OF_ANOTHER_KIND:
            message = "give a number, or a list of numbers, one per slot"
        return cls(".".join(map(str, steps)), message + value, kind, in_a_union and kind in _OF_ANOTHER_KIND)

    def is_explained_by(self, other: _Mistake) -> bool:
        """Say whether another mistake at the same place, or inside it, is the real one."""
        inside = other.key == self.key or other.key.startswith(f"{self.key}.")
        return inside and not other.other_kind
