"""The aggregator's part in the user-oriented pricing game: it sums, so that the leader never sees one home."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from stackelgrid.games.user_oriented.messages import LoadResponse, Price
from stackelgrid.rounds.settings import AggregatorSettings
from stackelgrid.rounds.strategy import Ask, Ending, Reply
from stackelgrid.wire.arrays import LARGEST, Array, PackedArray


class UserOrientedAggregator:
    """The strategy: pass the price on, and sum load and sensitivity over the homes in the order of the members."""

    def __init__(self, homes: Mapping[str, int]) -> None:
        self._homes = homes

    def open(self, signal: Price) -> Ask[Price]:
        """Ask the homes the leader's price."""
        return Ask(signal)

    def on_answers(
        self, asked: Price, answers: Mapping[str, LoadResponse], held: Collection[str], excluded: Collection[str]
    ) -> Reply[LoadResponse]:
        """Sum the answers of all homes: load (T,) kW, slope (T,), coupling (T, T).

        A held answer counts with its load alone: a home that does not answer does not respond to the price. A sum
        stays within what travels, whatever the homes answered.
        """
        fresh = [body for name, body in answers.items() if name not in held]
        load = np.concatenate([body.loads() for body in answers.values()]).sum(axis=0)
        slope = np.sum([body.slope for body in fresh], axis=0) if fresh else np.zeros(len(load))
        couplings = [body.coupling.array() for body in fresh if body.coupling is not None]
        return Reply(
            LoadResponse(
                homes=sum(body.homes for body in answers.values()),
                held=sum(answers[name].homes for name in held),
                excluded=sum(self._homes[name] for name in excluded),
                load_kw=_within_wire(load).tolist(),
                slope=_within_wire(slope).tolist(),
                coupling=PackedArray.of(_within_wire(np.sum(couplings, axis=0))) if couplings else None,
            )
        )

    def settle(self, settlement: Price) -> Ending[Price]:
        """Pass the settled price on."""
        return Ending(settlement)


def _within_wire(total: Array) -> Array:
    """Bring a sum back into the range of the wire."""
    return np.clip(total, -LARGEST, LARGEST)


class UserOrientedSettings(AggregatorSettings):
    """The aggregator's settings: there are none."""

    def strategy(self, slots: int, homes: Mapping[str, int]) -> UserOrientedAggregator:
        """Build the aggregator's strategy, for `homes` behind each member."""
        return UserOrientedAggregator(homes)
