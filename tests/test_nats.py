"""A cluster of three NATS servers, one of which is killed. (As a transport it is held to the conformance suite.)"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_transport_conformance import Scripted, answer, finish, heard

from broker import answers, nats
from stackelgrid.testbed import in_memory, processes
from stackelgrid.testbed.scenario import load
from stackelgrid.transport.base import Publish
from stackelgrid.transport.mqtt import MqttTransport

SETTINGS = ["population.homes=12", "aggregators=2", "rounds.deadline_s=1"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nats.RunningCluster]:
    with nats.start(tmp_path_factory.mktemp("nats")) as running:
        yield running


def at(cluster: nats.RunningCluster, *servers: str) -> MqttTransport:
    return MqttTransport("mqtt://" + ",".join(f"127.0.0.1:{cluster.ports[name]}" for name in servers))


def eventually_heard(transport: MqttTransport) -> set[tuple[str, bytes]]:
    """What is retained. While the servers left elect who keeps it, a newcomer hears nothing of it: look again."""
    give_up = time.monotonic() + 30
    while not (found := heard(transport, "cluster", "told/+")) and time.monotonic() < give_up:
        time.sleep(0.1)
    return set(found)


def test_a_run_goes_on_when_one_of_three_servers_is_killed(tmp_path: Path, cluster: nats.RunningCluster) -> None:
    scenario = load("user_oriented", SETTINGS)

    def watch(record: dict[str, Any]) -> None:
        if record["round"] == 2:
            cluster.kill("n1")

    played = processes.play(scenario, tmp_path, cluster.url, "nats", watch)
    cluster.restart("n1")
    assert answers(cluster.ports["n1"])
    assert played.settled and played.conclusion["complete"] and not played.failures, played.failures
    outcome, undisturbed = scenario.outcome(played), scenario.outcome(in_memory.play(scenario))
    assert outcome["price"] == pytest.approx(undisturbed["price"], rel=1e-6)
    assert outcome["load_kw"] == pytest.approx(undisturbed["load_kw"], rel=1e-6)


def test_what_is_retained_outlives_the_server_that_took_it(cluster: nats.RunningCluster) -> None:
    told = {(f"told/{name}", name.encode()) for name in cluster.ports}
    for topic, payload in told:
        tell = partial(answer, Publish(topic, payload, qos=1, retain=True))
        at(cluster, payload.decode()).run([Scripted("teller", start=tell(*finish()))])
    cluster.kill("n2")
    assert eventually_heard(at(cluster, "n1", "n3")) == told
    cluster.restart("n2")
    assert answers(cluster.ports["n2"])
    assert eventually_heard(at(cluster, "n2")) == told
