"""The whole story in a browser: start the shipped case, kill an aggregator, see it held and back, compare."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect
from support.ui_server import Server


def test_aggregator_killed_from_the_page_is_held_and_comes_back(page: Page, server: Server) -> None:
    clean = server.start(name="clean", set={}, transport="memory", pace_s=0)

    page.goto("#/new")
    page.get_by_label("Find a setting").fill("return_s")
    page.get_by_label("Return (s)").fill("0.5")
    page.get_by_label("Name", exact=True).fill("disturbed")
    page.get_by_label("Compute the certificate").uncheck()
    page.get_by_role("button", name="Start the run").click()

    node = page.locator("[data-node=a2]")
    page.locator("[data-node=a2][data-state=answered]").wait_for(timeout=60_000)
    node.click()
    disturb = page.get_by_label("Disturb")
    disturb.get_by_label("Crash: seconds until it is back").fill("2")
    disturb.get_by_role("button", name="Crash").click()
    # A state may pass before `expect` looks again; `wait_for` looks at each frame.
    for state in ("crashed", "held", "answered"):
        page.locator(f"[data-node=a2][data-state={state}]").wait_for(timeout=60_000)
    expect(page.get_by_label("Messages, the newest first")).to_contain_text("a2 counts with its last answer in round")
    expect(page.locator("[data-run-state]")).to_have_attribute("data-run-state", "settled", timeout=60_000)
    disturbed = re.sub("^.*/", "", page.url)

    assert [*server.watch(clean)][-1][1]["state"] == "settled"
    page.goto("#/")
    page.get_by_label(f"Compare {clean.removeprefix('/runs/')}").check()
    page.get_by_label(f"Compare {disturbed}").check()
    page.get_by_role("button", name="Compare").click()
    difference = page.get_by_role("row", name="Homes that settled").get_by_role("cell")
    expect(difference).to_have_text(["60", "60", "equal", ""])
    expect(page.get_by_role("row", name="Peak load").get_by_role("cell")).to_have_text(["434", "434", "equal", ""])
    expect(page.get_by_role("slider", name="Slots of both runs")).to_be_visible()
