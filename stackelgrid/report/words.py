"""Numbers in words: as the command line, the page and the figures tell them."""

from __future__ import annotations

_UNITS = {"kw": "kW", "kwh": "kWh", "mw": "MW", "mwh": "MWh"}


def number(value: float) -> str:
    """A number to read: four or five significant digits, thousands set apart."""
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


def measured(value: float, unit: str) -> str:
    """A number and its unit, which may be none."""
    return f"{number(value)} {unit}".strip()


def tiny(value: float, unit: str) -> str:
    """An error or a tolerance: its order is what matters."""
    shown = f"{abs(value):.1e} {unit}".strip() if value else "0"
    return f"−{shown}" if value < 0 else shown


def percent(share: float) -> str:
    """A share of 1 in per cent."""
    return f"{100 * share:.1f} %".replace("-", "−")


def change(before: float, after: float, unit: str = "") -> str:
    """Before -> after with the relative change; without it where the value before is not positive."""
    told = " ".join(f"{number(before)} → {number(after)} {unit}".split())
    return f"{told} ({relative(after / before - 1)})" if before > 0 else told


def relative(part: float) -> str:
    """A change in per cent, signed: to a tenth, or to a hundredth where it is small."""
    return f"{part:+.{1 if abs(part) >= 0.01 else 2}%}".replace("-", "−").replace("%", " %")


def counted(count: int, one: str, many: str | None = None) -> str:
    """1 round, 2 rounds."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def volume(size: float) -> str:
    """Bytes to read."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} GB"


def spelled(key: str) -> tuple[str, str]:
    """The words of a key and its unit: load_kw is "Load" in "kW"."""
    *words, last = key.replace(".", "_").split("_")
    unit = _UNITS.get(last, "") if words else ""
    return " ".join(words if unit else [*words, last]).capitalize(), unit
