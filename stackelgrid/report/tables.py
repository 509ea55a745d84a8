"""The numbers of a run in words, for the command line and the page alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from stackelgrid.report.finished import Certificate, Outcome, Result

Row = tuple[str, str]
"""A label and a formatted value."""

EQUILIBRIUM_WITHIN = 1e-6
"""Relative: below it a regret, a gap or a broken limit is the solvers' tolerance."""
BOOKS_WITHIN = 1e-7
"""Relative: below it a difference between what was told and what is worked out anew is rounding."""

_GAMES = {"user_oriented": "user-oriented pricing"}


def summary(result: dict[str, Any]) -> list[Row]:
    """The content of a result.json as rows of label and value: what was played, what came out, how good it is."""
    checked = Result.model_validate(result)
    return [*headline(checked), *key_figures(checked), *verdict(checked)]


def verdict(result: Result) -> list[Row]:
    """The certificate in a line: which checks passed, and the two numbers to read first. Empty without one."""
    judged = [check for check in checks(result) if check.passed is not None]
    if result.certificate is None or not judged:
        return []
    failed = [check.label.lower() for check in judged if not check.passed]
    outcome = f"not passed: {', '.join(failed)}" if failed else f"all {len(judged)} checks passed"
    gap, regret = result.certificate.gap, result.certificate.max_regret
    numbers = [f"{name} {value:.1e}" for name, value in (("gap", gap), ("largest regret", regret)) if value is not None]
    return [("Certificate", "; ".join([outcome, *numbers]))]


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
    """A line of the certificate: `value` is None when not part of it, `passed` for a number told but not judged."""

    key: str
    label: str
    meaning: str
    value: str | None
    limit: str = ""
    passed: bool | None = None


@dataclass(frozen=True)
class _Rule:
    """How a number is judged: at most `within` times the largest price or load, or `within` itself."""

    key: str
    label: str
    meaning: str
    within: float
    of: Literal["itself", "price", "load"] = "itself"


_RULES = (
    _Rule(
        "max_regret",
        "Largest regret",
        "The most that any one player could still gain by deviating alone, relative. Zero is an equilibrium.",
        EQUILIBRIUM_WITHIN,
    ),
    _Rule(
        "max_home_regret",
        "Largest regret of a home",
        "What a home's best schedule at this price would bring it beyond the one it has, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    _Rule(
        "leader_regret",
        "Regret of the leader",
        "What the best price found would bring the leader beyond this one, the homes answering it, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    _Rule(
        "gap",
        "Gap to the reference",
        "How far the run falls short of the reference, relative: for a welfare leader the optimum of a planner who "
        "knows everybody's data, for a Stackelberg leader the best price found.",
        EQUILIBRIUM_WITHIN,
    ),
    _Rule(
        "price_residual",
        "Price residual",
        "The largest distance of the price from the marginal cost of the load, which is a welfare leader's price.",
        EQUILIBRIUM_WITHIN,
        "price",
    ),
    _Rule(
        "violation",
        "Broken limits",
        "The worst breach of any limit of a home, a storage or the leader's capacity, kW or kWh.",
        EQUILIBRIUM_WITHIN,
        "load",
    ),
    _Rule(
        "overclaim",
        "Overclaimed utility",
        "How much more utility a home claims than its schedule is worth, relative.",
        BOOKS_WITHIN,
    ),
    _Rule(
        "bill_residual",
        "Error of a bill",
        "The largest difference of a bill from price times load, relative.",
        BOOKS_WITHIN,
    ),
    _Rule(
        "balance_residual",
        "Error of the balance",
        "The largest difference of the load the leader saw from the sum of the homes' loads.",
        BOOKS_WITHIN,
        "load",
    ),
)


def checks(result: Result) -> list[Check]:
    """The certificate's numbers in plain words, judged where there is a limit. Empty without a certificate."""
    certificate, outcome = result.certificate, result.outcome
    if certificate is None or outcome is None:
        return []
    rate = f"{result.money}/kWh"
    scales = {
        "itself": (1.0, ""),
        "price": (max(map(abs, outcome.price)), rate),
        "load": (max(1.0, *map(abs, outcome.load_kw)), "kW"),
    }
    lines = [_judged(rule, getattr(certificate, rule.key), *scales[rule.of]) for rule in _RULES]
    return [_feasible(certificate.feasible), *lines, *_told(certificate, result.money, rate)]


def _feasible(feasible: bool | None) -> Check:
    value = None if feasible is None else "yes" if feasible else "no"
    return Check("feasible", "Feasible", "Whether every limit of every player is kept.", value, "yes", feasible)


def _judged(rule: _Rule, value: float | None, scale: float, unit: str) -> Check:
    if value is None:
        return Check(rule.key, rule.label, rule.meaning, None)
    limit = rule.within * scale
    # A gap below zero is no fault of the run: the reference is exact to its own tolerance only.
    return Check(rule.key, rule.label, rule.meaning, _tiny(value, unit), _tiny(limit, unit), value <= limit)


def _told(certificate: Certificate, money: str, rate: str) -> list[Check]:
    """What there is no right or wrong about."""
    lines = [
        (
            "load_residual",
            "Distance from the reference's loads",
            "The largest difference of a home's load from the one the reference finds best for it. Storage schedules "
            "that differ a little are worth almost the same, so this is not judged.",
            certificate.load_residual,
            "kW",
        ),
        (
            "system_utility",
            "System utility",
            "What leader and homes get together, worked out anew.",
            certificate.system_utility,
            money,
        ),
        (
            "welfare_system_utility",
            "System utility at the welfare price",
            "The most they could get together. A Stackelberg leader's own interest costs the difference.",
            certificate.welfare_system_utility,
            money,
        ),
    ]
    distance_meaning = "How far the price is from the welfare price, the one best for the system as a whole."
    for key, distance in (certificate.price_distance or {}).items():
        unit = "" if key == "relative" else rate
        label = f"Distance from the welfare price, {key}"
        lines.append((f"price_distance.{key}", label, distance_meaning, distance, unit))
        distance_meaning = ""
    return [
        Check(key, label, meaning, None if value is None else f"{number(value)} {unit}".strip())
        for key, label, meaning, value, unit in lines
    ]


def _tiny(value: float, unit: str) -> str:
    shown = f"{abs(value):.1e} {unit}".strip() if value else "0"
    return f"−{shown}" if value < 0 else shown


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
