"""Play a random game with the current leader, and say how far below the reference it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

import stackelgrid
from benchmarks.random_games.best_price import WITHIN_CAPACITY
from benchmarks.random_games.draw import draw_game
from benchmarks.random_games.reference import Reference

BOUNDS = (1e-7, 1e-6, 1e-4, 1e-3, 1e-2)
NOTABLE = 1e-6


@dataclass(frozen=True)
class Played:
    """The end of one run.

    `utility` is the leader's, of a `welfare` game the system's; `loss` how far that is below the reference, and `lost`
    how far below the earlier leader, both relative to max(|best|, 1). `violation` of the capacity is relative to the
    largest load; a price that does not keep it, or the bounds of the price, loses infinitely.
    """

    seed: int
    utility: float
    price: list[float]
    loss: float
    lost: float
    violation: float
    flat: bool
    settled: bool
    rounds: int
    questions: int


def play(family: str, reference: Reference) -> Played:
    """Play the game of a reference in memory."""
    content = draw_game(family, reference.seed)
    run = stackelgrid.run(content)
    outcome = run.outcome
    utility = outcome.system_utility if family == "welfare" else outcome.leader_utility
    capacity, load = content["leader"].get("capacity", {}), np.array(outcome.load_kw)
    most, least = capacity.get("max_kw", math.inf), capacity.get("min_kw", -math.inf)
    violation = float(max(load.max() - most, least - load.min(), 0.0) / load.max())
    low, high = content["leader"]["price_min"], content["leader"]["price_max"]
    is_allowed = violation <= WITHIN_CAPACITY and low <= min(outcome.price) <= max(outcome.price) <= high
    best, before = reference.best.utility, reference.before
    # The earlier leader may owe a little more than the best to a capacity that it kept nearly.
    scale, reached = max(abs(best), 1.0), -math.inf if before is None else min(before.utility, best)
    return Played(
        seed=reference.seed,
        utility=utility,
        price=list(outcome.price),
        loss=(best - utility) / scale if is_allowed else math.inf,
        lost=(reached - utility) / scale,
        violation=violation,
        flat=reference.best.flat,
        settled=run.settled,
        rounds=run.result.rounds,
        questions=getattr(run.result, "questions", run.result.rounds),
    )


def tabulate(games: Sequence[Played]) -> str:
    """Make the table of the games: all, and those whose best price is one flat price apart from the others."""
    head = f"{'games':24}{'':>5}" + "".join(f"{f'<= {bound:g}':>9}" for bound in BOUNDS)
    head += f"{'largest':>10}{'rounds':>12}{'questions':>11}{'unsettled':>11}{'lost':>6}"
    kinds = {"all": list(games), "best at one flat price": [], "the others": []}
    for game in games:
        kinds["best at one flat price" if game.flat else "the others"].append(game)
    return "\n".join([head, *(_line(kind, some) for kind, some in kinds.items() if some)])


def _line(kind: str, games: Sequence[Played]) -> str:
    losses = np.array([game.loss for game in games])
    shares = "".join(f"{np.mean(losses <= bound):9.1%}" for bound in BOUNDS)
    rounds = [game.rounds for game in games]
    return (
        f"{kind:24}{len(games):5}{shares}{losses.max():10.1e}{f'{median(rounds):g} / {max(rounds)}':>12}"
        f"{max(game.questions for game in games):11}{sum(not game.settled for game in games):11}"
        f"{sum(game.lost > NOTABLE for game in games):6}"
    )
