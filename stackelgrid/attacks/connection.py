"""No attack, but a better guess than sum/n: by what the connection of each home carries.

Source: derived. An aggregator is told the power of each connection, by which it checks answers. Large connections
belong to large loads, so that it shares a sum in proportion. No protocol of sums hides that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stackelgrid.attacks.findings import Finding, Level, judge, make_case
from stackelgrid.attacks.one_answer import LOAD
from stackelgrid.attacks.targets import Target
from stackelgrid.attacks.views import GroupSums
from stackelgrid.wire.arrays import Array

NAME = "share by connection"


def play(groups: Sequence[Sequence[Target]], level: Level, price: Array) -> Iterator[Finding]:
    """Play it on the sums of groups at a `price` (T,)."""
    if level.sums == "off":
        return
    cases = []
    for group in groups:
        heard = GroupSums(group, sensitivities=level.sensitivity == "full").ask(price)
        loads, total = [target.find_load(price) for target in group], sum(target.kw for target in group)
        for home, target in enumerate(group):
            cases.append(make_case(loads, home, None if heard is None else heard.load * target.kw / total))
    yield judge(NAME, level, len(groups[0]), LOAD, cases)
