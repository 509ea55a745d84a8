"""The DR provider of the prosumer game: it prices PV and plays the simultaneous game with its prosumers.

See `simultaneous_game` for the mathematics. Arrays are (n, T), a row per prosumer in the order of the members and their
homes, a column per slot: kW, S in 1/kW, money per kWh. The utility receives rows in another order, see `RowOrder`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stackelgrid.calendar import Session
from stackelgrid.games.prosumer.messages import DrResponse, Offer, Provision, PvPrice, to_matrix, to_rows
from stackelgrid.games.prosumer.simultaneous_game import (
    LEAST_KW,
    Extrapolation,
    Responses,
    compute_sdr,
    log_distance,
    pay_for_more,
    price_pv,
    sum_others,
)
from stackelgrid.rounds.settings import AggregatorSettings
from stackelgrid.rounds.strategy import Ask, Ending, Reply
from stackelgrid.wire.arrays import Array

_LOG = logging.getLogger("aggregator_node")
_MOST_BREACHES = 3
_ROUNDING = 1e-9


Conjecture = Literal["price_taking", "anticipating"]
"""What prosumers believe of their price: that it is held, or that it follows from their own dr by [PR-13]."""


class SettlingSettings(AggregatorSettings):
    """The end of a simultaneous game.

    The simultaneous game has settled when every S agrees with the answers to it, to a relative `tolerance`. After
    `max_rounds` rounds the provider reports the last answers, and how far from settled they are.
    """

    tolerance: Annotated[float, Field(ge=1e-13, lt=1)] = 1e-11
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] = 100


class ProsumerSettings(SettlingSettings):
    """The DR provider's settings; `anticipating` prosumers are told the rule of their price."""

    prosumers: Conjecture = "price_taking"

    def strategy(self, session: Session, homes: Mapping[str, int]) -> ProsumerAggregator:
        """Build the provider's part of the game."""
        return ProsumerAggregator(self, session, homes)


class ProsumerTable:
    """The reports of the provider's prosumers; rows of those not `present` (n,) are zeros.

    Load, PV and its cost are what they are without the event: those of a member's first answer count.
    """

    def __init__(self, homes: Mapping[str, int], slots: int) -> None:
        self.rows: dict[str, slice] = {}
        count = 0
        for name, number in homes.items():
            self.rows[name] = slice(count, count + number)
            count += number
        self.present = np.zeros(count, bool)
        self.tariff = ["unknown"] * count
        self.load, self.pv, self.pv_cost = np.zeros((3, count, slots))
        self._first: dict[str, DrResponse] = {}

    def read(self, answers: Mapping[str, DrResponse]) -> Array:
        """Fill in the answers; return the DR quantities, (n, T) kW."""
        dr = np.zeros_like(self.load)
        for column in (self.present, self.load, self.pv, self.pv_cost):
            column[:] = 0
        for name, body in answers.items():
            mine, first = self.rows[name], self._first.setdefault(name, body)
            self.present[mine], self.tariff[mine] = True, first.tariff
            self.load[mine], self.pv[mine] = to_matrix(first.load_kw), to_matrix(first.pv_kw)
            self.pv_cost[mine] = to_matrix(first.pv_cost)
            dr[mine] = np.minimum(to_matrix(body.dr_kw), self.load[mine])
        return np.where(dr > LEAST_KW, dr, 0.0)

    def look_up_retail(self, offer: Offer) -> Array:
        """Give lambda_ret of each prosumer in the event, (n, T); 0, so that there is no trade, elsewhere."""
        retail = np.zeros_like(self.load)
        event = offer.event
        for row in np.flatnonzero(self.present):
            prices = offer.retail_price.get(self.tariff[row])
            if prices is None:
                _LOG.warning("a tariff that the utility does not have", extra={"data": {"tariff": self.tariff[row]}})
            else:
                retail[row] = np.where(event, prices, 0.0)
        return retail

    def mark(self, members: Collection[str]) -> NDArray[np.bool_]:
        """Mark the prosumers behind these members, (n,)."""
        marked = np.zeros(len(self.present), bool)
        for name in members:
            marked[self.rows[name]] = True
        return marked

    def count(self, members: Collection[str]) -> int:
        """Count the prosumers behind these members."""
        return sum(self.rows[name].stop - self.rows[name].start for name in members)


class RowOrder:
    """The order of the prosumers' rows in reports to the utility, which does not show their order among the members.

    A prosumer that is present for the first time takes the next row. Those present for the first time together are
    sorted by the content of their rows, so that the order says nothing that the rows do not. A row once taken is kept:
    the utility may hold an earlier answer and price that one. Those never present share the remaining rows, of zeros.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken: list[int] = []

    def assign(self, present: NDArray[np.bool_], tariff: Sequence[str], content: Array) -> NDArray[np.intp]:
        """Give the prosumer of each row, (n,); `content` (n, ..) is what the rows of those `present` hold."""
        new = set(np.flatnonzero(present).tolist()) - set(self._taken)
        self._taken += sorted(new, key=lambda row: (tariff[row], *content[row].tolist()))
        return self.prosumers

    @property
    def prosumers(self) -> NDArray[np.intp]:
        """The prosumer of each row, as assigned so far, (n,)."""
        taken = np.array(self._taken, np.intp)
        return np.concatenate([taken, np.setdiff1d(np.arange(self._count), taken)])


class Conduct:
    """How prosumers keep to [PR-A]: at a price no lower and an S no higher, nobody provides less demand response.

    One that three times does so, or provides more at a price no higher and an S no lower, answers at random. It counts
    with the last quantity before that: the simultaneous game of the others would else never settle.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._price, self._others, self._dr = np.zeros((3, *shape))
        self._answered = np.zeros(shape[0], bool)
        self._breaches = np.zeros(shape[0], int)

    def judge(self, price: Array, others: Array, dr: Array, fresh: NDArray[np.bool_]) -> Array:
        """Judge the answers `dr` (n, T) of those `fresh` (n,) at a price and S, and give those that count."""
        more = (price >= self._price) & (others <= self._others) & (dr < self._dr * (1 - _ROUNDING) - LEAST_KW)
        less = (price <= self._price) & (others >= self._others) & (dr > self._dr * (1 + _ROUNDING) + LEAST_KW)
        self._breaches += fresh & self._answered & (more | less).any(axis=1)
        fixed = self._breaches >= _MOST_BREACHES
        counted = np.where((fixed & self._answered)[:, None], self._dr, dr)
        judged = (fresh & ~fixed)[:, None]
        self._price, self._others, self._dr = (
            np.where(judged, now, last) for now, last in ((price, self._price), (others, self._others), (dr, self._dr))
        )
        self._answered = self._answered | fresh
        return counted


class _SimultaneousGame:
    """A simultaneous game at `price`, in which every prosumer last received `others`, S."""

    def __init__(self, price: Array, others: Array) -> None:
        self.price = price
        self.others = others
        self.rounds = 0
        self.extrapolation = Extrapolation()


class ProsumerAggregator:
    """The provider's strategy. Members that are held count with their last DR quantities, excluded ones not at all."""

    def __init__(self, settings: ProsumerSettings, session: Session, homes: Mapping[str, int]) -> None:
        self._settings, self._slot_hours = settings, session.slot_hours
        self._anticipating = settings.prosumers == "anticipating"
        self._table = ProsumerTable(homes, session.slots)
        self._row_order = RowOrder(len(self._table.present))
        nothing = np.zeros_like(self._table.load)
        self._conduct = Conduct(nothing.shape)
        self._offer: Offer
        self._retail = nothing
        self._responses: Responses | None = None
        self._game = _SimultaneousGame(nothing, nothing)
        self._pricing = Extrapolation()
        self._provided = nothing

    def open(self, signal: Offer) -> Ask[dict[str, PvPrice]]:
        """Ask at first for loads and PV, at no price (the paper's step 1); then price PV and play (steps 2 to 4)."""
        self._offer, self._retail = signal, self._table.look_up_retail(signal)
        responses = self._responses
        if responses is None:
            nothing = np.zeros_like(self._provided)
            self._game = _SimultaneousGame(self._price_at(nothing), nothing)
        elif self._pricing.active:
            dr = responses.solve_equilibrium(self._pay_at)
            self._game = _SimultaneousGame(self._price_at(dr), sum_others(dr))
        else:
            wanted = self._price_at(responses.dr)
            # A prosumer that was absent while others were priced has no price to start from: a half-way step, being
            # geometric, would never leave zero.
            price = np.where(responses.price > 0, np.sqrt(responses.price * wanted), wanted)
            self._game = _SimultaneousGame(price, sum_others(responses.solve_equilibrium(lambda dr: price)))
        return Ask(self._write_prices(self._game.price, self._game.others))

    def on_answers(
        self,
        asked: dict[str, PvPrice],
        answers: Mapping[str, DrResponse],
        held: Collection[str],
        excluded: Collection[str],
    ) -> Ask[dict[str, PvPrice]] | Reply[Provision]:
        """Take a round of the simultaneous game: ask on until S agrees with the answers to it, then reply."""
        dr = self._conduct.judge(
            np.zeros_like(self._provided) if self._anticipating else self._game.price,  # which they do not answer
            self._game.others,
            self._table.read(answers),
            self._table.mark(answers.keys() - set(held)),
        )
        self._retail = self._table.look_up_retail(self._offer)
        game, trade = self._game, self._game.price > 0
        game.rounds += 1
        if self._anticipating:
            game.price = np.where(trade, self._price_at(dr), 0.0)
        pay = pay_for_more(game.price, self._retail) if self._anticipating else game.price
        unsettled = float(np.max(log_distance(sum_others(dr), game.others)[trade], initial=0.0))
        game.extrapolation.judge(unsettled, self._settings.tolerance)
        account = {"unsettled": min(1.0, unsettled), "dr_kw": dr.sum(axis=0).tolist()}
        if trade.any() and self._responses is None:
            self._responses = Responses(pay, game.others, dr, np.zeros_like(trade))
        elif self._responses is not None:
            self._responses = self._responses.update(pay, game.others, dr)
        if unsettled <= self._settings.tolerance or game.rounds >= self._settings.max_rounds:
            return Reply(self._report(dr, held, excluded), account)
        if self._responses is not None and game.extrapolation.active:
            dr = self._responses.solve_equilibrium(self._pay_at if self._anticipating else lambda dr: pay)
        game.others = sum_others(dr)
        return Ask(self._write_prices(game.price, game.others), account)

    def settle(self, settlement: Offer) -> Ending[dict[str, PvPrice]]:
        """Give each prosumer the price and S of its last answer; the account has rows in the order of the members.

        Prosumers absent from the last round are offered nothing: the others' S does not count them.
        """
        present = self._table.present[:, None]
        price, others = np.where(present, self._game.price, 0.0), np.where(present, self._game.others, 0.0)
        account = {
            "pv_price": price.tolist(),
            "dr_price": self._read_dr_price(settlement).tolist(),
            "dr_kw": self._provided.tolist(),
            "profit": self._compute_profit(settlement, self._provided).tolist(),
        }
        return Ending(self._write_prices(price, others), account)

    def _price_at(self, dr: Array) -> Array:
        """Compute [PR-13] at these DR quantities."""
        table = self._table
        return price_pv(table.load, table.pv, table.pv_cost, self._retail, dr)

    def _pay_at(self, dr: Array) -> Array:
        """Compute what a kWh more pays in the prosumers' view when these DR quantities are priced."""
        price = self._price_at(dr)
        return pay_for_more(price, self._retail) if self._anticipating else price

    def _write_prices(self, price: Array, others: Array) -> dict[str, PvPrice]:
        retail = np.where(price > 0, self._retail, 0.0)
        return {
            name: PvPrice(
                price=to_rows(price[mine]),
                others=to_rows(others[mine]),
                retail=to_rows(retail[mine]) if self._anticipating else None,
            )
            for name, mine in self._table.rows.items()
        }

    def _report(self, dr: Array, held: Collection[str], excluded: Collection[str]) -> Provision:
        """Report to the utility: prices and ratios at these DR quantities."""
        table, price = self._table, self._price_at(dr)
        mispriced = float(np.max(log_distance(price, self._game.price)))
        self._pricing.judge(mispriced, self._settings.tolerance)
        change = float(np.max(np.abs(dr - self._provided)))
        self._provided = dr
        sdr = compute_sdr(table.load, table.pv, dr)
        prosumers = self._row_order.assign(table.present, table.tariff, np.hstack([price, sdr]))
        return Provision(
            homes=int(table.present.sum()),
            held=table.count(held),
            excluded=table.count(excluded),
            tariff=[table.tariff[row] for row in prosumers],
            pv_price=to_rows(price[prosumers]),
            sdr=to_rows(sdr[prosumers]),
            load_kw=table.load.sum(axis=0).tolist(),
            pv_kw=table.pv.sum(axis=0).tolist(),
            dr_kw=dr.sum(axis=0).tolist(),
            profit=self._compute_profit(self._offer, dr).tolist(),
            dr_change_kw=change,
            residual=min(1.0, max(mispriced, self._game.extrapolation.residual)),
            game_rounds=self._game.rounds,
        )

    def _compute_profit(self, offer: Offer, dr: Array) -> Array:
        """Compute [PR-15], (T,) money, at the DR price of `offer`; nothing where there is no trade."""
        table, price = self._table, self._game.price
        margin = np.where(price > 0, self._read_dr_price(offer) - price, 0.0)
        return np.asarray(self._slot_hours * (margin * (table.pv - table.load + dr)).sum(axis=0))

    def _read_dr_price(self, offer: Offer) -> Array:
        """Give lambda_DR of each prosumer, (n, T); zeros when there is none, or one for another number of them."""
        price = np.zeros_like(self._table.load)
        if offer.dr_price is None:
            return price
        rows = to_matrix(offer.dr_price)
        if rows.shape == price.shape:
            price[self._row_order.prosumers] = rows
        else:
            _LOG.error(
                "a DR price for another number of prosumers",
                extra={"data": {"rows": len(rows), "prosumers": len(price)}},
            )
        return price
