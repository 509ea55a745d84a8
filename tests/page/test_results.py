"""The results of a run, and of two beside each other, in a browser."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

from playwright.sync_api import Page, expect
from support.ui_server import Server


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
    expect(page.get_by_label("Certificate", exact=True)).to_contain_text(
        re.compile("checks hold: nobody could gain (anything|more than [^ 0]\\S* )")
    )

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


def test_cursors_go_over_the_days_and_sessions_of_a_longer_run(page: Page, server: Server) -> None:
    days = {"calendar.days": 2, "calendar.slot_minutes": 60, "calendar.horizon": "24h", "calendar.every": "12h"}
    sets = {"population.homes": 2, "aggregators": 1, **days}
    run = server.start(scenario="street_week", set=sets, transport="memory", pace_s=0, name="two days")
    assert [*server.watch(run)][-1][1]["state"] == "settled"
    result = server.call("GET", run)[1]["result"]
    savings = server.call("GET", f"{run}/tables/savings")[1]

    page.goto(f"#{run}/results".replace(" ", "%20"))
    slots = page.get_by_role("slider", name="Slots of the run")
    slots.press("End")
    expect(slots).to_have_attribute("aria-valuenow", "48")
    page.get_by_role("button", name="The next day").click()
    expect(page.get_by_role("slider", name="Day")).to_have_attribute("aria-valuetext", "Thu 24 Mar")
    slots.press("End")
    last = show(result["sessions"][1]["outcome"]["load_kw"][11])
    expect(slots).to_have_attribute("aria-valuetext", re.compile(f"^Thu 24 Mar, 23:00–00:00: settled {last} kW"))

    page.get_by_role("button", name="The next session").click()
    told = "2 of 4, from Thu 24 Mar, 12:00: 12 of its 24 slots bind"
    expect(page.get_by_role("slider", name="Session", exact=True)).to_have_attribute("aria-valuetext", told)
    planned = page.get_by_role("slider", name="Slots of the session")
    planned.press("End")
    last = show(result["sessions"][1]["outcome"]["load_kw"][23])
    expect(planned).to_have_attribute("aria-valuetext", re.compile(f"^Fri 25 Mar, 11:00–12:00: settled {last} kW"))

    row = page.get_by_label("Table of homes").get_by_role("row", name=savings["home"][0])
    bills = [show(savings[f"{prefix}bill_cents"][0]) for prefix in ("baseline_", "")]
    expect(row.get_by_role("cell")).to_have_text([*bills, re.compile("[+−]")])


def test_results_say_how_many_sessions_are_certified(page: Page, server: Server) -> None:
    days = {"calendar.days": 1, "calendar.slot_minutes": 60, "calendar.horizon": "12h", "calendar.every": "12h"}
    sets = {"population.homes": 1, "aggregators": 1, **days}
    run = server.start(scenario="street_week", set=sets, transport="memory", pace_s=0, certify=False, name="half a day")
    assert [*server.watch(run)][-1][1]["state"] == "settled"
    known, name = {"certificate": {"gap": 0.0}}, run.rpartition("/")[2]
    first, second = (each | known for each in server.call("GET", run)[1]["result"]["sessions"])
    whole = copy_run(server, name, "whole", sessions=[first, second])
    page.goto(f"#/runs/{whole}/results")
    expect(page.locator(".verdict .chip.holds")).to_have_text("Certified")
    part = copy_run(server, name, "part", sessions=[first, second | {"certificate": None}])
    page.goto(f"#/runs/{part}/results")
    expect(page.locator(".verdict .chip")).to_have_text("1 of 2 sessions certified")
    expect(page.get_by_label("Certificate", exact=True)).to_contain_text("1 of 2 sessions certified")
    expect(page.locator(".chip.holds, .notice.good")).to_have_count(0)


def copy_run(server: Server, run: str, name: str, **changes: Any) -> str:
    """Copy a run under another name, with changes to its result."""
    folder = server.folder / "runs" / name
    shutil.copytree(folder.parent / run, folder, ignore=shutil.ignore_patterns("events.jsonl"))
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return name


def test_results_say_which_check_fails(page: Page, server: Server, settled: str) -> None:
    copy_run(server, settled, "far away", certificate={"gap": 1.0, "max_home_regret": 0.0})
    labels = {check["key"]: check["label"] for check in server.call("GET", "/runs/far away")[1]["checks"]}
    page.goto("#/runs/far%20away/results")
    expect(page.locator(".verdict .chip.fails")).to_have_text(f"Certificate: {labels['gap']} fails")
    expect(page.locator(".notice.bad")).to_have_text("1 of 2 checks fail.")
    expect(page.locator(".chip.holds, .notice.good")).to_have_count(0)


def test_results_say_what_is_missing(page: Page, server: Server, settled: str) -> None:
    nothing = {"outcome": None, "certificate": None, "settled": False, "rounds": 0, "homes_settled": 0}
    copy_run(server, settled, "without a round", **nothing)
    (server.folder / "runs" / copy_run(server, settled, "without a result") / "result.json").unlink()
    page.goto("#/runs/without%20a%20round/results")
    expect(page.get_by_text("not a single round was finished")).to_be_visible()
    expect(page.get_by_text("This run has no certificate.")).to_be_visible()
    page.goto("#/runs/without%20a%20result/results")
    expect(page.get_by_text("This run has no result.")).to_be_visible()
    page.goto(f"#/compare/{settled}/without%20a%20result".replace("a run", "a%20run"))
    expect(page.get_by_text("without a result has no result to compare")).to_be_visible()


def test_certificate_lists_the_check_that_fails(page: Page, server: Server, settled: str) -> None:
    certificate = server.call("GET", f"/runs/{settled}")[1]["certificate"] | {"max_regret": 1.0}
    run = copy_run(server, settled, "gainful", certificate=certificate)
    checks = [check for check in server.call("GET", f"/runs/{run}")[1]["checks"] if check["passed"] is not None]
    (failed,) = (check for check in checks if not check["passed"])
    page.goto(f"#/runs/{run}/results")
    expect(page.locator(".verdict .chip.fails")).to_have_text(f"Certificate: {failed['label']} fails")
    shown = page.get_by_label("Certificate", exact=True)
    expect(shown.locator(".notice.bad")).to_have_text(f"1 of {len(checks)} checks fail.")
    expect(shown.get_by_role("listitem").filter(has=page.locator(".mark.fails"))).to_contain_text(failed["label"])
    expect(page.locator(".chip.holds, .notice.good")).to_have_count(0)


def test_tables_are_downloaded(page: Page, server: Server, settled: str) -> None:
    page.goto(f"#/runs/{settled}/results")
    with page.expect_download() as download:
        page.get_by_role("link", name="slots.csv").click()
    assert download.value.suggested_filename == "slots.csv"
    assert (
        download.value.path().read_bytes() == (server.folder / "runs" / settled / "tables" / "slots.csv").read_bytes()
    )


def test_comparison_shows_the_difference(page: Page, server: Server, settled: str) -> None:
    outcome = server.call("GET", f"/runs/{settled}")[1]["result"]["outcome"]
    peaks = [outcome["peak_kw"], 1.5 * outcome["peak_kw"]]
    loads, prices = ([outcome[key], [2 * value for value in outcome[key]]] for key in ("load_kw", "price"))
    changed = {"peak_kw": peaks[1], "load_kw": loads[1], "price": prices[1]}
    other = copy_run(server, settled, "larger", outcome=outcome | changed)
    page.goto(f"#/compare/{settled}/{other}".replace(" ", "%20"))
    row = page.get_by_role("row", name="Peak load")
    expect(row.get_by_role("cell").nth(0)).to_have_text(show(peaks[0]))
    expect(row.get_by_role("cell").nth(1)).to_have_text(show(peaks[1]))
    expect(row.get_by_role("cell").nth(2)).to_have_text(f"+{show(peaks[1] - peaks[0])}")
    charts = page.get_by_role("slider", name="Slots of both runs")
    charts.press("Home")
    told = [
        f"{letter} {show(values[0])} {unit}"
        for pair, unit in ((loads, "kW"), (prices, "cents/kWh"))
        for letter, values in zip("AB", pair, strict=True)
    ]
    expect(charts).to_have_attribute("aria-valuetext", f"Hour 1: {', '.join(told)}")
