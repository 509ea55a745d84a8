"""A home that asks to leave."""

from __future__ import annotations

import json

from emc_node.leave import HEAR_S, Leaver
from stackelgrid.transport.base import Finish, Publish

ANSWER = "stackelgrid/street/registrar/h13/answer"


def test_leaver_asks_once_a_connection_and_hears_for_a_while() -> None:
    leaver = Leaver("street", "h13")
    (sent,) = leaver.start(10.0)
    assert isinstance(sent, Publish)
    assert (sent.topic, sent.qos, sent.retain) == ("stackelgrid/street/registrar/h13/request", 1, False)
    assert json.loads(sent.payload) == {"schema": 1, "name": "h13", "leave": True}
    assert leaver.next_deadline() == 10.0 + HEAR_S
    assert leaver.tick(10.0 + HEAR_S) == [Finish()]


def test_leaver_takes_a_denial_of_its_own_request_alone() -> None:
    leaver = Leaver("street", "h13")
    for payload in (b"", b"{", b'{"schema":1,"id":"' + b"0" * 32 + b'","state":"denied","reason":"of a renewal"}'):
        assert leaver.receive(ANSWER, payload, 0.0) == []
    assert leaver.receive(ANSWER, b'{"schema":1,"state":"denied","reason":"the disk is full"}', 0.0) == [Finish()]
    assert leaver.denied == "the disk is full"
