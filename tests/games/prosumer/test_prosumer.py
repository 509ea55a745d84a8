"""The prosumer game: its formulas, why it settles, the paper's case, populations, and nodes that are missing."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import brentq, minimize_scalar, root

import stackelgrid
from stackelgrid.calendar import Session
from stackelgrid.certify import CertificateError
from stackelgrid.games.prosumer.aggregator import Conduct, ProsumerAggregator, ProsumerSettings, RowOrder
from stackelgrid.games.prosumer.certificate import certify
from stackelgrid.games.prosumer.feeder import FeederState, solve_power_flow
from stackelgrid.games.prosumer.home import Prosumer, ProsumerHomes, anticipate_dr, compute_cost, solve_dr
from stackelgrid.games.prosumer.leader import UtilitySettings, price_dr
from stackelgrid.games.prosumer.messages import DrResponse, Offer, PvPrice, to_matrix, to_rows
from stackelgrid.games.prosumer.outcome import ProsumerOutcome
from stackelgrid.games.prosumer.report import key_figures, sections
from stackelgrid.games.prosumer.scenario import ProsumerScenario
from stackelgrid.games.prosumer.simultaneous_game import Extrapolation, Responses, compute_sdr, price_pv, sum_others
from stackelgrid.report.parts import Plot
from stackelgrid.report.run_folder import RunFolder
from stackelgrid.rounds.strategy import Ask, Decision, Question, Reply
from stackelgrid.run_record import RunRecord
from stackelgrid.run_result import RunResult
from stackelgrid.scenarios import ScenarioError, load
from stackelgrid.testbed.in_memory import play
from stackelgrid.wire.messages import Body

LOAD_SHAPE = np.array(
    [0.6] * 5 + [0.65, 0.68, 0.70, 0.72, 0.74, 0.76, 0.78, 0.80, 0.83, 0.88, 0.95, 0.98, 1, 1, 1, 0.98]
)
LOAD_SHAPE = np.concatenate([LOAD_SHAPE, [0.82, 0.75, 0.68]])
SUN = np.array([0] * 5 + [127, 3444, 8015, 9791, 10591, 10932, 11201, 11108, 11049, 10758, 9803, 8902, 6735, 2498, 32])
SUN = np.concatenate([SUN, [0] * 4]) / 11201
RETAIL = [21.0] * 5 + [31.0] * 10 + [50.0] * 6 + [31.0] * 3
HOUR_16, HOUR_17, HOUR_18 = 15, 16, 17


def utility(**changes: Any) -> UtilitySettings:
    given = {
        "tariffs": {"residential": RETAIL, "business": [0.75 * price for price in RETAIL]},
        "event": {"first": 12, "last": 21},
        "cost": {"c0": 4207.5, "c1": -6.74, "c2": 0.0029},
        "system_load_kw": (1e5 * LOAD_SHAPE).tolist(),
    }
    return UtilitySettings.model_validate(given | changes)


def prosumer(name: str, peak: float, pv: float, **changes: Any) -> Prosumer:
    given = {
        "id": name,
        "tariff": "residential",
        "load_kw": (peak * LOAD_SHAPE).tolist(),
        "pv_kw": (pv * SUN).tolist(),
        "pv_cost": 10.0,
        "alpha": 0.8,
    }
    return Prosumer.model_validate(given | changes)


def population(count: int, seed: int) -> list[Prosumer]:
    """Watts to hundreds of kilowatts, costs near zero and near the retail price, caps that bind or do not."""
    homes = []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        peak = 10 ** random.uniform(-2, 2.5)
        load = peak * LOAD_SHAPE * random.uniform(0.6, 1, 24)
        homes.append(
            Prosumer(
                id=f"p{number}",
                tariff=("residential", "business")[number % 2],
                load_kw=load.tolist(),
                pv_kw=(peak * random.uniform(1, 2) * SUN).tolist(),
                pv_cost=10 ** random.uniform(-3, 1.3),
                alpha=10 ** random.uniform(-4, 0),
                cap_share=10 ** random.uniform(-2, 0),
            )
        )
    return homes


@dataclass
class Negotiation:
    """The result of a game between strategies without nodes."""

    settled: bool
    homes: dict[str, dict[str, Any]] = field(default_factory=dict)
    account: Mapping[str, Any] = field(default_factory=dict)
    rounds: list[Decision] = field(default_factory=list)
    game_rounds: int = 0

    @property
    def run_record(self) -> RunRecord:
        """The record of a run with one provider that has one member."""
        rounds = [dict(decision.account) for decision in self.rounds]
        return RunRecord("memory", "none", 1, rounds=rounds, aggregators={"a1": dict(self.account)}, homes=self.homes)

    def outcome(self, scenario: ProsumerScenario) -> ProsumerOutcome:
        """The outcome of it."""
        return ProsumerOutcome.of(scenario, self.run_record)


def pick(question: Question, member: str) -> Body:
    """The part of a question that a member receives."""
    return question if isinstance(question, Body) else question[member]


def negotiate(
    homes: Sequence[Prosumer],
    company: UtilitySettings,
    strategy: ProsumerAggregator | None = None,
    session: Session | None = None,
) -> Negotiation:
    """One provider with all the prosumers in one process; a day of 24 hours unless there is another `session`."""
    session = session or Session(24)
    leader, emc = company.strategy(session), ProsumerHomes(homes)
    middle = strategy or ProsumerSettings().strategy(session, {"p": len(homes)})
    decision, negotiation = leader.open(), Negotiation(False)
    while not negotiation.settled and len(negotiation.rounds) < 60:
        step: Ask | Reply = middle.open(transmit(pick(decision.ask, "a1")))
        while isinstance(step, Ask):
            negotiation.game_rounds += 1
            step = middle.on_answers(step.body, {"p": transmit(emc.answer(transmit(step.body["p"])))}, (), ())
        decision = leader.decide(decision.ask, {"a1": transmit(step.body)}, ())
        negotiation.rounds.append(decision)
        negotiation.settled = decision.settle
    ending = middle.settle(transmit(pick(decision.settlement, "a1")))
    negotiation.account = ending.account
    negotiation.homes = dict(emc.settle(transmit(ending.body["p"])))
    return negotiation


def transmit(body: Body) -> Any:
    """The body as the receiver of its JSON has it."""
    return type(body).model_validate_json(body.model_dump_json(exclude_none=True))


@pytest.fixture(scope="module")
def case() -> tuple[ProsumerScenario, ProsumerOutcome, dict[str, Any]]:
    """The shipped case, its outcome and its certificate."""
    scenario = load("prosumer")
    assert isinstance(scenario, ProsumerScenario)
    run_record = play(scenario)
    assert run_record.settled and not run_record.failures and not run_record.rejected
    outcome = ProsumerOutcome.of(scenario, run_record)
    return scenario, outcome, certify(scenario, outcome, samples=0)


# --- the prosumer ---

prices = st.floats(1e-3, 100)
alphas = st.floats(1e-3, 1)
sums = st.one_of(st.just(0.0), st.floats(1e-3, 1e3))


@given(price=prices, s=sums, alpha=alphas, cap=st.floats(1e-3, 1e3))
@settings(max_examples=200, deadline=None)
def test_prosumer_answers_with_the_minimum_of_its_cost(price: float, s: float, alpha: float, cap: float) -> None:
    def net_cost(x: float) -> float:
        return float(compute_cost(*map(np.array, (x, price, s, alpha, 3.0))))

    dr = float(solve_dr(*map(np.array, (price, s, alpha, cap))))
    found = minimize_scalar(net_cost, bounds=(0, cap), method="bounded", options={"xatol": 1e-12 * cap})
    assert net_cost(dr) <= found.fun + 1e-12 * (1 + abs(found.fun))
    if dr < cap:  # the first-order condition
        assert 2 * alpha * dr + 3 * alpha * s * dr**2 == pytest.approx(price, rel=1e-12)


@given(
    s=sums,
    alpha=alphas,
    load=st.floats(1, 100),
    surplus=st.floats(1e-3, 100),
    cap=st.floats(1e-3, 1),
    retail=prices,
    share=st.floats(1e-3, 0.999),
)
@settings(max_examples=200, deadline=None)
def test_prosumer_that_anticipates_answers_with_the_minimum_of_its_cost(
    s: float, alpha: float, load: float, surplus: float, cap: float, retail: float, share: float
) -> None:
    """Its price is (13) of the paper, as the paper writes it, and the minimiser SciPy's."""
    cost, pv, cap = share * retail, load + surplus, cap * load

    def net_cost(x: float) -> float:
        sdr = pv / (load - x) if x < load else math.inf
        price = retail * cost / (retail + (cost - retail) / sdr)
        return alpha * x**2 * (1 + x * s) - price * (pv - load + x)

    dr = float(anticipate_dr(*(np.array([[each]]) for each in (retail, s, alpha, cap, load, pv, cost)))[0, 0])
    found = minimize_scalar(net_cost, bounds=(0, cap), method="bounded", options={"xatol": 1e-12 * cap})
    assert 0 <= dr <= cap
    assert net_cost(dr) <= found.fun + 1e-12 * (1 + abs(found.fun))
    if dr < cap * (1 - 1e-9):
        step = 1e-5 * min(dr, cap - dr)
        assert net_cost(dr) <= min(net_cost(dr - step), net_cost(dr + step)) + 1e-13 * (1 + abs(net_cost(dr)))


def test_cost_is_inconvenience_less_profit() -> None:
    dr, rest = 3.0, [2.0, 5.0]
    theta = (1 / dr) / (1 / dr + sum(1 / x for x in rest))  # [PR-4]
    p, pv, price, alpha = 40.0, 55.0, 12.0, 0.7
    expected = alpha * dr**2 / theta - price * (pv - (p - dr))
    cost = compute_cost(np.array(dr), np.array(price), np.array(1 / 2 + 1 / 5), np.array(alpha), np.array(pv - p))
    assert float(cost) == pytest.approx(expected, rel=1e-14)


def test_prosumer_curtails_no_more_than_its_load_and_cap() -> None:
    greedy = prosumer("g", 10, 30, alpha=1e-3, cap_kw=6.1)
    provided = to_matrix(ProsumerHomes([greedy]).answer(PvPrice(price=[50.0] * 24, others=[0.0] * 24)).dr_kw)[0]
    np.testing.assert_allclose(provided, np.minimum(6.1, 10 * LOAD_SHAPE), rtol=1e-15)


def test_response_does_not_depend_on_alpha_and_cap_when_there_is_no_price() -> None:
    """At no price the answer is the same whatever alpha and cap; no body has a place for them."""
    offer = PvPrice(price=[0.0] * 24, others=[0.0] * 24)
    one, other = prosumer("h", 10, 20), prosumer("h", 10, 20, alpha=0.1, cap_kw=3, bus=7)
    assert ProsumerHomes([one]).answer(offer) == ProsumerHomes([other]).answer(offer)
    assert DrResponse.model_fields.keys() == {"homes", "tariff", "load_kw", "pv_kw", "pv_cost", "dr_kw"}


def test_prosumer_provides_nothing_when_the_price_is_for_another_number_of_homes() -> None:
    answer = ProsumerHomes([prosumer("h", 10, 20)]).answer(
        PvPrice(price=to_rows(np.ones((2, 24))), others=to_rows(np.ones((2, 24))))
    )
    assert not to_matrix(answer.dr_kw).any()


# --- prices ---


@given(
    x=st.one_of(st.just(0.0), st.floats(1e-3, 100)),
    surplus=st.floats(1e-6, 100),
    retail=st.floats(1, 100),
    share=st.floats(0.01, 0.99),
)
@settings(max_examples=200, deadline=None)
def test_prices_follow_their_rules_and_keep_their_order(x: float, surplus: float, retail: float, share: float) -> None:
    pv, k = x + surplus, share * retail
    load, dr = np.array([[2 * x]]), np.array([[x]])
    price = price_pv(load, np.array([[pv]]), np.array([[k]]), np.array([[retail]]), dr)
    sdr = compute_sdr(load, np.array([[pv]]), dr)
    paid = price_dr(price, sdr, np.array([[retail]]))
    if x > 0:
        ratio = pv / x
        assert float(sdr[0, 0]) == pytest.approx(ratio, rel=1e-12)
        assert float(price[0, 0]) == pytest.approx(retail * k * ratio / (retail * ratio + k - retail), rel=1e-9)
        lam = float(price[0, 0])
        assert float(paid[0, 0]) == pytest.approx(retail * lam * ratio / (retail * ratio + lam - retail), rel=1e-9)
    hair = 1 + 1e-12
    assert k <= price[0, 0] * hair and price[0, 0] <= paid[0, 0] * hair and paid[0, 0] <= retail * hair


def test_prices_reach_their_limits_when_sdr_is_one_or_unbounded() -> None:
    k, r = np.array([[10.0]]), np.array([[50.0]])
    at_one = price_pv(np.array([[5.0]]), np.array([[5.0 * (1 + 1e-12)]]), k, r, np.array([[0.0]]))
    no_consumption = price_pv(np.array([[5.0]]), np.array([[5.0]]), k, r, np.array([[5.0]]))
    assert float(at_one[0, 0]) == pytest.approx(50, rel=1e-9)
    assert float(no_consumption[0, 0]) == 10
    nothing_left = compute_sdr(np.array([[5.0]]), np.array([[5.0]]), np.array([[5.0]]))
    assert float(price_dr(no_consumption, nothing_left, r)[0, 0]) == pytest.approx(10, rel=1e-9)
    for draws, pv, cost_of_pv in ((5, 5, 10), (5, 4, 10), (5, 9, 50), (5, 9, 60)):  # SDR <= 1, or no price to agree on
        price = price_pv(np.array([[draws]]), np.array([[pv]]), np.array([[cost_of_pv]]), r, np.array([[0.0]]))
        assert float(price[0, 0]) == 0


@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e3)), min_size=1, max_size=8))
def test_sum_of_others_counts_those_that_take_part(dr: list[float]) -> None:
    sums = sum_others(np.array(dr)[:, None])[:, 0]
    for i in range(len(dr)):
        wanted = math.fsum(1 / x for k, x in enumerate(dr) if k != i and x > 0)
        assert sums[i] == pytest.approx(wanted, rel=1e-12)


# --- why it settles ---


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.max(np.abs(np.log(one / other))))


@st.composite
def footprints(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """A few prosumers in one slot, all of them with more PV than load: columns (n, 1)."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(2, 6)), 1)
    load, retail = 10 ** random.uniform(-2, 2, shape), random.uniform(20, 50, shape)
    return {
        "load": load,
        "pv": load * (1 + 10 ** random.uniform(-6, 1, shape)),
        "pv_cost": retail * 10 ** random.uniform(-4, -0.05, shape),
        "retail": retail,
        "alpha": 10 ** random.uniform(-4, 0, shape),
        "cap": load * 10 ** random.uniform(-2, 0, shape),
        "one": load * 10 ** random.uniform(-3, 0, shape),
        "other": load * 10 ** random.uniform(-3, 0, shape),
    }


@given(footprints())
@settings(max_examples=200, deadline=None)
def test_responses_contract_by_a_half(f: dict[str, np.ndarray]) -> None:
    price = f["retail"]
    answers = [solve_dr(price, sum_others(f[start]), f["alpha"], f["cap"]) for start in ("one", "other")]
    assert distance(*answers) <= 0.5 * distance(f["one"], f["other"]) + 1e-12


@given(footprints())
@settings(max_examples=200, deadline=None)
def test_pricing_contracts_by_one_less_the_ratio_of_cost_and_retail_price(f: dict[str, np.ndarray]) -> None:
    one, other = (price_pv(f["load"], f["pv"], f["pv_cost"], f["retail"], f[start]) for start in ("one", "other"))
    factor = float(np.max(1 - f["pv_cost"] / f["retail"]))
    assert distance(one, other) <= factor * distance(f["one"], f["other"]) + 1e-9


@given(footprints())
@settings(max_examples=50, deadline=None)
def test_equilibrium_moves_no_more_than_prices_do(f: dict[str, np.ndarray]) -> None:
    def nash(price: np.ndarray) -> np.ndarray:
        dr = f["one"]
        for _ in range(60):
            dr = solve_dr(price, sum_others(dr), f["alpha"], f["cap"])
        return dr

    one, other = (price_pv(f["load"], f["pv"], f["pv_cost"], f["retail"], f[start]) for start in ("one", "other"))
    assert distance(nash(one), nash(other)) <= distance(one, other) + 1e-12


# --- the paper's case ---


def test_shipped_case_gives_the_published_quantities(case: Any) -> None:
    _, outcome, _ = case
    home, business = outcome.dr_kw["bus27"], outcome.dr_kw["bus23"]
    assert home[HOUR_16] == pytest.approx(6.14, abs=0.02) and home[HOUR_17] == pytest.approx(7.71, abs=0.02)
    assert business[HOUR_16] == pytest.approx(4.90, abs=0.02) and business[HOUR_17] == pytest.approx(6.03, abs=0.02)


def test_shipped_case_has_the_shape_that_the_paper_describes(case: Any) -> None:
    scenario, outcome, _ = case
    assert outcome.trade is True
    for home in scenario.everyone:
        dr, pv, paid = (
            np.array(by_prosumer[home.id]) for by_prosumer in (outcome.dr_kw, outcome.pv_price, outcome.dr_price)
        )
        retail = np.array(scenario.leader.tariffs[home.tariff])
        assert np.all(dr[:11] == 0) and np.all(dr[HOUR_18:] == 0)
        assert np.all((dr >= 0) & (dr <= 0.1 * max(home.load_kw)))
        assert min(dr[HOUR_16], dr[HOUR_17]) > max(dr[:HOUR_16])
        for price in (pv, paid):
            assert min(price[HOUR_16], price[HOUR_17]) > max(price[:HOUR_16])
        trade = dr > 0
        assert trade.sum() == 6
        assert np.all((pv < paid)[trade]) and np.all((paid <= retail)[trade])
    saving = np.array(outcome.utility_saving)
    # In hour 21, the last of the event, the sun is down: nothing is produced and nothing provided.
    assert np.all(saving[11:20] > 0) and not saving[:11].any() and not saving[20:].any()
    assert np.all(np.array(outcome.provider_profit)[11:17] > 0)


def test_certificate_of_the_shipped_case_holds(case: Any) -> None:
    _, _, certificate = case
    assert certificate["gap"] <= 1e-8 and certificate["max_regret"] <= 1e-8
    assert certificate["feasible"] and certificate["violation"] == 0
    assert set(certificate["regret"]) == {"bus23", "bus27"}
    json.dumps(certificate, allow_nan=False)


def test_shipped_case_solves_first_order_conditions_and_prices_as_one_system(case: Any) -> None:
    """An independent formulation: [PR-13] put into the first-order conditions, four equations by SciPy's root."""
    scenario, outcome, _ = case
    for t in (11, 14, HOUR_16, HOUR_17):

        def system(dr: np.ndarray, t: int = t) -> list[float]:
            gaps = []
            for i, home in enumerate(scenario.everyone):
                r, k = scenario.leader.tariffs[home.tariff][t], home.pv_cost
                sdr = home.pv_kw[t] / (home.load_kw[t] - dr[i])
                price = r * k * sdr / (r * sdr + k - r)
                gaps.append(2 * home.alpha * dr[i] + 3 * home.alpha * dr[i] ** 2 / dr[1 - i] - price)
            return gaps

        found = root(system, [1.0, 1.0], tol=1e-13)
        assert found.success
        provided = [outcome.dr_kw[home.id][t] for home in scenario.everyone]
        np.testing.assert_allclose(provided, found.x, rtol=1e-9)


def test_savings_are_the_operating_cost_avoided(case: Any) -> None:
    scenario, outcome, _ = case
    t, c = HOUR_17, scenario.leader.cost
    P = scenario.leader.system_load_kw[t]
    pv = sum(home.pv_kw[t] for home in scenario.everyone)
    dr = sum(provided[t] for provided in outcome.dr_kw.values())
    Q = P - pv - dr
    assert outcome.net_load_kw[t] == pytest.approx(Q, rel=1e-12)
    assert outcome.utility_saving[t] == pytest.approx((P - Q) * (c.c1 + c.c2 * (P + Q)), rel=1e-9)
    assert outcome.utility_saving_dr_only[t] == pytest.approx(dr * (c.c1 + c.c2 * (P - pv + Q)), rel=1e-9)


def test_event_of_four_hours_gives_what_the_longer_one_gives_in_them(case: Any) -> None:
    """Hours do not depend on each other; these four are the ones in a row with the most demand response."""
    _, longer, _ = case
    scenario = load("prosumer_four_hours")
    outcome = ProsumerOutcome.of(scenario, play(scenario))
    assert scenario.leader.event.last - scenario.leader.event.first + 1 == 4
    inside = scenario.leader.mark_event(Session(24))
    for name, provided in outcome.dr_kw.items():
        np.testing.assert_allclose(provided, np.where(inside, longer.dr_kw[name], 0), rtol=1e-9)
    total = np.convolve(longer.sum_dr_kw(), np.ones(4), "valid")
    assert int(total.argmax()) + 1 == scenario.leader.event.first


# --- prosumers that anticipate ---


def test_prosumers_that_anticipate_provide_less_and_are_certified_by_their_own_rule(case: Any) -> None:
    _, taking, held = case
    scenario = load("prosumer", ["prosumers=anticipating"])
    assert isinstance(scenario, ProsumerScenario)
    run_record = play(scenario)
    assert run_record.settled and not run_record.rejected
    outcome = ProsumerOutcome.of(scenario, run_record)
    certificate = certify(scenario, outcome, samples=0)
    assert certificate["gap"] <= 1e-8 and certificate["feasible"] and certificate["anticipating"] is None
    for name, provided in outcome.dr_kw.items():
        less, more = np.array(provided)[11:17], np.array(taking.dr_kw[name])[11:17]
        assert (less > 0).all() and (less < more).all()
    # Each outcome is no equilibrium of the other game.
    assert certify(scenario, taking, samples=0)["max_regret"] > 1e-3
    assert certify(load("prosumer"), outcome, samples=0)["max_regret"] > 1e-3
    assert 0 < held["anticipating"]["least_gain"] <= held["anticipating"]["largest_gain"]


def test_gain_of_who_anticipates_alone_is_that_of_the_best_answer(case: Any) -> None:
    scenario, outcome, certificate = case
    gains, cuts = [], []
    for home in scenario.everyone:
        retail = np.array([scenario.leader.tariffs[home.tariff]])
        load_kw, pv, others = (np.array([each]) for each in (home.load_kw, home.pv_kw, outcome.others[home.id]))
        part = np.array([outcome.dr_kw[home.id]]) > 0
        given = [np.full_like(load_kw, home.alpha), home.limit_kw[None], load_kw, pv, np.full_like(pv, home.pv_cost)]
        best = np.where(part, anticipate_dr(np.where(part, retail, 0), others, *given), 0)
        price = price_pv(load_kw, pv, given[-1], np.where(part, retail, 0), best)
        cost = float(np.sum(compute_cost(best, price, others, given[0], pv - load_kw)))
        gains.append((sum(outcome.cost[home.id]) - cost) / -sum(outcome.cost[home.id]))
        cuts += (1 - best[part] / np.array([outcome.dr_kw[home.id]])[part]).tolist()
    found = certificate["anticipating"]
    assert [found["least_gain"], found["largest_gain"]] == pytest.approx([min(gains), max(gains)], rel=1e-5)
    assert [found["least_cut"], found["largest_cut"]] == pytest.approx([min(cuts), max(cuts)], rel=1e-5)


def test_game_of_prosumers_that_anticipate_settles_on_an_equilibrium_in_many_populations() -> None:
    for seed in range(25):
        homes = population(2 + int(np.random.default_rng([seed, 999]).integers(49)), seed)
        company = utility()
        settings = ProsumerSettings(prosumers="anticipating")
        negotiation = negotiate(homes, company, settings.strategy(Session(24), {"p": len(homes)}))
        assert negotiation.settled, seed
        scenario = _scenario(homes, company, prosumers="anticipating")
        certificate = certify(scenario, negotiation.outcome(scenario), samples=0)
        assert certificate["feasible"] and certificate["gap"] <= 1e-8, (seed, certificate)
        assert len(negotiation.rounds) <= 10 and negotiation.game_rounds <= 25, seed


# --- populations ---


def test_game_settles_on_an_equilibrium_in_forty_populations() -> None:
    worst, outer, inner = 0.0, 0, 0
    for seed in range(40):
        homes = population(2 + int(np.random.default_rng([seed, 999]).integers(49)), seed)
        company = utility()
        negotiation = negotiate(homes, company)
        assert negotiation.settled, seed
        scenario = _scenario(homes, company)
        certificate = certify(scenario, negotiation.outcome(scenario), samples=0)
        assert certificate["feasible"], (seed, certificate)
        worst = max(worst, certificate["gap"])
        outer, inner = max(outer, len(negotiation.rounds)), max(inner, negotiation.game_rounds)
    assert worst <= 1e-8
    assert outer <= 10 and inner <= 25  # 8 and 12 were seen


def _scenario(homes: Sequence[Prosumer], company: UtilitySettings, **changes: Any) -> ProsumerScenario:
    scenario = ProsumerScenario(game="prosumer", leader=company, homes=list(homes), **changes)
    scenario.verify()
    return scenario


def test_extrapolation_changes_the_rounds_and_not_the_equilibrium(monkeypatch: pytest.MonkeyPatch) -> None:
    homes = population(12, seed=5)
    extrapolated = negotiate(homes, utility())
    monkeypatch.setattr(Extrapolation, "judge", _never_extrapolate)
    plain = negotiate(homes, utility())
    assert extrapolated.settled and plain.settled
    assert plain.game_rounds > 3 * extrapolated.game_rounds
    for name, account in extrapolated.homes.items():
        np.testing.assert_allclose(account["dr_kw"], plain.homes[name]["dr_kw"], rtol=1e-7, atol=1e-12)


def _never_extrapolate(extrapolation: Extrapolation, residual: float, tolerance: float) -> None:
    extrapolation.active, extrapolation.residual = False, residual


def test_equilibrium_is_predicted_whatever_a_prosumer_provides() -> None:
    one = np.ones((3, 2))
    for least in (5e-324, 1e-300, 1e-160, 1e-100):
        provided = one * np.array([[least], [1.0], [2.0]])
        answers = Responses(one, one, provided, np.zeros((3, 2), bool)).update(1.1 * one, 2 * one, 1.01 * provided)
        found = answers.solve_equilibrium(lambda dr: price_pv(9 * one, 12 * one, one, 3 * one, dr))
        assert np.isfinite(found).all()


def test_extrapolation_stops_after_three_steps_that_do_not_halve_the_residual() -> None:
    extrapolation = Extrapolation()
    steps = ((1.0, True), (0.4, True), (0.3, False), (0.2, True), (0.19, False), (0.1, True), (0.1, False))
    for residual, active in steps:
        extrapolation.judge(residual, tolerance=1e-9)
        assert extrapolation.active is active
    extrapolation.judge(0.01, tolerance=1e-9)
    assert extrapolation.active is False


def test_prosumers_compete_with_those_of_their_own_provider_only() -> None:
    homes = population(8, seed=3)
    scenario = _scenario(homes, utility(), aggregators=2, homes_per_process=3)
    run_record = play(scenario)
    assert run_record.settled and not run_record.failures
    outcome = ProsumerOutcome.of(scenario, run_record)
    for half in (homes[::2], homes[1::2]):
        alone = negotiate(half, utility())
        for name, account in alone.homes.items():
            np.testing.assert_allclose(outcome.dr_kw[name], account["dr_kw"], rtol=1e-7, atol=1e-12)
            np.testing.assert_allclose(
                outcome.dr_price[name],
                dict(zip([h.id for h in half], alone.account["dr_price"], strict=True))[name],
                rtol=1e-7,
            )
    assert outcome.providers.keys() == {"a1", "a2"}
    np.testing.assert_allclose(outcome.provider_profit, np.sum(list(outcome.providers.values()), axis=0))
    assert certify(scenario, outcome, samples=0)["gap"] <= 1e-8


def test_prosumer_has_no_competition_when_it_is_alone() -> None:
    home = prosumer("h", 10, 30, alpha=0.9)
    account = negotiate([home], utility()).homes["h"]
    assert not any(account["others"])
    t = HOUR_16

    def gap(dr: float) -> float:  # 2 alpha dr = lambda [PR-13]
        sdr = home.pv_kw[t] / (home.load_kw[t] - dr)
        return 2 * 0.9 * dr - 50 * 10 * sdr / (50 * sdr + 10 - 50)

    wanted = min(brentq(gap, 0, 9, xtol=1e-14), 1.0)  # 1 kW is the cap
    assert account["dr_kw"][t] == pytest.approx(wanted, rel=1e-9)


def test_outcome_has_no_trade_when_there_is_no_surplus() -> None:
    scenario = _scenario([prosumer("a", 10, 5), prosumer("b", 10, 7)], utility())
    run_record = play(scenario)
    outcome = ProsumerOutcome.of(scenario, run_record)
    assert run_record.settled and len(run_record.rounds) == 1
    assert outcome.trade is False
    assert not np.any(list(outcome.dr_kw.values())) and not np.any(outcome.provider_profit)
    assert not np.any(outcome.utility_saving_dr_only) and np.any(outcome.utility_saving)  # PV alone
    certificate = certify(scenario, outcome, samples=0)
    assert certificate["gap"] <= 1e-12 and certificate["feasible"]


# --- slots of other lengths ---


def play_dated(scenario: ProsumerScenario) -> tuple[Negotiation, ProsumerOutcome]:
    """The one session of a dated run."""
    settings = ProsumerSettings(prosumers=scenario.prosumers)
    strategy = settings.strategy(scenario.session, {"p": len(scenario.everyone)})
    negotiation = negotiate(scenario.everyone, scenario.leader, strategy, scenario.session)
    assert negotiation.settled
    return negotiation, scenario.outcome(negotiation.run_record)


def in_quarters(scenario: ProsumerScenario) -> ProsumerScenario:
    """The same day in slots of 15 minutes, each hour's numbers four times."""
    leader = scenario.leader
    raw = {
        "schema": 1,
        "game": "prosumer",
        "calendar": {"start": "2020-07-14T00:00", "timezone": "America/Los_Angeles", "slot_minutes": 15},
        "prosumers": scenario.prosumers,
        "leader": leader.model_dump()
        | {
            "tariffs": {name: np.repeat(prices, 4).tolist() for name, prices in leader.tariffs.items()},
            "system_load_kw": np.repeat(leader.system_load_kw, 4).tolist(),
            "event": {"first": "11:00", "last": "21:00"},
        },
        "homes": [
            home.model_dump(exclude={"slot_hours"})
            | {key: np.repeat(getattr(home, key), 4).tolist() for key in ("load_kw", "pv_kw")}
            for home in scenario.everyone
        ],
    }
    quarters = load(raw)
    assert isinstance(quarters, ProsumerScenario)
    return quarters


@pytest.mark.parametrize("conjecture", ["price_taking", "anticipating"])
@pytest.mark.parametrize("seed", range(6))
def test_hourly_day_written_in_quarters_gives_the_same_prices_and_money(seed: int, conjecture: str) -> None:
    """At seed 0 it is the shipped case, after that a random population."""
    homes = load("prosumer").everyone if seed == 0 else population(3 + seed, seed)
    company = load("prosumer").leader if seed == 0 else utility()
    hourly = _scenario(homes, company, prosumers=conjecture)
    quarterly = in_quarters(hourly)
    (long, hours), (short, quarters) = play_dated(hourly), play_dated(quarterly)
    assert len(long.rounds) == len(short.rounds) and long.game_rounds == short.game_rounds
    for a, b in zip(long.rounds, short.rounds, strict=True):  # thresholds [PR-21] hold at the same time
        for key in ("dr_kw_change", "provider_profit_change", "utility_saving_change"):
            assert b.account[key] == pytest.approx(a.account[key], rel=1e-6, abs=1e-6)
    for key in ("dr_kw", "pv_price", "dr_price", "others"):
        for name, values in getattr(hours, key).items():
            np.testing.assert_allclose(getattr(quarters, key)[name], np.repeat(values, 4), rtol=1e-9)
    for key in ("provider_profit", "utility_saving", "utility_saving_dr_only"):
        np.testing.assert_allclose(add_hours(getattr(quarters, key)), getattr(hours, key), rtol=1e-9, atol=1e-9)
    for name, account in long.homes.items():
        for key in ("paid", "cost"):
            np.testing.assert_allclose(add_hours(short.homes[name][key]), account[key], rtol=1e-9, atol=1e-9)
    of_hours, of_quarters = (certify(each, found, 0) for each, found in ((hourly, hours), (quarterly, quarters)))
    assert of_quarters["gap"] <= 1e-8 and of_quarters["feasible"]
    assert of_quarters["anticipating"] == (of_hours["anticipating"] and pytest.approx(of_hours["anticipating"]))


def add_hours(quarters: Sequence[float]) -> np.ndarray:
    return np.asarray(np.reshape(quarters, (-1, 4)).sum(axis=1))


def dated(slots: int, event: dict[str, Any], **calendar: Any) -> dict[str, Any]:
    """Three prosumers in Brussels, with more PV than load in all slots."""
    random = np.random.default_rng(slots)
    load_kw = random.uniform(50, 70, (3, slots))
    return {
        "schema": 1,
        "game": "prosumer",
        "calendar": {"timezone": "Europe/Brussels"} | calendar,
        "leader": {
            "tariffs": {"all": random.uniform(30, 50, slots).tolist()},
            "event": event,
            "cost": {"c0": 400, "c1": -0.6, "c2": 0.003},
            "system_load_kw": (1.5 * load_kw.sum(axis=0)).tolist(),
        },
        "homes": [
            {
                "id": f"h{number}",
                "tariff": "all",
                "alpha": 0.5,
                "pv_cost": 9,
                "load_kw": drawn.tolist(),
                "pv_kw": [80] * slots,
            }
            for number, drawn in enumerate(load_kw)
        ],
    }


@pytest.mark.parametrize(("start", "hours"), [("2026-03-29T00:00", 23), ("2026-10-25T00:00", 25)])
@pytest.mark.parametrize("minutes", [60, 15])
def test_day_of_a_clock_change_settles_and_adds_up(start: str, hours: int, minutes: int) -> None:
    slots = hours * 60 // minutes
    scenario = load(dated(slots, {"first": "01:00", "last": "21:00"}, start=start, slot_minutes=minutes))
    load_kw = np.array([home.load_kw for home in scenario.everyone])
    assert isinstance(scenario, ProsumerScenario)
    event = scenario.leader.mark_event(scenario.session)
    # The clock changes within the event: it lasts an hour less, or more.
    assert event.sum() * minutes / 60 == 20 + hours - 24
    negotiation, outcome = play_dated(scenario)
    assert outcome.times is not None and len(outcome.times) == slots and outcome.slot_hours == minutes / 60
    certificate = certify(scenario, outcome, 0)
    assert certificate["gap"] <= 1e-8 and certificate["feasible"]
    dr, price, paid = (np.array(list(each.values())) for each in (outcome.dr_kw, outcome.pv_price, outcome.dr_price))
    assert np.array_equal(event, dr.any(axis=0))
    # What the utility pays for surplus and DR is what prosumers get and providers keep.
    energy = (80 - load_kw + dr) * event * minutes / 60
    got = sum(sum(account["paid"]) for account in negotiation.homes.values())
    assert (paid * energy).sum() == pytest.approx(got + sum(outcome.provider_profit), rel=1e-9)
    assert (price * energy).sum() == pytest.approx(got, rel=1e-9)


def test_session_of_a_run_has_the_caps_of_the_whole_and_its_own_part_of_the_event() -> None:
    """Sessions of two days are played like the two days by themselves, the caps being those of the whole run."""
    homes = [prosumer("a", 10, 30, cap_share=0.05), prosumer("b", 12, 30)]
    of_the_second_day = np.multiply(1.1, RETAIL).tolist()
    two_days = load(
        {
            "schema": 1,
            "game": "prosumer",
            "calendar": {"start": "2026-06-01T00:00", "days": 2},
            "leader": {
                **utility().model_dump(exclude={"tariffs", "event", "system_load_kw"}),
                "tariffs": {"residential": [*RETAIL, *of_the_second_day]},
                "event": {"first": 12, "last": 40},
                "system_load_kw": (1e5 * LOAD_SHAPE).tolist() * 2,
            },
            "homes": [
                home.model_dump(exclude={"slot_hours"})
                | {"load_kw": [*home.load_kw, *np.multiply(0.5, home.load_kw)], "pv_kw": home.pv_kw * 2}
                for home in homes
            ],
        }
    )
    first, second = (two_days.in_session(session) for session in two_days.sessions)
    assert np.flatnonzero(first.leader.mark_event(first.session)).tolist() == list(range(11, 24))
    assert np.flatnonzero(second.leader.mark_event(second.session)).tolist() == list(range(16))
    assert first.leader.tariffs == {"residential": RETAIL}
    assert second.leader.tariffs == {"residential": of_the_second_day}
    for home, whole in zip(second.everyone, homes, strict=True):
        assert home.load_kw == pytest.approx(np.multiply(0.5, whole.load_kw))
        np.testing.assert_allclose(home.limit_kw, np.minimum(max(whole.limit_kw), home.load_kw))
    _, outcome = play_dated(second)
    assert certify(second, outcome, 0)["gap"] <= 1e-8
    assert outcome.times is not None and outcome.times[0] == "2026-06-02T00:00:00+00:00"


def test_run_of_three_days_settles_each_of_them_in_an_equilibrium() -> None:
    event = {"first": "10:00", "last": "15:00"}
    run = stackelgrid.run(dated(24 + 23 + 24, event, start="2026-03-28T00:00", days=3), certify=True)
    assert run.settled and (run.result.rejected, run.failures) == ({}, {})
    for session in run.result.sessions:
        provided = np.array(session.outcome.sum_dr_kw()) > 0
        hours = [time[11:13] for time, there in zip(session.outcome.times, provided, strict=True) if there]
        assert hours == ["10", "11", "12", "13", "14"]
        assert session.certificate is not None and session.certificate.passed


def test_offer_says_which_slots_are_of_the_event() -> None:
    for slots in ([], [1], [2, 3], [1, 4], [2, 3, 5]):
        event = np.isin(np.arange(1, 6), slots)
        offer = transmit(Offer.of({"all": [1.0] * 5}, event))
        np.testing.assert_array_equal(offer.event, event)


# --- the end of the game [PR-21] ---


@pytest.mark.parametrize("key", ["dr_kw", "provider_profit", "utility_saving"])
def test_utility_settles_later_when_a_threshold_is_tighter(case: Any, key: str) -> None:
    scenario, *_ = case

    def rounds(**epsilon: float) -> list[float]:
        """How `key` changed from round to round when the thresholds are these and no others bind."""
        slack = dict.fromkeys(("dr_kw", "provider_profit", "utility_saving"), 1e9)
        changes = {"tolerance": 0.5, "epsilon": scenario.leader.epsilon.model_copy(update=slack | epsilon)}
        negotiation = negotiate(scenario.everyone, scenario.leader.model_copy(update=changes))
        return [decision.account[f"{key}_change"] for decision in negotiation.rounds]

    strict = rounds(**{key: 1e-4})
    assert len(strict) > len(rounds())
    assert strict[-1] <= 1e-4 < strict[-2]


def test_residual_is_large_when_the_provider_runs_out_of_rounds(case: Any) -> None:
    """Prices are within a half of [PR-13] by then, but the last S that prosumers received is that of being alone."""
    scenario, *_ = case
    hasty = ProsumerSettings(max_rounds=1).strategy(Session(24), {"p": 2})
    negotiation = negotiate(scenario.everyone, scenario.leader, hasty)
    assert negotiation.rounds[1].account["game_rounds"] == 1
    assert negotiation.rounds[1].residual == 1.0 and not negotiation.rounds[1].settle


# --- nodes that are missing ---


def ask(
    middle: ProsumerAggregator, offer: Offer, emcs: dict[str, ProsumerHomes], silent: set[str], held: dict[str, Body]
) -> Reply:
    step: Ask | Reply = middle.open(offer)
    while isinstance(step, Ask):
        answers: dict[str, Body] = {
            name: emc.answer(step.body[name]) for name, emc in emcs.items() if name not in silent
        }
        answers |= {name: held[name] for name in silent & held.keys()}
        step = middle.on_answers(step.body, answers, silent & held.keys(), silent - held.keys())
    return step


def offer_of(company: UtilitySettings) -> Offer:
    return Offer.of(company.tariffs, company.mark_event(Session(24)))


def test_provider_leaves_out_a_prosumer_while_it_is_excluded() -> None:
    homes = population(6, seed=4)
    emcs = {home.id: ProsumerHomes([home]) for home in homes}
    middle = ProsumerSettings().strategy(Session(24), dict.fromkeys(emcs, 1))
    offer = offer_of(utility())
    for _ in range(6):
        reply = ask(middle, offer, emcs, {"p2"}, {}).body
    assert (reply.homes, reply.excluded, reply.held, reply.fresh) == (5, 1, 0, False)
    assert reply.residual <= 1e-9
    assert not to_matrix(reply.pv_price)[-1].any()  # never present, so it has taken no row yet
    ending = middle.settle(offer)
    assert not any(ending.body["p2"].price) and not any(ending.body["p2"].others)
    without = negotiate([home for home in homes if home.id != "p2"], utility())
    for name, account in without.homes.items():
        mine = emcs[name].settle(ending.body[name])[name]
        np.testing.assert_allclose(mine["dr_kw"], account["dr_kw"], rtol=1e-7, atol=1e-12)
    for _ in range(8):
        reply = ask(middle, offer, emcs, set(), {}).body
    assert reply.fresh and reply.residual <= 1e-9
    ending, everybody = middle.settle(offer), negotiate(homes, utility())
    for name, account in everybody.homes.items():
        mine = emcs[name].settle(ending.body[name])[name]
        np.testing.assert_allclose(mine["dr_kw"], account["dr_kw"], rtol=1e-7, atol=1e-12)
    last = ask(middle, offer, emcs, {"p2"}, {})
    assert last.body.excluded == 1 and any(ending.body["p2"].price)
    assert not any(middle.settle(offer).body["p2"].price)


def test_provider_prices_a_prosumer_that_returns_during_half_way_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A half-way step is geometric: from the zero price of an absent prosumer it would never leave zero."""
    monkeypatch.setattr(Extrapolation, "judge", _never_extrapolate)
    homes = population(6, seed=4)
    emcs = {home.id: ProsumerHomes([home]) for home in homes}
    middle = ProsumerSettings().strategy(Session(24), dict.fromkeys(emcs, 1))
    offer = offer_of(utility())
    for _ in range(4):
        away = ask(middle, offer, emcs, {"p2"}, {}).body
    assert not any(middle.settle(offer).body["p2"].price)
    for _ in range(50):
        reply = ask(middle, offer, emcs, set(), {}).body
    assert away.excluded == 1 and reply.fresh and reply.residual <= 1e-9
    ending = middle.settle(offer)
    monkeypatch.undo()
    everybody = negotiate(homes, utility())
    assert any(everybody.homes["p2"]["dr_kw"])
    for name, account in everybody.homes.items():
        mine = emcs[name].settle(ending.body[name])[name]
        np.testing.assert_allclose(mine["dr_kw"], account["dr_kw"], rtol=1e-7, atol=1e-12)


def test_provider_counts_the_last_quantity_of_a_prosumer_that_is_held() -> None:
    homes = population(6, seed=4)
    emcs = {home.id: ProsumerHomes([home]) for home in homes}
    middle = ProsumerSettings().strategy(Session(24), dict.fromkeys(emcs, 1))
    offer = offer_of(utility())
    last = emcs["p1"].answer(PvPrice(price=[20.0] * 24, others=[0.1] * 24))
    for _ in range(8):
        reply = ask(middle, offer, emcs, {"p1"}, {"p1": last}).body
    assert (reply.homes, reply.held, reply.fresh) == (6, 1, False)
    others = to_matrix(middle.settle(offer).body["p0"].others)[0]
    provided = {name: to_matrix(emc.answer(middle.settle(offer).body[name]).dr_kw)[0] for name, emc in emcs.items()}
    provided["p1"] = to_matrix(last.dr_kw)[0]
    t = HOUR_16
    assert others[t] == pytest.approx(
        sum(1 / dr[t] for name, dr in provided.items() if name != "p0" and dr[t] > 0), rel=1e-9
    )


def test_prosumer_does_not_trade_when_the_utility_lacks_its_tariff() -> None:
    homes = [prosumer("a", 10, 30), prosumer("b", 10, 30, tariff="industrial")]
    negotiation = negotiate(homes, utility())
    assert negotiation.settled
    assert any(negotiation.homes["a"]["dr_kw"]) and not any(negotiation.homes["b"]["dr_kw"])


def test_provider_earns_nothing_when_the_dr_price_is_for_another_number_of_prosumers() -> None:
    homes = [prosumer("a", 10, 30), prosumer("b", 12, 30)]
    emcs = {"p": ProsumerHomes(homes)}
    middle = ProsumerSettings().strategy(Session(24), {"p": 2})
    offer = offer_of(utility())
    ask(middle, offer, emcs, set(), {})
    wrong = offer.model_copy(update={"dr_price": to_rows(np.full((3, 24), 40.0))})
    reply = ask(middle, wrong, emcs, set(), {}).body
    assert max(reply.profit) <= 0 and max(reply.dr_kw) > 0


def provisions(homes: Sequence[Prosumer], silent: set[str] = frozenset()) -> tuple[list[Any], list[dict[str, Any]]]:
    """The six answers that the utility receives, the first without those `silent`, and the accounts of the provider.

    Each prosumer has an EMC of its own; the accounts are by prosumer, not by place.
    """
    emcs = {home.id: ProsumerHomes([home]) for home in homes}
    middle = ProsumerSettings().strategy(Session(24), dict.fromkeys(emcs, 1))
    leader = utility().strategy(Session(24))
    decision, answers = leader.open(), []
    for number in range(6):
        answers.append(transmit(ask(middle, pick(decision.ask, "a1"), emcs, silent if number == 0 else set(), {}).body))
        decision = leader.decide(decision.ask, {"a1": answers[-1]}, ())
    account = middle.settle(pick(decision.settlement, "a1")).account
    keys = ("pv_price", "dr_price", "dr_kw")
    return answers, [{key: dict(zip(emcs, account[key], strict=True)) for key in keys}]


@pytest.mark.parametrize("silent", [set(), {"p1", "p4"}], ids=["all present at once", "two present later"])
def test_order_of_rows_does_not_depend_on_the_order_of_members(silent: set[str]) -> None:
    """However the provider's members are ordered, the utility receives the same rows, and each is paid the same."""
    homes = population(9, seed=6)
    answers, accounts = provisions(homes, silent)
    shuffled = [homes[place] for place in (4, 7, 1, 8, 0, 6, 3, 5, 2)]
    others_answers, others_accounts = provisions(shuffled, silent)
    for one, other in zip(answers, others_answers, strict=True):
        assert one.tariff == other.tariff
        np.testing.assert_allclose(to_matrix(one.pv_price), to_matrix(other.pv_price), rtol=1e-9)
        np.testing.assert_array_equal(to_matrix(one.sdr) > 0, to_matrix(other.sdr) > 0)
    for mine, other in zip(accounts, others_accounts, strict=True):
        for key, by_home in mine.items():
            for name, numbers in by_home.items():
                np.testing.assert_allclose(numbers, other[key][name], rtol=1e-7, atol=1e-12)


def test_row_is_kept_once_taken() -> None:
    """The utility may hold an earlier answer: prices for that one still reach their prosumers."""
    order = RowOrder(4)
    present = np.array([True, False, True, True])
    tariff = ["b", "unknown", "a", "a"]
    content = np.array([[1.0, 2.0], [0.0, 0.0], [7.0, 1.0], [7.0, 0.0]])
    assert order.assign(present, tariff, content).tolist() == [3, 2, 0, 1]
    assert order.assign(~present, ["b", "a", "a", "a"], -content).tolist() == [3, 2, 0, 1]
    assert RowOrder(4).assign(~present, tariff, content).tolist() == [1, 0, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dr_kw": [11.0] * 24}, "nobody can curtail more than it draws"),
        ({"pv_kw": [-1.0] * 24}, "pv_kw has a number below 0"),
        ({"pv_cost": [1.0] * 23}, "pv_cost has 1 rows of 23 slots, not 1 of 24"),
        ({"homes": 2}, "tariff has 1 rows for 2 homes"),
        ({"load_kw": {"shape": [24], "float64": ""}}, "float64 holds 0 numbers"),
    ],
)
def test_response_is_refused_when_it_cannot_be(change: dict[str, Any], message: str) -> None:
    sound = ProsumerHomes([prosumer("a", 10, 30)]).answer(PvPrice(price=[0.0] * 24, others=[0.0] * 24)).model_dump()
    sound["load_kw"] = [10.0] * 24
    with pytest.raises(ValidationError, match=message):
        DrResponse.model_validate(sound | change)


def test_provider_and_utility_stay_finite_at_the_largest_numbers() -> None:
    homes = [prosumer("a", 10, 30), prosumer("b", 12, 30)]
    emcs: dict[str, Any] = {"a": ProsumerHomes([homes[0]]), "b": _ExtremeProsumers(ProsumerHomes([homes[1]]))}
    middle, leader = ProsumerSettings().strategy(Session(24), {"a": 1, "b": 1}), utility().strategy(Session(24))
    decision = leader.open()
    for _ in range(5):
        reply = transmit(ask(middle, pick(decision.ask, "a1"), emcs, set(), {}).body)
        decision = leader.decide(decision.ask, {"a1": reply}, ())
        json.dumps(dict(decision.account), allow_nan=False)
        transmit(pick(decision.ask, "a1"))


@dataclass
class _ExtremeProsumers:
    """Answers the largest load and PV that a message can hold, and in turn the largest and nearly no DR."""

    emc: ProsumerHomes
    turn: int = 0

    def answer(self, signal: Body) -> DrResponse:
        self.turn += 1
        most, least = [1e12] * 24, [1e-300] * 24
        extreme = {"load_kw": most, "pv_kw": most, "pv_cost": least, "dr_kw": (most, least)[self.turn % 2]}
        return self.emc.answer(signal).model_copy(update=extreme)


# --- scenarios and certificates ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["homes.0.tariff=industrial"], "homes.0.tariff: 'industrial' is none of leader.tariffs"),
        (["homes.0.alpha=0"], "alpha"),
        (["homes.0.load_kw=[1, 2]"], "pv_kw has 24 numbers, load_kw 2"),
        (["homes.0.bus=99"], "homes.0.bus: 99 is no bus of feeder.load_kw"),
        (["leader.event.last=30"], "leader.event.last is 30, the horizon has 24 slots"),
        (["leader.event.first=22"], "first 22 is after last 21"),
        (
            ["leader.event.first='11:00'", "leader.event.last='21:00'"],
            "leader.event: a run without a calendar has no time 11:00; give the numbers of slots, or a calendar",
        ),
        (["leader.tariffs.business=[1, 2]"], "leader.tariffs.business has 2 numbers"),
        (["feeder.lines.0.start=7"], "feeder.lines: bus 2 is not connected to the substation, bus 1, nor are 32 more;"),
        (
            ["feeder.lines.32.start=40"],
            "feeder.lines: bus 34 is not connected to the substation, bus 1, nor are 1 more",
        ),
        (["feeder.load_kw.23=100"], "leader.system_load_kw is not the sum of feeder.load_kw"),
        (["leader.epsilon.kw=1"], "unknown key"),
        (["population={}"], "population"),
    ],
)
def test_scenario_is_refused_when_its_parts_do_not_fit(changes: list[str], message: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        load("prosumer", changes)
    assert message in str(refused.value)


def test_documented_scenario_plays_as_documented(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/games/prosumer.md").read_text()
    path = tmp_path / "documented.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    scenario = load(str(path))
    run_record = play(scenario)
    outcome = ProsumerOutcome.of(scenario, run_record)
    assert run_record.settled and len(run_record.rounds) == 5
    np.testing.assert_allclose(outcome.dr_kw["mill"], [0, 3.28, 5.41, 0], atol=0.005)
    np.testing.assert_allclose(outcome.dr_kw["farm"], [0, 4.35, 7.63, 0], atol=0.005)
    assert certify(scenario, outcome, samples=0)["gap"] <= 1e-9


def test_scenario_is_refused_when_prosumers_draw_more_than_the_system() -> None:
    with pytest.raises(ValueError, match=r"the prosumers draw 600 kW in slot 1, leader\.system_load_kw there is 60;"):
        _scenario([prosumer("h", 1000, 30)], utility(system_load_kw=(100 * LOAD_SHAPE).tolist()))


def test_prosumer_drawn_is_the_same_in_a_larger_population() -> None:
    kind = {"peak_kw": [4, 9], "pv_share": [1, 2], "pv_cost": [8, 12], "alpha": [0.2, 1], "cap_share": [0.05, 0.2]}
    drawn = {
        "load_shape": LOAD_SHAPE.tolist(),
        "pv_shape": SUN.tolist(),
        "kinds": {"residential": kind, "business": kind},
    }
    few, many = (
        ProsumerScenario(game="prosumer", seed=9, leader=utility(), population={"homes": homes, **drawn})
        for homes in (12, 90)
    )
    assert few.everyone == many.everyone[:12]
    assert [home.tariff for home in few.everyone[:3]] == ["residential", "business", "residential"]
    assert all(0.05 <= home.cap_share <= 0.2 and 4 <= max(home.load_kw) <= 9 for home in many.everyone)
    with pytest.raises(ValidationError, match="alpha goes up to 2; it is at most 1"):
        ProsumerScenario(
            game="prosumer",
            leader=utility(),
            population={"homes": 2, **drawn, "kinds": {"residential": kind | {"alpha": [1, 2]}}},
        )


@pytest.mark.parametrize(("above", "feasible"), [(4e-16, True), (1e-6, False)])
def test_certificate_allows_for_rounding_at_the_cap_of_a_large_prosumer(
    case: Any, above: float, feasible: bool
) -> None:
    scenario, outcome, _ = case
    size = 1e7
    homes = [home.model_copy(update={"load_kw": [size * load for load in home.load_kw]}) for home in scenario.homes]
    large = ProsumerScenario.model_validate(scenario.model_dump(by_alias=True) | {"homes": homes})
    content = outcome.content()
    for home in homes:
        content["dr_kw"][home.id][HOUR_16] = float(home.limit_kw[HOUR_16]) * (1 + above)
    certificate = certify(large, ProsumerOutcome.model_validate(content), samples=0)
    assert certificate["violation"] > 1e-9 and certificate["feasible"] is feasible


def test_certificate_shows_the_error_when_an_outcome_is_tampered_with(case: Any) -> None:
    scenario, outcome, _ = case

    def certify_changed(key: str, home: str, factor: float) -> dict[str, Any]:
        content = outcome.content()
        content[key][home][HOUR_16] *= factor
        return certify(scenario, ProsumerOutcome.model_validate(content), samples=0)

    assert certify_changed("dr_kw", "bus27", 1.01)["max_regret"] > 1e-5
    assert certify_changed("dr_kw", "bus27", 2)["feasible"] is False
    assert certify_changed("pv_price", "bus23", 1.001)["pv_price_residual"] == pytest.approx(0.001, rel=0.01)
    assert certify_changed("dr_price", "bus23", 1.001)["dr_price_residual"] == pytest.approx(0.001, rel=0.01)
    assert certify_changed("dr_price", "bus23", 0.5)["feasible"] is False
    for key, residual in (("provider_profit", "profit_residual"), ("utility_saving", "saving_residual")):
        doubled = outcome.model_copy(update={key: [2 * x for x in getattr(outcome, key)]})
        assert certify(scenario, doubled, samples=0)[residual] > 0.1


def test_certificate_is_refused_when_a_prosumer_did_not_settle(case: Any) -> None:
    scenario, outcome, _ = case
    incomplete = outcome.model_copy(update={"dr_kw": {"bus27": outcome.dr_kw["bus27"]}})
    with pytest.raises(CertificateError, match=r"outcome\.dr_kw is not of the scenario's prosumers: bus23"):
        certify(scenario, incomplete, samples=0)


def test_outcome_is_refused_when_an_array_has_another_length(case: Any) -> None:
    content = case[1].content()
    content["cost"]["bus23"].pop()
    with pytest.raises(ValidationError, match=r"cost\.bus23 has 23 numbers, system_load_kw has 24"):
        ProsumerOutcome.model_validate(content)


def test_outcome_read_from_its_json_is_the_same(case: Any) -> None:
    text = json.dumps(case[1].content())
    assert json.dumps(ProsumerOutcome.model_validate_json(text).content()) == text


# --- key figures ---


def test_key_figures_leave_out_prices_at_which_nothing_is_provided(case: Any) -> None:
    outcome: ProsumerOutcome = case[1]
    highest = [
        max(
            price
            for name, quantities in outcome.dr_kw.items()
            for price, dr in zip(prices[name], quantities, strict=True)
            if dr > 0
        )
        for prices in (outcome.pv_price, outcome.dr_price)
    ]
    result: RunResult[Any] = RunResult.model_construct(money="cents")

    def rows_of(outcome: ProsumerOutcome) -> dict[str, str]:
        return dict(key_figures(result, outcome))

    assert rows_of(outcome)["PV price, highest"] == f"{highest[0]:.2f} cents/kWh"
    assert rows_of(outcome)["DR price, highest"] == f"{highest[1]:.2f} cents/kWh"
    # At night nobody provides anything.
    dear = {name: [99.0, *prices[1:]] for name, prices in outcome.dr_price.items()}
    assert rows_of(outcome.model_copy(update={"dr_price": dear})) == rows_of(outcome)
    idle = {name: [0.0] * 24 for name in outcome.dr_kw}
    nothing = rows_of(outcome.model_copy(update={"dr_kw": idle}))
    assert nothing["Demand response"] == "0 kWh" and "DR price, highest" not in nothing


def test_report_leaves_out_dr_prices_when_a_provider_was_lost_after_the_settlement() -> None:
    scenario = load("prosumer", ["feeder=null"])
    run_record = play(scenario)
    run_record.aggregators.clear()
    outcome = scenario.outcome(run_record)
    result: RunResult[Any] = RunResult.model_construct(money="cents")
    labels = dict(key_figures(result, outcome))
    assert "PV price, highest" in labels and "DR price, highest" not in labels
    run = RunFolder(Path(), result, [], scenario, {})
    plots = {part.name for section in sections(run, outcome) for part in section.parts if isinstance(part, Plot)}
    assert {"retail", "pv_price"} < plots and "dr_price" not in plots


# --- the feeder ---


def feeder(**changes: Any) -> dict[str, Any]:
    given = {"kv": 11, "load_shape": [1.0] * 24, "load_kw": {2: 3000}, "load_kvar": {2: 1500}}
    return given | {"lines": [{"start": 1, "end": 2, "r_ohm": 1.2, "x_ohm": 0.7}]} | changes


def solve_without_prosumers(grid: dict[str, Any]) -> FeederState:
    """The state of the feeder without any PV and DR."""
    pytest.importorskip("power_grid_model")

    scenario = ProsumerScenario(game="prosumer", leader=utility(), homes=[prosumer("h", 1, 1)], feeder=grid)
    return solve_power_flow(scenario, {"h": [0.0] * 24}).before


def test_voltage_at_the_end_of_one_line_solves_its_quadratic() -> None:
    state = solve_without_prosumers(feeder())
    r, x, p, q = 1.2 / 121, 0.7 / 121, 3.0, 1.5  # per unit of 1 MVA and 11 kV
    b = 2 * (r * p + x * q) - 1
    voltage = math.sqrt((-b + math.sqrt(b**2 - 4 * (r**2 + x**2) * (p**2 + q**2))) / 2)
    np.testing.assert_allclose(state.voltage[2], voltage, rtol=1e-9)
    np.testing.assert_allclose(state.losses_kw, 1000 * r * (p**2 + q**2) / voltage**2, rtol=1e-9)


def test_feeder_has_the_published_losses_and_voltage(case: Any) -> None:
    """Of the 34-bus feeder with 4636.5 kW and 2873.5 kvar the literature gives 221.7 kW and 0.9417 per unit."""
    grid = case[0].feeder.model_dump()
    state = solve_without_prosumers(grid | {"load_kw": grid["load_kvar"], "load_kvar": grid["load_kw"]})
    peak = int(np.argmax(grid["load_shape"]))
    assert state.losses_kw[peak] == pytest.approx(221.7, abs=0.1)
    assert min(voltage[peak] for voltage in state.voltage.values()) == pytest.approx(0.9417, abs=1e-4)


def test_power_flow_conserves_power_and_dr_raises_the_voltage(case: Any) -> None:
    pytest.importorskip("power_grid_model")
    scenario, outcome, _ = case
    states = solve_power_flow(scenario, outcome.dr_kw)
    for state, load_kw in ((states.before, outcome.system_load_kw), (states.after, outcome.net_load_kw)):
        np.testing.assert_allclose(state.substation_kw, np.add(load_kw, state.losses_kw), rtol=1e-9)
    for bus in (23, 27):
        before, pv, after = (np.array(state.voltage[bus]) for state in (states.before, states.pv, states.after))
        assert np.all(before[11:17] < pv[11:17]) and np.all(pv[11:17] < after[11:17])
        np.testing.assert_allclose(after[17:], pv[17:], rtol=1e-12)


# --- prosumers that answer at random ---


def test_prosumer_that_answers_at_random_does_not_keep_the_others_from_settling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The simultaneous game would else take all its rounds each time, and the run end without an agreement."""
    random, answer = np.random.default_rng(1), ProsumerHomes.answer

    def lie(homes: ProsumerHomes, signal: PvPrice) -> DrResponse:
        true = answer(homes, signal)
        if homes._homes[0].id != "p1":
            return true
        at_random = to_matrix(true.load_kw) * random.uniform(0, 1, to_matrix(true.load_kw).shape)
        return true.model_copy(update={"dr_kw": to_rows(at_random)})

    home = load("prosumer").everyone[1]
    rivals = [home.model_copy(update={"id": f"p{number}", "bus": None}) for number in range(1, 5)]
    scenario = load("prosumer").model_copy(update={"homes": rivals, "feeder": None})
    monkeypatch.setattr(ProsumerHomes, "answer", lie)
    run = play(scenario)
    assert run.settled and run.failures == {}
    assert len(run.aggregator_rounds) < 60


def test_conduct_fixes_a_quantity_that_falls_again_and_again_while_it_pays_no_less() -> None:
    conduct, fresh = Conduct((2, 1)), np.ones(2, bool)
    one = np.ones((2, 1))
    for _ in range(4):
        for quantity in (3.0, 2.0):
            counted = conduct.judge(one, one, np.array([[quantity], [3.0]]), fresh)
    assert counted[1, 0] == 3.0
    fixed = counted[0, 0]
    assert conduct.judge(one, one, np.array([[9.0], [3.0]]), fresh)[0, 0] == fixed


def test_conduct_does_not_judge_answers_that_price_and_others_explain() -> None:
    conduct, fresh = Conduct((1, 1)), np.ones(1, bool)
    one = np.ones((1, 1))
    for step in range(20):
        price, others = (one * (step % 2 + 1), one) if step % 4 < 2 else (one, one * (step % 2 + 1))
        quantity = solve_dr(price, others, one, 9 * one)
        assert conduct.judge(price, others, quantity, fresh) == quantity
