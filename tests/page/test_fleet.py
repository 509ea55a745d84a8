"""The fleet of a grid that is observed, in a browser."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta

from playwright.sync_api import Page, expect
from support.ui_server import Server


def test_fleet_shows_who_is_heard_and_who_is_silent(page: Page, server: Server, settled: str) -> None:
    folder = server.folder / "runs" / "grid"
    shutil.copytree(server.folder / "runs" / settled, folder)
    events = folder / "events.jsonl"
    first, *rest = events.read_text().splitlines(keepends=True)
    events.write_text("".join([first.replace('"tree"', '"tree", "grid": true'), *rest]))
    now = datetime.now(UTC)
    member = {"coordinator": "a1", "version": "0.3.0", "session": 4, "state": "settled"}
    fleet = {
        "h1": member | {"at": now.isoformat(), "plan_until": (now + timedelta(hours=20)).isoformat()},
        "h2": member | {"at": (now - timedelta(hours=2)).isoformat(), "plan_until": None},
    }
    (folder / "fleet.json").write_text(json.dumps(fleet))
    page.goto("#/runs/grid")
    table = page.get_by_role("region", name="Fleet").get_by_role("table")
    expect(table).to_contain_text("1 of 2 members are heard.")
    expect(table.get_by_role("row", name="h1")).to_contain_text("settled")
    expect(table.get_by_role("row", name="h2")).to_contain_text("silent")
    expect(table.get_by_role("row", name="h2")).to_contain_text("2 h ago")
