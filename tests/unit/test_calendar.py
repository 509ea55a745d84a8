"""The calendar of a run: local days, clock changes, sessions and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stackelgrid.calendar import Calendar, Event, Session, cut
from stackelgrid.model import PerSlot, StrictModel


def calendar(**keys: Any) -> Calendar:
    return Calendar.model_validate({"start": "2026-03-28T00:00", "timezone": "Europe/Brussels"} | keys)


@pytest.mark.parametrize(
    ("start", "hours"), [("2026-03-29T00:00", 23), ("2026-10-25T00:00", 25), ("2026-06-01T00:00", 24)]
)
@pytest.mark.parametrize("minutes", [5, 10, 15, 30, 60])
def test_day_of_a_clock_change_has_its_own_number_of_slots(start: str, hours: int, minutes: int) -> None:
    (session,) = calendar(start=start, slot_minutes=minutes).sessions
    assert session.slots * minutes == 60 * hours
    times = session.times
    assert times is not None
    assert {later.timestamp() - time.timestamp() for time, later in pairwise(times)} == {60 * minutes}
    assert times[0].isoformat().startswith(start)


def test_week_over_a_clock_change_is_seven_days_of_the_place() -> None:
    week = calendar(slot_minutes=15, days=7)
    assert [session.slots for session in week.sessions] == [96, 92, *[96] * 5]
    assert [session.start.isoformat()[11:] for session in week.sessions if session.start] == [
        *["00:00:00+01:00"] * 2,
        *["00:00:00+02:00"] * 5,
    ]
    assert week.slots == len(week.times) == 7 * 96 - 4


def test_rolling_horizon_binds_every_slot_once_and_ends_with_the_run() -> None:
    rolling = calendar(start="2026-10-24T00:00", every="6h", days=2)
    assert [session.first for session in rolling.sessions] == [0, 6, 12, 18, 24, 30, 36, 42, 48]
    assert [session.binding for session in rolling.sessions] == [*[6] * 8, 1]
    assert [session.slots for session in rolling.sessions] == [24, 25, 25, 25, 25, 19, 13, 7, 1]


@given(
    start=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(
        lambda at: at.replace(minute=0, second=0, microsecond=0)
    ),
    zone=st.sampled_from(
        ["UTC", "Europe/Brussels", "America/New_York", "Australia/Sydney", "Asia/Kolkata", "Asia/Beirut"]
    ),
    horizon=st.sampled_from(["24h", "36h", "2d"]),
    every=st.sampled_from(["1h", "5h", "6h", "24h"]),
    days=st.integers(1, 4),
)
def test_binding_slots_of_the_sessions_are_the_run(
    start: datetime, zone: str, horizon: str, every: str, days: int
) -> None:
    try:
        found = calendar(start=start, timezone=zone, slot_minutes=30, horizon=horizon, every=every, days=days)
    except ValidationError as error:
        assert "does not exist" in str(error) or "there twice" in str(error)
        return
    position, sessions = 0, found.sessions
    for session in sessions:
        assert session.first == position
        assert 0 < session.binding <= session.slots
        assert session.times is not None
        assert session.times[0].astimezone(UTC) == found.times[position].astimezone(UTC)
        position += session.binding
    assert position == found.slots == sessions[-1].first + sessions[-1].slots
    last = found.times[-1].astimezone(UTC) + timedelta(minutes=30)
    assert last.astimezone(found.times[0].tzinfo).date() == (start + timedelta(days=days)).date()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"start": "2026-03-29T02:30"}, "does not exist in Europe/Brussels"),
        ({"start": "2026-10-25T02:00"}, "say which one, as 2026-10-25T02:00:00+02:00 or 2026-10-25T02:00:00+01:00"),
        ({"start": "2026-03-28T00:10"}, "no start of a slot of 60 min"),
        ({"start": "2026-03-10T00:00+05:00"}, "is 2026-03-09T20:00:00+01:00 in Europe/Brussels; write it so"),
        ({"start": 5}, "write a time as 2026-03-28T00:00"),
        ({"timezone": "Europe/Brussel"}, "no time zone"),
        ({"slot_minutes": 7}, "slot_minutes"),
        ({"horizon": "50min"}, "no number of slots of 60 min"),
        ({"every": "2d"}, "longer than the horizon"),
        ({"horizon": "3d", "days": 1}, "raise days"),
        ({"horizon": "soon"}, "write a length of time as 15min, 6h, 24h or 7d"),
        ({"horizon": "0h"}, "write a length of time"),
        ({"horizon": "7d", "slot_minutes": 5}, "at most 1000 can be played"),
        ({"horizon": "9999999d"}, "horizon: 9999999d reach beyond the year 9999; shorten it"),
        ({"start": "0001-01-01T00:00", "timezone": "UTC"}, "start: the year 1 is not from 1000 to 9899"),
        ({"start": "9999-12-31T00:00"}, "start: the year 9999 is not from 1000 to 9899"),
    ],
)
def test_calendar_that_cannot_be_kept_is_refused_with_the_key(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace("+", r"\+").replace(".", r"\.")):
        calendar(**keys)


def test_time_that_is_there_twice_is_accepted_with_its_offset() -> None:
    late = calendar(start="2026-10-25T02:00+01:00", horizon="3h")
    assert late.times[0].isoformat() == "2026-10-25T02:00:00+01:00"


def test_window_of_a_session_cuts_what_is_given_per_slot_alone() -> None:
    class Device(StrictModel):
        rate: PerSlot
        names: list[str] = ["a", "b", "c", "d"]

    class House(StrictModel):
        devices: list[Device]
        cost: PerSlot

    house = House(devices=[Device(rate=[1, 2, 3, 4]), Device(rate=7)], cost=[5, 6, 7, 8])
    window = cut(house, Session(slots=2, number=2, first=1))
    assert window.cost == [6, 7]
    assert [device.rate for device in window.devices] == [[2, 3], 7]
    assert window.devices[0].names == ["a", "b", "c", "d"]


def test_event_at_clock_times_is_in_the_slots_that_begin_between_them_every_day() -> None:
    event = Event(first="01:30", last="04:00")
    march, october = (calendar(start=start, slot_minutes=30) for start in ("2026-03-29T00:00", "2026-10-25T00:00"))
    for changed, hours in ((march, 1.5), (october, 3.5)):
        assert event.mark(changed.sessions[0]).sum() == 2 * hours
    two_days = calendar(start="2026-06-01T00:00", slot_minutes=30, horizon="2d").sessions[0]
    assert event.in_session(two_days) == event
    assert [*event.mark(two_days).nonzero()[0]] == [3, 4, 5, 6, 7, 51, 52, 53, 54, 55]


def test_event_of_slots_has_in_a_session_those_of_its_window() -> None:
    event = Event(first=4, last=9)
    windows = [event.in_session(Session(slots=5, number=number, first=5 * (number - 1))) for number in (1, 2, 3)]
    assert windows == [Event(first=4, last=5), Event(first=1, last=4), None]
    assert Event(first=4, last=5).mark(Session(5)).tolist() == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (5, 4, "first 5 is after last 4; swap them"),
        ("12:00", "09:00", "first 12:00 is after last 09:00"),
        ("12:00", "12:00", "give a later time for last"),
        (5, "12:00", "give two slots or two clock times"),
        ("9:00", "12:00", "write the number of a slot"),
        ("23:00", "24:30", "write the number of a slot"),
        (0, 5, "write the number of a slot"),
        (1.5, 5, "write the number of a slot"),
        (True, 5, "write the number of a slot"),
    ],
)
def test_event_that_cannot_be_is_refused(first: Any, last: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Event(first=first, last=last)


def test_event_is_refused_where_no_slot_begins_at_its_clock_times() -> None:
    assert Event(first="22:00", last="24:00").mark(calendar(start="2026-06-01T00:00").sessions[0]).sum() == 2
    with pytest.raises(ValueError, match="no slot of 60 min begins at 12:30; move it"):
        Event(first="12:00", last="12:30").mark(calendar().sessions[0])
    with pytest.raises(ValueError, match="a run without a calendar has no time 12:00"):
        Event(first="12:00", last="13:00").mark(Session(24))
