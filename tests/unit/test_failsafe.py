"""The control of a home's storage: the settled plan, what follows it, overrides, and limits from outside."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from emc_node import clock
from emc_node.device_settings import DeviceSettings, FailSafe, OutsideLimit
from emc_node.failsafe import Memory, Override, StorageControl, StorageLimits
from emc_node.limit import Bounds, Limit
from emc_node.plan import Plan, list_clock_hours, make_plan
from stackelgrid.calendar import Session
from stackelgrid.rounds.settings import DayPlan

START = datetime(2026, 3, 28, tzinfo=ZoneInfo("Europe/Berlin"))
"""Midnight of the day before clocks change."""
QUARTER = timedelta(minutes=15)


def at(quarters: float) -> datetime:
    """The time so many quarters after the start, at the same place."""
    return (START.astimezone(UTC) + quarters * QUARTER).astimezone(START.tzinfo)


STORAGE = StorageLimits(discharge_kw=3.0, charge_kw=2.0)


def plan(start: datetime = START, setpoint: float = 1.0, slots: int = 96, session: int = 1) -> Plan:
    """A plan of quarters in which the rest of the home draws 0.5 kW."""
    load = [0.5 + setpoint] * slots
    return Plan(
        run="g",
        session=session,
        start=start,
        slot_hours=0.25,
        load_kw=load,
        price=[20.0] * slots,
        setpoint_kw=[setpoint] * slots,
        level_kwh=[2.0 + setpoint * slot / 96 for slot in range(1, slots + 1)],
    )


def control(
    fail_safe: dict[str, Any] | None = None, limit: dict[str, Any] | None = None, memory: Memory | None = None
) -> StorageControl:
    settings = None if limit is None else OutsideLimit.model_validate({"topic": "limit"} | limit)
    return StorageControl(STORAGE, FailSafe.model_validate(fail_safe or {}), settings, START, memory)


# --- plans ---


def test_plan_of_a_run_without_dates_begins_with_this_hour() -> None:
    numbers = [float(hour) for hour in range(24)]
    now = START.replace(hour=13, minute=40)
    dated = make_plan("g", None, Session(24), numbers, DayPlan(numbers, numbers, numbers), now)
    assert dated.start == now.replace(minute=0)
    assert dated.load_kw[:12] == [13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 0]
    assert dated.load_kw[12] == 1
    assert dated.load_kw[13] == 3, "at two the clock is set to three"


def test_clock_hours_are_those_of_the_place() -> None:
    assert list_clock_hours(START.replace(hour=23), 0.5, 9) == [23, 23, 0, 0, 1, 1, 3, 3, 4]


def test_level_of_a_plan_lies_between_the_ends_of_its_slots() -> None:
    one = plan(setpoint=4.0)
    assert one.level_at(at(1.5)) == pytest.approx(2.0 + 4.0 * 1.5 / 96)
    assert one.level_at(at(-1)) is None
    assert one.level_at(one.end) == pytest.approx(6.0)
    assert one.level_at(at(97)) is None


def test_plan_that_ends_after_all_years_is_refused() -> None:
    with pytest.raises(ValidationError, match="the plan ends after the year 9999"):
        Plan(run="r", start=datetime(9999, 12, 31, 23, tzinfo=UTC), load_kw=[1.0, 1.0], price=[1.0, 1.0])


@pytest.mark.parametrize(
    "settings",
    [
        {"fail_safe": {"holds_h": 1e8}},
        {"fail_safe": {"profile_kw": [1e308] * 24}},
        {"limit": {"topic": "limit", "draw_kw": 1, "fail_safe_h": 1e8}},
        {"storage_setpoint": {"topic": "battery", "unit": "W", "default_kw": -1e308}},
    ],
)
def test_settings_beyond_all_times_and_powers_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"(less|greater) than or equal"):
        DeviceSettings.model_validate(settings)


def test_plan_with_lists_of_different_lengths_is_refused() -> None:
    with pytest.raises(ValidationError, match="price has 2 numbers, load_kw 1"):
        Plan(run="g", start=START, load_kw=[1.0], price=[1.0, 2.0])


# --- from a plan to the fail-safe, and back ---


@pytest.mark.parametrize(
    ("fail_safe", "holds_h", "follows"),
    [
        ({}, 24.0, 0.0),
        ({"holds_h": 6}, 6.0, 0.0),
        ({"holds_h": 100}, 24.0, 0.0),
        ({"profile_kw": [hour / 10 for hour in range(24)], "holds_h": 12.25}, 12.25, "hour"),
        ({"own_optimum": 30}, 24.0, "own"),
        ({"tariff": [30.0] * 24, "holds_h": 1}, 1.0, "own"),
    ],
)
def test_home_goes_from_plan_to_fail_safe_in_three_days_of_silence_and_back(
    fail_safe: dict[str, Any], holds_h: float, follows: float | str
) -> None:
    home = control(fail_safe)
    home.settle(plan(), START - timedelta(hours=12))
    after = plan(at(3 * 96), setpoint=-2.0, session=4)
    solved = 0
    for quarter in range(4 * 96):
        now = at(quarter + 0.5)
        if quarter == 2 * 96 + 50:
            home.settle(after, now)  # at noon of the third day, for the fourth
        if home.needs_own_plan(now):
            home.follow_alone(plan(at(quarter), setpoint=1.5))
            solved += 1
        orders = home.order(now)
        if quarter < 4 * holds_h:
            assert (orders.mode, orders.setpoint_kw) == ("plan", 1.0)
        elif quarter < 3 * 96:
            expected = {"hour": now.hour / 10, "own": 1.5}.get(str(follows), 0.0)
            assert (orders.mode, orders.setpoint_kw) == ("fail_safe", expected), now
        elif quarter < 3 * 96 + 4 * holds_h:
            assert (orders.mode, orders.setpoint_kw) == ("plan", -2.0)
    assert solved == (0 if follows != "own" else 2 if holds_h == 24 else 4)


def test_plan_of_the_next_session_takes_over_from_its_first_slot_on() -> None:
    home = control()
    home.settle(plan(), START)
    home.settle(plan(at(24), setpoint=2.0, session=2), START)
    assert home.plan_until(START) == at(120)
    assert home.order(at(24 - 1 / 900)).setpoint_kw == 1.0
    assert home.next_change(at(23.5)) == at(24)
    assert home.order(at(24)).setpoint_kw == 2.0


def test_plan_settled_again_replaces_the_first() -> None:
    home = control()
    home.settle(plan(), START)
    home.settle(plan(setpoint=-1.0), START)
    assert home.order(START).setpoint_kw == -1.0
    assert len(home.memory.plans) == 1


def test_plan_that_is_over_is_known_and_not_carried_out_after_a_restart() -> None:
    home = control()
    home.settle(plan(), START)
    later = START + timedelta(days=2)
    again = control(memory=Memory.model_validate_json(home.memory.model_dump_json(by_alias=True)))
    assert again.has_plan("g", None, 1)
    assert not again.has_plan("g", None, 2)
    assert again.order(later).mode == "fail_safe"
    again.settle(plan(later, session=2), later)
    assert [each.session for each in again.memory.plans] == [2], "what is over is forgotten with the next plan"


def test_storage_that_nobody_has_controlled_is_left_alone() -> None:
    assert control().order(START).setpoint_kw is None
    assert control({"profile_kw": [1.0] * 24}).order(START).setpoint_kw == 1.0


def test_fail_safe_has_one_way_to_follow() -> None:
    with pytest.raises(ValidationError, match="tariff and own_optimum say both"):
        FailSafe.model_validate({"tariff": [1.0] * 24, "own_optimum": 2})


# --- the householder ---


@pytest.mark.parametrize(("wish", "kw"), [(-1.25, -1.25), ("off", 0.0), (9.0, 2.0), (-9.0, -3.0)])
def test_override_holds_until_its_end(wish: float | str, kw: float) -> None:
    home = control()
    home.settle(plan(), START)
    home.override(Override.model_validate({"setpoint_kw": wish, "until": at(1)}))
    assert home.order(START).setpoint_kw == kw
    assert home.next_change(START) == at(1)
    assert control(memory=home.memory).order(START).setpoint_kw == kw, "also after a restart"
    assert home.order(at(1)).setpoint_kw == 1.0
    home.override(None)
    assert home.order(START).setpoint_kw == 1.0


# --- a limit from outside ---


def heard(limit: dict[str, Any], **settings: Any) -> StorageControl:
    home = control({}, {"draw_kw": 4.0} | settings)
    home.settle(plan(), START)
    home.limit(Limit.model_validate(limit), START)
    return home


@pytest.mark.parametrize(
    ("limit", "other_kw", "kw"),
    [
        ({"draw_kw": 4.0}, None, 1.0),
        ({"draw_kw": 1.2}, None, 0.7),  # the rest is planned to draw 0.5
        ({"draw_kw": 1.2}, 0.9, 0.3),
        ({"draw_kw": 1.2}, 2.2, -1.0),
        ({"draw_kw": 0.0}, 9.0, -3.0),  # no more than it can discharge
        ({"feed_in_kw": 0.0}, -1.5, 1.5),  # PV that may not be fed in
        ({"feed_in_kw": 0.0}, -9.0, 2.0),
        ({"feed_in_kw": 1.0}, -1.5, 1.0),
        ({"draw_kw": None, "feed_in_kw": None}, 9.0, 1.0),
    ],
)
def test_limit_caps_the_storage_at_once(limit: dict[str, Any], other_kw: float | None, kw: float) -> None:
    assert heard(limit).order(START, other_kw).setpoint_kw == pytest.approx(kw)


def test_limit_caps_what_the_householder_wants() -> None:
    home = heard({"draw_kw": 1.2})
    home.override(Override(setpoint_kw=2.0, until=at(1)))
    assert home.order(START).setpoint_kw == pytest.approx(0.7)


def test_storage_takes_nothing_where_a_limit_is_and_nobody_knows_the_rest() -> None:
    home = control({"profile_kw": [1.0] * 24}, {"draw_kw": 99.0})
    home.limit(Limit(draw_kw=5.0), START)
    assert home.order(START).setpoint_kw == 0.0
    home.limit(Limit(feed_in_kw=5.0), START)
    assert home.order(START).setpoint_kw == 1.0


def test_limit_per_slot_holds_in_its_slots() -> None:
    limit = {"draw_kw": [0.6, 0.8, 9.0], "start": START.isoformat(), "slot_minutes": 15}
    home = heard(limit, heartbeat_s=86_400)
    assert [home.order(at(quarter)).setpoint_kw for quarter in range(4)] == pytest.approx([0.1, 0.3, 1.0, 1.0])
    assert home.next_change(START) == at(1)
    assert home.bound(START, at(2), START)[0].draw_kw == 0.6, "an hour has the strictest of its quarters"
    assert home.bound(at(4), at(8), START)[0] == Bounds(inf, inf)


def test_limit_ends_when_it_says() -> None:
    home = heard({"draw_kw": 0.0, "until": (at(1)).isoformat()}, heartbeat_s=86_400)
    assert home.order(START).setpoint_kw == -0.5
    assert home.order(at(1)).setpoint_kw == 1.0


def test_own_limit_counts_for_its_time_when_the_sender_is_silent() -> None:
    home = heard({"draw_kw": 1.2}, draw_kw=0.9, heartbeat_s=60, fail_safe_h=2)
    minute = timedelta(minutes=1)
    assert home.next_change(START) == START + minute
    assert home.order(START + 0.9 * minute).setpoint_kw == pytest.approx(0.7)
    orders = home.order(START + minute)
    assert (orders.setpoint_kw, orders.source) == (pytest.approx(0.4), "fail_safe")
    assert home.limit_is_silent(START + minute)
    assert home.order(START + 120 * minute).setpoint_kw == pytest.approx(0.4)
    assert home.order(START + 121 * minute).setpoint_kw == 1.0
    home.limit(Limit(draw_kw=1.2), START + 122 * minute)
    assert home.order(START + 122 * minute).setpoint_kw == pytest.approx(0.7)
    assert not home.limit_is_silent(START + 122 * minute)


def test_limit_that_was_never_heard_is_silent_from_the_beginning() -> None:
    home = control({}, {"draw_kw": 0.9, "heartbeat_s": 60})
    home.settle(plan(), START)
    assert home.order(START).bounds == Bounds()
    assert home.order(START + timedelta(minutes=1)).bounds == Bounds(draw_kw=0.9)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"draw_kw": [1.0]}, "start: missing"),
        ({"draw_kw": -1.0}, "greater than or equal to 0"),
        ({"draw_kw": 1.0, "until": "2026-03-28T00:00:00"}, "timezone"),
        ({"limit_kw": 1.0}, "Extra inputs"),
    ],
)
def test_limit_that_cannot_be_meant_is_refused(message: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Limit.model_validate(message)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"draw_kw": 1.0}, "give topic or file"),
        ({"draw_kw": 1.0, "topic": "a", "file": "/b"}, "give topic or file"),
        ({"draw_kw": 1.0, "file": "b"}, "write the whole path"),
        ({"topic": "a"}, "draw_kw"),
    ],
)
def test_limit_comes_from_one_place(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        OutsideLimit.model_validate(settings)


# --- the clock of the machine ---


@pytest.mark.parametrize(("mark", "status", "known"), [(True, 64, True), (False, 0, True), (False, 64, False)])
def test_clock_is_synchronised_by_the_mark_of_systemd_or_the_word_of_the_kernel(
    mark: bool, status: int, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kernel:
        def adjtimex(self, timex: Any) -> int:
            assert bytes(timex) == bytes(len(timex)), "nothing is to be changed"
            timex[40:44] = status.to_bytes(4, sys.byteorder)
            return 0

    monkeypatch.setattr(clock.ctypes, "CDLL", lambda name: Kernel())
    monkeypatch.setattr(clock, "_SYNCHRONISED", tmp_path / "synchronized")
    if mark:
        (tmp_path / "synchronized").touch()
    assert clock.is_synchronised() == known
