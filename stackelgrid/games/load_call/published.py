"""Claims of *A Stackelberg Game of Demand Response from the Aggregator's Perspective*."""

from __future__ import annotations

import numpy as np

from stackelgrid.claims import Figure, Finding, Paper, Runs, Trend, format_residual
from stackelgrid.games.load_call.figures import DRAWINGS
from stackelgrid.games.load_call.outcome import LoadCallOutcome
from stackelgrid.scenarios import ScenarioError, load

GAME = "load_call"
LARGER = "leader.target_kwh=1500"
EASY = tuple(f"homes.{number}.alpha=0.002" for number in range(10))
"""Small coefficients: every consumer is willing to shift its whole call."""
FAIRNESS = ("0.005", "0.002", "0.001", "0.0005", "0.0002", "0.0001", "0.00001")
UNFAIR = "aggregator.fairness=0.0001"
_EQUAL_KWH = 1e-6
"""Calls that differ by less are equal but for rounding."""


def _play(runs: Runs, *overrides: str) -> LoadCallOutcome:
    outcome: LoadCallOutcome = runs.outcome(GAME, *overrides)
    return outcome


def _find_full_compliers(outcome: LoadCallOutcome) -> list[str]:
    return [name for name in outcome.calls_kwh if outcome.complies(name)]


def _join_names(consumers: list[str]) -> str:
    return ", ".join(name.removeprefix("c") for name in consumers)


def _compare_calls(runs: Runs) -> Finding:
    calls = list(_play(runs, *EASY).calls_kwh.values())
    return Finding(
        f"every call between {min(calls):.2f} and {max(calls):.2f} kWh", max(calls) - min(calls) < _EQUAL_KWH
    )


def _compare_calls_by_compliance(runs: Runs, *overrides: str) -> Finding:
    outcome = _play(runs, *overrides)
    full = _find_full_compliers(outcome)
    willing, rest = ([c for n, c in outcome.calls_kwh.items() if (n in full) is whole] for whole in (True, False))
    here = f"those who comply fully are called {min(willing):.1f} kWh or more, the rest {max(rest):.1f} or less"
    return Finding(here, max(rest) < min(willing))


def _check_compliers(runs: Runs) -> Finding:
    full = _find_full_compliers(_play(runs))
    return Finding(f"consumers {_join_names(full)}", full == ["c2", "c6", "c7", "c9"])


def _compare_compliers(runs: Runs) -> Finding:
    small, large = _find_full_compliers(_play(runs)), _find_full_compliers(_play(runs, LARGER))
    return Finding(f"consumers {_join_names(small)} at 800 kWh, {_join_names(large)} at 1500 kWh", small == large)


def _find_most(by_consumer: dict[str, float]) -> str:
    return max(by_consumer, key=lambda name: by_consumer[name])


def _check_largest_reward(runs: Runs) -> Finding:
    outcome = _play(runs)
    most = _find_most(outcome.rewards)
    return Finding(f"consumer {_join_names([most])}, {outcome.rewards[most]:.2f} THB", most == "c2")


def _check_largest_call(runs: Runs) -> Finding:
    outcome = _play(runs, LARGER)
    most = _find_most(outcome.calls_kwh)
    calls = outcome.calls_kwh
    here = f"consumer {_join_names([most])} is called most, {calls[most]:.1f} kWh, consumer 3 {calls['c3']:.1f} kWh"
    return Finding(here, most == "c3")


def _compare_bills(runs: Runs) -> Finding:
    outcome = _play(runs)
    less = [
        name for name in outcome.bills if outcome.bills[name] - outcome.rewards[name] < outcome.baseline_bills[name]
    ]
    return Finding(f"{len(less)} of {len(outcome.bills)} consumers, rewards counted", len(less) == len(outcome.bills))


def _compare_commissions(runs: Runs) -> Finding:
    rates = [o.commission / o.achieved_kwh for o in (_play(runs), _play(runs, LARGER))]
    return Finding(f"{rates[0]:.3f} and {rates[1]:.3f} THB/kWh at 800 and 1500 kWh", abs(rates[0] - rates[1]) < 1e-9)


def _check_deviation_rises(runs: Runs) -> Finding:
    unfair = _list_deviations(runs)
    rising = int(np.sum(np.diff(unfair) > 1e-6))
    here = (
        f"squared deviation {unfair[0]:.0f} to {unfair[-1]:.0f} kWh² as λ goes from {FAIRNESS[0]} to {FAIRNESS[-1]}, "
        f"rising at {rising} of {len(unfair) - 1} steps"
    )
    return Finding(here, rising == len(unfair) - 1)


def _check_deviation_never_falls(runs: Runs) -> Finding:
    unfair = np.array(_list_deviations(runs))
    between = (unfair > unfair[0] + 1e-6) & (unfair < unfair[-1] - 1e-6)
    here = (
        f"squared deviation {unfair[0]:.0f} kWh² at first, {unfair[-1]:.0f} at the limit, between the two at "
        f"{between.sum()} of {len(unfair)} values; falling at {np.sum(np.diff(unfair) < -1e-6)} steps"
    )
    return Finding(here, bool(np.all(np.diff(unfair) > -1e-6) and unfair[-1] > unfair[0] + 1e-6))


def _list_deviations(runs: Runs) -> list[float]:
    """List the squared deviation of the calls as λ falls, kWh²."""
    return [_play(runs, LARGER, f"aggregator.fairness={f}").squared_deviation for f in FAIRNESS]


def _check_concentration(runs: Runs) -> Finding:
    fair, unfair = (_play(runs, LARGER, f"aggregator.fairness={f}") for f in (FAIRNESS[0], FAIRNESS[-1]))
    here = (
        f"{fair.calls_kwh['c2']:.0f} to {unfair.calls_kwh['c2']:.0f} kWh of 1500 to consumer 2; achieved "
        f"{100 * fair.success_rate:.1f} to {100 * unfair.success_rate:.1f} %"
    )
    return Finding(here, _find_most(unfair.calls_kwh) == "c2" and unfair.calls_kwh["c2"] > fair.calls_kwh["c2"])


def _check_zero_fairness(runs: Runs) -> Finding:
    try:
        load(GAME, [LARGER, "aggregator.fairness=0"])
    except ScenarioError:
        return Finding("refused: without the fairness term the best calls are not unique", False)
    return Finding("played", True)


def _compare_with_mpcc(runs: Runs) -> Finding:
    gaps = [runs.certificate(GAME, *target)["mpcc"]["gap"] for target in ((), (LARGER,))]
    worst = max(map(abs, gaps))
    return Finding(
        f"relative difference of the optima at 800 and 1500 kWh {format_residual(worst, 1e-6)}", worst < 1e-6
    )


def _make_call_figure(name: str) -> Figure:
    published = {"c1": "52.4", "c2": "152.4"}[name]
    what = f"call of consumer {name.removeprefix('c')} at 800 kWh"
    return Figure(
        "III-B",
        what,
        published,
        "kWh",
        "paper",
        "shipped case",
        lambda runs: _play(runs).calls_kwh[name],
        True,
    )


def _make_success_figure(published: str, *target: str) -> Figure:
    return Figure(
        "III-A",
        f"achieved of {'1500' if target else '800'} kWh",
        published,
        "%",
        "paper",
        f"`{target[0]}`" if target else "shipped case",
        lambda runs: 100 * _play(runs, *target).success_rate,
        True,
    )


PAPER = Paper(
    GAME,
    "A Stackelberg Game of Demand Response from the Aggregator's Perspective",
    "The paper prints three quantities of two consumers, two rates of success and who complies; its ten consumers' "
    "data are not given. Ours are made from those figures, so that agreement with them is no evidence; that one set of "
    "consumers agrees with all of them at both targets is a little.",
    (
        _make_call_figure("c2"),
        _make_call_figure("c1"),
        Figure(
            "III-B",
            "consumer 1 shifts at 800 kWh",
            "7.55",
            "kWh",
            "paper",
            "shipped case",
            lambda runs: _play(runs).shifted_kwh["c1"],
            True,
        ),
        _make_success_figure("84"),
        _make_success_figure("73", LARGER),
        Figure(
            "III-B",
            "κ/(2λ), the difference of the two calls, both inside their bounds",
            "100.0",
            "kWh",
            "derived",
            "shipped case",
            lambda runs: _play(runs).calls_kwh["c2"] - _play(runs).calls_kwh["c1"],
            True,
        ),
    ),
    (
        Trend(
            "III-A",
            "with small coefficients of dissatisfaction all are called alike",
            "paper",
            "every `alpha` 0.002, 800 kWh",
            _compare_calls,
        ),
        Trend("III-A, fig. 2", "the reluctant are called less", "paper", "shipped case", _compare_calls_by_compliance),
        Trend(
            "III-A, fig. 3",
            "at 1500 kWh, too, the reluctant are called less",
            "paper",
            f"`{LARGER}`",
            lambda runs: _compare_calls_by_compliance(runs, LARGER),
            "At the λ that the calls printed for 800 kWh imply, fairness weighs so much that all but the largest are "
            "called for their whole baseline.",
        ),
        Trend(
            "III-A, fig. 3",
            "at 1500 kWh the reluctant are called less, with a smaller λ",
            "derived",
            f"`{LARGER}`, `{UNFAIR}`",
            lambda runs: _compare_calls_by_compliance(runs, LARGER, UNFAIR),
        ),
        Trend("III-B, fig. 4", "2, 6, 7 and 9 comply fully", "paper", "shipped case", _check_compliers),
        Trend(
            "III-B, fig. 5",
            "at 1500 kWh the same comply fully, and the same partially",
            "paper",
            f"shipped case and `{LARGER}`",
            _compare_compliers,
        ),
        Trend("III-B", "consumer 2 is rewarded most", "paper", "shipped case", _check_largest_reward),
        Trend(
            "III-A, fig. 3 and 6",
            "at 1500 kWh consumer 3 is called most",
            "paper",
            f"`{LARGER}`",
            _check_largest_call,
            "The paper's text names consumer 2 as the one with by far the highest consumption at 800 kWh and consumer "
            "3 as the one who is called most at 1500 kWh; both cannot be the 800-kWh consumer. Ours is consumer 2.",
        ),
        Trend("abstract, III-B", "consumers pay less", "paper", "shipped case", _compare_bills),
        Trend(
            "III-A",
            "the commission is proportional to what is shifted",
            "paper",
            f"shipped case and `{LARGER}`",
            _compare_commissions,
        ),
        Trend(
            "III-C",
            "calls are less fair the smaller λ",
            "paper",
            f"`{LARGER}`, {len(FAIRNESS)} values of `aggregator.fairness`",
            _check_deviation_rises,
            "Down to λ = 1/920 every consumer but the second is called for all it draws, and from λ = κ/(2 max d) = "
            "1/1600 down the calls no longer change. The deviation rises between the two.",
        ),
        Trend(
            "III-C",
            "calls are never fairer with a smaller λ, and less fair until the limit is reached",
            "derived",
            f"`{LARGER}`, {len(FAIRNESS)} values of `aggregator.fairness`",
            _check_deviation_never_falls,
        ),
        Trend(
            "III-C, fig. 6",
            "without fairness the calls concentrate on the largest consumer",
            "paper",
            f"`{LARGER}`, `aggregator.fairness` {FAIRNESS[0]} against {FAIRNESS[-1]}",
            _check_concentration,
        ),
        Trend(
            "III-C, fig. 6",
            "at λ = 0 the game has the one solution that is shown",
            "paper",
            f"`{LARGER}`, `aggregator.fairness=0`",
            _check_zero_fairness,
            "At λ = 0 many calls are equally good, and which one a solver returns is chance. The limit of small λ is "
            "unique and is offered in its place.",
        ),
        Trend(
            "II-E",
            "the bilevel program is its single-level form with KKT conditions, solved by mixed-integer methods",
            "paper",
            "certificates: SCIP on the complementarity form against the calls settled on",
            _compare_with_mpcc,
        ),
    ),
    drawings=DRAWINGS,
    source="Seangleng Khe, Parin Chaipunya and Athikom Bangviwat, 2025, arXiv:2507.12708, "
    "doi:10.48550/arXiv.2507.12708.",
)
