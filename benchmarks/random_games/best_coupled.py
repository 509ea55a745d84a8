"""The leader's best price in a game whose slots storage couples, by a global search. It shares no code with the leader.

Many prices are answered at once: a grid up to three slots, spread samples beyond. From the best hills it climbs by
random steps, of all sizes in all directions, which pass small valleys; then by gradient sampling, which follows the
ridges where kinks meet: the step goes along the shortest vector in the hull of the gradients nearby (Burke, Lewis,
Overton 2005).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks.random_games.best_price import FLAT, Best, Company
from benchmarks.random_games.homes import Array
from benchmarks.random_games.storing_home import MixedHomes

_GRID = {1: 400, 2: 48, 3: 18}
_SPREAD = 1500
_HILLS, _APART = 12, 0.05
_TRIES, _ROUNDS = 32, (15, 15, 30)
_POLISHES, _DIFFERENCE = 30, 1e-6

Random = np.random.Generator
Value = Callable[[Array], Array]


def find_best_coupled(content: dict[str, Any], starts: Sequence[Array] = ()) -> Best:
    """Find the best price; `starts` are prices to climb from as well."""
    slots = content["slots"]
    homes, random = MixedHomes(content["homes"], slots), np.random.default_rng(0)
    company = Company(content, homes.load)

    def value(price: Array) -> Array:
        return np.nan_to_num(company.utility(price, homes.load(price)), nan=-np.inf)

    flat = _climb_flat(value, company, slots)
    samples = np.vstack([_spread(random, company, slots), flat, *(start[None] for start in starts)])
    worth = value(samples)
    hills = _choose_hills(samples, worth, company)
    if len(starts):
        hills = np.unique(np.append(hills, len(samples) - 1 - np.arange(len(starts) + 1)))
    price, worth = samples[hills], worth[hills]
    step = np.full(len(price), 0.1 * (company.high - company.low))
    for rounds in _ROUNDS:
        price, worth, step = _climb_at_random(random, value, company, (price, worth, step), rounds)
        kept = np.argsort(-worth)[: max(len(price) // 2, 2)]
        price, worth, step = price[kept], worth[kept], step[kept]
    best = _polish(random, value, company, price[0])
    utility, flat_utility = float(value(best[None])[0]), float(value(flat)[0])
    if utility - flat_utility <= FLAT * max(abs(utility), 1):
        return Best(flat[0], flat_utility, is_flat=True)
    return Best(best, utility, is_flat=False)


def _spread(random: Random, company: Company, slots: int) -> Array:
    """Spread prices over the box, (n, T): a grid for few slots; else rough ones, and others near a flat one."""
    if slots in _GRID:
        ticks = np.linspace(company.low, company.high, _GRID[slots])
        return np.stack(np.meshgrid(*[ticks] * slots), axis=-1).reshape(-1, slots)
    rough = random.uniform(company.low, company.high, (_SPREAD, slots))
    near_mean = rough[:, :1] + random.uniform(0, 0.5, (_SPREAD, 1)) * (rough - rough[:, :1])
    return np.vstack([rough, near_mean])


def _climb_flat(value: Value, company: Company, slots: int) -> Array:
    """Find the best flat price, (1, T), by ever narrower windows."""
    low, high = company.low, company.high
    for _ in range(8):
        tried = np.linspace(low, high, 200)
        at = int(np.argmax(value(np.repeat(tried[:, None], slots, axis=1))))
        low, high = tried[max(at - 1, 0)], tried[min(at + 1, 199)]
    return np.full((1, slots), tried[at])


def _choose_hills(samples: Array, worth: Array, company: Company) -> Array:
    """Choose the best samples that lie apart from better ones."""
    chosen: list[int] = []
    for at in np.argsort(-worth):
        if all(np.abs(samples[at] - samples[other]).max() > _APART * (company.high - company.low) for other in chosen):
            chosen.append(int(at))
        if len(chosen) == _HILLS:
            break
    return np.array(chosen)


def _climb_at_random(
    random: Random, value: Value, company: Company, state: tuple[Array, Array, Array], rounds: int
) -> tuple[Array, Array, Array]:
    """Climb from all prices at once by random steps; a step (n,) grows where one succeeds, else it shrinks."""
    price, worth, step = (each.copy() for each in state)
    count, slots = price.shape
    for _ in range(rounds):
        direction = random.standard_normal((count, _TRIES, slots)) * (
            random.random((count, _TRIES, slots)) < random.uniform(0.2, 1, (count, _TRIES, 1))
        )
        direction[:, : _TRIES // 8] = random.standard_normal((count, _TRIES // 8, 1))
        size = step[:, None, None] * 10 ** random.uniform(-2, 0, (count, _TRIES, 1))
        tried = np.clip(price[:, None] + size * direction, company.low, company.high)
        found = value(tried.reshape(-1, slots)).reshape(count, _TRIES)
        at = found.argmax(axis=1)
        better = found[np.arange(count), at] > worth
        price[better], worth[better] = tried[better, at[better]], found[better, at[better]]
        step = np.where(better, 1.3 * step, 0.7 * step)
    return price, worth, step


def _polish(random: Random, value: Value, company: Company, price: Array) -> Array:
    """Climb by gradient sampling to the top of a ridge."""
    slots, radius = len(price), 1e-2 * (company.high - company.low)
    worth = float(value(price[None])[0])
    around = 2 * slots + 1
    for _ in range(_POLISHES):
        near = price + radius * random.uniform(-1, 1, (around, slots))
        near[0] = price
        near = np.clip(near, company.low + _DIFFERENCE, company.high - _DIFFERENCE)
        moved = near[:, None] + _DIFFERENCE * np.concatenate([np.eye(slots), -np.eye(slots)])
        values = value(moved.reshape(-1, slots)).reshape(around, 2, slots)
        known = np.isfinite(values).all(axis=(1, 2))
        if not known.any():  # prices this far away miss the capacity
            radius /= 4
            continue
        gradients = (values[known, 0] - values[known, 1]) / (2 * _DIFFERENCE)
        blocked_low, blocked_high = price <= company.low, price >= company.high
        gradients[:, blocked_low] = np.maximum(gradients[:, blocked_low], 0)
        gradients[:, blocked_high] = np.minimum(gradients[:, blocked_high], 0)
        direction = _find_shortest(gradients)
        size = np.abs(direction).max()
        if size <= 1e-12:
            radius /= 4
            continue
        strides = radius * 10 ** np.linspace(1, -4, 30) / size
        tried = np.clip(price + strides[:, None] * direction, company.low, company.high)
        found = value(tried)
        if found.max() > worth:
            price, worth = tried[found.argmax()], float(found.max())
        else:
            radius /= 4
        if radius < 1e-10:
            break
    return price


def _find_shortest(vectors: Array) -> Array:
    """Give the shortest vector in the convex hull of vectors (n, T), (T,)."""
    scale = max(float(np.abs(vectors).max()), 1e-300)
    heavy = 1e4
    matrix = np.vstack([vectors.T / scale, np.full(len(vectors), heavy)])
    share, _ = nnls(matrix, np.append(np.zeros(vectors.shape[1]), heavy))
    return np.asarray(share @ vectors / share.sum())
