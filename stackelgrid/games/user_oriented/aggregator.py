"""What the aggregator does in the user-oriented pricing game: it sums, so that nobody above sees one home."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from stackelgrid.games.user_oriented.messages import LoadResponse
from stackelgrid.rounds.settings import AggregatorSettings
from stackelgrid.rounds.strategy import Ask, Ending, Reply, Said
from stackelgrid.wire.arrays import Packed
from stackelgrid.wire.messages import Body


class UserOrientedAggregator:
    """Hands the price on and adds up load and sensitivity over the homes, in the order of the members."""

    def __init__(self, homes: Mapping[str, int]) -> None:
        self._homes = homes

    def open(self, signal: Body) -> Ask:
        """The price is the homes' price."""
        return Ask(signal)

    def follow(
        self, asked: Said, answers: Mapping[str, Body], held: Collection[str], excluded: Collection[str]
    ) -> Reply:
        """One answer for all homes: load (T,) kW, slope (T,), coupling (T, T).

        A held answer counts with its load alone: a home that does not answer bends with no price.
        """
        bodies = {name: body for name, body in answers.items() if isinstance(body, LoadResponse)}
        fresh = [body for name, body in bodies.items() if name not in held]
        load = np.concatenate([body.loads() for body in bodies.values()]).sum(axis=0)
        slope = np.sum([body.slope for body in fresh], axis=0) if fresh else np.zeros(len(load))
        couplings = [body.coupling.array() for body in fresh if body.coupling is not None]
        return Reply(
            LoadResponse(
                homes=sum(body.homes for body in bodies.values()),
                held=sum(bodies[name].homes for name in held),
                excluded=sum(self._homes[name] for name in excluded),
                load_kw=load.tolist(),
                slope=slope.tolist(),
                coupling=Packed.of(np.sum(couplings, axis=0)) if couplings else None,
            )
        )

    def settle(self, settlement: Body) -> Ending:
        """The settled price is the homes' price."""
        return Ending(settlement)


class UserOrientedSettings(AggregatorSettings):
    """Nothing to set: it adds up."""

    def strategy(self, slots: int, homes: Mapping[str, int]) -> UserOrientedAggregator:
        """The aggregator's part, for `homes` behind each member."""
        return UserOrientedAggregator(homes)
