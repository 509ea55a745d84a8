"""Split the rows of a large table with pyarrow: as the csv module does, in a fraction of the time and the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LARGE = 8 * 2**20
"""Characters from which on it pays."""


def split_large(text: str, above: int, width: int, delimiter: str) -> list[tuple[int, Sequence[str]]] | None:
    """List the rows below the first `above` lines, each with `width` cells; None where that takes the csv module.

    That is where cells are quoted, rows have different numbers of cells, or there is no pyarrow.
    """
    if '"' in text or text.count("\r") != text.count("\r\n"):
        return None
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import csv
    except ImportError:
        return None
    body = text.split("\n", above)[-1].rstrip("\r\n")
    cells = body.partition("\n")[0].count(delimiter) + 1
    if cells < width:
        return None
    names = [str(place) for place in range(cells)]
    try:
        table = csv.read_csv(
            pyarrow.BufferReader(body.encode()),
            csv.ReadOptions(column_names=names),
            csv.ParseOptions(delimiter=delimiter, quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()), strings_can_be_null=False),
        )
    except pyarrow.ArrowInvalid:
        return None
    columns = [_list_texts(table.column(name)) for name in names]
    if any(text.strip() for column in columns[width:] for text in set(column)):
        return None
    rows = enumerate(zip(*columns[:width], strict=True), above + 1)
    return [(number, cells) for number, cells in rows if cells[0].strip() or any(cell.strip() for cell in cells)]


def _list_texts(column: Any) -> list[str]:
    """List the texts of a column of pyarrow, the same object for the same text."""
    encoded = column.combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    return [texts[index] for index in encoded.indices.to_numpy()]
