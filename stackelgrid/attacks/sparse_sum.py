"""Attack 2: entries of the summed couplings to which only one home contributes.

Source: derived from [UO-4]; the rule that it breaks is that of small cells in statistics (Cox, "Suppression methodology
and statistical disclosure control", JASA 1980). A home's dL/dp couples two slots only while no limit of its storage
lies between them, and that of a car while it is at home. So few homes couple slots far from each other, at some price
one alone. Which entries these are follows from what is usual: only cars couple the evening with the morning and neither
with noon. The adversary is taken to know it.
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

    Of a group it takes the entry to which the fewest homes contribute, in whatever round, for that of one of them.
    """
    if level.sensitivity == "none":
        return
    cases = []
    for group in groups:
        homes = [[_find_coupling(Heard.of(price, target.answer([price]))) for target in group] for price in prices]
        if level.sums == "off":
            cases += [_take_entry([of_round[home] for of_round in homes], homes) for home in range(len(group))]
        else:
            sums = GroupSums(group, sensitivities=True)
            cases.append(_take_entry([_find_coupling(sums.ask(price)) for price in prices], homes))
    yield judge(NAME, level, len(groups[0]), WHAT, cases)


def _find_coupling(heard: Heard | None) -> Array:
    """Find the coupling of an answer, (T, T); zero where it has none."""
    assert heard is not None
    return np.zeros((len(heard.price),) * 2) if heard.coupling is None else heard.coupling


def _take_entry(shown: Sequence[Array], homes: Sequence[Sequence[Array]]) -> Case | None:
    """Take an entry of the couplings `shown`, one a round, to which the fewest `homes` of that round contribute.

    It is compared with that of the home that comes nearest; None where no slots are coupled.
    """
    there = np.abs(np.array(homes)) > _ROUNDING  # (rounds, homes, T, T)
    contributors = np.where(np.abs(np.array(shown)) > _ROUNDING, there.sum(axis=1), np.inf)
    contributors[:, np.tri(contributors.shape[1], dtype=bool).T] = np.inf  # below the diagonal only
    number, row, column = (int(place) for place in np.unravel_index(np.argmin(contributors), contributors.shape))
    if not np.isfinite(contributors[number, row, column]):
        return None
    believed = shown[number][row, column]
    entries = np.array([each[row, column] for each in homes[number]])
    nearest = entries[np.argmin(np.abs(entries - believed))]
    return Case(np.array(believed), np.array(nearest), np.array(entries.mean()))
