"""Several prices in one round: what is answered, summed and counted, and what a home refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from emc_node.node import EmcNode
from stackelgrid.calendar import Session
from stackelgrid.errors import ConfigError
from stackelgrid.games.user_oriented.aggregator import UserOrientedAggregator
from stackelgrid.games.user_oriented.home import Home, UserOrientedHomes
from stackelgrid.games.user_oriented.leader import UserOrientedLeader, sum_answers
from stackelgrid.games.user_oriented.local_response import Observation
from stackelgrid.games.user_oriented.messages import LOWER, LoadResponse, Price
from stackelgrid.games.user_oriented.search import NextPrices, PricingProblem
from stackelgrid.rounds.settings import PrivacySettings
from stackelgrid.scenarios import load
from stackelgrid.transport.base import Compute, Publish
from stackelgrid.wire.arrays import PackedArray
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Settlement, Signal

SLOTS = 24
HOMES: list[Home] = load("user_oriented", ["population.homes=6"]).everyone
PRICES = np.random.default_rng(3).uniform(5, 15, (4, SLOTS))


def ask(prices: np.ndarray, sensitivities: int = 1) -> Price:
    others = PackedArray.of(prices[1:]) if len(prices) > 1 else None
    return Price(price=prices[0].tolist(), others=others, sensitivities=sensitivities)


def answer_all(question: Price, homes: list[Home] = HOMES, *, hosted: bool = False) -> dict[str, LoadResponse]:
    """The answers of the homes, of each in its own process or of all in one."""
    groups = [homes] if hosted else [[home] for home in homes]
    answers = {f"p{number}": UserOrientedHomes(group).answer(question) for number, group in enumerate(groups)}
    assert all(body.find_objection(question, 1e6) is None for body in answers.values())
    return answers


def observe(prices: np.ndarray, sensitivities: int = 1, *, hosted: bool = False) -> list[Observation]:
    """What the leader sees of the answers, through an aggregator."""
    question = ask(prices, sensitivities)
    answers = answer_all(question, hosted=hosted)
    aggregator = UserOrientedAggregator({name: body.homes for name, body in answers.items()})
    total = aggregator.on_answers(question, answers, (), ()).body
    assert total.find_objection(question, 1e6) is None
    return sum_answers(question, {"a1": total})


@pytest.mark.parametrize("hosted", [False, True])
def test_several_prices_in_one_round_are_answered_as_each_alone(hosted: bool) -> None:
    together = observe(PRICES, sensitivities=3, hosted=hosted)
    alone = [observe(price[None])[0] for price in PRICES]
    for number, (one, other) in enumerate(zip(together, alone, strict=True)):
        np.testing.assert_array_equal(one.price, other.price)
        np.testing.assert_allclose(one.load, other.load, rtol=1e-12)
        if number < 3:
            np.testing.assert_allclose(one.slope, other.slope, rtol=1e-12)
            np.testing.assert_allclose(one.coupling, other.coupling, rtol=1e-12, atol=1e-12)
        else:
            assert one.slope is None


def test_question_of_one_price_travels_as_one_price() -> None:
    question = json.loads(ask(PRICES[:1]).model_dump_json(exclude_none=True))
    answer = json.loads(UserOrientedHomes(HOMES[:1]).answer(ask(PRICES[:1])).model_dump_json(exclude_none=True))
    assert list(question) == ["price"]
    assert set(answer) - {"coupling"} == {"homes", "held", "excluded", "load_only", "fixed", "load_kw", "slope"}


def test_home_sends_no_sensitivity_that_was_not_asked() -> None:
    answer = UserOrientedHomes(HOMES).answer(ask(PRICES, sensitivities=0))
    sent = json.loads(answer.model_dump_json(exclude_none=True))
    assert set(sent) == {"homes", "held", "excluded", "load_only", "fixed", "load_kw", "other_loads_kw"}


def test_answer_to_another_number_of_prices_is_refused() -> None:
    answer = UserOrientedHomes(HOMES[:1]).answer(ask(PRICES, 2))
    assert answer.find_objection(ask(PRICES, 2), None) is None
    assert "asked were 3 and 2" in str(answer.find_objection(ask(PRICES[:3], 2), None))
    assert "asked were 4 and 1" in str(answer.find_objection(ask(PRICES, 1), None))


def test_false_answer_to_a_further_price_is_refused() -> None:
    answer = UserOrientedHomes(HOMES[:1]).answer(ask(PRICES, 2))
    rising = answer.model_copy(update={"coupling": None, "other_couplings": [PackedArray.of(np.eye(SLOTS))]})
    assert "negative semidefinite" in str(rising.find_objection(ask(PRICES, 2), None))
    steep = answer.model_copy(update={"other_slopes": PackedArray.of(np.full((1, SLOTS), -1e6))})
    assert "bend the load" in str(steep.find_objection(ask(PRICES, 2), 10.0))
    large = PackedArray.of(np.full((3, SLOTS), 1e5))
    assert answer.model_copy(update={"other_loads_kw": large}).peak_kw == 1e5


@pytest.mark.parametrize(
    "change",
    [
        {"other_loads_kw": np.ones((3, SLOTS - 1))},
        {"other_slopes": np.ones((1, SLOTS))},
        {"other_slopes": -np.ones((4, SLOTS))},
        {"slope": None},
    ],
)
def test_answer_of_wrong_shape_is_malformed(change: dict[str, Any]) -> None:
    body = UserOrientedHomes(HOMES[:1]).answer(ask(PRICES, 2)).model_dump(mode="json", exclude_none=True)
    packed = {
        key: value if value is None else PackedArray.of(value).model_dump(mode="json") for key, value in change.items()
    }
    LoadResponse.model_validate(body)
    with pytest.raises(ValidationError):
        LoadResponse.model_validate(body | packed)


def test_price_of_wrong_shape_is_malformed() -> None:
    with pytest.raises(ValidationError, match="others has shape"):
        Price(price=[1.0, 2.0], others=PackedArray.of(np.ones((2, 3))))
    with pytest.raises(ValidationError, match="sensitivities for 3"):
        Price(price=[1.0, 2.0], others=PackedArray.of(np.ones((1, 2))), sensitivities=3)


def test_home_that_counts_with_an_earlier_load_does_so_at_all_prices() -> None:
    question = ask(PRICES, sensitivities=2)
    answers = answer_all(question)
    aggregator = UserOrientedAggregator(dict.fromkeys(answers, 1))
    before = aggregator.on_answers(ask(PRICES[:1]), answer_all(ask(PRICES[:1])), (), ()).body
    held = answers | {"p0": answer_all(ask(PRICES[:1]))["p0"]}
    total = sum_answers(question, {"a1": aggregator.on_answers(question, held, ("p0",), ()).body})
    rest = sum_answers(question, {name: body for name, body in answers.items() if name != "p0"})
    for at, without in zip(total, rest, strict=True):
        np.testing.assert_allclose(at.load, without.load + held["p0"].loads()[0], rtol=1e-12)
    np.testing.assert_allclose(total[1].slope, rest[1].slope, rtol=1e-12)
    # So does an aggregator that the leader holds.
    assert [at.load.tolist() for at in sum_answers(question, {"a1": before}, ("a1",))] == [before.load_kw] * 4


def test_home_refuses_more_questions_than_it_is_set_to_answer() -> None:
    link = Link("run", "a1", LOWER, SLOTS, 1)
    privacy = PrivacySettings(questions_per_session=5)
    node = EmcNode(
        "h1",
        link,
        HOMES[:1],
        lambda homes, _: UserOrientedHomes(homes),
        (Session(SLOTS),),
        lambda homes: None,
        privacy=privacy,
    )
    node.start(0.0)

    def receive(number: int, question: Price) -> list[Publish]:
        signal = Signal[Price](run="run", sender="a1", round=number, body=question)
        return [step for step in node.receive(link.topic(signal), link.write(signal), 0.0) if isinstance(step, Publish)]

    assert receive(1, ask(PRICES)) and receive(2, ask(PRICES[::-1]))  # the same four, asked again
    assert receive(3, ask(PRICES[:1] + 1))
    assert not node.mailbox.rejected
    assert not receive(4, ask(PRICES[:1] + 2))
    assert node.mailbox.rejected == {"over_budget": 1}
    assert "at most 5 are answered" in node.mailbox.objection
    assert receive(5, ask(PRICES[2:3]))  # one that it has answered


def test_home_that_keeps_its_sensitivity_refuses_a_question_for_it() -> None:
    link = Link("run", "a1", LOWER, SLOTS, 1)
    node = EmcNode(
        "h1",
        link,
        HOMES[:1],
        lambda homes, _: UserOrientedHomes(homes),
        (Session(SLOTS),),
        lambda homes: None,
        privacy=PrivacySettings(sensitivity="none"),
    )
    node.start(0.0)

    def receive(number: int, question: Price) -> list[Publish]:
        signal = Signal[Price](run="run", sender="a1", round=number, body=question)
        return [step for step in node.receive(link.topic(signal), link.write(signal), 0.0) if isinstance(step, Publish)]

    assert not receive(1, Price(price=[10.0] * SLOTS))
    assert node.mailbox.rejected == {"sensitivity": 1}
    assert receive(2, Price(price=[10.0] * SLOTS, sensitivities=0))
    assert node.mailbox.rejected == {"sensitivity": 1}


def test_home_refuses_prices_outside_the_band_of_its_contract() -> None:
    link = Link("run", "a1", LOWER, SLOTS, 1)
    done: list[Any] = []
    privacy = PrivacySettings(price_band=(0.0, 50.0))
    node = EmcNode(
        "h1",
        link,
        HOMES[:1],
        lambda homes, _: UserOrientedHomes(homes),
        (Session(SLOTS),),
        done.append,
        privacy=privacy,
    )
    node.start(0.0)

    def receive(message: Signal[Price] | Settlement[Price]) -> list[str]:
        actions = list(node.receive(link.topic(message), link.write(message), 0.0))
        sent = []
        while actions:
            match actions.pop(0):
                case Compute(job, then):
                    actions += then(job(), 0.0)
                case Publish(topic):
                    sent.append(topic.rsplit("/", 1)[-1])
        return sent

    fair, unfair = Price(price=[50.0] * SLOTS), Price(price=[*[50.0] * (SLOTS - 1), 50.01])
    assert receive(Signal[Price](run="run", sender="a1", round=1, body=unfair)) == []
    assert node.mailbox.rejected == {"price": 1}
    assert "prices from 50 to 50.01, 0 to 50 are allowed" in node.mailbox.objection
    assert receive(Signal[Price](run="run", sender="a1", round=2, body=fair)) == ["answer"]
    negative = ask(np.vstack([np.full(SLOTS, 10.0), np.full(SLOTS, -1.0)]))
    assert receive(Signal[Price](run="run", sender="a1", round=3, body=negative)) == []
    settlement = Settlement[Price](run="run", sender="a1", round=4, settled=True, complete=True, body=unfair)
    assert receive(settlement) == ["receipt"], "the run is over for it, without a plan"
    assert (done, node.mailbox.rejected) == ([], {"price": 3})


def test_scenario_is_refused_when_its_leader_may_ask_for_prices_that_homes_refuse() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.price_band: 0 to 1, but the leader may ask for"):
        load("user_oriented", ["privacy.price_band=[0, 1]"])
    exact = ["leader.price_min=1", "leader.price_max=30", "privacy.price_band=[1, 30]"]
    assert load("user_oriented", exact).privacy_settings().price_band == (1.0, 30.0)
    with pytest.raises(ConfigError, match=r"may ask for 0\.9997 to 30\.0003 .*make the band as wide"):
        load("user_oriented", [*exact, "leader.algorithm=loads_only"])
    assert load("user_oriented", ["privacy.price_band=[-100, 1000]"]).privacy_settings().price_band == (-100.0, 1000.0)


class Curious:
    """A search that asks thirty prices in each round and never ends."""

    def __init__(self, problem: PricingProblem) -> None:
        self.company, self.residual, self.seen = problem.company, 1.0, list[int]()

    def open(self, price: Any) -> NextPrices:
        return NextPrices(price)

    def next(self, observed: Any) -> NextPrices:
        self.seen.append(len(observed))
        drawn = np.random.default_rng(len(self.seen)).uniform(5, 15, (30, SLOTS))
        return NextPrices(drawn[0], list(drawn[1:]), sensitivities=3)


def test_leader_never_asks_more_than_its_questions() -> None:
    settings = load("user_oriented").leader
    leader = settings.strategy(Session(SLOTS))
    assert isinstance(leader, UserOrientedLeader)
    leader._make_algorithm = Curious
    decision, asked, rounds = leader.open(), set[bytes](), 0
    while not decision.stop:
        assert not decision.settle
        asked.update(decision.ask.questions)
        decision = leader.decide(decision.ask, {"a1": UserOrientedHomes(HOMES[:1]).answer(decision.ask)}, ())
        rounds += 1
    assert len(asked) == settings.questions_per_session == 100
    assert rounds > 10  # further prices leave the first ones of some rounds to ask
    assert decision.stop == "all 100 questions are asked; raise leader.questions_per_session"
    assert decision.settlement.others is None
