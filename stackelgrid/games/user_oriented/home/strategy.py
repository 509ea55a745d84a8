"""The EMC's strategy in the user-oriented pricing game: it answers each price for the homes of one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stackelgrid.games.user_oriented.home.model import Home
from stackelgrid.games.user_oriented.home.schedule import HomeProblem, Schedule
from stackelgrid.games.user_oriented.messages import STEEPEST, LoadResponse, Price, compute_bending
from stackelgrid.wire.arrays import PackedArray

_FEW_HOMES = 4
"""So many homes are solved in a millisecond or less, which is short enough between two messages."""


class UserOrientedHomes:
    """The strategy for the homes of one process: translates between the bodies on the wire and the homes' problems."""

    def __init__(self, homes: Sequence[Home]) -> None:
        self._problems = [HomeProblem(home) for home in homes]
        self.quick = len(homes) <= _FEW_HOMES

    def answer(self, signal: Price) -> LoadResponse:
        """Answer a price with load and sensitivity: of one home as numbers, of several packed, a row each."""
        schedules = [_limit_bending(problem.home, problem.answer(np.array(signal.price))) for problem in self._problems]
        loads = np.array([schedule.load for schedule in schedules])
        couplings = [schedule.coupling for schedule in schedules if schedule.coupling is not None]
        return LoadResponse(
            homes=len(schedules),
            load_kw=loads[0].tolist() if len(schedules) == 1 else PackedArray.of(loads),
            slope=np.sum([schedule.slope for schedule in schedules], axis=0).tolist(),
            coupling=PackedArray.of(np.sum(couplings, axis=0)) if couplings else None,
        )

    def settle(self, settlement: Price) -> dict[str, Any]:
        """Give each home's result at the settled price: load and stored energy per slot, bill and utility, money."""
        price = np.array(settlement.price)
        return {problem.home.id: problem.summarize(problem.answer(price)) for problem in self._problems}


def _limit_bending(home: Home, schedule: Schedule) -> Schedule:
    """Limit the sensitivity to what an aggregator accepts; that of storage with next to no wear is steeper."""
    bend, most = compute_bending(schedule.sensitivity, schedule.price), STEEPEST * home.connection_kw
    if bend <= most:
        return schedule
    slope = schedule.slope * (most / bend)
    coupling = None if schedule.coupling is None else schedule.coupling * (most / bend)
    return replace(schedule, differentiate=lambda: (slope, coupling))
