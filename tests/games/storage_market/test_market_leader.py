"""The leader's play on answers made by hand."""

import json
from typing import Any

import numpy as np
import pytest
from market_cases import RTS, UNITS, reference_dispatch

from stackelgrid.calendar import Session
from stackelgrid.games.storage_market.leader import StorageMarketLeader
from stackelgrid.games.storage_market.messages import Clearing, DraAnswer, MarketSignal, Turn
from stackelgrid.scenarios import load


def leader() -> StorageMarketLeader:
    scenario = load("storage_market")
    strategy = scenario.leader.strategy(Session(24))
    assert isinstance(strategy, StorageMarketLeader)
    return strategy


def dra_answer(**changes: Any) -> DraAnswer:
    zeros = [0.0] * 24
    body = dict.fromkeys(("usual", "charge", "sold", "supply_slope"), zeros)
    loads = dict.fromkeys(("load", "offer", "starts"), changes.get("load", zeros))
    numbers = dict.fromkeys(("bid_change", "rated_power", "wanted", "regret"), 0.0)
    return DraAnswer.model_validate({"homes": 3, **body, **loads, **numbers, **changes})


def test_leader_opens_at_the_price_of_the_demand_expected() -> None:
    opening = leader().open()
    assert isinstance(opening.ask, MarketSignal)
    _, price = reference_dispatch(UNITS, RTS)
    np.testing.assert_allclose(opening.ask.price, price, atol=1e-5)
    assert (opening.ask.curve, opening.ask.turn.turn, max(opening.ask.sales_cap)) == (None, None, 0)
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
    gone = dra_answer(wanted=5.0, regret=0.1, load=[1.0] * 24, offer=[2.0] * 24)
    decision = strategy.decide(ask, {"a1": dra_answer(), "a2": gone}, ("a2",))
    assert decision.settle
    np.testing.assert_allclose(decision.account["demand_mw"], RTS + 1)


def at(hour: int, power: float = 5.0) -> list[float]:
    return [power if number == hour else 0.0 for number in range(24)]


def test_leader_accepts_starts_that_lower_the_cost_and_merges_groups_when_none_is_offered() -> None:
    strategy = leader()
    ask = strategy.open().ask

    def turn_after(answer: DraAnswer) -> Turn:
        decision = strategy.decide(ask, {"a1": answer}, ())
        assert isinstance(decision.ask, MarketSignal)
        return decision.ask.turn

    def check(turn: Turn, groups: int, number: int, inertia: float, starts: bool) -> None:
        assert (turn.groups, turn.turn, turn.inertia, turn.starts, turn.step) == (groups, number, inertia, starts, 0)

    at_the_peak = {"load": at(11), "usual": at(11), "offer": at(11)}
    in_the_valley = {"load": at(3), "usual": at(11), "offer": at(3)}
    check(turn_after(dra_answer(wanted=5.0, **at_the_peak)), 12, 0, 1e-4, False)
    check(turn_after(dra_answer(wanted=5.0, **at_the_peak, starts=at(3))), 12, 1, 1e-4, True)
    check(turn_after(dra_answer(wanted=5.0, **in_the_valley, starts=at(11))), 24, 2, 2e-4, False)
    check(turn_after(dra_answer(wanted=5.0, **in_the_valley)), 12, 3, 2e-4, False)


def test_leader_lets_homes_go_to_the_least_cost_on_the_way_to_their_offer() -> None:
    """Half-way between two hours that swap their demand, the cost is least; the price is that of the demand there."""
    strategy = leader()
    ask = strategy.open().ask
    swap = (RTS[11] - RTS[3]) * 1.0
    answer = dra_answer(regret=0.1, load=at(11, swap), usual=at(11, swap), offer=at(3, swap))
    decision = strategy.decide(ask, {"a1": answer}, ())
    assert isinstance(decision.ask, MarketSignal)
    step, units = decision.ask.turn.step, UNITS
    moved = np.array(at(3, swap)) - at(11, swap)
    costs = [reference_dispatch(units, RTS + part * moved)[0] for part in (step - 0.02, step, step + 0.02)]
    assert costs[1] < min(costs[0], costs[2])
    np.testing.assert_allclose(decision.ask.price, reference_dispatch(units, RTS + step * moved)[1], atol=1e-5)
    far = dra_answer(regret=0.1, load=at(11, 4.0), usual=at(11, 4.0), offer=at(3, 4.0))
    weight = decision.ask.turn.weight
    decision = strategy.decide(decision.ask, {"a1": far}, ())
    assert isinstance(decision.ask, MarketSignal)
    assert decision.ask.turn.step == 1.0
    assert decision.ask.turn.weight != weight


def test_leader_announces_the_true_slope_of_its_price() -> None:
    strategy = leader()
    ask = strategy.open().ask
    decision = strategy.decide(ask, {"a1": dra_answer(rated_power=10.0)}, ())
    assert isinstance(decision.ask, MarketSignal)
    assert decision.ask.curve is not None
    slope = decision.ask.curve.slope.array()
    less, more = (reference_dispatch(UNITS, RTS + sign * np.array(at(12, 0.01)))[1] for sign in (-1, 1))
    np.testing.assert_allclose(slope[:, 12], (more - less) / 0.02, atol=1e-3)
    assert slope[12, 12] == pytest.approx(0.1887, abs=1e-4)


def test_leader_halves_the_step_when_bids_turn_back() -> None:
    strategy = leader()
    ask = strategy.open().ask

    def after(sold: float, change: float) -> tuple[float, float]:
        """The step asked for next, and theta."""
        at_noon = np.where(np.arange(24) == 12, sold, 0.0).tolist()
        decision = strategy.decide(ask, {"a1": dra_answer(sold=at_noon, bid_change=change, rated_power=10.0)}, ())
        assert isinstance(decision.ask, MarketSignal)
        assert decision.ask.curve is not None
        return decision.ask.step, decision.account["theta"]

    assert after(0.0, 0.0) == (1.0, 0.04)
    assert after(1.0, 1.0) == (1.0, 0.04)
    assert after(0.6, 0.4) == (1.0, 0.04)  # turned back, but by less than half
    assert after(0.9, 0.3) == (0.5, 0.04)
    # Compared are bids that change by less than 1e-4 of the power in a full step.
    assert after(0.9, 0.6e-3) == (0.5, 0.04)
    # No cap binds, so a larger theta changes nothing; at half of what is used, caps would bind.
    assert after(0.9, 0.4e-3) == (1.0, 0.04)
    assert after(0.5, 1.0) == (1.0, pytest.approx(0.9 / RTS[12] / 2))


@pytest.mark.parametrize(
    "absurd",
    [
        {"load": [1e12] * 24},
        {"usual": [1e12] * 24, "rated_power": 1e12},
        {"sold": [1e12, 0] * 12, "charge": [0, 1e12] * 12},
        {"offer": [1e12, 0] * 12, "starts": [0, 1e12] * 12, "regret": 1.0, "wanted": 1.0},
        {"wanted": 1e12, "regret": 1.0, "bid_change": 1e12, "rated_power": 1e-12},
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
    for number in range(300):
        decision = strategy.decide(ask, {"a1": dra_answer(wanted=1.0, regret=0.5, starts=at(number % 2))}, ())
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
