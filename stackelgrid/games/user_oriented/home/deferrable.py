"""A deferrable run of a home, as of a washing machine: it begins once, then draws its shape [UO-DR]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from stackelgrid.calendar import Session
from stackelgrid.games.user_oriented.messages import MOST_CHANGES
from stackelgrid.model import NonNegative
from stackelgrid.rounds.settings import PrivateModel
from stackelgrid.wire.arrays import Array


class Deferrable(PrivateModel):
    """A run that begins in one of the slots `earliest`..`latest`, counted from 1, and draws `shape_kw` slot by slot.

    In a session `latest` is below `earliest` where it does not begin in it, and what is left of one that has begun
    begins at once.
    """

    name: str = "deferrable"
    earliest: Annotated[int, Field(ge=1)]
    latest: Annotated[int, Field(ge=1)]
    shape_kw: Annotated[list[NonNegative], Field(min_length=1)]

    @property
    def starts(self) -> list[int | None]:
        """The slots, from 1, in which it may begin; None where there is none."""
        return [*range(self.earliest, self.latest + 1)] or [None]

    def draw(self, start: int | None, slots: int) -> Array:
        """Give what it draws when it begins in a slot, (slots,) kW; nothing of what comes after these slots."""
        load = np.zeros(slots)
        if start is not None:
            seen = self.shape_kw[: slots - start + 1]
            load[start - 1 : start - 1 + len(seen)] = seen
        return load

    def in_session(self, session: Session, left_kw: Sequence[float] | None) -> Self:
        """Give the run in a session of a longer run; `left_kw` is what is left of its shape where it has begun before.

        It begins where all of it fits into the horizon. Where none of it fits, it is left for a later session; if it
        could not begin there any more, it begins as early as it may, as what follows the horizon has no price yet.
        """
        if left_kw is not None:
            return self.model_copy(update={"earliest": 1, "latest": min(1, len(left_kw)), "shape_kw": list(left_kw)})
        earliest, latest = max(1, self.earliest - session.first), self.latest - session.first
        last_fit = session.slots - len(self.shape_kw) + 1
        if last_fit >= earliest:
            latest = min(latest, last_fit)
        else:
            latest = min(latest, earliest) if latest <= session.binding else 0
        return self.model_copy(update={"earliest": earliest, "latest": latest})

    def advance(self, start: int | None, binding: int) -> list[float] | None:
        """Give what is left of its shape after the `binding` slots of a session, None where it has not begun."""
        if start is None:
            return None if self.shape_kw else []
        return self.shape_kw[binding - start + 1 :] if start <= binding else None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.earliest > self.latest:
            raise ValueError(f"earliest {self.earliest} is after latest {self.latest}; swap them")
        return self


class StartChanges(PrivateModel):
    """The changes of starts in one session [UO-DH]: each gains more than the share `least_gain` of what runs cost.

    After `at_most` of them the starts stay.
    """

    least_gain: NonNegative = 0.01
    at_most: Annotated[int, Field(ge=0, le=MOST_CHANGES)] = 5
