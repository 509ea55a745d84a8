"""The form that starts a run, in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from support.ui_server import Server

from stackelgrid.registry import list_algorithms, list_games

_FIXED = {"schema", "game"}
"""Keys that the choice of a scenario decides."""


@pytest.fixture
def form(page: Page) -> Page:
    page.get_by_role("link", name="New run").first.click()
    expect(page.get_by_role("status")).to_contain_text("60 homes")
    return page


def test_wrong_value_is_told_beside_its_field(form: Page) -> None:
    homes = form.get_by_label("Number of homes")
    homes.fill("many")
    expect(homes).to_have_accessible_description(re.compile("whole number"))
    expect(homes).to_have_attribute("aria-invalid", "true")
    homes.fill("12")
    expect(homes).not_to_have_attribute("aria-invalid", "true")
    expect(form.get_by_role("status")).to_contain_text("12 homes")


def test_wrong_value_is_not_started_but_gets_the_focus(form: Page, server: Server) -> None:
    before = server.call("GET", "/runs")[1]
    form.get_by_label("Pace").fill("a while")
    form.get_by_role("button", name="Start the run").click()
    expect(form.get_by_label("Pace")).to_be_focused()
    assert server.call("GET", "/runs")[1] == before


def test_form_offers_the_algorithms_that_are_installed(form: Page) -> None:
    expect(form.get_by_label("Algorithm").get_by_role("option")).to_have_text(list_algorithms("user_oriented"))


@pytest.mark.parametrize("game", list_games())
def test_form_reaches_every_key_of_a_game(form: Page, server: Server, game: str) -> None:
    scenario = next(each for each in server.call("GET", "/scenarios")[1] if each["game"] == game)
    schema = server.call("GET", f"/schema/{game}")[1]
    form.get_by_role("radio", name=scenario["title"], exact=False).first.check()
    expect(form.get_by_role("heading", name=scenario["title"])).to_be_visible()
    shown = form.locator("[id^=set-]").evaluate_all("all => all.map((each) => each.id.replace('set-', ''))")
    wanted = [key for key in _list_keys(schema, schema, "", scenario["content"]) if key not in _FIXED]
    missing = [key for key in wanted if key not in shown]
    assert missing == []


def _list_keys(part: dict[str, Any], schema: dict[str, Any], path: str, content: Any) -> Iterator[str]:
    """List the keys of a schema down to those that are no objects of known keys."""
    for key, each in part["properties"].items():
        here = path + key
        value = content.get(key) if isinstance(content, dict) else None
        inner = _resolve(each, schema)
        if "properties" in inner and not isinstance(value, list):
            yield from _list_keys(inner, schema, f"{here}.", value)
        else:
            yield here


def _resolve(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in part:
        return _resolve(schema["$defs"][part["$ref"].rpartition("/")[2]], schema)
    some = [each for each in part.get("anyOf", []) if each.get("type") != "null"]
    return _resolve(some[0], schema) if len(some) == 1 else part


def test_run_is_played_as_the_form_has_it(form: Page, server: Server) -> None:
    form.get_by_label("Number of homes").fill("4")
    form.get_by_label("Name").fill("four homes")
    form.get_by_label("Transport").select_option("memory")
    form.get_by_label("Find a setting").fill("leader mu")
    form.get_by_label("Mu", exact=True).fill("0.5")
    form.get_by_role("button", name="Start the run").click()
    form.wait_for_url(re.compile("#/runs/four%20homes"))
    expect(form.locator("[data-node]")).to_have_count(1 + 4 + 4)
    scenario = server.client.get(f"{form.url.rpartition('#')[2]}/files/scenario.yaml").text
    assert "mu: 0.5" in scenario


def test_scenario_that_has_the_focus_is_not_hidden_by_the_bar(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto("#/new")
    page.get_by_text("60 homes, 4 aggregators").wait_for()
    choices = page.get_by_role("radio")
    choices.first.focus()
    for index in range(1, choices.count()):
        page.keyboard.press("ArrowDown")
        expect(choices.nth(index)).to_be_focused()
        low = "each => each.getBoundingClientRect().bottom"
        assert page.locator(".scenario:has(:focus)").evaluate(low) <= page.locator(".submit").evaluate(
            low.replace("bottom", "top")
        )
