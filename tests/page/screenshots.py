"""`make screenshots`: take the screenshots of docs/control-room.md anew, of real runs in Chromium."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page
from support.browser import Visit, launch
from support.ui_server import Server, serve

FIGURES = Path(__file__).parents[2] / "docs" / "figures" / "control-room"
COLOURS = 96
"""So many keep a file small, and no eye sees the difference."""


def main() -> None:
    """Play a street twice, once with an aggregator that dies, and take a screenshot of each view."""
    FIGURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as server, launch() as browser:
        street: dict[str, Any] = {"scenario": "street", "set": {"rounds.return_s": 1}}
        clean = play(server, street | {"name": "street", "pace_s": 0, "certify": True})
        disturbed = play(server, street | {"name": "aggregator killed", "faults": "aggregator-dies", "pace_s": 0.5})
        take_negotiation(browser, server, disturbed, "negotiation")
        take_negotiation(browser, server, disturbed, "negotiation-dark", color_scheme="dark")
        take_negotiation(browser, server, disturbed, "telephone", width=390, height=844, color_scheme="dark")
        take(browser, server, f"#/runs/{clean}/results", "results", height=1100)
        take(browser, server, f"#/compare/{clean}/{disturbed}", "comparison", height=1000)
        visit = Visit(browser, server, height=760)
        visit.page.goto("#/new")
        visit.page.get_by_text("60 homes, 4 aggregators").wait_for()
        save(visit, "new-run")


def play(server: Server, order: dict[str, Any]) -> str:
    run = server.start(**order)
    assert [*server.watch(run)][-1][1]["state"] == "settled"
    return run.removeprefix("/runs/").replace(" ", "%20")


def take(browser: Browser, server: Server, path: str, name: str, **options: Any) -> None:
    visit = Visit(browser, server, **options)
    await_charts(visit.page, path)
    save(visit, name)


def take_negotiation(browser: Browser, server: Server, run: str, name: str, **options: Any) -> None:
    """Take it in the round in which the aggregator is held."""
    visit = Visit(browser, server, **{"height": 1040, **options})
    await_charts(visit.page, f"#/runs/{run}")
    held = visit.page.locator("[data-node][data-state=held]")
    while not held.count():
        visit.page.get_by_role("button", name="Next round").click()
    held.first.click()
    save(visit, name)


def await_charts(page: Page, path: str) -> None:
    page.goto(path)
    page.get_by_role("slider", name="Slots").first.wait_for()
    page.wait_for_load_state("networkidle")


def save(visit: Visit, name: str) -> None:
    path = FIGURES / f"{name}.png"
    visit.page.mouse.move(0, 0)
    visit.page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    visit.end()


if __name__ == "__main__":
    main()
