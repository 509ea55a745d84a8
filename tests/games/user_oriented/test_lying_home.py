"""The effects of one lying home, compared with theorems and with the homes that it pretends to be; and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stackelgrid.faults.plan import FaultPlan, Lie
from stackelgrid.games.user_oriented import lying_home
from stackelgrid.games.user_oriented.home import HomeProblem
from stackelgrid.games.user_oriented.lying_home import (
    NOTHING,
    OBJECTIVES,
    Effect,
    Findings,
    GroupLie,
    InGroup,
    Lies,
    Move,
    Pretence,
    SingleLie,
    TruthfulRun,
)
from stackelgrid.scenarios import Scenario, load
from stackelgrid.scenarios.yaml_file import spell
from stackelgrid.testbed import in_memory

DOC = Path(__file__).parents[3] / "docs" / "lying-home.md"
SIX = ("population.homes=6", "aggregators=2", "population.headroom=4", "leader.wholesale_price=8", "leader.price_min=7")
"""With such headroom and prices a home may answer more than twice the truth, under a welfare leader too.

At no price that a leader asks does it draw all that its connection carries."""
TWENTY = ("population.homes=20", "aggregators=2")


@pytest.fixture(scope="module", params=OBJECTIVES)
def objective(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def truthful(objective: str) -> TruthfulRun:
    return TruthfulRun(load("user_oriented", [*SIX, f"leader.objective={objective}"]))


def with_homes(folder: Path, truthful: TruthfulRun, ids: dict[str, str]) -> Scenario:
    """The same game with other homes: {id: the home of the truthful run that it equals}."""
    content: dict[str, Any] = {
        "schema": 1,
        "game": "user_oriented",
        "slots": truthful.scenario.slots,
        "aggregators": 2,
        "leader": truthful.scenario.leader.model_dump(mode="json", exclude_none=True),
        "homes": [
            {**truthful.homes[like].model_dump(mode="json", exclude_none=True), "id": name}
            for name, like in ids.items()
        ],
    }
    path = folder / "homes.yaml"
    path.write_text(spell(content))
    return load(str(path))


def price_of(scenario: Scenario) -> np.ndarray:
    return np.array(in_memory.play(scenario).rounds[-1]["price"])


def test_price_equals_that_of_several_homes_when_one_home_scales_its_answers(
    truthful: TruthfulRun, tmp_path: Path
) -> None:
    """A home that scales load and sensitivity by two answers like two homes."""
    ids = {name: name for name in truthful.homes}
    twice = price_of(with_homes(tmp_path, truthful, {**ids, "twin": "h2"}))
    without = price_of(with_homes(tmp_path, truthful, {name: name for name in truthful.homes if name != "h2"}))
    for factor, reference in ((2.0, twice), (NOTHING, without)):
        effect = truthful.play_lie("h2", factor)
        assert effect.refused == 0 and not effect.quarantined
        change = reference / truthful.price - 1
        assert np.max(np.abs(change)) > 1e-4  # the two prices differ
        assert effect.price_mean == pytest.approx(float(change.mean()), abs=1e-6)
        assert effect.price_max == pytest.approx(float(np.abs(change).max()), abs=1e-6)


def test_price_stays_when_one_of_equal_homes_lies(truthful: TruthfulRun, tmp_path: Path) -> None:
    alike = TruthfulRun(with_homes(tmp_path, truthful, {f"h{number}": "h2" for number in range(1, 5)}))
    for factor in (NOTHING, 0.3, 2.0):
        effect = alike.play_lie("h1", factor)
        assert effect.price_max < 1e-6
        assert effect.gain == pytest.approx(0, abs=1e-6 * abs(alike.outcome.homes["h1"].bill))


@pytest.mark.parametrize("factor", [NOTHING, 0.5, 2.0])
@pytest.mark.parametrize("home", ["h1", "h2", "h6"])
def test_leader_or_system_loses_when_a_home_lies(
    truthful: TruthfulRun, objective: str, home: str, factor: float
) -> None:
    effect = truthful.play_lie(home, factor)
    money = abs(truthful.leader_utility(truthful.outcome)) + 1
    if objective == "stackelberg":  # the leader's price was its best
        assert effect.leader < 1e-9 * money
    else:  # everybody's price was the best for all together
        assert effect.system < 1e-9 * money
    assert effect.price_max > 1e-5


def test_gain_lies_between_its_bounds_when_a_lie_changes_the_price(truthful: TruthfulRun) -> None:
    """A home's utility is convex in the price with slope -L (envelope): from -dp L(p) to -dp L(p + dp)."""
    name = "h2"
    effect = truthful.play_lie(name, 2.0)
    lied_price = price_under_lie(truthful, name, 2.0)
    problem = HomeProblem(truthful.homes[name])
    before, after = (problem.answer(price).load for price in (truthful.price, lied_price))
    change = lied_price - truthful.price
    assert -float(change @ before) - 1e-9 <= effect.gain <= -float(change @ after) + 1e-9
    assert effect.gain != 0
    assert effect.bill == pytest.approx(float(lied_price @ after) / float(truthful.price @ before) - 1, rel=1e-9)


def price_under_lie(truthful: TruthfulRun, home: str, factor: float) -> np.ndarray:
    lie = {"kind": "lie", "node": home, "how": "scaled", "factor": factor}
    return np.array(
        in_memory.play(truthful.scenario, plan=FaultPlan.model_validate({"faults": [lie]})).rounds[-1]["price"]
    )


def test_effect_is_zero_when_the_factor_is_one(truthful: TruthfulRun) -> None:
    effect = truthful.play_lie("h2", 1.0)
    numbers = (
        effect.price_mean,
        effect.price_max,
        effect.bill,
        effect.gain,
        effect.leader,
        effect.system,
        effect.others_worst,
    )
    assert numbers == (0,) * 7


def test_home_is_quarantined_when_it_answers_more_than_its_connection_carries(truthful: TruthfulRun) -> None:
    most = truthful.play_largest_lie("h2")
    assert most.factor > 2 and most.refused == 0
    assert truthful.play_lie("h2", 1.2 * most.factor).quarantined
    # Refused from the first round on, it counts as a home that answers nothing.
    silenced, nothing = truthful.play_lie("h2", 100.0), truthful.play_lie("h2", NOTHING)
    assert silenced.quarantined and silenced.refused == 3
    assert silenced.price_max == pytest.approx(nothing.price_max, rel=1e-5)
    assert silenced.gain == pytest.approx(nothing.gain, rel=1e-4)


def an_effect(home: str, factor: float, gain: float, *, quarantined: bool = False) -> Effect:
    return Effect(home, factor, 3 * quarantined, quarantined, 0.001, 0.002, 0.003, gain, 0.004, 0.005, -0.5, -2, -3)


def test_page_counts_the_homes_for_which_a_lie_pays() -> None:
    lies = {
        name: Lies(
            an_effect(name, NOTHING, nothing),
            an_effect(name, 2.0, most),
            tuple(an_effect(name, 0.5, 0.5 * nothing) for _ in range(7)),
            an_effect(name, 3.0, nothing, quarantined=True),
            (
                SingleLie("no load", True, Move(0.02, 6, True), Move(0.04, 5, True)),
                SingleLie("slope × 10", False, Move(0.5, 40, False), Move(0.03, 7, True)),
            ),
            (Pretence(0.9, 1.0, Move(0.1, 31, True), Move(0.006, 15, True), -1345.25),),
            (
                GroupLie("no load", InGroup(Move(0.0305, 6, True), "all", ())),
                GroupLie("slope × 10", InGroup(Move(0.0175, 9, True), "a part of its sensitivity", ())),
            ),
        )
        for name, nothing, most in (("a", 4.0, -4.0), ("b", 1.0, -1.0), ("c", -1.0, 2.5), ("d", -1.0, -0.1))
    }
    findings = Findings("stackelberg", 8.0, 200.0, lies, ("a", "b", "c"))
    page = " ".join(lying_home.write_page([findings], "figures/it.png").split())
    assert "Answering nothing pays for 2 of the 4 homes, answering the most for 1, neither for 1." in page
    # Of 4, 1, 2.5 and -0.1 the median is 1.75, 0.875 % of the mean bill.
    assert "brings a home 1.8 cents a day in the median, 0.88 % of the mean bill, and 4 cents at most (a)" in page
    assert "| b, median | 3.00, quarantined | +0.100 | +0.200 | +0.300 | +1.000 | +0.400 | +0.500 |" in page
    assert "![What a lie does](figures/it.png)" in page
    assert "the price of an hour by up to 50 %. In the run, one about the sensitivity moves it by at most 0.75" in page
    assert "| slope × 10 |" + 3 * " 50.000 (not settled in 40) | 3.000 (7) |" in page
    assert "| 0.9 | 1 | 10.000 (31) | 0.600 (15) | -1345.250 |" in page
    assert "| slope × 10 | 3.000 (7) | 1.750 (9) | a part of its sensitivity |" in page
    assert (
        "about the sensitivity move the price of an hour by up to 1.75 %, those about the load by up to 3.05 %" in page
    )
    picture = lying_home.draw([findings])
    assert picture == lying_home.draw([findings]) and picture.startswith(b"\x89PNG")


def test_shipped_page_has_the_numbers_of_the_shipped_case(objective: str) -> None:
    shipped = TruthfulRun(load("user_oriented", [f"leader.objective={objective}"]))
    examples = lying_home.choose_examples(shipped.scenario)
    effect = shipped.play_lie(examples[1], NOTHING)
    section = DOC.read_text().partition(f"## {objective}\n")[2]
    row = next(line for line in section.splitlines() if line.startswith(f"| {examples[1]}, median | nothing |"))
    cells = [float(cell) for cell in row.strip("| ").split(" | ")[2:]]
    shares = (effect.price_mean, effect.price_max, effect.bill)
    expected = [
        *(100 * share for share in shares),
        effect.gain,
        100 * effect.others_bill_mean,
        100 * effect.others_bill_worst,
    ]
    assert cells == pytest.approx([*expected, effect.others_worst, effect.leader, effect.system], abs=0.002, rel=1e-3)
    assert (DOC.parent / "figures" / "lying-home.png").stat().st_size < 150_000


def write_move(move: Move) -> str:
    return f"{100 * move.price_max:.3f} ({move.rounds})"


def test_shipped_page_has_what_lies_about_the_load_alone_and_pretended_homes_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shipped = TruthfulRun(load("user_oriented", ["leader.objective=stackelberg"]))
    examples = lying_home.choose_examples(shipped.scenario)
    section = DOC.read_text().partition("## stackelberg\n")[2]
    monkeypatch.setattr(lying_home, "_SINGLE", {})  # those about the load alone
    for lie in shipped.play_single_lies(examples[1]):
        row = next(line for line in section.splitlines() if line.startswith(f"| {lie.words} |"))
        assert row.split(" | ")[3:5] == [write_move(lie.believed), write_move(lie.played)]
    pretence = shipped.play_pretence(examples[1], 0.9, 1.1)
    row = next(line for line in section.splitlines() if line.startswith("| 0.9 | 1.1 |"))
    assert row.split(" | ")[2:4] == [write_move(pretence.told), write_move(pretence.load_alone)]


def test_lie_about_sensitivity_moves_the_price_no_further_than_the_load_can(objective: str) -> None:
    truthful = TruthfulRun(load("user_oriented", [*TWENTY, f"leader.objective={objective}"]))
    lies = truthful.play_single_lies("h03")
    by_load = max(lie.played.price_max for lie in lies if lie.about_load)
    believed = max(lie.believed.price_max for lie in lies if not lie.about_load)
    assert believed > 1.5 * by_load  # else there would be nothing to show
    for lie in lies:
        assert lie.played.settled, lie.words
        assert lie.played.price_max <= 1.5 * by_load, lie.words


def test_pretended_home_moves_the_price_no_further_than_its_load_does(objective: str) -> None:
    """Whatever its sensitivity shows the leader is a better price for the load that it tells."""
    truthful = TruthfulRun(load("user_oriented", [*TWENTY, f"leader.objective={objective}"]))
    pretence = truthful.play_pretence("h03", 0.9, 1.0)
    assert pretence.told.settled and pretence.load_alone.settled
    if objective == "stackelberg":
        assert pretence.told.price_max > pretence.load_alone.price_max and pretence.leader < 0
    else:  # convex: the load alone leads to the same price
        assert pretence.told.price_max == pytest.approx(pretence.load_alone.price_max, rel=1e-2)


def test_group_of_a_liar_is_named_and_its_sensitivity_moves_the_price_less_than_its_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truthful = TruthfulRun(load("user_oriented", [*TWENTY, "leader.objective=stackelberg"]))
    monkeypatch.setattr(lying_home, "_SINGLE", {"steep": ("slope", 1e3), "rising": ("coupling", 1e6)})
    nothing, full, largest, steep, rising = truthful.play_group_lies("h03")
    assert rising.played.found == "no sum" and "h03" in rising.played.group and len(rising.played.group) == 10
    assert steep.played.found == "a part of its sensitivity"
    assert [lie.played.found for lie in (nothing, full, largest)] == ["all"] * 3
    assert all(lie.played.move.settled for lie in (nothing, full, largest, steep, rising))
    assert max(full.played.move.price_max, steep.played.move.price_max) < largest.played.move.price_max


def test_shipped_page_has_what_a_lie_in_a_group_does() -> None:
    shipped = TruthfulRun(load("user_oriented", ["leader.objective=stackelberg"]))
    home = lying_home.choose_examples(shipped.scenario)[1]
    section = DOC.read_text().partition("## stackelberg\n")[2].partition("**In a group.**")[2]
    lie = Lie(kind="lie", node=home, how="slope", factor=10)
    row = next(line for line in section.splitlines() if line.startswith("| slope × 10 |"))
    found = shipped.play_in_group(lie)
    assert row.strip("| ").split(" | ")[2:] == [write_move(found.move), found.found]
