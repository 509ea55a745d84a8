"""Games are found by folder and by entry point; one that is broken is named, with the part and the mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackelgrid.registry import (
    GameError,
    UnknownAlgorithmError,
    UnknownGameError,
    find,
    find_algorithm,
    find_homes,
    list_algorithms,
    list_extensions,
    list_games,
)
from stackelgrid.scenarios import load
from stackelgrid.testbed.run_folder import installed_versions

GAME = 'from stackelgrid.registry import Game\n\nGAME = Game(package=__name__, title="broken")\n'


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Install a game of another package, of the content that the test gives; its name."""
    name = f"broken_{abs(hash(request.node.name))}"
    (tmp_path / name).mkdir()
    for file, content in request.param.items():
        (tmp_path / name / file).write_text(content)
    distribution = tmp_path / f"{name}-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = {"games": "GAME", "algorithms": "ALGORITHM"}
    (distribution / "entry_points.txt").write_text(
        "".join(f"[stackelgrid.{group}]\n{name} = {name}:{part}\n" for group, part in points.items())
    )
    monkeypatch.syspath_prepend(tmp_path)
    find.cache_clear()
    find_algorithm.cache_clear()
    return name


def test_games_in_the_tree_name_parts_that_exist() -> None:
    for name in list_games():
        game = find(name)
        parts = ("upper", "lower", "leader", "aggregator", "home", "homes", "scenario", "outcome", "certificate")
        assert all(game.load(part) is not None for part in parts)


def test_game_of_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownGameError, match="'nowhere' is not a game that is installed; those are load_call, "):
        find("nowhere")


@pytest.mark.parametrize("install", [{"__init__.py": ""}, {"__init__.py": "import no_such_module"}], indirect=True)
def test_game_that_cannot_be_imported_is_named(install: str) -> None:
    with pytest.raises(GameError, match=f"game {install}: {install}:GAME cannot be imported"):
        find(install)


@pytest.mark.parametrize("install", [{"__init__.py": GAME}, {"__init__.py": GAME, "leader.py": ""}], indirect=True)
def test_game_whose_part_is_not_there_is_named_with_the_part(install: str) -> None:
    with pytest.raises(GameError, match=f"game {install}: its leader 'leader:UtilitySettings' cannot be loaded"):
        find(install).load("leader")


@pytest.mark.parametrize("install", [{"__init__.py": GAME, "leader.py": "import no_such_module"}], indirect=True)
def test_package_that_a_game_needs_is_reported_as_missing(install: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        find(install).load("leader")


def test_versions_of_packages_that_are_not_installed_are_left_out() -> None:
    assert installed_versions(["numpy", "no-such-package"]).keys() == {"numpy"}


@pytest.mark.parametrize("install", [{"__init__.py": GAME}], indirect=True)
def test_packages_that_bring_games_are_listed_once(install: str) -> None:
    assert list_extensions().count(install) == 1


# --- algorithms ---

ALGORITHM = """from stackelgrid.registry import Algorithm

ALGORITHM = Algorithm(package=__name__, title="broken", game="{game}", leader="leader:Search")
"""
OURS, OTHERS = ALGORITHM.format(game="user_oriented"), ALGORITHM.format(game="prosumer")


def test_algorithms_in_the_tree_name_parts_that_exist() -> None:
    for name in ("newton", "loads_only", "paper_003", "dual_decomposition"):
        algorithm = find_algorithm("user_oriented", name)
        assert algorithm.load("leader") is not None and algorithm.home is None and algorithm.title
    assert find_homes("user_oriented", None) is find("user_oriented").load("homes")


@pytest.mark.parametrize("install", [{"__init__.py": OURS}], indirect=True)
def test_algorithm_of_another_package_is_listed_after_those_of_the_game(install: str) -> None:
    assert list_algorithms("user_oriented") == ["newton", "loads_only", "paper_003", "dual_decomposition", install]
    assert find_algorithm("user_oriented", install).title == "broken"
    with pytest.raises(UnknownAlgorithmError, match="has no home's half"):
        find_homes("user_oriented", install)


@pytest.mark.parametrize("install", [{"__init__.py": OTHERS}], indirect=True)
def test_algorithm_of_another_game_is_unknown(install: str) -> None:
    with pytest.raises(UnknownAlgorithmError, match=f"'{install}' is not an algorithm of user_oriented"):
        find_algorithm("user_oriented", install)


@pytest.mark.parametrize(
    "install", [{"__init__.py": ""}, {"__init__.py": "import no_such_module"}, {"__init__.py": "ALGORITHM = 3"}],
    indirect=True,
)  # fmt: skip
def test_algorithm_that_cannot_be_used_is_named(install: str) -> None:
    with pytest.raises(GameError, match=f"algorithm {install}: .*; mend or uninstall it"):
        find_algorithm("user_oriented", install)


@pytest.mark.parametrize("install", [{"__init__.py": OURS}], indirect=True)
def test_algorithm_whose_half_is_not_there_is_named_with_it(install: str) -> None:
    with pytest.raises(
        GameError, match=f"algorithm {install}: its leader 'leader:Search' cannot be loaded .*ALGORITHM"
    ):
        load("user_oriented", [f"leader.algorithm={install}"]).rehearse()
