"""The notebooks of the documentation: each runs from its first cell to its last, as a new user would run it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
NAMES = ["first_steps", "your_own_data", "comparing_algorithms", "what_faults_do"]


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def list_kinds(cell: nbformat.NotebookNode) -> set[str]:
    """The kinds of what a cell has shown."""
    return {kind for output in cell.get("outputs", ()) for kind in output.get("data", ())}


def test_notebooks_are_those_that_are_played() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_and_shows_tables_and_figures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book, work = read(name), tmp_path / "work"
    work.mkdir()
    NotebookClient(book, timeout=240, resources={"metadata": {"path": str(work)}}).execute()
    shown = {number: list_kinds(cell) for number, cell in enumerate(book.cells)}
    drawing = [number for number, cell in enumerate(book.cells) if re.search(r"\.plot\.?\w*\(|subplots\(", cell.source)]
    assert drawing == [number for number, kinds in shown.items() if "image/png" in kinds]
    assert any("text/html" in kinds for kinds in shown.values())
    said = [output.text for cell in book.cells for output in cell.get("outputs", ()) if output.get("name") == "stderr"]
    assert said == []


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_stored_without_outputs_and_its_links_lead_somewhere(name: str) -> None:
    for cell in read(name).cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
        for link in re.findall(r"\]\((\S+?)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (NOTEBOOKS / link).is_file(), link
