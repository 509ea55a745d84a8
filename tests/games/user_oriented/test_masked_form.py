"""The numbers of homes' answers add up to what an aggregator replies that sees each of them."""

import numpy as np
import pytest

from stackelgrid.games.user_oriented.aggregator import UserOrientedAggregator
from stackelgrid.games.user_oriented.home import Home, UserOrientedHomes
from stackelgrid.games.user_oriented.masked_form import FORM
from stackelgrid.games.user_oriented.messages import MOST_CHANGES, LoadResponse, Price
from stackelgrid.games.user_oriented.samples import SLOTS, small_scenario
from stackelgrid.masks.fixed_point import write_words
from stackelgrid.wire.arrays import PackedArray

QUESTIONS = [(1, 1), (1, 0), (4, 1), (3, 3), (3, 2)]
SEEDS = range(6)


def draw_homes(random: np.random.Generator, count: int) -> list[Home]:
    """Homes of a random scenario; the last has a storage, so that a sum has a coupling."""
    homes = [Home.model_validate(home) for home in small_scenario(random, count)["homes"]]
    battery = {"capacity_kwh": 8, "initial_kwh": 3, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 0.3}}
    homes[-1] = Home.model_validate(homes[-1].model_dump(exclude_unset=True) | {"storage": [battery]})
    return homes


def draw_question(random: np.random.Generator, prices: int, sensitivities: int) -> Price:
    drawn = random.uniform(3, 25, (prices, SLOTS))
    others = PackedArray.of(drawn[1:]) if prices > 1 else None
    return Price(price=drawn[0].tolist(), others=others, sensitivities=sensitivities)


@pytest.fixture(scope="module", params=SEEDS)
def drawn(request: pytest.FixtureRequest) -> tuple[np.random.Generator, list[Home]]:
    random = np.random.default_rng([21, request.param])
    return random, draw_homes(random, 4)


def assert_same(found: LoadResponse, expected: LoadResponse) -> None:
    assert (found.homes, found.held, found.starts_changed) == (
        expected.homes,
        expected.held,
        expected.starts_changed or 0,
    )
    for one, other in zip(found.at_each_price(), expected.at_each_price(), strict=True):
        assert (one.slope is None) == (other.slope is None)
        none = np.zeros((SLOTS, SLOTS))  # a coupling that is not there
        pairs = [(one.loads, other.loads)]
        if one.slope is not None and other.slope is not None:
            pairs += [(one.slope, other.slope)]
            pairs += [
                (none if one.coupling is None else one.coupling, none if other.coupling is None else other.coupling)
            ]
        for left, right in pairs:
            np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("prices", "sensitivities"), QUESTIONS)
def test_sum_of_numbers_reads_as_the_sum_of_the_answers(
    drawn: tuple[np.random.Generator, list[Home]], prices: int, sensitivities: int
) -> None:
    random, homes = drawn
    question = draw_question(random, prices, sensitivities)
    shape = FORM.shape(question)
    # One process has two homes.
    answers = {f"p{n}": UserOrientedHomes(part).answer(question) for n, part in enumerate([homes[:2], *zip(homes[2:])])}
    numbers = [FORM.flatten(answer, shape) for answer in answers.values()]
    assert {each.shape for each in numbers} == {(FORM.count(shape),)}
    plain = UserOrientedAggregator({name: body.homes for name, body in answers.items()})
    read = FORM.read(np.sum(numbers, axis=0), shape, len(homes))
    assert_same(read, plain.on_answers(question, answers, (), ()).body)
    # An aggregator that sees the group alone replies with the same, and nobody objects to it.
    assert read.find_objection(question, sum(home.connection_kw for home in homes)) is None
    assert_same(
        UserOrientedAggregator({"group 1": 4}, of_groups=True).on_answers(question, {"group 1": read}, (), ()).body,
        read,
    )


@pytest.mark.parametrize(("prices", "sensitivities"), QUESTIONS)
def test_numbers_of_honest_homes_are_within_the_bounds(
    drawn: tuple[np.random.Generator, list[Home]], prices: int, sensitivities: int
) -> None:
    random, homes = drawn
    question = draw_question(random, prices, sensitivities)
    shape = FORM.shape(question)
    for home in homes:
        numbers = FORM.flatten(UserOrientedHomes([home]).answer(question), shape)
        write_words(numbers, FORM.bounds(shape, home.connection_kw, question), 1)  # raises, where one is beyond
        assert FORM.bounds(shape, None, question).shape == numbers.shape
    largest = FORM.bounds(shape, 10.0, question)
    assert np.isfinite(largest).all()
    assert largest.max() * 200 < 2**31, "two hundred of them fit into a word"


def test_home_without_storage_has_the_numbers_of_one_with_it() -> None:
    bare = LoadResponse(homes=1, load_kw=[1.0, 2.0], slope=[-1.0, -2.0])
    stored = bare.model_copy(update={"coupling": PackedArray.of(-np.eye(2)), "starts_changed": 3})
    shape = FORM.shape(Price(price=[1.0, 2.0]))
    assert FORM.flatten(bare, shape).shape == FORM.flatten(stored, shape).shape
    assert FORM.read(FORM.flatten(bare, shape), shape, 1).coupling is None


def test_what_rises_in_a_sum_is_objected_to() -> None:
    """No wire model saw the homes' slopes, so that one may be above zero."""
    question = Price(price=[10.0, 10.0])
    shape = FORM.shape(question)
    honest = FORM.flatten(LoadResponse(homes=1, load_kw=[1.0, 2.0], slope=[-1.0, -2.0]), shape)
    lie = honest.copy()
    lie[2] = 3.0
    assert FORM.read(honest + honest, shape, 2).find_objection(question, 20.0) is None
    assert "semidefinite" in str(FORM.read(honest + lie, shape, 2).find_objection(question, 20.0))
    rounded = honest.copy()
    rounded[2] = 1e-9
    assert FORM.read(rounded, shape, 1).slope == [0.0, -2.0]


def test_starts_of_a_home_count_as_often_as_an_aggregator_counts_them() -> None:
    answer = LoadResponse(homes=1, load_kw=[1.0], slope=[0.0], starts_changed=MOST_CHANGES + 5)
    shape = FORM.shape(Price(price=[1.0]))
    assert FORM.read(2 * FORM.flatten(answer, shape), shape, 2).starts_changed == 2 * MOST_CHANGES


def test_answer_to_another_question_is_no_answer() -> None:
    answer = LoadResponse(homes=1, load_kw=[1.0, 2.0], slope=[-1.0, -2.0])
    with pytest.raises(ValueError, match=r"\(2, 1, 1\), asked were \(2, 3, 1\)"):
        FORM.flatten(answer, (2, 3, 1))
