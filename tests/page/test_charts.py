"""The charts of a run in a browser."""

from __future__ import annotations

from playwright.sync_api import Page, expect
from support.ui_server import Server


def test_charts_tell_the_last_round_slot_by_slot(page: Page, server: Server, settled: str) -> None:
    price = server.call("GET", f"/runs/{settled}")[1]["result"]["outcome"]["price"][1]
    page.goto(f"#/runs/{settled}")
    charts = page.get_by_role("slider", name="Slots of the last round")
    charts.press("Home")
    charts.press("ArrowRight")
    expect(charts).to_have_attribute("aria-valuenow", "2")
    said = charts.get_attribute("aria-valuetext") or ""
    assert said.startswith("Hour 2: ")
    assert said.endswith(f"this round {round(price, 2):g} cents/kWh")
