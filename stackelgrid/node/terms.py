"""The terms of what a node keeps: what its answers depend on, compared with those of the configuration of today."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe in what two configurations differ, empty where in nothing: a key with its values, and how many more.

    A key that one of them does not have is the same as null: a later version has keys that an earlier one did not know.
    The digest of the scenario alone says only that something is different at other nodes.
    """
    old, new = _flatten(before), _flatten(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if not keys:
        return ""
    if keys == ["scenario"]:
        return "settings of other nodes have changed"
    first, *more = [key for key in keys if key != "scenario"]
    also = f", and {len(more)} more values have changed" if more else ""
    return f"{first} was {_shorten(old.get(first))} and is {_shorten(new.get(first))}{also}"


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    """List the values in a tree of JSON by their paths."""
    if isinstance(value, Mapping) and value:
        parts = {f"{path}.{key}" if path else key: part for key, part in value.items()}
    elif isinstance(value, list) and value:
        parts = {f"{path}.{number}": part for number, part in enumerate(value)}
    else:
        return {path: value}
    return {key: found for name, part in parts.items() for key, found in _flatten(part, name).items()}


def _shorten(value: Any) -> str:
    return "not given" if value is None else json.dumps(value)[:40]
