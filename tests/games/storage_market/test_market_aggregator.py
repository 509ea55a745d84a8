"""The DRA between leader and homes, and the fleet of its homes' batteries [SM-12]."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_cases import BATTERIES, quick
from pydantic import ValidationError

from stackelgrid.games.storage_market.aggregator import DraCosts, StorageMarketDra
from stackelgrid.games.storage_market.home.market_home import Battery, MarketHome, StorageMarketHomes, follow
from stackelgrid.games.storage_market.messages import (
    Clearing,
    DraAnswer,
    FleetPlan,
    HomesAnswer,
    MarketSignal,
    Tariff,
    Turn,
)
from stackelgrid.rounds.strategy import Ask, Reply


def answer_of(battery: Battery) -> HomesAnswer:
    return StorageMarketHomes([MarketHome(id="b", horizon=6, battery=battery)]).answer(
        Tariff(price=[1] * 6, turn=Turn(groups=1, inertia=0))
    )


@quick
@given(st.lists(BATTERIES, min_size=1, max_size=5), st.integers(0, 1000))
def test_battery_follows_its_share_of_any_fleet(batteries: list[Battery], seed: int) -> None:
    dra = StorageMarketDra(0.001, 0.0, 6, {f"b{number}": 1 for number in range(len(batteries))})
    price = np.random.default_rng([14, seed]).uniform(0, 100, 6).tolist()
    signal = MarketSignal(price=price, slope=[0.01] * 6, sales_cap=[1] * 6, bid=True, turn=Turn(groups=1, inertia=0))
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
    usual = {"price": [30, 40, 50, 35], "slope": [0.1] * 4, "sales_cap": [1] * 4, "turn": Turn(groups=1, inertia=0.1)}
    return MarketSignal.model_validate(usual | changes)


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
        "moved_kwh": 500,
        "wanted_kwh": 0,
        "batteries": {"capacity": 4000, "power": 0.5, "initial": 0.5, "headroom": 0.5, "efficiency": 0.9},
    }
)
BARE = ANSWER.model_copy(update={"batteries": None, "moved_kwh": 0.0, "wanted_kwh": 250.0})


def test_dra_adds_up_its_homes_in_mw_and_trades_their_batteries() -> None:
    dra = DraCosts(quadratic=0.1, wear=1).strategy(4, {"x": 1, "y": 1})
    answer = ask_homes(dra, signal(), {"x": ANSWER, "y": BARE})
    assert (answer.load, answer.usual) == ([2, 0, 0, 1], [2, 1, 0, 0])
    assert (answer.moved, answer.wanted, answer.rated_power, answer.sold) == (0.5, 0.25, 2, [0] * 4)
    reply = dra.open(signal(bid=True))  # homes hold: it answers without them
    assert isinstance(reply, Reply)
    bid = reply.body
    assert isinstance(bid, DraAnswer)
    assert (bid.load, bid.homes, bid.moved, bid.wanted) == (answer.load, 2, 0, 0.25)
    assert max(bid.sold) > 0.1
    assert bid.bid_change == pytest.approx(max(map(max, (bid.sold, bid.charge))))
    again = dra.open(signal()).body
    assert isinstance(again, Tariff)
    assert again.turn == signal().turn


def test_dra_keeps_its_bid_when_homes_are_held_or_excluded() -> None:
    dra = DraCosts(quadratic=0.1).strategy(4, {"x": 1, "y": 1})
    ask_homes(dra, signal(), {"x": ANSWER, "y": BARE})
    dra.open(signal(bid=True))
    answer = ask_homes(dra, signal(), {"x": ANSWER}, held=("x",), excluded=("y",))
    assert (answer.homes, answer.held, answer.excluded, answer.fresh) == (1, 1, 1, False)
    assert answer.moved == 0
    assert max(answer.sold) > 0.1
    assert answer.bid_change == 0


def test_dra_moves_its_bid_within_the_caps_when_they_fall() -> None:
    dra = DraCosts(quadratic=0.1).strategy(4, {"x": 1})
    ask_homes(dra, signal(), {"x": ANSWER})
    dra.open(signal(bid=True))
    reply = dra.open(signal(bid=True, sales_cap=[0.01] * 4, step=0.5))
    assert isinstance(reply.body, DraAnswer)
    assert max(reply.body.sold) <= 0.01 * reply.body.rated_power + 1e-12


def test_dra_drops_its_bid_when_batteries_join_that_cannot_follow_it() -> None:
    dra = DraCosts(quadratic=0.1).strategy(4, {"x": 1, "y": 1})
    ask_homes(dra, signal(), {"x": ANSWER}, excluded=("y",))
    bid = dra.open(signal(bid=True)).body
    assert isinstance(bid, DraAnswer)
    assert max(bid.sold) > 0.1
    assert ANSWER.batteries is not None
    idle = ANSWER.model_copy(update={"batteries": ANSWER.batteries.model_copy(update={"power": 0.0})})
    answer = ask_homes(dra, signal(), {"x": ANSWER, "y": idle})
    assert (max(answer.sold), max(answer.charge), answer.rated_power) == (0, 0, 0)


@pytest.mark.parametrize("price", [[1e12] * 4, [-1e12, 1e12, 0, 1e12], [0.0] * 4])
@pytest.mark.parametrize("size", [1.0, 1e9])
def test_dra_answers_when_terms_and_homes_are_absurd(price: list[float], size: float) -> None:
    dra = DraCosts(quadratic=0.1).strategy(4, {"x": 1, "y": 1})
    body = ANSWER.model_dump() | {"load_kw": [1e12] * 4, "moved_kwh": 1e12}
    body["batteries"] |= {"capacity": size, "power": 100.0}
    absurd = HomesAnswer.model_validate(body)
    ask_homes(dra, signal(), {"x": absurd, "y": absurd})
    for slope in (0.0, 1e12):
        assert isinstance(dra.open(signal(bid=True, price=price, slope=[slope] * 4)), Reply)
    dra.settle(Clearing(price=price))


@pytest.mark.parametrize("key", ["sales_cap", "slope"])
def test_signal_is_refused_when_its_arrays_differ_in_length(key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key} has 3 numbers, price has 4"):
        signal(**{key: [1, 1, 1]})


# --- homes that do not keep to the rules ---

RULES = Turn(groups=1, turn=0, inertia=0.0)


def say(hour: int, moved: float = 500.0) -> HomesAnswer:
    """An answer of a home with 500 kW in one hour; it drew them in the second before there was a price."""
    load = [500.0 if number == hour else 0.0 for number in range(4)]
    return BARE.model_copy(
        update={"load_kw": load, "usual_kw": [0.0, 500.0, 0.0, 0.0], "moved_kwh": moved, "wanted_kwh": 0.0}
    )


def play(*answers: HomesAnswer, turn: Turn = RULES) -> list[DraAnswer]:
    dra = DraCosts(quadratic=0.1).strategy(4, {"x": 1})
    return [ask_homes(dra, signal(turn=turn), {"x": answer}) for answer in answers]


def test_energy_counts_as_moved_where_the_load_has_changed() -> None:
    assert [answer.moved for answer in play(say(1, 0.0), say(0), say(0), say(0))] == [0, 0.5, 0, 0]


def test_home_that_moves_to_dearer_hours_again_and_again_counts_with_its_load_before_that() -> None:
    """Hours cost 30, 40, 50, 35: it saves in every other round, which does not make up for the rest."""
    loads = [answer.load for answer in play(*[say(0), say(2)] * 5)]
    assert loads[1] == [0, 0, 0.5, 0]  # one restart, as far as anybody can tell
    assert loads[-4:] == [[0.5, 0, 0, 0]] * 4
    assert play(*[say(0), say(2)] * 5)[-1].moved == 0


def test_home_that_broke_the_rules_counts_with_its_load_before_that_while_it_is_held() -> None:
    dra = DraCosts(quadratic=0.1).strategy(4, {"x": 1, "y": 1})
    for hour in (0, 2) * 5:
        ask_homes(dra, signal(turn=RULES), {"x": say(hour), "y": say(0)})
    held = ask_homes(dra, signal(turn=RULES), {"x": say(2), "y": say(0)}, held=("x",))
    assert held.load == [1, 0, 0, 0]


def test_home_that_moves_out_of_turn_again_and_again_counts_with_its_load_before_that() -> None:
    answers = play(*[say(2, 0.0), say(0, 0.0)] * 5, turn=Turn(groups=1, inertia=0.0))
    assert answers[-1].load == answers[-2].load


def test_home_that_goes_back_when_asked_keeps_to_the_rules() -> None:
    answers = play(*[say(0), say(2)] * 5, turn=RULES.model_copy(update={"back": True}))
    assert answers[-1].load == [0, 0, 0.5, 0]


def test_home_that_saves_after_rounds_without_its_answer_keeps_to_the_rules() -> None:
    """It may have moved in a round whose answer was lost: what it then seems to lose is not counted."""
    dra = DraCosts(quadratic=0.1).strategy(4, {"x": 1, "y": 1})
    for hour in (0, 2) * 5:
        ask_homes(dra, signal(turn=RULES), {"x": say(hour), "y": say(0)})
        last = ask_homes(dra, signal(turn=RULES), {"x": say(hour), "y": say(0)}, held=("x",))
    assert last.load == [0.5, 0, 0.5, 0]
