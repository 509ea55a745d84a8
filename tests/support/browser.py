"""Chromium, and a visit to the page of `stackelgrid ui` in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from support.ui_server import TOKEN, Server


def find_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def launch() -> Iterator[Browser]:
    """Launch Chromium. While it is open its event loop counts as running, and no other can in this thread."""
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=find_chromium()) as browser:
        yield browser


class Visit:
    """A page of the server in a window of its own; `errors` are those of its console."""

    def __init__(self, browser: Browser, server: Server, *, width: int = 1280, height: int = 800, **options: Any):
        viewport = {"width": width, "height": height}
        context = browser.new_context(viewport=viewport, reduced_motion="reduce", base_url=server.address, **options)
        self.page: Page = context.new_page()
        self.errors: list[str] = []
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"?token={TOKEN}")

    def end(self) -> None:
        """End it. Nothing must have gone wrong."""
        self.page.context.close()
        assert self.errors == []
