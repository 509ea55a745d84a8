"""A real home on a fast clock: three days of silence, a limit from outside, and kills at random moments."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import dropwhile, groupby
from pathlib import Path
from typing import Any

import pytest
from support import kill_home
from support.lasting_home import (
    LIMIT,
    STATE,
    Client,
    FastClock,
    Grid,
    Heard,
    HomeProcess,
    connect,
    describe_home,
    read_state,
)

import broker
from stackelgrid.calendar import Session

HOUR = timedelta(hours=1)
SPEED = 40_000.0
"""Three days in six and a half seconds. What is asserted does not depend on when a message is heard."""
CHEAP_AT_NIGHT = [6.0] * 8 + [14.0] * 16


def list_states(heard: list[Heard]) -> list[dict[str, Any]]:
    return [read_state(each) for each in heard if each.topic == STATE]


def require_limit(home: Client, draw_kw: float) -> None:
    """Say a limit, see it in one of the next two states (there is one a slot), and lift it."""
    since = len(home.heard)
    home.publish(LIMIT, json.dumps({"draw_kw": draw_kw}).encode())
    said = home.wait("no message", lambda heard: heard.topic == LIMIT and json.loads(heard.payload) != {}, since)
    home.wait("no limit", lambda heard: read_state(heard).get("limit") is not None, since)
    next_two = list_states(home.heard[home.heard.index(said) :])[:2]
    limited = next(state for state in next_two if state["limit"] is not None)
    assert limited["limit"] == {"draw_kw": draw_kw, "feed_in_kw": None, "source": "outside"}
    assert limited["setpoint_kw"] <= max(draw_kw - 0.5, 0.0), "the rest of the home draws half a kilowatt or more"
    home.publish(LIMIT, b"{}")
    home.wait("the limit stays", lambda heard: read_state(heard).get("limit", 0) is None, len(home.heard))


def play_next(grid: Client, sessions: tuple[Session, ...]) -> datetime:
    """Ask and settle a session that begins in a day or two, as an aggregator does; give the time at which it begins."""
    aggregator, since = Grid(grid, sessions), len(grid.heard)
    number, start = next((each.number + 1, each.start) for each in sessions if each.start and each.start > grid.clock())
    aggregator.ask(number)
    grid.wait("no answer", lambda heard: heard.topic.endswith("/answer"), since)
    aggregator.settle(number)
    grid.wait("no receipt", lambda heard: heard.topic.endswith("/receipt"), since)
    return start + 24 * HOUR


@pytest.mark.timeout(600)
def test_home_lives_through_three_days_of_silence_and_keeps_a_limit_from_outside(tmp_path: Path) -> None:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    calendar = {"slot_minutes": 60, "horizon": "24h", "every": "24h", "days": 365}  # a quarter of an hour
    with broker.start("mosquitto", tmp_path / "grid") as grids, broker.start("mosquitto", tmp_path / "own") as own:
        devices = {
            "broker": own.url,
            "fail_safe": {"holds_h": 20, "tariff": CHEAP_AT_NIGHT},
            "limit": {"topic": LIMIT, "draw_kw": 99, "heartbeat_s": 86_400},
        }
        config = describe_home(calendar, grids.url, devices, plan_file=tmp_path / "plan.json")
        clock = FastClock(SPEED)
        with connect(own.url, clock) as home, HomeProcess(config, tmp_path, clock):
            home.wait("no state", lambda heard: "slot" in read_state(heard))
            with connect(grids.url, clock) as grid:
                begin = play_next(grid, config.sessions)
            home.wait("no plan", lambda heard: read_state(heard).get("mode") == "plan")
            require_limit(home, 0.25)
            grids.kill()
            home.wait("no fail-safe", lambda heard: "slot" in (state := read_state(heard)) and state["mode"] != "plan")
            require_limit(home, 0.0)
            clock.wait_until(begin + 44 * HOUR)
            grids.restart(keep_retained=False)
            with connect(grids.url, clock) as grid:
                since = len(home.heard)
                back = play_next(grid, config.sessions)
                home.wait("no plan", lambda heard: read_state(heard).get("mode") == "plan", since)
    states = list(dropwhile(lambda each: each["mode"] != "plan", list_states(home.heard)))
    assert back - begin >= 72 * HOUR
    grouped = groupby((state for state in states if "slot" in state), lambda state: state["mode"])
    modes = [(mode, [state["slot"] for state in of_mode]) for mode, of_mode in grouped]
    assert [mode for mode, _ in modes[:3]] == ["plan", "fail_safe", "plan"]
    (_, settled), (_, alone), (_, again) = modes[:3]
    times = [[datetime.fromisoformat(slot) for slot in slots] for slots in (settled, alone, again)]
    assert all(begin <= time < begin + 20 * HOUR for time in times[0]), "a plan holds as long as it is set to"
    assert all(begin + 20 * HOUR <= time < back for time in times[1])
    assert all(back <= time < back + 20 * HOUR for time in times[2]), "it is back with the first slot of the next"
    assert len(set(alone)) > 48
    told = {state["setpoint_kw"] for state in states if state["mode"] == "fail_safe" and state["limit"] is None}
    assert len(told) > 2, "the battery is driven by what is best for the home alone"


def test_home_that_is_killed_at_any_moment_acts_on_whole_plans_that_hold(tmp_path: Path) -> None:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    found = kill_home.play(tmp_path, kills=3, seed=2)
    assert found["told"]
