"""Small random scenarios for the soak test."""

from __future__ import annotations

from typing import Any

import numpy as np

SLOTS = 3


def small_scenario(random: np.random.Generator, homes: int) -> dict[str, Any]:
    """Draw leader and prosumers of a scenario: one tariff, and an event that lasts the whole day."""
    load = random.uniform(40, 80, (homes, SLOTS))
    return {
        "slots": SLOTS,
        "leader": {
            "tariffs": {"all": random.uniform(30, 50, SLOTS).tolist()},
            "event": {"first": 1, "last": SLOTS},
            "cost": {"c0": 400, "c1": -0.6, "c2": 0.003},
            "system_load_kw": (np.sum(load, axis=0) * 1.5).tolist(),
        },
        "homes": [
            {
                "id": f"h{number + 1}",
                "tariff": "all",
                "alpha": random.uniform(0.2, 1),
                "cap_share": random.uniform(0.05, 0.3),
                "pv_cost": random.uniform(6, 12),
                "load_kw": load[number].tolist(),
                "pv_kw": random.uniform(50, 110, SLOTS).tolist(),
            }
            for number in range(homes)
        ],
    }
