"""Homes and a leader that plan by forecasts: what is carried out, what the meters count, and who pays for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from support.random_devices import draw_home

import stackelgrid
from stackelgrid.calendar import Session
from stackelgrid.games.user_oriented.home import Home, HomeProblem
from stackelgrid.games.user_oriented.outcome import list_worth
from stackelgrid.runner import Run
from stackelgrid.scenarios import ScenarioError, load


def draw_days(
    forecast: dict[str, Any] | None = None, days: int = 2, slot_minutes: int = 60, **leader: Any
) -> dict[str, Any]:
    """Draw four homes: with a battery but no feed-in, with PV and a battery, with a car, and with a heat pump.

    From a Saturday on, over the change of clocks in Brussels; a session every 12 hours.
    """
    random = np.random.default_rng(5)
    per_hour = 60 // slot_minutes
    hours = np.arange((24 * days - 1) * per_hour) / per_hour
    sun = np.maximum(np.sin((hours % 24 - 6) * np.pi / 12), 0) * random.uniform(1, 6, len(hours))
    battery = {"capacity_kwh": 6.0, "initial_kwh": 3.0, "charge_kw": 2.0, "discharge_kw": 2.0, "wear": {"fast": 0.05}}

    def describe(name: str, **devices: Any) -> dict[str, Any]:
        appliance = {"max_kw": 2.0, "valuation": 14.0, "satisfaction": {"alpha": random.uniform(2, 5)}}
        inelastic = [{"load_kw": (random.uniform(0.1, 2.5, len(hours))).tolist()}]
        return {"id": name, "inelastic": inelastic, "elastic": [appliance], **devices}

    trips = [
        {"leave": (day * 24 + 8) * per_hour, "back": (day * 24 + 18) * per_hour, "uses_kwh": 5.0} for day in range(days)
    ]
    room = {
        "max_kw": 3.0,
        "heat_kwh_per_k": 6.0,
        "loss_kw_per_k": 0.25,
        "outside_c": (6 + 5 * np.sin(hours * np.pi / 12) + random.normal(0, 2, len(hours))).tolist(),
        "initial_c": 20.0,
        "comfort": {"min_c": 19.5, "max_c": 21.0, "price": 30.0},
    }
    return {
        "schema": 1,
        "game": "user_oriented",
        "seed": 1,
        "aggregators": 2,
        "calendar": {
            "start": "2026-03-28T00:00",
            "timezone": "Europe/Brussels",
            "slot_minutes": slot_minutes,
            "days": days,
            "every": "12h",
        },
        "leader": {
            "objective": "welfare",
            "baseline_price": 9,
            "wholesale_price": (7 + 3 * np.sin(hours * np.pi / 12) + random.uniform(-1, 1, len(hours))).tolist(),
            "mu": 0.5,
            "price_max": 30,
            "tolerance": 1e-7,
            **leader,
        },
        "homes": [
            describe("stored", storage=[battery], elastic=[]),
            describe("sunny", storage=[battery], pv=[{"available_kw": sun.tolist()}], connection={"feed_in_kw": 9.0}),
            describe("driving", ev=[{**battery, "capacity_kwh": 20.0, "charge_kw": 4.0, "trips": trips}]),
            describe("heated", heat_pump=[room]),
        ],
        **({} if forecast is None else {"forecast": forecast}),
    }


YESTERDAY = {
    "load": "persistence",
    "pv": "persistence",
    "temperature": {"noisy": {"sigma": 1.5}},
    "price": "persistence",
}


@functools.cache
def week() -> Run:
    return stackelgrid.run(draw_days(YESTERDAY, 7, imbalance_price=11.0))


@functools.cache
def half_hours() -> Run:
    return stackelgrid.run(draw_days(YESTERDAY, slot_minutes=30, imbalance_price=11.0))


def of(run: Run, session: Session, name: str) -> tuple[Home, Home, Any]:
    """A home as it was foreseen in a session, as it came, and what came out of the session."""
    played = run.result.sessions[session.number - 1]
    (foreseen,) = (home for home in run.scenario.in_session(session, played.states).everyone if home.id == name)
    (whole,) = (home for home in run.scenario.everyone if home.id == name)
    return foreseen, whole.in_session(session, played.states.get(name)), played.outcome


def test_week_by_forecasts_settles_every_session() -> None:
    run = week()
    assert run.settled and run.complete and len(run.result.sessions) == 14
    for session, played in zip(run.scenario.sessions, run.result.sessions, strict=True):
        outcome = played.outcome
        assert len(outcome.metered_kw) == len(outcome.imbalance_kwh) == session.binding
    unforeseen = [played.outcome.imbalance_kwh for played in run.result.sessions]
    assert np.abs(np.concatenate(unforeseen[:2])).max() < 5e-2  # but for the weather there is no yesterday yet
    assert np.abs(np.concatenate(unforeseen[4:])).max() > 1.0


@pytest.mark.parametrize("name", ["stored", "sunny", "driving", "heated"])
def test_energy_balances_over_the_week(name: str) -> None:
    """What the meter counts is what was drawn at home, less what the sun gave, and what is stored more than before."""
    run, counted, drawn = week(), 0.0, 0.0
    key = {"stored": "storage_kwh", "sunny": "storage_kwh", "driving": "ev_kwh"}.get(name)
    for session in run.scenario.sessions[:-1]:
        foreseen, came, outcome = of(run, session, name)
        schedule = HomeProblem(foreseen).answer(np.array(outcome.price))
        home = outcome.homes[name]
        at_home = schedule.x.sum(axis=0) + came.draw_inelastic()
        if name == "sunny":
            at_home -= np.array(came.pv[0].available_kw)
        if name == "heated":
            at_home += home.heat_pump_kw
        if home.unserved_kw is not None:
            at_home[: session.binding] -= home.unserved_kw
        drawn += float(at_home[: session.binding].sum())
        counted += sum(home.metered_kw)
    stored = 0.0
    if key is not None:
        first = getattr(run.scenario.everyone[{"stored": 0, "sunny": 1, "driving": 2}[name]], key.split("_")[0])[0]
        (last,) = run.result.sessions[-1].states[name][key]
        stored = last - first.initial_kwh
        if name == "driving":
            ended = run.scenario.sessions[-1].first
            stored += sum(trip.uses_kwh for trip in first.trips if trip.leave <= ended)
    assert counted == pytest.approx(drawn + stored, abs=1e-9)


def test_battery_gives_way_where_nothing_may_be_fed_in_and_stays_within_its_bounds() -> None:
    run, gave_way = week(), 0
    for before, after in pairwise(run.result.sessions):
        planned = before.outcome.homes["stored"].storage_kwh[before.binding - 1]
        (level,) = after.states["stored"]["storage_kwh"]
        assert -1e-9 <= level <= 6.0 + 1e-9
        gave_way += level > planned + 1e-6
        assert min(before.outcome.homes["stored"].metered_kw) >= -1e-9
    assert gave_way >= 3


def test_room_follows_the_weather_that_comes() -> None:
    """The temperature by the exact solution of C dT/dt = cop P - k (T - outside), hour by hour over the whole run."""
    run = week()
    pump = run.scenario.everyone[3].heat_pump[0]
    celsius, keep = 20.0, float(np.exp(-pump.loss_kw_per_k / pump.heat_kwh_per_k))
    for session, played in zip(run.scenario.sessions, run.result.sessions, strict=True):
        if session.number > 1:
            (found,) = played.states["heated"]["temperature_c"]
            assert found == pytest.approx(celsius, abs=1e-9)
        for slot in range(session.binding):
            heat = pump.cop * played.outcome.homes["heated"].heat_pump_kw[slot]
            rests_at = pump.outside_c[session.first + slot] + heat / pump.loss_kw_per_k
            celsius = rests_at + (celsius - rests_at) * keep
    planned = [
        played.outcome.homes["heated"].temperature_c[0][played.binding - 1] for played in run.result.sessions[:-1]
    ]
    came = [played.states["heated"]["temperature_c"][0] for played in run.result.sessions[1:]]
    assert np.abs(np.array(planned) - came).max() > 0.1


@pytest.mark.parametrize("play", [week, half_hours])
def test_money_balances_between_homes_company_and_market(play: Callable[[], Run]) -> None:
    run = play()
    hours = run.scenario.slot_hours
    for session, played in zip(run.scenario.sessions, run.result.sessions, strict=True):
        outcome, price = played.outcome, np.array(played.outcome.price[: session.binding])
        settled = np.array(outcome.load_kw[: session.binding])
        wholesale = np.array(run.scenario.leader.wholesale_price[session.window][: session.binding])
        unforeseen = np.array(outcome.imbalance_kwh) / hours
        np.testing.assert_allclose(outcome.metered_kw, settled + unforeseen, atol=1e-9)
        assert outcome.metered_revenue == pytest.approx(hours * float(price @ outcome.metered_kw), abs=1e-9)
        assert outcome.metered_revenue == pytest.approx(
            sum(home.metered_bill for home in outcome.homes.values()), abs=1e-9
        )
        cost = hours * float(wholesale @ settled + 11.0 * unforeseen.sum())
        assert outcome.supply_cost == pytest.approx(cost, abs=1e-9)


def test_perfect_forecast_meters_what_was_settled_and_pays_the_wholesale_price() -> None:
    plain, perfect = (stackelgrid.run(draw_days(key, slot_minutes=30)) for key in (None, {}))
    sessions, wholesale = perfect.scenario.sessions, perfect.scenario.leader.wholesale_price
    for session, before, after in zip(sessions, plain.result.sessions, perfect.result.sessions, strict=True):
        assert after.outcome.price == before.outcome.price and after.states == before.states
        np.testing.assert_allclose(after.outcome.metered_kw, after.outcome.load_kw[: after.binding], atol=1e-9)
        np.testing.assert_allclose(after.outcome.imbalance_kwh, 0, atol=1e-9)
        assert before.outcome.metered_kw is None and "metered_kw" not in before.outcome.content()
        bought = 0.5 * np.dot(wholesale[session.window][: after.binding], after.outcome.load_kw[: after.binding])
        assert after.outcome.supply_cost == pytest.approx(bought, abs=1e-9)
    last = perfect.result.sessions[-1]
    assert last.binding == last.slots
    for home in last.outcome.homes.values():
        assert home.metered_bill == pytest.approx(home.bill, abs=1e-9)
        assert home.metered_utility == pytest.approx(home.utility, abs=1e-6)
    assert last.outcome.metered_utility == sum(home.metered_utility for home in last.outcome.homes.values())


def test_forecast_is_the_same_however_many_homes_there_are_and_in_which_order() -> None:
    noisy = {"load": {"noisy": {"sigma": 0.2}}, "price": {"noisy": {"sigma": 0.1}}}
    content = draw_days(noisy)
    swapped = {**content, "homes": content["homes"][2::-1]}
    one, other = load(content), load(swapped)
    for session in one.sessions:
        ahead, again = one.in_session(session), other.in_session(session)
        assert ahead.leader.wholesale_price == again.leader.wholesale_price
        assert ahead.leader.wholesale_price != one.leader.wholesale_price[session.window]
        loads = {home.id: home.inelastic[0].load_kw for home in ahead.everyone}
        assert all(loads[home.id] == home.inelastic[0].load_kw for home in again.everyone)
        errors = np.array(list(loads.values()))
        errors /= [home.inelastic[0].load_kw[session.window] for home in one.everyone]
        assert np.abs(np.corrcoef(errors) - np.eye(4)).max() < 0.9


def test_run_by_noisy_forecasts_repeats_itself_byte_for_byte() -> None:
    noisy = {key: {"noisy": {"sigma": 0.2}} for key in ("load", "pv", "temperature", "price")}
    one, other = (stackelgrid.run(draw_days(noisy)).result.content() for _ in range(2))
    assert one | {"elapsed_s": 0} == other | {"elapsed_s": 0}


def test_home_draws_no_more_than_its_connection_carries_and_says_what_was_not_served() -> None:
    home = Home(
        id="h",
        horizon=3,
        inelastic=[{"load_kw": [1.0, 1.0, 1.0]}],
        storage=[{"capacity_kwh": 4, "initial_kwh": 2, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 1}}],
        pv=[{"available_kw": [0.0, 0.0, 3.0]}],
        connection={"draw_kw": 4.0, "feed_in_kw": 2.0},
    )
    came = home.model_copy(
        update={
            "inelastic": [home.inelastic[0].model_copy(update={"load_kw": [3.5, 6.0, 0.0]})],
            "pv": [home.pv[0].model_copy(update={"available_kw": [0.0, 0.0, 5.0]})],
        }
    )
    plan = {
        "load_kw": [2.0, 0.0, -1.0],
        "storage_kwh": [3.0, 2.0, 3.0],
        "storage_kw": [1.0, -1.0, 1.0],
        "pv_kw": [0.0, 0.0, 3.0],
        "curtailed_kw": [0.0, 0.0, 0.0],
        "feed_in_kw": [0.0, 0.0, 1.0],
    }
    done = home.meter(plan, came)
    # 4.5 kW are too much: it charges by 0.5 less. Then 5 kW are, while it discharges. Then it could feed in 4 kW.
    assert done == {
        "load_kw": [4.0, 4.0, -2.0],
        "storage_kwh": [2.5, 1.5, 2.5],
        "storage_kw": [0.5, -1.0, 1.0],
        "pv_kw": [0.0, 0.0, 3.0],
        "curtailed_kw": [0.0, 0.0, 2.0],
        "feed_in_kw": [0.0, 0.0, 2.0],
        "unserved_kw": [0.0, 1.0, 0.0],
    }


@pytest.mark.parametrize("seed", range(20))
def test_metered_slot_is_the_settled_one_and_what_came_otherwise(seed: int) -> None:
    """The identity of every slot, within all limits, of homes whose forecast is far off."""
    random = np.random.default_rng(seed)
    slots = 24
    efficiency = random.choice([1.0, 0.9])
    battery = {"capacity_kwh": 5, "initial_kwh": 2, "charge_kw": 3, "discharge_kw": 3, "wear": {"fast": 0.1}}
    battery |= {"charge_efficiency": efficiency, "discharge_efficiency": efficiency}
    home = Home(
        id="h",
        horizon=slots,
        slot_hours=0.25,
        inelastic=[{"load_kw": random.uniform(0, 3, slots).tolist()}],
        elastic=[{"max_kw": 2.0, "valuation": 12.0}],
        storage=[battery] * random.integers(1, 3),
        pv=[{"available_kw": random.uniform(0, 4, slots).tolist()}],
        connection={"draw_kw": 5.0, "feed_in_kw": float(random.uniform(0, 2))},
        inverter={"max_kw": 4.0},
    )
    problem = HomeProblem(home)
    schedule = problem.answer(random.uniform(-2, 20, slots))
    plan = problem.summarize(schedule)
    came = home.model_copy(
        update={
            "inelastic": [
                home.inelastic[0].model_copy(
                    update={"load_kw": random.uniform(0, random.choice([0.5, 7]), slots).tolist()}
                )
            ],
            "pv": [home.pv[0].model_copy(update={"available_kw": random.uniform(0, 6, slots).tolist()})],
        }
    )
    done = {key: np.array(value) for key, value in home.meter(plan, came).items()}
    drawn = schedule.x.sum(axis=0) + came.draw_inelastic() - done.get("unserved_kw", 0.0)
    np.testing.assert_allclose(done["load_kw"], drawn + done["storage_kw"] - done["pv_kw"], atol=1e-9)
    np.testing.assert_allclose(done["pv_kw"] + done["curtailed_kw"], came.pv[0].available_kw, atol=1e-12)
    assert done["pv_kw"].min() >= 0 and done["curtailed_kw"].min() >= 0
    assert np.all(done["pv_kw"] - done["storage_kw"] <= 4.0 + 1e-9)
    assert done["load_kw"].max() <= 5.0 and done["load_kw"].min() >= -home.connection.feed_in_kw - 1e-9  # type: ignore[union-attr]
    levels = done.get("stores_kwh", done["storage_kwh"][None])
    assert levels.min() >= 0 and levels.max() <= 5
    rise = np.diff(levels, axis=1, prepend=2.0) / 0.25
    rates = np.where(rise > 0, rise / efficiency, rise * efficiency).sum(axis=0)
    np.testing.assert_allclose(rates, done["storage_kw"], atol=1e-7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"calendar": None, "slots": 47}, "forecast: a run without a calendar is not dated"),
        ({"forecast": {"price": [1.0, 2.0]}}, "forecast.price has 2 numbers"),
        ({"forecast": {"load": [1.0, 2.0]}}, "forecast.load has 2 numbers"),
        ({"forecast": {"load": "tomorrow"}}, "forecast.load: write perfect, persistence, same_weekday"),
        ({"forecast": {"pv": {"noisy": {"sigma": -1}}}}, "forecast.pv.noisy.sigma: It must be"),
        ({"forecast": {"load": [-1.0] * 47}}, "forecast: load is -1 in slot 1, below 0"),
    ],
)
def test_forecast_that_cannot_be_made_is_refused_with_its_key(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        load({**draw_days(YESTERDAY), **change})


def test_band_without_a_price_wants_a_perfect_forecast_of_the_weather() -> None:
    content = draw_days(YESTERDAY)
    del content["homes"][3]["heat_pump"][0]["comfort"]["price"]
    content["homes"][3]["heat_pump"][0]["comfort"] |= {"min_c": 0.0, "max_c": 60.0}
    with pytest.raises(ScenarioError, match=r"homes\.3\.forecast\.temperature"):
        load(content)


@pytest.mark.parametrize("seed", range(10))
def test_worth_of_a_plan_carried_out_is_utility_and_bill(seed: int) -> None:
    random = np.random.default_rng(seed)
    home = draw_home(random, 24)
    problem = HomeProblem(home)
    schedule = problem.answer(random.uniform(3, 20, 24))
    account = problem.summarize(schedule)
    cut = [] if schedule.devices is None else zip(home.pv, schedule.devices.cut, strict=True)
    curtailment = home.slot_hours * sum(pv.curtailment * float(kw @ kw) for pv, kw in cut)
    worth = float(list_worth(home, schedule, account).sum())
    assert worth == pytest.approx(account["utility"] + account["bill"] + curtailment, abs=1e-7)


def test_home_without_limits_foresees_nothing_that_its_aggregator_would_refuse() -> None:
    content = draw_days({"load": {"noisy": {"sigma": 3.0}}})
    run = stackelgrid.run({**content, "homes": content["homes"][:1] + content["homes"][2:]})
    assert run.complete and run.result.rejected == {}
