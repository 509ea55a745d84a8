"""Members that change between two sessions, over a real broker."""

from __future__ import annotations

from support.grid import START, TREES, assert_same, grid, play, replay

from stackelgrid.transport.mqtt import MqttTransport


def test_members_change_over_mqtt_as_in_memory(mosquitto_url: str) -> None:
    scenario = grid()
    scenario = scenario.change(rounds=scenario.rounds.model_copy(update={"deadline_s": 30.0, "gather_s": 60.0}))
    played = play(scenario, START, TREES, transport=MqttTransport(mosquitto_url))
    assert played.record.failures == {} and played.record.rejected == {}
    for session, tree in TREES.items():
        assert played.members(session) == {name: list(homes) for name, homes in tree.items() if homes}
        record = played.record.of_session(session)
        assert record.conclusion["complete"]
        assert_same(record, replay(scenario, played, session))
