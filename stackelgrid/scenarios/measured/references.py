"""Replace references by numbers: a key that takes a number per slot may name a column, homes may be one per column."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from stackelgrid.model import StrictModel, explain
from stackelgrid.scenarios.measured.clock import Horizon
from stackelgrid.scenarios.measured.data_file import DataFile, FromColumn
from stackelgrid.scenarios.measured.declarations import OWN, DataSection, EachColumn, Reference
from stackelgrid.scenarios.measured.units import Kind, read_unit
from stackelgrid.scenarios.topology import NODE_NAME
from stackelgrid.wire.names import MAX_NAME_LENGTH, name_from

Declaration = TypeVar("Declaration", bound=StrictModel)
_IN_BRACKETS = re.compile(r"\s*(\([^()]*\)|\[[^\[\]]*\])")
_UMLAUTS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss", "ø": "o", "Ø": "O"}
)


class BadReferenceError(ValueError):
    """A reference that gives no numbers; the message begins with its key, `declared` is the key of what it names."""

    def __init__(self, message: str, declared: str) -> None:
        super().__init__(message)
        self.declared = declared


def spell_out(
    raw: Mapping[str, Any], folder: Path, model: type[BaseModel], show: Callable[[str], None] = lambda sentence: None
) -> dict[str, Any]:
    """Replace references by numbers in the content of a scenario file in `folder`, list its homes, and remove `data`.

    `model` is the game's, for the defaults of `slots` and `money`. `show` is given a sentence per file: how its first
    number was read. Raises `ValueError` (pydantic's for a key of `data` that is wrong) naming key, file, row, column,
    value and mend.
    """
    defaults = {name: model.model_fields[name].default for name in ("slots", "money")}
    content = {key: value for key, value in raw.items() if key != "data"}
    if "data" in raw:
        declared = DataSection.model_validate({**defaults, **raw})
        horizon = Horizon.of(declared.slots, declared.calendar)
        files = {
            name: DataFile(name, series, folder, horizon, declared.money, show)
            for name, series in declared.data.items()
        }
    else:
        files = {}
    if isinstance(content.get("homes"), dict) and "each_column_of" in content["homes"]:
        content["homes"] = list(_list_homes(content["homes"], files))

    def numbers(reference: dict[str, Any], path: tuple[str, ...]) -> FromColumn:
        wanted = _check(Reference, reference, ".".join(path))
        try:
            return _find(files, wanted.source).numbers(wanted, Kind.at(path))
        except ValueError as error:
            raise BadReferenceError(f"{'.'.join(path)}: {error}", f"data.{wanted.source}") from None

    return {key: _replace(value, (str(key),), numbers) for key, value in content.items()}


def _replace(node: Any, path: tuple[str, ...], numbers: Callable[[dict[str, Any], tuple[str, ...]], Any]) -> Any:
    """Replace every reference in `node` by its `numbers`."""
    if isinstance(node, dict):
        if "from" in node or "column" in node:
            return numbers(node, path)
        return {key: _replace(value, (*path, str(key)), numbers) for key, value in node.items()}
    if isinstance(node, list):
        return [_replace(value, (*path, str(number)), numbers) for number, value in enumerate(node)]
    return node


def _list_homes(content: dict[str, Any], files: Mapping[str, DataFile]) -> Iterator[dict[str, Any]]:
    """Make a home per column, with its column's name in the place of `own`."""
    each = _check(EachColumn, content, "homes")
    if "id" in each.home:
        raise ValueError("homes.home.id: each home takes its id from its column; leave it out")
    try:
        columns = _find(files, each.each_column_of).columns(each.excluded)
    except ValueError as error:
        raise BadReferenceError(f"homes.each_column_of: {error}", f"data.{each.each_column_of}") from None
    columns_by_name: dict[str, str] = {}
    for column in columns:
        name = name_home(column)
        if NODE_NAME.fullmatch(name):
            name = f"home-{name}"
        if not name or name in columns_by_name:
            other = f"that of column {columns_by_name[name]!r}" if name else "empty"
            raise ValueError(f"homes.each_column_of: the id of column {column!r} would be {other}; rename the column")
        columns_by_name[name] = column

        def own(reference: dict[str, Any], _: object, column: str = column) -> dict[str, Any]:
            if reference.get("column") != OWN:
                return reference
            return {"from": each.each_column_of, **reference, "column": column}

        yield {"id": name, **_replace(each.home, (), own)}


def name_home(column: str) -> str:
    """Make a home's id of its column's name: without a unit in brackets, and in letters without accents."""
    plain = _IN_BRACKETS.sub(lambda found: "" if read_unit(found[0]) else found[0], column).translate(_UMLAUTS)
    letters = "".join(letter for letter in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(letter))
    return name_from(letters, len(letters)).strip("-")[:MAX_NAME_LENGTH]


def _find(files: Mapping[str, DataFile], name: str) -> DataFile:
    if name not in files:
        known = f"those are {', '.join(files)}" if files else "there is no key `data`"
        raise ValueError(f"no data are called {name!r}, {known}; declare data.{name}")
    return files[name]


def _check(model: type[Declaration], content: dict[str, Any], where: str) -> Declaration:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ValueError(explain(where, error, content, model)) from None
