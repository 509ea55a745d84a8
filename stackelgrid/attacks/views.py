"""What the adversary of each level sees: every answer that a home gives, or sums of groups under the rules of masks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from stackelgrid.attacks.findings import Level
from stackelgrid.attacks.targets import FORM, Target, make_question
from stackelgrid.games.user_oriented.messages import LoadResponse
from stackelgrid.masks.fixed_point import read_numbers
from stackelgrid.masks.form import Words
from stackelgrid.wire.arrays import Array


class Rule(Enum):
    """A rule of the masks that an attack may find left out."""

    WHOLE = "a sum is of a whole group"
    QUESTION = "all were asked the same"
    ONE_LIST = "one list a round"
    NONCE = "a mask is used once"


RULES = frozenset(Rule)
"""The rules that homes and members of a committee keep."""


def describe(rules: Collection[Rule]) -> str:
    """Describe in words which rules are left out; empty where none is."""
    missing = [rule.value for rule in Rule if rule not in rules]
    return f"without: {'; '.join(missing)}" if missing else ""


@dataclass(frozen=True)
class Heard:
    """The answer to a price (T,), of one home or of many: load (T,) kW, and the slope and coupling of dL/dp if sent."""

    price: Array
    load: Array
    slope: Array | None = None
    coupling: Array | None = None

    @classmethod
    def of(cls, price: Array, body: LoadResponse) -> Heard:
        """Take the answer to the first price of a question."""
        first = body.at_each_price()[0]
        return cls(price, first.loads.sum(axis=0), first.slope, first.coupling)

    def shared_by(self, homes: int) -> Heard:
        """Give the equal share of each of so many homes: what one has who guesses."""
        slope = None if self.slope is None else self.slope / homes
        coupling = None if self.coupling is None else self.coupling / homes
        return Heard(self.price, self.load / homes, slope, coupling)


class SingleAnswers:
    """The view of an aggregator with `sums: off`: each home's answer to any price that it asks.

    With a `price_band` homes answer no price outside it.
    """

    def __init__(
        self, group: Sequence[Target], *, sensitivities: bool, price_band: tuple[float, float] | None = None
    ) -> None:
        self._group, self._sensitivities, self._band = group, sensitivities, price_band

    def ask(self, home: int, price: Array) -> Heard | None:
        """Ask one home a price and read its answer, None where the home refuses the price."""
        if _is_beyond(price, self._band):
            return None
        return Heard.of(price, self._group[home].answer([price], sensitivities=self._sensitivities))


class GroupSums:
    """The view of an aggregator with `sums: committee`: the sum of a group after each round, as the `rules` allow it.

    The aggregator chooses what it asks and which answers get lost. Sums are of numbers in fixed point, read as it reads
    them; no method gives one home's answer.
    """

    def __init__(
        self,
        group: Sequence[Target],
        *,
        sensitivities: bool,
        price_band: tuple[float, float] | None = None,
        rules: Collection[Rule] = RULES,
    ) -> None:
        self._group, self._sensitivities, self._band, self._rules = group, sensitivities, price_band, rules
        self._standing: dict[int, Words] = {}  # the last answer of each home that came
        self._last: Heard | None = None

    @property
    def homes(self) -> int:
        """The number of homes in the group."""
        return len(self._group)

    def ask(
        self,
        price: Array,
        *,
        lost: Collection[int] = (),
        excluded: Collection[int] = (),
        apart: Mapping[int, Array] | None = None,
    ) -> Heard | None:
        """Play a round at a price and give the group's sum after it, None where there is none yet.

        The answers of the homes `lost` do not arrive, those `excluded` are left out of the sum, and homes `apart` are
        asked prices of their own. What a rule forbids gives the last sum once more.
        """
        asked = dict.fromkeys(range(self.homes), price) | dict(apart or {})
        if any(_is_beyond(each, self._band) for each in asked.values()):
            return self._last
        fresh = [number for number in asked if number not in lost and number not in excluded]
        if Rule.WHOLE in self._rules and len(fresh) < self.homes:
            return self._last
        if Rule.QUESTION in self._rules and apart:  # masks of other questions do not come off
            return self._last
        self._standing |= {
            number: self._group[number].write(asked[number], self.homes, sensitivities=self._sensitivities)
            for number in fresh
        }
        standing = [words for number, words in self._standing.items() if number not in excluded]
        total = read_numbers(np.sum(standing, axis=0, dtype=np.uint64))
        shape = FORM.shape(make_question([price], sensitivities=self._sensitivities))
        body = FORM.read(total, shape, len(standing))
        assert isinstance(body, LoadResponse)
        self._last = Heard.of(price, body)
        return self._last


Hear = Callable[[int, Array], Heard | None]
"""Gives what there is of a home's answer to a price: the answer, or the equal share of its group's sum."""


def listen(group: Sequence[Target], level: Level, price_band: tuple[float, float] | None = None) -> Hear:
    """Listen to the homes of a group at a level, as whoever keeps to the protocol and asks what it likes."""
    sensitivities = level.sensitivity == "full"
    if level.sums == "off":
        return SingleAnswers(group, sensitivities=sensitivities, price_band=price_band).ask
    sums: dict[bytes, Heard | None] = {}

    def share(home: int, price: Array) -> Heard | None:
        key = price.tobytes()
        if key not in sums:
            sums[key] = GroupSums(group, sensitivities=sensitivities, price_band=price_band).ask(price)
        heard = sums[key]
        return None if heard is None else heard.shared_by(len(group))

    return share


def _is_beyond(price: Array, band: tuple[float, float] | None) -> bool:
    return band is not None and bool(np.any(price < band[0]) or np.any(price > band[1]))
