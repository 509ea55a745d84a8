"""The table of docs/privacy.md: what each attack recovers, from findings."""

from __future__ import annotations

from collections.abc import Sequence

from stackelgrid.attacks.findings import Finding
from stackelgrid.errors import ConfigError

BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"
"""What stands in the page around the table."""


def tabulate(findings: Sequence[Finding]) -> list[list[str]]:
    """Tabulate findings, a row for each attack, level, what it recovers and variant, a column for each size of group.

    A cell has the error of the attack and that of guessing; an exclamation mark says that it succeeds.
    """
    sizes = sorted({finding.group for finding in findings})
    rows: dict[tuple[str, ...], dict[int, str]] = {}
    for finding in findings:
        key = (finding.attack, str(finding.level), finding.what, finding.variant)
        rows.setdefault(key, {})[finding.group] = _write_cell(finding)
    header = ["attack", "level", "recovers", "when", *(f"n = {size}" for size in sizes)]
    return [header, *([*key, *(cells.get(size, "") for size in sizes)] for key, cells in rows.items())]


def write_table(findings: Sequence[Finding]) -> str:
    """Write findings as a Markdown table, attack by attack."""
    header, *rows = tabulate(findings)
    order = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: order.index(row[0]))
    bold = [[f"**{cell}**" if cell.endswith("!") else cell for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *bold))


def cut_table(page: str, name: str) -> tuple[str, str]:
    """Cut the table out of a page: give what is before and after it.

    Raise `ConfigError` with the page's `name` where it has none.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{name}: no lines {BEGIN} and {END}; add them where the table is to be")
    return f"{before}{BEGIN}\n", f"\n{END}{after}"


def _write_cell(finding: Finding) -> str:
    cell = f"{_write_error(finding.error)} / {_write_error(finding.guess)}"
    return f"{cell} !" if finding.succeeds else cell


def _write_error(error: float) -> str:
    """Write an error so that the same attack is written the same on every machine."""
    if error == 0:
        return "0"
    if error < 1e-6:
        return "< 1e-6" if error > 1e-12 else "< 1e-12"
    return f"{error:.2g}" if error < 100 else "> 100"
