"""What a dishonest member says: its answer, so changed that a coordinator that believes it is deceived."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from stackelgrid.faults.plan import Lie
from stackelgrid.transport.base import Publish


def told(lie: Lie, publish: Publish, before: bytes | None) -> list[Publish]:
    """What a liar publishes instead of an answer; `before` is what it would have answered the last time."""
    message = json.loads(publish.payload)

    def instead(content: Any) -> list[Publish]:
        return [Publish(publish.topic, _written(content), publish.qos, publish.retain)]

    match lie.how:
        case "shape":
            return instead({**message, "body": _changed(message["body"], lambda numbers: numbers[:-1])})
        case "nan":
            return instead({**message, "body": _changed(message["body"], lambda numbers: [float("nan"), *numbers[1:]])})
        case "beyond":
            return instead({**message, "body": _changed(message["body"], partial(_times, 1e6))})
        case "scaled":
            return instead({**message, "body": _changed(message["body"], partial(_times, lie.factor))})
        case "stale":
            return [publish] if before is None else [Publish(publish.topic, before, publish.qos, publish.retain)]
        case "impersonate":
            *above, _, purpose = publish.topic.split("/")
            topic = "/".join([*above, lie.as_ or "", purpose])
            forged = _written({**message, "sender": lie.as_})
            return [publish, Publish(topic, forged, publish.qos, publish.retain)]


def _written(content: Any) -> bytes:
    """As compact as messages are, so that the round of a lie is found as that of a message is."""
    return json.dumps(content, separators=(",", ":")).encode()


def _times(factor: float, numbers: list[float]) -> list[float]:
    return [factor * number for number in numbers]


def _changed(body: Any, change: Callable[[list[float]], list[float]]) -> Any:
    """A body with every list of numbers, plain or packed, changed."""
    if isinstance(body, dict) and body.keys() == {"shape", "float64"}:
        numbers = np.frombuffer(base64.b64decode(body["float64"]), "<f8").tolist()
        packed = np.array(change(numbers), "<f8")
        return {**body, "float64": base64.b64encode(packed.tobytes()).decode()}
    if isinstance(body, dict):
        return {key: _changed(value, change) for key, value in body.items()}
    if isinstance(body, list) and body and all(isinstance(each, float | int) for each in body):
        return change(body)
    return body
