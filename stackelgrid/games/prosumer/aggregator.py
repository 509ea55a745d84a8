"""What the DR provider does in the prosumer game: it prices PV and runs the simultaneous game among its prosumers.

Of prosumer i it knows the load p without the event, PV output and what a kWh of that costs, k; retail price r > k from
the utility. Consumption at the event is x = p - dr. The PV price (13) is a function of the supply and demand ratio (7),

    SDR = PV / x,      lambda_PV = r k SDR / (r SDR + k - r)  if SDR > 1, else 0,

and falls from r at SDR = 1 towards k. In the simultaneous game at given prices each prosumer answers with the dr that
serves it best against the others' S_i = sum over k != i of 1/dr_k (see the prosumer's problem):

    2 alpha dr + 3 alpha S dr^2 = lambda,  or dr = cap if that is less.                            (from 14)

Only prosumers that take part, with dr > 0, enter S (derived: else one that stands aside would keep everybody else out).

**Why it settles, and on one equilibrium only** (derived). Write e = ln dr, s = ln S, l = ln lambda, and
q = 3 S dr / (2 + 6 S dr), which lies in [0, 1/2). Differentiated, an answer below its cap bends as
de = (1 - q) dl - q ds, one at its cap not at all; s_i is a soft maximum of the others' -e, so |ds_i| <= max |de|; and
(13) gives dl_i = -g_i de_i with g = (r - k) dr / (r PV - (r - k) x) <= 1 - k/r, because PV > p >= dr where there is
trade. So, in the largest norm over prosumers and slots:

- The simultaneous game, everybody answering what the others last did, is a contraction by 1/2 in e: at given prices
  there is one Nash equilibrium, and the error halves every round.
- That equilibrium moves by no more than prices do, |de| <= max |dl|. Playing to the equilibrium, then pricing what was
  provided (13), is a contraction by max(1 - k/r) in l; half-way steps are one by max(1 - k/2r).
- Who takes part does not change on the way: PV > p is SDR > 1 without dr, and dr raises SDR further.

Halving is slow over a network, and 1 - k/r may be near 1. The provider therefore looks ahead: in the first-order
condition of an answer everything but alpha is known. It plays on in thought, with answers extrapolated so (those at
their cap stay where they are), and asks what it arrives at. A step ahead that does not halve what is left is followed
by a plain one, after the third such there are only plain ones, whose convergence is proved above.

Arrays are (n, T), a row per prosumer in the order of the members and their homes, a column per slot: kW, S in 1/kW,
money per kWh. The utility is told rows in another order, see `Places`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stackelgrid.games.prosumer.messages import Offer, Prosumption, Provision, PvPrice, matrix, rows
from stackelgrid.rounds.settings import AggregatorSettings
from stackelgrid.rounds.strategy import Ask, Ending, Reply
from stackelgrid.wire.arrays import LARGEST, Array

_LOG = logging.getLogger("aggregator_node")
_LEAST_KW = 1e-9
"""Who provides less takes no part: 1/dr of several such would leave the range of numbers on the wire."""
_THOUGHTS = 200
_STILL = 0.1
"""A prosumer that moves by less than this part of what was expected of it is at its cap."""
_MISSES = 3


def supply_demand_ratio(load: Array, pv: Array, dr: Array) -> Array:
    """SDR (7), at most `LARGEST`, which stands for no consumption at all (paper)."""
    x = load - dr
    return np.asarray(np.where(x > pv / LARGEST, pv / np.where(x > 0, x, 1.0), np.where(pv > 0, LARGEST, 0.0)))


def pv_price(load: Array, pv: Array, pv_cost: Array, retail: Array, dr: Array) -> Array:
    """lambda_PV (13), multiplied out so that it holds for x = 0 too (paper).

    Where the cost is not below the retail price no price satisfies (8), and there is no trade (reading).
    """
    x = load - dr
    trade = (pv > x) & (pv_cost < retail)
    return np.where(trade, retail * pv_cost * pv, 0.0) / np.where(trade, retail * pv - (retail - pv_cost) * x, 1.0)


def others(dr: Array) -> Array:
    """S_i, the sum of 1/dr over the other prosumers that take part: added up, the own share never subtracted."""
    part = dr > _LEAST_KW
    inverse = np.where(part, 1.0, 0.0) / np.where(part, dr, 1.0)
    total = np.zeros_like(dr)
    total[1:] += np.cumsum(inverse, axis=0)[:-1]
    total[:-1] += np.cumsum(inverse[::-1], axis=0)[-2::-1]
    return np.minimum(total, LARGEST)


@dataclass(frozen=True)
class Answered:
    """Prosumers provide `dr` at `price` against `others`; those `still` are taken to be at their cap."""

    price: Array
    others: Array
    dr: Array
    still: NDArray[np.bool_]

    def elsewhere(self, price: Array, others: Array) -> Array:
        """What they would provide at another price against other others."""
        return np.where(self.still, self.dr, self._uncapped(price, others))

    def then(self, price: Array, others: Array, dr: Array) -> Answered:
        """The next answers, held against what was to be expected of them."""
        moved, expected = _distance(dr, self.dr), _distance(self._uncapped(price, others), self.dr)
        return Answered(price, others, dr, np.where(expected > 1e-9, moved < _STILL * expected, self.still))

    def equilibrium(self, price: Callable[[Array], Array]) -> Array:
        """Where the game would settle if `price` followed from what is provided, by half-way steps in ln dr."""
        dr = self.dr
        for _ in range(_THOUGHTS):
            last, dr = dr, np.sqrt(dr * self.elsewhere(price(dr), others(dr)))
            if np.max(_distance(dr, last)) < 1e-15:
                break
        return dr

    @cached_property
    def _sensitivity(self) -> Array:
        """alpha by the first-order condition; more than that of those at their cap, 0 of those that provide nothing."""
        part = self.dr > 0
        return np.where(part, self.price, 0.0) / np.where(part, 2 * self.dr + 3 * self.others * self.dr**2, 1.0)

    def _uncapped(self, price: Array, others: Array) -> Array:
        alpha = self._sensitivity
        root = alpha + np.sqrt(alpha**2 + 3 * alpha * others * price)
        return np.where(root > 0, price, 0.0) / np.where(root > 0, root, 1.0)


def _distance(one: Array, other: Array) -> Array:
    """|ln one - ln other| of non-negative numbers; infinite between zero and any other."""
    both = (one > 0) & (other > 0)
    logarithm = np.log(np.where(both, one, 1.0) / np.where(both, other, 1.0))
    return np.where(both | (one == other), np.abs(logarithm), np.inf)


class ProviderSettings(AggregatorSettings):
    """The DR provider. The simultaneous game has settled when every S agrees with the answers to it, to a relative
    `tolerance`; after `max_rounds` rounds the provider reports what it has, and how far from settled that is.
    """

    tolerance: Annotated[float, Field(ge=1e-13, lt=1)] = 1e-11
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] = 100

    def strategy(self, slots: int, homes: Mapping[str, int]) -> DrProvider:
        """The provider's part of the game."""
        return DrProvider(self, slots, homes)


class Footprint:
    """The provider's prosumers as they describe themselves; `there` (n,) tells who does, others have rows of zeros."""

    def __init__(self, homes: Mapping[str, int], slots: int) -> None:
        self.rows: dict[str, slice] = {}
        count = 0
        for name, number in homes.items():
            self.rows[name] = slice(count, count + number)
            count += number
        self.there = np.zeros(count, bool)
        self.tariff = ["unknown"] * count
        self.load, self.pv, self.pv_cost = np.zeros((3, count, slots))

    def read(self, answers: Mapping[str, Prosumption]) -> Array:
        """Take down who is there; returns what they provide, (n, T) kW."""
        dr = np.zeros_like(self.load)
        for column in (self.there, self.load, self.pv, self.pv_cost):
            column[:] = 0
        for name, body in answers.items():
            mine = self.rows[name]
            self.there[mine], self.tariff[mine] = True, body.tariff
            self.load[mine], self.pv[mine] = matrix(body.load_kw), matrix(body.pv_kw)
            self.pv_cost[mine], dr[mine] = matrix(body.pv_cost), matrix(body.dr_kw)
        return np.where(dr > _LEAST_KW, dr, 0.0)

    def retail(self, offer: Offer) -> Array:
        """lambda_ret of each prosumer in the event, (n, T); 0, so that there is no trade, elsewhere."""
        retail = np.zeros_like(self.load)
        event = slice(offer.first - 1, offer.last)
        for row in np.flatnonzero(self.there):
            prices = offer.retail_price.get(self.tariff[row])
            if prices is None:
                _LOG.warning("a tariff that the utility does not have", extra={"data": {"tariff": self.tariff[row]}})
            else:
                retail[row, event] = prices[event]
        return retail

    def count(self, members: Collection[str]) -> int:
        """How many prosumers are behind these members."""
        return sum(self.rows[name].stop - self.rows[name].start for name in members)


class Places:
    """In which row of what the utility is told a prosumer stands: in none that its place among the members shows.

    Who is heard for the first time takes the next row; those heard at once stand by what is first told of them, so that
    their order says nothing that their rows do not. A row once taken is kept: the utility may hold an earlier answer
    and price that one. Those never heard share the rows that are left, which are zeros.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._heard: list[int] = []

    def take(self, there: NDArray[np.bool_], tariff: Sequence[str], told: Array) -> NDArray[np.intp]:
        """For each row told the prosumer in it, (n,); `told` (n, ..) is what the rows of those `there` hold."""
        new = set(np.flatnonzero(there).tolist()) - set(self._heard)
        self._heard += sorted(new, key=lambda row: (tariff[row], *told[row].tolist()))
        return self.order

    @property
    def order(self) -> NDArray[np.intp]:
        """For each row told so far the prosumer in it, (n,)."""
        heard = np.array(self._heard, np.intp)
        return np.concatenate([heard, np.setdiff1d(np.arange(self._count), heard)])


class Foresight:
    """Whether the next step looks ahead, judged by what steps ahead have left to settle so far."""

    def __init__(self) -> None:
        self.ahead = True
        self.left = np.inf
        self._misses = 0

    def judge(self, left: float, settled: float) -> None:
        """A step has been taken that leaves so much; at or below `settled` nothing more is asked of it."""
        missed = self.ahead and left > max(self.left / 2, settled)
        self._misses += missed
        self.ahead = not missed and self._misses < _MISSES
        self.left = left


class _Game:
    """A simultaneous game at `price`, in which everybody was last told `others`."""

    def __init__(self, price: Array, others: Array) -> None:
        self.price = price
        self.others = others
        self.rounds = 0
        self.foresight = Foresight()


class DrProvider:
    """The provider's strategy. Members that are held count with what they last provided, excluded ones not at all."""

    def __init__(self, terms: ProviderSettings, slots: int, homes: Mapping[str, int]) -> None:
        self._terms = terms
        self._footprint = Footprint(homes, slots)
        self._places = Places(len(self._footprint.there))
        nothing = np.zeros_like(self._footprint.load)
        self._offer: Offer
        self._retail = nothing
        self._answered: Answered | None = None
        self._game = _Game(nothing, nothing)
        self._pricing = Foresight()
        self._provided = nothing

    def open(self, signal: Offer) -> Ask[dict[str, PvPrice]]:
        """At first ask what there is, at no price (the paper's step 1); then price it and play (steps 2 to 4)."""
        self._offer, self._retail = signal, self._footprint.retail(signal)
        answered = self._answered
        if answered is None:
            nothing = np.zeros_like(self._provided)
            self._game = _Game(self._price(nothing), nothing)
        elif self._pricing.ahead:
            dr = answered.equilibrium(self._price)
            self._game = _Game(self._price(dr), others(dr))
        else:
            wanted = self._price(answered.dr)
            # One that was away while others were priced has no price to start from: half-way from nothing is nothing.
            price = np.where(answered.price > 0, np.sqrt(answered.price * wanted), wanted)
            self._game = _Game(price, others(answered.equilibrium(lambda dr: price)))
        return Ask(self._bodies(self._game.price, self._game.others))

    def on_answers(
        self,
        asked: dict[str, PvPrice],
        answers: Mapping[str, Prosumption],
        held: Collection[str],
        excluded: Collection[str],
    ) -> Ask[dict[str, PvPrice]] | Reply[Provision]:
        """A round of the simultaneous game: ask on until S agrees with the answers to it, then tell the utility."""
        dr = self._footprint.read(answers)
        self._retail = self._footprint.retail(self._offer)
        game, trade = self._game, self._game.price > 0
        game.rounds += 1
        unsettled = float(np.max(_distance(others(dr), game.others)[trade], initial=0.0))
        game.foresight.judge(unsettled, self._terms.tolerance)
        account = {"unsettled": min(1.0, unsettled), "dr_kw": dr.sum(axis=0).tolist()}
        if trade.any() and self._answered is None:
            self._answered = Answered(game.price, game.others, dr, np.zeros_like(trade))
        elif self._answered is not None:
            self._answered = self._answered.then(game.price, game.others, dr)
        if unsettled <= self._terms.tolerance or game.rounds >= self._terms.max_rounds:
            return Reply(self._provision(dr, held, excluded), account)
        if self._answered is not None and game.foresight.ahead:
            dr = self._answered.equilibrium(lambda dr: game.price)
        game.others = others(dr)
        return Ask(self._bodies(game.price, game.others), account)

    def settle(self, settlement: Offer) -> Ending[dict[str, PvPrice]]:
        """To each prosumer the price and S at which it provides what it last said; the account has them as members are.

        Those that were not there in the last round are offered nothing: the others have not reckoned with them.
        """
        there = self._footprint.there[:, None]
        price, told = np.where(there, self._game.price, 0.0), np.where(there, self._game.others, 0.0)
        account = {
            "pv_price": price.tolist(),
            "dr_price": self._dr_price(settlement).tolist(),
            "dr_kw": self._provided.tolist(),
            "profit": self._profit(settlement, self._provided).tolist(),
        }
        return Ending(self._bodies(price, told), account)

    def _price(self, dr: Array) -> Array:
        """(13) at what is provided."""
        mine = self._footprint
        return pv_price(mine.load, mine.pv, mine.pv_cost, self._retail, dr)

    def _bodies(self, price: Array, told: Array) -> dict[str, PvPrice]:
        return {
            name: PvPrice(price=rows(price[mine]), others=rows(told[mine]))
            for name, mine in self._footprint.rows.items()
        }

    def _provision(self, dr: Array, held: Collection[str], excluded: Collection[str]) -> Provision:
        """What the utility is told: prices and ratios at what is provided now."""
        mine, price = self._footprint, self._price(dr)
        mispriced = float(np.max(_distance(price, self._game.price)))
        self._pricing.judge(mispriced, self._terms.tolerance)
        change = float(np.max(np.abs(dr - self._provided)))
        self._provided = dr
        sdr = supply_demand_ratio(mine.load, mine.pv, dr)
        order = self._places.take(mine.there, mine.tariff, np.hstack([price, sdr]))
        return Provision(
            homes=int(mine.there.sum()),
            held=mine.count(held),
            excluded=mine.count(excluded),
            tariff=[mine.tariff[row] for row in order],
            pv_price=rows(price[order]),
            sdr=rows(sdr[order]),
            load_kw=mine.load.sum(axis=0).tolist(),
            pv_kw=mine.pv.sum(axis=0).tolist(),
            dr_kw=dr.sum(axis=0).tolist(),
            profit=self._profit(self._offer, dr).tolist(),
            dr_change_kw=change,
            residual=min(1.0, max(mispriced, self._game.foresight.left)),
            game_rounds=self._game.rounds,
        )

    def _profit(self, offer: Offer, dr: Array) -> Array:
        """(15), (T,) money, at the DR price of `offer`; nothing from prosumers that are not traded with."""
        mine, price = self._footprint, self._game.price
        margin = np.where(price > 0, self._dr_price(offer) - price, 0.0)
        return np.asarray((margin * (mine.pv - mine.load + dr)).sum(axis=0))

    def _dr_price(self, offer: Offer) -> Array:
        """lambda_DR of each prosumer, (n, T); zero while there is none, or when it is for another number of them."""
        mine = np.zeros_like(self._footprint.load)
        if offer.dr_price is None:
            return mine
        told = matrix(offer.dr_price)
        if told.shape == mine.shape:
            mine[self._places.order] = told
        else:
            _LOG.error("a DR price for other prosumers", extra={"data": {"rows": len(told), "prosumers": len(mine)}})
        return mine
