"""The reference of each game, stored by seed: the best that is known, and what an earlier leader reached.

`stored/FAMILY.json` has a line per game. `best` is the leader's utility at the best price, of a `welfare` game the
system's at its optimum, money; `before` is where the leader of commit feeeccc4 ended: a climb from the baseline price.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.random_games.best_coupled import find_best_coupled
from benchmarks.random_games.best_price import find_best_price
from benchmarks.random_games.best_welfare import find_best_welfare
from benchmarks.random_games.draw import draw_game
from stackelgrid.model import StrictModel

STORED = Path(__file__).parent / "stored"


class Best(StrictModel):
    """The best price known, (T,), and the utility there; `flat` if a price that is the same in all slots earns it."""

    utility: float
    price: list[float]
    flat: bool


class Before(StrictModel):
    """The end of a run by an earlier leader."""

    utility: float
    price: list[float]
    rounds: int
    settled: bool


class Reference(StrictModel):
    """The reference of one game; `before` is None where no earlier leader played it."""

    seed: int
    best: Best
    before: Before | None = None


def read(family: str) -> dict[int, Reference]:
    """Read the stored references, by seed."""
    file = STORED / f"{family}.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return {row["seed"]: Reference.model_validate(row) for row in rows}


def write(family: str, references: dict[int, Reference]) -> None:
    """Write references, numbers to twelve digits."""
    lines = [
        json.dumps(_round(references[seed].model_dump(exclude_none=True)), separators=(",", ":"))
        for seed in sorted(references)
    ]
    STORED.mkdir(exist_ok=True)
    (STORED / f"{family}.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def find(family: str, seed: int) -> Reference:
    """Search the reference of a game that is not stored."""
    search = {"uncoupled": find_best_price, "coupled": find_best_coupled, "welfare": find_best_welfare}[family]
    best = search(draw_game(family, seed))
    return Reference(seed=seed, best=Best(utility=best.utility, price=best.price.tolist(), flat=best.is_flat))


def _round(value: object) -> object:
    match value:
        case float():
            return float(f"{value:.12g}")
        case list():
            return [_round(each) for each in value]
        case dict():
            return {key: _round(each) for key, each in value.items()}
    return value
