"""The messages of a dishonest member: its own answer or receipt, changed to deceive or to delay who believes it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from stackelgrid.faults.plan import Lie
from stackelgrid.transport.base import Publish
from stackelgrid.wire.arrays import LARGEST, Array

_OTHERS = {"receipt": "receipt", "masks": "masks", "shares": "shares", "lists": "list"}
"""What lies are about that are not about answers."""
PURPOSES = ("answer", *_OTHERS.values())
"""The messages that lies are about."""
_FIXED_POINT, _ROOM = 2.0**32, 2.0**30
"""The factor by which numbers are written under masks, and the size for which there is room."""

Timed = tuple[float, Publish]
"""A message, and in how many seconds it is sent."""


def is_about(lie: Lie, purpose: str) -> bool:
    """Tell whether a lie changes messages of that purpose."""
    return purpose == _OTHERS.get(lie.how, "answer")


def falsify(lie: Lie, publish: Publish, previous: bytes | None, asked: int) -> list[Timed]:
    """Give the messages that a liar publishes instead of an answer or a receipt.

    `previous` is its true answer before this one, `asked` how often it was asked for this one before.
    """
    message = json.loads(publish.payload)
    match lie.how:
        case "stale":
            return [(0.0, publish if previous is None else replace(publish, payload=previous))]
        case "impersonate":
            *above, _, purpose = publish.topic.split("/")
            topic = "/".join([*above, lie.as_ or "", purpose])
            return [
                (0.0, publish),
                (0.0, replace(publish, topic=topic, payload=_encode({**message, "sender": lie.as_}))),
            ]
        case "late":
            return [] if asked < lie.times else [(0.0, publish)]
        case "flapping":
            return [] if asked else list(_come_and_go(lie, publish.topic, message))
        case "receipt":
            invented = [f"ghost-{number + 1}" for number in range(lie.times)]
            content = {**message, "missing": [*invented, *([lie.as_] if lie.as_ else [])]}
        case "masks":
            sums = [{**each, "words": _add(each["words"], 1)} for each in message["sums"]]
            content = {**message, "sums": sums}
        case "shares":
            nothing = base64.b64encode(bytes(64)).decode()
            content = {**message, "shares": dict.fromkeys(message["shares"], nothing)}
        case "lists":
            *_, member, _ = publish.topic.split("/")
            another = hashlib.sha256(member.encode()).hexdigest()[:32]
            content = {**message, "nonces": {**message["nonces"], min(message["nonces"]): another}}
        case how if "words" in message["body"]:
            content = {**message, "body": _change_masked(lie, message["body"])}
        case how:
            content = {**message, "body": _BODY_CHANGES[how](lie, message["body"])}
    return [(0.0, replace(publish, payload=_encode(content)))]


def _come_and_go(lie: Lie, topic: str, answer: dict[str, Any]) -> Iterator[Timed]:
    """Give the presence of a member that leaves and comes, in place of its answer on `topic`."""
    header = {key: value for key, value in answer.items() if key not in ("round", "body")}
    for turn in range(lie.times):
        state = _encode({**header, "state": ("offline", "online")[turn % 2]})
        yield turn * lie.seconds, Publish(topic.removesuffix("answer") + "presence", state, qos=1, retain=True)


def _encode(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


# --- the body of an answer ---

BodyChange = Callable[[Lie, Any], Any]


def _in_numbers(change: Callable[[Lie, list[float]], list[float]]) -> BodyChange:
    """Make a change of every list of numbers in a body, plain or packed."""

    def change_body(lie: Lie, body: Any) -> Any:
        if isinstance(body, dict) and body.keys() == {"shape", "float64"}:
            return {**body, "float64": _pack(np.array(change(lie, _unpack(body).tolist())))["float64"]}
        if isinstance(body, dict):
            return {key: change_body(lie, value) for key, value in body.items()}
        if isinstance(body, list) and body and all(isinstance(each, float | int) for each in body):
            return change(lie, body)
        return body

    return change_body


_scale = _in_numbers(lambda lie, numbers: [lie.factor * number for number in numbers])
_level = _in_numbers(lambda lie, numbers: [lie.factor for _ in numbers])


def _draw(lie: Lie, body: dict[str, Any]) -> dict[str, Any]:
    """Give a body that has a load one of `factor` in each slot."""
    return {**body, **_level(lie, {key: value for key, value in body.items() if key in ("load_kw", "other_loads_kw")})}


def _steepen(lie: Lie, body: dict[str, Any]) -> dict[str, Any]:
    return {**body, **_scale(lie, {key: value for key, value in body.items() if key.endswith(("slope", "slopes"))})}


def _couple(lie: Lie, body: dict[str, Any]) -> dict[str, Any]:
    """Give a body that has slopes a coupling of `factor` in each slot and of nothing between slots."""
    if "slope" not in body:
        return body
    coupling = _pack(lie.factor * np.eye(len(body["slope"])))
    others = [coupling] * body["other_slopes"]["shape"][0] if "other_slopes" in body else None
    return {**body, "coupling": coupling, **({"other_couplings": others} if others else {})}


def _exclude_home(lie: Lie, body: dict[str, Any]) -> dict[str, Any]:
    """Count one home of a body as excluded, and leave out its row of the load."""
    counted = {**body, "homes": max(body.get("homes", 1) - 1, 1), "excluded": body.get("excluded", 0) + 1}
    load = body.get("load_kw")
    if isinstance(load, dict) and load["shape"][0] > 1:
        rows, slots = load["shape"]
        for key in ("load_kw", "other_loads_kw"):
            if key in body:  # one price after the other, a row per home each
                fewer = _unpack(body[key]).reshape(-1, rows, slots)[:, :-1]
                counted[key] = _pack(fewer.reshape(-1, slots))
    return counted


def _change_masked(lie: Lie, body: dict[str, Any]) -> dict[str, Any]:
    """Change an answer with its mask on, whose numbers the liar no longer sees."""
    match lie.how:
        case "shape":
            return {**body, "words": base64.b64encode(base64.b64decode(body["words"])[:-8]).decode()}
        case "count":
            return {**body, "homes": body["homes"] + 1}
        case "beyond":
            more = 1e6
        case "nan" | "extreme":
            more = _ROOM
        case _:
            more = lie.factor
    return {**body, "words": _add(body["words"], round(float(np.clip(more, -_ROOM, _ROOM)) * _FIXED_POINT))}


def _add(words: str, number: int) -> str:
    """Add to each word, modulo 2**64."""
    changed = np.frombuffer(base64.b64decode(words), "<u8") + np.uint64(number % 2**64)
    return base64.b64encode(changed.astype("<u8").tobytes()).decode()


def _pack(array: Array) -> dict[str, Any]:
    return {"shape": list(array.shape), "float64": base64.b64encode(array.astype("<f8").tobytes()).decode()}


def _unpack(packed: dict[str, Any]) -> Array:
    return np.frombuffer(base64.b64decode(packed["float64"]), "<f8")


_BODY_CHANGES: dict[str, BodyChange] = {
    "shape": _in_numbers(lambda lie, numbers: numbers[:-1]),
    "nan": _in_numbers(lambda lie, numbers: [float("nan"), *numbers[1:]]),
    "beyond": _in_numbers(lambda lie, numbers: [1e6 * number for number in numbers]),
    "extreme": _in_numbers(lambda lie, numbers: [LARGEST if number >= 0 else -LARGEST for number in numbers]),
    "scaled": _scale,
    "load": _draw,
    "slope": _steepen,
    "coupling": _couple,
    "count": _exclude_home,
}
