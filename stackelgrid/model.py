"""Models of what is read from files: their base, the numbers that they hold, and messages for what they refuse."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from stackelgrid.spelling import list_keys, suggest

LARGEST = 1e9
"""The largest number of a scenario or configuration: sums over many homes, and products, then stay finite."""
SMALLEST = 1e-9
"""The smallest number above zero, by which others can be divided."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=SMALLEST, le=LARGEST, allow_inf_nan=False)]
PER_SLOT = "per slot"
"""The mark of a field whose list, where it has one, holds a number per slot."""
PerSlot = Annotated[NonNegative | list[NonNegative], PER_SLOT]
"""A number for all slots, or one per slot."""
PositivePerSlot = Annotated[Positive | list[Positive], PER_SLOT]
NumberPerSlot = Annotated[list[NonNegative], PER_SLOT]
"""One number per slot."""


RUN_NEWER = "run that version, or restore a copy of before"
"""The mend for a file that a later version of Stackelgrid has written."""


def refuse_newer(schema: object) -> object:
    """Raise `ValueError` for the schema version of a file that a later version of Stackelgrid has written."""
    if isinstance(schema, int) and schema > 1:
        raise ValueError(
            f"{schema} is of a newer version of Stackelgrid; run that version, or restore a copy of before"
        )
    return schema


SchemaVersion = Annotated[Literal[1], BeforeValidator(refuse_newer), Field(alias="schema")]
"""The version of the form of a file that outlives an upgrade."""


class StrictModel(BaseModel):
    """A model that refuses unknown keys and whose values cannot change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def change(self, **values: Any) -> Self:
        """Give a copy with other values, unchecked, and without what was computed of those before."""
        changed = self.model_copy(update=values)
        for name in changed.__dict__.keys() - type(self).model_fields.keys():
            del changed.__dict__[name]
        return changed


_UNKNOWN_KEY = "unknown key; remove it or correct its spelling"
_WANTED = {
    "missing": "missing; add it",
    "union_tag_not_found": "missing; add it",
    "extra_forbidden": _UNKNOWN_KEY,
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
    "invalid_key": _UNKNOWN_KEY,
}
_ABOVE_ZERO = f"greater than or equal to {SMALLEST:.9f}"
_OF_A_KIND = {"union_tag_invalid", "union_tag_not_found"}
"""A mapping whose `kind` is none of those that there are, or is missing."""
_MAPPINGS = {"dict_type", "model_type", "model_attributes_type"}
_NUMBERS = {"float_type", "float_parsing", "int_type", "int_parsing", "int_from_float"}
_OF_ANOTHER_KIND = {"float_type", "float_parsing", "int_type", "int_parsing", "list_type", "model_type", "dict_type"}
_COMMA = re.compile(r"[-+]?\d+,\d+")
_SHOULD = re.compile(r"^(Input|String|List|Tuple|Dictionary) should")
_KEY_AND_VALUE = re.compile(r"\w+:\S+")
_MEMBER_OF_A_UNION = re.compile(r"constrained-|float$|int$|str$|list\[|dict\[|function-|is-instance")
_FEW = 3
"""The number of mistakes of one kind in one list that have a line each."""
_MOST_LINES = 10
_LONGEST_VALUE = 80


def explain(
    source: str | Callable[[str], str],
    error: ValidationError,
    content: object = None,
    model: type[BaseModel] | None = None,
) -> str:
    """Write one line per mistake: file, key, what is wrong and what is wanted, the value found.

    `source` names the file, or finds for a key where it stands: "mine.yaml, line 3". With the `content` that was
    refused, keys are as they stand there, without the kinds that pydantic puts between. With the `model` that refused
    it, an unknown key comes with the one that was probably meant.
    """
    locate = source if callable(source) else lambda _: source
    mistakes = list_mistakes(error, content, model)
    return "\n".join(f"{locate(key)}: {key or '(whole file)'}: {message}" for key, message in mistakes)


def list_mistakes(
    error: ValidationError, content: object = None, model: type[BaseModel] | None = None
) -> list[tuple[str, str]]:
    """List the keys that are wrong, each with what is wrong and what is wanted, as `explain` writes them."""
    mistakes = [_Mistake.of(found, content) for found in error.errors(include_url=False)]
    explained = {above for mistake in mistakes if not mistake.other_kind for above in mistake.list_keys_above()}
    lines: dict[tuple[str, str], None] = {}
    alike: Counter[tuple[str, str]] = Counter()
    for mistake in mistakes:
        if mistake.other_kind and mistake.key in explained:
            continue
        above, _, last = mistake.key.rpartition(".")
        if last.isdigit():
            alike[above, mistake.message] += 1
            if alike[above, mistake.message] > _FEW:
                continue
        lines[mistake.key, mistake.message] = None
    told = [*lines, *((key, f"and {count - _FEW} more like it") for (key, _), count in alike.items() if count > _FEW)]
    if len(told) > _MOST_LINES:
        told[_MOST_LINES - 1 :] = [("", f"and {len(told) - _MOST_LINES + 1} more mistakes")]
    return told if model is None else [(key, _correct(key, message, content, model)) for key, message in told]


def _correct(key: str, message: str, content: object, model: type[BaseModel]) -> str:
    """Put into the message of an unknown key the one that was probably meant."""
    if not message.startswith(_UNKNOWN_KEY):
        return message
    *above, last = key.split(".")
    meant = suggest(last, list_keys(model, above, content))
    return message if meant is None else message.replace(_UNKNOWN_KEY, f"unknown key; {meant}", 1)


@dataclass(frozen=True)
class _Mistake:
    """A mistake at `key`; one of `other_kind` says only that a value might have been of another kind."""

    key: str
    message: str
    other_kind: bool

    @classmethod
    def of(cls, found: ErrorDetails, content: object) -> _Mistake:
        """Read a mistake that pydantic found."""
        loc = _without_kinds(found["loc"], content)
        steps = [step for step in loc if not (isinstance(step, str) and _MEMBER_OF_A_UNION.match(step))]
        in_a_union = len(steps) < len(loc)
        kind, context = found["type"], found.get("ctx", {})
        if kind in _OF_A_KIND:
            steps.append("kind")
        if kind == "union_tag_invalid":
            *others, last = context["expected_tags"].split(", ")
            wanted = f"It must be {', '.join(others)} or {last} (found {context['tag']!r})"
            return cls(".".join(map(str, steps)), wanted, other_kind=False)
        shown = _show(found["input"])
        value = f" (found {shown})" if shown and kind not in ("missing", "union_tag_not_found") else ""
        said = found["msg"].replace(_ABOVE_ZERO, "greater than 0")
        message = _WANTED.get(kind, _SHOULD.sub("It must", said.removeprefix("Value error, ")))
        if in_a_union and kind in _OF_ANOTHER_KIND:
            message = "give a number, or a list of numbers, one per slot"
        return cls(
            ".".join(map(str, steps)),
            message + _find_slip(kind, found["input"]) + value,
            in_a_union and kind in _OF_ANOTHER_KIND,
        )

    def list_keys_above(self) -> list[str]:
        """List its key and those around it."""
        steps = self.key.split(".")
        return [".".join(steps[:count]) for count in range(len(steps) + 1)]


def _without_kinds(loc: tuple[int | str, ...], content: object) -> list[int | str]:
    """Leave out of pydantic's `loc` the `kind` of a mapping in `content`, which is a step there and no key."""
    steps: list[int | str] = []
    for step in loc:
        if isinstance(content, Mapping) and step == content.get("kind") and step not in content:
            continue
        steps.append(step)
        try:
            content = content[step]  # type: ignore[index]
        except (TypeError, LookupError):
            content = None
    return steps


def _show(value: object) -> str:
    """Write a value, a long text or number by its beginning; empty for a list or mapping too long to show."""
    if isinstance(value, dict | list) and len(value) > _LONGEST_VALUE // 2:
        return ""
    if isinstance(value, int) and value.bit_length() > _LONGEST_VALUE * 3:
        return f"a number of about {value.bit_length() * 3 // 10} digits"
    shown = repr(value)
    if len(shown) <= _LONGEST_VALUE:
        return shown
    return "" if isinstance(value, dict | list) else shown[:_LONGEST_VALUE] + "…"


def _find_slip(kind: str, value: object) -> str:
    """Describe the slip that made a text of a number or of a mapping; empty where none is known."""
    if kind in _NUMBERS and isinstance(value, str) and _COMMA.fullmatch(value):
        return " with a point before its decimals, and nothing between thousands"
    if kind in _MAPPINGS and isinstance(value, str) and _KEY_AND_VALUE.fullmatch(value):
        return "; put a space after the colon"
    return ""
