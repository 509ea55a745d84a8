"""`history`: show the memory of a node, or write its tables; the same for `stackelgrid` and `emc-node`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path

from stackelgrid.columns import Columns, encode_csv
from stackelgrid.errors import ConfigError
from stackelgrid.history.summary import describe, describe_mode, to_rows
from stackelgrid.history.tables import TABLES, History, Period, find, tabulate
from stackelgrid.text_file import replace_file

Encode = Callable[[Columns], bytes]

_HIGHEST_FIRST = ("leader", "aggregator", "home")


def open_histories(place: Path, stack: ExitStack) -> list[History]:
    """Open the histories at a place, those of the highest nodes first. Raises `ConfigError`."""
    histories = [stack.enter_context(History(path)) for path in find(place)]
    return sorted(histories, key=lambda each: min(map(_HIGHEST_FIRST.index, each.roles), default=0))


def read_day(text: str, option: str) -> date:
    """Read the value of an option. Raises `ConfigError`."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text}: is no day; write it as 2026-03-28") from None


def show(histories: Sequence[History], period: Period) -> str:
    """Describe the node that is highest in the tree, and name the others."""
    first, *others = histories
    width = shutil.get_terminal_size((100, 24)).columns
    bills = first.tabulate("bills", period) if first.roles == {"home"} else {}
    lines = describe(first.tabulate("sessions", period), bills, width)
    modes = to_rows(first.tabulate("modes", period))
    if not lines and not modes:
        lines = [f"{first.path}: no session is in it" + ("" if period == Period() else " for these days")]
    lines += [describe_mode(row) for row in modes[-1:]]
    if others:
        lines += ["", f"{len(others)} more histories are here: name one of them, or export all with --csv"]
    return "\n".join(lines)


def print_table(histories: Sequence[History], name: str, period: Period, *, as_json: bool) -> str:
    """Write one table as text: as CSV, or as JSON, a list of rows. Raises `ConfigError`."""
    if name not in TABLES:
        raise ConfigError(f"--table {name}: there is no such table; choose one of {', '.join(TABLES)}")
    columns = tabulate(histories, name, period)
    if not as_json:
        return encode_csv(columns).decode().rstrip("\n")
    return json.dumps(to_rows(columns), default=lambda time: time.isoformat(), allow_nan=False)


def export(histories: Sequence[History], folder: Path, ending: str, encode: Encode, period: Period) -> list[Path]:
    """Write each table that has rows into a folder, made if it is not there; give the files. Raises `ConfigError`."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            columns = tabulate(histories, name, period)
            if any(map(len, columns.values())):
                written.append(folder / f"{name}.{ending}")
                replace_file(written[-1], encode(columns))
    except OSError as error:
        raise ConfigError(f"--{ending} {folder}: cannot be written ({error.strerror}); name another folder") from None
    return written
