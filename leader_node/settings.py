"""What the leader of any game is told: when it may settle, and when it has to stop."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from stackelgrid.rounds.strategy import LeaderStrategy

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel):
    """Base of the leader's settings: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LeaderSettings(Part):
    """Base of a game's `leader` settings: the leader settles on a relative change below `tolerance`, or gives up."""

    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] = 40

    def fits(self, slots: int) -> None:
        """Raises `ValueError` when something in it has another length than the horizon."""

    def strategy(self, slots: int) -> LeaderStrategy:
        """The leader's part of the game over `slots`."""
        raise NotImplementedError
