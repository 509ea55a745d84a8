"""The list of runs, in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect
from support.ui_server import Server


@pytest.fixture
def copy(server: Server, settled: str) -> Iterator[Path]:
    """A second run, which has settled too."""
    runs = server.folder / "runs"
    folder = runs / "another run"
    shutil.copytree(runs / settled.replace("%20", " "), folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_run_is_removed_once_that_is_confirmed(page: Page, copy: Path) -> None:
    page.reload()
    page.get_by_role("button", name="Remove another run").click()
    page.get_by_role("button", name="Keep it").click()
    assert copy.is_dir()
    page.get_by_role("button", name="Remove another run").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.locator("[data-run='another run']")).to_have_count(0)
    assert not copy.exists()


def test_run_that_cannot_be_read_says_why(page: Page, copy: Path) -> None:
    (copy / "result.json").write_text("{")
    page.reload()
    row = page.locator("[data-run='another run']")
    expect(row).to_contain_text("Unreadable")
    expect(row).to_contain_text("result.json: not JSON")
    expect(row.get_by_role("link")).to_have_count(0)
    expect(row.get_by_role("checkbox")).to_have_count(0)


def test_two_runs_that_are_ticked_are_compared(page: Page, settled: str, copy: Path) -> None:
    page.reload()
    compare = page.get_by_role("button", name="Compare", exact=True)
    page.get_by_role("checkbox", name="Compare another run").check()
    expect(compare).to_be_hidden()
    page.get_by_role("checkbox", name=f"Compare {settled.replace('%20', ' ')}").check()
    compare.click()
    page.wait_for_url(re.compile(f"#/compare/({quote(settled)}/another%20run|another%20run/{quote(settled)})$"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Two runs compared")


def test_filter_leaves_the_runs_that_it_fits(page: Page, settled: str, copy: Path) -> None:
    page.reload()
    page.get_by_role("searchbox", name="Filter the runs").fill("Another SETTLED")
    expect(page.locator("[data-run]")).to_have_count(1)
    expect(page.locator("[data-run]")).to_contain_text("another run")
