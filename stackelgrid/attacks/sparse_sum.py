"""Attack 2: entries of the summed couplings to which only one home contributes.

Source: derived from [UO-4]; the reason is that of cell suppression in statistics, the n-rule for small cells (Cox,
"Suppression methodology and statistical disclosure control", JASA 1980). A home's dL/dp couples two slots only while no
limit of its storage lies between them. So far from each other in time few homes couple any, and the least entry of
the sum is taken for one home's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stackelgrid.attacks.findings import Case, Finding, Level, judge
from stackelgrid.attacks.targets import Target
from stackelgrid.attacks.views import GroupSums, Heard
from stackelgrid.wire.arrays import Array

NAME = "sparse sum"
WHAT = "an entry of one home's coupling"
_ROUNDING = 1e-7
"""Smaller entries, kW per money per kWh, may come from rounding."""


def play(groups: Sequence[Sequence[Target]], level: Level, prices: Sequence[Array]) -> Iterator[Finding]:
    """Play it on groups, at the `prices` of a negotiation, (T,) each; without sensitivities there is nothing to attack.

    Of a group it takes the least entry in any round. Whose it is does not show: it is compared with that of the home
    that comes nearest.
    """
    if level.sensitivity == "none":
        return
    cases = []
    for group in groups:
        homes = [[_find_coupling(Heard.of(price, target.answer([price]))) for target in group] for price in prices]
        if level.sums == "off":
            for home in range(len(group)):
                cases.append(_take_least([of_round[home] for of_round in homes], homes, len(group)))
        else:
            sums = GroupSums(group, sensitivities=True)
            heard = [sums.ask(price) for price in prices]
            cases.append(_take_least([_find_coupling(each) for each in heard if each is not None], homes, len(group)))
    yield judge(NAME, level, len(groups[0]), WHAT, cases)


def _find_coupling(heard: Heard) -> Array:
    """Find the coupling of an answer, (T, T), zero where it has none."""
    return np.zeros((len(heard.price),) * 2) if heard.coupling is None else heard.coupling


def _take_least(shown: Sequence[Array], homes: Sequence[Sequence[Array]], size: int) -> Case | None:
    """Take the least entry of the couplings `shown`, one a round, for that of one of the `homes` in that round."""
    entries = {number: entry for number, each in enumerate(shown) if (entry := find_least_entry(each)) is not None}
    if not entries:
        return None
    number = min(entries, key=lambda number: abs(shown[number][entries[number]]))
    entry = entries[number]
    of_homes = [each[entry] for each in homes[number]]
    believed = shown[number][entry]
    nearest = min(of_homes, key=lambda each: abs(each - believed))
    return Case(np.array(believed), np.array(nearest), np.array(np.sum(of_homes) / size))


def find_least_entry(coupling: Array) -> tuple[int, int] | None:
    """Find the entry between two slots that is least in size and not zero, None where no slots are coupled."""
    size = np.where(np.tri(len(coupling), k=-1, dtype=bool) & (np.abs(coupling) > _ROUNDING), np.abs(coupling), np.inf)
    row, column = np.unravel_index(np.argmin(size), size.shape)
    return (int(row), int(column)) if np.isfinite(size[row, column]) else None
