"""The answers of a dishonest member: its own answer, changed so that it deceives a coordinator that believes it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from stackelgrid.faults.plan import Lie
from stackelgrid.transport.base import Publish


def falsify(lie: Lie, publish: Publish, previous: bytes | None) -> list[Publish]:
    """Give the messages that a liar publishes instead of an answer; `previous` is its true answer before this one."""
    message = json.loads(publish.payload)

    def change_numbers(change: Callable[[list[float]], list[float]]) -> list[Publish]:
        content = {**message, "body": _change_numbers(message["body"], change)}
        return [Publish(publish.topic, _encode(content), publish.qos, publish.retain)]

    match lie.how:
        case "shape":
            return change_numbers(lambda numbers: numbers[:-1])
        case "nan":
            return change_numbers(lambda numbers: [float("nan"), *numbers[1:]])
        case "beyond":
            return change_numbers(partial(_scale, 1e6))
        case "scaled":
            return change_numbers(partial(_scale, lie.factor))
        case "stale":
            return [publish] if previous is None else [Publish(publish.topic, previous, publish.qos, publish.retain)]
        case "impersonate":
            *above, _, purpose = publish.topic.split("/")
            topic = "/".join([*above, lie.as_ or "", purpose])
            forged = _encode({**message, "sender": lie.as_})
            return [publish, Publish(topic, forged, publish.qos, publish.retain)]


def _encode(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _scale(factor: float, numbers: list[float]) -> list[float]:
    return [factor * number for number in numbers]


def _change_numbers(body: Any, change: Callable[[list[float]], list[float]]) -> Any:
    """Apply `change` to every list of numbers in a body, plain or packed."""
    if isinstance(body, dict) and body.keys() == {"shape", "float64"}:
        numbers = np.frombuffer(base64.b64decode(body["float64"]), "<f8").tolist()
        packed = np.array(change(numbers), "<f8")
        return {**body, "float64": base64.b64encode(packed.tobytes()).decode()}
    if isinstance(body, dict):
        return {key: _change_numbers(value, change) for key, value in body.items()}
    if isinstance(body, list) and body and all(isinstance(each, float | int) for each in body):
        return change(body)
    return body
