"""Nodes over MQTT 3.1.1: one broker connection per node, all of them driven by one asyncio event loop.

Each connection is a paho-mqtt client without a thread of its own. The loop says when a socket can be read or
written, paho parses and frames, and the node is called between two such events, never inside a paho callback.
Subscriptions are made at QoS 0: within one connection nothing is lost, a lost connection ends in `start`, and
a sender's order holds even when it mixes QoS 0 and 1.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from stackelgrid.transport.address import Address
from stackelgrid.transport.base import (
    Action,
    BrokerUnreachableError,
    Compute,
    FetchRetained,
    Finish,
    Node,
    Publish,
    Traffic,
    Transport,
    TransportResult,
)
from stackelgrid.transport.tls import Tls
from stackelgrid.transport.worker import Worker

_LOG = logging.getLogger("stackelgrid.transport")

KEEPALIVE_S = 20
"""Idle seconds before a ping; the broker takes a silent node for dead after one and a half times this."""
FAREWELL_S = 5.0
"""How long to wait for the broker to close its side after DISCONNECT."""
ATTEMPT_S = 5.0
"""How long one attempt waits for TCP, and then again for CONNACK and SUBACK."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 60.0
"""Back-off between attempts: doubled each time, each pause drawn between half and the whole of it."""
PATIENT_PAUSE_S, PATIENT_SHARE = 5.0, 0.1
"""In the first minute of an outage no pause is longer than this; after it none than this share of the outage."""


class MqttTransport(Transport):
    """Carries nodes over the broker at `url`: `mqtt://host:port`, or `mqtts://host:port` with `tls`.

    Of several servers, `mqtt://a:1883,b:1883`, each connection begins at one of its own choice and goes on to the next
    when that is lost. `login` is a user and a password, for a broker that wants one. `connect_timeout_s` is how long
    the first connection may take, `reconnect_s` how long a lost one may stay away; beyond either, `run` raises
    `BrokerUnreachableError`, never when it is infinite. Raises `ValueError` for another form of address, and for `tls`
    that is missing, unusable, or would not be used.

    While a connection is away, what its node publishes at QoS 0 is lost and what it publishes at QoS 1 waits;
    the latter may arrive twice. A node's client id is its name and a random suffix, so that runs can share a
    broker.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: Tls | None = None,
        login: tuple[str, str] | None = None,
        connect_timeout_s: float = 20,
        reconnect_s: float = 60,
    ) -> None:
        self.url = url
        self.address = Address.parse(url)
        if self.address.encrypted and tls is None:
            raise ValueError(f"{url} is reached over TLS: give tls, with ca, certificate and key")
        if tls is not None and not self.address.encrypted:
            raise ValueError(f"{url} is not encrypted, and tls is given: write {url.replace('mqtt:', 'mqtts:', 1)}")
        self.tls = None if tls is None else tls.context()
        self.login = login
        self.connect_timeout_s = connect_timeout_s
        self.reconnect_s = reconnect_s
        self.traffic: dict[str, Traffic] = {}
        self._stopping = False
        self._leave: Callable[[], object] | None = None

    def run(self, nodes: Sequence[Node]) -> TransportResult:
        """Drive the nodes until each has finished or crashed, or `stop` is called. See `Transport.run`."""
        return asyncio.run(self.serve(nodes))

    async def serve(self, nodes: Sequence[Node]) -> TransportResult:
        """`run` for a caller with an event loop of its own. Raises `ValueError` if two nodes share a name."""
        result = TransportResult({node.name: Traffic() for node in nodes})
        if len(result.traffic) < len(nodes):
            raise ValueError(f"two nodes share a name: give each its own, not {[node.name for node in nodes]}")
        self.traffic = result.traffic
        worker = Worker(asyncio.get_running_loop())
        links = [asyncio.create_task(_Link(node, self, worker, result).drive()) for node in nodes]
        everyone = asyncio.gather(*links)
        self._leave = partial(asyncio.get_running_loop().call_soon_threadsafe, everyone.cancel)
        if self._stopping:
            everyone.cancel()
        try:
            await everyone
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            self._leave = None
            for link in links:
                link.cancel()
            await asyncio.gather(*links, return_exceptions=True)
            worker.close()
        return result

    def stop(self) -> None:
        """End the run now and for good, from any thread or a signal handler; a later `run` ends at once.

        This is for SIGTERM: the process leaves in good order, but its nodes have not finished. The
        connections close without DISCONNECT, so the broker publishes the last wills and the other nodes know.
        A running computation is not interrupted; its result is dropped.
        """
        self._stopping = True
        if self._leave is not None:
            with suppress(RuntimeError):  # the loop closed meanwhile: nothing is left to stop
                self._leave()


class _Link:
    """One node's connection, with the node's clock and its computations."""

    def __init__(self, node: Node, transport: MqttTransport, worker: Worker, result: TransportResult) -> None:
        self._node = node
        self._transport = transport
        self._result = result
        self._traffic = result.traffic[node.name]
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None  # the one the loop watches
        self._watched_for_writing = False
        self._farewell: socket.socket | None = None  # the connection after DISCONNECT
        self._lost = asyncio.Event()
        self._answer: asyncio.Future[str] = self._loop.create_future()  # why the broker refuses, or ""
        self._up = False  # the subscriptions are in force
        self._leaving = False  # DISCONNECT is on its way
        self._ended = False  # the node has finished or crashed: it is not called any more
        self._inbox: deque[tuple[str, bytes]] = deque()
        self._held: list[Publish] = []  # at QoS 1, asked for while the connection was away
        self._unacknowledged: set[int] = set()  # message ids at QoS 1
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._worker = worker

        client_id = f"{node.name}-{secrets.token_hex(4)}"
        self._jitter = random.Random(client_id)
        servers = transport.address.servers
        self._server = self._jitter.randrange(len(servers))  # so that a cluster's servers share the nodes
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self._client.connect_timeout = min(ATTEMPT_S, transport.connect_timeout_s)
        if transport.tls is not None:
            self._client.tls_set_context(transport.tls)
        if transport.login is not None:
            self._client.username_pw_set(*transport.login)
        # No limit in flight, else messages at QoS 0 would overtake those at QoS 1 that wait their turn.
        self._client.max_inflight_messages_set(0)
        if node.last_will is not None:
            will = node.last_will
            self._client.will_set(will.topic, will.payload, will.qos, will.retain)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        self._client.on_socket_close = self._on_socket_close

    # The connection's life.

    async def drive(self) -> None:
        """Hold the connection until the node has ended. When cancelled, leave without DISCONNECT."""
        patience_s = self._transport.connect_timeout_s
        pause = FIRST_PAUSE_S
        try:
            while not self._done():
                await self._connect(patience_s)
                stands_since = self._loop.time()
                while self._socket is not None:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._lost.wait(), KEEPALIVE_S / 4)
                    self._client.loop_misc()
                    self._settle()
                if not self._done():
                    _LOG.warning("connection lost", extra={"data": {"server": self._at()}})
                    # A broker that accepts a connection and ends it at once is not asked again and again.
                    fleeting = self._loop.time() - stands_since < PATIENT_PAUSE_S
                    pause = min(2 * pause, PATIENT_PAUSE_S) if fleeting else FIRST_PAUSE_S
                    if fleeting:
                        await asyncio.sleep(pause * self._jitter.uniform(0.25, 0.5))
                patience_s = self._transport.reconnect_s
            await self._see_off()
        finally:
            self._end()
            if self._farewell is not None:
                self._farewell.close()

    def _at(self) -> str:
        """The server of now, for a log."""
        host, port = self._transport.address.servers[self._server]
        return f"{host}:{port}"

    def _done(self) -> bool:
        return self._ended and not self._unacknowledged and not self._held

    async def _connect(self, patience_s: float) -> None:
        """Connect to the first server that accepts; `patience_s` is how long to try."""
        began = self._loop.time()
        give_up = began + patience_s
        pause = FIRST_PAUSE_S
        servers = self._transport.address.servers
        attempts, told_of = 0, set[str]()
        while not self._done():
            try:
                await self._attempt(min(ATTEMPT_S, max(give_up - self._loop.time(), FIRST_PAUSE_S)))
                if attempts or self._traffic.connections > 1:
                    told = {"server": self._at(), "seconds": round(self._loop.time() - began, 1)}
                    _LOG.info("connected", extra={"data": {**told, "attempts": attempts + 1}})
                return
            except OSError as error:
                self._cut()
                attempts += 1
                cause = str(error)
                if cause not in told_of:  # each once in an outage, which may last for days
                    told_of.add(cause)
                    _LOG.warning("no connection", extra={"data": {"server": self._at(), "cause": cause}})
                self._server = (self._server + 1) % len(servers)
                wait = pause * self._jitter.uniform(0.5, 1.0)
                if attempts % len(servers):
                    wait = 0.0  # the next of the cluster at once
                elif self._loop.time() + wait >= give_up:
                    raise BrokerUnreachableError(self._transport.url, patience_s, cause) from error
                else:
                    patient = max(PATIENT_PAUSE_S, PATIENT_SHARE * (self._loop.time() - began))
                    pause = min(2 * pause, LONGEST_PAUSE_S, patient)
            await asyncio.sleep(wait)

    async def _attempt(self, seconds: float) -> None:
        """Connect and subscribe once; raises `OSError` (`ConnectionError`, `TimeoutError`) on failure."""
        self._answer = self._loop.create_future()
        self._lost.clear()
        self._inbox.clear()
        # In a thread, because it waits for the name service and for TCP.
        host, port = self._transport.address.servers[self._server]
        await asyncio.to_thread(self._client.connect, host, port, KEEPALIVE_S)
        self._socket = cast("socket.socket | None", self._client.socket())
        if self._socket is None:
            raise ConnectionResetError("the broker closed the connection as soon as it was made")
        # Else the kernel may keep a small message back until an earlier one is acknowledged: 40 ms and more.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add_reader(self._socket, self._on_readable)
        self._settle()
        answered, _ = await asyncio.wait([self._answer], timeout=seconds)
        if not answered:
            raise TimeoutError(f"no answer to CONNECT and SUBSCRIBE within {seconds:.1f} s")
        if self._answer.result():
            raise ConnectionRefusedError(self._answer.result())
        self._begin()

    def _begin(self) -> None:
        if self._socket is None:
            return  # lost again already
        self._up = True
        self._traffic.connections += 1
        self._traffic.connected = True
        held, self._held = self._held, []
        for publish in held:
            self._publish(publish)
        self._step(self._node.start)
        self._settle()

    def _cut(self) -> None:
        """Close the connection without DISCONNECT, so that the broker publishes the last will."""
        if self._socket is not None:
            with suppress(OSError):  # the other side was faster
                self._socket.shutdown(socket.SHUT_RDWR)
        while self._socket is not None:
            self._client.loop_read()  # what had arrived, then the end of the stream, at which paho closes

    async def _see_off(self) -> None:
        """After DISCONNECT, read until the broker closes its side.

        Closing a socket while messages still come in makes the kernel reset the connection, and a broker may
        then drop what it has not read yet: the last messages, even the DISCONNECT.
        """
        if self._farewell is not None:
            with suppress(OSError):  # TimeoutError among them: the broker has had its time
                async with asyncio.timeout(FAREWELL_S):
                    while await self._loop.sock_recv(self._farewell, 65536):
                        pass

    def _on_readable(self) -> None:
        self._client.loop_read()
        while self._socket is not None and self._transport.tls is not None and self._pending():
            self._client.loop_read()  # TLS decrypts record by record: the rest of one does not show on the socket
        self._settle()

    def _pending(self) -> int:
        return cast("ssl.SSLSocket", self._socket).pending()

    # What paho reports, from within `loop_read`, `loop_write` and `loop_misc`.

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._answered(f"the broker refused the connection: {reason}")
        elif self._node.subscriptions:
            self._client.subscribe([(topic_filter, 0) for topic_filter in self._node.subscriptions])
        else:
            self._answered("")

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        asked = zip(self._node.subscriptions, reasons, strict=True)
        refused = [topic_filter for topic_filter, reason in asked if reason.is_failure]
        self._answered(f"the broker refused the subscriptions {refused}" if refused else "")

    def _answered(self, refusal: str) -> None:
        if not self._answer.done():
            self._answer.set_result(refusal)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self._inbox.append((message.topic, bytes(message.payload)))

    def _on_publish(self, _client: Any, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        self._unacknowledged.discard(mid)

    def _on_socket_close(self, _client: Any, _data: Any, closed: Any) -> None:
        if self._socket is None or closed is not self._socket:
            return  # closed in the connecting thread, before the loop watched it
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        if self._leaving:
            self._farewell = socket.socket(fileno=os.dup(self._socket.fileno()))  # outlives paho's close
            with suppress(OSError):  # the broker was faster
                self._farewell.shutdown(socket.SHUT_WR)
        self._socket = None
        self._watched_for_writing = False
        self._up = False
        self._traffic.connected = False
        self._lost.set()
        self._answered("the broker closed the connection without an answer")

    # The node.

    def _settle(self) -> None:
        """After every event: hand over what arrived, leave if it is time, write what the socket accepts."""
        while self._up and self._inbox:
            topic, payload = self._inbox.popleft()
            if not self._ended:
                self._traffic.received += 1
                self._traffic.received_bytes += len(payload)
                self._step(partial(self._node.receive, topic, payload))
        if self._up and self._done():
            self._up, self._leaving = False, True
            self._client.disconnect()  # queued behind all that was published; paho closes once it is written
        if self._client.want_write():
            self._client.loop_write()
        if self._socket is not None and self._client.want_write() != self._watched_for_writing:
            self._watched_for_writing = not self._watched_for_writing
            if self._watched_for_writing:
                self._loop.add_writer(self._socket, self._settle)
            else:
                self._loop.remove_writer(self._socket)

    def _step(self, call: Callable[[float], Sequence[Action]], not_before: float = 0.0) -> None:
        """Call into the node and do what it asks; whatever it raises is its own end and nobody else's."""
        if self._ended:
            return
        try:
            for action in call(max(self._loop.time(), not_before)):
                match action:
                    case Publish():
                        self._publish(action)
                    case Compute():
                        self._compute(action)
                    case FetchRetained():
                        self._look()
                    case Finish():
                        self._ended = True
                        break
            self._arm()
        except Exception as error:
            self._result.crashed[self._node.name] = error
            self._end()

    def _end(self) -> None:
        """The node is over without `Finish`: what it had still to send is void."""
        self._ended = True
        self._held.clear()
        self._unacknowledged.clear()
        self._arm()
        self._cut()

    def _publish(self, publish: Publish) -> None:
        if not self._up:
            if publish.qos > 0:
                self._held.append(publish)
            return
        sent = self._client.publish(publish.topic, publish.payload, publish.qos, publish.retain)
        if sent.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            raise OverflowError("65535 messages await the broker's acknowledgement: publish some at QoS 0")
        if publish.qos > 0:
            self._unacknowledged.add(sent.mid)
        self._traffic.sent += 1
        self._traffic.sent_bytes += len(publish.payload)

    def _look(self) -> None:
        """Subscribe again, upon which the broker sends what it has retained."""
        if self._up and self._node.subscriptions:
            self._client.subscribe([(topic_filter, 0) for topic_filter in self._node.subscriptions])

    def _compute(self, compute: Compute) -> None:
        def done(result: Any, failure: BaseException | None) -> None:
            def then(now: float) -> Sequence[Action]:
                if failure is not None:
                    raise failure
                return compute.then(result, now)

            self._step(then)
            self._settle()

        self._worker.submit(compute.job, done)

    def _arm(self) -> None:
        """Set the timer to the node's next deadline, or clear it when the node has ended."""
        due = None if self._ended else self._node.next_deadline()
        if due == self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = None if due is None else self._loop.call_at(due, self._on_due, due)

    def _on_due(self, due: float) -> None:
        self._due = None
        self._step(self._node.tick, not_before=due)
        self._settle()
