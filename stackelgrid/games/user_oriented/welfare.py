"""The `welfare` leader: the price at which selfish customers maximise the utility of the whole system [UO-B].

At that price a customer pays for one more kWh the amount that it costs the system, within the bounds of the price:

    p = grad C(L(p)) + nu, cut to price_min..price_max,      nu >= 0 where L = L_max, nu <= 0 where L = L_min, else 0.

`marginal_price.py` finds it. Where its load exceeds the capacity, the leader has to show that no other price keeps it
[UO-K]. Without storage that is so once every slot with too much load has the highest price. Storage moves load from
dear slots to cheap ones, so there the lowest prices that keep the capacity elsewhere help it most: they are found too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stackelgrid.games.user_oriented.local_response import Array, LocalResponse, Observation
from stackelgrid.games.user_oriented.marginal_price import MarginalPriceSearch, find_marginal_price, find_step
from stackelgrid.games.user_oriented.search import NextPrices, PriceFound, relative_change
from stackelgrid.games.user_oriented.utility_company import UtilityCompany

_KEPT = 1e-7
"""The capacity is kept when the load exceeds it by no more than this part, beside the noise of the answers."""
_PARTS = 5
_HALVINGS = 40


class WelfareSearch:
    """The search for the price [UO-B], and for the least violation [UO-K] where that price does not keep the capacity.

    It finds out besides: `unkept_capacity_kw` and `least_violation_kw` when no price keeps the capacity; `noise_kw` and
    `noise_price` (money per kWh) when answers to one price differ by so much that the price is not known within the
    tolerance.
    """

    def __init__(self, company: UtilityCompany, tolerance: float = 1e-6) -> None:
        self._tolerance = tolerance
        self._search = MarginalPriceSearch(company, tolerance)
        self._relief: _CapacityRelief | None = None

    @property
    def company(self) -> UtilityCompany:
        """The leader's parameters; others begin the search for the least violation anew."""
        return self._search.company

    @company.setter
    def company(self, company: UtilityCompany) -> None:
        self._search.company, self._relief = company, None

    @property
    def residual(self) -> float:
        """The relative price change still wanted."""
        return self._search.residual if self._relief is None else self._relief.residual

    def open(self, price: Array) -> NextPrices:
        """Ask the flat price."""
        return NextPrices(price)

    def next(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        """End when the price asked equals the marginal cost of the load that answered it, within the tolerance."""
        first = observed[0]
        if self._relief is not None and not first.is_of_same_homes(self._relief.outside):
            self._relief = None
        if self._relief is None:
            result = self._search.next(observed)
            if isinstance(result, PriceFound) and not (self._keeps_capacity(first) or self._search.slots_are_apart):
                self._relief = _CapacityRelief(self.company, first, self._tolerance)
        if self._relief is not None:
            result = self._relief.next(observed)
        return PriceFound(result.residual, self._list_findings(first)) if isinstance(result, PriceFound) else result

    def _keeps_capacity(self, observed: Observation) -> bool:
        allowed = _KEPT * float(np.max(np.abs(observed.load))) + self._search.noise.load_kw
        return self.company.violation(observed.load) <= allowed

    def _list_findings(self, settled: Observation) -> dict[str, float]:
        company, noise = self.company, self._search.estimate_noise()
        findings = {}
        if not self._keeps_capacity(settled):
            over, under = settled.load - company.load_max, company.load_min - settled.load
            worst = int(np.argmax(np.maximum(over, under)))
            limits, bound = (
                (company.load_max, company.price_max) if over[worst] > 0 else (company.load_min, company.price_min)
            )
            if self._relief is not None or settled.price[worst] == bound[worst]:
                findings["unkept_capacity_kw"] = float(limits[worst])
                findings["least_violation_kw"] = company.violation(settled.load)
        if noise > self._tolerance:
            findings["noise_kw"] = self._search.noise.load_kw
            findings["noise_price"] = noise * float(np.max(np.abs(settled.price)))
        return findings


class _ReliefSearch(MarginalPriceSearch):
    """The search for the prices that relieve a capacity most, and for the least violation that they leave.

    These are the prices of a company that buys at the lowest price of all (the highest, where the load is too low) and
    pays for no deviation, within a capacity that is wider by the least violation.
    """

    def __init__(self, company: UtilityCompany, too_much: bool, tolerance: float) -> None:
        bought_at = company.price_min if too_much else company.price_max
        super().__init__(replace(company, wholesale_price=bought_at, mu=np.zeros_like(company.mu)), tolerance)
        self._capacity = company

    def _find_target(self, observed: Observation, exponent: Array) -> Array:
        """Find the price on the local model within the capacity widened least; by halving, one Newton step each."""
        model = LocalResponse(observed, exponent)
        bracket = self._bracket(model)
        price = np.clip(observed.price, bracket.low, bracket.high)
        load, jacobian = model.load(price), model.jacobian(price)
        least, enough = 0.0, self._capacity.violation(load)
        for _ in range(_HALVINGS):
            between = (least + enough) / 2
            step = find_step(model, self._widen(between), price, bracket)
            keeps = self._capacity.violation(load + jacobian @ step) <= between * (1 + _KEPT)
            least, enough = (least, between) if keeps else (between, enough)
        self.company = self._widen(enough)
        return find_marginal_price(model, self.company, bracket)

    def _widen(self, violation: float) -> UtilityCompany:
        capacity = self._capacity
        return replace(self.company, load_min=capacity.load_min - violation, load_max=capacity.load_max + violation)


class _CapacityRelief:
    """The search for the price with the least violation that is nearest to a price `outside` the capacity [UO-K]."""

    def __init__(self, company: UtilityCompany, outside: Observation, tolerance: float) -> None:
        self.outside = outside
        self.residual = float("inf")
        self._company = company
        self._tolerance = tolerance
        too_much = float(np.max(outside.load - company.load_max)) >= float(np.max(company.load_min - outside.load))
        self._search = _ReliefSearch(company, too_much, tolerance)
        self._best: Observation | None = None
        self._least: float
        self._beyond = outside.price

    def next(self, observed: Sequence[Observation]) -> NextPrices | PriceFound:
        """Give the next prices, or end at the first price observed."""
        first = observed[0]
        if self._best is None:
            result = self._search.next(observed)
            self.residual = self._search.residual
            if isinstance(result, NextPrices):
                return result
            self._least = self._company.violation(first.load) + _KEPT * float(np.max(np.abs(first.load)))
            self._best = self.outside if self._company.violation(self.outside.load) <= self._least else first
        elif self._best is not self.outside:
            self._narrow(observed)
        best = self._best
        self.residual = 0.0 if best is self.outside else relative_change(self._beyond, best.price)
        if self.residual > self._tolerance:
            parts = np.arange(1, _PARTS + 1) / (_PARTS + 1)
            prices = best.price + np.outer(parts, self._beyond - best.price)
            return NextPrices(prices[0], others=list(prices[1:]), sensitivities=0)
        return PriceFound(self.residual) if np.array_equal(first.price, best.price) else NextPrices(best.price)

    def _narrow(self, observed: Sequence[Observation]) -> None:
        """Bring the best price, and the next beyond it with more violation, closer together."""
        for each in observed:
            if self._company.violation(each.load) > self._least:
                self._beyond = each.price
                break
            self._best = each
