"""docs/reproduction.md is what the code generates: verdicts follow from runs, no cell is empty, misses are listed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from stackelgrid.claims import (
    Figure,
    Paper,
    Runs,
    Seen,
    Trend,
)
from stackelgrid.games.load_call import published as load_call
from stackelgrid.games.prosumer import published as prosumer
from stackelgrid.games.storage_market import published as storage_market
from stackelgrid.games.user_oriented import published as user_oriented
from stackelgrid.study.reproduction import FITTED, NOT, REPRODUCED, document, figure_verdict, papers, section

COMMITTED = Path(__file__).parents[2] / "docs" / "reproduction.md"


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a document: rows of cells, the header first, without the line of dashes."""
    found: list[list[list[str]]] = []
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        found.append([rows[0], *rows[2:]])
    return found


@pytest.mark.parametrize("paper", [load_call.PAPER, prosumer.PAPER], ids=lambda paper: paper.game)
def test_the_committed_document_is_what_the_code_generates(paper: Paper) -> None:
    assert section(paper, Runs()) in COMMITTED.read_text()


def test_the_committed_document_has_every_claim_and_no_empty_cell() -> None:
    text = COMMITTED.read_text()
    everywhere = [row for table in tables(text) for row in table]
    assert all(cell for row in everywhere for cell in row)
    assert all(len({len(row) for row in table}) == 1 for table in tables(text))
    claims = [claim for paper in papers() for claim in (*paper.figures, *paper.trends)]
    cells = {cell for row in everywhere for cell in row}
    for claim in claims:
        assert (claim.says if isinstance(claim, Trend) else claim.what) in cells
        assert claim.why


def test_the_summary_counts_the_verdicts_and_lists_the_misses() -> None:
    text = COMMITTED.read_text()
    summary, *claims = tables(text)
    verdicts = [row[-1] for table in claims for row in table[1:]]
    assert set(verdicts) == {REPRODUCED, FITTED, NOT}
    for column, verdict in enumerate((REPRODUCED, FITTED, NOT), start=1):
        assert sum(int(row[column]) for row in summary[1:]) == verdicts.count(verdict)
    listed = text.split("## What does not reproduce")[1].split("\n## ")[0]
    assert len(re.findall(r"^- ", listed, re.MULTILINE)) == verdicts.count(NOT)
    assert "Not explained." not in listed


def seen(paper: Paper, says: str) -> Seen:
    """What runs show of a trend."""
    return next(trend for trend in paper.trends if trend.says == says).look(Runs())


def test_homes_gain_what_their_own_bills_fall_by() -> None:
    """Without batteries there is no market: homes end where the schedules without the market do."""
    with_market, without = (
        sum(home.bill for home in Runs().outcome("storage_market", *batteries).homes.values())
        for batteries in ((), ("population.battery=null",))
    )
    told = seen(storage_market.PAPER, "the market is mutually advantageous").here
    assert f"homes' bills {with_market - without:+.2f} dollars" in told


def test_fairness_that_rests_at_some_steps_does_not_fall_throughout() -> None:
    assert not seen(load_call.PAPER, "calls are less fair the smaller λ").holds
    assert seen(
        load_call.PAPER, "calls are never fairer with a smaller λ, and less fair until the limit is reached"
    ).holds


def test_generated_twice_it_is_the_same() -> None:
    assert section(load_call.PAPER, Runs()) == section(load_call.PAPER, Runs())


def test_a_figure_is_reproduced_within_half_its_last_digit() -> None:
    claim = Figure("1", "x", "7.55", "kWh", "paper", "a run", lambda runs: 7.55)
    assert [figure_verdict(claim, ours) for ours in (7.5451, 7.5549)] == [REPRODUCED] * 2
    assert [figure_verdict(claim, ours) for ours in (7.5449, 7.5551)] == [NOT] * 2
    fitted = replace(claim, fitted=True, tolerance="0.1")
    assert [figure_verdict(fitted, ours) for ours in (7.46, 7.66)] == [FITTED, NOT]


def test_what_does_not_hold_is_said_openly() -> None:
    figures = (Figure("2.1", "peak", "10", "kW", "paper", "a run", lambda runs: 12, fitted=True, why="Another day."),)
    trends = (
        Trend("2.2", "load falls", "paper", "a run", lambda runs: Seen("it rises", False), "Prices fell."),
        Trend("2.3", "price falls", "paper", "a run", lambda runs: Seen("it does", True), "Never shown."),
    )
    text = document([Paper("game", "Title", "Gives.", figures, trends)], Runs())
    assert "- game, 2.1 (paper): peak 10 kW. Here: 12.0 kW. Another day." in text
    assert "- game, 2.2 (paper): load falls. Here: it rises. Prices fell." in text
    assert "Never shown." not in text
    assert tables(text)[0][1] == ["[game](#game)", "1", "0", "2"]
    assert [row[-1] for table in tables(text)[1:] for row in table[1:]] == [NOT, NOT, REPRODUCED]


def test_derived_means_follow_from_the_printed_peaks_and_ratios() -> None:
    """Mean = peak / PAR; its tolerance is what the rounding of both leaves open."""
    by_what = {claim.what: claim for claim in user_oriented.PAPER.figures}
    for when in ("before", "after"):
        peak, ratio, mean = (by_what[f"{part} {when}"] for part in ("peak", "PAR", "mean load"))
        published = float(peak.published) / float(ratio.published)
        assert abs(published - float(mean.published)) < 0.005
        corners = [
            (float(peak.published) + i * peak.allowed) / (float(ratio.published) + j * ratio.allowed)
            for i in (-1, 1)
            for j in (-1, 1)
        ]
        assert max(abs(corner - float(mean.published)) for corner in corners) == pytest.approx(mean.allowed, abs=0.01)


def test_runs_play_once_and_refuse_what_did_not_settle() -> None:
    runs = Runs()
    assert runs.outcome("load_call") is runs.outcome("load_call")
    assert runs.outcome("load_call") != runs.outcome("load_call", load_call.LARGER)
    with pytest.raises(ArithmeticError, match=r"leader.max_rounds=1: not settled"):
        runs.outcome("user_oriented", "population.homes=6", "leader.max_rounds=1")
