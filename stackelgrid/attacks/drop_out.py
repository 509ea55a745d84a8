"""Attack 3: a home that drops out between two sums.

Source: differencing of two sums (Denning, "Secure statistical databases with random sample queries", TODS 1980). Where
the home is left out of the second sum, the difference is its answer and the change of the others. That is known from
their sensitivities, and goes to zero as the price settles.

Where its earlier answer stands in the second sum instead, its presence does not show. But -dx/dp p^2 = v x_max / omega
of no home changes with the price [UO-10]. So with sensitivities the sum of that changes by what is of the held home
alone, times (p / p before)^2 - 1. No adversary has to do anything: any home that is offline for a round is enough.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from stackelgrid.attacks.findings import Finding, Level, judge, make_case
from stackelgrid.attacks.targets import Target, choose
from stackelgrid.attacks.views import RULES, GroupSums, Heard, Rule, SingleAnswers, describe
from stackelgrid.wire.arrays import Array

NAME = "drop-out"
_TARGETS = 40
"""So many homes drop out for one finding, one at a time."""


def play(groups: Sequence[Sequence[Target]], level: Level, prices: Sequence[Array]) -> Iterator[Finding]:
    """Play it on groups, in the third and the last round of a negotiation of so many `prices`, (T,) each."""
    kept = [RULES] if level.sums == "off" else [RULES, RULES - {Rule.WHOLE}]
    for number in sorted({2, len(prices) - 1}):
        for rules in kept:
            before, after = prices[number - 1], prices[number]
            cases = [
                make_case(
                    [target.find_load(before) for target in group],
                    home,
                    find_missing_load(group, home, level, before, after, rules),
                )
                for group, home in choose(groups, _TARGETS)
            ]
            yield judge(NAME, level, len(groups[0]), f"load, round {number + 1}", cases, describe(rules))
    if level == ("committee", "full"):
        for rules in (RULES, RULES - {Rule.WHOLE}):
            cases = [
                make_case([target.secrets.worth for target in group], home, find_held_worth(group, home, prices, rules))
                for group, home in choose(groups, _TARGETS)
            ]
            yield judge(NAME, level, len(groups[0]), "v x_max/ω, round 3", cases, describe(rules))


def find_missing_load(
    group: Sequence[Target], home: int, level: Level, before: Array, after: Array, rules: Collection[Rule]
) -> Array | None:
    """Find the load (T,) of a home that answers a price and is offline at the next; None where nothing new comes."""
    if level.sums == "off":
        heard = SingleAnswers(group, sensitivities=level.sensitivity == "full").ask(home, before)
        return None if heard is None else heard.load
    sums = GroupSums(group, sensitivities=level.sensitivity == "full", rules=rules)
    first = sums.ask(before)
    second = sums.ask(after, excluded=[home])
    if first is None or second is None or second is first:
        return None
    return first.load + _foretell(first, after - before) - second.load


def find_held_worth(
    group: Sequence[Target], home: int, prices: Sequence[Array], rules: Collection[Rule]
) -> Array | None:
    """Find v x_max / omega (T,) of a home that answers the second price and is offline at the third."""
    sums = GroupSums(group, sensitivities=True, rules=rules)
    first, second = sums.ask(prices[1]), sums.ask(prices[2], lost=[home])
    if first is None or second is None or second is first:
        return None
    assert first.slope is not None and second.slope is not None
    grown = first.slope * first.price**2 - second.slope * second.price**2
    return grown / ((second.price / first.price) ** 2 - 1)


def _foretell(heard: Heard, step: Array) -> Array:
    """Foretell how a load changes over a step of the price, both (T,): by its sensitivity, else not at all."""
    if heard.slope is None:
        return 0 * step
    across = 0.0 if heard.coupling is None else heard.coupling @ step
    return heard.slope * step + across
