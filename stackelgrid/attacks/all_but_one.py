"""Attack 8: hold everybody but one home, or one home and nobody else, or ask one home something else.

Source: derived; a differencing attack by whoever chooses which messages arrive. An aggregator asks two flat prices,
between which no stored energy moves. Where it holds everybody but one at the second, the sum changes by that home's
load alone: (v x_max / omega) (1 / p_2 - 1 / p_1). It may as well lose the answer of that home only and ask the second
price once more, when the home is back: the second sum differs from the first by the same. Or it asks everybody the
first price, that home the second: Pasquini, Francati and Ateniese, "Eluding secure aggregation in federated learning
via model inconsistency", CCS 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stackelgrid.attacks.findings import Finding, Level, judge, make_case
from stackelgrid.attacks.one_answer import ABOVE, WORTH, compare_worth
from stackelgrid.attacks.targets import Target, choose
from stackelgrid.attacks.views import RULES, GroupSums, Heard, Rule, describe
from stackelgrid.wire.arrays import Array

ALL_BUT_ONE, BACK, APART = "all but one held", "one held, then back", "another question for one"
_TARGETS = 40


def play(groups: Sequence[Sequence[Target]], level: Level, flat: Array) -> Iterator[Finding]:
    """Play it on groups around their `flat` price (T,); with `sums: off` nobody has to."""
    if level.sums == "off":
        return
    for name, attack, rule in (
        (ALL_BUT_ONE, hold_all_but, Rule.WHOLE),
        (BACK, hold_only, Rule.WHOLE),
        (APART, ask_apart, Rule.QUESTION),
    ):
        for rules in (RULES, RULES - {rule}):
            cases = []
            for group, home in choose(groups, _TARGETS):
                sums = GroupSums(group, sensitivities=level.sensitivity == "full", rules=rules)
                believed = attack(sums, home, flat)
                cases.append(make_case([target.secrets.worth for target in group], home, believed))
            yield judge(name, level, len(groups[0]), WORTH, cases, describe(rules))


def hold_all_but(sums: GroupSums, home: int, flat: Array) -> Array | None:
    """Find v x_max / omega (T,) of a home from a sum in which it alone has answered the second price."""
    first = sums.ask(flat)
    second = sums.ask(ABOVE * flat, lost=[other for other in range(sums.homes) if other != home])
    return _compare(first, second, flat)


def hold_only(sums: GroupSums, home: int, flat: Array) -> Array | None:
    """Find v x_max / omega (T,) of a home from a sum that lacks its answer to the second price and one that has it."""
    at_flat = sums.ask(flat)
    first = sums.ask(ABOVE * flat, lost=[home])
    second = sums.ask(ABOVE * flat)
    return None if first is at_flat else _compare(first, second, flat)


def ask_apart(sums: GroupSums, home: int, flat: Array) -> Array | None:
    """Find v x_max / omega (T,) of a home that is asked the second price while the others are asked the first again."""
    first = sums.ask(flat)
    second = sums.ask(flat, apart={home: ABOVE * flat})
    return _compare(first, second, flat)


def _compare(first: Heard | None, second: Heard | None, flat: Array) -> Array | None:
    """Compare two sums that differ by one home: at the `flat` price in the first, at the other in the second."""
    if first is None or second is None or second is first:
        return None
    return compare_worth(Heard(flat, first.load), Heard(ABOVE * flat, second.load))
