"""Clear what is retained on topics where nobody may write any more: what a revoked node has left behind.

It would stay in the broker's memory, and when the name is added again, be taken for what its successor says. The broker
does it with its own certificate, which may read and write everything.
"""

from __future__ import annotations

import ssl
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from broker.access import Rules

CLEAR_S = 10.0
"""The time that clearing may take."""
_EVERYTHING, _LAST = "stackelgrid/#", "stackelgrid/broker"


def clear_retained(host: str, port: int, context: ssl.SSLContext, rules: Rules) -> list[str]:
    """Clear what is retained on topics where `rules` let no node write; returns the topics.

    Raises `OSError` when the broker does not answer in time.
    """
    cleared: list[str] = []
    open_receipts: set[int] = set()
    done = False

    def subscribe(client: paho.Client, *_: object) -> None:
        client.subscribe(_EVERYTHING)

    def send_last(client: paho.Client, *_: object) -> None:
        client.publish(_LAST)  # comes back when all that is retained has come

    def clear(client: paho.Client, _: object, message: paho.MQTTMessage) -> None:
        nonlocal done
        if message.topic == _LAST:
            done = True
        elif message.retain and not _may_be_written(rules, message.topic):
            cleared.append(message.topic)
            open_receipts.add(client.publish(message.topic, qos=1, retain=True).mid)

    client = paho.Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
    client.on_connect, client.on_subscribe, client.on_message = subscribe, send_last, clear
    client.on_publish = lambda _client, _data, mid, *_: open_receipts.discard(mid)
    context.check_hostname = False  # of this authority's certificates only the broker's is one to connect to
    client.tls_set_context(context)
    client.connect(host, port)
    give_up = time.monotonic() + CLEAR_S
    while not done or open_receipts:
        if client.loop(0.1) != MQTTErrorCode.MQTT_ERR_SUCCESS or time.monotonic() > give_up:
            raise TimeoutError(f"the broker does not answer within {CLEAR_S:.0f} s")
    client.disconnect()
    return cleared


def _may_be_written(rules: Rules, topic: str) -> bool:
    """Tell whether a coordinator or a member that the topic names may write there."""
    return any(rules.may_write(name, topic) for name in topic.split("/")[2:4])
