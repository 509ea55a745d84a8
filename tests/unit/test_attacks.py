"""Attacks on homes: each works where we say that it does, and fails where we say that it fails."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackelgrid import cli
from stackelgrid.attacks import (
    absurd_prices,
    all_but_one,
    broken_masks,
    connection,
    drop_out,
    membership,
    one_answer,
    page,
    sparse_sum,
    suite,
)
from stackelgrid.attacks.findings import LEVELS, Finding, Level
from stackelgrid.attacks.masked_group import MaskedGroup
from stackelgrid.attacks.targets import Population
from stackelgrid.attacks.views import GroupSums
from stackelgrid.errors import ConfigError
from stackelgrid.masks.roster import Roster
from stackelgrid.scenarios import load
from stackelgrid.wire.arrays import Array
from stackelgrid.wire.masks import MaskedAnswer, MaskEntry, MaskRoster

PAGE = Path(__file__).parents[2] / "docs" / "privacy.md"
OFF, OFF_LOADS, COMMITTEE, COMMITTEE_LOADS = LEVELS
SUMMED = pytest.mark.parametrize("level", [COMMITTEE, COMMITTEE_LOADS], ids=str)
EXACT = 1e-12
ROUNDED = 1e-6
"""What fixed point leaves of an exact recovery."""


@pytest.fixture(scope="module")
def population() -> Population:
    return Population.of(load("user_oriented", []), 100)


@pytest.fixture(scope="module")
def prices(population: Population) -> list[Array]:
    """Prices of a leader that comes to its end, as in a run: the flat one, then each nearer to the last."""
    hours = np.arange(24)
    last = population.flat * (0.85 + 0.12 * np.sin(2 * np.pi * (hours - 12) / 24) + 0.02 * np.cos(3.0 * hours))
    return [population.flat, *(last + 0.1**number * (population.flat - last) for number in range(1, 6))]


def take(findings: Iterable[Finding], what: str = "", variant: str = "") -> Finding:
    (found,) = [each for each in findings if each.what.startswith(what) and each.variant == variant]
    return found


# --- where each answer is read ---


def test_one_answer_tells_appliance_wear_and_battery(population: Population, prices: Sequence[Array]) -> None:
    found = list(one_answer.play(population.cut(20), OFF, population.flat, prices[1]))
    assert {each.what for each in found} == {
        one_answer.LOAD,
        one_answer.WORTH,
        one_answer.WEAR,
        one_answer.CHARGING,
    }
    assert all(each.error < EXACT and each.succeeds and each.share == 1 for each in found)


def test_loads_at_the_leaders_prices_hide_homes_with_storage_and_loads_at_two_flat_prices_hide_nobody(
    population: Population, prices: Sequence[Array]
) -> None:
    found = list(one_answer.play(population.cut(20), OFF_LOADS, population.flat, prices[1]))
    assert take(found, one_answer.WITHOUT_STORAGE).error < EXACT
    assert take(found, one_answer.WITH_STORAGE).error > 0.35
    assert not take(found, one_answer.WITH_STORAGE).succeeds
    for what in (one_answer.FROM_FLAT_PRICES, one_answer.WEAR, one_answer.CHARGING):
        assert take(found, what).error < 1e-10
    assert take(found, one_answer.FROM_NEIGHBOURS).error < 1e-8  # loads are exact to some 1e-14 of it


def test_absurd_prices_tell_all_of_an_appliance_and_a_tight_band_hides_it(population: Population) -> None:
    found = list(absurd_prices.play(population.cut(50), OFF_LOADS, population.flat, population.bounds))
    unbounded = [each for each in found if not each.variant]
    assert len(unbounded) == 3 and all(each.error < EXACT for each in unbounded)
    # The leader's own bounds are as wide as an attacker could wish.
    assert all(each.succeeds for each in found if each.variant == "price_band 1 to 30")
    assert not any(each.succeeds for each in found if each.variant == "price_band 4.62 to 13.9")


# --- where groups are summed ---


@SUMMED
def test_no_attack_on_sums_of_fifty_beats_a_guess_but_those_that_are_said_to(
    level: Level, population: Population, prices: list[Array]
) -> None:
    groups, flat = population.cut(50), population.flat
    found = [
        *one_answer.play(groups, level, flat, prices[1]),
        *drop_out.play(groups, level, prices),
        *absurd_prices.play(groups, level, flat, population.bounds),
        *all_but_one.play(groups, level, flat),
    ]
    kept = [each for each in found if not each.variant.startswith("without")]
    assert len(kept) > 15
    assert [each for each in kept if each.succeeds] == []


@SUMMED
def test_equal_shares_of_a_sum_are_all_that_it_tells(
    level: Level, population: Population, prices: Sequence[Array]
) -> None:
    found = list(one_answer.play(population.cut(20), level, population.flat, prices[1]))
    for what in (one_answer.LOAD, one_answer.WORTH if level == COMMITTEE else one_answer.FROM_FLAT_PRICES):
        each = take(found, what) if what != one_answer.WORTH else next(f for f in found if f.what == what)
        assert each.error == pytest.approx(each.guess, rel=1e-8) and each.share == 0


@SUMMED
def test_home_is_told_by_a_difference_of_sums_as_soon_as_a_sum_is_not_of_a_whole_group(
    level: Level, population: Population, prices: list[Array]
) -> None:
    found = [
        *all_but_one.play(population.cut(50), level, population.flat),
        *drop_out.play(population.cut(50), level, prices),
    ]
    by_rule = {each.variant for each in found}
    assert by_rule == {"", "without: a sum is of a whole group", "without: all were asked the same"}
    for each in found:
        if not each.variant:
            assert each.error == each.guess  # nothing new was heard
        elif each.what == one_answer.WORTH:
            assert each.error < ROUNDED
    last = take(found, "load, round 6", "without: a sum is of a whole group")
    assert last.error < 0.02 and last.share == 1
    if level == COMMITTEE:
        assert take(found, "v x_max/ω, round 3", "without: a sum is of a whole group").error < ROUNDED
        early = take(found, "load, round 3", "without: a sum is of a whole group")
        assert early.error < 0.1


def test_sum_stands_until_a_whole_group_has_answered_the_same(population: Population) -> None:
    (group, *_), flat = population.cut(20), population.flat
    sums = GroupSums(group, sensitivities=False)
    assert sums.ask(flat, lost=[3]) is None
    first = sums.ask(flat)
    assert first is not None
    assert first.load == pytest.approx(sum(target.find_load(flat) for target in group), abs=1e-8)
    assert sums.ask(1.1 * flat, lost=[3]) is first
    assert sums.ask(1.1 * flat, excluded=[3]) is first
    assert sums.ask(flat, apart={3: 1.1 * flat}) is first
    second = sums.ask(1.1 * flat)
    assert second is not None and np.all(second.load < first.load)


def test_entry_of_a_coupling_that_one_home_alone_contributes_to_is_told(
    population: Population, prices: list[Array]
) -> None:
    battery = next(target for target in population.homes if target.secrets.wear is not None)
    others = [target for target in population.homes if target.secrets.wear is None]
    alone = next(iter(sparse_sum.play([[battery, *others[:19]]], COMMITTEE, prices)))
    assert alone.error < ROUNDED and alone.succeeds
    assert list(sparse_sum.play([[battery, *others[:19]]], COMMITTEE_LOADS, prices)) == []
    read = next(iter(sparse_sum.play(population.cut(20), OFF, prices)))
    assert read.error == 0


# --- the masks themselves ---


def test_members_of_a_real_committee_keep_the_rules_that_sums_are_attacked_under(
    population: Population, prices: list[Array]
) -> None:
    (group, *_), price, before = population.cut(15), prices[1], prices[0]
    masked = MaskedGroup(group, 24, sensitivities=False)

    def answer(number: int, **others: MaskedAnswer) -> dict[int, MaskedAnswer]:
        return {home: others.get(f"h{home}") or masked.answer(home, number, price) for home in range(len(group))}

    def leave_out(answers: dict[int, MaskedAnswer], home: int) -> dict[int, MaskedAnswer]:
        return {other: answers[other] for other in answers if other != home}

    first = answer(1)
    total = masked.find_sum(price, first)
    assert total == pytest.approx(sum(target.find_load(price) for target in group), abs=1e-8)
    assert masked.find_sum(price, leave_out(answer(2), 3)) is None  # part of a group
    held = masked.find_sum(price, answer(3, h3=first[3]))
    apart = masked.find_sum(price, answer(4, h3=masked.answer(3, 4, before)))
    for noise in (held, apart):
        assert noise is not None and np.median(np.abs(noise)) > 1e6
    assert masked.find_sum(price, first) is None  # a round that is over
    assert masked.find_sum(price, answer(5)) == pytest.approx(total, abs=1e-8)


@SUMMED
def test_masks_hide_a_home_from_two_members_and_two_lists_and_not_from_three(
    level: Level, population: Population, prices: list[Array]
) -> None:
    found = list(broken_masks.play(population.cut(15), level, population.flat, prices[1]))
    told = {each.variant: each for each in found if each.attack == broken_masks.TOLD}
    assert told["2 of the committee"].error > 1e6  # what is left of a mask is as large as the range
    assert told["3 of the committee"].error < 1e-9
    for attack in (broken_masks.TWO_LISTS, broken_masks.TWICE):
        kept, broken = (each for each in found if each.attack == attack)
        assert not kept.succeeds and not kept.variant
        assert broken.error < ROUNDED and broken.variant.startswith("without")


@given(st.integers(5, 40), st.lists(st.integers(1, 3), min_size=5, max_size=60), st.integers(0, 9))
def test_two_that_say_they_have_many_homes_are_left_alone_with_nobody(least: int, homes: list[int], key: int) -> None:
    def enter(name: str, count: int, number: int) -> MaskEntry:
        return MaskEntry(name=name, homes=count, exchange=f"{number:064x}", signing=f"{number:064x}")

    entries = [enter(f"h{number}", count, number) for number, count in enumerate(homes)]
    entries += [enter("liar", 10**6, 1000 + key), enter("liar2", 10**6, 2000 + key)]
    roster = Roster.of(MaskRoster(run="run", sender="a1", minimum_group=least, epoch=0, homes=entries))
    if roster.find_objection() is not None:
        return
    assert sorted(name for names in roster.groups.values() for name in names) == sorted(roster.parties)
    for names in roster.groups.values():
        others = sum(roster.parties[name].homes for name in names if not name.startswith("liar"))
        assert others >= least - 2 * (least // 4) >= least / 2


def test_three_homes_that_collude_with_their_aggregator_get_into_the_committee_by_trying_keys() -> None:
    """A limit of the protocol, said in docs/privacy.md: the committee is drawn from what they choose themselves."""

    def enter(name: str, number: int) -> MaskEntry:
        return MaskEntry(name=name, homes=1, exchange=f"{number:064x}", signing=f"{number:064x}")

    honest, hostile = [enter(f"h{number}", number) for number in range(17)], ("x1", "x2", "x3")
    for tries in range(1, 2000):
        entries = [*honest, enter("x1", 100 + tries), enter("x2", 98), enter("x3", 99)]
        roster = Roster.of(MaskRoster(run="run", sender="a1", minimum_group=20, epoch=0, homes=entries))
        if set(hostile) <= set(roster.committee(0)):
            break
    assert tries < 1999
    assert roster.find_objection() is None


# --- what no protocol of exact sums hides ---


def test_connection_is_a_better_guess_of_a_load_than_the_equal_share(
    population: Population, prices: Sequence[Array]
) -> None:
    found = next(iter(connection.play(population.cut(50), COMMITTEE_LOADS, prices[1])))
    assert found.error < found.guess
    assert list(connection.play(population.cut(50), OFF, prices[1])) == []


def test_membership_shows_in_small_sums_more_than_in_large_ones(
    population: Population, prices: Sequence[Array]
) -> None:
    strangers = population.draw_strangers(load("user_oriented", []), 400)
    errors = {}
    for size in (5, 20, 100):
        found = next(iter(membership.play(population.cut(size), COMMITTEE_LOADS, prices[1], strangers)))
        errors[size] = found.error
        assert found.guess == 0.5
    assert errors[5] < errors[20] < errors[100] < 0.5
    assert next(iter(membership.play(population.cut(20), OFF, prices[1], strangers))).error == 0


# --- findings, their table and the command ---


@pytest.mark.parametrize(("error", "succeeds"), [(0.0, True), (0.89, True), (0.9, False), (np.inf, False)])
def test_attack_succeeds_when_it_beats_a_guess_by_more_than_a_tenth(error: float, succeeds: bool) -> None:
    assert Finding("attack", OFF, 20, "load", error, 1.0, 0.5).succeeds is succeeds


def test_scenario_with_homes_that_the_attacks_do_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="the attacks are on homes of user_oriented"):
        Population.of(load("prosumer", []), 20)
    with pytest.raises(ConfigError, match="one appliance of a log satisfaction"):
        Population.of(load("user_oriented", ["population.satisfaction=quadratic"]), 20)
    with pytest.raises(ConfigError, match="a group of 50 has more"):
        Population.of(load("user_oriented", []), 20).cut(50)


def test_page_has_a_row_for_each_attack_and_level_and_a_column_for_each_size() -> None:
    table = PAGE.read_text(encoding="utf-8").partition(page.BEGIN)[2].partition(page.END)[0]
    header, _, *rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()]
    assert header[-4:] == [f"n = {size}" for size in suite.SIZES]
    levels = {attack: {row[1] for row in rows if row[0] == attack} for attack in {row[0] for row in rows}}
    every, sums = {str(level) for level in LEVELS}, {str(COMMITTEE), str(COMMITTEE_LOADS)}
    assert levels == {
        one_answer.NAME: every,
        connection.NAME: sums,
        sparse_sum.NAME: {str(OFF), str(COMMITTEE)},
        drop_out.NAME: every,
        broken_masks.TWO_LISTS: sums,
        broken_masks.TWICE: sums,
        broken_masks.TOLD: sums,
        absurd_prices.NAME: every,
        all_but_one.ALL_BUT_ONE: sums,
        all_but_one.BACK: sums,
        all_but_one.APART: sums,
        membership.NAME: every,
    }


def test_command_prints_a_table_or_writes_it_into_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def attack(*words: str) -> int:
        command = ["stackelgrid", "attack", "user_oriented", "--set", "leader.objective=welfare", "--quiet"]
        monkeypatch.setattr(sys, "argv", [*command, "--group", "100", "--level", "off/none", *words])
        return cli.main()

    document = tmp_path / "page.md"
    document.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    assert attack("--write", str(document)) == 0
    lines = document.read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    assert any(line.startswith("| one answer | off/none | load |  | **0 / ") for line in lines)
    document.write_text("a page without a table")
    assert attack("--write", str(document)) == 2
    assert f"no lines {page.BEGIN} and {page.END}" in capsys.readouterr().err
    assert attack("--write", str(tmp_path)) == 2
    assert f"{tmp_path}: cannot be read (a folder, not a file)" in capsys.readouterr().err
    assert attack("--level", "of") == 2
    assert "--level of: it is none of committee" in capsys.readouterr().err
