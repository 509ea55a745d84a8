"""YAML files that people write: found by name or path, read as they mean it, and written back.

PyYAML follows YAML 1.1, in which 1:30 is ninety, 1e-3 is text, and yes is true. What is read here has 1.2's numbers and
booleans, and no key twice.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

_BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float"))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers = {
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
    """The content of a YAML document. Raises `ValueError` that says what is wrong with it."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None


def shipped(folder: str) -> dict[str, Path]:
    """The files of a folder of `stackelgrid.scenarios`, which come with the package, by name."""
    there = Path(str(resources.files("stackelgrid.scenarios"))) / folder
    return {path.stem: path for path in sorted(there.glob("*.yaml"))}


def find(source: str, known: Mapping[str, Path], what: str) -> Path:
    """The file of a name that is `known`, or at a path. Raises `ValueError`; `what` it is to be is part of that."""
    if source in known:
        return known[source]
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"{source}: no such file, and no shipped {what}; those are {', '.join(known)}")
    return path


def read(path: Path, what: str) -> dict[str, Any]:
    """The keys of a file. Raises `ValueError` with path and mistake; `what` it is to be is part of that."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); name a file that you may read") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; a {what} is YAML in UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a {what} is a mapping of keys; this is {_named(content)}")
    return content


def _named(content: Any) -> str:
    """What a YAML document is that is no mapping."""
    if content is None:
        return "an empty file"
    return "a list" if isinstance(content, list) else "a single value"


def dump(model: BaseModel) -> str:
    """A model as YAML, every value spelled out."""
    content = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
