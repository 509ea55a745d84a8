"""The report of any game: one without a report of its own, one with a small one, and the shipped ones."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from support.report_page import Page, figures, fill, keep

from stackelgrid.games.prosumer.feeder import FeederState, FeederStates
from stackelgrid.registry import list_games
from stackelgrid.report import ReportError, drawing, write
from stackelgrid.report.game import __doc__ as documentation
from stackelgrid.report.game import find_report
from stackelgrid.report.parts import Plot, Section
from stackelgrid.report.run_folder import read
from stackelgrid.report.tables import checks, summary
from stackelgrid.run_record import RunRecord
from stackelgrid.run_result import parse
from stackelgrid.scenarios import Scenario, load, yaml_file
from stackelgrid.scenarios import list_shipped as shipped_cases
from stackelgrid.testbed.in_memory import play
from stackelgrid.testbed.result import build_result, certify

FIFTH = """
from functools import cached_property

from stackelgrid.registry import Game
from stackelgrid.rounds.settings import HomeModel
from stackelgrid.run_record import Outcome
from stackelgrid.scenarios import Scenario

GAME = Game(__name__, "fifth game", scenario=":FifthScenario", outcome=":{outcome}", report={report})


class FifthScenario(Scenario):
    @cached_property
    def everyone(self):
        return [HomeModel(id="h1"), HomeModel(id="h2")]

    def rehearse(self):
        pass  # nobody plays it: the run is written by hand below


class PlainOutcome(Outcome):
    peak_kw: float
    price: list[float]
    sold_mw: dict[str, list[float]]
    calls_kwh: dict[str, float]
    settled_early: bool
    homes: dict[str, dict[str, float | list[float]]]
    note: str

"""
EXAMPLE = "".join(line for line in (documentation or "").splitlines(True) if line.startswith("    ") or line == "\n")
"""What the documentation tells a game's author to write."""
OUTCOME = {
    "peak_kw": 12.5,
    "price": [1.0, 2.0, 4.0],
    "sold_mw": {"north": [0.0, 1.0, 2.0], "south": [3.0, 1.0, 0.0]},
    "calls_kwh": {"c1": 5.0, "c2": 7.0},
    "settled_early": True,
    "homes": {"h1": {"load_kw": [1.0, 2.0, 1.0], "bill": 7.0}, "h2": {"load_kw": [0.0, 2.0, 1.0], "bill": 5.0}},
    "note": "not a number",
}


@pytest.fixture
def fifth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A run of a game that somebody else installed."""
    from stackelgrid.registry import find

    name, report, outcome = request.param
    site, folder = tmp_path / "site", tmp_path / "run"
    distribution = site / f"{name}-1.0.dist-info"
    distribution.mkdir(parents=True)
    (site / f"{name}.py").write_text(FIFTH.format(report=report, outcome=outcome) + dedent(EXAMPLE))
    (distribution / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text(f"[stackelgrid.games]\n{name} = {name}:GAME\n")
    monkeypatch.syspath_prepend(site)
    find.cache_clear()
    folder.mkdir()
    (folder / "scenario.yaml").write_text(f"game: {name}\nslots: 3\nleader: {{tolerance: 1.0e-4, max_rounds: 9}}\n")
    rounds = [
        {"round": n, "residual": 0.1**n, "held": [], "excluded": [], "again": 0, "price": [1.0], "cost": 50.0 - n}
        for n in (1, 2, 3)
    ]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rounds))
    found = OUTCOME if report is None else {"price": OUTCOME["price"]}
    result = {
        "schema": 1, "game": name, "scenario": "", "seed": 4, "transport": "memory", "broker": "none",
        "settled": True, "complete": True, "rounds": 3, "inner_rounds": 12, "elapsed_s": 1.5, "messages": 20,
        "bytes": 2000, "homes": 2, "homes_settled": 2, "processes": 1, "money": "euro", "outcome": found,
        "certificate": {"method": "By hand.", "gap": 1e-9, "max_regret": 2e-3, "feasible": True, "prices": 5},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    return folder


plain = pytest.mark.parametrize("fifth", [("fifth_plain", None, "PlainOutcome")], indirect=True)
own = pytest.mark.parametrize("fifth", [("fifth_own", "':REPORT'", "FifthOutcome")], indirect=True)


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


# --- a game that brings nothing ---


@plain
def test_plain_page_shows_every_number_and_array(fifth: Path) -> None:
    text = Page(write(fifth)).text
    assert text.startswith("Fifth game – Stackelgrid report Fifth game ✓ Settled in 3 rounds (12 among the homes).")
    assert "Peak 12.50 kW" in text
    assert "Settled early" not in text
    assert "1 of 3 checks failed." in text
    assert "Largest regret" in text
    assert "Prices prices 5" in text  # what no rule names
    assert figures(fifth) == {
        "price", "sold_mw", "calls_kwh", "homes-load_kw", "homes-bill", "convergence",
    }  # fmt: skip


@plain
def test_plain_tables_have_every_number_and_array(fifth: Path) -> None:
    write(fifth)
    tables = {path.stem: path.read_text() for path in (fifth / "tables").glob("*.csv")}
    assert tables["slots"] == "session,slot,price\n1,1,1.0\n1,2,2.0\n1,3,4.0\n"
    assert tables["schedules"].splitlines()[:2] == ["session,home,slot,load_kw", "1,h1,1,1.0"]
    assert tables["homes"] == "session,home,bill\n1,h1,7.0\n1,h2,5.0\n"
    assert tables["sessions"].splitlines()[0].endswith("bytes,peak_kw")


@plain
def test_plain_summary_has_every_number(fifth: Path) -> None:
    rows = dict(summary(parse(content(fifth))))
    assert rows["Game"] == "fifth game, seed 4"
    assert rows["Peak"] == "12.50 kW"
    assert rows["Certificate"] == "not passed: largest regret; gap 1.0e-09; largest regret 2.0e-03"


@plain
def test_certificate_is_refused_when_a_number_is_a_text(fifth: Path) -> None:
    result = content(fifth) | {"certificate": {"gap": "small"}}
    (fifth / "result.json").write_text(json.dumps(result))
    with pytest.raises(ReportError, match=r"certificate\.gap is 'small', not a finite number; put the file back"):
        write(fifth)


# --- a game that brings a little ---


@own
def test_page_has_the_sections_of_the_game_when_it_brings_some(fifth: Path) -> None:
    assert ("Highest price", "4.000 euro/kWh") in summary(parse(content(fifth)))
    text = Page(write(fifth)).text
    assert "Highest price 4.000 euro/kWh" in text
    assert "Figure 1. The price that was settled." in text
    assert figures(fifth) == {"price", "convergence"}


@own
def test_outcome_is_refused_when_it_does_not_fit_the_model_of_the_game(fifth: Path) -> None:
    (fifth / "result.json").write_text(json.dumps(content(fifth) | {"outcome": {"price": "high"}}))
    with pytest.raises(ReportError, match=r"result\.json: outcome\.price: .*give a list.*\(found 'high'\)"):
        write(fifth)


# --- figures ---


def test_stack_puts_layers_on_one_another() -> None:
    axes = drawing.stack({"a": [1.0, 2.0], "b": [3.0, 1.0]}, [drawing.Curve("sum", [4.0, 3.0])], "MW").axes[0]
    bottom, top, line = axes.patches
    assert bottom.get_data().values.tolist() == [1.0, 2.0]
    assert (top.get_data().baseline.tolist(), top.get_data().values.tolist()) == ([1.0, 2.0], [4.0, 3.0])
    assert line.get_data().values.tolist() == [4.0, 3.0]


def test_members_are_bars_when_few_and_ranked_when_many() -> None:
    few = drawing.members({"Called": {"x": 2.0, "y": 1.0}, "Shifted": {"x": 1.5, "y": 1.0}}, "kWh").axes[0]
    assert [bar.get_height() for bar in few.patches] == [2.0, 1.0, 1.5, 1.0]
    called = {f"c{n}": float((7 * n) % 40) for n in range(40)}
    axes = drawing.members({"Called": called, "Shifted": {n: x / 2 for n, x in called.items()}}, "kWh").axes[0]
    first, second = axes.lines[0].get_ydata(), axes.lines[1].get_ydata()
    assert list(first) == sorted(called.values())
    assert np.array_equal(second, np.array(first) / 2)  # each member's own, under its place


def test_curves_are_drawn_as_quantiles_when_many() -> None:
    curves = {f"h{n}": [float(n), 10.0] for n in range(101)}
    everyone, half, median = drawing.many(curves, "kW").axes[0].patches
    assert (everyone.get_data().baseline.tolist(), everyone.get_data().values.tolist()) == ([0, 10], [100, 10])
    assert (half.get_data().baseline.tolist(), half.get_data().values.tolist()) == ([25, 10], [75, 10])
    assert median.get_data().values.tolist() == [50, 10]


# --- the shipped games ---

SHIPPED = [game for game in list_games() if game in shipped_cases()]
DRAWN = {
    "user_oriented": {"load", "price", "loads", "storage", "storage_ev", "bills", "convergence"},
    "load_call": {"calls", "earnings"},
    "prosumer": {
        "system", "demand_response", "prices_bus23", "prices_bus27", "saving", "profit", "pv", "convergence",
    },
    "storage_market": {
        "net_demand", "dispatch", "price", "bids", "level", "supply_slope", "sales_cap", "cost_by_period",
        "convergence",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def runs() -> dict[str, tuple[Scenario, RunRecord, dict[str, Any]]]:
    """Each shipped case, played and certified once, with its result.json."""
    found = {}
    for game in SHIPPED:
        scenario = load(game)
        run_record = play(scenario)
        certified = certify(scenario, build_result(scenario, run_record), 3)
        found[game] = scenario, run_record, certified.content()
    return found


@pytest.fixture(scope="module")
def shipped(
    tmp_path_factory: pytest.TempPathFactory, runs: dict[str, tuple[Scenario, RunRecord, dict[str, Any]]]
) -> dict[str, Path]:
    """A run's folder of each shipped case, its page written; not to be changed."""
    above = tmp_path_factory.mktemp("shipped")
    folders = {game: above / game for game in runs}
    for game, (scenario, run_record, result) in runs.items():
        folders[game].mkdir()
        fill(folders[game], scenario, run_record, result)
        write(folders[game])
    return folders


@pytest.fixture
def folders(tmp_path: Path, shipped: dict[str, Path]) -> dict[str, Path]:
    """The same, to be changed."""
    shutil.copytree(shipped["load_call"].parent, tmp_path, dirs_exist_ok=True)
    return {game: tmp_path / folder.name for game, folder in shipped.items()}


def drawn(folder: Path) -> dict[str, Any]:
    """The figures of a game's own sections and its overview, by name, before they are saved."""
    run = read(folder)
    report = find_report(run.result.game)
    overview = report.overview(run, run.result.outcome)
    sections = [*report.sections(run, run.result.outcome), Section("", [] if overview is None else [overview])]
    return {part.name: part.figure for section in sections for part in section.parts if isinstance(part, Plot)}


def curves(figure: Any) -> dict[str, np.ndarray]:
    return {step.get_label(): step.get_data().values for step in figure.axes[0].patches if hasattr(step, "get_data")}


@pytest.mark.parametrize("game", SHIPPED)
def test_page_of_a_game_needs_nothing_but_itself(shipped: dict[str, Path], game: str) -> None:
    page = Page(shipped[game] / "report.html")
    solved = {"voltage", "losses"} if game == "prosumer" and find_spec("power_grid_model") else set()
    assert figures(shipped[game]) == DRAWN.get(game, figures(shipped[game])) | solved
    assert "http" not in page.source
    assert not {"img", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert page.source.count("url(") == page.source.count("url(#")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not {"nan", "none", "inf"} & set(page.text.lower().replace(",", " ").split())
    for label, value in summary(parse(content(shipped[game]))):  # the command line tells the same
        assert label in ("Settled", "Certificate") or value in page.text


@pytest.mark.parametrize("game", SHIPPED)
def test_certificate_of_a_shipped_case_passes_and_is_explained(shipped: dict[str, Path], game: str) -> None:
    lines = checks(parse(content(shipped[game])))
    assert {"feasible", *(rule.key for rule in find_report(game).rules)} <= {line.key for line in lines}
    for line in lines:
        assert line.label
        assert line.passed is not False, line
    judged = {line.key for line in lines if line.passed}
    assert {"feasible", "gap", "max_regret", "violation"} <= judged


@pytest.mark.parametrize(
    ("game", "key", "passing", "failing"),
    [
        ("load_call", "max_home_regret", 1e-6, 1.1e-6),
        ("load_call", "aggregator_regret", 1e-6, 1.1e-6),
        ("load_call", "violation", 799e-6, 801e-6),
        ("load_call", "balance_residual", 79e-6, 81e-6),
        ("prosumer", "gap", 1e-6, 1.1e-6),
        ("prosumer", "dr_price_residual", 1e-6, 1.1e-6),
        ("prosumer", "violation", 7e-9, 9e-9),
        ("storage_market", "max_home_regret", 1e-6, 1.1e-6),
        ("storage_market", "max_regret", 1e-6, 1.1e-6),
        ("storage_market", "integrality_regret", 0.004, 0.0041),  # the inertia
        ("storage_market", "slope_residual", 1e-4, 1.1e-4),
        ("storage_market", "max_dra_regret", 1e-6, 1.1e-6),
        ("storage_market", "leader_regret", 1e-6, 1.1e-6),
        ("storage_market", "gap", -1.0, 1.1e-6),
        ("storage_market", "battery_residual", 1e-9, 1.1e-9),
    ],
)
def test_check_of_a_game_passes_up_to_its_limit(
    shipped: dict[str, Path], game: str, key: str, passing: float, failing: float
) -> None:
    result = content(shipped[game])

    def judge(value: float) -> bool | None:
        certificate = result["certificate"] | {"inertia": 0.004, key: value}
        return next(line.passed for line in checks(parse(result | {"certificate": certificate})) if line.key == key)

    assert judge(passing) is True
    assert judge(failing) is False


@pytest.mark.parametrize(("game", "limit"), [("prosumer", 2), ("storage_market", 2)])
def test_page_of_a_game_that_did_not_settle(tmp_path: Path, game: str, limit: int) -> None:
    scenario = load(game, [f"leader.max_rounds={limit}"])
    run_record = play(scenario)
    fill(tmp_path, scenario, run_record, build_result(scenario, run_record).content())
    assert "Not settled within the limit of 2 rounds" in Page(write(tmp_path)).text


@pytest.mark.parametrize("game", SHIPPED)
def test_page_of_a_game_that_was_interrupted(
    tmp_path: Path, runs: dict[str, tuple[Scenario, RunRecord, dict[str, Any]]], game: str
) -> None:
    scenario, whole, _ = runs[game]
    run_record = RunRecord("mqtt", "mosquitto", 9, rounds=whole.rounds[:2], interrupted=True)
    fill(tmp_path, scenario, run_record, build_result(scenario, run_record).content())
    text = Page(write(tmp_path)).text
    assert "Not settled: the run ended after" in text
    assert "stackelgrid certify" not in text


# --- the first screens ---


def tell_story(folder: Path, outcome: dict[str, Any]) -> str:
    """The sentence of the first screen, for this outcome in place of that of the run."""
    result = parse(content(folder) | {"outcome": outcome})
    return find_report(result.game).story(result, result.outcome)


def test_load_call_story_tells_rate_and_bills(shipped: dict[str, Path]) -> None:
    outcome = content(shipped["load_call"])["outcome"]
    outcome["rewards"] = {name: 2.5 * shifted for name, shifted in outcome["shifted_kwh"].items()}
    story = tell_story(shipped["load_call"], outcome)
    assert (
        "for rewards of 1,680 THB at 2.500 THB/kWh; these not counted, their bills fell from 10,002 to 7,877" in story
    )
    outcome |= {key: dict.fromkeys(outcome[key], 0.0) for key in ("rewards", "shifted_kwh")}
    assert "for rewards of 0 THB; these not counted" in tell_story(shipped["load_call"], outcome)


def test_prosumer_story_tells_pv_output_and_demand_response(shipped: dict[str, Path]) -> None:
    outcome = content(shipped["prosumer"])["outcome"]
    outcome["dr_kw"] = {name: [2.0] * 24 for name in outcome["dr_kw"]}
    for local, pv in ((10.0, "144.0"), (4.0, "0")):  # 2 prosumers, 24 hours
        outcome["net_load_kw"] = [load - local for load in outcome["system_load_kw"]]
        found = f"2 prosumers provided {pv} kWh of PV output and 96.00 kWh of demand response;"
        assert found in tell_story(shipped["prosumer"], outcome)


def test_storage_market_story_tells_appliances_and_batteries_apart(shipped: dict[str, Path]) -> None:
    outcome = content(shipped["storage_market"])["outcome"]
    outcome |= {"baseline_peak_mw": 200.0, "peak_without_mw": 180.0, "peak_mw": 189.0}
    story = tell_story(shipped["storage_market"], outcome)
    assert "moved appliances, and the peak of net demand fell from 200.0 to 180.0 MW (−10.0 %); " in story
    assert "from batteries, and it rose from 180.0 to 189.0 MW (+5.0 %). The cost of supply fell from" in story


# --- load calls ---


def test_load_call_page_has_the_papers_figures(shipped: dict[str, Path]) -> None:
    text = Page(shipped["load_call"] / "report.html").text
    assert "84.0 % of the target" in text
    assert "Complied in full 4 of 10 consumers" in text
    assert "c1 90.00 52.43 7.550" in text
    assert "c2 800.0 152.4 152.4" in text
    assert "There was one round." in text


def test_load_call_bars_are_the_calls_and_the_shifts(shipped: dict[str, Path]) -> None:
    outcome = content(shipped["load_call"])["outcome"]
    called, shifted = drawn(shipped["load_call"])["calls"].axes[0].containers
    assert [bar.get_height() for bar in called] == list(outcome["calls_kwh"].values())
    assert [bar.get_height() for bar in shifted] == list(outcome["shifted_kwh"].values())


def test_load_call_page_lists_the_rounds_of_calls(folders: dict[str, Path]) -> None:
    result = content(folders["load_call"])
    result["outcome"]["call_journal"] = [
        {"called_kwh": 800.0, "shifted_kwh": 640.0, "gap": 9.5, "shown": 5},
        {"called_kwh": 800.0, "shifted_kwh": 672.0, "gap": 0.0, "shown": 6},
    ]
    keep(folders["load_call"], result)
    assert "Round 1 800.0 640.0 5 9.500 Round 2 800.0 672.0 6 0" in Page(write(folders["load_call"])).text


def test_load_call_page_stays_short_with_a_thousand_consumers(folders: dict[str, Path]) -> None:
    result = content(folders["load_call"])
    for key in ("calls_kwh", "shifted_kwh", "rewards", "bills", "baseline_bills"):
        result["outcome"][key] = {f"n{n}": float(n) for n in range(1000)}
    keep(folders["load_call"], result | {"homes": 1000, "homes_settled": 1000})
    page = Page(write(folders["load_call"]))
    assert "Consumers are ranked by what they are called for." in page.text
    assert "All consumers (1,000)" in page.text
    assert sum(tag == "tr" for tag, _ in page.tags) < 100
    assert len(page.source) < 400_000


def test_load_call_outcome_is_refused_when_lists_are_of_other_consumers(folders: dict[str, Path]) -> None:
    result = content(folders["load_call"])
    result["outcome"]["bills"].pop("c3")
    keep(folders["load_call"], result)
    with pytest.raises(ReportError, match=r"outcome: bills is of other consumers than calls_kwh"):
        write(folders["load_call"])


# --- prosumers ---


def test_prosumer_prices_are_ordered_where_there_is_trade(shipped: dict[str, Path]) -> None:
    outcome = content(shipped["prosumer"])["outcome"]
    for name in ("bus23", "bus27"):
        price = curves(drawn(shipped["prosumer"])[f"prices_{name}"])
        traded = np.array(outcome["dr_kw"][name]) > 0
        assert np.array_equal(np.isfinite(price["PV price"]), np.array(outcome["pv_price"][name]) > 0)
        assert np.flatnonzero(traded).tolist() == [11, 12, 13, 14, 15, 16]
        assert (price["PV price"][traded] < price["DR price"][traded]).all()
        assert (price["DR price"][traded] <= price["Retail rate"][traded]).all()


def test_prosumer_page_has_the_papers_figures(shipped: dict[str, Path]) -> None:
    text = Page(shipped["prosumer"] / "report.html").text
    assert "Most in an hour 13.74 kW in hour 17" in text
    assert "bus23 23.78 6.035" in text
    assert "hours 12 to 21" in text


def test_prosumer_curves_are_drawn_as_quantiles_when_many(folders: dict[str, Path]) -> None:
    result = content(folders["prosumer"])
    for key in ("dr_kw", "pv_price", "dr_price", "cost"):
        result["outcome"][key] = {f"h{n}": result["outcome"][key]["bus23"] for n in range(40)}
    keep(folders["prosumer"], result | {"homes": 40, "homes_settled": 40})
    figure = drawn(folders["prosumer"])
    assert {"demand_response_sum", "retail", "pv_price", "dr_price"} < figure.keys()
    assert np.allclose(
        curves(figure["demand_response_sum"])["All prosumers"], 40 * np.array(result["outcome"]["dr_kw"]["h0"])
    )
    assert "6 prosumers of 40" in Page(write(folders["prosumer"])).text


def test_prosumer_feeder_is_drawn_when_a_power_flow_can_be_solved(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def flow(scenario: Scenario, dr_kw: dict[str, list[float]]) -> FeederStates:
        assert scenario.game == "prosumer"
        assert dr_kw.keys() == {"bus23", "bus27"}
        state = FeederState({1: [1.0] * 24, 2: [0.99, 0.98] * 12}, losses_kw=[3.0] * 24, substation_kw=[9.0] * 24)
        return FeederStates(state, state, state)

    monkeypatch.setattr("stackelgrid.games.prosumer.report.find_spec", lambda name: name)
    monkeypatch.setattr("stackelgrid.games.prosumer.feeder.solve_power_flow", flow)
    figure = drawn(folders["prosumer"])
    assert curves(figure["voltage"])["Without the event"].tolist() == [0.99, 0.98] * 12
    assert curves(figure["losses"])["With PV and demand response"].tolist() == [3.0] * 24
    monkeypatch.setattr("stackelgrid.games.prosumer.report.find_spec", lambda name: None)
    assert "pip install 'stackelgrid[grid]'" in Page(write(folders["prosumer"])).text


def test_prosumer_scenario_is_refused_when_a_tariff_has_another_length(folders: dict[str, Path]) -> None:
    path = folders["prosumer"] / "scenario.yaml"
    scenario = yaml_file.parse(path.read_text())
    scenario["leader"]["tariffs"]["business"].pop()
    path.write_text(yaml_file.spell(scenario))
    with pytest.raises(ReportError, match=r"scenario\.yaml, line \d+: leader\.tariffs\.business has 23 numbers"):
        write(folders["prosumer"])


# --- the storage market ---


def test_storage_market_dispatch_adds_up_to_the_demand(shipped: dict[str, Path]) -> None:
    layers = curves(drawn(shipped["storage_market"])["dispatch"])
    assert list(layers) == [
        *(f"g{n}" for n in range(1, 7)), "sold by a1", "sold by a2", "Demand, charging included",
        "Load without the market",
    ]  # fmt: skip
    assert layers["sold by a2"] == pytest.approx(layers["Demand, charging included"], rel=1e-9)


def test_storage_market_bid_is_sales_less_charging(shipped: dict[str, Path]) -> None:
    outcome = content(shipped["storage_market"])["outcome"]
    for name, bid in curves(drawn(shipped["storage_market"])["bids"]).items():
        assert bid == pytest.approx(np.subtract(outcome["sold_mw"][name], outcome["charge_mw"][name]))
        assert bid.min() < 0 < bid.max()


def test_storage_market_periods_add_up_to_the_day(shipped: dict[str, Path]) -> None:
    outcome = content(shipped["storage_market"])["outcome"]
    moved, market = (
        [bar.get_height() for bar in bars]
        for bars in drawn(shipped["storage_market"])["cost_by_period"].axes[0].containers
    )
    assert sum(moved) == pytest.approx(outcome["supply_cost_without"] - outcome["baseline_supply_cost"])
    assert sum(market) == pytest.approx(outcome["supply_cost"] - outcome["baseline_supply_cost"])


def test_storage_market_outcome_is_refused_when_an_array_has_another_length(folders: dict[str, Path]) -> None:
    result = content(folders["storage_market"])
    result["outcome"]["level_mwh"]["a2"].pop()
    keep(folders["storage_market"], result)
    with pytest.raises(ReportError, match=r"level_mwh\.a2 has 23 numbers, price has 24"):
        write(folders["storage_market"])
