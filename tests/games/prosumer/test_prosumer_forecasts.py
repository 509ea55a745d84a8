"""Prosumers and a utility that plan by forecasts: what comes, what meters count, and who pays for it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import stackelgrid
from stackelgrid.games.prosumer.home import Prosumer
from stackelgrid.games.prosumer.report import follow_baseline
from stackelgrid.report.run_folder import PlayedSession
from stackelgrid.runner import Run
from stackelgrid.scenarios import ScenarioError, load

SLOTS = 4 * (23 + 24)
HOURS = 0.25


def draw_days(forecast: dict[str, Any] | None = None, **leader: Any) -> dict[str, Any]:
    """Draw four prosumers, two providers, and two days of quarters from the change of clocks on, planned each 12 hours.

    One has PV alone: it draws so little that what it settled is more than it has to give up.
    """
    random = np.random.default_rng(3)
    noon = np.maximum(np.sin((np.arange(SLOTS) * HOURS % 24 - 6) * np.pi / 12), 0)
    drawn = random.uniform(20, 60, (4, SLOTS))
    drawn[3, SLOTS // 2 :] *= 0.01
    return {
        "schema": 1,
        "game": "prosumer",
        "seed": 4,
        "aggregators": 2,
        "calendar": {
            "start": "2026-03-29T00:00",
            "timezone": "Europe/Brussels",
            "slot_minutes": 15,
            "days": 2,
            "every": "12h",
        },
        "leader": {
            "tariffs": {"all": random.uniform(30, 50, SLOTS).tolist()},
            "event": {"first": "10:00", "last": "16:00"},
            "cost": {"c0": 400, "c1": -0.6, "c2": 0.003},
            "system_load_kw": (random.uniform(1.5, 1.8, SLOTS) * drawn.sum(axis=0)).tolist(),
            **leader,
        },
        "homes": [
            {
                "id": f"h{number}",
                "tariff": "all",
                "alpha": 0.5,
                "pv_cost": 9,
                "load_kw": row.tolist(),
                "pv_kw": (noon * random.uniform(60, 120, SLOTS)).tolist(),
            }
            for number, row in enumerate(drawn)
        ],
        **({} if forecast is None else {"forecast": forecast}),
    }


@functools.cache
def days(price: float | None) -> Run:
    return stackelgrid.run(draw_days({"load": "persistence", "pv": "persistence"}, imbalance_price=price))


def test_perfect_forecast_plays_as_without_one_and_meters_what_was_settled() -> None:
    plain, known = stackelgrid.run(draw_days()), stackelgrid.run(draw_days({}))
    for before, after in zip(plain.result.sessions, known.result.sessions, strict=True):
        one, other = before.outcome.content(), after.outcome.content()
        assert one == {key: other[key] for key in one}
        assert not any(key.startswith(("metered", "imbalance")) for key in one)
        assert not np.any(other["imbalance_kwh"])
        assert other["metered_kw"] == other["net_load_kw"][: after.binding]
        for name, provided in other["dr_kw"].items():
            assert other["metered_dr_kw"][name] == provided[: after.binding]
            np.testing.assert_allclose(other["metered_cost"][name], other["cost"][name][: after.binding], atol=1e-9)
        np.testing.assert_allclose(other["metered_profit"], other["provider_profit"][: after.binding], atol=1e-9)
        np.testing.assert_allclose(other["metered_saving"], other["utility_saving"][: after.binding], atol=1e-9)


@pytest.mark.parametrize("price", [None, 12.0])
def test_energy_and_money_balance_in_every_slot(price: float | None) -> None:
    run = days(price)
    assert run.settled and run.complete and run.result.rejected == {}
    leader, homes, missed, short = run.scenario.leader, run.scenario.everyone, 0.0, 0
    for session, played in zip(run.scenario.sessions, run.result.sessions, strict=True):
        outcome, window = played.outcome, slice(session.first, session.first + session.binding)
        event = leader.mark_event(session)[: session.binding]
        load_kw, pv_kw = (np.array([getattr(home, key)[window] for home in homes]) for key in ("load_kw", "pv_kw"))
        system = np.array(leader.system_load_kw[window])
        settled, unforeseen = np.array(outcome.net_load_kw[: session.binding]), np.array(outcome.imbalance_kwh)
        dr, price_paid, sold_at = (
            np.array([by_name[home.id][: session.binding] for home in homes])
            for by_name in (outcome.metered_dr_kw, outcome.pv_price, outcome.dr_price)
        )
        planned = np.array([outcome.dr_kw[home.id][: session.binding] for home in homes])
        assert np.array_equal(dr, np.minimum(planned, load_kw))
        short += int((dr < planned).sum())
        # Energy: of the prosumers, of the feeder, and what was settled and came otherwise.
        np.testing.assert_allclose(list(outcome.metered_homes_kw.values()), load_kw - pv_kw - dr, atol=1e-9)
        np.testing.assert_allclose(outcome.metered_kw, system - np.where(event, (pv_kw + dr).sum(axis=0), 0), atol=1e-9)
        np.testing.assert_allclose(outcome.metered_kw, settled + unforeseen / HOURS, atol=1e-9)
        # Money: what the utility pays for surplus is what prosumers are paid and providers keep.
        surplus, others = HOURS * (pv_kw - load_kw + dr), np.array([outcome.others[home.id] for home in homes])
        inconvenience = HOURS * 0.5 * dr**2 * (1 + dr * others[:, : session.binding])
        got = inconvenience.sum(axis=0) - np.sum(list(outcome.metered_cost.values()), axis=0)
        np.testing.assert_allclose(got, (price_paid * surplus).sum(axis=0), atol=1e-9)
        np.testing.assert_allclose(got + outcome.metered_profit, (sold_at * surplus).sum(axis=0), atol=1e-9)
        # The utility supplies what was settled, and pays for the rest.
        came = settled + unforeseen / HOURS
        each = np.full(session.binding, price) if price is not None else -0.6 + 0.006 * came
        np.testing.assert_allclose(outcome.imbalance_price, each, atol=1e-12)
        cost = HOURS * float((400 - 0.6 * settled + 0.003 * settled**2).sum()) + float(each @ unforeseen)
        assert outcome.supply_cost == pytest.approx(cost, abs=1e-9)
        saved = leader.cost.evaluate(system) - leader.cost.evaluate(np.array(outcome.metered_kw))
        np.testing.assert_allclose(outcome.metered_saving, HOURS * saved, atol=1e-9)
        if price is None:  # a wrong forecast never makes supply cheaper
            assert cost >= HOURS * float(leader.cost.evaluate(came).sum()) - 1e-9
        missed += float(np.abs(unforeseen).sum())
    assert missed > 1 and short > 0
    assert not np.any(run.result.sessions[0].outcome.imbalance_kwh)  # there is no yesterday yet


def test_load_without_an_event_is_what_came() -> None:
    run = days(None)
    played = [PlayedSession(session, None, run.result.of_session(session.number)) for session in run.scenario.sessions]
    assert follow_baseline(run.scenario, played).load == run.scenario.leader.system_load_kw


def test_prosumer_foresees_no_more_than_its_connection_carries_and_keeps_its_cap() -> None:
    scenario = load(draw_days({"load": {"noisy": {"sigma": 2.0}}, "pv": {"noisy": {"sigma": 2.0}}}))
    for session in scenario.sessions:
        for home, known in zip(scenario.in_session(session).everyone, scenario.everyone, strict=True):
            assert isinstance(known, Prosumer)
            assert max(*home.load_kw, *home.pv_kw) <= known.connection_kw
            np.testing.assert_allclose(home.limit_kw, np.minimum(0.1 * max(known.load_kw), home.load_kw))
            assert home.load_kw != known.load_kw[session.window]


def test_noise_is_that_of_the_seed_and_foresight_has_none() -> None:
    noisy = {"load": {"noisy": {"sigma": 0.2}}, "pv": {"noisy": {"sigma": 0.2}}}
    one, other, another = (load({**draw_days(noisy), "seed": seed}) for seed in (4, 4, 5))
    for session in one.sessions:
        first, again, else_ = (each.in_session(session) for each in (one, other, another))
        assert first == again
        assert first.leader.system_load_kw != else_.leader.system_load_kw
        assert first.everyone[0].load_kw != first.everyone[1].load_kw
    known = one.with_foresight()
    assert known.has_forecasts
    session = known.sessions[1]
    ahead = known.in_session(session)
    assert ahead.leader.system_load_kw == one.leader.system_load_kw[session.window]
    assert ahead.everyone[0].pv_kw == one.everyone[0].pv_kw[session.window]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": "perfect"}, "forecast: temperature: loads and PV output are given"),
        ({"price": "persistence"}, "forecast: price: tariffs are public"),
        ({"pv": [1.0]}, r"forecast.pv has 1 numbers, the run has 188 slots"),
        ({"pv": [-1.0] * SLOTS}, r"pv is -1 in slot 1, below 0"),
    ],
)
def test_forecast_that_cannot_be_made_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        load(draw_days(change))


def test_forecast_of_one_prosumer_is_its_own_and_a_list_says_nothing_of_the_feeder() -> None:
    raw = draw_days()
    raw["homes"][1]["forecast"] = {"pv": "persistence"}
    assert load(raw).has_forecasts
    raw = draw_days({"load": [30.0] * SLOTS})
    scenario = load(raw)
    last = scenario.in_session(scenario.sessions[-1])
    assert last.everyone[0].load_kw == [30.0] * last.slots
    assert last.leader.system_load_kw == raw["leader"]["system_load_kw"][scenario.sessions[-1].window]
