"""Draw small random scenarios of `user_oriented` from a seed.

Valuations, wholesale prices and limits are such that appliances saturate, stop and reach limits within the bounds of
the price, so that there are several hills to climb.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.random_games.homes import PlainHomes

FAMILIES = ("uncoupled", "coupled", "welfare")
Random = np.random.Generator
Content = dict[str, Any]


def draw_game(family: str, seed: int) -> Content:
    """Draw the content of a scenario.

    - `uncoupled`: 1 to 6 slots, 2 to 12 homes without storage; the leader's own optimum is sought.
    - `coupled`: a storage couples the slots of half of the homes, in a third of them an EV.
    - `welfare`: the objective `welfare` within a capacity, a third of the games with storage.
    """
    random = np.random.default_rng([FAMILIES.index(family), seed])
    with_storage = family == "coupled" or (family == "welfare" and random.random() < 1 / 3)
    while True:
        slots = int(random.integers(2 if with_storage else 1, 7))
        price_max = float(random.uniform(6, 25))
        leader = _draw_leader(random, slots, price_max)
        inelastic = random.random() < 0.4
        homes = [_draw_home(random, f"h{number + 1}", slots, inelastic) for number in range(random.integers(2, 13))]
        plain = PlainHomes(homes, slots)
        if family == "welfare":
            leader |= {"objective": "welfare", "capacity": _draw_capacity(random, plain, leader)}
            if with_storage:  # then no reference is known where a bound of the price holds
                leader["price_min"], leader["price_max"] = 0.0, 4 * price_max
                leader["wholesale_price"] = [abs(price) + 0.2 * price_max for price in leader["wholesale_price"]]
        elif not with_storage and random.random() < 0.4:
            leader["capacity"] = _draw_capacity(random, plain, leader)
        for home in homes if with_storage else []:
            if random.random() < 0.5 or home is homes[0]:
                _add_storage(random, home, leader, slots)
        if plain.load(np.full((1, slots), leader["baseline_price"])).sum() > 0.1:
            return {"schema": 1, "game": "user_oriented", "slots": slots, "leader": leader, "homes": homes}


def _draw_leader(random: Random, slots: int, price_max: float) -> Content:
    wholesale = random.uniform(0, 0.3 * price_max, slots)
    if random.random() < 0.3:  # sun at noon
        wholesale = np.where(random.random(slots) < 0.4, random.choice([0.0, -random.uniform(0, 3)]), wholesale)
    band = [0.0, price_max]
    if random.random() < 0.4:
        band = [random.uniform(0, 0.3) * price_max, random.uniform(0.5, 1) * price_max]
    return {
        "baseline_price": random.uniform(band[0] + 0.1 * (band[1] - band[0]), band[1]),
        "wholesale_price": wholesale.tolist(),
        "mu": float(random.choice([0.0, random.uniform(0.05, 1), random.uniform(1, 5)], p=[0.3, 0.5, 0.2])),
        "price_min": band[0],
        "price_max": band[1],
    }


def _draw_home(random: Random, name: str, slots: int, inelastic: bool) -> Content:
    elastic = [_draw_appliance(random, slots) for _ in range(random.choice([1, 2], p=[0.7, 0.3]))]
    home: Content = {"id": name, "elastic": elastic}
    fixed = np.zeros(slots)
    if inelastic and random.random() < 0.5:
        fixed = random.uniform(0, 2, slots)
        home["inelastic"] = [{"load_kw": fixed.tolist()}]
    if random.random() < 0.25:
        least = fixed.max() + sum(np.max(each.get("min_kw", 0.0)) for each in elastic)
        most = fixed.max() + sum(np.max(each["max_kw"]) for each in elastic)
        home["draw_limit"] = {"max_kw": float(least + random.uniform(0.3, 1) * (most - least))}
    return home


def _draw_appliance(random: Random, slots: int) -> Content:
    form = str(random.choice(["log", "power", "quadratic"]))
    taste: Content = {"form": form}
    if form == "log":
        taste |= {"omega": random.uniform(0.7, 3), "alpha": random.uniform(1, 6)}
    elif form == "power":
        taste |= {"omega": random.uniform(0.5, 2), "alpha": random.uniform(0.2, 0.8)}
    else:
        taste |= {"omega": random.uniform(0.6, 1.6), "alpha": random.uniform(0.4, 2)}
    full = random.uniform(1, 8)
    appliance: Content = {"max_kw": full, "valuation": random.uniform(2, 20), "satisfaction": taste}
    if random.random() < 0.3:  # another use in each slot
        taste["omega"] = (taste["omega"] * random.uniform(0.6, 1.4, slots)).tolist()
    if random.random() < 0.15:
        appliance["min_kw"] = random.uniform(0, 0.3) * full
    return appliance


def _draw_capacity(random: Random, homes: PlainHomes, leader: Content) -> Content:
    """Draw a capacity that a price within the bounds keeps in every slot."""
    bounds = np.array([[leader["price_max"]], [leader["price_min"]]]) * np.ones(len(leader["wholesale_price"]))
    least, most = homes.load(bounds)
    capacity: Content = {}
    if random.random() < 0.8:
        capacity["max_kw"] = float(least.max() + random.uniform(0.05, 0.9) * max(most.max() - least.max(), 0.1))
    if not capacity or random.random() < 0.3:
        top = min(most.min(), capacity.get("max_kw", np.inf))
        capacity["min_kw"] = float(random.uniform(0.1, 0.9) * top)
    return capacity


def _add_storage(random: Random, home: Content, leader: Content, slots: int) -> None:
    """Give a home a storage, and room to charge it within its draw limit and the capacity."""
    storage = _draw_storage(random, slots)
    home["storage"] = [storage]
    for limit in (home.get("draw_limit", {}), leader.get("capacity", {})):
        if "max_kw" in limit:
            limit["max_kw"] += storage["charge_kw"]


def _draw_storage(random: Random, slots: int) -> Content:
    capacity = random.uniform(2, 12)
    storage: Content = {
        "capacity_kwh": capacity,
        "initial_kwh": random.uniform(0.1, 0.9) * capacity,
        "charge_kw": random.uniform(0.5, 4),
        "discharge_kw": random.uniform(0.5, 4),
        "wear": {"fast": 10 ** random.uniform(-1.5, 0.3)},
    }
    if random.random() < 1 / 3:  # an EV that must be charged when it leaves
        first, last = (int(slot) for slot in random.integers(1, slots + 1, 2))
        hours = (last - first) % slots + 1
        need = random.uniform(0.1, 0.9) * min(storage["charge_kw"] * hours, capacity)
        storage |= {
            "initial_kwh": capacity - need,
            "final_kwh": capacity,
            "discharge_kw": 0.0,
            "available": {"first": first, "last": last},
        }
    elif random.random() < 0.3:
        storage["wear"] |= {"deep": random.uniform(0.02, 0.5), "depth": random.uniform(0.1, 0.5)}
    return storage
