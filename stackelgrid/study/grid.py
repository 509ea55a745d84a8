"""The grid of a sweep, from `--over KEY.PATH=A:B:STEP` and `--over KEY.PATH=V1,V2,V3`."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from decimal import Decimal

from stackelgrid.errors import ConfigError

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LARGEST = 100_000
"""Points of a grid; more are a typing error."""

_MOST_DIGITS = 300


class GridError(ConfigError):
    """A grid that cannot be read; the message names the option, its value and the mend."""


@dataclass(frozen=True)
class Axis:
    """A parameter and its values, written as `--set` reads them."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """The cartesian product of axes; the last one changes fastest."""

    axes: tuple[Axis, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The parameters."""
        return tuple(axis.key for axis in self.axes)

    @property
    def points(self) -> list[tuple[str, ...]]:
        """The points, each a value per parameter."""
        return list(itertools.product(*(axis.values for axis in self.axes)))

    def overrides(self, point: tuple[str, ...]) -> list[str]:
        """Write a point as `KEY.PATH=VALUE`, to be put over a scenario."""
        return [f"{key}={value}" for key, value in zip(self.keys, point, strict=True)]


def parse(words: list[str]) -> Grid:
    """Read the grid from the `--over` options, in their order. Raises `GridError`."""
    axes = tuple(_parse_axis(word) for word in words)
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise GridError(f"--over {key}: given {keys.count(key)} times; name all its values in one --over")
    points = math.prod(len(axis.values) for axis in axes)
    if points > _LARGEST:
        raise GridError(f"--over: {points} points are more than {_LARGEST}; widen a step")
    return Grid(axes)


def _parse_axis(word: str) -> Axis:
    key, equals, text = (part.strip() for part in word.partition("="))
    if not (key and equals and text):
        raise GridError(
            f"--over {word}: write KEY.PATH=A:B:STEP or KEY.PATH=V1,V2,V3, as in --over leader.mu=0.2:2:0.2"
        )
    if re.fullmatch(f"{_NUMBER}:{_NUMBER}", text):
        raise GridError(f"--over {word}: the step is missing; write {key}={text}:STEP")
    span = re.fullmatch(f"({_NUMBER}):({_NUMBER}):({_NUMBER})", text)
    try:
        values = _list_range(word, *map(Decimal, span.groups())) if span else _split(text)
    except ArithmeticError:
        raise GridError(f"--over {word}: a number is too large or too small; correct it") from None
    seen: set[str] = set()
    for value in values:
        if not value:
            raise GridError(f"--over {word}: a value is missing between two commas")
        if value in seen:
            raise GridError(f"--over {word}: {value} is there twice; name it once")
        seen.add(value)
    return Axis(key, tuple(values))


def _list_range(word: str, first: Decimal, last: Decimal, step: Decimal) -> list[str]:
    """List first, first + step, ... up to and including last; in decimals, so that 0.2:2:0.2 ends with 2."""
    if any(abs(number.adjusted()) > _MOST_DIGITS for number in (first, last, step)):
        raise ArithmeticError  # each value would be written with as many digits
    if step == 0 or (last > first and step < 0) or (last < first and step > 0):
        raise GridError(f"--over {word}: steps of {step} do not lead from {first} to {last}; change its sign or size")
    count = (last - first) / step
    if count >= _LARGEST:
        raise GridError(f"--over {word}: these are more than {_LARGEST} values; widen the step")
    steps = int(count)
    return [_format(first + number * step) for number in range(steps + 1)]


def _format(number: Decimal) -> str:
    """Write a number without an exponent, which YAML would not take for a number, and without zeros at the end."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _split(text: str) -> list[str]:
    """Split a list at the commas that are inside no brackets, braces or quotes."""
    parts = re.findall(r"""((?:"[^"]*"|'[^']*'|\[[^\]]*\]|\{[^}]*\}|[^,])*)(?:,|$)""", text)
    # The pattern also matches the empty string after a last part that no comma follows.
    return [part.strip() for part in (parts if text.endswith(",") else parts[:-1])]
