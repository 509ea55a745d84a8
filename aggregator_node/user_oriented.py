"""What the aggregator does in the user-oriented pricing game: it sums, so that nobody above sees one home."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stackelgrid.wire.arrays import Packed
from stackelgrid.wire.messages import Body
from stackelgrid.wire.user_oriented import LoadResponse


class UserOrientedAggregator:
    """Adds up load and sensitivity over the homes, in the order of the members."""

    def combine(self, answers: Mapping[str, Body], held: int, excluded: int) -> LoadResponse:
        """One answer for all homes: load (T,) kW, slope (T,), coupling (T, T)."""
        bodies = [body for body in answers.values() if isinstance(body, LoadResponse)]
        load = np.sum([body.loads().sum(axis=0) for body in bodies], axis=0)
        slope = np.sum([body.slope for body in bodies], axis=0)
        couplings = [body.coupling.array() for body in bodies if body.coupling is not None]
        return LoadResponse(
            homes=sum(body.homes for body in bodies),
            held=held,
            excluded=excluded,
            load_kw=load.tolist(),
            slope=slope.tolist(),
            coupling=Packed.of(np.sum(couplings, axis=0)) if couplings else None,
        )
