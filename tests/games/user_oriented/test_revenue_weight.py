"""The weight on revenue in the company's utility [UO-7]."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stackelgrid.runner import Run, run
from stackelgrid.scenarios import ScenarioError, load

MU = 0.6


def scenario(**leader: Any) -> dict[str, Any]:
    """Three slots and two homes, one with storage; both draw at any price within bounds."""
    satisfaction = {"form": "log", "alpha": 4, "omega": [1.0, 1.6, 0.7]}
    return {
        "schema": 1,
        "game": "user_oriented",
        "slots": 3,
        "leader": {"baseline_price": 9, "wholesale_price": [2, 3, 5], "mu": MU, "price_min": 3, "price_max": 20}
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
    flat, usual = play(revenue_weight=0).outcome, play().outcome
    assert flat.deviation <= 1e-6 * usual.deviation
    assert -1e-6 < flat.leader_utility <= 0


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
