"""Small random scenarios for the soak test."""

from __future__ import annotations

from typing import Any

import numpy as np

SLOTS = 3


def small_scenario(random: np.random.Generator, homes: int) -> dict[str, Any]:
    """Draw a call in the event of all slots, and the consumers of a scenario with one aggregator."""
    baseline = random.uniform(80, 150, homes).tolist()
    return {
        "slots": SLOTS,
        "aggregators": 1,
        "leader": {
            "target_kwh": random.uniform(0.2, 0.9) * sum(baseline),
            "event": {"first": 1, "last": SLOTS},
            "peak_price": 5.8,
            "off_peak_price": 2.6,
        },
        "aggregator": {"fairness": 0.005, "reward": 1.0},
        "homes": [
            {"id": f"c{number + 1}", "baseline_kwh": drawn, "alpha": random.uniform(0.01, 0.1), "beta": 0.5}
            for number, drawn in enumerate(baseline)
        ],
    }
