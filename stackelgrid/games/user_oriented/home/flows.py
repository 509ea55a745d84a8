"""The power flows of one home as a convex program: what the joint problem of its devices is made of.

A *control* is a power that a device may choose in a slot, a *chain* a stored quantity that controls change: the energy
of a battery or a car, the temperature of a room. Equation tags are those of docs/games/user_oriented.md. Arrays are
(T,), a number per slot; Δ is the length of a slot, h.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stackelgrid.wire.arrays import Array


@dataclass(frozen=True)
class Control:
    """A power u within `lower` <= u <= `upper`, kW, that costs `fast` (u - `best`)^2 money per hour.

    It adds `draw` times u to what the meter draws: 1 for a load, -1 for a generator. It changes the quantity of its
    chain by `gain` u per hour. With `behind_inverter` it shares the home's inverter.
    """

    lower: Array
    upper: Array
    fast: float
    draw: float
    gain: Array | None = None
    best: Array | None = None
    behind_inverter: bool = False


@dataclass(frozen=True)
class Chain:
    """A stored quantity b: b_t = keep b_{t-1} + drift_t + Δ sum of gain_t u_t, within lower <= b <= upper.

    Outside `soft_lower` .. `soft_upper` it costs `stiffness` times the square of the excess per hour; at `stiffness` 0
    these do not count.
    """

    initial: float
    keep: float
    drift: Array
    lower: Array
    upper: Array
    controls: list[Control] = field(default_factory=list)
    soft_lower: Array | None = None
    soft_upper: Array | None = None
    stiffness: float = 0.0

    def reach(self, slot_hours: float) -> tuple[Array, Array]:
        """Give the least and the most of b that its controls reach, one slot after the other, within its limits."""
        least, most = np.zeros(len(self.drift)), np.zeros(len(self.drift))
        low = high = self.initial
        for slot in range(len(self.drift)):
            change = [
                (each.gain[slot] * each.lower[slot], each.gain[slot] * each.upper[slot])
                for each in self.controls
                if each.gain is not None
            ]
            low, high = (
                self.keep * at + self.drift[slot] + slot_hours * sum(pick(pair) for pair in change)
                for at, pick in ((low, min), (high, max))
            )
            least[slot], most[slot] = low, high
            low, high = max(low, self.lower[slot]), min(high, self.upper[slot])
        return least, most
