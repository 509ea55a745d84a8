"""A search for a price that gives the leader more utility. It shares no code with the leader's own algorithm.

It sees every home's model. Arrays are (T,); prices in money per kWh, loads in kW. Equation tags are those of
docs/games/user_oriented.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, minimize

from stackelgrid.games.user_oriented.reference.company import Company
from stackelgrid.games.user_oriented.reference.homes_response import HomesResponse, Response
from stackelgrid.wire.arrays import Array

_CLIMB = {"maxiter": 60, "maxfun": 90, "ftol": 1e-15, "gtol": 1e-12}
_CLIMB_WITHIN = {"maxiter": 60, "ftol": 1e-14}
_WITHIN, _MARGIN = 1e-9, 1e-8
"""What may be missed of the capacity, and the margin that climbs keep, relative to the load."""
_FAR_STARTS = 6
_APART = 0.03
"""The distance of two starts in the slot where they differ most, relative to the band of the price."""
_TABLE, _MEANS, _HILLS = 240, 80, 5
"""Prices of a slot and means of the load that the line search tries, and hills over the mean that it keeps."""
_TURNS = 3
"""How often it is repeated with the charging that its best price leads to."""
_ZOOMS, _CLOSE = 6, 41
"""How often it looks closer, and the number of prices and of means at each look."""
_SWEEPS, _LEVELS, _NEGLIGIBLE = 6, 16, 1e-6
_NUDGES = np.array([-0.1, -0.03, -0.01, -0.003, 0.003, 0.01, 0.03, 0.1])
"""A sweep tries so many levels over the band in each slot, and these changes, relative to the band; the sweeps end
where the gain is negligible."""
_WORK = 150_000
"""Storages times slots times prices that all sweeps together may ask."""


@dataclass(frozen=True)
class BestPrice:
    """The best price found, its load and the leader's utility, money; `tried` is the number of prices tried."""

    price: Array
    load: Array
    utility: float
    tried: int


class BetterPriceSearch:
    """A search for a better price than the settled one, within the bounds of the price.

    1. A line search on the mean load m. While the storages stand still and mu is one for all slots, U_c is the most
       over m of the sum over slots of (p_t - c_t) L_t - mu (L_t - m)^2, as the mean is where the squared deviation is
       least. So for each m the best price of each slot is found in a table, kinks included. Without storage this finds
       the best price up to the table's grid.
    2. Samples: flat prices, prices near the settled one, and prices anywhere; the more, the more slots and homes.
    3. Sweeps, where the line search does not suffice: from the best prices found that are apart, each slot in turn is
       tried over the whole band.
    4. Climbs along the gradient L + J'(p - grad C(L)) from the settled price and from the best ones that are apart, by
       L-BFGS-B, or by SLSQP when there is a capacity.

    A price counts only by the homes' exact answer, and only if that keeps the capacity as well as the settled one does.
    """

    def __init__(self, company: Company, homes: HomesResponse) -> None:
        self._company, self._homes = company, homes
        self._low = np.broadcast_to(company.price_min, company.mu.shape)
        self._high = np.broadcast_to(company.price_max, company.mu.shape)
        self._band = float(np.max(self._high - self._low))
        self._tried = 0
        self._at: Array | None = None

    def run(self, settled: Array, samples: int, random: np.random.Generator) -> BestPrice:
        """Find the best price, at least the settled one. The result depends on the state of `random` alone."""
        start = np.clip(settled, self._low, self._high)
        load = self._answer(start).load
        self._best = start, load, self._company.utility(start, load)
        self._allowed = max(self._company.violation(load), _WITHIN * float(np.max(np.abs(load))))
        self._starts, self._merits = start[None], self._ask(start[None])
        for _ in range(_TURNS if self._homes.storages else 1):
            self._keep(self._search_mean(self._homes.charging(self._starts[0])))
        if samples:
            self._keep(self._sample(start, samples, random))
        self._sweep(random)
        for price in [start, *self._starts]:
            self._climb(price)
        return BestPrice(*self._best, self._tried)

    def _answer(self, price: Array) -> Response:
        """Give the homes' answer to a price. Remember the last price, and the best one that keeps the capacity."""
        if self._at is None or not np.array_equal(price, self._at):
            self._at = price.copy()  # SciPy changes its own in place
            self._response = self._homes.answer(self._at)
            self._tried += 1
            load, company = self._response.load, self._company
            kept = self._tried > 1 and company.violation(load) <= self._allowed
            if kept and company.utility(price, load) > self._best[2]:
                self._best = self._at, load, company.utility(price, load)
        return self._response

    def _ask(self, prices: Array) -> Array:
        """Give the merits (K,) of prices (K, T), money: utility less a penalty where the load exceeds the capacity."""
        self._tried += len(prices)
        return self._company.merits(prices, self._homes.loads(prices), 10 * float(np.max(self._high)))

    def _keep(self, prices: Array) -> None:
        """Keep the best of these prices (K, T) and of those kept before that are apart, the best first."""
        every = np.concatenate([self._starts, prices])
        merits = np.concatenate([self._merits, self._ask(prices)])
        chosen: list[int] = []
        for number in np.argsort(-merits, kind="stable"):
            apart = np.max(np.abs(every[chosen] - every[number]), axis=1) > _APART * self._band
            if np.all(apart):
                chosen.append(int(number))
            if len(chosen) == _FAR_STARTS:
                break
        self._starts, self._merits = every[chosen], merits[chosen]

    # --- the line search on the mean ---

    def _search_mean(self, charging: Array) -> Array:
        """Give the best prices (K, T) while storages charge (H, T): one for each hill over the mean load."""
        table = self._tabulate(charging)
        loads = self._homes.loads_while_charging(table, charging)
        means = np.linspace(loads.min(axis=0).mean(), loads.max(axis=0).mean(), _MEANS)
        worth, found = self._choose_prices(table, loads, means)
        padded = np.pad(worth, 1, constant_values=-np.inf)
        tops = np.flatnonzero((worth >= padded[:-2]) & (worth >= padded[2:]))
        tops = tops[np.argsort(-worth[tops])][:_HILLS]
        if not self._homes.storages:
            spacing = self._band / _TABLE, (means[-1] - means[0]) / _MEANS
            found[tops] = [self._look_closer(found[top], means[top], *spacing) for top in tops]
        return np.asarray(found[tops])

    def _tabulate(self, charging: Array) -> Array:
        """Give the prices (K, T) of the table: a grid, all kinks, and where the load reaches the capacity."""
        grid = np.linspace(self._low, self._high, _TABLE)
        edges = []
        for limit in (self._company.load_min, self._company.load_max):
            low, high = grid[0], grid[-1]
            for _ in range(50):
                middle = (low + high) / 2
                above = self._homes.loads_while_charging(middle[None], charging)[0] > limit
                low, high = np.where(above, middle, low), np.where(above, high, middle)
            edges += [low, high]
        return np.asarray(np.clip(np.concatenate([grid, self._homes.kinks(), edges]), self._low, self._high))

    def _choose_prices(self, table: Array, loads: Array, means: Array) -> tuple[Array, Array]:
        """Choose for each mean the best price of each slot; give what these are worth (M,) and the prices (M, T)."""
        company = self._company
        beyond = np.maximum(np.maximum(loads - company.load_max, company.load_min - loads), 0)
        kept = beyond <= np.maximum(_WITHIN * np.max(np.abs(loads)), beyond.min(axis=0))
        earned = np.where(kept, (table - company.wholesale) * loads, -np.inf)
        worth, found = np.empty(len(means)), np.empty((len(means), table.shape[1]))
        for number, mean in enumerate(means):
            each = earned - company.mu * (loads - mean) ** 2
            best = each.argmax(axis=0)[None]
            worth[number] = np.take_along_axis(each, best, axis=0).sum()
            found[number] = np.take_along_axis(table, best, axis=0)
        return worth, found

    def _look_closer(self, price: Array, mean: float, width: float, spread: float) -> Array:
        """Choose again among prices within `width` and means within `spread`, closer and closer."""
        still = np.zeros((len(self._homes.homes.ids), len(price)))
        for _ in range(_ZOOMS):
            table = np.clip(price + width * np.linspace(-1, 1, _CLOSE)[:, None], self._low, self._high)
            means = mean + spread * np.linspace(-1, 1, _CLOSE)
            worth, found = self._choose_prices(table, self._homes.loads_while_charging(table, still), means)
            price, mean = found[worth.argmax()], means[worth.argmax()]
            width, spread = 4 * width / _CLOSE, 4 * spread / _CLOSE
        return np.asarray(price)

    # --- samples and sweeps ---

    def _sample(self, settled: Array, samples: int, random: np.random.Generator) -> Array:
        """Draw prices (K, T): an eighth flat ones, a quarter near the settled one, the rest anywhere."""
        count = samples + 4 * len(settled) + len(self._homes.homes.ids)
        flat, near = count // 8, count // 4
        levels = np.linspace(self._low, self._high, flat)
        drawn = [self._near(settled, random) for _ in range(near)]
        drawn += [self._far(settled, random) for _ in range(count - flat - near)]
        return np.asarray(np.clip(np.array([*levels, *drawn]), self._low, self._high))

    def _near(self, settled: Array, random: np.random.Generator) -> Array:
        distance = 10 ** random.uniform(-5, -0.5) * float(np.max(np.abs(settled)))
        kind = random.integers(3)
        if kind == 0:
            direction = np.zeros_like(settled)
            direction[random.integers(len(settled))] = random.choice([-1.0, 1.0])
        else:
            direction = random.standard_normal(len(settled)) if kind == 1 else _smooth(len(settled), random)
        return np.asarray(settled + distance * direction / np.max(np.abs(direction)))

    def _far(self, settled: Array, random: np.random.Generator) -> Array:
        kind = random.integers(3)
        if kind == 0:
            return random.uniform(self._low, self._high, len(settled))
        if kind == 1:
            return settled * random.uniform(0.3, 3.0)
        middle, swing = random.uniform(), random.uniform(0, self._band / 2)
        return np.asarray(self._low + middle * (self._high - self._low) + swing * _smooth(len(settled), random))

    def _sweep(self, random: np.random.Generator) -> None:
        """Change the best prices slot by slot, as far as they get better; as often as the work allows."""
        slots = self._starts.shape[1]
        sweeps = _WORK // (max(1, self._homes.storages) * slots * slots * (_LEVELS + len(_NUDGES)))
        if not (self._homes.storages or np.ptp(self._company.mu)):
            return  # the line search has found the best price
        for start, its_merit in zip(self._starts[: max(1, sweeps // _SWEEPS)], self._merits, strict=False):
            price, merit = start, its_merit
            for _ in range(min(_SWEEPS, sweeps)):
                changed = self._change_each_slot(price, random)
                merits = self._ask(changed.reshape(-1, slots)).reshape(slots, -1)
                best = changed[np.arange(slots), merits.argmax(axis=1)]
                together = np.where(merits.max(axis=1) > merit, np.diagonal(best), price)
                both = np.array([best[merits.max(axis=1).argmax()], together])
                reached = self._ask(both)
                if reached.max() <= merit + _NEGLIGIBLE * abs(merit):
                    break
                price, merit = both[reached.argmax()], reached.max()
            self._keep(price[None])

    def _change_each_slot(self, price: Array, random: np.random.Generator) -> Array:
        """Give prices (T, n, T) that differ from one in one slot each: over the whole band, and by a little."""
        band = self._high - self._low
        shares = (np.arange(_LEVELS) + random.uniform()) / _LEVELS
        levels = self._low[:, None] + band[:, None] * shares
        nudged = np.clip(price[:, None] + band[:, None] * _NUDGES, self._low[:, None], self._high[:, None])
        slots = np.arange(len(price))
        changed = np.tile(price, (len(price), _LEVELS + len(_NUDGES), 1))
        changed[slots, :_LEVELS, slots] = levels
        changed[slots, _LEVELS:, slots] = nudged
        return changed

    def _climb(self, start: Array) -> None:
        company = self._company
        load = self._answer(start).load
        money, kw = max(1.0, abs(company.utility(start, load))), max(1.0, float(np.max(np.abs(load))))

        def descent(price: Array) -> tuple[float, Array]:
            answer = self._answer(price)
            rise = answer.load + answer.jacobian.T @ (price - company.marginal_cost(answer.load))
            return -company.utility(price, answer.load) / money, -rise / money

        bounds = Bounds(self._low, self._high)
        low, high = np.flatnonzero(np.isfinite(company.load_min)), np.flatnonzero(np.isfinite(company.load_max))
        if not len(low) + len(high):
            minimize(descent, start, jac=True, method="L-BFGS-B", bounds=bounds, options=_CLIMB)
            return

        def room(price: Array) -> Array:
            load = self._answer(price).load
            return np.concatenate([(load - company.load_min)[low], (company.load_max - load)[high]]) / kw - _MARGIN

        def room_slope(price: Array) -> Array:
            jacobian = self._answer(price).jacobian
            return np.vstack([jacobian[low], -jacobian[high]]) / kw

        kept = {"type": "ineq", "fun": room, "jac": room_slope}
        minimize(descent, start, jac=True, method="SLSQP", bounds=bounds, constraints=kept, options=_CLIMB_WITHIN)


def _smooth(slots: int, random: np.random.Generator) -> Array:
    """Draw a curve (slots,) of a few slow waves, at most 1 in size."""
    hours = np.arange(slots) / slots
    waves = np.array([np.cos(2 * np.pi * (k * hours + random.uniform())) for k in range(1, 4)])
    curve = random.standard_normal(3) @ waves
    return np.asarray(curve / np.max(np.abs(curve)))
