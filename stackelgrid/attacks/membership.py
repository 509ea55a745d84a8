"""Membership: was this home in the sum?

Source: Homer et al., "Resolving individuals contributing trace amounts of DNA to highly complex mixtures", PLoS Genet.
2008; the statistic is that of Dwork, Smith, Steinke, Ullman and Vadhan, "Robust traceability from trace amounts", FOCS
2015. The adversary knows the home's exact load, and the mean and covariance of the loads of such homes. It holds what
the sum differs from n means against what the home differs from one: the likelihood ratio of two normal distributions.

Who is in a roster is no secret: its aggregator and its homes are told. The test says what an outsider learns of a sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stackelgrid.attacks.findings import Finding, Level
from stackelgrid.attacks.targets import Target, choose
from stackelgrid.attacks.views import GroupSums
from stackelgrid.wire.arrays import Array

NAME, WHAT = "membership", "was this home in the sum?"
_TARGETS = 200
_COIN = 0.5


def play(
    groups: Sequence[Sequence[Target]], level: Level, price: Array, strangers: Sequence[Target]
) -> Iterator[Finding]:
    """Play it on the sums of groups at a `price` (T,); half of the `strangers` are in no group, half are statistics.

    The error is the part of wrong answers, about members and as many others; a coin is wrong half the time. Who reads
    single answers knows.
    """
    size = len(groups[0])
    if level.sums == "off":
        yield Finding(NAME, level, size, WHAT, 0.0, _COIN, 1.0)
        return
    half = len(strangers) // 2
    known = np.array([target.find_load(price) for target in strangers[:half]])
    mean, spread = known.mean(axis=0), np.linalg.pinv(np.cov(known.T), hermitian=True)
    others, wrong = strangers[half:], []
    for number, (group, home) in enumerate(choose(groups, _TARGETS)):
        heard = GroupSums(group, sensitivities=level.sensitivity == "full").ask(price)
        assert heard is not None
        apart = heard.load / size - mean
        for target, is_member in ((group[home], True), (others[number % len(others)], False)):
            own = target.find_load(price) - mean
            wrong.append((apart @ spread @ own > own @ spread @ own / (2 * size)) != is_member)
    error = float(np.mean(wrong))
    yield Finding(NAME, level, size, WHAT, error, _COIN, 1 - error)
