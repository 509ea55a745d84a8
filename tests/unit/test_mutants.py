"""The mutants of `make mutants`: each changes one thing, compiles, and is the same the next time."""

from __future__ import annotations

import ast
from pathlib import Path

from mutants.mutate import Mutant, find_mutants

CODE = '''"""A module."""

LIMIT = 3


class Settings:
    wait: float = 5.0


def count(numbers: list[int], most: int = 7) -> int:
    """Count the small ones."""
    _LOG.info("counting")
    total = 0
    for number in numbers:
        if number < LIMIT and not number == 1:
            total += 1
    numbers.clear()
    if total > 2 * LIMIT:
        _LOG.info("many")
    return min(total, most)
'''


def mutants_of(tmp_path: Path, code: str) -> list[Mutant]:
    (tmp_path / "code.py").write_text(code)
    return list(find_mutants(tmp_path, "code.py"))


def test_mutants_change_comparisons_conditions_numbers_and_statements(tmp_path: Path) -> None:
    names = {mutant.name.removeprefix("code.py ") for mutant in mutants_of(tmp_path, CODE)}
    assert {
        "module: 3 -> 4",
        "count: number < LIMIT -> number <= LIMIT",
        "count: number < LIMIT and (not number == 1) -> number < LIMIT or not number == 1",
        "count: total += 1 -> total -= 1",
        "count: total += 1 -> nothing",
        "count: numbers.clear() -> nothing",
        "count: min(total, most) -> max(total, most)",
    } <= names
    assert not any(word in name for name in names for word in ("_LOG", "Settings", "2 * LIMIT"))


def test_each_mutant_compiles_and_differs_in_one_place(tmp_path: Path) -> None:
    original = ast.unparse(ast.parse(CODE)).splitlines()
    for mutant in mutants_of(tmp_path, CODE):
        compile(mutant.source, "code.py", "exec")
        changed = mutant.source.splitlines()
        assert sum(one != other for one, other in zip(original, changed, strict=True)) == 1


def test_order_of_mutants_stays_when_other_code_is_added(tmp_path: Path) -> None:
    def order(code: str) -> list[str]:
        ranked = sorted(mutants_of(tmp_path, code), key=lambda mutant: mutant.rank)
        return [mutant.name for mutant in ranked if "more" not in mutant.name]

    assert order(CODE) == order(f"{CODE}\n\ndef more() -> int:\n    return 4 + 5\n")
