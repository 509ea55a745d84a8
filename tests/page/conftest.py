"""A browser, and `stackelgrid ui` with runs of its own, which the tests of the page share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser import Visit, find_chromium, launch
from support.ui_server import Server, serve

# Tests of other packages run beside these.
expect.set_options(timeout=20_000)


# Of the package, so that it is closed before the tests of another, some of which run event loops of their own.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("Chromium is not installed; scripts/install-chromium does that")
    with launch() as browser:
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


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, opened with the token. It must not have written an error to the console by the end of the test."""
    visit = Visit(browser, server)
    yield visit.page
    visit.end()
