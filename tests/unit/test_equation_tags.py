"""Each equation has a tag that leads from docs/games to the code and back: [UO-7] is equation 7 of user_oriented."""

import re
from pathlib import Path

import pytest

from stackelgrid.registry import list_games

ROOT = Path(__file__).parents[2]
TAG = re.compile(r"\[([A-Z]{2}-\w+)\]")
DEFINED = re.compile(r"\*\*\[([A-Z]{2}-\w+)\]\*\*")


def tags_defined(game: str) -> list[str]:
    """The tags that the game's page defines, one for each place."""
    return DEFINED.findall((ROOT / "docs" / "games" / f"{game}.md").read_text(encoding="utf-8"))


def tags_used(game: str) -> set[str]:
    """The tags that the game's code uses."""
    modules = (ROOT / "stackelgrid" / "games" / game).rglob("*.py")
    return {tag for module in modules for tag in TAG.findall(module.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("game", list_games())
def test_tags_of_a_game_resolve_both_ways(game: str) -> None:
    defined, used = set(tags_defined(game)), tags_used(game)
    assert len(defined) >= 3
    assert used - defined == set(), f"used in stackelgrid/games/{game}, not defined in docs/games/{game}.md"
    assert defined - used == set(), f"defined in docs/games/{game}.md, not used in stackelgrid/games/{game}"


@pytest.mark.parametrize("game", list_games())
def test_tags_of_a_game_are_defined_once(game: str) -> None:
    defined = tags_defined(game)
    assert sorted(defined) == sorted(set(defined))


def test_tags_of_two_games_do_not_share_a_prefix() -> None:
    prefixes = [{tag.split("-")[0] for tag in tags_defined(game)} for game in list_games()]
    assert all(len(each) == 1 for each in prefixes)
    assert len(set.union(*prefixes)) == len(list_games())


def test_tags_are_the_only_way_to_name_an_equation_in_code() -> None:
    old = re.compile(r"\bequations? \(?\d|\(equations? ")
    # What a report or a comparison shows to its reader names the paper's own equations.
    shown = ("report.py", "published.py")
    found = [
        f"{module.relative_to(ROOT)}: {line.strip()}"
        for module in (ROOT / "stackelgrid" / "games").rglob("*.py")
        if module.name not in shown
        for line in module.read_text(encoding="utf-8").splitlines()
        if old.search(line)
    ]
    assert found == []
