"""A home's storage as a quadratic program: levels and charging limits [UO-3] and wear [UO-4]."""

from __future__ import annotations

import numpy as np

from stackelgrid.games.user_oriented.home.model import Storage


class StorageProgram:
    """One storage [UO-3] as matrices over z = (r, s).

    r is net charging in its slots, s the depth below the wear threshold.

    r_min <= z <= r_max, lower <= rows @ z <= upper; the wear per hour is 1/2 z' diag(weight) z.
    """

    def __init__(self, storage: Storage, horizon: int, slot_hours: float = 1.0) -> None:
        self.slots = storage.slots(horizon)
        self.initial = storage.initial_kwh
        n = len(self.slots)
        deep = storage.wear.deep > 0 and storage.wear.depth > 0 and storage.capacity_kwh > 0
        self.size = 2 * n if deep else n
        self.weight = np.full(self.size, 2 * storage.wear.fast)
        self.weight[n:] = 2 * storage.wear.deep
        cumulative = slot_hours * np.tril(np.ones((n, n)))
        levels = np.hstack([cumulative, np.zeros((n, self.size - n))])
        self.lower = np.full(n, -storage.initial_kwh)
        self.lower[-1] = storage.least_final_kwh - storage.initial_kwh
        self.upper = np.full(n, storage.capacity_kwh - storage.initial_kwh)
        self.rows = levels
        if deep:
            threshold = storage.wear.depth * storage.capacity_kwh - storage.initial_kwh
            self.rows = np.vstack([levels, np.hstack([cumulative, np.eye(n)])])
            self.lower = np.concatenate([self.lower, np.full(n, threshold)])
            self.upper = np.concatenate([self.upper, np.full(n, np.inf)])
        unbounded = np.full(self.size - n, np.inf)
        self.r_min = np.concatenate([np.full(n, -storage.discharge_kw), -unbounded])
        self.r_max = np.concatenate([np.full(n, storage.charge_kw), unbounded])
