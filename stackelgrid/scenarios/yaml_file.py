"""YAML files that people write: find them by name or path, read them, and write them back.

They are YAML 1.2: 1e-3 is a number, yes and 1:30 are text. Two rules are stricter than its own: a number has decimal
digits only (0x1f and 1_000 are text), and a mapping that has a key twice is refused, also beside a merge key.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode
from ruamel.yaml.resolver import VersionedResolver

_MERGE = "tag:yaml.org,2002:merge"
_NOT_DECIMAL = re.compile(r"[-+]?0[box].*|[-+.0-9eE_]*_[-+.0-9eE_]*")


class _Resolver(VersionedResolver):
    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """Take as text what is no number in decimal digits."""
        if kind is ScalarNode and implicit[0] and _NOT_DECIMAL.fullmatch(value):
            return self.DEFAULT_SCALAR_TAG
        return super().resolve(kind, value, implicit)


class _Constructor(SafeConstructor):
    def flatten_mapping(self, node: Any) -> Any:
        """Refuse a key that is there twice, then put the keys of `<<` in. ruamel.yaml checks no mapping with a `<<`."""
        if getattr(node, "merge", None) is None:
            lines: dict[Any, int] = {}
            for key_node, _ in node.value:
                if isinstance(key_node, MappingNode):
                    raise ConstructorError(None, None, "a mapping cannot be a key", key_node.start_mark)
                key = "<<" if key_node.tag == _MERGE else self.construct_object(key_node, deep=True)
                key = tuple(key) if isinstance(key, list) else key
                if key in lines:
                    problem = f"the key {key!r} is there twice, first in line {lines[key]}; remove one"
                    raise ConstructorError(None, None, problem, key_node.start_mark)
                lines[key] = key_node.start_mark.line + 1
        super().flatten_mapping(node)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Refuse an alias inside the value that it stands for."""
        if node in self.recursive_objects:
            raise ConstructorError(None, None, "a value cannot contain itself", node.start_mark)
        return super().construct_object(node, deep=True)

    def construct_non_recursive_object(self, node: Any, tag: str | None = None) -> Any:
        """Say where a value stands that looks like a date, or a number, and is none."""
        try:
            return super().construct_non_recursive_object(node, tag)
        except ValueError as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from None


def parse(text: str) -> Any:
    """Read a YAML document. Raises `ValueError` with line, column and what is wrong there."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Constructor = _Resolver, _Constructor
    try:
        return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ValueError(where + ", ".join(filter(None, (error.context, error.problem)))) from None
    except YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("lists or mappings are nested too deeply") from None


def spell(content: Any) -> str:
    """Write mappings, lists and values as a YAML document that `parse` reads as the same."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # typed as None
    yaml.width = 120
    text = io.StringIO()
    yaml.dump(content, text)
    return text.getvalue()


def dump(model: BaseModel) -> str:
    """Write a model as YAML, every value spelled out."""
    return spell(model.model_dump(mode="json", by_alias=True, exclude_none=True))


def list_shipped(folder: str) -> dict[str, Path]:
    """List the files in a folder of `stackelgrid.scenarios`, which come with the package, by name."""
    path = Path(str(resources.files("stackelgrid.scenarios"))) / folder
    return {file.stem: file for file in sorted(path.glob("*.yaml"))}


def find(source: str, shipped: Mapping[str, Path], what: str) -> Path:
    """Find the file that is `shipped` under a name, or stands at a path.

    Raises `ValueError`, which says `what` the file was to be: "scenario".
    """
    if source in shipped:
        return shipped[source]
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"{source}: no such file, and no shipped {what}; those are {', '.join(shipped)}")
    return path


def read(path: Path, what: str) -> dict[str, Any]:
    """Read the keys of a file. Raises `ValueError` with path and mistake, which says `what` the file was to be."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); name a file that you may read") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; a {what} is YAML in UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        kind = {type(None): "an empty file", list: "a list"}.get(type(content), "a single value")
        raise ValueError(f"{path}: a {what} is a mapping of keys; this is {kind}")
    return content
