"""The aggregator of the user-oriented game sums what its homes answer, whatever that is."""

import numpy as np
import pytest

from stackelgrid.games.user_oriented.aggregator import UserOrientedAggregator
from stackelgrid.games.user_oriented.messages import LoadResponse, Price
from stackelgrid.wire.arrays import LARGEST, PackedArray

PRICE = Price(price=[1.0, 2.0])


def answer(load: float, slope: float, coupling: float | None = None) -> LoadResponse:
    matrix = None if coupling is None else PackedArray.of(np.full((2, 2), coupling))
    return LoadResponse(homes=1, load_kw=[load] * 2, slope=[slope] * 2, coupling=matrix)


def sum_of(answers: dict[str, LoadResponse], held: tuple[str, ...] = ()) -> LoadResponse:
    return UserOrientedAggregator(dict.fromkeys(answers, 1)).on_answers(PRICE, answers, held, ()).body


def test_aggregator_sums_loads_and_sensitivities() -> None:
    total = sum_of({"h1": answer(2.0, -1.0, -0.5), "h2": answer(3.0, -4.0)})
    assert total.homes == 2
    assert total.load_kw == [5.0, 5.0] and total.slope == [-5.0, -5.0]
    assert total.coupling is not None and total.coupling.array().tolist() == [[-0.5, -0.5], [-0.5, -0.5]]


def test_aggregator_counts_a_held_home_with_its_load_alone() -> None:
    total = sum_of({"h1": answer(2.0, -1.0), "h2": answer(3.0, -4.0)}, held=("h2",))
    assert total.held == 1
    assert total.load_kw == [5.0, 5.0] and total.slope == [-1.0, -1.0]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_aggregator_keeps_sums_of_extreme_answers_within_what_travels(sign: float) -> None:
    extreme = {name: answer(sign * LARGEST, -LARGEST, sign * LARGEST) for name in ("h1", "h2", "h3")}
    total = sum_of(extreme)
    assert total.load_kw == [sign * LARGEST] * 2 and total.slope == [-LARGEST] * 2
    assert total.coupling is not None and (total.coupling.array() == sign * LARGEST).all()
