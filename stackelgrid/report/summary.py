"""The summary of a run in HTML, which a notebook shows in place of the run."""

from __future__ import annotations

from html import escape
from typing import Any

from stackelgrid.report import page, tables
from stackelgrid.report.days import Days
from stackelgrid.run_result import RunResult


def write_html(result: RunResult[Any], max_rounds: int, followed: Days | None) -> str:
    """Write title, how a run ended, its key figures and, where there is one, the certificate's verdict."""
    ended = page.verdict(result, max_rounds)
    rows = [*tables.key_figures(result, followed), *tables.verdict(result)]
    cells = "".join(
        f"<tr><th style='text-align: left'>{escape(key)}</th><td>{escape(text)}</td></tr>" for key, text in rows
    )
    return f"<p><strong>{escape(result.scenario or result.game)}</strong>: {escape(ended)}</p><table>{cells}</table>"
