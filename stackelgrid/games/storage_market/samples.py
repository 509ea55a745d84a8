"""Small random scenarios for the soak test, where ramps, limits and caps may bind; and what it asks of their runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from stackelgrid.games.storage_market.scenario import StorageMarketScenario
from stackelgrid.run_record import RunRecord

SLOTS = 4


def small_scenario(random: np.random.Generator, homes: int) -> dict[str, Any]:
    """Draw a market of three generators and up to three aggregators; each home has vehicles, a machine and a battery.

    The price lies between 30 and 50 $/MWh or so. Generators together can follow any change of the demand, 50 MW, or
    little more.
    """
    shape = random.uniform(0.5, 1, SLOTS)
    ramps = random.uniform((25, 25, 15), (60, 60, 40))
    fleets = np.bincount(np.arange(homes) % int(random.integers(1, min(3, homes) + 1)))
    leader: dict[str, Any] = {
        "generators": [
            {"id": "g1", "quadratic": 0.2, "linear": 20, "max_mw": 80, "ramp_mw": ramps[0]},
            {"id": "g2", "quadratic": 0.6, "linear": 10, "max_mw": random.uniform(20, 60), "ramp_mw": ramps[1]},
            {"id": "g3", "quadratic": 0.3, "linear": 32, "max_mw": 40, "ramp_mw": ramps[2]},
        ],
        "peak_mw": 100,
        "shape": (shape / shape.max()).tolist(),
        "theta": 0.04,
        "groups": 2,
        "inertia": 0.001,
    }
    if random.random() < 0.5:
        leader |= {"price_cap": random.uniform(34, 44), "theta": 0.01, "max_theta": random.uniform(0.01, 0.05)}
    return {
        "slots": SLOTS,
        "money": "dollars",
        "aggregators": len(fleets),
        "leader": leader,
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
                    },
                    {
                        "kind": "uninterruptible",
                        "name": "machine",
                        "hours": int(random.integers(1, 3)),
                        "kw": random.uniform(50, 400),
                        "first": 1,
                        "last": SLOTS,
                        "preferred": int(random.integers(1, SLOTS)),
                    },
                ],
                "battery": {"capacity_kwh": 2000, "power_kw": 700, "initial_kwh": 200},
            }
            for number in range(homes)
        ],
    }


def find_disagreement(
    scenario: StorageMarketScenario, run_record: RunRecord, outcome: Mapping[str, Any]
) -> Iterator[str]:
    """Compare the demand that was dispatched with the expected one plus the changes of the homes, MW.

    Homes move one after the other, so that a round which some of them missed leads elsewhere.
    """
    usual = sum(home.usual_load() for home in scenario.everyone)
    drawn = np.sum([schedule["load_kw"] for schedule in run_record.homes.values()], axis=0)
    demand = scenario.leader.expected + (drawn - usual) / 1000
    if not np.allclose(demand, outcome["load_mw"], rtol=1e-6):
        yield f"homes draw {demand.tolist()} MW, dispatched was {outcome['load_mw']}"
