"""Large files are split by pyarrow: as the csv module does it, or not at all."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackelgrid.scenarios.measured import table
from stackelgrid.scenarios.measured.declarations import TimeSeries
from stackelgrid.scenarios.measured.large_table import split_large
from stackelgrid.scenarios.measured.table import find_table
from tests.unit.test_measured_exports import METERS, read

CELLS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters='",;[(\r\n\0'), max_size=6)


@given(
    rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=8),
    end=st.sampled_from(["\n", "\r\n"]),
    spare=st.booleans(),
    above=st.sampled_from(["", "a note\n", "\n\n"]),
    delimiter=st.sampled_from([",", ";"]),
)
@settings(deadline=None)
def test_rows_are_those_of_the_csv_module(
    rows: list[list[str]], end: str, spare: bool, above: str, delimiter: str
) -> None:
    names = ["time", "b", "c"]
    lines = [delimiter.join(cells) + delimiter * spare for cells in [names, *rows, ["t", "1", "2"]]]
    text = above.replace("\n", end) + end.join(lines) + end
    series = TimeSeries.model_validate({"file": "m.csv", "time": "time", "delimiter": delimiter})
    plain = find_table(text, series, "data.m")
    found = split_large(text, plain.header_row, 3, delimiter)
    assert found is not None
    assert [(number, list(cells)) for number, cells in found] == [(number, list(cells)) for number, cells in plain.rows]


@pytest.mark.parametrize(
    "body",
    ['1,2\n"3",4\n', "1,2\n3\n", "1,2\n3,4,5\n", "1,2\r3,4\n", "1,2,\n3,4,x\n", "1\n", ""],
    ids=[
        "quotes",
        "too few",
        "too many",
        "a lone return",
        "a cell without a name",
        "one cell",
        "nothing",
    ],
)
def test_what_takes_the_csv_module_is_left_to_it(body: str) -> None:
    assert split_large(f"a,b\n{body}", 1, 2, ",") is None


def test_without_pyarrow_the_csv_module_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_large("a,b\n1,2\n", 1, 2, ",") is not None
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert split_large("a,b\n1,2\n", 1, 2, ",") is None


@pytest.mark.parametrize("name", METERS)
def test_export_gives_the_same_numbers_as_a_large_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, column, _ = METERS[name]
    plain = read(data, column)
    monkeypatch.setattr(table, "LARGE", 0)
    assert read(data, column) == plain


def test_mistake_in_a_large_file_is_named_as_in_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["time,kW", *(f"2025-06-14 {hour:02d}:00,{hour}" for hour in range(24))]
    lines[8] += ",9"
    (tmp_path / "m.csv").write_text("\n".join(lines))
    series: dict[str, Any] = {"file": str(tmp_path / "m.csv"), "time": "time", "timezone": "UTC", "unit": "kW"}
    told = []
    for large in (table.LARGE, 0):
        monkeypatch.setattr(table, "LARGE", large)
        with pytest.raises(ValueError, match="row 9: 3 cells below a header of 2") as caught:
            read(series, "kW")
        told.append(str(caught.value))
    assert told[0] == told[1]
