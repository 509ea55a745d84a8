"""Run folders written by a test, and the report's page as a reader has it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios import Scenario, dump


class Page(HTMLParser):
    """A page as a reader has it: its text, its tags and their attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.lasttag not in ("style", "script"):
            self.parts.append(data)


def fill(folder: Path, scenario: Scenario, run_record: RunRecord, content: dict[str, Any]) -> None:
    (folder / "scenario.yaml").write_text(dump(scenario))
    (folder / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in run_record.rounds))
    keep(folder, content)


def keep(folder: Path, content: dict[str, Any]) -> None:
    (folder / "result.json").write_text(json.dumps(content, allow_nan=False))


def figures(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "figures").iterdir()}
