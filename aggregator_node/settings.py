"""What an aggregator is told of a game."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from stackelgrid.rounds.strategy import AggregatorStrategy


class AggregatorSettings(BaseModel):
    """Base of an aggregator's settings in a game: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def strategy(self, slots: int, homes: Mapping[str, int]) -> AggregatorStrategy:
        """The aggregator's part of the game over `slots`; `homes` is the number of homes behind each member."""
        raise NotImplementedError
