"""Claims of *A Stackelberg Game of Demand Response from the Aggregator's Perspective*."""

from __future__ import annotations

import numpy as np

from stackelgrid.claims import Figure, Outcome, Paper, Runs, Seen, Trend, within
from stackelgrid.scenarios.scenario import ScenarioError, load

GAME = "load_call"
LARGER = "leader.target_kwh=1500"
EASY = tuple(f"homes.{number}.alpha=0.002" for number in range(10))
"""Small coefficients: everybody is willing to shift all that is asked for."""
FAIRNESS = ("0.005", "0.002", "0.001", "0.0005", "0.0002", "0.0001", "0.00001")
UNFAIR = "aggregator.fairness=0.0001"
_WHOLE = 1e-6
"""kWh by which a shift may miss its call and still comply fully."""


def _full(outcome: Outcome) -> list[str]:
    """Who complies fully."""
    shifted = outcome["shifted_kwh"]
    return [name for name, call in outcome["calls_kwh"].items() if shifted[name] > call - _WHOLE]


def _names(consumers: list[str]) -> str:
    return ", ".join(name.removeprefix("c") for name in consumers)


def _calls_alike(runs: Runs) -> Seen:
    calls = list(runs.outcome(GAME, *EASY)["calls_kwh"].values())
    return Seen(f"every call between {min(calls):.2f} and {max(calls):.2f} kWh", max(calls) - min(calls) < _WHOLE)


def _reluctant_called_less(runs: Runs, *overrides: str) -> Seen:
    outcome = runs.outcome(GAME, *overrides)
    full = _full(outcome)
    willing, rest = ([c for n, c in outcome["calls_kwh"].items() if (n in full) is whole] for whole in (True, False))
    here = f"those who comply fully are called {min(willing):.1f} kWh or more, the rest {max(rest):.1f} or less"
    return Seen(here, max(rest) < min(willing))


def _who_complies(runs: Runs) -> Seen:
    full = _full(runs.outcome(GAME))
    return Seen(f"consumers {_names(full)}", full == ["c2", "c6", "c7", "c9"])


def _same_comply(runs: Runs) -> Seen:
    small, large = _full(runs.outcome(GAME)), _full(runs.outcome(GAME, LARGER))
    return Seen(f"consumers {_names(small)} at 800 kWh, {_names(large)} at 1500 kWh", small == large)


def _most(outcome: Outcome, key: str) -> str:
    numbers: dict[str, float] = outcome[key]
    return max(numbers, key=lambda name: numbers[name])


def _second_rewarded_most(runs: Runs) -> Seen:
    outcome = runs.outcome(GAME)
    most = _most(outcome, "rewards")
    return Seen(f"consumer {_names([most])}, {outcome['rewards'][most]:.2f} THB", most == "c2")


def _third_called_most(runs: Runs) -> Seen:
    outcome = runs.outcome(GAME, LARGER)
    most = _most(outcome, "calls_kwh")
    calls = outcome["calls_kwh"]
    here = f"consumer {_names([most])} is called most, {calls[most]:.1f} kWh, consumer 3 {calls['c3']:.1f} kWh"
    return Seen(here, most == "c3")


def _pay_less(runs: Runs) -> Seen:
    outcome = runs.outcome(GAME)
    less = [
        name
        for name in outcome["bills"]
        if outcome["bills"][name] - outcome["rewards"][name] < outcome["baseline_bills"][name]
    ]
    return Seen(
        f"{len(less)} of {len(outcome['bills'])} consumers, rewards counted", len(less) == len(outcome["bills"])
    )


def _commission(runs: Runs) -> Seen:
    rates = [o["commission"] / o["achieved_kwh"] for o in (runs.outcome(GAME), runs.outcome(GAME, LARGER))]
    return Seen(f"{rates[0]:.3f} and {rates[1]:.3f} THB/kWh at 800 and 1500 kWh", abs(rates[0] - rates[1]) < 1e-9)


def _less_fair(runs: Runs) -> Seen:
    unfair = _unfair(runs)
    rising = int(np.sum(np.diff(unfair) > 1e-6))
    here = (
        f"squared deviation {unfair[0]:.0f} to {unfair[-1]:.0f} kWh² as λ goes from {FAIRNESS[0]} to {FAIRNESS[-1]}, "
        f"rising at {rising} of {len(unfair) - 1} steps"
    )
    return Seen(here, rising == len(unfair) - 1)


def _never_fairer(runs: Runs) -> Seen:
    unfair = np.array(_unfair(runs))
    between = (unfair > unfair[0] + 1e-6) & (unfair < unfair[-1] - 1e-6)
    here = (
        f"squared deviation {unfair[0]:.0f} kWh² at first, {unfair[-1]:.0f} at the limit, between the two at "
        f"{between.sum()} of {len(unfair)} values; falling at {np.sum(np.diff(unfair) < -1e-6)} steps"
    )
    return Seen(here, bool(np.all(np.diff(unfair) > -1e-6) and unfair[-1] > unfair[0] + 1e-6))


def _unfair(runs: Runs) -> list[float]:
    """The squared deviation of the calls as λ falls, kWh²."""
    return [runs.outcome(GAME, LARGER, f"aggregator.fairness={f}")["squared_deviation"] for f in FAIRNESS]


def _concentrates(runs: Runs) -> Seen:
    fair, unfair = (runs.outcome(GAME, LARGER, f"aggregator.fairness={f}") for f in (FAIRNESS[0], FAIRNESS[-1]))
    here = (
        f"{fair['calls_kwh']['c2']:.0f} to {unfair['calls_kwh']['c2']:.0f} kWh of 1500 to consumer 2; achieved "
        f"{100 * fair['success_rate']:.1f} to {100 * unfair['success_rate']:.1f} %"
    )
    return Seen(here, _most(unfair, "calls_kwh") == "c2" and unfair["calls_kwh"]["c2"] > fair["calls_kwh"]["c2"])


def _unique_at_zero(runs: Runs) -> Seen:
    try:
        load(GAME, [LARGER, "aggregator.fairness=0"])
    except ScenarioError:
        return Seen("refused: without the fairness term the best calls are not unique", False)
    return Seen("played", True)


def _mixed_integer_agrees(runs: Runs) -> Seen:
    gaps = [runs.certificate(GAME, *target)["mpcc"]["gap"] for target in ((), (LARGER,))]
    worst = max(map(abs, gaps))
    return Seen(f"relative difference of the optima at 800 and 1500 kWh {within(worst, 1e-6)}", worst < 1e-6)


def _call(name: str) -> Figure:
    published = {"c1": "52.4", "c2": "152.4"}[name]
    what = f"call of consumer {name.removeprefix('c')} at 800 kWh"
    return Figure(
        "III-B",
        what,
        published,
        "kWh",
        "paper",
        "shipped case",
        lambda runs: float(runs.outcome(GAME)["calls_kwh"][name]),
        True,
    )


def _success(published: str, *target: str) -> Figure:
    return Figure(
        "III-A",
        f"achieved of {'1500' if target else '800'} kWh",
        published,
        "%",
        "paper",
        f"`{target[0]}`" if target else "shipped case",
        lambda runs: 100 * float(runs.outcome(GAME, *target)["success_rate"]),
        True,
    )


PAPER = Paper(
    GAME,
    "A Stackelberg Game of Demand Response from the Aggregator's Perspective",
    "The paper prints three quantities of two consumers, two rates of success and who complies; its ten consumers' "
    "data are not given. Ours are made from those figures, so that agreement with them is no evidence; that one set of "
    "consumers agrees with all of them at both targets is a little.",
    (
        _call("c2"),
        _call("c1"),
        Figure(
            "III-B",
            "consumer 1 shifts at 800 kWh",
            "7.55",
            "kWh",
            "paper",
            "shipped case",
            lambda runs: float(runs.outcome(GAME)["shifted_kwh"]["c1"]),
            True,
        ),
        _success("84"),
        _success("73", LARGER),
        Figure(
            "III-B",
            "κ/(2λ), the difference of the two calls, both inside their bounds",
            "100.0",
            "kWh",
            "derived",
            "shipped case",
            lambda runs: float(np.subtract(*(runs.outcome(GAME)["calls_kwh"][name] for name in ("c2", "c1")))),
            True,
        ),
    ),
    (
        Trend(
            "III-A",
            "with small coefficients of dissatisfaction all are called alike",
            "paper",
            "every `alpha` 0.002, 800 kWh",
            _calls_alike,
        ),
        Trend("III-A, fig. 2", "the reluctant are called less", "paper", "shipped case", _reluctant_called_less),
        Trend(
            "III-A, fig. 3",
            "at 1500 kWh, too, the reluctant are called less",
            "paper",
            f"`{LARGER}`",
            lambda runs: _reluctant_called_less(runs, LARGER),
            "At the λ that the calls printed for 800 kWh imply, fairness weighs so much that all but the largest are "
            "called for their whole baseline.",
        ),
        Trend(
            "III-A, fig. 3",
            "at 1500 kWh the reluctant are called less, with a smaller λ",
            "derived",
            f"`{LARGER}`, `{UNFAIR}`",
            lambda runs: _reluctant_called_less(runs, LARGER, UNFAIR),
        ),
        Trend("III-B, fig. 4", "2, 6, 7 and 9 comply fully", "paper", "shipped case", _who_complies),
        Trend(
            "III-B, fig. 4",
            "at 1500 kWh the same comply fully, and the same partially",
            "paper",
            f"shipped case and `{LARGER}`",
            _same_comply,
        ),
        Trend("III-B", "consumer 2 is rewarded most", "paper", "shipped case", _second_rewarded_most),
        Trend(
            "III-A, fig. 3 and 6",
            "at 1500 kWh consumer 3 is called most",
            "paper",
            f"`{LARGER}`",
            _third_called_most,
            "The paper's text names consumer 2 as the one with by far the highest consumption at 800 kWh and consumer "
            "3 as the one who is called most at 1500 kWh; both cannot be the 800-kWh consumer. Ours is consumer 2.",
        ),
        Trend("abstract, III-B", "consumers pay less", "paper", "shipped case", _pay_less),
        Trend(
            "III-A",
            "the commission is proportional to what is shifted",
            "paper",
            f"shipped case and `{LARGER}`",
            _commission,
        ),
        Trend(
            "III-C",
            "calls are less fair the smaller λ",
            "paper",
            f"`{LARGER}`, {len(FAIRNESS)} values of `aggregator.fairness`",
            _less_fair,
            "Down to λ = 1/920 every consumer but the second is called for all it draws, and from λ = κ/(2 max d) = "
            "1/1600 down the calls no longer change. The deviation rises between the two.",
        ),
        Trend(
            "III-C",
            "calls are never fairer with a smaller λ, and less fair until the limit is reached",
            "derived",
            f"`{LARGER}`, {len(FAIRNESS)} values of `aggregator.fairness`",
            _never_fairer,
        ),
        Trend(
            "III-C, fig. 6",
            "without fairness the calls concentrate on the largest consumer",
            "paper",
            f"`{LARGER}`, `aggregator.fairness` {FAIRNESS[0]} against {FAIRNESS[-1]}",
            _concentrates,
        ),
        Trend(
            "III-C, fig. 6",
            "at λ = 0 the game has the one solution that is shown",
            "paper",
            f"`{LARGER}`, `aggregator.fairness=0`",
            _unique_at_zero,
            "At λ = 0 many calls are equally good, and which one a solver returns is chance. The limit of small λ is "
            "unique and is offered in its place.",
        ),
        Trend(
            "II-E",
            "the bilevel program is its single-level form with KKT conditions, solved by mixed-integer methods",
            "paper",
            "certificates: SCIP on the complementarity form against the calls settled on",
            _mixed_integer_agrees,
        ),
    ),
)
