"""The EMC's strategy in the user-oriented pricing game: it answers each price for the homes of one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stackelgrid.games.user_oriented.home.answer import Schedule
from stackelgrid.games.user_oriented.home.model import Home
from stackelgrid.games.user_oriented.home.start_choice import StartChoice, pose_problem
from stackelgrid.games.user_oriented.messages import (
    STEEPEST,
    LoadAt,
    LoadResponse,
    Price,
    compute_bending,
    pack_coupling,
)
from stackelgrid.wire.arrays import Array, PackedArray

_FEW_HOMES = 4
"""So many homes are solved in a millisecond or less, which is short enough between two messages."""


class UserOrientedHomes:
    """The strategy for the homes of one process: translates between the bodies on the wire and the homes' problems."""

    def __init__(self, homes: Sequence[Home]) -> None:
        self._problems = [pose_problem(home) for home in homes]
        self._choices = [problem for problem in self._problems if isinstance(problem, StartChoice)]
        self.quick = len(homes) <= _FEW_HOMES

    def answer(self, signal: Price) -> LoadResponse:
        """Answer each price with the load, and with the sensitivity where that is asked, and with nothing else.

        Loads are numbers for one home, packed for several, a row each. Deferrable runs begin where the first price
        says.
        """
        for choice in self._choices:
            choice.choose(signal.prices[0])
        first, *others = [
            self._answer_price(price, number < signal.sensitivities) for number, price in enumerate(signal.prices)
        ]
        bends = [at.slope for at in others if at.slope is not None]
        couplings = [at.coupling for at in others if at.coupling is not None]
        return LoadResponse(
            homes=len(self._problems),
            load_kw=first.loads[0].tolist() if len(self._problems) == 1 else PackedArray.of(first.loads),
            slope=None if first.slope is None else first.slope.tolist(),
            coupling=None if first.coupling is None else pack_coupling(first.coupling),
            other_loads_kw=PackedArray.of(np.vstack([at.loads for at in others])) if others else None,
            other_slopes=PackedArray.of(np.array(bends)) if bends else None,
            other_couplings=[pack_coupling(coupling) for coupling in couplings] or None,
            starts_changed=sum(choice.changes for choice in self._choices) if self._choices else None,
        )

    def _answer_price(self, price: Array, bends: bool) -> LoadAt:
        """Solve the homes' problems at a price, (T,); give dL/dp too where that `bends`."""
        schedules = [problem.answer(price) for problem in self._problems]
        loads = np.array([schedule.load for schedule in schedules])
        if not bends:
            return LoadAt(loads, None, None)
        limited = [_limit_bending(problem.home, each) for problem, each in zip(self._problems, schedules, strict=True)]
        couplings = [schedule.coupling for schedule in limited if schedule.coupling is not None]
        slope = np.sum([schedule.slope for schedule in limited], axis=0)
        return LoadAt(loads, slope, np.sum(couplings, axis=0) if couplings else None)

    def settle(self, settlement: Price) -> dict[str, Any]:
        """Give each home's result at the settled price: load and stored energy per slot, bill and utility, money."""
        price = np.array(settlement.price)
        return {problem.home.id: problem.summarize(problem.answer(price)) for problem in self._problems}

    def remember(self) -> Any:
        """Give the starts of runs that each home has answered with, None where no home has any."""
        return [choice.remember() for choice in self._choices] or None

    def recall(self, memory: Any) -> None:
        """Go on from the starts of before a restart."""
        for choice, remembered in zip(self._choices, memory, strict=True):
            choice.recall(remembered)


def _limit_bending(home: Home, schedule: Schedule) -> Schedule:
    """Limit the sensitivity to what an aggregator accepts; that of storage with next to no wear is steeper."""
    bend, most = compute_bending(schedule.sensitivity, schedule.price), STEEPEST * home.connection_kw
    if bend <= most:
        return schedule
    slope = schedule.slope * (most / bend)
    coupling = None if schedule.coupling is None else schedule.coupling * (most / bend)
    return replace(schedule, differentiate=lambda: (slope, coupling))
