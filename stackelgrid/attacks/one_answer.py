"""Attack 1: one answer is enough to tell apart what a home uses, and to read how its battery wears.

Source: derived from [UO-10] and [UO-4]; the idea, that load curves give appliances away, is Hart's, "Nonintrusive
appliance load monitoring", Proc. IEEE 1992. With a log satisfaction the appliance draws x_max (v / (omega p) -
1 / alpha), so that

    -dx/dp p^2 = v x_max / omega,      load - (v x_max / omega) / p = fixed - x_max / alpha + r.

What is left on the right but for r, the charging of the storage, is taken to be the same in all slots, and r to
sum to zero, or of a car to be zero while it is away. The storage minimises p r + eta_1 r^2 within its limits, so that
dr/dp is -1 / (2 eta_1) times a projection: its largest eigenvalue, in size, tells eta_1.

Without sensitivities two prices that differ by the same in all slots do as well: they move no stored energy. The
leader's algorithm `loads_only` asks such prices itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from stackelgrid.attacks.findings import Case, Finding, Level, judge, make_case
from stackelgrid.attacks.targets import Target
from stackelgrid.attacks.views import Heard, listen
from stackelgrid.wire.arrays import Array

NAME = "one answer"
LOAD, WORTH, WEAR, CHARGING = "load", "v x_max/ω", "wear", "charging of battery or car"
WITHOUT_STORAGE = f"{WORTH} without storage, from two prices of the leader"
WITH_STORAGE = f"{WORTH} with storage, from two prices of the leader"
FROM_NEIGHBOURS = f"{WORTH}, from a price and its neighbour"
FROM_FLAT_PRICES = f"{WORTH}, from two flat prices"
ABOVE = 1.1
"""The second of two flat prices, over the first."""
_DISTANCE = 1e-5
"""How far above a price its neighbour is, relative to the largest price: so does the algorithm `loads_only` ask."""
_AWAY = 5
"""A car is away for so many slots at least: as often the least load is left."""
_EQUAL = 1e-7


def play(groups: Sequence[Sequence[Target]], level: Level, flat: Array, price: Array) -> Iterator[Finding]:
    """Play it on groups, at a `price` (T,) that the leader asks after the `flat` one."""
    truths: dict[str, Callable[[Target], Array | None]] = {
        LOAD: lambda target: target.find_load(price),
        WORTH: lambda target: target.secrets.worth,
        WITHOUT_STORAGE: lambda target: target.secrets.worth if target.secrets.wear is None else None,
        WITH_STORAGE: lambda target: target.secrets.worth if target.secrets.wear is not None else None,
        FROM_NEIGHBOURS: lambda target: target.secrets.worth,
        FROM_FLAT_PRICES: lambda target: target.secrets.worth,
        WEAR: lambda target: None if target.secrets.wear is None else np.array(target.secrets.wear),
        CHARGING: lambda target: None if target.secrets.wear is None else target.find_charging(price),
    }
    cases: dict[str, list[Case | None]] = {}
    for group in groups:
        hear = listen(group, level)
        read = _read_answer if level.sensitivity == "full" else _read_loads
        neighbour = price + _DISTANCE * float(price.max())
        asked = (price,) if level.sensitivity == "full" else (price, neighbour, flat, ABOVE * flat)
        beliefs = [read(*(heard for each in asked if (heard := hear(home, each)))) for home in range(len(group))]
        for what in beliefs[0]:
            true = [truths[what](target) for target in group]
            of_homes = [make_case(true, home, belief[what]) for home, belief in enumerate(beliefs)]
            cases.setdefault(what, []).extend(of_homes)
    for what, found in cases.items():
        yield judge(NAME, level, len(groups[0]), what, found)


def _read_answer(heard: Heard) -> dict[str, Array]:
    worth = read_worth(heard)
    return {
        LOAD: heard.load,
        WORTH: worth,
        WEAR: read_wear(heard),
        CHARGING: read_charging(heard, worth),
    }


def _read_loads(heard: Heard, neighbour: Heard, at_flat: Heard, above: Heard) -> dict[str, Array]:
    worth = compare_worth(at_flat, above)
    charging = read_charging(heard, worth)
    return {
        LOAD: heard.load,
        WITHOUT_STORAGE: compare_worth(at_flat, heard),
        WITH_STORAGE: compare_worth(at_flat, heard),
        FROM_NEIGHBOURS: compare_worth(heard, neighbour),
        FROM_FLAT_PRICES: worth,
        WEAR: compare_wear(heard.price, charging),
        CHARGING: charging,
    }


def read_worth(heard: Heard) -> Array:
    """Read v x_max / omega, (T,), from the slope of one answer."""
    assert heard.slope is not None
    return -heard.slope * heard.price**2


def compare_worth(first: Heard, second: Heard) -> Array:
    """Read v x_max / omega, (T,), from loads at two prices, between which no stored energy has moved."""
    return np.asarray((first.load - second.load) / (1 / first.price - 1 / second.price))


def read_wear(heard: Heard) -> Array:
    """Read eta_1 from the coupling of one answer; infinite without one."""
    if heard.coupling is None:
        return np.array(np.inf)
    with np.errstate(divide="ignore"):
        return np.array(1 / (2 * np.linalg.eigvalsh(-heard.coupling)[-1]))


def compare_wear(price: Array, charging: Array) -> Array:
    """Read eta_1 from a price and the `charging` at it, (T,).

    Slots at no limit have r_t - r_u = (p_u - p_t) / (2 eta_1). Of what pairs of slots next to each other
    say, the value that most agree on counts.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        said = np.sort(-np.diff(price) / (2 * np.diff(charging)))
        said = said[np.isfinite(said)]
        spread = np.abs(np.log(np.abs(said[2:] / said[:-2])))
    return np.array(said[1 + np.argmin(spread)] if len(said) > 2 else np.inf)


def read_charging(heard: Heard, worth: Array) -> Array:
    """Read what the storage charges, (T,) kW, from a load and the `worth` v x_max / omega of its appliance."""
    rest = heard.load - worth / heard.price
    least = rest.min()
    away = np.count_nonzero(rest - least <= _EQUAL * (1 + abs(least)))
    return np.asarray(rest - (least if away >= _AWAY else rest.mean()))
