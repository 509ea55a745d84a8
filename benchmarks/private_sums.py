"""What private sums cost: a home and a member of the committee in a round, the bytes of an answer, and a round's time.

The floor of a home and of a member is the streams of their masks alone, drawn with the bare cipher and added up; their
times are those of the processor. A round is that of `round`, but the homes solve each price, as they do in a run.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

import broker
from aggregator_node.node import Masks
from benchmarks.figures import Figure
from benchmarks.round_trip import OurRound
from emc_node.node import CreateParty
from stackelgrid.games.user_oriented import GAME
from stackelgrid.games.user_oriented.home import UserOrientedHomes
from stackelgrid.games.user_oriented.masked_form import FORM
from stackelgrid.games.user_oriented.messages import LoadResponse, Price
from stackelgrid.masks.party import Party, PartySettings
from stackelgrid.masks.roster import SUBSETS
from stackelgrid.masks.sums import GroupSums, SumCollector, SumSettings
from stackelgrid.scenarios import load
from stackelgrid.transport.base import Publish
from stackelgrid.wire.codec import Link
from stackelgrid.wire.masks import MaskedAnswer, MaskList, Quorum
from stackelgrid.wire.messages import Answer

TITLE = "private sums: a home, a member of the committee, an answer's bytes, a round"
SLOTS, MINIMUM_GROUP = 24, 20
HOME_MS, MEMBER_MS, BYTES, ROUND = 0.3, 30.0, 1.3, 2.0
REPEATS, ROUNDS, HOMES = 40, 30, 60
QUESTION = Price(price=[10.0 + slot for slot in range(SLOTS)])
SHAPE = FORM.shape(QUESTION)
LINK = Link("masks", "a1", GAME.bodies("lower"), SLOTS, 1, private_sums=True)


def measure() -> list[Figure]:
    """Milliseconds and ratios."""
    figures = []
    for homes in (15, 50, 200):
        masked = _Aggregator(homes)
        home, home_floor = _take_turns(masked.mask, lambda: _draw_streams(len(SUBSETS)))
        member, member_floor = _take_turns(masked.serve, lambda homes=homes: _draw_streams(6 * homes), REPEATS // 4)  # type: ignore[misc]
        figures += [
            Figure(f"a home's mask, of {homes}", 1e3 * home, "ms", HOME_MS),
            Figure("  over its streams alone", home / home_floor, "x"),
            Figure(f"a member's part, {homes} homes", 1e3 * member, "ms", MEMBER_MS if homes == 200 else None),
            Figure("  over its streams alone", member / member_floor, "x"),
        ]
    with tempfile.TemporaryDirectory() as folder, broker.start("mosquitto", Path(folder)) as running:
        plain_s, masked_s = asyncio.run(_play_rounds(running.url))
    return [
        *figures,
        Figure("bytes of a home's answer, masked over plain", _compare_bytes(sensitivities=1), "x", BYTES),
        Figure("  of loads only", _compare_bytes(sensitivities=0), "x"),
        Figure(f"a round of {HOMES} homes, plain", 1e3 * plain_s, "ms"),
        Figure(f"a round of {HOMES} homes, masked, groups of {MINIMUM_GROUP}", 1e3 * masked_s, "ms"),
        Figure("  masked over plain", masked_s / plain_s, "x", ROUND),
    ]


class _Aggregator:
    """A collector and its parties, whose session is set up and whose first round is summed; they share a process."""

    def __init__(self, homes: int) -> None:
        self._answer = LoadResponse(homes=1, load_kw=[1.0] * SLOTS, slope=[-0.1] * SLOTS)
        self._parties = {f"h{number:03}": _make_party(f"h{number:03}", LINK) for number in range(homes)}
        settings = SumSettings(MINIMUM_GROUP if homes >= MINIMUM_GROUP else homes, deadline_s=60.0, tries=1)
        self._collector = SumCollector(LINK, FORM, settings, lambda roster, group, question, body: None)
        self._sent: list[tuple[str, bytes, str]] = []  # to members: topic, payload, member
        for party in self._parties.values():
            self._carry(party.start())
        self._carry(self._collector.set_up(1, dict.fromkeys(self._parties, 1), 0.0))
        answers = {name: party.mask(1, QUESTION, self._answer) for name, party in self._parties.items()}
        self._carry(self._collector.open(1, QUESTION, answers, 0.0))
        assert self._collector.roster is not None
        self._member = self._collector.roster.committee(0)[0]

    def mask(self) -> None:
        """Mask an answer, as a home does in a round."""
        next(iter(self._parties.values())).mask(1, QUESTION, self._answer)

    def serve(self) -> None:
        """Sign the list of the round and give the sums of masks, as a member does, from bytes to bytes."""
        for topic, payload, member in self._sent:
            if member == self._member:
                assert self._parties[member].receive(LINK.read(topic, payload))

    def _carry(self, steps: Sequence[object]) -> None:
        """Pass messages on until there are no more."""
        waiting = list(steps)
        while waiting:
            step = waiting.pop(0)
            assert isinstance(step, Publish) or not isinstance(step, GroupSums) or not step.why
            if not isinstance(step, Publish):
                continue
            message = LINK.read(step.topic, step.payload)
            if message.sender in self._parties:
                waiting += self._collector.receive(message, 0.0)
                continue
            *_, member, purpose = step.topic.split("/")
            for name in self._parties if purpose == "committee" else (member,):
                waiting += self._parties[name].receive(message)
            if isinstance(message, MaskList | Quorum):
                self._sent.append((step.topic, step.payload, member))


def _make_party(name: str, link: Link, object_to: Callable[[str, str], None] = lambda kind, why: None) -> Party:
    settings = PartySettings(homes=1, minimum_group=5)
    return Party(name, link, FORM, settings, secrets.token_bytes(32), lambda: secrets.token_hex(16), object_to)


def _draw_streams(count: int) -> None:
    """Draw and add up so many streams of an answer's numbers, with the cipher alone."""
    zeros, key = bytes(8 * FORM.count(SHAPE)), bytes(32)
    total = np.zeros(FORM.count(SHAPE), np.uint64)
    for _ in range(count):
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(zeros)
        total += np.frombuffer(stream, np.uint64)


def _take_turns(ours: Callable[[], None], floor: Callable[[], None], repeats: int = REPEATS) -> tuple[float, float]:
    """Give the median seconds of the processor of ours and of the floor."""
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for seconds, call in zip(took, (ours, floor), strict=True):
            began = time.process_time()
            call()
            seconds.append(time.process_time() - began)
    return median(took[0]), median(took[1])


def _compare_bytes(sensitivities: int) -> float:
    """Give the mean bytes of an answer of the shipped street's homes, masked over plain."""
    scenario = load("street")
    price = [scenario.leader.baseline_price] * scenario.slots
    question = Price(price=price, sensitivities=sensitivities)
    masked = plain = 0
    for home in scenario.everyone:
        body = UserOrientedHomes([home]).answer(question)
        words = np.frombuffer(secrets.token_bytes(8 * FORM.count(FORM.shape(question))), np.uint64)
        of_answer = 1, 3, "0f" * 32, 0, "0f" * 16, "0f" * 32
        bodies = body, MaskedAnswer.of(*of_answer, FORM.shape(question), words)
        one, other = (len(LINK.write(Answer(run="masks", sender=home.id, round=3, body=each))) for each in bodies)
        plain, masked = plain + one, masked + other
    return masked / plain


# --- a round over MQTT ---


async def _play_rounds(url: str) -> tuple[float, float]:
    """Median seconds of a plain and of a masked round, played in turn."""
    sums = SumSettings(MINIMUM_GROUP, deadline_s=5.0, tries=3)
    rounds = [
        OurRound(url, "plain", HOMES, solve=True),
        OurRound(url, "masks", HOMES, Masks(FORM, sums, LoadResponse), _party_of, solve=True),
    ]
    took: list[list[float]] = [[], []]
    for each in rounds:
        await each.connect()
        await each.round()  # in which masks are set up
    drawn = np.random.default_rng(60)
    for _ in range(ROUNDS):
        price = Price(price=drawn.uniform(4, 20, SLOTS).tolist())
        for seconds, each in zip(took, rounds, strict=True):
            each.price = price
            seconds.append(await each.round())
    for each in rounds:
        await each.close()
    return median(took[0]), median(took[1])


def _party_of(name: str) -> CreateParty:
    return lambda link, object_to, saved: (_make_party(name, link, object_to), {})
