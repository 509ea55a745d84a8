"""Small random scenarios for the soak test."""

from __future__ import annotations

from typing import Any

import numpy as np

SLOTS = 4


def small_scenario(random: np.random.Generator, homes: int) -> dict[str, Any]:
    """Draw a market of two generators and up to three aggregators; each home has vehicles and a battery."""
    shape = random.uniform(0.5, 1, SLOTS)
    fleets = np.bincount(np.arange(homes) % int(random.integers(1, min(3, homes) + 1)))
    return {
        "slots": SLOTS,
        "money": "dollars",
        "aggregators": len(fleets),
        "leader": {
            "generators": [
                {"id": "g1", "quadratic": 0.2, "linear": 20, "max_mw": 80, "ramp_mw": 60},
                {"id": "g2", "quadratic": 0.6, "linear": 10, "max_mw": 60, "ramp_mw": 60},
            ],
            "peak_mw": 100,
            "shape": (shape / shape.max()).tolist(),
            "theta": 0.04,
            "groups": 2,
            "inertia": 0.001,
            "tolerance": 1e-5,
        },
        "dras": [
            {"homes": int(count), "quadratic": random.uniform(0.1, 0.2), "wear": random.uniform(0, 1)}
            for count in fleets
        ],
        "homes": [
            {
                "id": f"h{number + 1}",
                "horizon": SLOTS,
                "appliances": [
                    {
                        "kind": "interruptible",
                        "name": "vehicles",
                        "blocks": 4,
                        "block_kwh": random.uniform(300, 800),
                        "first": 1,
                        "last": SLOTS,
                        "per_hour": 2,
                        "preferred": int(random.integers(1, SLOTS)),
                    }
                ],
                "battery": {"capacity_kwh": 2000, "power_kw": 700, "initial_kwh": 200},
            }
            for number in range(homes)
        ],
    }
