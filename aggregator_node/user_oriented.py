"""What the aggregator does in the user-oriented pricing game: it sums, so that nobody above sees one home."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from stackelgrid.wire.arrays import Packed
from stackelgrid.wire.messages import Body
from stackelgrid.wire.user_oriented import LoadResponse


class UserOrientedAggregator:
    """Adds up load and sensitivity over the homes, in the order of the members."""

    def combine(self, answers: Mapping[str, Body], held: Collection[str], excluded_homes: int) -> LoadResponse:
        """One answer for all homes: load (T,) kW, slope (T,), coupling (T, T).

        A held answer counts with its load alone: a home that does not answer bends with no price.
        """
        bodies = {name: body for name, body in answers.items() if isinstance(body, LoadResponse)}
        fresh = [body for name, body in bodies.items() if name not in held]
        load = np.concatenate([body.loads() for body in bodies.values()]).sum(axis=0)
        slope = np.sum([body.slope for body in fresh], axis=0) if fresh else np.zeros(len(load))
        couplings = [body.coupling.array() for body in fresh if body.coupling is not None]
        return LoadResponse(
            homes=sum(body.homes for body in bodies.values()),
            held=sum(bodies[name].homes for name in held),
            excluded=excluded_homes,
            load_kw=load.tolist(),
            slope=slope.tolist(),
            coupling=Packed.of(np.sum(couplings, axis=0)) if couplings else None,
        )
