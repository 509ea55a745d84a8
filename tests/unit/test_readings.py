"""The readings of a home's meters: what counts, for how long, and what a home makes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from emc_node.device_settings import Meter
from emc_node.readings import Readings
from stackelgrid.games.user_oriented.home import Home

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def readings(**meter: Any) -> Readings:
    return Readings(Meter.model_validate(meter), {"state_of_charge": (0.0, 100.0), "room_temperature": (-20.0, 100.0)})


def value(of: Readings, key: str, now: datetime = NOON) -> float | None:
    reading = of.find(key, now)
    return None if reading is None else reading.value


@pytest.mark.parametrize(
    ("channel", "payload", "counts"),
    [
        ({}, b"0", True),
        ({}, b"100", True),
        ({}, b"100.5", False),
        ({}, b"-1", False),
        ({"plausible": [5, 95]}, b"4", False),
        ({"plausible": [-5, 105]}, b"-4", True),
        ({}, b"full", False),
    ],
)
def test_reading_counts_within_its_range(channel: dict[str, Any], payload: bytes, counts: bool) -> None:
    meter = readings(state_of_charge={"topic": "soc"} | channel)
    meter.take("soc", b"50", NOON, retained=False)
    assert meter.take("soc", payload, NOON, retained=False) == (["state_of_charge"] if counts else [])
    assert value(meter, "state_of_charge") == (float(payload) if counts else 50.0), "else the one before stays"
    assert bool(meter.list_problems(NOON)) != counts
    meter.take("soc", b"51", NOON, retained=False)
    assert not meter.list_problems(NOON)


def test_reading_counts_until_it_is_too_old() -> None:
    meter = readings(load={"topic": "kw", "max_age_s": 60})
    assert meter.list_problems(NOON) == {}
    meter.take("kw", b"1.5", NOON, retained=False)
    assert value(meter, "load", NOON + MINUTE) == 1.5
    later = NOON + 5 * MINUTE
    assert value(meter, "load", later) is None
    assert meter.list_problems(later) == {"load": "load: the last reading on kw is 5 min old, and not used"}


def test_retained_reading_counts_until_one_is_sent() -> None:
    meter = readings(load="kw")
    assert meter.take("kw", b"1", NOON, retained=True) == ["load"]
    assert meter.take("kw", b"2", NOON, retained=True) == ["load"]
    assert meter.take("kw", b"3", NOON, retained=False) == ["load"]
    assert meter.take("kw", b"4", NOON, retained=True) == []
    assert value(meter, "load") == 3.0


@pytest.mark.parametrize(
    ("payload", "path", "there"),
    [
        (b"home", None, 1.0),
        (b" OFF\n", None, 0.0),
        (b'{"plugged": true}', "plugged", 1.0),
        (b'{"plugged": 0}', "plugged", 0.0),
        (b'{"plugged": null}', "plugged", None),
        (b"garage", None, None),
        (b"\xff", None, None),
        (b"[" * 100_000, "a", None),
        (b"1" * 100_000, None, None),
    ],
)
def test_car_is_there_or_away(payload: bytes, path: str | None, there: float | None) -> None:
    meter = readings(car_at_home={"topic": "car"} | ({} if path is None else {"path": path}))
    meter.take("car", payload, NOON, retained=False)
    assert value(meter, "car_at_home") == there
    assert bool(meter.list_problems(NOON)) == (there is None)


# --- what a home makes of them ---

CAR = {"name": "car", "capacity_kwh": 40, "initial_kwh": 20, "charge_kw": 7, "wear": {"fast": 0.1}}
TRIP = {"leave": 5, "back": 9, "uses_kwh": 8, "need_kwh": 15}


@pytest.mark.parametrize(
    ("trips", "at_home", "expected"),
    [
        ([TRIP], True, [(5, 9, 8.0)]),
        ([TRIP], False, [(1, 9, 8.0)]),
        ([], False, [(1, 13, 0.0)]),
        ([{"leave": 1, "back": 4, "uses_kwh": 0}, TRIP], True, [(5, 9, 8.0)]),
        ([{"leave": 1, "back": 4, "uses_kwh": 0}, TRIP], False, [(1, 4, 0.0), (5, 9, 8.0)]),
    ],
)
def test_home_knows_a_car_that_left_early_or_is_back(
    trips: list[Any], at_home: bool, expected: list[tuple[int, int, float]]
) -> None:
    home = Home.model_validate({"id": "h", "horizon": 12, "ev": [CAR | {"trips": trips}]})
    (car,) = home.with_car(at_home=at_home).ev
    assert [(trip.leave, trip.back, trip.uses_kwh) for trip in car.trips] == expected


PUMP = {"max_kw": 2, "heat_kwh_per_k": 2, "loss_kw_per_k": 0.1, "outside_c": 5, "initial_c": 20}


@pytest.mark.parametrize(("price", "celsius", "why"), [(None, 12.0, "in slot 1 it is at most"), (0.5, 12.0, None)])
def test_home_starts_as_warm_as_it_is_measured_where_it_can(price: float | None, celsius: float, why: str) -> None:
    comfort = {"min_c": 19, "max_c": 23, "price": price}
    home = Home.model_validate({"id": "h", "horizon": 4, "heat_pump": [PUMP | {"comfort": comfort}]})
    if why is None:
        assert home.with_room_temperature(celsius).describe_state() == {"temperature_c": [celsius]}
    else:
        with pytest.raises(ValueError, match=why):
            home.with_room_temperature(celsius)


def test_reading_of_a_room_or_car_is_of_the_only_one() -> None:
    home = Home.model_validate({"id": "h", "horizon": 12, "ev": [CAR, CAR]})
    with pytest.raises(ValueError, match="the home has 2 cars"):
        home.check_reading("car_at_home")
    with pytest.raises(ValueError, match="the home has 0 rooms"):
        home.check_reading("room_temperature")
