"""The DRA between leader and homes, and the fleet of its homes' batteries [SM-12]."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_cases import BATTERIES, quick
from pydantic import ValidationError

from stackelgrid.calendar import Session
from stackelgrid.games.storage_market.aggregator import DraCosts, StorageMarketDra
from stackelgrid.games.storage_market.home.market_home import Battery, MarketHome, StorageMarketHomes, follow
from stackelgrid.games.storage_market.messages import (
    Clearing,
    DraAnswer,
    FleetPlan,
    HomesAnswer,
    MarketSignal,
    PriceCurve,
    Tariff,
    Turn,
)
from stackelgrid.rounds.strategy import Ask, Reply
from stackelgrid.wire.arrays import PackedArray

HOLD = Turn(weight=1.0, groups=1, inertia=0.0)


def straight(slope: float, slots: int = 4) -> PriceCurve:
    """A price that falls by `slope` in each hour, without kinks."""
    return PriceCurve(slope=PackedArray.of(slope * np.eye(slots)))


def answer_of(battery: Battery) -> HomesAnswer:
    return StorageMarketHomes([MarketHome(id="b", horizon=6, battery=battery)]).answer(Tariff(price=[1] * 6, turn=HOLD))


@quick
@given(st.lists(BATTERIES, min_size=1, max_size=5), st.integers(0, 1000))
def test_battery_follows_its_share_of_any_fleet(batteries: list[Battery], seed: int) -> None:
    dra = StorageMarketDra(0.001, 0.0, Session(6), {f"b{number}": 1 for number in range(len(batteries))})
    price = np.random.default_rng([14, seed]).uniform(0, 100, 6).tolist()
    signal = MarketSignal(price=price, curve=straight(0.01, 6), sales_cap=[1] * 6, hold=True, turn=HOLD)
    asked = dra.open(signal)
    assert isinstance(asked, Ask)
    reply = dra.on_answers(asked.body, {f"b{n}": answer_of(b) for n, b in enumerate(batteries)}, (), ())
    assert isinstance(reply, Reply)
    plan = dra.settle(Clearing(price=price)).body
    assert isinstance(plan, FleetPlan)
    days = [follow(battery, np.array(plan.charge), np.array(plan.sold)) for battery in batteries]
    bid = reply.body
    assert isinstance(bid, DraAnswer)
    np.testing.assert_allclose(sum(day.charge for day in days) / 1000, bid.charge, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sum(day.sold for day in days) / 1000, bid.sold, rtol=1e-9, atol=1e-9)
    for battery, day in zip(batteries, days, strict=True):
        change = np.diff(day.level, prepend=battery.initial_kwh)
        due = battery.efficiency * day.charge - day.sold / battery.efficiency - day.spilt
        np.testing.assert_allclose(change, due, atol=1e-9)
        assert day.level[-1] >= battery.initial_kwh - 1e-6
        assert (day.level <= battery.capacity_kwh).all()
    alike = all((b.efficiency, b.initial_kwh) == (batteries[0].efficiency, batteries[0].initial_kwh) for b in batteries)
    if alike and len({b.capacity_kwh for b in batteries}) == 1:
        assert max(day.spilt.max() for day in days) <= 1e-6


def signal(**changes: Any) -> MarketSignal:
    usual = {"price": [30, 40, 50, 35], "sales_cap": [1] * 4, "turn": HOLD}
    return MarketSignal.model_validate(usual | changes)


def request(**changes: Any) -> MarketSignal:
    """A signal that asks for a bid while homes hold."""
    return signal(**({"curve": straight(0.1), "hold": True} | changes))


def ask_homes(dra: StorageMarketDra, body: MarketSignal, answers: dict[str, HomesAnswer], **missing: Any) -> DraAnswer:
    asked = dra.open(body)
    assert isinstance(asked, Ask)
    reply = dra.on_answers(asked.body, answers, missing.get("held", ()), missing.get("excluded", ()))
    assert isinstance(reply.body, DraAnswer)
    return reply.body


ANSWER = HomesAnswer.model_validate(
    {
        "homes": 1,
        "load_kw": [1000, 0, 0, 500],
        "usual_kw": [1000, 500, 0, 0],
        "offer_kw": [500, 500, 0, 500],
        "starts_kw": [1500, 0, 0, 0],
        "wanted_kwh": 0,
        "regret": 0.1,
        "batteries": {"capacity": 4000, "power": 0.5, "initial": 0.5, "headroom": 0.5, "efficiency": 0.9},
    }
)
BARE = ANSWER.model_copy(update={"batteries": None, "wanted_kwh": 250.0, "regret": 0.2})


def test_dra_adds_up_its_homes_in_mw_and_trades_their_batteries() -> None:
    dra = DraCosts(quadratic=0.1, wear=1).strategy(Session(4), {"x": 1, "y": 1})
    answer = ask_homes(dra, signal(), {"x": ANSWER, "y": BARE})
    assert (answer.load, answer.usual) == ([2, 0, 0, 1], [2, 1, 0, 0])
    assert (answer.offer, answer.starts) == ([1, 1, 0, 1], [3, 0, 0, 0])
    assert (answer.regret, answer.wanted, answer.rated_power, answer.sold) == (0.2, 0.25, 2, [0] * 4)
    reply = dra.open(request())  # homes hold: it answers without them
    assert isinstance(reply, Reply)
    bid = reply.body
    assert isinstance(bid, DraAnswer)
    assert (bid.load, bid.homes, bid.wanted) == (answer.load, 2, 0.25)
    assert bid.offer == bid.starts == bid.load, "who is not asked offers nothing"
    assert max(bid.sold) > 0.1
    assert bid.bid_change == pytest.approx(max(map(max, (bid.sold, bid.charge))))
    again = dra.open(signal()).body
    assert isinstance(again, Tariff)
    assert again.turn == signal().turn


def test_dra_keeps_its_bid_when_homes_are_held_or_excluded() -> None:
    dra = DraCosts(quadratic=0.1).strategy(Session(4), {"x": 1, "y": 1})
    ask_homes(dra, signal(), {"x": ANSWER, "y": BARE})
    dra.open(request())
    answer = ask_homes(dra, signal(), {"x": ANSWER}, held=("x",), excluded=("y",))
    assert (answer.homes, answer.held, answer.excluded, answer.fresh) == (1, 1, 1, False)
    assert answer.offer == answer.starts == answer.load
    assert max(answer.sold) > 0.1
    assert answer.bid_change == 0


def test_dra_moves_its_bid_within_the_caps_when_they_fall() -> None:
    dra = DraCosts(quadratic=0.1).strategy(Session(4), {"x": 1})
    ask_homes(dra, signal(), {"x": ANSWER})
    dra.open(request())
    reply = dra.open(request(sales_cap=[0.01] * 4, step=0.5))
    assert isinstance(reply.body, DraAnswer)
    assert max(reply.body.sold) <= 0.01 * reply.body.rated_power + 1e-12


def test_dra_drops_its_bid_when_batteries_join_that_cannot_follow_it() -> None:
    dra = DraCosts(quadratic=0.1).strategy(Session(4), {"x": 1, "y": 1})
    ask_homes(dra, signal(), {"x": ANSWER}, excluded=("y",))
    bid = dra.open(request()).body
    assert isinstance(bid, DraAnswer)
    assert max(bid.sold) > 0.1
    assert ANSWER.batteries is not None
    idle = ANSWER.model_copy(update={"batteries": ANSWER.batteries.model_copy(update={"power": 0.0})})
    answer = ask_homes(dra, signal(), {"x": ANSWER, "y": idle})
    assert (max(answer.sold), max(answer.charge), answer.rated_power) == (0, 0, 0)


@pytest.mark.parametrize("price", [[1e12] * 4, [-1e12, 1e12, 0, 1e12], [0.0] * 4])
@pytest.mark.parametrize("size", [1.0, 1e9])
def test_dra_answers_when_terms_and_homes_are_absurd(price: list[float], size: float) -> None:
    dra = DraCosts(quadratic=0.1).strategy(Session(4), {"x": 1, "y": 1})
    body = ANSWER.model_dump() | {"load_kw": [1e12] * 4, "offer_kw": [1e12] * 4}
    body["batteries"] |= {"capacity": size, "power": 100.0}
    absurd = HomesAnswer.model_validate(body)
    ask_homes(dra, signal(), {"x": absurd, "y": absurd})
    for slope in (0.0, 1e12):
        assert isinstance(dra.open(request(price=price, curve=straight(slope))), Reply)
    dra.settle(Clearing(price=price))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sales_cap": [1, 1, 1]}, "sales_cap has 3 numbers, price has 4"),
        ({"curve": straight(0.1, 3)}, "curve is for 3 slots, price has 4"),
    ],
)
def test_signal_is_refused_when_its_arrays_differ_in_length(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        signal(**change)


@pytest.mark.parametrize("key", ["slope", "kinks", "room", "jump"])
def test_curve_is_refused_when_its_shapes_do_not_fit(key: str) -> None:
    arrays = {"slope": np.eye(4), "kinks": np.ones((2, 4)), "room": np.zeros(2), "jump": np.ones(2)}
    packed = {name: PackedArray.of(array) for name, array in arrays.items()}
    PriceCurve.model_validate(packed)
    with pytest.raises(ValidationError, match="has the shape"):
        PriceCurve.model_validate(packed | {key: PackedArray.of(np.ones((3, 3)))})
    if key != "slope":
        with pytest.raises(ValidationError, match=f"{key} has the shape None"):
            PriceCurve.model_validate(packed | {key: None})


# --- homes that do not keep to the rules ---

STAY = [0.0, 500.0, 0.0, 0.0]


def say(load: list[float], offer: list[float] | None = None, **changes: Any) -> HomesAnswer:
    """An answer of a home that draws `load`, and offers to draw `offer`."""
    loads = {"load_kw": load, "usual_kw": STAY, "offer_kw": offer or load, "starts_kw": load}
    return BARE.model_copy(update=loads | {"wanted_kwh": 0.0} | changes)


def power(hour: int) -> list[float]:
    return [500.0 if number == hour else 0.0 for number in range(4)]


def play(*answers: HomesAnswer, step: float = 1.0) -> list[DraAnswer]:
    dra = DraCosts(quadratic=0.1).strategy(Session(4), {"x": 1})
    turn = HOLD.model_copy(update={"step": step})
    return [ask_homes(dra, signal(turn=turn), {"x": answer}) for answer in answers]


def test_home_that_goes_where_it_offered_to_go_keeps_to_the_rules() -> None:
    """Hours cost 30, 40, 50, 35: it offers the first, and goes half of what is left in each round."""
    loads = [[500 * (1 - 0.5**n), 500 * 0.5**n, 0.0, 0.0] for n in range(8)]
    answers = play(*[say(load, power(0)) for load in loads], step=0.5)
    np.testing.assert_allclose([answer.load for answer in answers], np.array(loads) / 1000)
    assert answers[-1].offer == [0.5, 0, 0, 0]


def test_home_that_goes_elsewhere_again_and_again_counts_with_its_load_before_that() -> None:
    answers = play(*[say(power(hour)) for hour in (1, 0) * 5])
    assert [answer.load for answer in answers[:3]] == [[0, 0.5, 0, 0], [0.5, 0, 0, 0], [0, 0.5, 0, 0]]
    assert [answer.load for answer in answers[-4:]] == [[0, 0.5, 0, 0]] * 4
    assert answers[-1].offer == answers[-1].starts == answers[-1].load
    assert (answers[-1].regret, answers[-1].wanted) == (0, 0)


def test_home_that_offers_what_costs_more_again_and_again_counts_with_no_offer() -> None:
    dear = say(power(1), power(2))
    assert [answer.offer for answer in play(*[dear] * 6, step=0.0)] == [[0, 0, 0.5, 0]] * 3 + [[0, 0.5, 0, 0]] * 3
    starts = say(power(1), starts_kw=power(2))
    assert play(*[starts] * 6, step=0.0)[-1].starts == [0, 0.5, 0, 0]


def test_home_that_changes_what_it_used_to_draw_counts_with_its_load_before_that() -> None:
    answers = play(*[say(STAY, usual_kw=power(hour)) for hour in (1, 0) * 5])
    assert answers[-1].usual == answers[-2].usual


def test_home_that_broke_the_rules_counts_with_its_load_before_that_while_it_is_held() -> None:
    dra = DraCosts(quadratic=0.1).strategy(Session(4), {"x": 1, "y": 1})
    for hour in (1, 0) * 5:
        ask_homes(dra, signal(), {"x": say(power(hour)), "y": say(STAY)})
    held = ask_homes(dra, signal(), {"x": say(power(0)), "y": say(STAY)}, held=("x",))
    assert held.load == [0, 1, 0, 0]


def test_home_that_is_elsewhere_after_rounds_without_its_answer_keeps_to_the_rules() -> None:
    """It may have moved in a round whose answer was lost, or in one that the leader gave up."""
    dra = DraCosts(quadratic=0.1).strategy(Session(4), {"x": 1, "y": 1})
    for hour in (1, 0) * 5:
        ask_homes(dra, signal(), {"x": say(power(hour)), "y": say(STAY)})
        ask_homes(dra, signal(), {"x": say(power(hour)), "y": say(STAY)}, held=("x",))
    for hour in (1, 0) * 5:
        last = ask_homes(dra, signal(), {"x": say(power(hour)), "y": say(STAY)})
        dra.open(signal())
    assert last.load == [0.5, 0.5, 0, 0]
