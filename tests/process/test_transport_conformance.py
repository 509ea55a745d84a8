"""What `stackelgrid.transport.base` promises, asserted on every transport with tiny scripted nodes."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from support.scripted_node import OnReceive, OnStart, Scripted, answer, finish, heard

import broker
from stackelgrid.transport.base import (
    Action,
    BrokerUnreachableError,
    Compute,
    FetchRetained,
    Finish,
    Publish,
    Reconnect,
    Transport,
    TransportResult,
)
from stackelgrid.transport.memory import DeadlockError, MemoryTransport, topic_matches
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.transport.tls import Tls

MEBIBYTE = 1 << 20
runs = itertools.count()


def over(kind: str, request: pytest.FixtureRequest) -> MqttTransport:
    if kind == "tls":
        url, tls = request.getfixturevalue("tls_url")
        return MqttTransport(url, tls=tls, connect_timeout_s=300)  # 120 handshakes on a busy machine
    return MqttTransport(request.getfixturevalue(f"{kind}_url"), connect_timeout_s=300)


@pytest.fixture(params=["memory", "mosquitto", "tls", "websockets", "embedded"])
def transport(request: pytest.FixtureRequest) -> Transport:
    return MemoryTransport() if request.param == "memory" else over(request.param, request)


@pytest.fixture(params=["mosquitto", "tls", "websockets", "embedded"])
def another(request: pytest.FixtureRequest) -> Callable[[], MqttTransport]:
    """Makes transports to one broker."""
    return lambda: over(request.param, request)


@pytest.fixture
def mqtt(another: Callable[[], MqttTransport]) -> MqttTransport:
    return another()


@pytest.fixture
def root() -> str:
    """A topic of this test's own: the brokers serve the whole session."""
    return f"conformance/{next(runs)}"


def ready_then(root: str, *actions: Action) -> Scripted:
    """Acts once its counterpart has subscribed and said so."""
    return Scripted("sender", [f"{root}/ready"], receive=answer(*actions, Finish()))


def ready(root: str) -> OnStart:
    return answer(Publish(f"{root}/ready", b"!", retain=True))


# Messages.


def test_message_arrives_unchanged(transport: Transport, root: str) -> None:
    every_byte = bytes(range(256))
    receiver = Scripted("receiver", [f"{root}/a"], start=ready(root), receive=finish)
    transport.run([ready_then(root, Publish(f"{root}/a", every_byte)), receiver])
    assert receiver.received == [(f"{root}/a", every_byte)]


def test_message_of_four_mebibytes_arrives_unchanged(transport: Transport, root: str) -> None:
    if isinstance(transport, MqttTransport) and transport.address.over_websockets:
        pytest.skip("Mosquitto 2.0.11 sends 40 kB a second over WebSockets")
    large = bytes(range(256)) * (4 * MEBIBYTE // 256)
    receiver = Scripted("receiver", [f"{root}/a"], start=ready(root), receive=finish)
    transport.run([ready_then(root, Publish(f"{root}/a", large, qos=1)), receiver])
    assert receiver.received == [(f"{root}/a", large)]


def test_messages_of_one_sender_on_one_topic_keep_their_order(transport: Transport, root: str) -> None:
    numbers = [str(n).encode() for n in range(500)]
    messages = [Publish(f"{root}/a", number, qos=n % 2) for n, number in enumerate(numbers)]
    receiver = Scripted(
        "receiver",
        [f"{root}/a"],
        start=ready(root),
        receive=lambda topic, payload, now: finish() if payload == numbers[-1] else [],
    )
    transport.run([ready_then(root, *messages), receiver])
    assert [payload for _, payload in receiver.received] == numbers


@pytest.mark.parametrize("qos", [0, 1])
def test_all_messages_arrive_when_many_senders_finish_at_once(transport: Transport, root: str, qos: int) -> None:
    def sender(n: int) -> Scripted:
        messages = [Publish(f"{root}/from/{n}", str(m).encode(), qos=qos) for m in range(20)]
        return Scripted(f"sender{n}", [f"{root}/ready"], receive=answer(*messages, Finish()))

    receiver = Scripted("receiver", [f"{root}/from/+"], start=ready(root))
    receiver._receive = lambda topic, payload, now: finish() if len(receiver.received) == 30 * 20 else []
    transport.run([receiver, *[sender(n) for n in range(30)]])
    for n in range(30):
        of_sender = [int(payload) for topic, payload in receiver.received if topic == f"{root}/from/{n}"]
        assert of_sender == list(range(20))


@pytest.mark.parametrize(
    ("subscription", "matching"),
    [
        ("a/+/c", ["a/b/c", "a//c"]),
        ("a/#", ["a", "a/b", "a/b/c", "a//c"]),
        ("a/b", ["a/b"]),
    ],
)
def test_subscription_with_wildcards_matches(
    transport: Transport, root: str, subscription: str, matching: list[str]
) -> None:
    topics = ["a", "a/b", "a/b/c", "a//c", "b/a", "ab"]
    last = f"{root}/last"
    receiver = Scripted(
        "receiver",
        [f"{root}/{subscription}", last],
        start=ready(root),
        receive=lambda topic, payload, now: finish() if topic == last else [],
    )
    transport.run([ready_then(root, *[Publish(f"{root}/{t}", b"") for t in topics], Publish(last, b"")), receiver])
    assert [topic.removeprefix(f"{root}/") for topic, _ in receiver.received[:-1]] == matching


def test_node_does_not_receive_its_own_message_without_subscription(transport: Transport, root: str) -> None:
    speaks = [Publish(f"{root}/a", b""), Publish(f"{root}/b", b"")]
    node = Scripted("node", [f"{root}/b"], start=answer(*speaks), receive=finish)
    transport.run([node])
    assert node.received == [(f"{root}/b", b"")]


def test_hundred_and_twenty_nodes_play_a_round(transport: Transport, root: str) -> None:
    def home(n: int) -> Scripted:
        return Scripted(
            f"home{n}",
            [f"{root}/question"],
            start=answer(Publish(f"{root}/here/{n}", b"x", retain=True)),
            receive=answer(Publish(f"{root}/answer/{n}", str(n).encode()), Finish()),
        )

    here: set[str] = set()
    answers: list[int] = []

    def ask_when_all_are_here(topic: str, payload: bytes, now: float) -> Sequence[Action]:
        if topic.startswith(f"{root}/answer/"):
            answers.append(int(payload))
            return finish() if len(answers) == 120 else []
        first_time = topic not in here
        here.add(topic)
        return [Publish(f"{root}/question", b"?")] if first_time and len(here) == 120 else []

    coordinator = Scripted("coordinator", [f"{root}/here/+", f"{root}/answer/+"], receive=ask_when_all_are_here)
    carried = transport.run([coordinator, *[home(n) for n in range(120)]])
    assert sorted(answers) == list(range(120))
    assert carried.crashed == {}


# What the broker keeps.


def test_retained_message_arrives_after_start(transport: Transport, root: str) -> None:
    kept = [Publish(f"{root}/kept/{n}", str(n).encode(), qos=1, retain=True) for n in range(20)]
    transport.run([Scripted("sender", start=answer(*kept, Finish()))])
    assert sorted(heard(transport, root, f"{root}/kept/+")) == sorted((k.topic, k.payload) for k in kept)


def test_retained_message_arrives_again_when_fetched(transport: Transport, root: str) -> None:
    def look_then_finish(topic: str, payload: bytes, now: float) -> list[Action]:
        return [FetchRetained()] if len(node.received) == 1 else [Finish()]

    node = Scripted(
        "node", [f"{root}/kept"], start=answer(Publish(f"{root}/kept", b"1", retain=True)), receive=look_then_finish
    )
    transport.run([node])
    assert node.received == [(f"{root}/kept", b"1")] * 2


class Discerning(Scripted):
    """A node that keeps apart what was retained before it subscribed."""

    def __init__(self, topic: str) -> None:
        super().__init__("discerning", [topic], start=answer(Publish(topic, b"now", qos=1, retain=True)))
        self.retained: list[bytes] = []

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        super().receive(topic, payload, now)
        return [FetchRetained()] if len(self.received) == 1 else []

    def receive_retained(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        self.retained.append(payload)
        return [Finish()] if payload == b"now" else []


def test_node_can_tell_a_retained_message_from_one_sent_now(transport: Transport, root: str) -> None:
    transport.run([Scripted("sender", start=answer(Publish(f"{root}/a", b"before", qos=1, retain=True), Finish()))])
    node = Discerning(f"{root}/a")
    transport.run([node])
    assert [payload for _, payload in node.received] == [b"now"]
    assert node.retained == [b"before", b"now"], "the second because it was fetched"


def test_message_without_retain_does_not_reach_later_subscribers(transport: Transport, root: str) -> None:
    transport.run([Scripted("sender", start=answer(Publish(f"{root}/a", b"x", qos=1), Finish()))])
    assert heard(transport, root, f"{root}/a") == []


def test_last_retained_message_counts_and_an_empty_one_clears(transport: Transport, root: str) -> None:
    def keep(payload: bytes) -> Scripted:
        return Scripted("sender", start=answer(Publish(f"{root}/a", payload, qos=1, retain=True), Finish()))

    transport.run([keep(b"1")])
    transport.run([keep(b"2")])
    assert heard(transport, root, f"{root}/a") == [(f"{root}/a", b"2")]
    transport.run([keep(b"")])
    assert heard(transport, root, f"{root}/a") == []


def test_later_subscribers_receive_only_their_topics(transport: Transport, root: str) -> None:
    kept = Publish(f"{root}/private", b"x", qos=1, retain=True)
    transport.run([Scripted("sender", start=answer(kept, Finish()))])

    def newcomer(n: int) -> Scripted:
        own, goodbye = f"{root}/own/{n}", Publish(f"{root}/bye/{n}", b"x", retain=True)
        return Scripted(
            f"newcomer{n}",
            [own],
            start=answer(Publish(own, b"")),
            receive=lambda topic, payload, now: [goodbye, Finish()] if topic == own else [],
        )

    gone: set[str] = set()

    def until_all_are_gone(topic: str, payload: bytes, now: float) -> Sequence[Action]:
        gone.add(topic)
        return finish() if len(gone) == 1 + 30 else []

    owner = Scripted("owner", [f"{root}/private", f"{root}/bye/+"], receive=until_all_are_gone)
    newcomers = [newcomer(n) for n in range(30)]
    transport.run([owner, *newcomers])
    assert (f"{root}/private", b"x") in owner.received
    for n, node in enumerate(newcomers):
        assert node.received == [(f"{root}/own/{n}", b"")]


# The end of a node.


def fails(*_: Any) -> list[Action]:
    raise RuntimeError("on purpose")


def fails_while_computing(*_: Any) -> list[Action]:
    return [Compute(fails, answer())]


def fails_with_the_result(*_: Any) -> list[Action]:
    return [Compute(lambda: 1, fails)]


def fails_at_a_deadline(node: Scripted) -> OnReceive:
    def set_deadline(topic: str, payload: bytes, now: float) -> Sequence[Action]:
        node.deadline = now + 0.01
        return []

    return set_deadline


@pytest.mark.parametrize("where", ["start", "receive", "tick", "job", "then"])
def test_node_that_raises_is_disconnected_and_the_others_go_on(transport: Transport, root: str, where: str) -> None:
    will = Publish(f"{root}/will", b"gone", qos=1, retain=True)
    bad = Scripted("bad", [f"{root}/ready"], last_will=will, tick=fails)
    bad._receive = {
        "start": answer(),
        "receive": fails,
        "tick": fails_at_a_deadline(bad),
        "job": fails_while_computing,
        "then": fails_with_the_result,
    }[where]
    if where == "start":
        bad._start = fails
    witness = Scripted("witness", [f"{root}/will"], start=ready(root), receive=finish)
    carried = transport.run([bad, witness])
    assert witness.received == [(f"{root}/will", b"gone")]
    assert list(carried.crashed) == ["bad"]
    assert str(carried.crashed["bad"]) == "on purpose"
    assert heard(transport, root, f"{root}/will") == [(f"{root}/will", b"gone")]


def test_messages_before_an_exception_arrive_before_the_last_will(transport: Transport, root: str) -> None:
    bad = Scripted("bad", [f"{root}/ready", f"{root}/now"], last_will=Publish(f"{root}/a", b"gone"))
    bad._receive = lambda topic, payload, now: (
        fails() if topic == f"{root}/now" else [Publish(f"{root}/a", b"last words"), Publish(f"{root}/now", b"")]
    )
    witness = Scripted("witness", [f"{root}/a"], start=ready(root))
    witness._receive = lambda topic, payload, now: finish() if payload == b"gone" else []
    transport.run([bad, witness])
    assert [payload for _, payload in witness.received] == [b"last words", b"gone"]


def test_last_will_is_not_published_after_finish(transport: Transport, root: str) -> None:
    will = Publish(f"{root}/will", b"gone", qos=1, retain=True)
    transport.run([Scripted("node", start=finish, last_will=will)])
    assert heard(transport, root, f"{root}/will") == []


def test_last_will_is_not_published_after_finish_amid_incoming_messages(transport: Transport, root: str) -> None:
    will = Publish(f"{root}/will", b"gone", qos=1, retain=True)
    flood = [Publish(f"{root}/a", bytes(1000)) for _ in range(300)]
    node = Scripted("node", [f"{root}/a"], start=answer(*flood), last_will=will)
    node._receive = answer(Publish(f"{root}/b", b"goodbye", qos=1, retain=True), Finish())
    carried = transport.run([node])
    assert carried.traffic["node"].received == 1
    assert heard(transport, root, f"{root}/b") == [(f"{root}/b", b"goodbye")]
    assert heard(transport, root, f"{root}/will") == []


def test_node_is_not_called_after_finish(transport: Transport, root: str) -> None:
    after = Publish(f"{root}/a", b"after", qos=1, retain=True)
    node = Scripted("node", [f"{root}/b"], start=answer(Publish(f"{root}/b", b""), Finish(), after))
    node.deadline = 0.0
    transport.run([node])
    assert node.calls == ["start"]
    assert heard(transport, root, f"{root}/a") == []


def test_traffic_counts_messages_and_payload_bytes(transport: Transport, root: str) -> None:
    receiver = Scripted("receiver", [f"{root}/a"], start=ready(root))
    receiver._receive = lambda topic, payload, now: finish() if payload == b"12345" else []
    sender = ready_then(root, Publish(f"{root}/a", b"123"), Publish(f"{root}/a", b"12345", qos=1))
    traffic = transport.run([sender, receiver]).traffic
    assert (traffic["sender"].sent, traffic["sender"].sent_bytes) == (2, 8)
    assert (traffic["sender"].received, traffic["sender"].received_bytes) == (1, 1)
    assert (traffic["receiver"].received, traffic["receiver"].received_bytes) == (2, 8)


def test_nodes_are_refused_when_two_share_a_name(transport: Transport) -> None:
    with pytest.raises(ValueError, match="share a name"):
        transport.run([Scripted("twin", start=finish), Scripted("twin", start=finish)])


def test_run_without_nodes_ends_at_once(transport: Transport) -> None:
    assert transport.run([]) == TransportResult()


# Time and computations.


def test_tick_comes_when_the_clock_has_reached_the_deadline(transport: Transport) -> None:
    node = Scripted("node")

    def in_two_steps(now: float) -> Sequence[Action]:
        if len(node.times) == 3:
            return finish()
        node.deadline = now + 0.02
        return []

    node._start = node._tick = in_two_steps
    transport.run([node])
    assert node.calls == ["start", "tick", "tick"]
    assert node.times[1] >= node.times[0] + 0.02
    assert node.times[2] >= node.times[1] + 0.02


def test_deadline_can_be_moved_and_cleared(transport: Transport, root: str) -> None:
    node = Scripted("node", [f"{root}/a"], tick=finish)
    times: dict[str, float] = {}

    def set_first(now: float) -> Sequence[Action]:
        node.deadline = now + 2  # both messages arrive before that, even on a busy machine
        times["first"] = node.deadline
        return [Publish(f"{root}/a", b"take back")]

    def move(topic: str, payload: bytes, now: float) -> Sequence[Action]:
        if payload == b"take back":
            node.deadline = None
            return [Publish(f"{root}/a", b"set")]
        node.deadline = times["second"] = times["first"] + 0.1
        return []

    node._start, node._receive = set_first, move
    transport.run([node])
    assert node.calls == ["start", "receive", "receive", "tick"]
    assert node.times[-1] >= times["second"]


def test_clock_never_goes_back_for_a_node(transport: Transport, root: str) -> None:
    node = Scripted("node", [f"{root}/a"], start=answer(*[Publish(f"{root}/a", b"")] * 50))
    node._receive = lambda topic, payload, now: finish() if len(node.received) == 50 else []
    transport.run([node])
    assert node.times == sorted(node.times)


def test_computations_run_in_order_and_deliver_their_results(transport: Transport) -> None:
    log: list[str] = []
    busy = threading.Lock()

    def job(n: int) -> Compute:
        def work() -> int:
            assert busy.acquire(blocking=False), "two computations of one node at once"
            threading.Event().wait(0.02)  # long enough to be met by another one
            busy.release()
            log.append(f"job {n}")
            return n

        def then(result: int, now: float) -> Sequence[Action]:
            log.append(f"then {result}")
            return finish() if result == 2 else []

        return Compute(work, then)

    carried = transport.run([Scripted("node", start=answer(job(0), job(1), job(2)))])
    assert carried.crashed == {}
    assert [entry for entry in log if entry.startswith("job")] == ["job 0", "job 1", "job 2"]
    assert [entry for entry in log if entry.startswith("then")] == ["then 0", "then 1", "then 2"]


def test_node_is_never_called_concurrently(transport: Transport, root: str) -> None:
    inside = threading.Lock()

    def alone(actions: Sequence[Action]) -> Sequence[Action]:
        assert inside.acquire(blocking=False), "called while another call was under way"
        inside.release()
        return actions

    node = Scripted("node", [f"{root}/a"])
    jobs = [Compute(lambda: None, lambda result, now: alone([Publish(f"{root}/a", b"")])) for _ in range(20)]
    node._start = lambda now: alone(jobs)
    node._receive = lambda topic, payload, now: alone(finish() if len(node.received) == 20 else [])
    assert transport.run([node]).crashed == {}


# Over MQTT only: what a virtual clock has no counterpart of.


def test_messages_are_received_during_a_computation(mqtt: MqttTransport, root: str) -> None:
    received = threading.Event()
    waits = Compute(lambda: received.wait(120), lambda in_time, now: finish() if in_time else fails())
    node = Scripted("node", [f"{root}/a"], start=answer(waits, Publish(f"{root}/a", b"")))

    def note(topic: str, payload: bytes, now: float) -> Sequence[Action]:
        received.set()
        return []

    node._receive = note
    assert mqtt.run([node]).crashed == {}


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:1884",
        "https://127.0.0.1:1884",
        "mqtt://:1884",
        "mqtt://127.0.0.1:port",
        "mqtt://127.0.0.1:99999",
        "mqtt://@127.0.0.1:1884",
        "mqtt://127.0.0.1:",
        "mqtt://127.0.0.1:1884/path",
        "mqtt://127.0.0.1:1884,",
        "mqtt://127.0.0.1:1884#fragment",
        "mqtt://[::1:1884",
    ],
)
def test_address_is_refused_when_of_another_form(url: str) -> None:
    with pytest.raises(ValueError, match="not of the form mqtt://host:port"):
        MqttTransport(url)


def test_error_names_the_broker_when_it_is_unreachable() -> None:
    with socket.socket() as bound:  # but not listening
        bound.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(BrokerUnreachableError, match="is not reachable") as caught:
            MqttTransport(url, connect_timeout_s=0.3).run([Scripted("node", start=finish)])
    assert caught.value.url == url
    assert caught.value.seconds == 0.3
    assert "refused" in caught.value.cause.lower()


def test_connection_is_made_when_one_of_several_servers_listens(mosquitto_url: str) -> None:
    with socket.socket() as bound:  # but not listening
        bound.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{bound.getsockname()[1]},{mosquitto_url.removeprefix('mqtt://')}"
        for _ in range(8):  # whichever it begins with
            carried = MqttTransport(url).run([Scripted("node", start=finish)])
            assert carried.traffic["node"].connections == 1


def test_tls_is_refused_by_mqtt_and_when_unusable(tmp_path: Path) -> None:
    tls = Tls(ca=tmp_path / "ca.crt", certificate=tmp_path / "node.crt", key=tmp_path / "node.key")
    with pytest.raises(ValueError, match=r"ca: .*none\.crt cannot be read \(No such file"):
        MqttTransport(f"mqtts://127.0.0.1:8883?ca={tmp_path}/none.crt")
    with pytest.raises(ValueError, match=r"write mqtts://127\.0\.0\.1:1883"):
        MqttTransport("mqtt://127.0.0.1:1883", tls=tls)
    with pytest.raises(ValueError, match=r"tls\.ca: .*ca\.crt cannot be read"):
        MqttTransport("mqtts://127.0.0.1:8883", tls=tls)


def test_broker_is_unreachable_when_its_port_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BrokerUnreachableError, match="no answer to CONNECT"):
            MqttTransport(url, connect_timeout_s=0.3).run([Scripted("node", start=finish)])


@pytest.mark.parametrize("stopper", ["before", "thread"])
def test_stop_ends_the_run_and_last_wills_are_published(
    another: Callable[[], MqttTransport], root: str, stopper: str
) -> None:
    mqtt = another()
    will = Publish(f"{root}/will", b"gone", qos=1, retain=True)
    busy, release = threading.Event(), threading.Event()

    def occupied() -> None:
        busy.set()
        assert release.wait(120)

    node = Scripted("node", start=answer(Compute(occupied, answer())), last_will=will)
    if stopper == "before":
        mqtt.stop()
        mqtt.run([node])
        assert node.calls == []
        return
    with ThreadPoolExecutor(1) as other:
        running = other.submit(mqtt.run, [node])
        assert busy.wait(120)
        mqtt.stop()
        assert running.result(120).crashed == {}
        release.set()
    witness = Scripted("witness", [f"{root}/will"], receive=finish)
    another().run([witness])
    assert witness.received == [(f"{root}/will", b"gone")]


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_node_starts_again_and_qos_1_is_sent_after_a_reconnect(
    kind: Literal["mosquitto", "embedded"], root: str, tmp_path: Path
) -> None:
    if kind == "mosquitto" and broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    started, gone = threading.Semaphore(0), threading.Event()
    # Retained, because the broker may have them before the node has subscribed anew.
    held = [Publish(f"{root}/a", payload, qos=1, retain=True) for payload in (b"held 1", b"held 2")]

    def begin(now: float) -> Sequence[Action]:
        started.release()
        first_time = node.calls.count("start") == 1
        return [Compute(lambda: gone.wait(120), answer(*held))] if first_time else []

    node = Scripted("node", [f"{root}/a"], start=begin)
    node._receive = lambda topic, payload, now: finish() if payload == b"held 2" else []
    first = broker.start(kind, tmp_path)
    with ThreadPoolExecutor(1) as other:
        transport = MqttTransport(first.url, reconnect_s=120)
        running = other.submit(transport.run, [node])
        assert started.acquire(timeout=120)
        first.stop()
        gone.set()
        with broker.start(kind, tmp_path, port=first.port):
            assert started.acquire(timeout=120)
            assert running.result(120).crashed == {}
    assert node.calls.count("start") == 2
    assert node.received[-1] == (f"{root}/a", b"held 2")


def test_connection_is_made_anew_without_the_last_will(mqtt: MqttTransport, root: str) -> None:
    will = Publish(f"{root}/will", b"gone", qos=1, retain=True)
    flood = [Publish(f"{root}/a", bytes(1000)) for _ in range(300)]
    before, after = (Publish(f"{root}/{name}", b"!", qos=1, retain=True) for name in ("before", "after"))

    def begin(now: float) -> Sequence[Action]:
        return [*flood, before, Reconnect()] if node.calls.count("start") == 1 else [after, Finish()]

    node = Scripted("node", [f"{root}/a"], start=begin, last_will=will)
    carried = mqtt.run([node])
    assert (carried.crashed, carried.traffic["node"].connections) == ({}, 2)
    assert sorted(heard(mqtt, root, f"{root}/+")) == [(f"{root}/after", b"!"), (f"{root}/before", b"!")]


def test_error_is_raised_when_the_broker_stays_away(tmp_path: Path) -> None:
    started = threading.Event()

    def begin(now: float) -> Sequence[Action]:
        started.set()
        return []

    running_broker = broker.start("embedded", tmp_path)
    node = Scripted("node", start=begin)
    with ThreadPoolExecutor(1) as other:
        running = other.submit(MqttTransport(running_broker.url, reconnect_s=0.3).run, [node])
        assert started.wait(120)
        running_broker.stop()
        with pytest.raises(BrokerUnreachableError) as caught:
            running.result(120)
    assert caught.value.seconds == 0.3


# In memory only: the virtual clock.


def test_virtual_clock_does_not_wait() -> None:
    node = Scripted("node", tick=finish)
    node.deadline = 1e9
    MemoryTransport().run([node])
    assert node.times == [0.0, 1e9]


def test_message_takes_the_latency() -> None:
    node = Scripted("node", ["a"], start=answer(Publish("a", b"")), receive=finish)
    MemoryTransport(latency_s=0.25).run([node])
    assert node.times == [0.0, 0.25]


def arrivals(transport: MemoryTransport, senders: Sequence[str]) -> dict[str, list[float]]:
    """When each sender's ten messages reach the one receiver."""
    seen: dict[str, list[float]] = {name: [] for name in senders}

    def note(topic: str, payload: bytes, now: float) -> Sequence[Action]:
        seen[payload.decode()].append(now)
        return finish() if sum(map(len, seen.values())) == 10 * len(senders) else []

    receiver = Scripted("receiver", [f"from/+/{n}" for n in range(10)], receive=note)
    messages = {s: [Publish(f"from/{s}/{n}", s.encode()) for n in range(10)] for s in senders}
    transport.run([receiver, *[Scripted(s, start=answer(*messages[s], Finish())) for s in senders]])
    return seen


def test_jitter_depends_on_seed_sender_and_receiver_only() -> None:
    alone = arrivals(MemoryTransport(seed=7, jitter_s=0.1), ["x"])
    in_company = arrivals(MemoryTransport(seed=7, jitter_s=0.1), ["y", "x"])
    assert alone["x"] == in_company["x"] != in_company["y"]
    assert alone != arrivals(MemoryTransport(seed=8, jitter_s=0.1), ["x"])
    assert all(0.001 <= at < 0.101 for at in in_company["x"] + in_company["y"])
    twice = MemoryTransport(seed=7, jitter_s=0.1)
    assert arrivals(twice, ["x"]) == arrivals(twice, ["x"]) == alone


def test_jitter_does_not_reorder_a_topic() -> None:
    messages = [Publish("a", str(n).encode()) for n in range(100)]
    node = Scripted("node", ["a"], start=answer(*messages))
    node._receive = lambda topic, payload, now: finish() if len(node.received) == 100 else []
    MemoryTransport(jitter_s=1.0).run([node])
    assert [int(payload) for _, payload in node.received] == list(range(100))


def test_deadlock_is_raised_when_nodes_wait_for_each_other() -> None:
    waiting = [Scripted("a", ["x"]), Scripted("b", ["x"])]
    with pytest.raises(DeadlockError, match=r"these nodes have not finished, and nothing .*: a, b;") as caught:
        MemoryTransport().run([*waiting, Scripted("c", start=finish)])
    assert caught.value.waiting == ["a", "b"]


@pytest.mark.parametrize(
    ("subscription", "topic", "matches"),
    [
        ("#", "a/b", True),
        ("#", "$SYS/a", False),
        ("+/a", "$SYS/a", False),
        ("$SYS/#", "$SYS/a", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("+", "", True),
        ("a/#", "b", False),
    ],
)
def test_topic_filter_matches_as_in_the_standard(subscription: str, topic: str, matches: bool) -> None:
    assert topic_matches(subscription, topic) is matches


def test_pauses_grow_when_the_broker_closes_each_connection_at_once() -> None:
    """Every connection stands for a moment: pauses grow all the same, from a twentieth of a second on."""
    times: list[float] = []

    def hang_up(listening: socket.socket) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                with listening.accept()[0] as connection:
                    connection.recv(1000)
                    times.append(time.monotonic())  # before the client can go on
                    connection.sendall(broker.CONNACK)
                if len(times) == 5:
                    transport.stop()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        transport = MqttTransport(f"mqtt://127.0.0.1:{listening.getsockname()[1]}")
        threading.Thread(target=hang_up, args=(listening,), daemon=True).start()
        transport.run([Scripted("node")])
        listening.shutdown(socket.SHUT_RDWR)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    least = [min(0.05 * 2**n, 1.25) for n in range(len(pauses))]  # a quarter of 0.2, 0.4, ... 5 s
    assert all(pause >= shortest for pause, shortest in zip(pauses, least, strict=True)), pauses


def test_login_is_sent_to_a_broker_that_wants_one(tmp_path: Path) -> None:
    mosquitto = broker.find_mosquitto()
    if mosquitto is None or shutil.which("mosquitto_passwd") is None:
        pytest.skip("Mosquitto is not installed")
    port = broker.free_port()
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(tmp_path / "users"), "emc", "right"], check=True)
    settings = f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {tmp_path / 'users'}\nuser root\n"
    (tmp_path / "mosquitto.conf").write_text(settings)
    url = f"mqtt://127.0.0.1:{port}"
    with subprocess.Popen([mosquitto, "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.DEVNULL) as running:
        try:
            carried = MqttTransport(url, login=("emc", "right")).run([Scripted("emc", start=finish)])
            assert carried.traffic["emc"].connections == 1
            for login in (None, ("emc", "wrong")):
                with pytest.raises(BrokerUnreachableError, match="Not authorized"):
                    MqttTransport(url, login=login, connect_timeout_s=2).run([Scripted("emc", start=finish)])
        finally:
            running.terminate()
