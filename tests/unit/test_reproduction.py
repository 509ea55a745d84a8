"""docs/reproduction.md is what the code generates: verdicts follow from runs, no cell is empty, misses are listed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from stackelgrid.claims import Drawing, Figure, Finding, Paper, Trend
from stackelgrid.games.user_oriented.published import TWO_CUSTOMERS
from stackelgrid.report import drawing
from stackelgrid.study.reproduction import (
    BUILT_IN,
    FIGURES,
    FITTED,
    NOT,
    REPRODUCED,
    VERDICTS,
    RunCache,
    draw_figures,
    find_papers,
    judge_figure,
    write_document,
    write_section,
)

COMMITTED = Path(__file__).parents[2] / "docs" / "reproduction.md"


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a document: rows of cells, the header first, without the line of dashes."""
    found: list[list[list[str]]] = []
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        found.append([rows[0], *rows[2:]])
    return found


PAPERS = {paper.game: paper for paper in find_papers()}


@pytest.fixture(scope="module")
def runs() -> RunCache:
    """Runs that the tests share."""
    return RunCache()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("game", PAPERS)
def test_committed_document_is_what_the_code_generates(game: str, runs: RunCache) -> None:
    assert write_section(PAPERS[game], runs) in COMMITTED.read_text()


def test_committed_document_has_every_claim_and_no_empty_cell() -> None:
    text = COMMITTED.read_text()
    everywhere = [row for table in tables(text) for row in table]
    assert all(cell for row in everywhere for cell in row)
    assert all(len({len(row) for row in table}) == 1 for table in tables(text))
    claims = [claim for paper in PAPERS.values() for claim in (*paper.figures, *paper.trends)]
    cells = {cell for row in everywhere for cell in row}
    for claim in claims:
        assert (claim.says if isinstance(claim, Trend) else claim.what) in cells
        assert claim.why


DESCRIBED = {
    "user_oriented": range(3, 9),
    "prosumer": range(3, 7),
    "load_call": range(2, 7),
    "storage_market": range(0),
}
"""The figures with results that the texts of the papers describe."""


@pytest.mark.parametrize("game", PAPERS)
def test_every_figure_that_a_paper_describes_is_drawn_and_compared(game: str) -> None:
    drawings, text = PAPERS[game].drawings, COMMITTED.read_text()
    assert [each.number for each in drawings] == [*DESCRIBED[game]]
    for each in drawings:
        path = FIGURES / f"{game}-{each.number}.png"
        assert (COMMITTED.parent / path).read_bytes().startswith(b"\x89PNG")
        (below,) = re.findall(rf"\]\({re.escape(path.as_posix())}\)\n\n(.*)", text)
        assert re.match(rf"\*\*Figure {each.number}\.\*\* .*(Holds|Holds by construction|Does not hold): .*\.$", below)
    named = {number for trend in PAPERS[game].trends for number in trend.figures}
    assert named == set(DESCRIBED[game])


def test_figure_says_what_agrees_and_what_does_not(tmp_path: Path) -> None:
    trends = (
        Trend("1, fig. 3 and 4", "a rises", "paper", "a run", lambda runs: Finding("by 2", True)),
        Trend("1, fig. 4", "b falls", "paper", "a run", lambda runs: Finding("it rises", False)),
        Trend("2, fig. 4", "a is", "paper", "a run", lambda runs: Finding("so", True), by_construction=True),
        Trend("4, theorem 3", "c", "paper", "a run", lambda runs: Finding("d", True)),
    )
    steps = Drawing(4, "A and b.", lambda runs: drawing.steps([drawing.Curve("a", [1.0, 2.0])], "a (kW)"))
    paper = Paper("game", "Title", "Gives.", (), trends, drawings=(steps,))
    section = write_section(paper, RunCache())
    assert (
        "**Figure 4.** A and b. Holds: a rises (by 2). Holds by construction: a is (so). Does not hold: b falls (it "
        "rises)." in section
    )
    draw_figures([paper], RunCache(), tmp_path / "figures")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["game-4.png"]


def test_summary_counts_the_verdicts_and_lists_the_misses() -> None:
    text = COMMITTED.read_text()
    summary, *claims = tables(text)
    verdicts = [row[-1] for table in claims for row in table[1:]]
    assert set(verdicts) == set(VERDICTS)
    for column, verdict in enumerate(VERDICTS, start=1):
        assert sum(int(row[column]) for row in summary[1:]) == verdicts.count(verdict)
    listed = text.split("## What does not reproduce")[1].split("\n## ")[0]
    assert len(re.findall(r"^- ", listed, re.MULTILINE)) == verdicts.count(NOT)
    assert "Not explained." not in listed


def look(game: str, says: str, runs: RunCache) -> Finding:
    """Look at a trend of a game's paper."""
    return next(trend for trend in PAPERS[game].trends if trend.says == says).look(runs)


def test_gain_of_homes_is_the_change_of_their_own_bills(runs: RunCache) -> None:
    """Without batteries there is no market: homes end where the schedules without the market do."""
    with_market, without = (
        sum(home.bill for home in runs.outcome("storage_market", *batteries).homes.values())
        for batteries in ((), ("population.battery=null",))
    )
    here = look("storage_market", "the market is mutually advantageous", runs).here
    assert f"homes' bills {with_market - without:+.2f} dollars" in here


def test_trend_of_fairness_fails_when_some_steps_are_equal(runs: RunCache) -> None:
    never_fairer = "calls are never fairer with a smaller λ, and less fair until the limit is reached"
    assert not look("load_call", "calls are less fair the smaller λ", runs).holds
    assert look("load_call", never_fairer, runs).holds


def test_two_best_prices_of_two_customers(runs: RunCache) -> None:
    """The rich one alone pays 4 p (1 - p / 10), at most 10 at p = 5; both pay 16 p - 6.4 p^2, 10 at p = 1.25."""
    uniqueness = look("user_oriented", "the equilibrium of [UO-16] is unique", runs)
    assert not uniqueness.holds
    assert "1.25 and 5: 10.00 each" in uniqueness.here
    for start in (1.25, 5):
        bounds = (f"leader.baseline_price={start}", "leader.price_min=0", "leader.price_max=10")
        outcome = runs.outcome("user_oriented", *TWO_CUSTOMERS, *bounds)
        (price,) = outcome.price
        expected = price * sum(max(0.0, most * (1 - price / value)) for most, value in ((4, 10), (12, 2)))
        assert outcome.leader_utility == pytest.approx(expected) == pytest.approx(10)


def test_bills_of_the_adaptive_scheme_fall_no_more_than_with_a_larger_mu(runs: RunCache) -> None:
    here = look("user_oriented", "the adaptive scheme rewards customers with lower bills", runs)
    adaptive, doubled = map(float, re.findall(r"[+-]\d+\.\d+(?= %)", here.here))
    assert (adaptive < doubled) is here.holds


def test_section_is_the_same_when_written_twice() -> None:
    assert write_section(PAPERS["load_call"], RunCache()) == write_section(PAPERS["load_call"], RunCache())


def test_figure_is_reproduced_within_half_its_last_digit() -> None:
    claim = Figure("1", "x", "7.55", "kWh", "paper", "a run", lambda runs: 7.55)
    assert [judge_figure(claim, ours) for ours in (7.5451, 7.5549)] == [REPRODUCED] * 2
    assert [judge_figure(claim, ours) for ours in (7.5449, 7.5551)] == [NOT] * 2
    fitted = replace(claim, fitted=True, tolerance="0.1")
    assert [judge_figure(fitted, ours) for ours in (7.46, 7.66)] == [FITTED, NOT]


def test_document_lists_claims_that_do_not_hold() -> None:
    figures = (Figure("2.1", "peak", "10", "kW", "paper", "a run", lambda runs: 12, fitted=True, why="Another day."),)
    trends = (
        Trend("2.2", "load falls", "paper", "a run", lambda runs: Finding("it rises", False), "Prices fell."),
        Trend("2.3", "price falls", "paper", "a run", lambda runs: Finding("it does", True), "Never shown."),
        Trend("2.4", "1 = 1", "paper", "a run", lambda runs: Finding("so", True), "Never shown.", by_construction=True),
    )
    text = write_document([Paper("game", "Title", "Gives.", figures, trends)], RunCache())
    assert "- game, 2.1 (paper): peak 10 kW. Here: 12.0 kW. Another day." in text
    assert "- game, 2.2 (paper): load falls. Here: it rises. Prices fell." in text
    assert "Never shown." not in text
    assert tables(text)[0][1] == ["[game](#game)", "1", "0", "1", "2"]
    assert [row[-1] for table in tables(text)[1:] for row in table[1:]] == [NOT, NOT, REPRODUCED, BUILT_IN]


def test_derived_mean_is_peak_by_ratio_within_their_rounding() -> None:
    """Mean = peak / PAR; its tolerance is what the rounding of both leaves open."""
    by_what = {claim.what: claim for claim in PAPERS["user_oriented"].figures}
    for when in ("before", "after"):
        peak, ratio, mean = (by_what[f"{part} {when}"] for part in ("peak", "PAR", "mean load"))
        published = float(peak.published) / float(ratio.published)
        assert abs(published - float(mean.published)) < 0.005
        corners = [
            (float(peak.published) + i * peak.margin) / (float(ratio.published) + j * ratio.margin)
            for i in (-1, 1)
            for j in (-1, 1)
        ]
        assert max(abs(corner - float(mean.published)) for corner in corners) == pytest.approx(mean.margin, abs=0.01)


def test_run_cache_plays_once_and_refuses_a_run_that_does_not_settle() -> None:
    runs = RunCache()
    assert runs.outcome("load_call") is runs.outcome("load_call")
    assert runs.outcome("load_call") != runs.outcome("load_call", "leader.target_kwh=1500")
    with pytest.raises(RuntimeError, match=r"leader.max_rounds=1: not settled"):
        runs.outcome("user_oriented", "population.homes=6", "leader.max_rounds=1")
