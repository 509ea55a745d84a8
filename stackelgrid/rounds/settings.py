"""Base models of each role's settings; a game's own settings extend them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from stackelgrid.model import StrictModel
from stackelgrid.rounds.strategy import AggregatorStrategy, LeaderStrategy
from stackelgrid.wire.names import Name


class LeaderSettings(StrictModel):
    """Base of a game's `leader` settings.

    The leader settles when the relative change is below `tolerance`; it gives up after `max_rounds`.
    """

    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] = 40

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` when something in the settings has another length than the horizon."""

    def strategy(self, slots: int) -> LeaderStrategy[Any, Any, Any]:
        """Create the leader's part of the game over `slots`."""
        raise NotImplementedError


class AggregatorSettings(StrictModel):
    """Base of a game's settings of an aggregator."""

    def strategy(self, slots: int, homes: Mapping[str, int]) -> AggregatorStrategy[Any, Any, Any, Any, Any, Any]:
        """Create the aggregator's part of the game over `slots`; `homes` is the number of homes behind each member."""
        raise NotImplementedError


class PrivateModel(StrictModel):
    """Base of everything that stays in the home."""


class HomeModel(PrivateModel):
    """Base of a game's private home model: one customer's data, under the name `id`."""

    id: Name
