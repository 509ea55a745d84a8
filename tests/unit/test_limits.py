"""The limits of an answer: what follows from no home's problem, or is more than was registered, enters no sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stackelgrid.games.load_call.messages import Call, Mission, MissionReport, Shift
from stackelgrid.games.prosumer.messages import DrResponse, Offer, Provision
from stackelgrid.games.storage_market.messages import Batteries, DraAnswer, HomesAnswer, MarketSignal, Tariff, Turn
from stackelgrid.games.user_oriented.messages import LoadResponse, Price
from stackelgrid.node.limits import MemberLimits
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.wire.arrays import LARGEST, PackedArray
from stackelgrid.wire.messages import Body, RegisteredMember
from stackelgrid.wire.roles import Role

PRICE = Price(price=[8.0, 10.0])
TURN = Turn(weight=5.0, groups=4, turn=1, inertia=0.01)
TARIFF = Tariff(price=[20.0, 40.0], turn=TURN)


def tariff(**turn: int | None) -> Tariff:
    """The same with another turn."""
    return TARIFF.model_copy(update={"turn": TURN.model_copy(update=turn)})


TERMS = MarketSignal(price=[20.0, 40.0], sales_cap=[0.5, 0.5], turn=TURN)
OFFER = Offer(retail_price={"home": [10.0, 12.0]}, first=1, last=2)
MISSION = Mission(target_kwh=50.0, peak_price=20.0, off_peak_price=10.0, commission=1.0)
CALL = Call(call_kwh=[3.0], peak_price=20.0, off_peak_price=10.0, reward=1.0)

# A truthful answer of each kind, of one member with a connection of 10 kW.
RESPONSE = LoadResponse(
    homes=1, load_kw=[3.0, 2.0], slope=[-0.4, -0.2], coupling=PackedArray.of(np.array([[-0.5, 0.5], [0.5, -0.5]]))
)
BATTERY = Batteries(capacity=12.0, power=0.5, initial=0.2, headroom=0.8, efficiency=0.9)
HOMES = HomesAnswer(
    homes=1, load_kw=[0.0, 4.0], usual_kw=[4.0, 0.0], offer_kw=[1.0, 3.0], starts_kw=[2.0, 2.0], wanted_kwh=3.0,
    regret=0.2, batteries=BATTERY,
)  # fmt: skip
DRA = DraAnswer(
    homes=1, load=[0.0, 0.004], usual=[0.004, 0.0], offer=[0.001, 0.003], starts=[0.002, 0.002], charge=[0.006, 0.0],
    sold=[0.0, 0.005], supply_slope=[1.0, 1.5], bid_change=0.006, rated_power=0.006, wanted=0.003, regret=0.2,
)  # fmt: skip
PROSUMER = DrResponse(
    homes=1, tariff=["home"], load_kw=[4.0, 4.0], pv_kw=[6.0, 9.0], pv_cost=[5.0, 5.0], dr_kw=[0.4, 0.4]
)
PROVISION = Provision(
    homes=1, tariff=["home"], pv_price=[8.0, 9.0], sdr=[1.7, 2.5], load_kw=[4.0, 4.0], pv_kw=[6.0, 9.0],
    dr_kw=[0.4, 0.4], profit=[1.0, -1.0], dr_change_kw=0.4, residual=1.0, game_rounds=3,
)  # fmt: skip
REPORT = MissionReport(
    homes=1, called_kwh=50.0, shifted_kwh=50.0, squared_deviation=3.0, call_rounds=2, gap=0.0
)  # fmt: skip
SHIFT = Shift(homes=1, shifted_kwh=[3.0])


def objection(question: Body, answer: Body, max_kw: float | None = 10.0) -> str | None:
    role = Role.AGGREGATOR if isinstance(answer, (DraAnswer, Provision, MissionReport)) else Role.HOME
    limits = MemberLimits([RegisteredMember(name="h1", max_kw=max_kw)], role, Mailbox())
    return limits.check_answer("h1", question, answer)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (PRICE, RESPONSE), (TERMS, DRA), (OFFER, PROVISION), (MISSION, REPORT), (CALL, SHIFT),
        (TARIFF, HOMES), (OFFER, PROSUMER),
    ],
)  # fmt: skip
def test_truthful_answer_is_accepted(question: Body, answer: Body) -> None:
    assert objection(question, answer) is None


@pytest.mark.parametrize(
    ("question", "answer", "lie", "reason"),
    [
        (PRICE, RESPONSE, {"load_kw": [10.1, 0.0]}, "10.1 kW"),
        (PRICE, RESPONSE, {"load_kw": [0.0, -LARGEST]}, "1e+12 kW"),
        (PRICE, RESPONSE, {"slope": [-LARGEST, 0.0]}, "bend"),
        (PRICE, RESPONSE, {"slope": [0.0, -10_001.0]}, "bend"),
        (PRICE, RESPONSE, {"coupling": 1e6 * np.eye(2)}, "coupling"),
        (PRICE, RESPONSE, {"coupling": -1e6 * np.eye(2)}, "bend"),
        (PRICE, RESPONSE, {"coupling": np.array([[0.0, 1.0], [-1.0, 0.0]])}, "coupling"),
        (PRICE, RESPONSE, {"coupling": np.array([[-1.0, 2.0], [2.0, -1.0]])}, "coupling"),
        (PRICE, RESPONSE, {"coupling": np.full((2, 2), LARGEST)}, "coupling"),
        (PRICE, RESPONSE, {"load_only": 2}, "load"),
        (PRICE, RESPONSE, {"fixed": 1}, "load"),
        (TARIFF, HOMES, {"load_kw": [0.0, 10.1], "usual_kw": [10.1, 0.0]}, "10.1 kW"),
        (TARIFF, HOMES, {"load_kw": [4.0, 4.0]}, "energy"),
        (TARIFF, HOMES, {"load_kw": [0.0, 0.0]}, "energy"),
        (TARIFF, HOMES, {"wanted_kwh": 4.1}, "energy"),
        (TARIFF, HOMES, {"offer_kw": [1.0, 3.1]}, "energy"),
        (TARIFF, HOMES, {"starts_kw": [LARGEST, 0.0]}, "kW"),
        (tariff(turn=None), HOMES, {}, "nobody had the turn"),
        (tariff(groups=1), HOMES, {}, "everybody had the turn"),
        (TARIFF, HOMES, {"batteries": BATTERY.model_copy(update={"capacity": 1e9})}, "kW"),
        (TARIFF, HOMES, {"batteries": BATTERY.model_copy(update={"power": 100.0})}, "kW"),
        (TARIFF, HOMES, {"batteries": BATTERY.model_copy(update={"initial": 1.0})}, "batteries"),
        (TERMS, DRA, {"load": [LARGEST, 0.0], "usual": [0.0, LARGEST]}, "load"),
        (TERMS, DRA, {"usual": [0.004, 0.001]}, "energy"),
        (TERMS, DRA, {"rated_power": 0.0101}, "rated_power"),
        (TERMS, DRA, {"sold": [0.0, 0.0061]}, "bid"),
        (TERMS, DRA, {"charge": [LARGEST, 0.0]}, "bid"),
        (TERMS, DRA, {"bid_change": 1.0}, "bid"),
        (TERMS, DRA, {"wanted": LARGEST}, "energy"),
        (TERMS, DRA, {"offer": [0.0, 0.011]}, "offer"),
        (OFFER, PROSUMER, {"load_kw": [10.1, 4.0]}, "10.1 kW"),
        (OFFER, PROSUMER, {"pv_kw": [LARGEST, 4.0]}, "kW"),
        (OFFER, PROVISION, {"pv_kw": [10.1, 4.0]}, "10.1 kW"),
        (OFFER, PROVISION, {"dr_kw": [4.1, 0.4]}, "dr_kw"),
        (OFFER, PROVISION, {"pv_price": [10.1, 9.0]}, "pv_price"),
        (OFFER, PROVISION, {"dr_change_kw": LARGEST}, "dr_change_kw"),
        (OFFER, PROVISION, {"residual": LARGEST}, "residual"),
        (MISSION, REPORT, {"called_kwh": 50.1}, "target"),
        (MISSION, REPORT, {"shifted_kwh": 50.1}, "shifted"),
        (CALL, SHIFT, {"shifted_kwh": [3.1]}, "beyond the call"),
    ],
)  # fmt: skip
def test_answer_beyond_what_is_possible_is_refused(
    question: Body, answer: Body, lie: dict[str, Any], reason: str
) -> None:
    lie = {key: PackedArray.of(value) if isinstance(value, np.ndarray) else value for key, value in lie.items()}
    found = objection(question, answer.model_copy(update=lie))
    assert found is not None and reason in found


def test_answer_may_exceed_the_connection_by_rounding_only() -> None:
    assert objection(PRICE, RESPONSE.model_copy(update={"load_kw": [10.0005, 2.0]})) is None
    assert objection(TERMS, DRA.model_copy(update={"rated_power": 0.0100005})) is None
    found = objection(PRICE, RESPONSE.model_copy(update={"load_kw": [10.02, 2.0]}))
    assert found is not None and "10.02 kW" in found


def test_homes_of_one_process_cannot_cancel_each_other_out() -> None:
    rows = PackedArray.of(np.array([[1e6, 1e6], [-1e6, -1e6]]))
    answer = LoadResponse(homes=2, load_kw=rows, slope=[0.0, 0.0])
    check = MemberLimits([RegisteredMember(name="p1", homes=2, max_kw=20.0)], Role.HOME, Mailbox()).check_answer
    found = check("p1", PRICE, answer)
    assert found is not None and "2e+06 kW" in found


def test_price_that_vanishes_does_not_allow_any_slope() -> None:
    found = objection(Price(price=[0.0, 10.0]), RESPONSE.model_copy(update={"slope": [-LARGEST, 0.0]}))
    assert found is not None and "bend" in found
