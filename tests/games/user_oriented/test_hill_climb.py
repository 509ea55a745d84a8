"""The climb to the leader's next hilltop, driven step by step with the answers of homes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stackelgrid.games.user_oriented.hill_climb import HillClimb
from stackelgrid.games.user_oriented.home import Home, HomeProblem
from stackelgrid.games.user_oriented.home.model import Elastic, Satisfaction
from stackelgrid.games.user_oriented.leader import fixed_balance
from stackelgrid.games.user_oriented.local_response import Observation
from stackelgrid.games.user_oriented.scenario import UserOrientedScenario
from stackelgrid.scenarios import load
from stackelgrid.wire.arrays import Array


def observe(homes: list[Home], price: Array) -> Observation:
    schedules = [HomeProblem(home).answer(price) for home in homes]
    coupling = sum((each.coupling for each in schedules if each.coupling is not None), np.zeros((len(price),) * 2))
    load, slope = (np.sum([getattr(each, key) for each in schedules], axis=0) for key in ("load", "slope"))
    return Observation(price, load, slope, coupling)


def climb(scenario: UserOrientedScenario, homes: list[Home]) -> tuple[Observation, int]:
    """Climb from the flat price; give the answer at the hilltop and the number of steps."""
    here = observe(homes, np.full(scenario.slots, scenario.leader.baseline_price))
    company = replace(scenario.leader.company(scenario.slots), mu=fixed_balance(scenario.leader.mu, here.load))
    search = HillClimb(company)
    while (price := search.step(here)) is not None:
        here = observe(homes, price)
    return here, search.steps


def test_climb_ends_although_a_home_has_two_kinks_in_every_slot() -> None:
    scenario = load("user_oriented", ["population.homes=20", "aggregators=2"])
    assert isinstance(scenario, UserOrientedScenario)
    honest, steps = climb(scenario, scenario.everyone)
    assert steps < 20
    other, *rest = scenario.everyone
    shape = Satisfaction(form="quadratic", omega=(1.01 * honest.price).tolist(), alpha=(0.02 * honest.price).tolist())
    kinked = Home(
        id="kinked",
        horizon=scenario.slots,
        elastic=[Elastic(max_kw=scenario.connection_kw(other), valuation=1.0, satisfaction=shape)],
    )
    _, steps = climb(scenario, [kinked, *rest])
    assert 20 < steps < 40
