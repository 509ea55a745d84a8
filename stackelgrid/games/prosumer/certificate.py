"""The equilibrium certificate of the prosumer game.

Each prosumer's settled DR quantity is compared, slot by slot, with the best one that a scalar minimiser finds for its
net cost, others' quantities held: that is the Nash equilibrium of the simultaneous game. The price is held as well or,
where prosumers anticipate, follows from the quantity by [PR-13]. Prices are compared with [PR-13] and [PR-17], profits
with [PR-15] and [PR-20]. All of it is written anew here, in SciPy and plain sums. Provider and utility do not optimise
in this game: they price by rule, and the rule is what is certified of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from stackelgrid.certify import CertificateError
from stackelgrid.games.prosumer.home import Prosumer
from stackelgrid.games.prosumer.outcome import ProsumerOutcome
from stackelgrid.wire.arrays import Array

if TYPE_CHECKING:
    from stackelgrid.games.prosumer.scenario import ProsumerScenario

_FEASIBLE = 1e-9
_PARTICIPANT_KW = 1e-9


def certify(scenario: ProsumerScenario, outcome: ProsumerOutcome, samples: int) -> dict[str, Any]:
    """Certify an outcome in which every prosumer settled. Ready for JSON; nothing in it is sampled.

    - `max_regret`: the largest gain of a prosumer in a slot from another DR quantity, relative to what its DR moves
      there, the inconvenience plus the pay for it; `regret` the same for each prosumer, in its worst slot.
    - `pv_price_residual`, `dr_price_residual`: the largest relative distance of a price from [PR-13] and from [PR-17].
    - `profit_residual`, `saving_residual`: the same of [PR-15] and [PR-20], relative to the largest of the event.
    - `gap`: the largest of these.
    - `violation`: by how much a DR quantity is below zero or above its cap [PR-3], kW.
    - `price_order`: whether cost < lambda_PV <= lambda_DR <= lambda_ret wherever there is trade [PR-8], [PR-16].
    - `anticipating`: where prosumers take their price as given, the gain of one that alone anticipated [PR-13]:
      `least_gain` and `largest_gain` of any, relative to what it earns in the day, and its relative cut of DR in a
      slot, `least_cut` and `largest_cut`; None where they anticipate.
    - `feasible`: whether that holds and the violation is within 1e-9 of the largest DR quantity, or of 1 kW.

    Raise `CertificateError` when the outcome is not of the scenario's prosumers and slots.
    """
    # Prosumers compete with those of their own provider only.
    providers = [[home for process in processes for home in process] for processes in scenario.households().values()]
    homes, slots, utility = [home for provider in providers for home in provider], scenario.slots, scenario.leader
    dr, pv_price, dr_price = (
        _to_matrix(homes, key, by_prosumer, slots)
        for key, by_prosumer in (
            ("dr_kw", outcome.dr_kw),
            ("pv_price", outcome.pv_price),
            ("dr_price", outcome.dr_price),
        )
    )
    load, pv = np.array([home.load_kw for home in homes]), np.array([home.pv_kw for home in homes])
    pv_cost = np.array([np.broadcast_to(home.pv_cost, slots) for home in homes])
    retail = np.array([utility.tariffs[home.tariff] for home in homes])
    retail_of = dict(zip((home.id for home in homes), retail, strict=True))
    event, hours = utility.mark_event(scenario.session), scenario.slot_hours
    cap = np.array([home.limit_kw for home in homes])

    decisions = [decision for provider in providers for decision in _list_decisions(provider, outcome)]
    anticipating = scenario.prosumers == "anticipating"
    regret = dict.fromkeys((home.id for home in homes), 0.0)
    for decision in decisions:
        pay = decision.follow_rule(retail_of) if anticipating else decision.pay_settled_price
        regret[decision.home.id] = max(regret[decision.home.id], _find_gain(decision, pay))
    right_pv_price, right_dr_price = _compute_prices(load - dr, pv, pv_cost, retail, event)
    profit = hours * np.sum((dr_price - pv_price) * (pv - load + dr), axis=0, where=pv_price > 0)
    system = np.array(utility.system_load_kw)
    net = np.where(event, system - pv.sum(axis=0) - dr.sum(axis=0), system)
    c0, c1, c2 = utility.cost.c0, utility.cost.c1, utility.cost.c2
    saved = [c0 + c1 * P + c2 * P * P - (c0 + c1 * Q + c2 * Q * Q) for P, Q in zip(system, net, strict=True)]

    residuals = {
        "pv_price_residual": _find_error(pv_price, right_pv_price),
        "dr_price_residual": _find_error(dr_price, right_dr_price),
        "profit_residual": _find_error_of_largest(np.array(outcome.provider_profit), profit),
        "saving_residual": _find_error_of_largest(np.array(outcome.utility_saving), hours * np.array(saved)),
    }
    violation = float(max(0.0, np.max(dr - cap), np.max(-dr)))
    trade = pv_price > 0
    rounding = 1 + 1e-9
    ordered = (pv_cost < pv_price * rounding) & (pv_price <= dr_price * rounding) & (dr_price <= retail * rounding)
    price_order = bool(np.all(ordered[trade]))
    return {
        "method": "Prosumers: SciPy's bounded scalar minimiser on the net cost, slot by slot, "
        f"{'the price by (13)' if anticipating else 'the price held'}. "
        "Provider and utility: prices against the rules (13) and (17), profits against (15) and (20).",
        "gap": max(*residuals.values(), *regret.values()),
        "max_regret": max(regret.values()),
        **residuals,
        "violation": violation,
        "price_order": price_order,
        "feasible": price_order and violation <= _FEASIBLE * max(1.0, float(np.max(dr))),
        "regret": regret,
        "anticipating": None if anticipating else _anticipate_alone(decisions, outcome, retail_of, hours),
    }


class _Decision(NamedTuple):
    """A prosumer's decision in a slot in which it may provide something, the others' S held."""

    home: Prosumer
    slot: int
    others: float
    price: float
    dr: float
    most: float

    def suffer(self, dr: float) -> float:
        """Give the inconvenience [PR-5] of a DR quantity, money an hour."""
        return self.home.alpha * dr**2 * (1 + dr * self.others)

    def find_best(self, pay: Callable[[float], float]) -> float:
        """Find the DR quantity of the least net cost, inconvenience less `pay`."""

        def net_cost(dr: float) -> float:
            return self.suffer(dr) - pay(dr)

        tight = {"xatol": 1e-13 * self.most}
        found = minimize_scalar(net_cost, bounds=(0.0, self.most), method="bounded", options=tight)
        return min((0.0, float(found.x), self.most), key=net_cost)

    def pay_settled_price(self, dr: float) -> float:
        """Give what DR earns beyond what the surplus earns without it, the price held as it settled."""
        return self.price * dr

    def follow_rule(self, retail: Mapping[str, Array]) -> Callable[[float], float]:
        """Give the same with the price by [PR-13], as a function of the DR quantity.

        lambda(dr) (PV - p + dr) - lambda(0) (PV - p), of which the difference would hide the small numbers, is
        lambda(0) lambda(dr) dr / r.
        """
        if self.price == 0:
            return self.pay_settled_price
        r, pv, load = float(retail[self.home.id][self.slot]), self.home.pv_kw[self.slot], self.home.load_kw[self.slot]
        k = self.home.pv_cost[self.slot] if isinstance(self.home.pv_cost, list) else self.home.pv_cost

        def price(dr: float) -> float:
            return r * k * pv / (r * pv + (k - r) * (load - dr))

        return lambda dr: price(0) * price(dr) * dr / r


def _list_decisions(homes: Sequence[Prosumer], outcome: ProsumerOutcome) -> Iterator[_Decision]:
    """List the decisions of one provider's prosumers."""
    cap = {home.id: home.limit_kw for home in homes}
    for t in range(len(homes[0].load_kw)):
        provided = {home.id: outcome.dr_kw[home.id][t] for home in homes}
        inverse = {name: 1 / dr for name, dr in provided.items() if dr > _PARTICIPANT_KW}
        for home in homes:
            price, dr, most = outcome.pv_price[home.id][t], provided[home.id], float(cap[home.id][t])
            if most > 0 and (price > 0 or dr > 0):
                others = sum(share for name, share in inverse.items() if name != home.id)
                yield _Decision(home, t, others, price, dr, most)


def _find_gain(decision: _Decision, pay: Callable[[float], float]) -> float:
    """Find what another DR quantity would save a prosumer, relative to what is moved by its own or by the best one."""
    best = decision.find_best(pay)
    moved = max(decision.suffer(dr) + pay(dr) for dr in (decision.dr, best))
    return max(0.0, _save(decision, best, pay) / moved) if moved > 0 else 0.0


def _save(decision: _Decision, best: float, pay: Callable[[float], float]) -> float:
    """Give what the best quantity saves a prosumer over its own, money an hour."""
    return decision.suffer(decision.dr) - pay(decision.dr) - (decision.suffer(best) - pay(best))


def _anticipate_alone(
    decisions: Sequence[_Decision], outcome: ProsumerOutcome, retail: Mapping[str, Array], hours: float
) -> dict[str, float | None]:
    """Find what a prosumer would gain that alone anticipated [PR-13], where all take their price as given."""
    gain: dict[str, float] = {}
    less: list[float] = []
    for decision in decisions:
        pay = decision.follow_rule(retail)
        best = decision.find_best(pay)
        gain[decision.home.id] = gain.get(decision.home.id, 0.0) + hours * _save(decision, best, pay)
        if decision.dr > 0:
            less.append(1 - best / decision.dr)
    earned = {name: -sum(outcome.cost[name]) for name in gain}
    relative = [gain[name] / earned[name] for name in gain if earned[name] > 0]
    return {
        "least_gain": min(relative, default=None),
        "largest_gain": max(relative, default=None),
        "least_cut": min(less, default=None),
        "largest_cut": max(less, default=None),
    }


def _compute_prices(
    x: Array, pv: Array, pv_cost: Array, retail: Array, event: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Compute lambda_PV [PR-13] and lambda_DR [PR-17], a number at a time, from SDR = PV / x as the paper has them."""
    pv_price, dr_price = np.zeros_like(x), np.zeros_like(x)
    for i, t in zip(*np.nonzero((pv > x) & (pv_cost < retail) & event), strict=True):
        r, k = retail[i, t], pv_cost[i, t]
        if x[i, t] == 0:  # the limits for SDR without bound
            pv_price[i, t] = dr_price[i, t] = k
            continue
        sdr = pv[i, t] / x[i, t]
        price = r * k * sdr / (r * sdr + (k - r))
        pv_price[i, t], dr_price[i, t] = price, r * price * sdr / (r * sdr + (price - r))
    return pv_price, dr_price


def _find_error(found: Array, right: Array) -> float:
    larger = np.maximum(np.abs(found), np.abs(right))
    return float(np.max(np.abs(found - right) / np.where(larger > 0, larger, 1.0), initial=0.0))


def _find_error_of_largest(found: Array, right: Array) -> float:
    return float(np.max(np.abs(found - right)) / max(1.0, float(np.max(np.abs(right)))))


def _to_matrix(homes: Sequence[Prosumer], key: str, by_prosumer: Mapping[str, Sequence[float]], slots: int) -> Array:
    """Give a row per prosumer, (n, T). Raise `CertificateError` when there are others, or other slots."""
    ids = {home.id for home in homes}
    if by_prosumer.keys() != ids:
        named = ", ".join(sorted(ids ^ by_prosumer.keys())[:5])
        raise CertificateError(
            f"outcome.{key} is not of the scenario's prosumers: {named}; certify a run in which everybody settled"
        )
    matrix = np.array([by_prosumer[home.id] for home in homes])
    if matrix.shape[1] != slots:
        raise CertificateError(f"outcome.{key} has {matrix.shape[1]} slots, the scenario {slots}; certify its own run")
    return matrix
