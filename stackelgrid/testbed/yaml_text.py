"""YAML as people mean it: 1.2's numbers and booleans, and no key twice.

PyYAML follows YAML 1.1, in which 1:30 is ninety, 1e-3 is text, and yes is true.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float"))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag not in (_BOOL, _INT, _FLOAT)]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                where = f"line {key_node.start_mark.line + 1}"
                raise yaml.YAMLError(f"the key {key!r} is there twice, again in {where}; remove one")
            seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    (_BOOL, r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    (_INT, r"^[-+]?[0-9]+$", "-+0123456789"),
    (_FLOAT, r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    (_FLOAT, r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


def _whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor(_INT, _whole)


def parse(text: str) -> Any:
    """The content of a YAML document. Raises `yaml.YAMLError`, and `ValueError` for a date that does not exist."""
    return yaml.load(text, _Loader)
