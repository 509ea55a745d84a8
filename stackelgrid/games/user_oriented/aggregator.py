"""The aggregator's part in the user-oriented pricing game: it sums, so that the leader never sees one home.

It holds what an answer foretells against the next one, see `foresight`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from stackelgrid.calendar import Session
from stackelgrid.games.user_oriented.foresight import Foresight, GroupForesight
from stackelgrid.games.user_oriented.messages import MOST_CHANGES, LoadAt, LoadResponse, Price, pack_coupling
from stackelgrid.rounds.settings import AggregatorSettings
from stackelgrid.rounds.strategy import Ask, Ending, Reply
from stackelgrid.wire.arrays import LARGEST, Array, PackedArray


class UserOrientedAggregator:
    """The strategy: pass the price on, and sum load and sensitivity over the homes in the order of the members.

    `homes` is the number of homes behind each member: a home's process or, under masks, a group of them, whose
    connections carry `max_kw` together, where that is known.
    """

    def __init__(
        self,
        homes: Mapping[str, int],
        *,
        best_responses: bool = True,
        of_groups: bool = False,
        max_kw: Mapping[str, float] | None = None,
    ) -> None:
        self._homes, self._of_groups = homes, of_groups
        limits = max_kw or {}
        self._foresight = {
            name: GroupForesight(best_responses=best_responses, max_kw=limits.get(name, np.inf))
            if of_groups
            else Foresight(best_responses=best_responses)
            for name in homes
        }

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
        true. Where an earlier load counts, it does so at all prices. Of the homes of a group most do respond, also
        where one of them does not answer. A sum stays within what travels, whatever was answered.
        """
        counted = [
            self._foresight[name].stand_in(asked, body) if name in held else self._foresight[name].judge(asked, body)
            for name, body in answers.items()
        ]
        load_only = [name for name in answers if name not in held and self._foresight[name].load_only]
        fixed = [name for name in load_only if self._foresight[name].fixed]
        standing = {*held, *(fixed if self._of_groups else [])}  # the leader need not know why a group has no sum
        known = [name for name in load_only if name not in standing]
        first, *others = [
            _add_up([each[number] for each in counted], bends=number < asked.sensitivities)
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
            held=sum(answers[name].homes for name in standing),
            excluded=sum(self._homes[name] for name in excluded),
            load_only=sum(answers[name].homes for name in known),
            fixed=sum(answers[name].homes for name in fixed if name in known),
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


def _add_up(counted: list[LoadAt], *, bends: bool) -> LoadAt:
    """Sum the loads at one price and, where it `bends`, the sensitivities of those that have one; both are (T,)."""
    load = np.concatenate([at.loads for at in counted]).sum(axis=0)
    if not bends:
        return LoadAt(_within_wire(load), None, None)
    slopes = [at.slope for at in counted if at.slope is not None]
    slope = np.sum(slopes, axis=0) if slopes else np.zeros(len(load))
    couplings = [at.coupling for at in counted if at.coupling is not None]
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

    def group_strategy(
        self, session: Session, groups: Mapping[str, int], max_kw: Mapping[str, float]
    ) -> UserOrientedAggregator:
        """Build the strategy under masks, for so many homes of each group."""
        return UserOrientedAggregator(groups, best_responses=self.best_responses, of_groups=True, max_kw=max_kw)
