"""Nodes over MQTT 3.1.1: one broker connection per node, all of them driven by one asyncio event loop.

Each connection is a paho-mqtt client without a thread of its own. The loop reports when a socket can be read or
written, and paho reads and writes MQTT packets. The node is called between two such events, never inside a callback of
paho. Subscriptions are made at QoS 0. That is enough: within one connection nothing is lost, and after a lost one the
node's `start` is called again. It also keeps a sender's order when the sender mixes QoS 0 and 1.
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
from pathlib import Path
from typing import Any, cast

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from stackelgrid.transport.address import Address, Login
from stackelgrid.transport.base import (
    Action,
    BrokerRefusalError,
    BrokerUnreachableError,
    Compute,
    FetchRetained,
    Finish,
    Node,
    Publish,
    Reconnect,
    Traffic,
    Transport,
    TransportResult,
    receiver,
)
from stackelgrid.transport.diagnosis import Diagnosis, diagnose, explain_refusal
from stackelgrid.transport.tls import Tls, make_context
from stackelgrid.transport.worker import Worker

_LOG = logging.getLogger("stackelgrid.transport")

KEEPALIVE_S = 20
"""Idle seconds before a ping. The broker ends the connection of a silent node after one and a half times this."""
DISCONNECT_S = 5.0
"""Seconds to wait for the broker to close its side after DISCONNECT."""
ATTEMPT_S = 5.0
"""Seconds that one attempt waits for TCP, and then again for CONNACK and SUBACK."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 60.0
"""The pause between attempts: doubled each time, and drawn between half and the whole of that."""
PATIENT_PAUSE_S, PATIENT_SHARE = 5.0, 0.1
"""No pause is longer than the larger of these seconds and this share of the outage so far."""


_CLOSED = "the broker closed the connection without an answer"


class _RefusedError(ConnectionRefusedError):
    """The broker's own word that it does not serve this connection."""


class MqttTransport(Transport):
    """Carries nodes over the broker at `url`, of a form that `stackelgrid.transport.address` describes.

    For TLS (`mqtts`, `wss`) a broker that asks for certificates is given those in `tls`.

    With several servers, `mqtt://a:1883,b:1883`, each connection begins with one of them at random and goes on to the
    next when that one is lost. `login` is a user and a password, where they are not to be those of the address.
    `connect_timeout_s` is how long the first connection may take, `reconnect_s` how long a lost one may stay away;
    after that, `run` raises `BrokerUnreachableError`. So it does when for as long no connection lasts, or what a node
    that has finished sent is not acknowledged (`BrokerRefusalError`). Both may be infinite. Raises `ValueError` for
    another form of address, and for `tls` that is unusable or would not be used.

    While a connection is away, messages that its node publishes at QoS 0 are lost. Those at QoS 1 are sent later and
    may arrive twice. A node's client id is its name and a random suffix, so that runs can share a broker; with
    `plain_ids` it is the name alone, where a broker grants topics by it.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: Tls | None = None,
        login: Login | None = None,
        connect_timeout_s: float = 20,
        reconnect_s: float = 60,
        plain_ids: bool = False,
    ) -> None:
        self.address = Address.parse(url)
        self.url = str(self.address)  # without its password
        if tls is not None and not self.address.encrypted:
            mend = self.url.replace("://", "s://", 1)
            raise ValueError(f"{self.url} is not encrypted, and tls is given: write {mend}")
        if tls is not None and "ca" in self.address.options:
            raise ValueError(f"{self.url} names an authority, and tls.ca another: leave one of them out")
        self.certificates = tls
        self.tls = self._make_context(tls)
        self.login = login or self.address.login
        self.connect_timeout_s = connect_timeout_s
        self.reconnect_s = reconnect_s
        self.plain_ids = plain_ids
        self.traffic: dict[str, Traffic] = {}
        self._stopping = False
        self._cancel_run: Callable[[], object] | None = None
        self._wake_run: Callable[[], object] | None = None

    def _make_context(self, tls: Tls | None) -> ssl.SSLContext | None:
        if not self.address.encrypted:
            return None
        ca = self.address.options.get("ca")
        return make_context(None if ca is None else Path(ca)) if tls is None else tls.context()

    def read_certificates(self) -> None:
        """Read the files in `tls` again, for the connections that are made from now on."""
        self.tls = self._make_context(self.certificates)

    def run(self, nodes: Sequence[Node]) -> TransportResult:
        """Drive the nodes until each has finished or crashed, or `stop` is called. See `Transport.run`."""
        return asyncio.run(self.serve(nodes))

    async def serve(self, nodes: Sequence[Node]) -> TransportResult:
        """Do the same as `run` in the caller's event loop. Raises `ValueError` when two nodes share a name."""
        result = TransportResult({node.name: Traffic() for node in nodes})
        if len(result.traffic) < len(nodes):
            raise ValueError(f"two nodes share a name: give each its own, not {[node.name for node in nodes]}")
        self.traffic = result.traffic
        worker = Worker(asyncio.get_running_loop())
        clients = [_Connection(node, self, worker, result) for node in nodes]
        connections = [asyncio.create_task(client.drive()) for client in clients]
        everyone = asyncio.gather(*connections)
        self._cancel_run = partial(asyncio.get_running_loop().call_soon_threadsafe, everyone.cancel)
        self._wake_run = partial(asyncio.get_running_loop().call_soon_threadsafe, _wake_all, clients)
        if self._stopping:
            everyone.cancel()
        try:
            await everyone
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            self._cancel_run = self._wake_run = None
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
            worker.close()
        return result

    def stop(self) -> None:
        """End the run now, from any thread or a signal handler. A later `run` ends at once.

        This is for SIGTERM, when the nodes have not finished. The connections close without DISCONNECT, so that the
        broker publishes the last wills and the other nodes learn of it. A running computation is not interrupted; its
        result is dropped.
        """
        self._stopping = True
        if self._cancel_run is not None:
            with suppress(RuntimeError):  # the loop closed meanwhile: nothing is left to stop
                self._cancel_run()

    def wake(self) -> None:
        """Have every node tick now, from any thread; none that has not begun or has ended."""
        if self._wake_run is not None:
            with suppress(RuntimeError):  # the loop closed meanwhile
                self._wake_run()


def _wake_all(clients: Sequence[_Connection]) -> None:
    for client in clients:
        client.wake()


class _Connection:
    """One node's connection, with the node's clock and its computations."""

    def __init__(self, node: Node, transport: MqttTransport, worker: Worker, result: TransportResult) -> None:
        self._node = node
        self._transport = transport
        self._worker = worker
        self._result = result
        self._traffic = result.traffic[node.name]
        self._loop = asyncio.get_running_loop()
        self._prefix = transport.address.prefix
        self._socket: socket.socket | None = None  # the one the loop watches; over WebSockets paho's, around a socket
        self._watched_for_writing = False
        self._closing_socket: socket.socket | None = None  # after DISCONNECT
        self._anew = False  # the connection is to be made anew, with the certificate that there is then
        self._closed = asyncio.Event()
        self._refusal: asyncio.Future[str] = self._loop.create_future()  # why the broker refuses, or ""
        self._ready = False  # the subscriptions are in force
        self._disconnecting = False  # DISCONNECT is on its way
        self._node_ended = False  # it has finished or raised, and is not called any more
        self._inbox: deque[paho.MQTTMessage] = deque()
        self._outbox: list[Publish] = []  # at QoS 1, published while the connection was away
        self._unacknowledged: dict[int, str] = {}  # topics by message id, at QoS 1
        self._last: Publish | None = None  # the last that was published
        self._idle_since = 0.0  # when the connection was made or, later, the node ended
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

        self._unique_id = f"{node.name}-{secrets.token_hex(4)}"
        self._jitter = random.Random(self._unique_id)
        servers = transport.address.servers
        self._server = self._jitter.randrange(len(servers))  # so that a cluster's servers share the nodes
        self._client = self._make_client()

    def _make_client(self) -> paho.Client:
        """Make a client for the node; it keeps the TLS context for good."""
        node, transport = self._node, self._transport
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            node.name if transport.plain_ids else self._unique_id,
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            transport="websockets" if transport.address.over_websockets else "tcp",
            reconnect_on_failure=False,
        )
        if transport.address.over_websockets:
            client.ws_set_options(path=transport.address.path)
        client.connect_timeout = min(ATTEMPT_S, transport.connect_timeout_s)
        if transport.tls is not None:
            client.tls_set_context(transport.tls)
        if transport.login is not None:
            client.username_pw_set(*transport.login)
        # No limit in flight, else messages at QoS 0 would overtake those at QoS 1 that wait their turn.
        client.max_inflight_messages_set(0)
        if node.last_will is not None:
            will = node.last_will
            client.will_set(self._prefix + will.topic, will.payload, will.qos, will.retain)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_socket_close = self._on_socket_close
        return client

    # --- connect, hold, connect again, disconnect ---

    async def drive(self) -> None:
        """Hold the connection until the node has ended. When cancelled, leave without DISCONNECT."""
        patience_s = self._transport.connect_timeout_s
        pause = FIRST_PAUSE_S
        away_since: float | None = None  # when a connection that lasted was lost
        try:
            while not self._may_disconnect():
                await self._connect(patience_s)
                connected_at = self._loop.time()
                while self._socket is not None:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._closed.wait(), min(KEEPALIVE_S / 4, self._transport.reconnect_s))
                    self._client.loop_misc()
                    self._pump()
                    self._require_acknowledgement()
                patience_s = self._transport.reconnect_s
                if self._may_disconnect():
                    break
                if self._anew and not self._unacknowledged:
                    await self._begin_anew()
                    continue
                now = self._loop.time()
                cause = f"it closed the connection after {now - connected_at:.1f} s{self._name_last()}"
                _LOG.warning("connection lost", extra={"data": {"server": self._server_name(), "cause": cause}})
                self._traffic.failure = cause
                # A broker that accepts a connection and ends it at once is tried again with a pause, and not for ever.
                short_lived = now - connected_at < PATIENT_PAUSE_S
                pause = min(2 * pause, PATIENT_PAUSE_S) if short_lived else FIRST_PAUSE_S
                if away_since is None or not short_lived:
                    away_since = now
                elif now - away_since > patience_s:
                    raise BrokerRefusalError(self._transport.url, patience_s, cause)
                if short_lived:
                    await asyncio.sleep(pause * self._jitter.uniform(0.25, 0.5))
            await self._drain_until_closed()
        finally:
            self._stop_node()
            if self._closing_socket is not None:
                self._closing_socket.close()

    async def _begin_anew(self) -> None:
        """Forget the connection that was closed; the next has the certificate that the node has now."""
        await self._drain_until_closed()
        if self._closing_socket is not None:
            self._closing_socket.close()
        self._closing_socket, self._disconnecting, self._anew = None, False, False
        self._transport.read_certificates()
        self._client = self._make_client()

    def wake(self) -> None:
        """Have the node tick now."""
        self._step(self._node.tick)
        self._pump()

    def _require_acknowledgement(self) -> None:
        """Raise `BrokerRefusalError` when what a node sent before it ended stays unacknowledged."""
        patience_s = self._transport.reconnect_s
        if self._node_ended and self._unacknowledged and self._loop.time() - self._idle_since > patience_s:
            topics = sorted(set(self._unacknowledged.values()))
            cause = f"it has not acknowledged {topics[0]} for {patience_s:.0f} s; its access rules may deny it"
            raise BrokerRefusalError(self._transport.url, patience_s, cause)

    def _name_last(self) -> str:
        if self._last is None:
            return ""
        return f"; last published: {self._last.topic}, {'to be' if self._last.retain else 'not'} retained"

    async def _connect(self, patience_s: float) -> None:
        """Connect to the first server that accepts, and start the node.

        Raises `BrokerUnreachableError` when none does within `patience_s`.
        """
        began = self._loop.time()
        give_up_at = began + patience_s
        pause = FIRST_PAUSE_S
        servers = self._transport.address.servers
        attempts, causes = 0, dict[str, Diagnosis]()
        while not self._may_disconnect():
            try:
                await self._try_to_connect(min(ATTEMPT_S, max(give_up_at - self._loop.time(), FIRST_PAUSE_S)))
            except OSError as error:
                self._abort()
                attempts += 1
                if (found := causes.get(str(error))) is None:  # each once in an outage, which may last for days
                    found = causes[str(error)] = await self._diagnose(error)
                    cause = {"server": self._server_name(), "cause": found.cause}
                    _LOG.warning("no connection", extra={"data": cause})
                self._traffic.failure, self._traffic.refused = found
                self._server = (self._server + 1) % len(servers)
                wait = pause * self._jitter.uniform(0.5, 1.0)
                if attempts % len(servers):
                    wait = 0.0  # try the next server of the cluster at once
                elif self._loop.time() + wait >= give_up_at:
                    raise BrokerUnreachableError(self._transport.url, patience_s, found.cause) from error
                else:
                    longest = max(PATIENT_PAUSE_S, PATIENT_SHARE * (self._loop.time() - began))
                    pause = min(2 * pause, LONGEST_PAUSE_S, longest)
            else:
                data = {"server": self._server_name(), "seconds": round(self._loop.time() - began, 1)}
                _LOG.info("connected", extra={"data": {**data, "attempts": attempts + 1}})
                return
            await asyncio.sleep(wait)

    async def _diagnose(self, error: OSError) -> Diagnosis:
        """Explain why the connection could not be made. Of a broker that did once answer only certificates may do."""
        transport = self._transport
        if isinstance(error, _RefusedError):
            return Diagnosis(str(error), refused=True)
        # The broker says what it has against a certificate after the handshake: to paho it closes the connection.
        closed = transport.tls is not None and isinstance(error, ConnectionResetError)
        of_certificates = isinstance(error, ssl.SSLError) or closed
        if self._traffic.connections and not of_certificates:
            return Diagnosis(str(error))
        server = transport.address.servers[self._server]
        return await asyncio.to_thread(
            diagnose, transport.address, server, error, transport.tls, transport.certificates
        )

    async def _try_to_connect(self, seconds: float) -> None:
        """Connect and subscribe once, and start the node. Raises `OSError` on failure, `TimeoutError` among others."""
        self._refusal = self._loop.create_future()
        self._closed.clear()
        self._inbox.clear()
        # In a thread, because it waits for the name service and for TCP.
        host, port = self._transport.address.servers[self._server]
        await asyncio.to_thread(self._client.connect, host, port, KEEPALIVE_S)
        self._socket = cast("socket.socket | None", self._client.socket())
        if self._socket is None:
            raise ConnectionResetError("the broker closed the connection as soon as it was made")
        # Else the kernel may keep a small message back until an earlier one is acknowledged: 40 ms and more.
        self._get_socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add_reader(self._socket, self._on_readable)
        self._pump()
        answered, _ = await asyncio.wait([self._refusal], timeout=seconds)
        if not answered:
            raise TimeoutError(f"no answer to CONNECT and SUBSCRIBE within {seconds:.1f} s")
        if self._refusal.result() == _CLOSED:
            raise ConnectionResetError(_CLOSED)
        if self._refusal.result():
            raise _RefusedError(self._refusal.result())
        self._start_node()

    def _start_node(self) -> None:
        """Send what waited for the connection and have the node start."""
        if self._socket is None:
            return  # lost again already
        self._ready = True
        self._idle_since = self._loop.time()
        self._traffic.connections += 1
        self._traffic.connected = True
        self._traffic.failure, self._traffic.refused = None, False
        waiting, self._outbox = self._outbox, []
        for publish in waiting:
            self._publish(publish)
        self._step(self._node.start)
        self._pump()

    def _abort(self) -> None:
        """Close the connection without DISCONNECT, so that the broker publishes the last will."""
        if self._socket is not None:
            with suppress(OSError):  # the broker has closed it first
                self._get_socket().shutdown(socket.SHUT_RDWR)
        while self._socket is not None:
            self._client.loop_read()  # what had arrived, then the end of the stream, at which paho closes

    async def _drain_until_closed(self) -> None:
        """After DISCONNECT, read until the broker closes its side.

        When a socket is closed while messages still come in, the kernel resets the connection. A broker may then drop
        what it has not read yet: the last messages, even the DISCONNECT.
        """
        if self._closing_socket is not None:
            with suppress(OSError):  # TimeoutError among others
                async with asyncio.timeout(DISCONNECT_S):
                    while await self._loop.sock_recv(self._closing_socket, 65536):
                        pass

    def _may_disconnect(self) -> bool:
        """Tell whether the node has ended and nothing is left to send."""
        return self._node_ended and not self._unacknowledged and not self._outbox

    def _get_socket(self) -> socket.socket:
        """Give the socket itself, also where paho has a WebSocket around it."""
        return cast("socket.socket", getattr(self._socket, "_socket", self._socket))

    def _server_name(self) -> str:
        """Give the server in use, for a log."""
        host, port = self._transport.address.servers[self._server]
        return f"{host}:{port}"

    def _on_readable(self) -> None:
        self._client.loop_read()
        while self._socket is not None and self._transport.tls is not None and self._count_decrypted():
            self._client.loop_read()  # TLS decrypts record by record: the rest of one does not show on the socket
        self._pump()

    def _count_decrypted(self) -> int:
        return cast("ssl.SSLSocket", self._socket).pending()

    # --- callbacks of paho, from within `loop_read`, `loop_write` and `loop_misc` ---

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._end_attempt(explain_refusal(str(reason)))
        elif self._node.subscriptions:
            self._subscribe()
        else:
            self._end_attempt("")

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        results = zip(self._node.subscriptions, reasons, strict=True)
        refused = [topic_filter for topic_filter, reason in results if reason.is_failure]
        self._end_attempt(f"the broker refused the subscriptions {refused}" if refused else "")

    def _end_attempt(self, refusal: str) -> None:
        if not self._refusal.done():
            self._refusal.set_result(refusal)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self._inbox.append(message)

    def _on_publish(self, _client: Any, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        self._unacknowledged.pop(mid, None)

    def _on_socket_close(self, _client: Any, _data: Any, closed: Any) -> None:
        if self._socket is None or closed is not self._socket:
            return  # closed in the thread that connects, before the loop watched it
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        if self._disconnecting:
            self._closing_socket = socket.socket(fileno=os.dup(self._socket.fileno()))  # stays open when paho closes
            with suppress(OSError):  # the broker has closed it first
                self._closing_socket.shutdown(socket.SHUT_WR)
        self._socket = None
        self._watched_for_writing = False
        self._ready = False
        self._traffic.connected = False
        self._closed.set()
        self._end_attempt(_CLOSED)

    # --- the node ---

    def _pump(self) -> None:
        """After every event, deliver what arrived, disconnect if the node is done, and write what the socket takes."""
        while self._ready and self._inbox:
            message = self._inbox.popleft()
            topic, payload = message.topic.removeprefix(self._prefix), bytes(message.payload)
            if not self._node_ended:
                self._traffic.received += 1
                self._traffic.received_bytes += len(payload)
                self._step(partial(receiver(self._node, retained=message.retain), topic, payload))
        if self._ready and (self._may_disconnect() or (self._anew and not self._unacknowledged)):
            self._ready, self._disconnecting = False, True
            self._client.disconnect()  # queued behind all that was published; paho closes once it is written
        if self._client.want_write():
            self._client.loop_write()
        if self._socket is not None and self._client.want_write() != self._watched_for_writing:
            self._watched_for_writing = not self._watched_for_writing
            if self._watched_for_writing:
                self._loop.add_writer(self._socket, self._pump)
            else:
                self._loop.remove_writer(self._socket)

    def _step(self, call: Callable[[float], Sequence[Action]], not_before: float = 0.0) -> None:
        """Call into the node and perform its actions. An exception ends this node and no other."""
        if self._node_ended:
            return
        try:
            for action in call(max(self._loop.time(), not_before)):
                match action:
                    case Publish():
                        self._publish(action)
                    case Compute():
                        self._compute(action)
                    case FetchRetained():
                        self._fetch_retained()
                    case Reconnect():
                        self._anew = True
                    case Finish():
                        self._node_ended = True
                        self._idle_since = self._loop.time()
                        break
            self._set_timer()
        except Exception as error:
            self._result.crashed[self._node.name] = error
            self._stop_node()

    def _stop_node(self) -> None:
        """End the node without `Finish`: what it has still to send is dropped."""
        self._node_ended = True
        self._outbox.clear()
        self._unacknowledged.clear()
        self._set_timer()
        self._abort()

    def _publish(self, publish: Publish) -> None:
        if not self._ready:
            if publish.qos > 0:
                self._outbox.append(publish)
            return
        sent = self._client.publish(self._prefix + publish.topic, publish.payload, publish.qos, publish.retain)
        if sent.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            raise OverflowError("65535 messages await the broker's acknowledgement: publish some at QoS 0")
        if publish.qos > 0:
            self._unacknowledged[sent.mid] = publish.topic
        self._last = publish
        self._traffic.sent += 1
        self._traffic.sent_bytes += len(publish.payload)

    def _fetch_retained(self) -> None:
        """Subscribe again, upon which the broker sends what it has retained."""
        if self._ready and self._node.subscriptions:
            self._subscribe()

    def _subscribe(self) -> None:
        self._client.subscribe([(self._prefix + topic_filter, 0) for topic_filter in self._node.subscriptions])

    def _compute(self, compute: Compute) -> None:
        def done(result: Any, failure: BaseException | None) -> None:
            def then(now: float) -> Sequence[Action]:
                if failure is not None:
                    raise failure
                return compute.then(result, now)

            self._step(then)
            self._pump()

        self._worker.submit(compute.job, done)

    def _set_timer(self) -> None:
        """Set the timer to the node's next deadline, or clear it when the node has ended."""
        deadline = None if self._node_ended else self._node.next_deadline()
        if deadline == self._deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._deadline = deadline
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._on_timer, deadline)

    def _on_timer(self, deadline: float) -> None:
        self._deadline = None
        self._step(self._node.tick, not_before=deadline)
        self._pump()
