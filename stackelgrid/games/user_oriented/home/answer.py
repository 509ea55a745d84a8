"""A home's best answer to a price."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stackelgrid.wire.arrays import Array

Derivative = tuple[Array, Array | None]
"""The slope and the coupling of a schedule."""


@dataclass(frozen=True)
class DeviceRates:
    """The rates of devices that are scheduled together, a row each, kW, kWh and degrees C, (devices, T).

    `pv` is what PV gives, `cut` what it does not; `ev` net charging at home, `ev_level` the energy of the cars and
    `temperature` that of the rooms at the end of each slot, `heating` the power of heat pumps. `feed_in` (T,) is paid
    `feed_in_price` (T,); one more kWh costs the home its `own_price` (T,). `worth` is satisfaction less wear and
    discomfort, summed over the slots, money per hour.
    """

    pv: Array
    cut: Array
    ev: Array
    ev_level: Array
    heating: Array
    temperature: Array
    feed_in: Array
    feed_in_price: Array
    own_price: Array
    worth: float


@dataclass(frozen=True)
class Schedule:
    """A home's best answer to a price.

    `x` (A, T) rates of the elastic appliances, `r` (S, T) net charging, `level` (S, T) stored energy at the end of
    each slot, `load` (T,) what the meter draws. dL/dp = diag(slope) + coupling is symmetric and negative semidefinite:
    `slope` (T,) is what elastic appliances cause within a slot, `coupling` (T, T) the rest, None without storage. It
    takes longer than the schedule itself and is computed by `differentiate` when it is first asked for. Where energy is
    fed in at a price of its own, dL/dp is of what is bought. `devices` is what else a home has, `starts` the slots,
    from 1, in which its deferrable runs begin.
    """

    price: Array
    x: Array
    r: Array
    level: Array
    load: Array
    differentiate: Callable[[], Derivative]
    devices: DeviceRates | None = None
    starts: tuple[int | None, ...] = ()

    @cached_property
    def _derivative(self) -> Derivative:
        return self.differentiate()

    @property
    def slope(self) -> Array:
        """The diagonal part of dL/dp, (T,), kW per money per kWh."""
        return self._derivative[0]

    @property
    def coupling(self) -> Array | None:
        """The rest of dL/dp, (T, T), None without storage."""
        return self._derivative[1]

    @property
    def sensitivity(self) -> Array:
        """dL/dp, (T, T), kW per money per kWh."""
        diagonal = np.diag(self.slope)
        return diagonal if self.coupling is None else diagonal + self.coupling
