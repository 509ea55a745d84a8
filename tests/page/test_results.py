"""The results of a run, and of two beside each other, in a browser."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect
from support.ui_server import SMALL, Server


def show(value: float) -> str:
    """Write a number as the page does."""
    decimals = 4 if abs(value) < 1 else 2 if abs(value) < 100 else 1
    return f"{value:,.{decimals}f}".rstrip("0").rstrip(".").replace("-", "−")


def test_results_are_those_of_the_run(page: Page, server: Server, settled: str) -> None:
    outcome = server.call("GET", f"/runs/{settled}")[1]["result"]["outcome"]
    page.goto(f"#/runs/{settled}/results")
    peak = page.locator(".tile", has_text="Peak load")
    expect(peak).to_contain_text(f"{show(outcome['peak_kw'])} kW")
    expect(peak).to_contain_text(f"before {show(outcome['baseline_peak_kw'])}")
    expect(page.get_by_label("Certificate", exact=True)).to_contain_text("checks hold: nobody could gain more than")

    rows = page.get_by_label("Table of homes").get_by_role("row")
    bills = {name: home["bill"] for name, home in outcome["homes"].items()}
    page.get_by_role("button", name="Bill cents").click()
    ranked = sorted(bills, key=bills.__getitem__)
    for row, name in enumerate(ranked, start=1):
        expect(rows.nth(row).get_by_role("rowheader")).to_have_text(name)
    page.get_by_role("button", name="Bill cents").click()
    expect(rows.nth(1).get_by_role("rowheader")).to_have_text(ranked[-1])

    page.get_by_role("button", name="h3", exact=True).click()
    expect(page.get_by_label("Home", exact=True)).to_have_value("h3")
    schedule = page.get_by_role("slider", name="Slots of h3")
    schedule.press("Home")
    load = outcome["homes"]["h3"]["load_kw"][0]
    expect(schedule).to_have_attribute("aria-valuetext", f"Hour 1: load {show(load)} kW")


def test_tables_are_downloaded(page: Page, server: Server, settled: str) -> None:
    page.goto(f"#/runs/{settled}/results")
    with page.expect_download() as download:
        page.get_by_role("link", name="slots.csv").click()
    assert download.value.suggested_filename == "slots.csv"
    assert (
        download.value.path().read_bytes() == (server.folder / "runs" / settled / "tables" / "slots.csv").read_bytes()
    )


def test_comparison_shows_the_difference(page: Page, server: Server, settled: str) -> None:
    more = {**SMALL, "population.homes": 8}
    other = server.start(transport="memory", pace_s=0, name="larger", set=more).removeprefix("/runs/")
    assert [*server.watch(f"/runs/{other}")][-1][1]["state"] == "settled"
    peaks = [server.call("GET", f"/runs/{run}")[1]["result"]["outcome"]["peak_kw"] for run in (settled, other)]
    page.goto(f"#/compare/{settled}/{other}".replace(" ", "%20"))
    row = page.get_by_role("row", name="Peak load")
    expect(row.get_by_role("cell").nth(0)).to_have_text(show(peaks[0]))
    expect(row.get_by_role("cell").nth(1)).to_have_text(show(peaks[1]))
    expect(row.get_by_role("cell").nth(2)).to_have_text(f"+{show(peaks[1] - peaks[0])}")
    charts = page.get_by_role("slider", name="Slots of both runs")
    charts.press("Home")
    expect(charts).to_have_attribute("aria-valuetext", re.compile("^Hour 1: A "))
