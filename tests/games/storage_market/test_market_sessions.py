"""The storage market over several sessions: what they leave to each other, day after day and hour by hour."""

import functools
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_cases import RTS, TIGHT

import stackelgrid
from stackelgrid.calendar import Session
from stackelgrid.games.storage_market.home import Battery, Interruptible, MarketHome, Uninterruptible
from stackelgrid.games.storage_market.leader import GeneratorSettings, UtilitySettings
from stackelgrid.games.storage_market.reference import SupplyCurve, best_dispatch
from stackelgrid.games.storage_market.report import follow_baseline
from stackelgrid.games.storage_market.scenario import StorageMarketScenario
from stackelgrid.report.run_folder import PlayedSession
from stackelgrid.runner import Run
from stackelgrid.scenarios import ScenarioError, load
from stackelgrid.testbed import in_memory

VEHICLES = {"kind": "interruptible", "name": "vehicles", "blocks": 6, "block_kwh": 500, "per_hour": 3}
MACHINE = {"kind": "uninterruptible", "name": "machine", "hours": 2, "kw": 700}


def two_days(**calendar: Any) -> dict[str, Any]:
    """Two days over the change of clocks, 24 and 23 hours; ramps bind now and then."""
    slots = 47
    shape = 0.75 - 0.25 * np.cos(2 * np.pi * (np.arange(slots) - 3) / 24)
    return {
        "schema": 1,
        "game": "storage_market",
        "calendar": {"start": "2026-03-28T00:00", "timezone": "Europe/Brussels", "days": 2} | calendar,
        "leader": {
            "generators": [
                {"id": "g1", "quadratic": 0.5, "linear": 10, "max_mw": 30, "ramp_mw": 2},
                {"id": "g2", "quadratic": 0.2, "linear": 14, "max_mw": 30, "ramp_mw": 6},
            ],
            "peak_mw": 40,
            "shape": (shape / shape.max()).tolist(),
            "theta": 1,
        },
        "dras": [{"homes": 1, "quadratic": 0.05, "wear": 0.2}, {"homes": 1, "quadratic": 0.02}],
        "homes": [
            {"id": "x", "battery": {"capacity_kwh": 4000, "power_kw": 1500, "initial_kwh": 500}},
            {
                "id": "y",
                "battery": {"capacity_kwh": 2000, "power_kw": 900, "initial_kwh": 200},
                "appliances": [
                    VEHICLES | {"first": 16, "last": 32, "preferred": 19},  # over the night
                    VEHICLES | {"first": 30, "last": 47, "preferred": 43},
                    MACHINE | {"first": 8, "last": 22, "preferred": 17},
                    MACHINE | {"first": 23, "last": 26, "preferred": 24},
                ],
            },
        ],
    }


@functools.cache
def days() -> Run:
    run = stackelgrid.run(two_days())
    run.certify(samples=5)
    return run


@functools.cache
def rolling() -> Run:
    return stackelgrid.run(two_days(every="6h"))


@pytest.mark.parametrize("play", [days, rolling])
def test_energy_and_money_balance_over_the_sessions(play: Any) -> None:
    run = play()
    assert run.settled and run.complete and (run.result.rejected, run.failures) == ({}, {})
    market, sessions = run.scenario, run.result.sessions
    expected, net, generation, drawn = market.leader.expected, np.zeros(47), np.zeros(47), np.zeros((4, 47))
    charge, sold, level = (np.zeros((2, 47)) for _ in range(3))
    for session, result in zip(market.sessions, sessions, strict=True):
        bound = slice(session.first, session.first + session.binding)
        outcome, part = result.outcome, slice(session.binding)
        net[bound] = outcome.net_demand_mw[part]
        generation[bound] = np.sum(list(outcome.dispatch_mw.values()), axis=0)[part]
        for row, name in enumerate("xy"):
            day = outcome.homes[name]
            for target, key in ((charge, "charge_kw"), (sold, "sold_kw"), (level, "battery_kwh")):
                target[row, bound] = getattr(day, key)[part]
        alone = market.in_session(session, result.states)
        numbers = alone.everyone[1].part.appliances
        for number, energy in zip(numbers, outcome.homes["y"].appliances_kwh, strict=True):
            drawn[number, bound] = energy[part]
    for row, home in enumerate(market.everyone):
        battery = home.battery
        change = battery.efficiency * charge[row] - sold[row] / battery.efficiency
        np.testing.assert_allclose(np.diff(level[row], prepend=battery.initial_kwh), change, atol=1e-9)
        assert level[row].min() >= -1e-9 and level[row].max() <= battery.capacity_kwh + 1e-9
        assert level[row, -1] >= battery.initial_kwh - 1e-6
    # Every appliance has what it needs, within its window, and runs go on from one session to the next.
    usual = market.everyone[1].preferred_load()
    for row, appliance in enumerate(market.everyone[1].appliances):
        outside = np.delete(drawn[row], np.arange(appliance.first - 1, appliance.last))
        assert not outside.any()
        assert drawn[row].sum() == pytest.approx(appliance.energy_kwh, abs=1e-6)
        if isinstance(appliance, Uninterruptible):
            running = np.flatnonzero(drawn[row])
            assert len(running) == 2 and running[1] - running[0] == 1
    # The leader's demand is the expected one and what all homes changed in all sessions.
    due = expected + (drawn.sum(axis=0) - usual + charge.sum(axis=0) - sold.sum(axis=0)) / 1000
    np.testing.assert_allclose(net, due, atol=1e-9)
    np.testing.assert_allclose(generation, net, atol=1e-6)
    assert charge.any() and sold.any()


@pytest.mark.parametrize("play", [days, rolling])
def test_generators_go_on_from_their_last_output(play: Any) -> None:
    run = play()
    for before, after in pairwise(run.result.sessions):
        last = {name: output[before.binding - 1] for name, output in before.outcome.dispatch_mw.items()}
        assert after.states["leader"] == {"output_mw": last}
        for unit in run.scenario.leader.generators:
            assert abs(after.outcome.dispatch_mw[unit.id][0] - last[unit.id]) <= unit.ramp_mw + 1e-9


def test_rest_of_a_day_is_dispatched_as_in_the_whole_day_from_the_outputs_left() -> None:
    """The tail of an optimum is optimal from where it begins; without that output it is not."""
    settings = UtilitySettings(
        generators=[
            GeneratorSettings(id=u.id, quadratic=u.quadratic, linear=u.linear, max_mw=u.max_mw, ramp_mw=u.ramp_mw / 2)
            for u in TIGHT
        ],
        peak_mw=300,
        shape=(RTS / RTS.max()).tolist(),
    )
    morning, rest = Session(24, binding=9), Session(15, number=2, first=9)
    found = settings.economic_dispatch(1.0).solve(RTS)
    outputs = {u.id: row.tolist() for u, row in zip(settings.generators, found.generation, strict=True)}
    later = settings.in_session(rest, settings.advance(morning, {"dispatch_mw": outputs}))
    np.testing.assert_allclose(
        later.economic_dispatch(1.0).solve(RTS[9:]).generation, found.generation[:, 9:], atol=1e-6
    )
    net, price = RTS[9:], found.price[9:]
    np.testing.assert_allclose(later.economic_dispatch(1.0).solve(net).price, price, atol=1e-5)
    np.testing.assert_allclose(SupplyCurve(later, 15, 1.0).solve(net)[1], price, atol=1e-5)
    np.testing.assert_allclose(best_dispatch(later, net, 1.0)[1], price, atol=1e-4)
    anew = settings.in_session(rest).economic_dispatch(1.0).solve(net)
    assert np.abs(anew.generation - found.generation[:, 9:]).max() > 1


def test_certificates_of_the_sessions_hold() -> None:
    for session in days().result.sessions:
        certificate = session.certificate
        assert certificate is not None and certificate.feasible
        bounds = {"balance_residual": 1e-9, "battery_residual": 1e-9, "dispatch_gap": 1e-9}
        for key in ("violation", "max_home_regret", "max_dra_regret"):
            bounds[key] = 1e-6
        for key, most in bounds.items():
            found = certificate.number(key)
            assert found is not None and abs(found) <= most, key


def test_scenario_is_refused_when_ramps_cannot_follow_on_a_later_day() -> None:
    raw = two_days(every="6h")
    raw["leader"]["shape"][40] = 0.1
    with pytest.raises(ScenarioError, match=r"leader.generators: in slot 4\d ramps leave [\d.]+ MW (left over|short)"):
        load(raw)


# --- what is left of an appliance ---


def test_interruptible_appliance_needs_in_a_session_its_share_of_what_is_left() -> None:
    vehicles = Interruptible(blocks=6, block_kwh=0.5, per_hour=2, first=20, last=31, preferred=22)
    evening = vehicles.in_session(Session(24), 0.0)
    assert evening is not None
    assert (evening.first, evening.last, evening.preferred) == (20, 24, 22)
    assert evening.energy_kwh == pytest.approx(3 * 5 / 12)
    assert evening.preferred_schedule(24).sum() == pytest.approx(evening.energy_kwh)
    morning = vehicles.in_session(Session(24, number=2, first=24), 1.0)
    assert morning is not None
    assert (morning.first, morning.last, morning.energy_kwh) == (1, 7, pytest.approx(2.0))
    assert vehicles.in_session(Session(24, number=2, first=24), 3.0) is None
    assert vehicles.in_session(Session(24, number=3, first=48), 1.0) is None
    late = vehicles.in_session(Session(24, number=2, first=30), 0.0)  # it slept: no more than it can draw
    assert late is not None and late.energy_kwh == pytest.approx(1.0)


def test_run_waits_goes_on_and_begins_at_last() -> None:
    machine = Uninterruptible(kind="uninterruptible", hours=3, kw=2, first=22, last=28, preferred=22)
    assert machine.in_session(Session(24), 0.0) == machine.model_copy(update={"first": 22, "last": 24})
    begun = machine.in_session(Session(24, number=2, first=24), 2.0)
    assert begun is not None and (begun.first, begun.last, begun.hours) == (1, 2, 2)
    assert machine.in_session(Session(24, number=2, first=24), 6.0) is None
    short = machine.model_copy(update={"first": 23})
    assert short.in_session(Session(24), 0.0) is None  # there is room for it in the next session
    forced = machine.model_copy(update={"first": 23, "last": 26}).in_session(Session(24), 0.0)
    assert forced is not None and (forced.first, forced.last, forced.hours) == (24, 24, 1)


def test_home_of_a_session_knows_what_was_moved_out_of_its_slots() -> None:
    home = MarketHome(
        id="h",
        horizon=48,
        appliances=[Interruptible(blocks=4, block_kwh=1, per_hour=2, first=20, last=30, preferred=26)],
        battery=Battery(capacity_kwh=10, power_kw=5, initial_kwh=2),
    )
    second = Session(24, number=2, first=24)
    left = home.in_session(second, {"drawn_kwh": [4.0], "battery_kwh": 7.0})
    assert left.appliances == [] and left.part is not None
    np.testing.assert_array_equal(left.usual_load(), home.preferred_load()[24:])
    np.testing.assert_array_equal(left.part.moved_kw, home.preferred_load()[24:])
    assert left.battery is not None and (left.battery.initial_kwh, left.battery.least_kwh) == (7, 2)
    account = {"appliances_kwh": [], "battery_kwh": [6.0] * 24}
    assert left.advance(second, account) == {"drawn_kwh": [4.0], "battery_kwh": 6.0}
    assert left.connection_kw == home.connection_kw == 7  # what was moved may be as much, with nothing left to run
    assert home.in_session(Session(48)) is home


def test_session_without_the_peak_is_a_scenario_of_its_own() -> None:
    run = rolling()
    session, result = run.scenario.sessions[-1], run.result.sessions[-1]
    alone = run.scenario.in_session(session, result.states)
    assert max(alone.leader.shape) < 1
    again = load(alone.model_dump(mode="json", by_alias=True, exclude_none=True))
    assert isinstance(again, StorageMarketScenario)
    record = in_memory.play(again)
    assert record.conclusion["complete"] and record.rejected == {}
    assert again.outcome(record) == result.outcome


@given(kwh=st.floats(0.1, 1000), slots=st.integers(1, 24), drawn=st.floats(0, 1))
def test_appliance_draws_no_less_than_nothing_elsewhere(kwh: float, slots: int, drawn: float) -> None:
    vehicles = Interruptible(blocks=3, block_kwh=kwh, first=1, last=48, per_hour=3, preferred=1)
    part = vehicles.in_session(Session(slots, number=2, first=48 - slots), 3 * kwh * drawn)
    assert part is None or part == Interruptible.model_validate(part.model_dump())


# --- forecasts of the demand ---


def half_days(**keys: Any) -> dict[str, Any]:
    """The same two days in sessions of 12 hours, with one home; the second day has more to draw at noon."""
    raw = two_days(horizon="12h", every="8h")
    raw["leader"]["shape"][30:38] = np.add(raw["leader"]["shape"][30:38], [0.02, 0.05, 0.05, 0.03, 0, 0, 0, 0]).tolist()
    raw["leader"]["shape"] = np.divide(raw["leader"]["shape"], max(raw["leader"]["shape"])).tolist()
    return {**raw, "homes": raw["homes"][:1], "dras": raw["dras"][:1]} | keys


@functools.cache
def foreseen(price: float | None = None) -> Run:
    raw = half_days(forecast={"load": "persistence"})
    return stackelgrid.run({**raw, "leader": raw["leader"] | {"imbalance_price": price}})


def test_perfect_forecast_clears_as_without_one_and_meters_what_was_settled() -> None:
    plain, known = stackelgrid.run(half_days()), stackelgrid.run(half_days(forecast={}))
    for before, after in zip(plain.result.sessions, known.result.sessions, strict=True):
        one, other = before.outcome.content(), after.outcome.content()
        assert one == {key: other[key] for key in one} and before.states == after.states
        assert other["metered_mw"] == other["net_demand_mw"][: after.binding]
        assert not np.any(other["imbalance_mwh"])
        if after.binding == after.slots:
            assert other["metered_supply_cost"] == pytest.approx(other["supply_cost"], rel=1e-9)
        assert not any(key.startswith(("metered", "imbalance")) for key in one)


@pytest.mark.parametrize("price", [None, 60.0])
def test_meters_count_the_demand_that_comes_and_what_homes_and_batteries_settled(price: float | None) -> None:
    run = foreseen(price)
    assert run.settled and run.complete
    demand, units = run.scenario.leader.expected, run.scenario.leader.generators
    missed = 0.0
    for session, result in zip(run.scenario.sessions, run.result.sessions, strict=True):
        outcome, bound = result.outcome, slice(session.binding)
        settled = np.array(outcome.net_demand_mw[bound])
        changed = settled - np.array(outcome.baseline_load_mw[bound])  # by homes and DRAs, in this session
        earlier = run.scenario.in_session(session, result.states)
        moved = np.array(outcome.baseline_load_mw) - earlier.leader.expected
        comes = demand[session.window][bound] + moved[bound]
        np.testing.assert_allclose(outcome.metered_mw, comes + changed, atol=1e-9)
        unforeseen = np.array(outcome.imbalance_mwh)
        np.testing.assert_allclose(outcome.metered_mw, settled + unforeseen, atol=1e-9)
        paid = np.array(outcome.imbalance_price)
        if price is None:
            came = np.array([*outcome.metered_mw, *outcome.net_demand_mw[session.binding :]])
            least, at_what_came, _ = best_dispatch(earlier.leader, came, 1.0)
            np.testing.assert_allclose(paid, at_what_came[bound], atol=1e-4)
            # A wrong forecast never makes supply cheaper.
            assert outcome.supply_cost + float(paid @ unforeseen) >= least - 1e-4
        else:
            assert paid.tolist() == [price] * session.binding
        generated = sum(
            unit.quadratic * mw**2 + unit.linear * mw
            for unit in units
            for mw in outcome.dispatch_mw[unit.id][: session.binding]
        )
        assert outcome.metered_supply_cost == pytest.approx(generated + float(paid @ unforeseen), abs=1e-6)
        missed += float(np.abs(unforeseen).sum())
    assert missed > 1
    played = [PlayedSession(session, None, run.result.of_session(session.number)) for session in run.scenario.sessions]
    # There is a battery alone, so that before anybody moved anything is what came.
    np.testing.assert_allclose(follow_baseline(run.scenario, played).load, demand, atol=1e-9)
    first = run.result.sessions[0].outcome
    assert not np.any(first.imbalance_mwh)  # there is no yesterday yet


def test_market_with_foresight_misses_nothing_and_noise_repeats_itself() -> None:
    run = stackelgrid.run(foreseen().scenario.with_foresight())
    assert all(not np.any(session.outcome.imbalance_mwh) for session in run.result.sessions)
    noisy = [load({**two_days(), "forecast": {"load": {"noisy": {"sigma": 0.01}}}}) for _ in range(2)]
    for session in noisy[0].sessions:
        one, other = (market.in_session(session).leader for market in noisy)
        assert one == other and one.shape != noisy[0].leader.shape[session.window]
        assert max(one.shape) <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"load": "perfect", "pv": "perfect"}, "forecast: pv: no home has PV here; leave it out"),
        ({"price": "persistence"}, "forecast: price: the price is made in the market"),
        ({"load": [3e4] * 3}, "forecast.load has 3 numbers, the run has 47 slots"),
        ({"load": [3e4, 5e3] * 23 + [3e4]}, r"generators: in slot \d+ ramps leave .* session 1 foresees that"),
        ({"load": [500.0] * 47}, r"peak_mw: in slot \d+ appliances usually draw .* session 1 foresees that"),
    ],
)
def test_forecast_that_no_market_could_clear_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        load({**two_days(), "forecast": change})
