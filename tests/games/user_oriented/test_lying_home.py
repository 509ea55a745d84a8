"""What one lying home does, held against theorems and against the homes that it pretends to be; and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stackelgrid.faults.plan import FaultPlan
from stackelgrid.games.user_oriented import lying_home as liar
from stackelgrid.games.user_oriented.home import HomeProblem
from stackelgrid.games.user_oriented.lying_home import NOTHING, OBJECTIVES, Case, Effect, Findings
from stackelgrid.scenarios import Scenario, load
from stackelgrid.scenarios.yaml_file import spell
from stackelgrid.testbed import in_memory

DOC = Path(__file__).parents[3] / "docs" / "lying-home.md"
SIX = ("population.homes=6", "aggregators=2", "population.headroom=4", "leader.wholesale_price=8")
"""With such headroom, at such prices, a home may answer more than twice the truth, under a welfare leader too."""


@pytest.fixture(scope="module", params=OBJECTIVES)
def objective(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def case(objective: str) -> Case:
    return Case(load("user_oriented", [*SIX, f"leader.objective={objective}"]))


def with_homes(folder: Path, case: Case, ids: dict[str, str]) -> Scenario:
    """The same game with these homes: {id: the home of `case` that it is like}."""
    content: dict[str, Any] = {
        "schema": 1,
        "game": "user_oriented",
        "slots": case.scenario.slots,
        "aggregators": 2,
        "leader": case.scenario.leader.model_dump(mode="json", exclude_none=True),
        "homes": [
            {**case.homes[like].model_dump(mode="json", exclude_none=True), "id": name} for name, like in ids.items()
        ],
    }
    path = folder / "homes.yaml"
    path.write_text(spell(content))
    return load(str(path))


def price_of(scenario: Scenario) -> np.ndarray:
    return np.array(in_memory.play(scenario).rounds[-1]["price"])


def test_a_liar_gets_the_price_that_as_many_such_homes_would_have_got(case: Case, tmp_path: Path) -> None:
    """Scaling load and sensitivity alike is to be two homes: a game with that home twice, both truthful, says so."""
    ids = {name: name for name in case.homes}
    twice = price_of(with_homes(tmp_path, case, {**ids, "twin": "h2"}))
    without = price_of(with_homes(tmp_path, case, {name: name for name in case.homes if name != "h2"}))
    for factor, reference in ((2.0, twice), (NOTHING, without)):
        told = case.told("h2", factor)
        assert told.refused == 0 and not told.quarantined
        change = reference / case.price - 1
        assert np.max(np.abs(change)) > 1e-4  # there is something to tell apart
        assert told.price_mean == pytest.approx(float(change.mean()), abs=1e-6)
        assert told.price_max == pytest.approx(float(np.abs(change).max()), abs=1e-6)


def test_among_homes_that_are_alike_no_lie_changes_the_price(case: Case, tmp_path: Path) -> None:
    alike = Case(with_homes(tmp_path, case, {f"h{number}": "h2" for number in range(1, 5)}))
    for factor in (NOTHING, 0.3, 2.0):
        told = alike.told("h1", factor)
        assert told.price_max < 1e-6
        assert told.gain == pytest.approx(0, abs=1e-6 * abs(alike.truth.homes["h1"]["bill"]))


@pytest.mark.parametrize("factor", [NOTHING, 0.5, 2.0])
@pytest.mark.parametrize("home", ["h1", "h2", "h6"])
def test_nobody_gains_more_than_theory_allows(case: Case, objective: str, home: str, factor: float) -> None:
    told = case.told(home, factor)
    money = abs(case.leader_utility(case.price, case.truth)) + 1
    if objective == "stackelberg":  # the leader's price was its best
        assert told.leader < 1e-9 * money
    else:  # everybody's price was the best for all together
        assert told.system < 1e-9 * money
    assert told.price_max > 1e-5


def test_what_it_gains_is_what_its_price_falls(case: Case) -> None:
    """A home's utility is convex in the price with slope -L (envelope): from -dp L(p) to -dp L(p + dp)."""
    name = "h2"
    told = case.told(name, 2.0)
    lied_price = price_under_lie(case, name, 2.0)
    problem = HomeProblem(case.homes[name])
    before, after = (problem.answer(price).load for price in (case.price, lied_price))
    change = lied_price - case.price
    assert -float(change @ before) - 1e-9 <= told.gain <= -float(change @ after) + 1e-9
    assert told.gain != 0
    assert told.bill == pytest.approx(float(lied_price @ after) / float(case.price @ before) - 1, rel=1e-9)


def price_under_lie(case: Case, home: str, factor: float) -> np.ndarray:
    lie = {"kind": "lie", "node": home, "how": "scaled", "factor": factor}
    return np.array(in_memory.play(case.scenario, plan=FaultPlan.model_validate({"faults": [lie]})).rounds[-1]["price"])


def test_the_truth_is_no_lie(case: Case) -> None:
    told = case.told("h2", 1.0)
    numbers = (told.price_mean, told.price_max, told.bill, told.gain, told.leader, told.system, told.others_worst)
    assert numbers == (0,) * 7


def test_the_most_is_what_the_connection_carries_and_more_is_quarantined(case: Case) -> None:
    most = case.at_most("h2")
    assert most.factor > 2 and most.refused == 0
    assert case.told("h2", 1.2 * most.factor).quarantined
    # Refused from the first round on it counts as a home that answers nothing.
    silenced, nothing = case.told("h2", 100.0), case.told("h2", NOTHING)
    assert silenced.quarantined and silenced.refused == 3
    assert silenced.price_max == pytest.approx(nothing.price_max, rel=1e-5)
    assert silenced.gain == pytest.approx(nothing.gain, rel=1e-4)


def effect(home: str, factor: float, gain: float, *, quarantined: bool = False) -> Effect:
    return Effect(home, factor, 3 * quarantined, quarantined, 0.001, 0.002, 0.003, gain, 0.004, 0.005, -0.5, -2, -3)


def test_the_page_counts_for_whom_it_pays() -> None:
    told = {
        name: liar.Told(
            effect(name, NOTHING, nothing),
            effect(name, 2.0, most),
            tuple(effect(name, 0.5, 0.5 * nothing) for _ in range(7)),
            effect(name, 3.0, nothing, quarantined=True),
        )
        for name, nothing, most in (("a", 4.0, -4.0), ("b", 1.0, -1.0), ("c", -1.0, 2.5), ("d", -1.0, -0.1))
    }
    found = Findings("stackelberg", 8.0, 200.0, told, ("a", "b", "c"))
    page = " ".join(liar.page([found], "figures/it.png").split())
    assert "Answering nothing pays for 2 of the 4 homes, answering the most for 1, neither for 1." in page
    # Of 4, 1, 2.5 and -0.1 the median is 1.75, 0.875 % of the mean bill.
    assert "brings a home 1.8 cents a day in the median, 0.88 % of the mean bill, and 4 cents at most (a)" in page
    assert "| b, median | 3.00, quarantined | +0.100 | +0.200 | +0.300 | +1.000 | +0.400 | +0.500 |" in page
    assert "![What a lie does](figures/it.png)" in page
    picture = liar.draw([found])
    assert picture == liar.draw([found]) and picture.startswith(b"\x89PNG")


def test_the_shipped_page_tells_what_the_shipped_case_gives(objective: str) -> None:
    shipped = Case(load("user_oriented", [f"leader.objective={objective}"]))
    few = liar.small_median_large(shipped.scenario)
    told = shipped.told(few[1], NOTHING)
    section = DOC.read_text().partition(f"## {objective}\n")[2]
    row = next(line for line in section.splitlines() if line.startswith(f"| {few[1]}, median | nothing |"))
    cells = [float(cell) for cell in row.strip("| ").split(" | ")[2:]]
    shares = (told.price_mean, told.price_max, told.bill)
    expected = [
        *(100 * share for share in shares),
        told.gain,
        100 * told.others_bill_mean,
        100 * told.others_bill_worst,
    ]
    assert cells == pytest.approx([*expected, told.others_worst, told.leader, told.system], abs=0.002, rel=1e-3)
    assert (DOC.parent / "figures" / "lying-home.png").stat().st_size < 150_000
