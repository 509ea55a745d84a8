"""The aggregator of the user-oriented game sums what its homes answer, whatever that is."""

import numpy as np
import pytest

from stackelgrid.faults.plan import FaultPlan
from stackelgrid.games.user_oriented.aggregator import UserOrientedAggregator
from stackelgrid.games.user_oriented.messages import MOST_CHANGES, LoadResponse, Price
from stackelgrid.scenarios import load
from stackelgrid.testbed import in_memory
from stackelgrid.wire.arrays import LARGEST, PackedArray

GAME = "user_oriented"
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


def test_aggregator_counts_no_more_changes_of_starts_than_a_home_may_make() -> None:
    bodies = {name: answer(2.0, -1.0) for name in ("h1", "h2", "h3")}
    assert sum_of(bodies).starts_changed is None
    for name, changes in (("h1", 3), ("h2", 1_000_000)):
        bodies[name] = bodies[name].model_copy(update={"starts_changed": changes})
    assert sum_of(bodies).starts_changed == 3 + MOST_CHANGES


# --- what an answer foretells is held against the next one ---


def bends(price: float, load: float, slope: float) -> tuple[Price, LoadResponse]:
    return Price(price=[price, price]), answer(load, slope)


def play(*rounds: tuple[Price, LoadResponse]) -> LoadResponse:
    """The sum after some rounds with one home."""
    aggregator = UserOrientedAggregator({"h1": 1})
    for asked, body in rounds:
        total = aggregator.on_answers(asked, {"h1": body}, (), ()).body
    return total


def test_home_whose_load_bends_as_foretold_keeps_its_slope() -> None:
    total = play(bends(10.0, 5.0, -1.0), bends(9.0, 6.1, -1.2), bends(9.5, 5.5, -1.1))
    assert (total.load_only, total.fixed, total.slope) == (0, 0, [-1.1, -1.1])


def test_home_whose_load_bends_less_than_it_says_before_and_after_counts_with_its_load_alone() -> None:
    total = play(bends(10.0, 5.0, -10.0), bends(9.0, 6.0, -10.0))
    assert (total.load_only, total.fixed) == (1, 0)
    assert total.load_kw == [6.0, 6.0] and total.slope == [0.0, 0.0] and total.coupling is None


def test_coupling_that_does_not_come_true_does_not_count() -> None:
    false = LoadResponse(homes=1, load_kw=[5.0, 5.0], slope=[-0.1] * 2, coupling=PackedArray.of(-8 * np.eye(2)))
    total = play((Price(price=[10.0, 10.0]), false), (Price(price=[9.0, 9.0]), false))
    assert total.load_only == 1 and total.coupling is None


def test_load_with_a_coupling_may_bend_more_than_it_foretells() -> None:
    """Between two prices a battery leaves one limit and comes to another, at both of which it does not bend."""
    plain = [bends(10.0 - number, 5.0 + 5 * number, -0.1) for number in range(8)]
    coupled = [(price, answer(5.0 + 5 * number, -0.1, -0.1)) for number, (price, _) in enumerate(plain)]
    assert play(*plain).load_only == 1
    assert play(*coupled).load_only == 0


def test_kink_is_no_lie() -> None:
    """At its limit a load does not bend any more; where it leaves the limit it bends again."""
    total = play(bends(10.0, 5.0, -1.0), bends(8.0, 5.1, 0.0), bends(10.0, 5.0, -1.0))
    assert (total.load_only, total.slope) == (0, [-1.0, -1.0])


def test_answers_rounded_to_watts_keep_their_sensitivity() -> None:
    """Over tiny steps the load of a truthful home seems to rise, or to bend more than it says."""
    rounds = [bends(10.0 + step * 1e-5, 5.0 + step * 1e-3, -1.0) for step in (0, 1, -1) * 4]
    assert (play(*rounds).load_only, play(*rounds).slope) == (0, [-1.0, -1.0])


def test_home_that_is_at_a_kink_round_after_round_counts_with_its_load_alone() -> None:
    rounds = [bends(10.0 - number / 10, 5.0, -10.0 if number % 2 else 0.0) for number in range(12)]
    assert play(*rounds[:4]).load_only == 0
    assert play(*rounds).load_only == 1


def test_home_whose_load_rises_along_its_price_counts_with_an_earlier_load() -> None:
    rounds = [bends(10.0, 5.0, 0.0), bends(11.0, 7.0, 0.0), bends(12.0, 9.0, 0.0), bends(13.0, 11.0, 0.0)]
    assert play(*rounds[:2]).load_only == 1 and play(*rounds[:2]).load_kw == [7.0, 7.0]
    total = play(*rounds)
    assert (total.load_only, total.fixed, total.load_kw) == (1, 1, [7.0, 7.0])


def test_held_answer_is_not_judged() -> None:
    aggregator = UserOrientedAggregator({"h1": 1, "h2": 1})
    (first, steep), (second, _) = bends(10.0, 5.0, -3.0), bends(8.0, 0.0, 0.0)
    aggregator.on_answers(first, {"h1": steep, "h2": steep}, (), ())
    total = aggregator.on_answers(second, {"h1": steep, "h2": answer(11.0, -3.0)}, ("h1",), ()).body
    assert (total.held, total.load_only) == (1, 0)
    # When it answers again, it is held against its own last answer, at the price of that.
    total = aggregator.on_answers(first, {"h1": steep, "h2": steep}, (), ()).body
    assert total.load_only == 0


# --- groups, of which the aggregator sees the sum alone ---


def in_group(*rounds: tuple[Price, LoadResponse], missing: tuple[Price, ...] = ()) -> LoadResponse:
    """The sum after some rounds with a group of 20, and others in which one of its homes is `missing`."""
    aggregator = UserOrientedAggregator({"group 1": 20}, of_groups=True)
    for asked, body in rounds:
        group = {"group 1": body.model_copy(update={"homes": 20})}
        total = aggregator.on_answers(asked, group, (), ()).body
    for asked in missing:
        total = aggregator.on_answers(asked, group, ("group 1",), ()).body
    return total


def test_held_groups_are_counted_by_their_homes() -> None:
    groups = {f"group {number}": answer(2.0, -1.0).model_copy(update={"homes": 20}) for number in (1, 2, 3)}
    aggregator = UserOrientedAggregator(dict.fromkeys(groups, 20), of_groups=True)
    aggregator.on_answers(PRICE, groups, (), ())
    total = aggregator.on_answers(PRICE, groups, ("group 2",), ()).body
    assert (total.homes, total.held, total.fresh) == (60, 20, False)
    assert (total.load_kw, total.slope) == ([6.0, 6.0], [-3.0, -3.0])


@pytest.mark.parametrize(("max_kw", "load_kw", "slope"), [(None, 60.0, -8.0), (45.0, 45.0, 0.0)])
def test_group_without_a_sum_goes_on_by_no_more_than_its_connections_carry(
    max_kw: float | None, load_kw: float, slope: float
) -> None:
    """A load of c + s / p that is 40 kW at 10 and 60 kW at 5."""
    asked, sum_of_group = bends(10.0, 40.0, -2.0)
    limits = {} if max_kw is None else {"group 1": max_kw}
    aggregator = UserOrientedAggregator({"group 1": 20}, of_groups=True, max_kw=limits)
    group = {"group 1": sum_of_group.model_copy(update={"homes": 20})}
    aggregator.on_answers(asked, group, (), ())
    total = aggregator.on_answers(bends(5.0, 0.0, 0.0)[0], group, ("group 1",), ()).body
    assert total.load_kw == pytest.approx([load_kw] * 2)
    assert total.slope == pytest.approx([slope] * 2)


def test_group_counts_with_the_part_of_its_sensitivity_that_came_true() -> None:
    """It bends by 1 kW a cent and says 10."""
    rounds = [bends(10.0 - number / 10, 5.0 + number / 10, -10.0) for number in range(3)]
    total = in_group(*rounds)
    assert (total.load_only, total.fixed, total.load_kw) == (20, 0, [5.2, 5.2])
    assert total.slope == pytest.approx([-1.0, -1.0])
    coupled = [(price, body.model_copy(update={"coupling": PackedArray.of(-4 * np.eye(2))})) for price, body in rounds]
    assert (both := in_group(*coupled)).coupling is not None and both.slope is not None
    assert both.coupling.array() + np.diag(both.slope) == pytest.approx(-np.eye(2))


def test_group_may_bend_by_a_fifth_less_than_at_both_ends() -> None:
    """Some of its homes bend at the first price alone, some at the last."""
    assert in_group(bends(10.0, 10.0, -10.0), bends(9.0, 18.1, -10.0)).load_only == 0


def test_group_may_bend_more_than_it_foretells() -> None:
    assert in_group(*[bends(10.0 - number, 5.0 + 5 * number, -0.1) for number in range(8)]).load_only == 0


def test_group_whose_load_rises_along_its_price_goes_on_from_an_earlier_one() -> None:
    rounds = [bends(10.0 + number, 50.0 + 2 * number, 0.0) for number in range(4)]
    total = in_group(*rounds)
    assert (total.load_only, total.fixed, total.held, total.load_kw) == (0, 0, 20, [52.0, 52.0])
    # Where it has bent before by half of what it says, it goes on with that: by 5 kW, and then up by 1 in two rounds.
    bent = [bends(10.0, 50.0, -10.0), bends(9.0, 55.0, -10.0), bends(9.1, 55.5, -10.0), bends(9.0, 54.5, -10.0)]
    total = in_group(*bent, bends(9.1, 56.0, -10.0))
    assert total.held == 20 and total.slope is not None
    assert total.slope[0] == pytest.approx(-10 * (5 - 0.05 - 0.1) / (10 + 3 * 0.1), rel=0.05)


def test_load_at_random_costs_a_group_none_of_its_sensitivity() -> None:
    """Over small steps it overstates, or its load rises, by chance; over all it bends as it says."""
    random = np.random.default_rng(27)
    prices = [10.0, 8.0, *random.uniform(7.9, 8.1, 10)]
    total = in_group(*[bends(price, 100 - 5 * price + random.uniform(-1, 1), -5.0) for price in prices])
    assert total.held == 20 and total.slope is not None
    assert -5.5 < total.slope[0] < -4


def test_group_without_a_sum_goes_on_along_the_one_before() -> None:
    """Loads of log satisfaction, c + s / p, are met exactly; those between slots along the tangent."""
    first, later = Price(price=[8.0, 10.0]), Price(price=[12.0, 9.0], others=PackedArray.of(np.array([[10.0, 10.0]])))
    prices = np.array([12.0, 9.0])
    slope = [-100 / 8.0**2, -100 / 10.0**2]
    body = LoadResponse(homes=1, load_kw=[30 + 100 / 8.0, 30 + 100 / 10.0], slope=slope)
    total = in_group((first, body), missing=(later,))
    assert (total.held, total.load_only) == (20, 0)
    assert total.load_kw == pytest.approx(30 + 100 / prices) and total.slope == pytest.approx(-100 / prices**2)
    assert total.other_loads_kw is not None
    assert total.other_loads_kw.array()[0] == pytest.approx([40.0, 40.0])
    coupled = body.model_copy(update={"slope": [0.0, 0.0], "coupling": PackedArray.of(-np.eye(2))})
    total = in_group((first, coupled), missing=(later,))
    assert total.load_kw == pytest.approx(np.array(body.load_kw) - (prices - [8.0, 10.0]))


def test_group_without_a_sum_goes_on_by_its_loads_where_it_tells_no_sensitivity() -> None:
    asked = Price(price=[10.0, 10.0], others=PackedArray.of(np.array([[11.0, 10.0], [10.0, 11.0]])), sensitivities=0)
    others = PackedArray.of(np.array([[48.0, 50.0], [50.0, 48.0]]))
    body = LoadResponse(homes=1, load_kw=[50.0, 50.0], other_loads_kw=others)
    later = Price(price=[12.0, 8.0], sensitivities=0)
    total = in_group((asked, body), missing=(later,))
    assert total.slope is None
    assert total.load_kw == pytest.approx([50 - 2 * 10 * (1 - 10 / 12), 50 - 2 * 10 * (1 - 10 / 8)])
    alone = in_group(
        (Price(price=[10.0, 10.0], sensitivities=0), body.model_copy(update={"other_loads_kw": None})), missing=(later,)
    )
    assert alone.load_kw == [50.0, 50.0]


def test_group_whose_sums_come_and_go_counts_with_the_last() -> None:
    """It may be kept out of every other round on purpose, and each time the leader would begin anew."""
    aggregator = UserOrientedAggregator({"group 1": 20}, of_groups=True)
    asked, body = bends(10.0, 5.0, -1.0)
    group = {"group 1": body.model_copy(update={"homes": 20})}
    held = []
    for number in range(24):
        missing = ("group 1",) if number % 2 else ()
        held.append(aggregator.on_answers(asked, group, missing, ()).body.held)
    assert held == [0, 20] * 10 + [20] * 4


@pytest.mark.parametrize("price", [1e-3, -50.0, 1e6])
def test_group_without_a_sum_goes_no_further_than_its_load(price: float) -> None:
    total = in_group(bends(10.0, 5.0, -3.0), missing=(Price(price=[price, 10.0]),))
    assert 0 <= total.load_kw[0] <= 10 and total.slope is not None and total.slope[0] == 0
    assert (total.load_kw[1], total.slope[1]) == (5.0, -3.0)


@pytest.mark.parametrize("sums", ["off", "committee"])
def test_price_stays_near_when_a_home_dies(sums: str) -> None:
    """With masks its group has no sum any more: most of its homes still respond to the price."""
    settings = ["population.homes=20", "aggregators=1", f"privacy.sums={sums}", "privacy.minimum_group=10"]
    scenario = load(GAME, [*settings, "leader.objective=stackelberg"])
    price = in_memory.play(scenario).rounds[-1]["price"]
    plan = FaultPlan.model_validate({"faults": [{"kind": "crash", "node": "h07", "at": {"round": 3}}]})
    run = in_memory.play(scenario, plan=plan)
    assert run.settled
    assert run.rounds[-1]["price"] == pytest.approx(price, rel=0.1)


def test_sensitivity_of_groups_that_cannot_be_is_objected_to() -> None:
    rising = LoadResponse(homes=20, load_kw=[5.0, 5.0], slope=[0.0, 0.0], coupling=PackedArray.of(np.eye(2)))
    assert "semidefinite" in str(rising.find_objection(PRICE, 200.0))


@pytest.mark.parametrize("form", ["log", "power", "quadratic"])
@pytest.mark.parametrize("objective", ["stackelberg", "welfare"])
def test_truthful_homes_of_the_shipped_case_all_count_with_their_sensitivity(objective: str, form: str) -> None:
    run = in_memory.play(load(GAME, [f"leader.objective={objective}", f"population.satisfaction={form}"]))
    assert run.settled and not [record for record in run.aggregator_rounds if "load_only" in record]
