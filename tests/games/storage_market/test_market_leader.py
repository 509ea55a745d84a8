"""The leader's play on answers made by hand."""

import json
from typing import Any

import numpy as np
import pytest
from market_cases import RTS, UNITS, reference_dispatch

from stackelgrid.games.storage_market.leader import StorageMarketLeader
from stackelgrid.games.storage_market.messages import Clearing, DraAnswer, MarketSignal, Turn
from stackelgrid.scenarios import load


def leader() -> StorageMarketLeader:
    scenario = load("storage_market")
    strategy = scenario.leader.strategy(24)
    assert isinstance(strategy, StorageMarketLeader)
    return strategy


def dra_answer(**changes: Any) -> DraAnswer:
    zeros = [0.0] * 24
    body = dict.fromkeys(("load", "usual", "charge", "sold", "supply_slope"), zeros)
    numbers = dict.fromkeys(("bid_change", "rated_power", "moved", "wanted"), 0.0)
    return DraAnswer.model_validate({"homes": 3, **body, **numbers, **changes})


def test_leader_opens_at_the_price_of_the_demand_expected() -> None:
    opening = leader().open()
    assert isinstance(opening.ask, MarketSignal)
    _, price = reference_dispatch(UNITS, RTS)
    np.testing.assert_allclose(opening.ask.price, price, atol=1e-5)
    assert (opening.ask.bid, opening.ask.turn.turn, max(opening.ask.sales_cap)) == (False, None, 0)
    assert not opening.settle


def test_leader_settles_at_once_when_homes_want_nothing_and_have_no_batteries() -> None:
    strategy = leader()
    decision = strategy.decide(strategy.open().ask, {"a1": dra_answer()}, ())
    assert decision.settle
    assert isinstance(decision.settlement, Clearing)
    np.testing.assert_allclose(decision.settlement.price, reference_dispatch(UNITS, RTS)[1], atol=1e-5)


def test_leader_settles_when_the_only_dra_that_wants_to_move_is_held() -> None:
    strategy = leader()
    ask = strategy.open().ask
    gone = dra_answer(wanted=5.0, moved=2.0, load=[1.0] * 24)
    decision = strategy.decide(ask, {"a1": dra_answer(), "a2": gone}, ("a2",))
    assert decision.settle
    np.testing.assert_allclose(decision.account["demand_mw"], RTS + 1)


def test_leader_sends_a_group_back_when_cost_rises_and_merges_groups_when_none_moves() -> None:
    strategy = leader()
    ask = strategy.open().ask

    def turn_after(answer: DraAnswer) -> Turn:
        decision = strategy.decide(ask, {"a1": answer}, ())
        assert isinstance(decision.ask, MarketSignal)
        return decision.ask.turn

    to_the_peak = {"load": np.where(np.arange(24) == 11, 5.0, 0).tolist(), "usual": [5.0, *[0.0] * 23]}
    assert turn_after(dra_answer(wanted=5.0)) == Turn(groups=12, turn=0, inertia=1e-4)
    assert turn_after(dra_answer(moved=5.0, wanted=1.0, **to_the_peak)) == Turn(
        groups=12, turn=0, inertia=1e-4, back=True
    )
    assert turn_after(dra_answer(moved=5.0, wanted=1.0)) == Turn(groups=24, turn=1, inertia=2e-4)
    assert turn_after(dra_answer(wanted=1.0)) == Turn(groups=12, turn=2, inertia=2e-4)
    off_the_peak = {"load": to_the_peak["usual"], "usual": to_the_peak["load"]}
    assert turn_after(dra_answer(moved=5.0, wanted=1.0, **off_the_peak)) == Turn(groups=12, turn=3, inertia=2e-4)


def test_leader_halves_the_step_when_bids_turn_back() -> None:
    strategy = leader()
    ask = strategy.open().ask

    def after(sold: float, change: float) -> tuple[float, float]:
        """The step asked for next, and theta."""
        at_noon = np.where(np.arange(24) == 12, sold, 0.0).tolist()
        decision = strategy.decide(ask, {"a1": dra_answer(sold=at_noon, bid_change=change, rated_power=10.0)}, ())
        assert isinstance(decision.ask, MarketSignal)
        assert decision.ask.bid
        return decision.ask.step, decision.account["theta"]

    assert after(0.0, 0.0) == (1.0, 0.04)
    assert after(1.0, 1.0) == (1.0, 0.04)
    assert after(0.6, 0.4) == (1.0, 0.04)  # turned back, but by less than half
    assert after(0.9, 0.3) == (0.5, 0.04)
    # Compared are bids that change by less than a hundred times 1e-7 of the power in a full step.
    assert after(0.9, 0.6e-4) == (0.5, 0.04)
    assert after(0.9, 0.4e-4) == (1.0, 0.04)
    assert after(0.9, 1.0) == (1.0, 0.08)


@pytest.mark.parametrize(
    "absurd",
    [
        {"load": [1e12] * 24},
        {"usual": [1e12] * 24, "rated_power": 1e12},
        {"sold": [1e12, 0] * 12, "charge": [0, 1e12] * 12},
        {"wanted": 1e12, "moved": 1e12, "bid_change": 1e12, "rated_power": 1e-12},
    ],
)
def test_leader_decides_when_answers_are_absurd(absurd: dict[str, Any]) -> None:
    strategy = leader()
    ask = strategy.open().ask
    many = {f"a{number}": dra_answer(**absurd) for number in range(100)}
    one = {"a1": dra_answer(**absurd)}
    for answers in ({"a1": dra_answer(rated_power=3.0)}, {}, *[one] * 8, *[many] * 8, {"a1": dra_answer()}):
        decision = strategy.decide(ask, answers, ())
        ask = decision.ask
        json.dumps(dict(decision.account), allow_nan=False)


def test_leader_settles_at_an_inertia_at_which_nobody_saves_when_homes_never_rest() -> None:
    strategy = leader()
    ask = strategy.open().ask
    for number in range(200):
        decision = strategy.decide(ask, {"a1": dra_answer(wanted=1.0, moved=number % 2)}, ())
        if decision.settle:
            break
    assert isinstance(decision.ask, MarketSignal)
    assert decision.settle and 1 <= decision.ask.turn.inertia < 2


def test_leader_bounds_the_step_when_bids_never_rest() -> None:
    strategy = leader()
    ask = strategy.open().ask
    for number in range(200):
        sold = [float(number % 2)] * 24
        decision = strategy.decide(ask, {"a1": dra_answer(rated_power=1.0, bid_change=1.0, sold=sold)}, ())
    assert isinstance(decision.ask, MarketSignal)
    assert decision.ask.step < 1e-6
