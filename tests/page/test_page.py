"""The page of `stackelgrid ui` in a browser."""

from __future__ import annotations

from playwright.sync_api import Page, expect


def test_page_opens_with_the_token_that_was_printed(page: Page) -> None:
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
