"""The names that the folders of runs may have."""

from __future__ import annotations

from pathlib import Path


def is_run_name(name: str) -> bool:
    """Tell whether a run can have that name: text that prints on one line."""
    return name == Path(name).name and not name.startswith(".") and name.isprintable()
