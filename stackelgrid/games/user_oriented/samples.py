"""Small random scenarios for the soak test, and what it asks of their runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from stackelgrid.run_record import RunRecord

SLOTS = 4


def small_scenario(random: np.random.Generator, homes: int) -> dict[str, Any]:
    """Draw leader and homes of a scenario: each home with an inelastic and an elastic load, some with a storage."""
    content = _draw_without_storage(random, homes)
    for home in content["homes"] if random.random() < 0.5 else []:
        if random.random() < 0.5:
            capacity = random.uniform(4, 12)
            home["storage"] = [
                {
                    "capacity_kwh": capacity,
                    "initial_kwh": random.uniform(0.2, 0.8) * capacity,
                    "charge_kw": random.uniform(1, 3),
                    "discharge_kw": random.uniform(1, 3),
                    "wear": {"fast": random.uniform(0.2, 1)},
                }
            ]
    return content


def settled_price(run_record: RunRecord) -> list[float]:
    """Give the price of the last round, which is the settled one."""
    price: list[float] = run_record.rounds[-1]["price"]
    return price


def _draw_without_storage(random: np.random.Generator, homes: int) -> dict[str, Any]:
    return {
        "slots": SLOTS,
        "leader": {
            "objective": str(random.choice(["stackelberg", "welfare"])),
            "baseline_price": 9,
            "wholesale_price": random.uniform(2, 5, SLOTS).tolist(),
            "mu": random.uniform(0.3, 1.5),
            "price_max": 30,
            "tolerance": 1e-9,
        },
        "homes": [
            {
                "id": f"h{number + 1}",
                "horizon": SLOTS,
                "inelastic": [{"load_kw": random.uniform(0.5, 2, SLOTS).tolist()}],
                "elastic": [
                    {
                        "max_kw": random.uniform(3, 8),
                        "valuation": random.uniform(10, 18),
                        "satisfaction": {"form": "log", "alpha": random.uniform(2, 5)},
                    }
                ],
            }
            for number in range(homes)
        ],
    }
