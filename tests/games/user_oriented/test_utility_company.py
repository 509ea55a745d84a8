"""The weights in the company's utility [UO-7]: on revenue, and on deviation where it is recomputed [UO-E]."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stackelgrid.games.user_oriented.utility_company import LEAST_REVENUE_WEIGHT
from stackelgrid.runner import Run, run
from stackelgrid.scenarios import ScenarioError, load

MU = 0.6


def scenario(**leader: Any) -> dict[str, Any]:
    """Three slots and two homes, one with storage; both draw at any price within bounds."""
    satisfaction = {"form": "log", "alpha": 8, "omega": [2.0, 3.0, 1.6]}
    return {
        "schema": 1,
        "game": "user_oriented",
        "slots": 3,
        "leader": {"baseline_price": 9, "wholesale_price": [2, 3, 5], "mu": MU, "price_min": 3, "price_max": 60}
        | leader,
        "homes": [
            {"id": "bakery", "elastic": [{"max_kw": 6, "valuation": 20, "satisfaction": satisfaction}]},
            {
                "id": "flat",
                "elastic": [{"max_kw": 3, "valuation": 18, "satisfaction": satisfaction}],
                "storage": [
                    {"capacity_kwh": 2, "initial_kwh": 1, "charge_kw": 1, "discharge_kw": 1, "wear": {"fast": 2}}
                ],
            },
        ],
    }


def play(**leader: Any) -> Run:
    played = run(scenario(**leader))
    assert played.settled
    return played


@pytest.mark.parametrize("weight", [0.25, 3.0])
def test_weight_on_revenue_is_a_smaller_one_on_deviation(weight: float) -> None:
    """w R - D is w (R - D / w): the price is that of mu / w, the utility w times as large."""
    weighed, other = play(revenue_weight=weight), play(mu=MU / weight)
    assert weighed.outcome.price == other.outcome.price
    assert weighed.outcome.leader_utility == pytest.approx(weight * other.outcome.leader_utility, rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.25, 3.0])
def test_outcome_is_certified_at_any_weight(weight: float) -> None:
    played = play(revenue_weight=weight)
    outcome, certificate = played.outcome, played.certify()
    price, load_kw = np.array(outcome.price), np.array(outcome.load_kw)
    earned = float((price - [2, 3, 5]) @ load_kw)
    charge = MU / np.mean(outcome.baseline_load_kw) * outcome.deviation
    assert outcome.leader_utility == pytest.approx(weight * earned - charge, abs=1e-9)
    homes = sum(home.utility for home in outcome.homes.values())
    assert outcome.system_utility == pytest.approx(earned - charge + homes, rel=1e-9)  # money, whoever weighs it
    assert certificate.number("system_utility") == pytest.approx(outcome.system_utility, rel=1e-6)
    assert certificate.number("max_regret") <= 1e-6


def test_load_is_flat_when_revenue_weighs_nothing() -> None:
    """Some price makes it flat, and w R - D is at least w R there: what is left costs at most w times the revenue."""
    flat = play(revenue_weight=0).outcome
    assert -LEAST_REVENUE_WEIGHT * flat.revenue <= flat.leader_utility <= 0
    assert flat.par == pytest.approx(1, abs=1e-3)


def test_weight_of_one_is_the_default() -> None:
    assert play(revenue_weight=1).outcome == play().outcome


@pytest.mark.parametrize(
    ("leader", "message"),
    [
        ({"objective": "welfare", "revenue_weight": 2}, "revenue_weight is 2, but for objective welfare bills cancel"),
        ({"revenue_weight": 0, "mu": 0}, "revenue_weight and mu are both 0, which leaves nothing to seek"),
        ({"revenue_weight": -1}, "revenue_weight"),
    ],
)
def test_weight_is_refused_when_it_means_nothing(leader: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        load(scenario(**leader))


def adapt(recompute: int) -> dict[str, Any]:
    return {"kind": "adaptive", "high": 4, "low": 0.25, "threshold": 0.1, "recompute": recompute}


@pytest.mark.parametrize("recompute", [1, 2])
def test_balance_is_recomputed_from_the_load_at_the_price_found(recompute: int) -> None:
    before, after = (play(balance=adapt(n)) for n in (recompute - 1, recompute))
    np.testing.assert_allclose(after.outcome.balance_load_kw, before.outcome.load_kw, rtol=1e-6)
    # The price is the best one for a charge that is large where that load is far from its mean.
    load_kw = np.array(before.outcome.load_kw)
    mu = np.where(np.abs(load_kw - load_kw.mean()) > 0.1 * load_kw.mean(), 4, 0.25) * MU
    mu /= np.mean(after.outcome.baseline_load_kw)
    settled, price = np.array(after.outcome.load_kw), np.array(after.outcome.price)
    utility = float((price - [2, 3, 5]) @ settled - mu @ (settled - settled.mean()) ** 2)
    assert after.outcome.leader_utility == pytest.approx(utility, rel=1e-9)
    assert after.certify().number("max_regret") <= 1e-6


def test_balance_rests_on_the_baseline_unless_it_is_recomputed() -> None:
    outcome = play(balance=adapt(0)).outcome
    assert outcome.balance_load_kw is None
    assert "balance_load_kw" not in outcome.content()
