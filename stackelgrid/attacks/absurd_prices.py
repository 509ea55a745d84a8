"""Attack 5: prices that nobody pays, at which appliances are off or run at full rate.

Source: derived from [UO-10]; chosen queries to a model, as in Tramèr et al., "Stealing machine learning models via
prediction APIs", USENIX Security 2016. At a price of a million the appliance is off, so that the load is the fixed one;
at one of a millionth it is at x_max. With a price between, alpha = x_max / ((v x_max / omega) / p - elastic load).
A home with a `price_band` answers no price outside the band of its contract; how much that helps is up to the band.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from stackelgrid.attacks.findings import Case, Finding, Level, judge, make_case
from stackelgrid.attacks.one_answer import ABOVE, compare_worth
from stackelgrid.attacks.targets import Target
from stackelgrid.attacks.views import Hear, listen
from stackelgrid.wire.arrays import Array

NAME = "absurd prices"
_LEAST, _MOST = 1e-6, 1e6
_TIGHT = 0.5, 1.5
"""A tight band, in parts of the flat price."""
_TRUTHS: dict[str, Callable[[Target], Array]] = {
    "fixed load": lambda target: target.secrets.fixed,
    "x_max": lambda target: target.secrets.x_max,
    "α": lambda target: target.secrets.alpha,
}


def play(
    groups: Sequence[Sequence[Target]], level: Level, flat: Array, bounds: tuple[float, float]
) -> Iterator[Finding]:
    """Play it on groups, without a band, with one as wide as the leader's `bounds`, and with a tight one."""
    tight = _TIGHT[0] * float(flat[0]), _TIGHT[1] * float(flat[0])
    for band in (None, bounds, tight):
        cases: dict[str, list[Case | None]] = {what: [] for what in _TRUTHS}
        for group in groups:
            hear = listen(group, level, band)
            beliefs = [read_home(hear, home, flat, band or (_LEAST, _MOST)) for home in range(len(group))]
            for what, read in _TRUTHS.items():
                true = [read(target) for target in group]
                cases[what] += [make_case(true, home, belief.get(what)) for home, belief in enumerate(beliefs)]
        variant = "" if band is None else f"price_band {band[0]:.3g} to {band[1]:.3g}"
        for what, found in cases.items():
            yield judge(NAME, level, len(groups[0]), what, found, variant)


def read_home(hear: Hear, home: int, flat: Array, ends: tuple[float, float]) -> dict[str, Array]:
    """Read fixed load, x_max and alpha, (T,) each, of a home that is asked the prices at both `ends`; {} if refused."""
    asked = [np.full_like(flat, ends[1]), np.full_like(flat, ends[0]), flat, ABOVE * flat]
    heard = [answer for price in asked if (answer := hear(home, price)) is not None]
    if len(heard) < len(asked):
        return {}
    off, full, at_flat, above = heard
    worth = compare_worth(at_flat, above)
    fixed, x_max = off.load, full.load - off.load
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha = x_max / (worth / at_flat.price - (at_flat.load - off.load))
    return {"fixed load": fixed, "x_max": x_max, "α": alpha}
