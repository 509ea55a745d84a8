"""Rounds of a leader as an observer without a desk hears them."""

from __future__ import annotations

from typing import Any

from stackelgrid.deploy.heard import HeardRounds
from stackelgrid.games.user_oriented.messages import LoadResponse, Price
from stackelgrid.wire.messages import Answer, Message, Settlement, Signal


def ask(number: int, price: float, again: tuple[str, ...] = ()) -> Message:
    return Signal[Price](run="r", sender="leader", round=number, again=[*again], body=Price(price=[price, price]))


def answer(sender: str, number: int, load_kw: list[float]) -> Message:
    return Answer[LoadResponse](run="r", sender=sender, round=number, body=LoadResponse(homes=2, load_kw=load_kw))


def hear(*messages: Message) -> list[dict[str, Any]]:
    heard = HeardRounds()
    return [record for second, message in enumerate(messages) for record in heard.receive(message, float(second))]


def settle(number: int) -> Message:
    body = Price(price=[8.0, 8.0])
    return Settlement[Price](run="r", sender="leader", round=number, settled=True, complete=True, body=body)


def test_round_adds_up_the_answers_to_its_question() -> None:
    first, second = hear(
        ask(1, 7.0),
        answer("a1", 1, [1.0, 2.0]),
        ask(1, 7.0, again=("a2",)),
        answer("a2", 1, [3.0, 4.0]),
        ask(2, 8.0),
        answer("a2", 1, [9.0, 9.0]),  # late, and of the round before
        answer("a1", 2, [5.0, 6.0]),
        settle(2),
        settle(2),
    )
    assert first == {
        "round": 1, "session": 1, "price": [7.0, 7.0], "load_kw": [4.0, 6.0], "residual": None,
        "answered": 2, "again": 1, "ms": 4000.0,
    }  # fmt: skip
    assert (second["round"], second["load_kw"], second["answered"]) == (2, [5.0, 6.0], 1)


def test_question_that_nobody_answered_is_no_round() -> None:
    assert hear(ask(1, 7.0), ask(2, 7.5), settle(2)) == []
    assert hear(answer("a1", 1, [1.0, 2.0]), settle(1)) == []  # of before it listened
