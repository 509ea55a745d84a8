"""Attacks 4, 6 and 7, on the masks themselves: two lists for a round, a mask used twice, members who tell.

Source: two lists are a server that tells parties different things (Bell et al., "Secure single-server aggregation with
(poly)logarithmic overhead", CCS 2020). A mask used twice is a two-time pad. Masks are those of pseudorandom secret
sharing, of which d members miss one key and d + 1 none (Cramer, Damgård and Ishai, TCC 2005). All of it is played with
real keys and masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from stackelgrid.attacks.findings import Finding, Level, judge, make_case
from stackelgrid.attacks.masked_group import MaskedGroup
from stackelgrid.attacks.one_answer import ABOVE, LOAD, WORTH, compare_worth
from stackelgrid.attacks.targets import Target
from stackelgrid.attacks.views import RULES, Heard, Rule, describe
from stackelgrid.masks.roster import MISSING
from stackelgrid.wire.arrays import Array

TWO_LISTS, TWICE, TOLD = "two lists for a round", "a mask used twice", "members tell"
_TARGETS = 20
"""So many homes of one group are attacked."""


def play(groups: Sequence[Sequence[Target]], level: Level, flat: Array, price: Array) -> Iterator[Finding]:
    """Play them on the first of the groups; with `sums: off` there are no masks."""
    if level.sums == "off":
        return
    group = groups[0]
    masked = MaskedGroup(group, len(flat), sensitivities=level.sensitivity == "full")
    homes = range(min(_TARGETS, len(group)))
    loads, worths = [target.find_load(price) for target in group], [target.secrets.worth for target in group]

    def report(attack: str, what: str, find: Callable[[int], Array | None], variant: str) -> Finding:
        true = worths if what == WORTH else loads
        return judge(attack, level, len(group), what, [make_case(true, home, find(home)) for home in homes], variant)

    for number, rules in enumerate((RULES, RULES - {Rule.ONE_LIST, Rule.WHOLE}), 1):
        of_lists = find_by_two_lists(masked, len(group), number, price, refuses=Rule.ONE_LIST in rules)
        yield report(TWO_LISTS, LOAD, of_lists, describe(rules))
    for rules in (RULES, RULES - {Rule.NONCE, Rule.QUESTION}):
        of_reuse = find_by_reuse(masked, flat, reuses=Rule.NONCE not in rules)
        yield report(TWICE, WORTH, of_reuse, describe(rules))
    for members in (MISSING, MISSING + 1):
        of_telling = find_by_telling(masked, price, members)
        yield report(TOLD, LOAD, of_telling, f"{members} of the committee")


def find_by_two_lists(
    masked: MaskedGroup, size: int, number: int, price: Array, *, refuses: bool
) -> Callable[[int], Array | None]:
    """Find a home's load from the sums of two lists for round `number`, one of them without it.

    It finds None where members refuse the second list.
    """
    answers = {home: masked.answer(home, number, price) for home in range(size)}
    whole = masked.find_sum(price, answers)

    def find(home: int) -> Array | None:
        rest = {other: answer for other, answer in answers.items() if other != home}
        second = masked.find_sum(price, rest) if refuses else masked.break_sum(rest)
        return None if whole is None or second is None else whole - second

    return find


def find_by_reuse(masked: MaskedGroup, flat: Array, *, reuses: bool) -> Callable[[int], Array]:
    """Find v x_max / omega (T,) of a home from the difference of two answers of a round with their masks on."""

    def find(home: int) -> Array:
        first = masked.answer(home, 3, flat)
        second = masked.reuse_mask(home, first, ABOVE * flat) if reuses else masked.answer(home, 3, ABOVE * flat)
        nothing = Heard(ABOVE * flat, 0 * flat)
        return compare_worth(Heard(flat, masked.read_difference(first, second)), nothing)

    return find


def find_by_telling(masked: MaskedGroup, price: Array, members: int) -> Callable[[int], Array]:
    """Find a home's load from what it sends and from the keys that so many members of the committee hold."""
    return lambda home: masked.unmask(home, masked.answer(home, 4, price), range(members))
