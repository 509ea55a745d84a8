"""Visitors to a real broker: by hand, and with whatever certificate, will and client id."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import paho.mqtt.client as paho

import broker

PATIENCE_S = 60.0
"""How long to wait for what must happen."""


def until(happened: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.01)


class RefusedError(Exception):
    """The broker did not let somebody in."""


def knock(port: int, context: ssl.SSLContext | None, session: ssl.SSLSession | None = None) -> ssl.SSLSession | None:
    """Connect by hand, in the clear or over TLS, there also with an earlier handshake's session; what came of it."""
    try:
        with ExitStack() as stack:
            connection: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
            stack.enter_context(connection)
            if context is not None:
                connection = context.wrap_socket(connection, server_hostname="localhost", session=session)
                stack.enter_context(connection)
            connection.sendall(broker.CONNECT)
            if connection.recv(4) != broker.CONNACK:
                raise RefusedError("no CONNACK")
            connection.sendall(broker.DISCONNECT)
            if isinstance(connection, ssl.SSLSocket):
                assert connection.session_reused == (session is not None)
                return connection.session
            return None
    except OSError as error:
        raise RefusedError(str(error)) from error


class Visitor:
    """One connection of paho's own, with whatever certificate, will and client id."""

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext,
        client_id: str = "",
        user: str | None = None,
        will: str | None = None,
        bridge: bool = False,
    ) -> None:
        self.received: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.gone = threading.Event()
        self._answers: queue.Queue[str] = queue.Queue()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, reconnect_on_failure=False)
        self._client.tls_set_context(context)
        if bridge:
            self._client.enable_bridge_mode()
        if will is not None:
            self._client.will_set(will, b"forged", 1)
        if user is not None:
            self._client.username_pw_set(user, "secret")
        self._client.on_connect = lambda *given: self._answers.put(str(given[3]))
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = lambda *given: self._answers.put("subscribed")
        self._client.on_message = lambda _c, _d, message: self.received.put((message.topic, message.payload))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._answers.get(timeout=PATIENCE_S) == "Success"

    def _on_disconnect(self, *given: Any) -> None:
        self.gone.set()
        self._answers.put(str(given[3]))

    def subscribe(self, *topic_filters: str) -> None:
        """Returns once the broker has answered."""
        self._client.subscribe([(topic_filter, 0) for topic_filter in topic_filters])
        assert self._answers.get(timeout=PATIENCE_S) == "subscribed"

    def publish(self, topic: str, payload: bytes = b"forged", retain: bool = False) -> None:
        """Returns once the broker has acknowledged it, which says nothing of whether it passes it on."""
        self._client.publish(topic, payload, 1, retain).wait_for_publish(PATIENCE_S)

    def flood(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Returns at once, at QoS 0."""
        self._client.publish(topic, payload, retain=retain)

    def heard_until(self, payload: bytes) -> list[tuple[str, bytes]]:
        """What came before a message with `payload`."""
        heard = []
        while (message := self.received.get(timeout=PATIENCE_S))[1] != payload:
            heard.append(message)
        return heard

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
