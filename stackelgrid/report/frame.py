"""Tables of data in pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackelgrid.columns import Columns, build_arrow

if TYPE_CHECKING:
    import pandas as pd


def build_frame(columns: Columns) -> pd.DataFrame:
    """Build the table of the same types in pandas; whole numbers stay whole beside empty cells."""
    table = build_arrow(columns)
    frame: pd.DataFrame = table.to_pandas()
    gaps = [name for name in table.column_names if table[name].null_count and str(table[name].type) == "int64"]
    return frame.astype(dict.fromkeys(gaps, "Int64"))
