"""What a prosumer's answer tells its provider: the figures of docs/games/prosumer.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import stackelgrid
from stackelgrid.games.prosumer.home import Prosumer, ProsumerHomes
from stackelgrid.games.prosumer.messages import PvPrice, to_matrix
from stackelgrid.games.prosumer.simultaneous_game import pay_for_more
from stackelgrid.scenarios import load
from stackelgrid.wire.arrays import Array

KINDS = {
    "residential": {
        "peak_kw": [4, 9], "pv_share": [1, 2], "pv_cost": [8, 12], "alpha": [0.5, 1], "cap_share": [0.05, 0.15],
    },
    "business": {
        "peak_kw": [60, 150], "pv_share": [1, 1.6], "pv_cost": [6, 10], "alpha": [0.5, 1], "cap_share": [0.05, 0.15],
    },
}  # fmt: skip
"""The population of docs/games/prosumer.md."""


def recover(dr: Array, pay: Array, others: Array) -> tuple[float, Array]:
    """Recover alpha by [PR-A] from one answer, (T,), and mark the hours in which the answer is the cap, (T,).

    Where the cap binds [PR-A] gives too much, never too little.
    """
    traded = dr > 1e-9
    found = np.zeros_like(dr)
    found[traded] = pay[traded] / (2 * dr[traded] + 3 * others[traded] * dr[traded] ** 2)
    alpha = float(found[traded].min())
    return alpha, found > alpha * (1 + 1e-9)


def hundred_prosumers() -> dict[str, Any]:
    """The population of the documentation, on load and sun of the shipped case."""
    case = load("prosumer")
    content = case.model_dump(by_alias=True, mode="json", exclude={"homes", "feeder", "title"})
    home = case.everyone[1]
    shapes = {"load_shape": home.load_kw, "pv_shape": home.pv_kw}
    shapes = {key: (np.array(value) / max(value)).tolist() for key, value in shapes.items()}
    content["leader"]["system_load_kw"] = [10 * load_kw for load_kw in content["leader"]["system_load_kw"]]
    return {**content, "population": {"homes": 100, "kinds": KINDS, **shapes}}


@pytest.mark.parametrize(
    ("case", "prosumers", "with_cap"),
    [("shipped", "price_taking", 0), ("shipped", "anticipating", 0), ("drawn", "price_taking", 7)],
)
def test_one_answer_tells_the_provider_alpha_and_a_cap_that_binds(case: str, prosumers: str, with_cap: int) -> None:
    capped = 0
    run = stackelgrid.run("prosumer" if case == "shipped" else hundred_prosumers(), {"prosumers": prosumers})
    outcome = run.outcome
    for home in run.scenario.everyone:
        dr, price, others = (np.array(of[home.id]) for of in (outcome.dr_kw, outcome.pv_price, outcome.others))
        retail = np.array(run.scenario.leader.tariffs[home.tariff])
        pay = price if prosumers == "price_taking" else pay_for_more(price, retail)
        alpha, at_cap = recover(dr, pay, others)
        assert alpha == pytest.approx(home.alpha, rel=1e-14)
        np.testing.assert_array_equal(dr[at_cap], home.limit_kw[at_cap])
        capped += at_cap.any()
    assert capped == with_cap


def test_two_prices_that_no_utility_pays_tell_alpha_and_cap_of_every_slot() -> None:
    home = Prosumer(id="mill", tariff="a", alpha=0.8, pv_cost=8, load_kw=[100, 5, 150], pv_kw=[0, 300, 220], cap_kw=12)

    def ask(price: float) -> Array:
        alone = PvPrice(price=[price] * 3, others=[0.0] * 3)
        return to_matrix(ProsumerHomes([home]).answer(alone).dr_kw)[0]

    np.testing.assert_allclose(1e-6 / (2 * ask(1e-6)), home.alpha, rtol=1e-15)
    np.testing.assert_array_equal(ask(1e6), [12, 5, 12])
