"""The numbers of a run in words, for the command line and the page alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from stackelgrid.report.finished import Certificate, Outcome, Result

Row = tuple[str, str]
"""A label and a formatted value."""

OPTIMAL_WITHIN = 1e-6
"""Relative: below it a regret, a gap or a residual of an optimality condition is rounding."""
FEASIBLE_WITHIN = 1e-7
"""Below it a broken constraint, or a difference to what was recomputed, is rounding."""

_GAMES = {"user_oriented": "user-oriented pricing"}


def summary(result: dict[str, Any]) -> list[Row]:
    """The content of a result.json as rows of label and value: what was played, then what came out."""
    checked = Result.model_validate(result)
    return [*headline(checked), *key_figures(checked)]


def headline(result: Result) -> list[Row]:
    """What was played, how it ended, how long it took and what carried it."""
    carried = "memory, no broker" if result.transport == "memory" else f"{result.transport}, broker {result.broker}"
    return [
        ("Scenario", result.scenario or "untitled"),
        ("Settled", _settled(result)),
        ("Game", f"{_GAMES[result.game]}, seed {result.seed}"),
        ("Players", f"{counted(result.homes, 'home')} in {counted(result.processes, 'process', 'processes')}"),
        ("Time", f"{number(result.elapsed_s)} s"),
        ("Transport", f"{carried}; {counted(result.messages, 'message')}, {volume(result.bytes)}"),
    ]


def _settled(result: Result) -> str:
    if not result.rounds:
        return "no, not a single round was finished"
    rounds = counted(result.rounds, "round")
    if not result.settled:
        return f"no, stopped after {rounds}"
    return f"yes, in {rounds}" + ("" if result.complete else ", the last one incomplete")


def key_figures(result: Result, baseline_price: float | None = None) -> list[Row]:
    """Peak, PAR, price, utilities and revenue, each before -> after where the value before is known.

    Before is the first round, at the flat `baseline_price` (money per kWh). Empty when no round was finished.
    """
    outcome = result.outcome
    if outcome is None:
        return []
    rate = f"{result.money}/kWh"
    mean_price = sum(outcome.price) / len(outcome.price)
    return [
        ("Peak load", change(outcome.baseline_peak_kw, outcome.peak_kw, "kW")),
        ("Peak-to-average ratio", change(outcome.baseline_par, outcome.par)),
        ("Mean price", f"{number(mean_price)} {rate}"),
        *([] if baseline_price is None else [("Baseline price, flat", f"{number(baseline_price)} {rate}")]),
        ("Leader utility", f"{number(outcome.leader_utility)} {result.money}"),
        ("System utility", _system_utility(result, outcome)),
        ("Revenue", f"{number(outcome.revenue)} {result.money}"),
    ]


def _system_utility(result: Result, outcome: Outcome) -> str:
    if len(outcome.homes) < result.homes:
        return f"not known: {len(outcome.homes)} of {counted(result.homes, 'home')} reported a schedule"
    return f"{number(outcome.system_utility)} {result.money}"


@dataclass(frozen=True)
class Check:
    """A line of the certificate: `value` is None when not computed, `passed` for a number told but not judged."""

    key: str
    label: str
    value: str | None
    limit: str
    passed: bool | None
    meaning: str


_Judged = Literal[
    "gap",
    "max_regret",
    "max_home_regret",
    "leader_regret",
    "price_residual",
    "violation",
    "load_residual",
    "overclaim",
]

_LIMITED: list[tuple[_Judged, str, float, str]] = [
    (
        "gap",
        "Gap to the central reference",
        OPTIMAL_WITHIN,
        "How far the outcome is from what one solver finds that knows everybody's data; relative.",
    ),
    (
        "max_regret",
        "Largest regret",
        OPTIMAL_WITHIN,
        "The most that any one player could still gain by deviating alone; relative. Zero is an equilibrium.",
    ),
    (
        "max_home_regret",
        "Largest regret of a home",
        OPTIMAL_WITHIN,
        "What a home's best schedule at the settled price would bring more than the one it reported; relative.",
    ),
    (
        "leader_regret",
        "Regret of the leader",
        OPTIMAL_WITHIN,
        "What the best other price found would bring the leader, the homes answering it; relative.",
    ),
    (
        "price_residual",
        "Price residual",
        OPTIMAL_WITHIN,
        "How far the price is from the leader's own optimality condition; relative.",
    ),
    (
        "violation",
        "Constraint violation",
        FEASIBLE_WITHIN,
        "The worst breach of any limit: appliances, storage, connections, capacity.",
    ),
    (
        "load_residual",
        "Load residual",
        FEASIBLE_WITHIN,
        "How far the total load the leader saw is from the sum of what the homes would draw.",
    ),
    (
        "overclaim",
        "Overclaimed utility",
        FEASIBLE_WITHIN,
        "How much more utility was reported than the schedules are worth when recomputed.",
    ),
]


def checks(certificate: Certificate, money: str) -> list[Check]:
    """The certificate's numbers in plain words, judged where there is a limit."""
    lines = [_judged(certificate, *line) for line in _LIMITED]
    feasible = certificate.feasible
    lines.insert(
        5,
        Check(
            "feasible",
            "Feasible",
            None if feasible is None else "yes" if feasible else "no",
            "yes",
            feasible,
            "Whether every home's schedule and the total load keep every limit.",
        ),
    )
    meaning = "How far the settled price is from the welfare price, the one best for the system as a whole."
    for key, distance in (certificate.price_distance or {}).items():
        lines.append(_told(f"price_distance.{key}", f"Distance to the welfare price, {key}", distance, "", meaning))
        meaning = ""
    for key, label, value, meaning in (
        ("system_utility", "System utility", certificate.system_utility, "What leader and homes get together."),
        (
            "welfare_system_utility",
            "System utility at the welfare price",
            certificate.welfare_system_utility,
            "The most they could get together; the difference is what the leader's own interest costs.",
        ),
    ):
        lines.append(_told(key, label, value, money, meaning))
    return lines


def _judged(certificate: Certificate, key: _Judged, label: str, limit: float, meaning: str) -> Check:
    value: float | None = getattr(certificate, key)
    shown = None if value is None else f"{value:.1e}" if value else "0"
    # A gap or a residual counts either way; a negative regret, violation or overclaim is none.
    size = None if value is None else abs(value) if key.endswith(("gap", "residual")) else value
    return Check(key, label, shown, f"{limit:.0e}", None if size is None else size <= limit, meaning)


def _told(key: str, label: str, value: float | None, unit: str, meaning: str) -> Check:
    shown = None if value is None else f"{number(value)} {unit}".strip()
    return Check(key, label, shown, "", None, meaning)


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


def change(before: float, after: float, unit: str = "") -> str:
    """Before -> after with the relative change; without it where the value before is not positive."""
    relative = f" ({after / before - 1:+.1%})".replace("-", "−").replace("%", " %") if before > 0 else ""
    return " ".join(f"{number(before)} → {number(after)} {unit}".split()) + relative


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
