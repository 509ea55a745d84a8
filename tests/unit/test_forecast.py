"""Rules of forecasts: what they are made of, and what they do not know."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from stackelgrid.calendar import Calendar, Session
from stackelgrid.forecast import Forecast, Forecasts, HomeForecast, Noise, Noisy, foresee, seed_noise

SPRING, AUTUMN = "2026-03-25T00:00", "2026-10-20T00:00"
"""Both begin some days before clocks change in Brussels."""


def make_calendar(start: str = "2026-06-01T00:00", **keys: object) -> Calendar:
    return Calendar.model_validate({"start": start, "timezone": "Europe/Brussels", "days": 10, **keys})


def by_clock(calendar: Calendar, *, weekly: bool = False) -> list[float]:
    """A number per slot that its clock time alone says, or clock time and weekday."""
    return [math.sin(time.hour + time.minute / 60) + (time.isoweekday() if weekly else 0) for time in calendar.times]


def noisy(sigma: float, seed: int = 1) -> Noisy:
    return Noisy(noisy=Noise(sigma=sigma, seed=seed))


@pytest.mark.parametrize("start", ["2026-06-01T00:00", AUTUMN])
@pytest.mark.parametrize("keys", [{}, {"every": "6h"}, {"slot_minutes": 15, "horizon": "48h", "every": "5h"}])
def test_persistence_of_what_repeats_every_day_is_perfect(start: str, keys: dict[str, object]) -> None:
    calendar = make_calendar(start, **keys)
    actual = by_clock(calendar)
    for session in calendar.sessions:
        assert foresee("persistence", actual, session) == actual


@pytest.mark.parametrize("start", ["2026-06-01T00:00", AUTUMN])
def test_same_weekday_of_what_repeats_every_week_is_perfect(start: str) -> None:
    calendar = make_calendar(start, every="12h", days=21)
    actual = by_clock(calendar, weekly=True)
    for session in calendar.sessions:
        assert foresee("same_weekday", actual, session) == actual


@pytest.mark.parametrize(("rule", "days"), [("persistence", 1), ("same_weekday", 7)])
@pytest.mark.parametrize("start", [SPRING, AUTUMN])
def test_slot_is_foreseen_as_the_last_past_one_of_its_clock_time(rule: Forecast, days: int, start: str) -> None:
    """Seen from the clock on the wall: the number of a slot is its own, so that a forecast says whence it is."""
    calendar = make_calendar(start, slot_minutes=30, horizon="48h", every="24h")
    times = calendar.times
    actual = [float(slot) for slot in range(len(times))]
    for session in calendar.sessions:
        foreseen = foresee(rule, actual, session)
        assert isinstance(foreseen, list)
        for slot in range(*session.window.indices(len(times))):
            whence = int(foreseen[slot])
            assert whence == slot or whence < session.first
            if whence == slot:
                continue
            apart = (times[slot].date() - times[whence].date()) / timedelta(days=1)
            assert apart % days == 0 and apart > 0
            assert apart - days < 0 or whence + days * 48 + 2 >= session.first  # the last that is past
            skipped = times[whence].utcoffset() != times[whence - 4].utcoffset() if whence >= 4 else False
            assert times[slot].time() == times[whence].time() or skipped


def test_clock_time_that_yesterday_skipped_is_foreseen_an_hour_later() -> None:
    calendar = make_calendar(SPRING)
    times = [time.strftime("%d %H:%M") for time in calendar.times]
    (monday,) = (each for each in calendar.sessions if each.start and each.start.day == 30)
    foreseen = foresee("persistence", [float(slot) for slot in range(len(times))], monday)
    assert isinstance(foreseen, list)
    assert [times[int(foreseen[times.index(f"30 0{hour}:00")])] for hour in (1, 2, 3)] == [
        "29 01:00",
        "29 03:00",
        "29 03:00",
    ]


def test_hour_that_is_there_twice_is_foreseen_by_the_one_before_it() -> None:
    calendar = make_calendar(AUTUMN)
    (sunday,) = (each for each in calendar.sessions if each.slots == 25)
    foreseen = foresee("persistence", [float(slot) for slot in range(calendar.slots)], sunday)
    assert isinstance(foreseen, list)
    yesterday = [slot - 24 for slot in (*range(3), 2, *range(3, 24))]
    assert [slot - sunday.first for slot in foreseen[sunday.window]] == yesterday


@pytest.mark.parametrize("rule", ["persistence", "same_weekday"])
def test_rule_that_looks_back_knows_nothing_of_what_comes(rule: Forecast) -> None:
    calendar = make_calendar(horizon="48h", every="6h", days=16)
    random = np.random.default_rng(0)
    actual = random.normal(size=calendar.slots)
    for session in calendar.sessions[30::5]:
        other = actual.copy()
        other[session.first :] += random.normal(size=calendar.slots - session.first)
        one, two = (foresee(rule, each.tolist(), session) for each in (actual, other))
        assert isinstance(one, list) and isinstance(two, list)
        assert one[session.window] == two[session.window]


def test_first_day_has_no_yesterday_and_is_foreseen_as_it_comes() -> None:
    calendar = make_calendar(horizon="48h", every="24h")
    first = calendar.sessions[0]
    assert foresee("persistence", list(range(calendar.slots)), first) == list(range(calendar.slots))


@given(st.lists(st.floats(-1e6, 1e6), min_size=24, max_size=24), st.integers(0, 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_forecast_without_noise_is_perfect(actual: list[float], seed: int) -> None:
    session = Session(slots=12, first=6)
    for around_zero in (False, True):
        assert foresee(noisy(0.0, seed), actual, session, around_zero=around_zero) == actual
    assert foresee("perfect", actual, session) is actual


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_noise_has_the_mean_and_deviation_that_it_says(sigma: float) -> None:
    session = Session(slots=1_000_000)
    for around_zero, mean, spread in ((False, 3.0, 3 * sigma), (True, 3.0, sigma)):
        foreseen = np.array(foresee(noisy(sigma), 3.0, session, around_zero=around_zero))
        assert foreseen.mean() == pytest.approx(mean, abs=5 * spread / 1000)
        assert foreseen.std() == pytest.approx(spread, rel=0.02)
    assert np.all(np.array(foresee(noisy(3.0), 3.0, session)) > 0)  # a load stays a load


def test_noise_is_that_of_a_seed_a_session_and_a_name() -> None:
    one, other = Session(slots=50), Session(slots=50, first=50)
    first = np.array(foresee(noisy(0.2), 1.0, one))
    assert foresee(noisy(0.2), 1.0, one) == first.tolist()
    for foreseen in (foresee(noisy(0.2), 1.0, other), foresee(noisy(0.2, 2), 1.0, one)):
        assert abs(np.corrcoef(first, np.array(foreseen)[-50:])[0, 1]) < 0.5
    seeds = {seed_noise(Noisy(noisy=Noise(sigma=0.2)), 1, name).noisy.seed for name in ("h1/load", "h1/pv", "h2/load")}  # type: ignore[union-attr]
    assert len(seeds) == 3 and seeds == {
        seed_noise(Noisy(noisy=Noise(sigma=0.2)), 1, name).noisy.seed  # type: ignore[union-attr]
        for name in ("h2/load", "h1/pv", "h1/load")
    }
    assert seed_noise(noisy(0.2, 7), 1, "h1/load") == noisy(0.2, 7)
    rules = HomeForecast(load=Noisy(noisy=Noise(sigma=1)), pv="persistence").seed(3, "h1")
    assert isinstance(rules.load, Noisy) and rules.load.noisy.seed is not None and rules.pv == "persistence"


def test_list_is_the_forecast_of_its_slots() -> None:
    session = Session(slots=2, first=1)
    assert foresee([9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 3.0, 4.0], session) == [1.0, 8.0, 7.0, 4.0]


@pytest.mark.parametrize("rule", ["tomorrow", 3, True, {"noisy": 0.1}, {"noisy": {"sigma": -1}}, [float("nan")]])
def test_rule_that_is_none_is_refused(rule: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Forecast).validate_python(rule)
    with pytest.raises(ValidationError):
        Forecasts.model_validate({"price": rule})
