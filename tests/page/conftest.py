"""A browser, and `stackelgrid ui` with runs of its own, which the tests of the page share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from support.ui_server import TOKEN, Server, serve


# Of the package, not of the session: while a browser is open, its event loop counts as running, and a test of another
# package could not run one of its own.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("Chromium is not installed; scripts/install-chromium does that")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path) as browser:
        yield browser


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("desk")) as server:
        yield server


@pytest.fixture(scope="package")
def settled(server: Server) -> str:
    """A run of six rounds that has settled."""
    run = server.start(transport="memory", pace_s=0, certify=True)
    assert [*server.watch(run)][-1][1]["state"] == "settled"
    return run.removeprefix("/runs/")


class Visit:
    """A page of the server in a window of its own; `errors` are those of its console."""

    def __init__(self, browser: Browser, server: Server, **options: Any) -> None:
        context = browser.new_context(
            viewport={"width": 1280, "height": 800}, reduced_motion="reduce", base_url=server.address, **options
        )
        self.page: Page = context.new_page()
        self.errors: list[str] = []
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"?token={TOKEN}")


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, opened with the token. It must not have written an error to the console by the end of the test."""
    visit = Visit(browser, server)
    yield visit.page
    visit.page.context.close()
    assert visit.errors == []
