"""What a misspelt name was probably to be: the nearest of the names that there are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

_LONGEST = 80
"""Characters of a name that is compared with others, which takes their square."""


def suggest(name: str, known: Collection[str]) -> str | None:
    """Ask whether the nearest of the `known` names was meant; None where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, 1) if len(name) <= _LONGEST else []
    return f"did you mean {near[0]}?" if near else None


def list_keys(model: type[BaseModel], path: Sequence[str], content: object) -> list[str]:
    """List the keys that a mapping at `path` may have, in the `content` of a file that `model` reads.

    Of models that are told apart by their `kind`, the one of the kind that the mapping has is meant.
    """
    types: list[Any] = [model]
    for step in path:
        types = [inner for each in types for inner in _enter(each, step)]
        content = _get_item(content, step)
    kind = content.get("kind") if isinstance(content, dict) else None
    models = [each for each in types if _is_model(each)]
    of_kind = [each for each in models if kind is not None and kind in _list_kinds(each)]
    return [field.alias or name for each in of_kind or models for name, field in each.model_fields.items()]


def _enter(annotation: Any, step: str) -> Iterator[Any]:
    """List the types that a value of this type may have at `step`: a field, an item's number, or a name."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if _is_model(annotation):
        fields = annotation.model_fields.items()
        yield from (each for name, field in fields if step in (name, field.alias) for each in _split(field.annotation))
    elif origin in (dict, Mapping):
        yield from _split(inner[1])
    elif origin in (list, tuple, Sequence) and step.isdecimal():
        yield from (each for item in inner for each in _split(item))


def _split(annotation: Any) -> Iterator[Any]:
    """List the types of a union, without what pydantic is told of them."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _split(inner[0])
    elif origin in (Union, UnionType):
        yield from (each for member in inner for each in _split(member))
    else:
        yield annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _list_kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def _get_item(content: object, step: str) -> object:
    if isinstance(content, list) and step.isdecimal() and int(step) < len(content):
        return content[int(step)]
    return content.get(step) if isinstance(content, dict) else None
