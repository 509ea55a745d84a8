"""A run that is watched, disturbed and replayed, in a browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect
from support.ui_server import SMALL, Server


def _find_tile(page: Page, name: str) -> Locator:
    return page.locator(".tile", has_text=name).locator("b")


def test_nodes_are_walked_by_arrow_keys(page: Page, settled: str) -> None:
    page.goto(f"#/runs/{settled}")
    leader = page.locator("[data-node=leader]")
    leader.focus()
    for key, name in (("ArrowRight", "a1"), ("ArrowDown", "h1"), ("ArrowUp", "a1"), ("End", "h4"), ("Home", "leader")):
        page.keyboard.press(key)
        expect(page.locator(f"[data-node={name}]")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(leader).to_be_focused()
    expect(page.get_by_role("region", name="Nodes")).to_contain_text("leader, the leader, ")


@pytest.mark.parametrize(("width", "rows"), [(1280, 1), (390, 2)])
def test_each_aggregator_has_a_line_to_the_leader_in_even_rows(
    page: Page, server: Server, width: int, rows: int
) -> None:
    run = server.start(set={**SMALL, "aggregators": 4}, transport="memory", pace_s=0)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"#{run}")
    page.locator("[data-node=a4][data-state=settled]").wait_for()
    branches = page.locator(".branch")
    tops = branches.evaluate_all("each => each.map((branch) => branch.offsetTop)")
    assert [tops.count(top) for top in sorted(set(tops))] == [4 // rows] * rows
    ends = page.locator(".tree path").evaluate_all(
        "each => each.map((line) => { const {x, y} = line.getPointAtLength(line.getTotalLength()); return [x, y]; })"
    )
    middles = branches.evaluate_all("""each => each.map((branch) => {
        const [box, tree] = [branch.getBoundingClientRect(), branch.closest(".tree").getBoundingClientRect()];
        return [box.left + box.width / 2 - tree.left, box.top - tree.top];
    })""")
    assert [*map(pytest.approx, middles)] == ends


def test_replay_goes_from_round_to_round(page: Page, settled: str) -> None:
    page.goto(f"#/runs/{settled}")
    replay = page.get_by_role("region", name="Replay")
    expect(_find_tile(page, "Round")).to_have_text("6")
    step = replay.get_by_role("button", name="Next round")
    for number in ("1", "2"):
        step.click()
        expect(_find_tile(page, "Round")).to_have_text(number)
    expect(page.get_by_role("log")).to_contain_text("Round 2: 2 of 2 have answered")
    expect(page.get_by_role("log")).not_to_contain_text("Round 3")
    replay.get_by_label("Speed").select_option("20 ×")
    replay.get_by_role("button", name="Play").click()
    expect(_find_tile(page, "Round")).to_have_text("6")
    expect(replay.get_by_role("button", name="Play")).to_be_visible()


def test_run_that_has_ended_cannot_be_disturbed(page: Page, settled: str) -> None:
    page.goto(f"#/runs/{settled}")
    expect(page.get_by_role("region", name="Replay")).to_be_visible()
    expect(page.get_by_role("region", name="Disturb")).to_have_count(0)
    expect(page.get_by_role("button", name="Stop the run")).to_have_count(0)


def test_node_is_harmed_by_keys_and_the_plan_is_saved(page: Page, server: Server) -> None:
    run = server.start(pace_s=0.4)
    page.goto(f"#{run}")
    page.locator("[data-node=a1]:is([data-state=asked], [data-state=answered])").wait_for()
    page.locator("[data-node=leader]").focus()
    page.keyboard.press("ArrowRight")
    crash = page.get_by_role("button", name="Crash")
    page.get_by_label("Crash: seconds until it is back").fill("0.5")
    crash.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("log")).to_contain_text("Fault: crash of a1")
    expect(page.get_by_label("Disturb")).to_contain_text("Fault 1 has struck.")
    expect(page.get_by_role("log")).to_contain_text("a1 is back")
    expect(page.get_by_text("Settled after")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save faults as a plan").click()
    plan = download.value.path().read_text()
    assert "kind: crash" in plan
    assert "restart_after_s: 0.5" in plan


def test_results_come_when_the_run_has_ended(page: Page, server: Server) -> None:
    run = server.start(pace_s=0.2)
    page.goto(f"#{run}/results")
    expect(page.get_by_text("The run goes on")).to_be_visible()
    expect(page.get_by_role("heading", name="Load and price")).to_be_visible(timeout=60_000)
    expect(page.locator(".title [data-run-state]")).to_have_text("Settled")


def test_run_is_stopped(page: Page, server: Server) -> None:
    run = server.start(pace_s=0.4)
    page.goto(f"#{run}")
    page.get_by_role("button", name="Stop the run").click()
    expect(page.get_by_role("link", name="See its results")).to_be_visible(timeout=30_000)
    expect(page.locator(".title [data-run-state]")).to_have_text("Interrupted")
