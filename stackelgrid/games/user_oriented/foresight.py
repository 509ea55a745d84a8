"""What an answer foretells of the next one: an aggregator of the user-oriented game holds each against the other.

A home that overstates how its load bends with the price would move the price further than its load can. The best load
of a customer is minus the gradient of a convex function of the price [UO-6]. So over a step d of the price, J = dL/dp
on the way,

    0 <= -d'(L(p + d) - L(p)) = mean of -d'J d over the step,                                              (derived)

and with one kink in each slot at most, the mean lies between the values at both ends. A load that rises along its price
is no customer's. One that bends less than at both ends has lied about its sensitivity; one that lies far from what the
answer before foretold has a kink, or lied. Homes have few kinks, so they may miss a few times. Batteries, cars and
heat pumps have many, one for each slot and limit: a load with a coupling may bend more than it foretells as often as it
does.

A load that rises along its price is no group's either, whose homes are told by their sum alone. But a group has kinks
at many prices, and so may bend less than at both ends, and more. It seldom bends much less, since not all of its homes
bend at the same prices: then one of them overstates.

Without the sensitivity of a group the leader would take a large part of the load for fixed, and ask far too high a
price. So a group that overstates counts with the part of its sensitivity that came true. One that has no sum, which is
so when one home is missing, is taken to go on along what is known of it, and so is one whose load rises again.

Of a round that asks several prices the first is judged; what comes of it counts for all of them.
"""

from __future__ import annotations

import numpy as np

from stackelgrid.games.user_oriented.messages import LoadAt, LoadResponse, Price, compute_bending
from stackelgrid.wire.arrays import Array

_MISSED = 2.0
"""A load has missed what was foretold when it bends by more than this times that, or by less than that part of it."""
_MOST_MISSES = 5
"""With so many misses a sensitivity does not count any more, with twice as many an earlier load counts."""
_FARTHEST = 0.5
"""A step of the price by more than this part of it says nothing: there may be many kinks on the way."""
_LEAST_KW, _NOISE = 1e-6, 1e-3
"""What was foretold is not judged by changes smaller than this, or than that part of the load: a solver may stop early,
an adapter may round."""
_OVERSTATED = 1.25
"""A group overstates when both ends of a step foretell more than so many times its bending. For truthful groups of 20
of the shipped cases that is 1.00 times at most, for groups of five 1.01."""
_STEEPEST_GROUP = 100.0
"""No more than so many times its load a group is believed to bend while a price doubles. One home may be steeper."""
_MOST_RISEN = 2
"""When the load of a group has risen so often along its price, an earlier one counts."""
_MOST_RETURNED = 10
"""When a group has been without a sum and had one again so often, its last one counts: with each the leader begins its
search anew."""
_LARGEST_RATIO = 1e6
"""A price that has fallen by more than that counts as one that has fallen by that."""


class Foresight:
    """What a member's answers foretell of its next one, and what became of it.

    `load_only` says that its sensitivity did not come true and does not count any more; `fixed` that a load which the
    price does not explain does not either: the last one counts on, so that the search for the price comes to its end.
    Answers that are not `best_responses`, but follow from more than the price, are not judged.
    """

    def __init__(self, *, best_responses: bool = True) -> None:
        self._best_responses = best_responses
        self._price: Array | None = None
        self._answer: LoadResponse
        self._held: LoadResponse | None = None
        self._misses = 0
        self._overstates = False

    @property
    def fixed(self) -> bool:
        """True when the member counts with an earlier load."""
        return self._misses >= 2 * _MOST_MISSES

    @property
    def load_only(self) -> bool:
        """True when the member counts without its sensitivity."""
        return self._overstates or self._misses >= _MOST_MISSES

    def judge(self, asked: Price, answer: LoadResponse) -> list[LoadAt]:
        """Judge a fresh answer, and give what counts at each price that was `asked`."""
        price, self._held = np.array(asked.price), None
        if self._best_responses and self._price is not None and not self.fixed:
            self._compare(price - self._price, answer)
        if self.fixed:
            return self._stand(self._answer, asked)
        self._price, self._answer = price, answer
        each = answer.at_each_price()
        return [LoadAt(at.loads, None, None) for at in each] if self.load_only else each

    def stand_in(self, asked: Price, held: LoadResponse) -> list[LoadAt]:
        """Give what counts at each price while the member does not answer: the load that was `held` first."""
        self._held = self._held or held
        return self._stand(self._held, asked)

    def _stand(self, answer: LoadResponse, asked: Price) -> list[LoadAt]:
        return [LoadAt(answer.loads(), None, None)] * len(asked.prices)

    def _compare(self, step: Array, answer: LoadResponse) -> None:
        """Compare an answer with what the last one foretold for a `step` of the price, (T,)."""
        load = answer.loads().sum(axis=0)
        rounding = _find_rounding(load, step)
        bent = float(step @ (self._answer.loads().sum(axis=0) - load))
        if bent < -rounding:
            self._misses += _MOST_MISSES
        assert self._price is not None
        far = np.max(np.abs(step)) > _FARTHEST * np.max(np.abs(self._price))
        if far or self._answer.slope is None or answer.slope is None:
            return
        before, now = _foretell(self._answer, step), _foretell(answer, step)
        most = _MISSED * bent + rounding
        coupled = self._answer.coupling is not None or answer.coupling is not None
        more = bent > _MISSED * max(before.sum(), now.sum()) + rounding and not coupled
        if bent >= -rounding and (before.sum() > most or more):
            self._misses += 1
        self._overstates |= bool(np.minimum(before, now).sum() > most)


class GroupForesight:
    """What the sums of a group foretell of its next one, and what it counts with where it has none.

    `load_only` says that it counts with a part of its sensitivity; `fixed` that its sums do not count any more, because
    its load does not follow from the price, or they came and went too often: it goes on along the last one, by no more
    than the `max_kw` that its connections carry.
    """

    def __init__(self, *, best_responses: bool = True, max_kw: float = np.inf) -> None:
        self._best_responses, self._max_kw = best_responses, max_kw
        self._asked: Price | None = None
        self._answer: LoadResponse
        self._risen = self._returned = 0
        self._is_missing = False
        self._least = 1.0  # the least part of what was foretold that came true over a step
        self._bent = self._foretold = 0.0  # over all steps that were judged

    @property
    def fixed(self) -> bool:
        """True when the group counts with what its last sum says."""
        return self._risen >= _MOST_RISEN or self._returned >= _MOST_RETURNED

    @property
    def load_only(self) -> bool:
        """True when the group counts with a part of its sensitivity."""
        return self.fixed or self._least < 1

    def judge(self, asked: Price, answer: LoadResponse) -> list[LoadAt]:
        """Judge a fresh sum, and give what counts at each price that was `asked`."""
        self._returned, self._is_missing = self._returned + self._is_missing, False
        if self._best_responses and self._asked is not None and not self.fixed:
            self._compare(np.array(asked.price), np.array(self._asked.price), answer)
        if self.fixed:
            return self._go_on(asked)
        self._asked, self._answer = asked, answer
        return self._believe(asked, answer)

    def stand_in(self, asked: Price, held: LoadResponse) -> list[LoadAt]:
        """Give what counts at each price while the group has no sum."""
        self._is_missing = True
        return [LoadAt(held.loads(), None, None)] * len(asked.prices) if self._asked is None else self._go_on(asked)

    def _compare(self, price: Array, before: Array, answer: LoadResponse) -> None:
        """Compare a sum at a `price` with what the last one foretold at the one `before`, both (T,)."""
        load, step = answer.loads().sum(axis=0), price - before
        rounding = _find_rounding(load, step)
        bent = float(step @ (self._answer.loads().sum(axis=0) - load))
        self._risen += bent < -rounding
        far = np.max(np.abs(step)) > _FARTHEST * np.max(np.abs(before))
        if far or self._answer.slope is None or answer.slope is None:
            return
        foretold = float(np.minimum(_foretell(self._answer, step), _foretell(answer, step)).sum())
        self._bent, self._foretold = self._bent + bent, self._foretold + foretold
        if foretold > _OVERSTATED * max(bent, 0.0) + rounding:
            self._least = min(self._least, max(bent, 0.0) / foretold)

    def _believe(self, asked: Price, answer: LoadResponse) -> list[LoadAt]:
        """Give a sum at each price with the part of its sensitivity that comes true, or can."""
        part = 1.0
        if self._least < 1:
            # A load that does not follow from the price bends by chance over one step, less so over all.
            part = min(max(self._bent, 0.0) / self._foretold, 1.0) if self._risen else self._least
        return [_scale(at, part, price) for at, price in zip(answer.at_each_price(), asked.prices, strict=True)]

    def _go_on(self, asked: Price) -> list[LoadAt]:
        """Give what the group would answer at each price `asked`, by its last sum."""
        assert self._asked is not None
        at, *_ = self._believe(self._asked, self._answer)
        slope = _find_secant(self._asked.prices, self._answer) if at.slope is None else at.slope
        first = np.array(self._asked.price)
        return [_extend(at.loads, slope, at.coupling, first, price, self._max_kw) for price in asked.prices]


def _scale(at: LoadAt, part: float, price: Array) -> LoadAt:
    """Give a part of a sensitivity, and no more than what bends the load by `_STEEPEST_GROUP` times its peak."""
    if at.slope is None:
        return at
    bend = compute_bending(np.diag(at.slope) + (0.0 if at.coupling is None else at.coupling), price)
    most = _STEEPEST_GROUP * max(float(np.max(np.abs(at.loads))), _LEAST_KW)
    part = min(part, most / bend) if bend > 0 else part
    if part == 1:
        return at
    return LoadAt(at.loads, part * at.slope, None if at.coupling is None else part * at.coupling)


def _extend(loads: Array, slope: Array, coupling: Array | None, first: Array, price: Array, max_kw: float) -> LoadAt:
    """Extend a load (1, T) at the price `first` to another one, by no more than it is and up to `max_kw`; both (T,).

    Within a slot along a hyperbola, c + s / p, as elastic loads fall; between slots, and where prices are not above
    zero, along the tangent.
    """
    above = (first > 0) & (price > 0)
    ratio = np.where(above, first, 1.0) / np.where(above, np.maximum(price, first / _LARGEST_RATIO), 1.0)
    change = slope * np.where(ratio == 1.0, price - first, first * (1 - ratio))
    if coupling is not None:
        change = change + coupling @ (price - first)
    load, most = loads[0], np.abs(loads[0])
    least, largest = np.maximum(load - most, -max_kw), np.minimum(load + most, max_kw)
    within = (least <= load + change) & (load + change <= largest)
    extended = np.clip(load + change, least, largest)
    return LoadAt(extended[None], np.where(within, slope * ratio**2, 0.0), coupling)


def _find_secant(prices: Array, answer: LoadResponse) -> Array:
    """Find a slope, the same in all slots, (T,), by the loads at several `prices` (K, T); zero where there is one."""
    steps = prices - prices[0]
    loads = np.array([at.loads.sum(axis=0) for at in answer.at_each_price()])
    square = float((steps**2).sum())
    slope = float((steps * (loads - loads[0])).sum()) / square if square > 0 else 0.0
    return np.full(prices.shape[1], min(slope, 0.0))


def _find_rounding(load: Array, step: Array) -> float:
    """Find by how much a load may seem to bend over a step of the price, both (T,), and does not."""
    return max(_LEAST_KW, _NOISE * float(np.max(np.abs(load)))) * float(np.abs(step).sum())


def _foretell(answer: LoadResponse, step: Array) -> Array:
    """Foretell -d'J d for a step d of the price, in parts: (T,) of the slopes and one of the coupling."""
    assert answer.slope is not None
    across = 0.0 if answer.coupling is None else float(step @ answer.coupling.array() @ step)
    return -np.append(answer.slope * step**2, across)
