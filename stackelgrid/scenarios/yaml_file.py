"""YAML files that people write: find them by name or path, read them, and write them back.

They are YAML 1.2: 1e-3 is a number, yes and 1:30 are text. Some rules are stricter than its own: a number has decimal
digits only (0x1f and 1_000 are text), a mapping that has a key twice is refused, also beside a merge key, and so are
keys that are no single value, values nested deeper than a hundred levels, and aliases that multiply to more than a
million values.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.scanner import Scanner, ScannerError

from stackelgrid.spelling import suggest
from stackelgrid.text_file import check_content, read_text

_MERGE = "tag:yaml.org,2002:merge"
_NOT_DECIMAL = re.compile(r"[-+]?0[box].*|[-+.0-9eE_]*_[-+.0-9eE_]*")
_NUMBER = re.compile(r"[-+]?[0-9]+")
_KEY_AND_VALUE = re.compile(r"[A-Za-z_]\w*:[^\s:]\S*")
_LONGEST_NUMBER = 300
_LONGEST_TAG = 1000
_MOST_LEVELS = 100
_MOST_VALUES = 1_000_000
_NO_SPACE = "{!r} is no key with its value; put a space after the colon"
_TOO_DEEP = f"lists or mappings are nested deeper than {_MOST_LEVELS} levels"


class _Resolver(VersionedResolver):
    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """Take as text what is no number in decimal digits, or longer than any number: a model then names its key."""
        if kind is ScalarNode and implicit[0] and (len(value) > _LONGEST_NUMBER or _NOT_DECIMAL.fullmatch(value)):
            return self.DEFAULT_SCALAR_TAG
        return super().resolve(kind, value, implicit)


class _Scanner(Scanner):
    def fetch_flow_collection_start(self, TokenClass: Any, to_push: Any) -> None:
        """Refuse too many open brackets before looking for those that close them, which takes their number squared."""
        if self.flow_level > _MOST_LEVELS:
            raise ScannerError(None, None, _TOO_DEEP, self.reader.get_mark())
        super().fetch_flow_collection_start(TokenClass, to_push)

    def scan_tag_uri(self, name: Any, start_mark: Any) -> Any:
        """Refuse a long tag before its escapes are read, which takes its length squared."""
        uri = super().scan_tag_uri(name, start_mark)
        if len(uri) > _LONGEST_TAG:
            raise ScannerError(None, None, f"a tag of {len(uri)} characters", start_mark)
        return uri


class _Composer(Composer):
    _level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse what is nested too deeply before all of it is read."""
        if self._level > _MOST_LEVELS:
            raise ComposerError(None, None, _TOO_DEEP, self.parser.peek_event().start_mark)
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        return node


class _Constructor(SafeConstructor):
    def construct_document(self, node: Any) -> Any:
        """Refuse aliases that lead into themselves, too deep, or to too many values."""
        _count_values(node, {})
        return super().construct_document(node)

    def flatten_mapping(self, node: Any) -> Any:
        """Refuse a key that is there twice, then put the keys of `<<` in. ruamel.yaml checks no mapping with a `<<`."""
        if getattr(node, "merge", None) is None:
            lines: dict[Any, int] = {}
            _refuse_slips(node)
            for key_node, _ in node.value:
                if not isinstance(key_node, ScalarNode):
                    kind = "mapping" if isinstance(key_node, MappingNode) else "list"
                    raise ConstructorError(None, None, f"a {kind} cannot be a key", key_node.start_mark)
                key = "<<" if key_node.tag == _MERGE else self.construct_object(key_node, deep=True)
                if key in lines:
                    problem = f"the key {key!r} is there twice, first in line {lines[key]}; remove one"
                    raise ConstructorError(None, None, problem, key_node.start_mark)
                lines[key] = key_node.start_mark.line + 1
        super().flatten_mapping(node)

    def construct_non_recursive_object(self, node: Any, tag: str | None = None) -> Any:
        """Say where a value stands that looks like a date, or a number, and is none."""
        try:
            return super().construct_non_recursive_object(node, tag)
        except ValueError as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from None


def _list_inside(node: Node) -> Iterator[Node]:
    """List the nodes right below `node`."""
    if isinstance(node, SequenceNode):
        yield from node.value
    elif isinstance(node, MappingNode):
        yield from itertools.chain.from_iterable(node.value)


def _count_values(node: Node, counted: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Count the values in `node`, each alias for what it stands for, and its levels. `counted` has those done before.

    Raises `ConstructorError` where there are too many, or a value contains itself.
    """
    if id(node) in counted:
        done = counted[id(node)]
        if done is None:
            raise ConstructorError(None, None, "a value cannot contain itself", node.start_mark)
        return done
    counted[id(node)] = None
    inside = [_count_values(each, counted) for each in _list_inside(node)]
    values, levels = 1 + sum(each[0] for each in inside), 1 + max((each[1] for each in inside), default=0)
    if values > _MOST_VALUES:
        raise ConstructorError(None, None, f"aliases make more than {_MOST_VALUES:,} values of it", node.start_mark)
    if levels > _MOST_LEVELS + 1:
        raise ConstructorError(None, None, _TOO_DEEP, node.start_mark)
    counted[id(node)] = values, levels
    return values, levels


def _refuse_slips(node: MappingNode) -> None:
    """Raise `ConstructorError` for a decimal comma, or a colon without space, that made a key of part of a value."""
    before = None
    for key, value in node.value:
        if isinstance(value, ScalarNode) and value.value == "" and value.style is None and isinstance(key, ScalarNode):
            if _KEY_AND_VALUE.fullmatch(key.value):
                raise ConstructorError(None, None, _NO_SPACE.format(key.value), key.start_mark)
            if (
                before is not None
                and all(isinstance(each, ScalarNode) and _NUMBER.fullmatch(each.value) for each in (before[1], key))
                and key.start_mark.index == before[1].end_mark.index + 1
            ):
                problem = (
                    f"{before[0].value}: {before[1].value},{key.value} is not one number; write a point before its "
                    "decimals, and nothing between thousands"
                )
                raise ConstructorError(None, None, problem, before[1].start_mark)
        before = key, value


def parse(text: str) -> Any:
    """Read a YAML document. Raises `ValueError` with line and column, or key, and what is wrong there."""
    content = _load(text, lambda yaml: yaml.load(text))
    check_content(content)
    return content


def find_line(text: str, path: Sequence[str]) -> int:
    """Find the line, from 1, of the value at `path`, or else of the innermost value around it, in a YAML document."""
    node = _compose(text)
    line = 1
    for step in path:
        found = _find_inside(node, step)
        if found is None:
            break
        line, node = found
    return line


@lru_cache(maxsize=1)
def _compose(text: str) -> Node:
    """Read a document without its values, once for all the lines that are looked for in it."""
    node: Node = _load(text, lambda yaml: yaml.compose(text))
    return node


def _find_inside(node: Node, step: str) -> tuple[int, Node] | None:
    """Find a key of a mapping, in what it merges too, or the number of a value in a list: its line and its value."""
    if isinstance(node, SequenceNode) and step.isdecimal() and int(step) < len(node.value):
        found = node.value[int(step)]
        return found.start_mark.line + 1, found
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.value == step:
                return key.start_mark.line + 1, value
        for key, value in node.value:
            if key.tag == _MERGE:
                for merged in value.value if isinstance(value, SequenceNode) else [value]:
                    if found := _find_inside(merged, step):
                        return found
    return None


def _load(text: str, load: Callable[[YAML], Any]) -> Any:
    """Let `load` read `text`. Raises `ValueError` with line, column and what is wrong there."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Scanner, yaml.Resolver, yaml.Composer, yaml.Constructor = _Scanner, _Resolver, _Composer, _Constructor
    try:
        return load(yaml)
    except MarkedYAMLError as error:
        raise ValueError(_describe(error, text)) from None
    except YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


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
    try:
        Path(source).stat()
    except FileNotFoundError:
        those = suggest(source, shipped) or f"those are {', '.join(shipped)}"
        raise ValueError(f"{source}: no such file, and no shipped {what}; {those}") from None
    except (OSError, ValueError):
        pass  # reading it says what is wrong
    return Path(source)


def read(path: Path, what: str) -> dict[str, Any]:
    """Read the keys of a file. Raises `ValueError` with path and mistake, which says `what` the file was to be."""
    return parse_keys(read_document(path), path, what)


def read_document(path: Path) -> str:
    """Read the text of a file. Raises `ValueError` with path and mistake."""
    try:
        return read_text(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_keys(text: str, path: Path, what: str) -> dict[str, Any]:
    """Read the keys in the `text` of a file. Raises `ValueError` like `read`."""
    try:
        content = parse(text)
    except ValueError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        kind = {type(None): "an empty file", list: "a list"}.get(type(content), "a single value")
        raise ValueError(f"{path}: a {what} is a mapping of keys; this is {kind}")
    return content


def _describe(error: MarkedYAMLError, text: str) -> str:
    """Say where a document is wrong and why: a key without a space after its colon shows itself a line later only."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return str(error.problem)
    if error.problem in ("could not find expected ':'", "mapping values are not allowed here"):
        number = error.context_mark.line if error.context_mark is not None else mark.line - 1
        line = text.splitlines()[max(number, 0)]
        if _KEY_AND_VALUE.fullmatch(line.strip()):
            column = len(line) - len(line.lstrip()) + 1
            return f"line {number + 1}, column {column}: {_NO_SPACE.format(line.strip())}"
    return f"line {mark.line + 1}, column {mark.column + 1}: " + ", ".join(filter(None, (error.context, error.problem)))
