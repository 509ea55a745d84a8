"""The aggregator's part in the user-oriented pricing game: it sums, so that the leader never sees one home.

It holds what an answer foretells against the next one. A home that overstates how its load bends with the price would
move the price further than its load can. The best load of a customer is minus the gradient of a convex function of the
price [UO-6]. So over a step d of the price, J = dL/dp on the way,

    0 <= -d'(L(p + d) - L(p)) = mean of -d'J d over the step,                                              (derived)

and with one kink in each slot at most, the mean lies between the values at both ends. A load that rises along its price
is no customer's. One that bends less than at both ends has lied about its sensitivity; one that lies far from what the
answer before foretold has a kink, or lied. Homes have few kinks, so they may miss a few times. Batteries, cars and
heat pumps have many, one for each slot and limit: a load with a coupling may bend more than it foretells as often as it
does.

Under masks a member is a group of homes, and its answer their sum. Of a sum these statements hold:

- A load that rises along its price is no group's either.
- A sum bends less than half as much as was foretold only where one of its homes does (derived). Groups may miss a few
  times, too.
- With kinks at many prices a sum may bend less than at both ends of a step, and more: neither is judged.

Of a round that asks several prices the first is judged; what comes of it counts for all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from stackelgrid.calendar import Session
from stackelgrid.games.user_oriented.messages import MOST_CHANGES, LoadAt, LoadResponse, Price, pack_coupling
from stackelgrid.rounds.settings import AggregatorSettings
from stackelgrid.rounds.strategy import Ask, Ending, Reply
from stackelgrid.wire.arrays import LARGEST, Array, PackedArray

_MISSED = 2.0
"""A load has missed what was foretold when it bends by more than this times that, or by less than that part of it."""
_MOST_MISSES = 5
"""With so many misses a sensitivity does not count any more, with twice as many an earlier load counts."""
_FARTHEST = 0.5
"""A step of the price by more than this part of it says nothing: there may be many kinks on the way."""
_LEAST_KW, _NOISE = 1e-6, 1e-3
"""What was foretold is not judged by changes smaller than this, or than that part of the load: a solver may stop early,
an adapter may round."""


class Foresight:
    """What a member's answers foretell of its next one, and what became of it.

    `load_only` says that its sensitivity did not come true and does not count any more; `fixed` that a load which the
    price does not explain does not either: the last one counts on, so that the search for the price comes to its end.
    Answers that are not `best_responses`, but follow from more than the price, are not judged. Of `several` homes less
    can be said than of one.
    """

    def __init__(self, *, best_responses: bool = True, several: bool = False) -> None:
        self._best_responses, self._several = best_responses, several
        self._price: Array | None = None
        self._answer: LoadResponse
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

    def judge(self, price: Array, answer: LoadResponse) -> LoadResponse:
        """Judge a fresh answer, whose first price is `price` (T,), and give the one that counts."""
        if self._best_responses and self._price is not None and not self.fixed:
            self._compare(price - self._price, answer)
        if not self.fixed:
            self._price, self._answer = price, answer
        return self._answer

    def _compare(self, step: Array, answer: LoadResponse) -> None:
        """Compare an answer with what the last one foretold for a `step` of the price, (T,)."""
        load = answer.loads().sum(axis=0)
        rounding = max(_LEAST_KW, _NOISE * float(np.max(np.abs(load)))) * float(np.abs(step).sum())
        bent = float(step @ (self._answer.loads().sum(axis=0) - load))
        if bent < -rounding:
            self._misses += _MOST_MISSES
        assert self._price is not None
        far = np.max(np.abs(step)) > _FARTHEST * np.max(np.abs(self._price))
        if far or self._answer.slope is None or answer.slope is None:
            return
        before, now = _foretell(self._answer, step), _foretell(answer, step)
        most = _MISSED * bent + rounding
        many_kinks = self._several or self._answer.coupling is not None or answer.coupling is not None
        more = bent > _MISSED * max(before.sum(), now.sum()) + rounding and not many_kinks
        if bent >= -rounding and (before.sum() > most or more):
            self._misses += 1
        self._overstates |= bool(np.minimum(before, now).sum() > most) and not self._several


def _foretell(answer: LoadResponse, step: Array) -> Array:
    """Foretell -d'J d for a step d of the price, in parts: (T,) of the slopes and one of the coupling."""
    assert answer.slope is not None
    across = 0.0 if answer.coupling is None else float(step @ answer.coupling.array() @ step)
    return -np.append(answer.slope * step**2, across)


class UserOrientedAggregator:
    """The strategy: pass the price on, and sum load and sensitivity over the homes in the order of the members.

    A member is a home's process or, under masks, a group of them; `homes` is the number of homes behind each.
    """

    def __init__(self, homes: Mapping[str, int], *, best_responses: bool = True) -> None:
        self._homes = homes
        self._foresight = {
            name: Foresight(best_responses=best_responses, several=count > 1) for name, count in homes.items()
        }
        self._held: dict[str, LoadResponse] = {}

    def open(self, signal: Price) -> Ask[Price]:
        """Ask the homes the leader's prices."""
        return Ask(signal)

    def on_answers(
        self, asked: Price, answers: Mapping[str, LoadResponse], held: Collection[str], excluded: Collection[str]
    ) -> Reply[LoadResponse]:
        """Sum the answers of all homes to each price: load (T,) kW, slope (T,), coupling (T, T).

        A held answer counts with its load alone: a home that does not answer does not respond to the price. It is the
        same until the home answers again, also where a late one has come since: a load that moves while the price does
        not explain it leads the search astray. With its load alone counts too a home whose sensitivity did not come
        true. Where an earlier load counts, it does so at all prices. A sum stays within what travels, whatever was
        answered.
        """
        self._held = {name: self._held.get(name, answers[name]) for name in held}
        price, fresh = np.array(asked.price), [name for name in answers if name not in held]
        counted = (
            dict(answers) | self._held | {name: self._foresight[name].judge(price, answers[name]) for name in fresh}
        )
        load_only = [name for name in fresh if self._foresight[name].load_only]
        fixed = [name for name in fresh if self._foresight[name].fixed]
        moving = {name: counted[name].at_each_price() for name in fresh if name not in fixed}
        bending = [answer for name, answer in moving.items() if name not in load_only]
        standing = {name: body.loads() for name, body in counted.items() if name not in moving}
        first, *others = [
            _add_up(
                [standing[name] if name in standing else moving[name][number].loads for name in counted],
                [answer[number] for answer in bending] if number < asked.sensitivities else None,
            )
            for number in range(len(asked.prices))
        ]
        slopes = [at.slope for at in others if at.slope is not None]
        couplings = [at.coupling for at in others if at.coupling is not None]
        changes = [
            min(body.starts_changed, MOST_CHANGES * body.homes)
            for body in answers.values()
            if body.starts_changed is not None
        ]
        body = LoadResponse(
            homes=sum(body.homes for body in answers.values()),
            held=sum(answers[name].homes for name in held),
            excluded=sum(self._homes[name] for name in excluded),
            load_only=sum(answers[name].homes for name in load_only),
            fixed=sum(answers[name].homes for name in fixed),
            load_kw=first.loads.tolist(),
            slope=None if first.slope is None else first.slope.tolist(),
            coupling=None if first.coupling is None else pack_coupling(first.coupling),
            other_loads_kw=PackedArray.of(np.array([at.loads for at in others])) if others else None,
            other_slopes=PackedArray.of(np.array(slopes)) if slopes else None,
            other_couplings=[pack_coupling(coupling) for coupling in couplings] or None,
            starts_changed=sum(changes) if changes else None,
        )
        return Reply(body, {"load_only": load_only, "fixed": fixed} if load_only else {})

    def settle(self, settlement: Price) -> Ending[Price]:
        """Pass the settled price on."""
        return Ending(settlement)


def _add_up(loads: list[Array], bending: list[LoadAt] | None) -> LoadAt:
    """Sum loads and, unless it is None, the sensitivity of those `bending`, at one price; load and slope are (T,)."""
    load = np.concatenate(loads).sum(axis=0)
    if bending is None:
        return LoadAt(_within_wire(load), None, None)
    slopes = [at.slope for at in bending if at.slope is not None]
    slope = np.sum(slopes, axis=0) if slopes else np.zeros(len(load))
    couplings = [at.coupling for at in bending if at.coupling is not None]
    coupling = _within_wire(np.sum(couplings, axis=0)) if couplings else None
    return LoadAt(_within_wire(load), _within_wire(slope), coupling)


def _within_wire(total: Array) -> Array:
    """Bring a sum back into the range of the wire."""
    return np.clip(total, -LARGEST, LARGEST)


class UserOrientedSettings(AggregatorSettings):
    """The aggregator's settings: whether homes answer with their `best_responses`, which it holds against each other.

    They do not where the algorithm has a home's half.
    """

    best_responses: bool = True

    def strategy(self, session: Session, homes: Mapping[str, int]) -> UserOrientedAggregator:
        """Build the aggregator's strategy, for `homes` behind each member."""
        return UserOrientedAggregator(homes, best_responses=self.best_responses)
