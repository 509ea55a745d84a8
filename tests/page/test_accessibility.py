"""Each view of the page by axe-core: in light and dark, on a desktop and a telephone."""

from __future__ import annotations

from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect
from support.browser import Visit
from support.ui_server import Server

WIDTHS = {"desktop": 1280, "telephone": 390}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_view_has_no_serious_fault(
    browser: Browser, server: Server, settled: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    visit = Visit(browser, server, width=width, color_scheme=scheme)
    axe, page = Axe(), visit.page
    slots = page.get_by_role("slider", name="Slots").first
    views = {
        "#/": page.get_by_label(f"Compare {settled}"),
        "#/new": page.get_by_label("Number of homes"),
        f"#/runs/{settled}": slots,
        f"#/runs/{settled}/results": slots,
        f"#/compare/{settled}/{settled}": slots,
    }
    for path, sign in views.items():
        page.goto(path.replace(" ", "%20"))
        expect(sign).to_be_visible(timeout=20_000)
        faults = axe.run(page).response["violations"]
        serious = [f"{fault['id']}: {fault['help']}" for fault in faults if fault["impact"] in ("serious", "critical")]
        assert serious == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    visit.end()
