"""Numbers in words, as the command line, the page and the figures show them."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = {"kw": "kW", "kwh": "kWh", "mw": "MW", "mwh": "MWh"}


def number(value: float) -> str:
    """Write a number with four or five significant digits, thousands set apart."""
    size = abs(value)
    if size == 0:
        shown = "0"
    elif size < 1e-3:
        shown = f"{value:.2e}"
    elif size < 10:
        shown = f"{value:.3f}"
    elif size < 100:
        shown = f"{value:.2f}"
    elif size < 1000:
        shown = f"{value:.1f}"
    else:
        shown = f"{value:,.0f}"
    return f"−{shown[1:]}" if value < 0 else shown


def quantity(value: float, unit: str) -> str:
    """Write a number and its unit, which may be none."""
    return f"{number(value)} {unit}".strip()


def tiny(value: float, unit: str) -> str:
    """Write an error or a tolerance, of which only the order matters."""
    shown = f"{abs(value):.1e} {unit}".strip() if value else "0"
    return f"−{shown}" if value < 0 else shown


def percent(share: float) -> str:
    """Write a share of 1 in per cent."""
    return f"{100 * share:.1f} %".replace("-", "−")


def change(before: float, after: float, unit: str = "") -> str:
    """Write before -> after with the relative change; without it where the value before is not positive."""
    both = " ".join(f"{number(before)} → {number(after)} {unit}".split())
    return f"{both} ({relative(after / before - 1)})" if before > 0 else both


def tell_change(what: str, before: float, after: float, unit: str = "") -> str:
    """Say that something fell or rose, from what to what, and by how much; or that it stayed, but for rounding."""
    if number(before) == number(after):
        return f"{what} stayed at {quantity(after, unit)}"
    by = f" ({relative(after / before - 1)})" if before > 0 else ""
    return f"{what} {'fell' if after < before else 'rose'} from {number(before)} to {quantity(after, unit)}{by}"


def join_clauses(clauses: Sequence[str]) -> str:
    """Join clauses to a sentence's list: a, b, and c."""
    return " and ".join(clauses) if len(clauses) < 3 else f"{', '.join(clauses[:-1])}, and {clauses[-1]}"


def relative(part: float) -> str:
    """Write a change in per cent, signed: to a tenth, or to a hundredth where it is small."""
    return f"{part:+.{1 if abs(part) >= 0.01 else 2}%}".replace("-", "−").replace("%", " %")


def plural(count: int, one: str, many: str | None = None) -> str:
    """Write a count and its noun: 1 round, 2 rounds."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def volume(size: float) -> str:
    """Write a number of bytes."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} GB"


def split_key(key: str) -> tuple[str, str]:
    """Split a key into its words and its unit: peak_load_kw is "peak load" in "kW"."""
    *words, last = key.replace(".", "_").split("_")
    unit = _UNITS.get(last, "") if words else ""
    return " ".join(words if unit else [*words, last]), unit
