"""A smaller case that breaks the same promise: fewer faults, fewer homes, fewer rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from stackelgrid.node.config import Rounds
from stackelgrid.soak.cases import MAX_ROUNDS, Case, build_case
from stackelgrid.soak.play import play
from stackelgrid.soak.promises import find_violations

_MOST_PLAYS = 300


@dataclass(frozen=True)
class Recipe:
    """The arguments of `build_case`."""

    game: str
    number: int
    homes: int
    seed: int
    rounds: Mapping[str, Any]
    faults: tuple[Mapping[str, Any], ...]
    max_rounds: int = MAX_ROUNDS
    every: int | None = None
    private: bool = False

    @classmethod
    def of(cls, case: Case) -> Recipe:
        """Give the recipe of a drawn case."""
        if case.number is None:
            raise ValueError(f"{case.source} is not drawn from a seed")
        faults = [
            {"kind": fault.kind, **fault.model_dump(mode="json", by_alias=True, exclude_defaults=True)}
            for fault in case.plan.faults
        ]
        rounds = case.scenario.rounds.model_dump(exclude_defaults=True)
        homes = len(case.scenario.everyone)
        game, seed = case.scenario.game, case.plan.seed
        return cls(game, case.number, homes, seed, rounds, tuple(faults), every=case.every, private=case.private)

    def build(self) -> Case:
        """Build the case."""
        return build_case(
            self.game,
            self.number,
            self.homes,
            seed=self.seed,
            rounds=self.rounds,
            faults=self.faults,
            max_rounds=self.max_rounds,
            every=self.every,
            private=self.private,
        )

    def format_test(self) -> str:
        """Give a test to paste."""
        return "\n".join(
            [
                f"def test_case_of_seed_{self.seed}_keeps_all_promises() -> None:",
                "    case = build_case(",
                f'        "{self.game}",',
                f"        {self.number},",
                f"        homes={self.homes},",
                f"        seed={self.seed},",
                f"        rounds={dict(self.rounds)},",
                "        faults=[",
                *(f"            {dict(fault)}," for fault in self.faults),
                "        ],",
                f"        max_rounds={self.max_rounds},",
                *([] if self.every is None else [f"        every={self.every},"]),
                *(["        private=True,"] if self.private else []),
                "    )",
                "    assert find_violations(play(case)) == []",
            ]
        )


def find_broken(case: Case) -> set[str]:
    """Name the promises that a case breaks."""
    return {violation.split(":")[0] for violation in find_violations(play(case))}


def shrink(case: Case) -> Recipe:
    """Take away from a drawn case what it needs not to break one of the promises that it breaks."""
    smallest = Recipe.of(case)
    broken = find_broken(case)
    if not broken:
        raise ValueError(f"{case.source} keeps all promises")
    plays = _MOST_PLAYS
    found = True
    while found and plays > 0:
        found = False
        for smaller in islice(_make_smaller(smallest), plays):
            plays -= 1
            if _breaks(smaller, broken):
                smallest, found = smaller, True
                break
    return smallest


def _breaks(recipe: Recipe, promises: set[str]) -> bool:
    try:
        return bool(find_broken(recipe.build()) & promises)
    except ValueError:  # there is no such scenario
        return False


def _make_smaller(recipe: Recipe) -> Iterator[Recipe]:
    """Give what is a little smaller, the largest steps first."""
    for number in range(len(recipe.faults)):
        yield replace(recipe, faults=(*recipe.faults[:number], *recipe.faults[number + 1 :]))
    for homes in range(1, recipe.homes):
        yield replace(recipe, homes=homes)
    rounds = 1
    while rounds < recipe.max_rounds:
        yield replace(recipe, max_rounds=rounds)
        rounds *= 2
    for key in recipe.rounds:
        if key in Rounds.model_fields:
            yield replace(recipe, rounds={name: value for name, value in recipe.rounds.items() if name != key})
