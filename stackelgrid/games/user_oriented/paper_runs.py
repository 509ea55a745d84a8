"""The runs with which the claims and the figures of the paper are compared: the shipped case and variations of it."""

from __future__ import annotations

import numpy as np

from stackelgrid.claims import Runs
from stackelgrid.games.user_oriented.outcome import UserOrientedOutcome
from stackelgrid.games.user_oriented.scenario import UserOrientedScenario
from stackelgrid.scenarios import load
from stackelgrid.wire.arrays import Array

GAME = "user_oriented"
MULTIPLES = np.arange(1, 11) / 5
"""Multiples of the calibrated mu, 0.2 to 2."""
SCALES = (30, 60, 120, 240)
"""Numbers of customers."""


def load_case() -> UserOrientedScenario:
    """Load the shipped case."""
    scenario = load(GAME)
    assert isinstance(scenario, UserOrientedScenario)
    return scenario


def play(runs: Runs, *overrides: str) -> UserOrientedOutcome:
    """Give the outcome of the shipped case with these overrides."""
    outcome: UserOrientedOutcome = runs.outcome(GAME, *overrides)
    return outcome


def play_flat(runs: Runs) -> UserOrientedOutcome:
    """Give the outcome at the flat price before the game, which has each home's load at it."""
    flat = load_case().leader.baseline_price
    return play(runs, f"leader.price_min={flat}", f"leader.price_max={flat}")


def play_scales(runs: Runs) -> list[UserOrientedOutcome]:
    """Give the outcomes along `SCALES`."""
    return [play(runs, f"population.homes={n}", "homes_per_process=60") for n in SCALES]


def play_multiples(runs: Runs, objective: str = "stackelberg") -> list[UserOrientedOutcome]:
    """Give the outcomes along `MULTIPLES`."""
    mu = load_case().leader.mu
    return [play(runs, f"leader.mu={mu * factor:.6g}", f"leader.objective={objective}") for factor in MULTIPLES]


def charge_deviation_at(outcomes: list[UserOrientedOutcome], weight: float) -> Array:
    """Give the system's utility along `MULTIPLES`, money, the deviation charged at `weight` times the calibrated mu."""
    mu = load_case().leader.mu
    charge = np.array([mu * outcome.deviation / np.mean(outcome.baseline_load_kw) for outcome in outcomes])
    uncharged = np.array([outcome.system_utility for outcome in outcomes]) + MULTIPLES * charge
    return np.asarray(uncharged - weight * charge)
