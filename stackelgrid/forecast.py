"""Forecasts: what is expected, at the beginning of a session, of numbers that are known only once they have come.

The lists per slot of a run hold the actual. A forecast is made of them for the slots of a session, by a rule; it knows
nothing of the actual from the beginning of the session on, unless the rule is `perfect` or `noisy`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, timedelta
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from stackelgrid.calendar import Session
from stackelgrid.model import LARGEST, StrictModel

_DAYS = {"persistence": 1, "same_weekday": 7}


class Noise(StrictModel):
    """Errors of a forecast, independent from slot to slot and from session to session, drawn with `seed`.

    `sigma` is the standard deviation of the ratio of forecast to actual, whose mean is 1; of a temperature it is that
    of their difference, K, whose mean is 0. Without a seed, each quantity of each node has one from the scenario's.
    """

    sigma: Annotated[float, Field(ge=0, le=100)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class Noisy(StrictModel):
    """The actual with errors."""

    noisy: Noise


def _check_form(rule: Any) -> Any:
    noise = rule.get("noisy") if isinstance(rule, dict) and len(rule) == 1 else None
    if rule not in ("perfect", *_DAYS) and not isinstance(rule, list | Noisy) and not isinstance(noise, dict | Noise):
        raise ValueError(
            "write perfect, persistence, same_weekday, {noisy: {sigma: 0.1}} or a number per slot of the run"
        )
    return rule


def _tell_form(rule: Any) -> str:
    # Steps that begin so are left out of the keys that messages name.
    return "function-list" if isinstance(rule, list) else "function-name" if isinstance(rule, str) else "function-noisy"


_Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Forecast = Annotated[
    Annotated[Literal["perfect", "persistence", "same_weekday"], Tag("function-name")]
    | Annotated[Noisy, Tag("function-noisy")]
    | Annotated[list[_Number], Tag("function-list")],
    Discriminator(_tell_form),
    BeforeValidator(_check_form),
]
"""A rule by which forecasts are made, or the forecast itself: a number for every slot of the run."""


class ForecastRules(StrictModel):
    """Base of the rules by which forecasts are made, one for each quantity that is foreseen.

    A game has a class of its own with its quantities as keys. A list has a number per slot of the run.
    """

    without: ClassVar[Mapping[str, str]] = {}
    """The keys of other games, each with why there is nothing to foresee in this one."""

    @property
    def perfect(self) -> bool:
        """True when all that comes is known."""
        return all(rule == "perfect" for _, rule in self)

    @property
    def of_homes(self) -> ForecastRules | None:
        """The rules for homes, in the key `forecast` of a scenario; None where homes foresee nothing."""
        return self

    def seed(self, seed: int, name: str) -> Self:
        """Give the same with a seed of its own for each that is noisy and has none; `name` is that of the home."""
        rules = {key: seed_noise(rule, seed, f"{name}/{key}") for key, rule in self}
        return self.model_copy(update=rules)

    def check_slots(self, slots: int) -> None:
        """Raise `ValueError` for a list of another length than a run of so many slots."""
        for key, rule in self:
            if isinstance(rule, list) and len(rule) != slots:
                raise ValueError(f"forecast.{key} has {len(rule)} numbers, the run has {slots} slots; give one each")

    @model_validator(mode="before")
    @classmethod
    def _refuse_others(cls, rules: Any) -> Any:
        for key, why in cls.without.items():
            if isinstance(rules, dict) and key in rules:
                raise ValueError(f"{key}: {why}; leave it out")
        return rules

    @model_validator(mode="after")
    def _check_signs(self) -> Self:
        for key, rule in self:
            if key in _AT_LEAST_0 and isinstance(rule, list) and min(rule, default=0.0) < 0:
                raise ValueError(f"{key} is {min(rule):g} in slot {rule.index(min(rule)) + 1}, below 0; correct it")
        return self


_AT_LEAST_0 = ("load", "pv")


class HomeForecast(ForecastRules):
    """The rules by which a home foresees its inelastic `load`, its `pv` and the `temperature` outside.

    A list has kW of all inelastic load, kW of all PV, degrees Celsius.
    """

    load: Forecast = "perfect"
    pv: Forecast = "perfect"
    temperature: Forecast = "perfect"


class Forecasts(HomeForecast):
    """The key `forecast` of a scenario: rules for what homes foresee, and for the wholesale `price`."""

    price: Forecast = "perfect"

    @property
    def of_homes(self) -> HomeForecast:
        """The rules for homes."""
        return HomeForecast(load=self.load, pv=self.pv, temperature=self.temperature)


def seed_noise(rule: Forecast, seed: int, name: str) -> Forecast:
    """Give a noisy rule without a seed one of the scenario's `seed` and a `name`, whatever else there is in the run."""
    if not isinstance(rule, Noisy) or rule.noisy.seed is not None:
        return rule
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    own = int.from_bytes(digest[:8], "big") >> 1
    return Noisy(noisy=rule.noisy.model_copy(update={"seed": own}))


def foresee(
    rule: Forecast, actual: float | list[float], session: Session, *, around_zero: bool = False
) -> float | list[float]:
    """Give an `actual` number, or a list of one per slot of the run, with the slots of a session as foreseen.

    Where a rule looks back and the run has no such past, the forecast is what comes. Errors `around_zero` are added to
    the actual, all others are factors.
    """
    if rule == "perfect":
        return actual
    window = session.window
    if not isinstance(actual, list):
        actual = [actual] * window.stop
    comes = actual[window]
    if isinstance(rule, Noisy):
        foreseen = _draw_errors(rule.noisy, np.array(comes, float), session.first, around_zero).tolist()
    elif isinstance(rule, list):
        foreseen = rule[window]
    else:
        past = _find_past(session, _DAYS[rule])
        foreseen = [actual[slot] if slot >= 0 else now for slot, now in zip(past, comes, strict=True)]
    return [*actual[: window.start], *foreseen, *actual[window.stop :]]


def _draw_errors(noise: Noise, actual: NDArray[np.float64], first: int, around_zero: bool) -> NDArray[np.float64]:
    """Draw a forecast around the `actual` slots of a session that begins in slot `first` of the run.

    A factor is lognormal, so that a load stays a load: exp(s z - s^2 / 2) with s^2 = ln(1 + sigma^2) has mean 1 and
    standard deviation sigma.
    """
    errors = np.random.default_rng([noise.seed or 0, first]).standard_normal(len(actual))
    if around_zero:
        return actual + noise.sigma * errors
    spread = np.sqrt(np.log1p(noise.sigma**2))
    return np.asarray(actual * np.exp(spread * errors - spread**2 / 2))


@lru_cache(maxsize=64)
def _find_past(session: Session, days: int) -> tuple[int, ...]:
    """Find for each slot the last one of the run with its clock time so many days, or a multiple, before.

    Only slots before the session are past. The number is that in the run, from 0; below 0 it has none. A clock time
    that the earlier day skips is an hour later there, one that it has twice is the first.
    """
    if session.times is None or session.start is None:
        return (-1,) * session.slots
    begin, past = session.start.astimezone(UTC), []
    for time in session.times:
        step = timedelta(days=days)
        local = time - step  # arithmetic of aware times is by the clock of the place
        while local.astimezone(UTC) >= begin:
            local -= step
        hours = (local.astimezone(UTC) - begin) / timedelta(hours=1)
        past.append(session.first + round(hours / session.slot_hours))
    return tuple(past)
