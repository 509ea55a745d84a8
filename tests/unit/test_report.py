"""The report of a run: its page, its figures, and the messages about a broken folder."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from support.report_page import Page, figures, fill, keep

from stackelgrid.games.user_oriented.scenario import UserOrientedScenario
from stackelgrid.report import ReportError, drawing, page, write
from stackelgrid.report.homes import describe_homes
from stackelgrid.report.run_folder import read
from stackelgrid.report.tables import checks, summary, tell_certificate
from stackelgrid.report.words import change, number
from stackelgrid.run_record import RunRecord
from stackelgrid.run_result import parse
from stackelgrid.scenarios import Scenario, load, yaml_file
from stackelgrid.testbed import fault_plans
from stackelgrid.testbed.in_memory import play
from stackelgrid.testbed.result import build_result

CERTIFICATE = {
    "method": "A reference and a search.",
    "gap": -3e-11,
    "max_regret": 2e-9,
    "max_home_regret": 2e-9,
    "leader_regret": 0.0,
    "price_residual": None,
    "overclaim": 1e-15,
    "load_residual": 3e-5,
    "feasible": True,
    "violation": 1e-9,
    "system_utility": 4321.0,
    "welfare_system_utility": 5432.0,
    "price_distance": {"rms": 1.25, "relative": 0.5},
}
STORES = {"battery": 1.0, "ev": 4.0}
BASIC = {"load", "price", "loads", "convergence", "storage", "bills"}


def run(slots: int = 24, homes: int = 6, **leader: Any) -> tuple[Scenario, RunRecord]:
    overrides = [
        f"population.homes={homes}",
        "aggregators=2",
        *(f"leader.{key}={value}" for key, value in leader.items()),
    ]
    scenario = load("user_oriented", overrides)
    if slots != 24:
        everyone = [home(number, slots) for number in range(homes)]
        scenario = UserOrientedScenario.model_validate(
            scenario.model_dump(by_alias=True, exclude={"population"}) | {"slots": slots, "homes": everyone}
        )
    return scenario, play(scenario)


def home(number: int, slots: int) -> dict[str, Any]:
    store = {"capacity_kwh": 6, "initial_kwh": 2, "charge_kw": 2, "discharge_kw": 2, "wear": {"fast": 0.1}}
    return {
        "id": f"h{number}",
        "horizon": slots,
        "inelastic": [{"load_kw": [1.0 + (t + number) % 3 for t in range(slots)]}],
        "elastic": [{"max_kw": 5.0, "valuation": 14.0 + number, "satisfaction": {"alpha": 3.0}}],
        "storage": [store] if number % 2 else [],
    }


@pytest.fixture(scope="module")
def small() -> tuple[Scenario, RunRecord]:
    return run()


@pytest.fixture
def found(small: tuple[Scenario, RunRecord]) -> dict[str, Any]:
    """The content of result.json, a fresh copy for each test."""
    return json.loads(json.dumps(build_result(*small).content()))


@pytest.fixture
def folder(tmp_path: Path, small: tuple[Scenario, RunRecord], found: dict[str, Any]) -> Path:
    fill(tmp_path, *small, found)
    return tmp_path


# --- the page ---


def test_page_needs_nothing_but_itself(folder: Path) -> None:
    page = Page(write(folder))
    assert "http" not in page.source
    assert "@import" not in page.source
    assert not {"img", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert "src" not in attributes
        for key in ("href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#")
    assert page.source.count("url(") == page.source.count("url(#")


def test_page_ids_are_unique_and_references_resolve(folder: Path) -> None:
    page = Page(write(folder))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(at["xlink:href"] or "")[1:] for _, at in page.tags if "xlink:href" in at}
    targets |= {at["aria-labelledby"] or "" for tag, at in page.tags if tag == "svg"}
    assert targets
    assert targets <= set(ids)


def test_page_has_the_numbers_of_the_result(folder: Path, found: dict[str, Any]) -> None:
    text = Page(write(folder)).text
    outcome = found["outcome"]
    assert f"{outcome['baseline_peak_kw']:.2f} → {outcome['peak_kw']:.2f} kW" in text
    assert f"{outcome['baseline_par']:.3f} → {outcome['par']:.3f}" in text
    assert f"{np.mean(outcome['price']):.3f} cents/kWh" in text
    assert "9.240 cents/kWh" in text  # the flat price of the shipped scenario
    assert f"{outcome['leader_utility']:,.0f} cents" in text
    assert f"{outcome['system_utility']:,.0f} cents" in text
    assert f"{outcome['revenue']:,.0f} cents" in text
    assert f"Settled in {found['rounds']} rounds." in text
    for name, account in outcome["homes"].items():
        assert name in text
        assert number(account["bill"]) in text


def test_story_has_the_numbers_of_the_result(folder: Path, found: dict[str, Any]) -> None:
    outcome = found["outcome"]
    homes = outcome["homes"].values()
    for changed in (-1.0, 1.0):  # the sentence follows the run, whichever way it went
        outcome["load_kw"] = [load + changed for load in outcome["baseline_load_kw"]]
        outcome["peak_kw"] = max(outcome["load_kw"])
        for account in homes:
            account["bill"] = account["baseline_bill"] * (1 + 0.1 * changed)
        keep(folder, found)
        (story,) = re.findall('<p class="story">(.*)</p>', write(folder).read_text())
        before, after = (sum(outcome[key]) for key in ("baseline_load_kw", "load_kw"))
        bills = [sum(account[key] for account in homes) for key in ("baseline_bill", "bill")]
        verb = "fell" if changed < 0 else "rose"
        low, high = number(min(outcome["price"])), number(max(outcome["price"]))
        assert f"6 homes settled on prices between {low} and {high} cents/kWh:" in story
        peak = number(outcome["baseline_peak_kw"]), number(outcome["peak_kw"])
        assert f"the peak load {verb} from {peak[0]} to {peak[1]} kW" in story
        assert f"the energy {verb} from {number(before)} to {number(after)} kWh" in story
        assert f"all bills together {verb} from {number(bills[0])} to {number(bills[1])} cents" in story
        per_kwh = number(bills[0] / before), number(bills[1] / after)
        assert f"; per kWh they {verb} from {per_kwh[0]} to {per_kwh[1]} cents" in story


def test_contents_lead_to_the_sections(folder: Path) -> None:
    page = Page(write(folder))
    ids = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    links = {(attributes["href"] or "")[1:] for tag, attributes in page.tags if tag == "a"}
    assert ids == links


def test_readings_are_the_values_that_are_drawn(folder: Path, found: dict[str, Any]) -> None:
    source = write(folder).read_text()
    readings = json.loads(re.findall('<script type="application/json" id="readings">(.*)</script>', source)[0])
    assert set(readings) == BASIC | {"load-narrow"}
    for name in ("load", "load-narrow"):
        load, price = readings[name]
        assert [label for label, _ in load["curves"]] == ["At the flat price", "At the settled price"]
        assert load["curves"][1][1] == [number(value) for value in found["outcome"]["load_kw"]]
        assert (load["unit"], price["unit"]) == ("kW", "cents/kWh")
        assert price["curves"][2] == ["Settled price", [number(value) for value in found["outcome"]["price"]]]
        assert load["names"][18] == "18:00–19:00"
        left, _, right, bottom = load["box"]
        assert all(left < x < right for x in load["x"])
        assert bottom < price["box"][1]


def test_homes_to_choose_have_what_each_does_and_pays(folder: Path, found: dict[str, Any]) -> None:
    source = write(folder).read_text()
    told = json.loads(re.findall('<script type="application/json" id="homes">(.*)</script>', source)[0])
    accounts = found["outcome"]["homes"]
    assert told["of"] == len(accounts) == len(told["homes"]) == source.count("<option>")
    assert told["slots"] == [f"{hour}:00" for hour in range(24)]
    for name, account in accounts.items():
        charts = {chart["unit"]: dict(chart["curves"]) for chart in told["homes"][name]["charts"]}
        assert charts["kW"]["Load"] == pytest.approx(account["load_kw"], rel=1e-3)
        held = [sum(at) for at in zip(*charts.get("kWh", {}).values(), strict=True)]
        assert held == pytest.approx(account.get("storage_kwh", []), rel=1e-3)
        facts = dict(told["homes"][name]["facts"])
        assert facts["Bill"] == f"{number(account['bill'])} cents"
        assert facts["Baseline bill"] == f"{number(account['baseline_bill'])} cents"


def test_homes_to_choose_are_evenly_some_of_many() -> None:
    columns = {"home": [], "slot": [], "load_kw": []}
    for place in range(1000):
        columns["home"] += [f"n{place}"] * 100
        columns["slot"] += range(1, 101)
        columns["load_kw"] += [1.0 + place] * 100
    told = describe_homes({"schedules": columns}, "cents")
    assert told is not None
    assert told["of"] == 1000
    assert list(told["homes"]) == [f"n{place}" for place in range(0, 1000, 3)]  # 33,400 numbers
    assert describe_homes({"homes": {"home": ["a"], "bill_cents": [1.0]}}, "cents") is None


def test_page_has_the_rows_of_the_command_line(folder: Path, found: dict[str, Any]) -> None:
    text = Page(write(folder)).text
    for label, value in summary(parse(found)):
        assert label == "Settled" or value in text


def test_page_is_the_same_when_written_again(folder: Path) -> None:
    first = write(folder).read_bytes()
    assert write(folder).read_bytes() == first


def test_page_escapes_what_nodes_wrote(folder: Path, found: dict[str, Any]) -> None:
    found["failures"] = {"a1": "<script>alert(1)</script>"}
    keep(folder, found)
    page = Page(write(folder))
    assert "<script>alert" not in page.source
    assert "<script>alert(1)</script>" in page.text


def test_page_has_the_command_that_repeats_the_run(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"python": "3.11.7", "packages": {"numpy": "2.3.1"}}))
    text = Page(write(folder)).text
    assert f"stackelgrid run {folder / 'scenario.yaml'} --transport memory" in text
    assert "numpy 2.3.1" in text


def test_page_of_a_run_under_faults_names_and_repeats_the_plan(folder: Path) -> None:
    assert "--faults" not in Page(write(folder)).text
    (folder / "faults.yaml").write_text("title: The cable is cut\nfaults: []\n")
    text = Page(write(folder)).text
    assert "Played under a fault plan: The cable is cut." in text
    assert f"{folder / 'scenario.yaml'} --faults {folder / 'faults.yaml'} --transport memory" in text


def test_title_names_what_was_changed(tmp_path: Path, small: tuple[Scenario, RunRecord]) -> None:
    changed = load("user_oriented", ["aggregators=2", "leader.mu=0.8", "slots=24", "leader.price_min=1"])
    plain = load("user_oriented")
    assert changed.title == f"{plain.title} (aggregators=2, leader.mu=0.8, slots=24, 1 more)"
    assert load("user_oriented", ["aggregators=2", "title=My own"]).title == "My own"
    scenario, run_record = small
    fill(tmp_path, scenario, run_record, build_result(scenario, run_record).content())
    assert f"<h1>{plain.title} (population.homes=6, aggregators=2)</h1>" in write(tmp_path).read_text()


# --- figures ---


def test_figures_are_drawn_for_print(folder: Path) -> None:
    write(folder)
    assert figures(folder) == BASIC
    for name in BASIC:
        picture = imread(folder / "figures" / f"{name}.png")
        assert picture.shape[1] == round(200 * (page.WHOLE if name == "load" else page.PAGE))
        assert 0.001 < np.mean(picture[..., :3].min(axis=2) < 0.9) < 0.5  # ink on paper


def test_bills_are_drawn_when_baseline_bills_are_known(folder: Path, found: dict[str, Any]) -> None:
    for account in found["outcome"]["homes"].values():
        account["baseline_bill"] = account["bill"] + 7.125
    keep(folder, found)
    text = Page(write(folder)).text
    assert "Bill before" in text
    assert "7.125" in text


def test_bills_before_are_left_out_when_baseline_bills_are_not_known(folder: Path, found: dict[str, Any]) -> None:
    for account in found["outcome"]["homes"].values():
        account.pop("baseline_bill", None)
    keep(folder, found)
    text = Page(write(folder)).text
    assert figures(folder) == BASIC - {"bills"}
    assert "Bill (cents)" in text
    assert "Bill before" not in text


def test_welfare_price_is_drawn_beside_the_settled_one(folder: Path, found: dict[str, Any]) -> None:
    found["certificate"] = {**CERTIFICATE, "welfare_price": [4.0] * 24}
    keep(folder, found)
    page = Page(write(folder))
    assert figures(folder) == BASIC
    assert "the price at which the leader buys energy, and the welfare price" in page.text
    readings = json.loads(re.findall('<script type="application/json" id="readings">(.*)</script>', page.source)[0])
    assert readings["price"][0]["curves"][-1] == ["Welfare price", ["4.000"] * 24]


def test_capacity_is_drawn_where_there_is_one() -> None:
    def levels(*limits: float) -> set[float]:
        curves = [drawing.Curve("Settled", [1.0, 3.0]), drawing.Curve("Baseline", [2.0, 4.0])]
        axes = drawing.steps(curves, "Total load (kW)", limits={"Capacity": limits}).axes[0]
        return {line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "-."}

    assert levels() == set()
    assert levels(5.5) == {5.5}
    assert levels(0.5, 5.5) == {0.5, 5.5}


def test_peaks_are_marked_where_they_are() -> None:
    curves = [drawing.Curve("Settled", [1.0, 3.0, 2.0]), drawing.Curve("Baseline", [2.0, 1.0, 4.0])]
    axes = drawing.steps(curves, "Total load (kW)", peaks=True).axes[0]
    marks = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines}
    assert marks == {(2, 3.0), (3, 4.0)}


def test_peak_is_marked_where_a_plateau_begins() -> None:
    flat = [1.0, 3.0, 3.0 + 1e-7, 3.1 - 0.1, 2.0]
    (mark,) = drawing.steps([drawing.Curve("Settled", flat)], "Total load (kW)", peaks=True).axes[0].lines
    assert mark.get_xdata()[0] == 2


def test_bills_before_and_after_are_joined_where_they_differ() -> None:
    before = {"a": 5.0, "b": 1.0, "c": 3.0}

    def draw(**after: float) -> dict[str, list[Any]]:
        axes = drawing.before_and_after(before, before | after, "Bill (cents)", who="Home").axes[0]
        dots = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        joined = {each.get_label(): [path[:, 1].tolist() for path in each.get_segments()] for each in axes.collections}
        return dots | joined

    assert draw() == {"Before": [1.0, 3.0, 5.0], "After": [1.0, 3.0, 5.0]}  # the legend names no change there is not
    assert draw(a=4.0)["Fell"] == [[5.0, 4.0]]
    assert "Rose" not in draw(a=4.0)
    assert draw(b=2.5) == {"Before": [1.0, 3.0, 5.0], "After": [2.5, 3.0, 5.0], "Rose": [[1.0, 2.5]]}


def test_page_says_for_how_many_the_bill_fell(folder: Path, found: dict[str, Any]) -> None:
    for number_fallen in (0, 2, 6):
        for place, account in enumerate(found["outcome"]["homes"].values()):
            account["bill"] = account["baseline_bill"] + (-5.0 if place < number_fallen else 5.0)
        keep(folder, found)
        assert f"The bill fell for {number_fallen} of 6 homes" in Page(write(folder)).text


def test_stores_of_a_home_are_apart(tmp_path: Path) -> None:
    """Summed, a car's energy would hide the battery's."""
    homes = [home(number, 24) for number in range(2)]
    homes[0]["storage"] = [homes[1]["storage"][0] | {"name": name, "initial_kwh": kwh} for name, kwh in STORES.items()]
    scenario = UserOrientedScenario.model_validate(
        load("user_oriented").model_dump(by_alias=True, exclude={"population"}) | {"homes": homes, "aggregators": 1}
    )
    run_record = play(scenario)
    fill(tmp_path, scenario, run_record, build_result(scenario, run_record).content())
    source = write(tmp_path).read_text()
    assert {"storage", "storage_ev"} < figures(tmp_path)
    readings = json.loads(re.findall('<script type="application/json" id="readings">(.*)</script>', source)[0])
    table = [row.split(",") for row in (tmp_path / "tables" / "appliances.csv").read_text().splitlines()]
    place = {name: table[0].index(name) for name in ("home", "appliance", "stored_kwh")}
    for figure, store in (("storage", "battery"), ("storage_ev", "ev")):
        drawn = dict(readings[figure][0]["curves"])
        expected = [
            number(float(row[place["stored_kwh"]]))
            for row in table
            if (row[place["home"]], row[place["appliance"]]) == ("h0", store)
        ]
        assert drawn["h0"] == expected


def test_box_plot_shows_quartiles_and_outliers() -> None:
    groups = {"With storage": [1.0, 2.0, 3.0, 4.0, 5.0, 90.0], "Without storage": []}
    axes = drawing.boxes(groups, "Bill saved (cents per home)").axes[0]
    (box,) = axes.patches
    assert (box.get_y(), box.get_height()) == (2.25, 2.5)
    whiskers, middle = (collection.get_segments() for collection in axes.collections)
    assert [segment[:, 1].tolist() for segment in whiskers] == [[1.0, 2.25], [4.75, 5.0]]
    assert middle[0][:, 1].tolist() == [3.5, 3.5]
    assert axes.lines[0].get_ydata().tolist() == [90.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["With storage\n(6)"]


def test_names_of_many_boxes_are_apart() -> None:
    names = ["With PV", "With storage", "With a car", "With a heat pump", "With none of these"]
    for width in (drawing.WIDTH, *drawing.COLUMNS.values()):
        with drawing.use_paper(drawing.Paper(width, None)):
            figure = drawing.boxes({name: [1.0] for name in names}, "Bill saved (cents per home)")
        figure.canvas.draw()
        spans = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(spans))
        assert min(span.y0 for span in spans) > 0


def test_report_is_quick_to_import() -> None:
    """The command line imports it for every command."""
    code = "import sys, stackelgrid.report; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_drawing_leaves_no_global_state(folder: Path) -> None:
    code = f"""
import pathlib, sys, matplotlib, stackelgrid.report
params = [key for key in matplotlib.rcParams if key != "backend"]  # reading that one imports pyplot
before = [matplotlib.rcParams[key] for key in params]
stackelgrid.report.write(pathlib.Path({str(folder)!r}))
sys.exit("matplotlib.pyplot" in sys.modules or before != [matplotlib.rcParams[key] for key in params])
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- runs that are not like the others ---


def test_page_of_a_run_that_did_not_settle(tmp_path: Path) -> None:
    scenario, run_record = run(max_rounds=2)
    fill(tmp_path, scenario, run_record, build_result(scenario, run_record).content())
    text = Page(write(tmp_path)).text
    assert "Not settled within the limit of 2 rounds; raise leader.max_rounds" in text
    assert "Price of the last round" in text


def test_page_of_a_run_that_was_interrupted(tmp_path: Path, small: tuple[Scenario, RunRecord]) -> None:
    scenario, whole = small
    run_record = RunRecord("mqtt", "mosquitto", 9, rounds=whole.rounds[:2], interrupted=True)
    fill(tmp_path, scenario, run_record, build_result(scenario, run_record).content())
    text = Page(write(tmp_path)).text
    assert "Not settled: the run ended after 2 rounds of at most 40" in text
    assert "not known: 0 of 6 homes reported a schedule" in text
    assert "No home reported a schedule" in text
    assert "stackelgrid certify" not in text
    assert "mqtt, broker mosquitto" in text


def test_page_of_a_run_without_a_round(tmp_path: Path, small: tuple[Scenario, RunRecord]) -> None:
    run_record = RunRecord("mqtt", "mosquitto", 9)
    fill(tmp_path, small[0], run_record, build_result(small[0], run_record).content())
    (tmp_path / "rounds.jsonl").unlink()
    text = Page(write(tmp_path)).text
    assert "not a single round was finished" in text
    assert "Key figures" not in text
    assert figures(tmp_path) == set()


def test_page_of_a_run_of_one_round(tmp_path: Path, small: tuple[Scenario, RunRecord]) -> None:
    scenario, whole = small
    run_record = RunRecord("memory", "none", 1, rounds=whole.rounds[:1], homes=whole.homes)
    fill(tmp_path, scenario, run_record, build_result(scenario, run_record).content())
    text = Page(write(tmp_path)).text
    assert "after 1 round of at most 40" in text
    assert "There was one round." in text
    assert figures(tmp_path) == BASIC - {"convergence"}


@pytest.mark.parametrize("slots", [1, 7, 100])
def test_page_of_a_run_with_another_number_of_slots(tmp_path: Path, slots: int) -> None:
    scenario, run_record = run(slots, homes=4, wholesale_price=3.0)
    fill(tmp_path, scenario, run_record, build_result(scenario, run_record).content())
    text = Page(write(tmp_path)).text
    assert figures(tmp_path) == BASIC
    assert "nan" not in text.lower().split()


def test_page_stays_short_with_a_thousand_homes(folder: Path, found: dict[str, Any]) -> None:
    accounts = list(found["outcome"]["homes"].values())
    found["homes"] = 1000
    found["outcome"]["homes"] = {f"n{n}": {**accounts[n % 6], "bill": 100.0 + n} for n in range(1000)}
    found["failures"] = {f"n{n}": "killed" for n in range(300)}
    found["missing"] = [{"round": 2, "node": f"n{n}", "action": "held"} for n in range(300)]
    keep(folder, found)
    page = Page(write(folder))
    assert "All homes (1,000)" in page.text
    assert "And 280 more" in page.text
    assert sum(tag == "tr" for tag, _ in page.tags) < 100
    assert {"n0", "n999"} <= set(page.text.split())  # the smallest and the largest bill
    assert len(page.source) < 600_000


def test_page_lists_members_that_were_missing(folder: Path, found: dict[str, Any]) -> None:
    assert "What went wrong" not in Page(write(folder)).text
    found["missing"] = [{"round": n, "node": "h3", "action": "held"} for n in (2, 3, 4)]
    found["missing"] += [{"round": 1, "node": "a2", "action": "excluded"}]
    found["failures"] = {"h3": "exit code -9"}
    found["rejected"] = {"malformed": 4}
    keep(folder, found)
    text = Page(write(folder)).text
    assert "held: its last answer stood in h3 2–4 3" in text
    assert "excluded: left out a2 1 1" in text
    assert "What went wrong" in text
    assert "h3 exit code -9" in text
    assert "Messages refused: 4 malformed" in text
    assert "Marked are rounds in which members were held" in text


def test_rounds_without_all_members_are_marked() -> None:
    marked = {"Held": [2], "Excluded": [], "Asked again": [1, 3]}
    traces = {"Peak load (kW)": [9.0, 8.0, 7.0]}
    for panel in drawing.convergence([1, 2, 3], ("Change", [np.nan, 1e-2, 1e-7]), 1e-6, traces, marked).axes:
        drawn = {line.get_label(): list(line.get_xdata()) for line in panel.lines}
        assert drawn["Held"] == [2]
        assert drawn["Asked again"] == [1, 3]
        assert "Excluded" not in drawn


# --- what went wrong ---


def of_messages(fault: int, round_number: int | None, times: int, senders: list[str], to: list[str]) -> dict[str, Any]:
    return {"fault": fault, "kind": "loss", "round": round_number, "times": times, "from": senders, "to": to}


def of_node(fault: int, kind: str, round_number: int, node: str, times: int = 1) -> dict[str, Any]:
    return {"fault": fault, "kind": kind, "round": round_number, "times": times, "node": node}


STRUCK = [
    of_messages(0, None, 1, ["h1"], ["a1"]),
    of_messages(0, 1, 1000, [f"h{n}" for n in range(900)], ["a1", "a2"]),
    of_node(1, "crash", 2, "a1"),
    of_node(1, "restart", 3, "a1"),
    of_node(2, "crash", 3, "leader"),
    {"fault": 3, "kind": "broker", "round": 3, "times": 1},
    of_messages(0, 3, 2000, ["h1"], ["a1"]),
]


def test_page_lists_faults_with_nodes_and_rounds(folder: Path, found: dict[str, Any]) -> None:
    found["struck"] = STRUCK
    found["asked_again"] = [{"round": n, "by": "a1", "members": 2} for n in (1, 2, 3)]
    found["missing"] = [{"round": 2, "node": f"h{n}", "action": "held"} for n in range(4)]
    keep(folder, found)
    text = Page(write(folder)).text
    for row in (
        "loss 900 nodes → a1, a2 1, 3, between rounds 3,001",
        "crash a1 2 1",
        "restart: back from its crash a1 3 1",
        "crash leader 3 1",
        "broker killed, and back 3 1",
        "held: its last answer stood in 4 nodes 2 4",
        "asked members again a1 1–3 6",
    ):
        assert row in text
    assert "(d) what went wrong" in text


def test_page_of_a_run_under_faults_is_the_same_when_written_again(tmp_path: Path) -> None:
    scenario = load("user_oriented", ["population.homes=4", "aggregators=2"])
    run_record = play(scenario, plan=fault_plans.fit("leader-restarts", scenario))
    fill(tmp_path, scenario, run_record, build_result(scenario, run_record).content())
    first = write(tmp_path)
    text, drawn = first.read_bytes(), (tmp_path / "figures" / "convergence.png").read_bytes()
    assert "crash leader 2–3 2" in Page(first).text
    assert "restart: back from its crash leader 2–3 2" in Page(first).text
    assert write(tmp_path).read_bytes() == text
    assert (tmp_path / "figures" / "convergence.png").read_bytes() == drawn


def lanes_of(numbers: list[int], *lanes: drawing.Lane) -> tuple[list[str], set[tuple[int, int, str]]]:
    """The labels of the strip below the panels, and what stands in it: lane, round, a number or a dot."""
    residual = ("Change", [1e-3] * len(numbers))
    strip = drawing.convergence(numbers, residual, 1e-6, {}, {}, lanes).axes[-1]
    marks = {(int(text.get_position()[1]), int(text.get_position()[0]), text.get_text()) for text in strip.texts}
    dots = {(int(line.get_ydata()[0]), int(line.get_xdata()[0]), "dot") for line in strip.lines}
    return [label.get_text() for label in strip.get_yticklabels()], marks | dots


def test_lane_has_a_mark_in_each_of_its_rounds() -> None:
    lanes = [drawing.Lane("crash a1", {2: 1}, drawing.VERMILION), drawing.Lane("loss", {1: 3, 3: 1}, drawing.VERMILION)]
    assert lanes_of([1, 2, 3], *lanes) == (["crash a1", "loss"], {(0, 2, "dot"), (1, 1, "3"), (1, 3, "dot")})


def test_lane_has_dots_when_numbers_have_no_room() -> None:
    lane = drawing.Lane("loss", dict.fromkeys(range(1, 101), 1234), drawing.VERMILION)
    assert lanes_of(list(range(1, 101)), lane)[1] == {(0, number, "dot") for number in range(1, 101)}


def test_lanes_are_by_kind_when_faults_are_too_many(folder: Path, found: dict[str, Any]) -> None:
    kinds = ("crash", "restart", "stall", "lie", "cut")
    found["struck"] = [of_node(n, kind, 1 + n % 2, f"h{n % 3}") for n in range(30) for kind in kinds]
    keep(folder, found)
    assert [lane.label for lane in page.list_lanes(read(folder))] == [f"{kind} 3 nodes" for kind in kinds]
    found["struck"] = [each for each in found["struck"] if each["kind"] in kinds[:4]]
    keep(folder, found)
    assert len(page.list_lanes(read(folder))) == 12


def test_lanes_leave_out_rounds_that_were_not_finished(folder: Path, found: dict[str, Any]) -> None:
    found["struck"] = [of_node(0, "crash", 99, "leader"), of_messages(1, None, 5, ["h1"], ["a1"])]
    keep(folder, found)
    assert page.list_lanes(read(folder)) == []
    text = Page(write(folder)).text
    assert "crash leader 99 1" in text
    assert "loss h1 → a1 between rounds 5" in text


# --- the certificate ---


def test_page_has_the_command_that_certifies_when_there_is_no_certificate(folder: Path) -> None:
    text = Page(write(folder)).text
    assert "has not been certified" in text
    assert f"stackelgrid certify {folder} stackelgrid report {folder}" in text


def test_page_explains_the_certificate(folder: Path, found: dict[str, Any]) -> None:
    found["certificate"] = CERTIFICATE
    keep(folder, found)
    text = Page(write(folder)).text
    assert "All 7 checks passed." in text
    assert "✓ Certificate: all 7 checks passed; nobody was found to gain more than 0.0001 % by acting alone." in text
    missing = (
        "cost of integrality to the homes, money that integrality costs, leader's utility at the best price found, "
        "bound of the gap from sums, price residual, error of a bill, error of the balance"
    )
    assert f"Not part of it: {missing}." in text
    assert "4,321 cents" in text
    assert "1.250 cents/kWh" in text
    found["certificate"] = {**CERTIFICATE, "max_regret": 2e-6, "feasible": False}
    keep(folder, found)
    text = Page(write(folder)).text
    assert "2 of 7 checks failed." in text
    assert "✗ Certificate: not passed: feasible, largest regret; somebody could gain 0.0002 % by acting alone." in text


def test_bills_explain_what_a_home_that_feeds_in_pays_per_kwh(folder: Path, found: dict[str, Any]) -> None:
    told = "Paid is the bill over the energy net of what is fed in, so it can be more than any price."
    assert told not in Page(write(folder)).text
    next(iter(found["outcome"]["homes"].values()))["load_kw"][12] = -0.1
    keep(folder, found)
    assert told in Page(write(folder)).text


def test_certificate_tells_that_other_starts_are_not_counted(found: dict[str, Any]) -> None:
    told = {
        gain: tell_certificate(parse(found | {"certificate": {**CERTIFICATE, "integrality_gap": gain}}))
        for gain in (1e-9, 2e-3)
    }
    assert told[1e-9].endswith("by acting alone")
    assert told[2e-3].endswith("by acting alone, other starts of appliances aside")


@pytest.mark.parametrize(
    ("key", "passing", "failing"),
    [
        ("max_regret", 1e-6, 1.1e-6),
        ("max_home_regret", 1e-6, 1.1e-6),
        ("leader_regret", 1e-6, 1.1e-6),
        ("gap", -1.0, 1.1e-6),
        ("price_residual", 7.9e-5, 8.1e-5),
        ("violation", 1e-6 * 50, 1.1e-6 * 50),
        ("overclaim", 1e-7, 1.1e-7),
        ("bill_residual", 1e-7, 1.1e-7),
        ("balance_residual", 1e-7 * 50, 1.1e-7 * 50),
        ("feasible", True, False),
    ],
)
def test_check_passes_up_to_its_limit(found: dict[str, Any], key: str, passing: Any, failing: Any) -> None:
    found["outcome"] |= {"price": [8.0] * 24, "load_kw": [50.0] * 24}

    def judge(value: Any) -> bool | None:
        lines = checks(parse(found | {"certificate": {key: value}}))
        assert [line.key for line in lines if line.value is not None] == ([] if value is None else [key])
        return next(line.passed for line in lines if line.key == key)

    assert judge(passing) is True
    assert judge(failing) is False
    assert judge(None) is None


# --- numbers ---


def test_summary_has_the_rows_of_a_result(found: dict[str, Any]) -> None:
    found |= {
        "elapsed_s": 1.25,
        "messages": 1234,
        "bytes": 5_600_000,
        "scenario": "Six homes",
        "rounds": 1,
        "inner_rounds": 1,
        "questions": 5,
    }
    found["outcome"] |= {"peak_kw": 30.0, "baseline_peak_kw": 40.0, "par": 1.5, "baseline_par": 1.25}
    found["calibrated"] = {"leader.mu": "peak 1 kW", "leader.wholesale_price": "peak 1 kW", "seed": "PAR 2"}
    found["outcome"] |= {"baseline_load_kw": [10.0] * 24, "load_kw": [12.0] * 24}
    found["outcome"] |= {"price": [1.0, 2.0] * 12, "leader_utility": -1234.5, "system_utility": 0.0, "revenue": 9e6}
    assert summary(parse(found)) == [
        ("Scenario", "Six homes"),
        ("Settled", "yes, in 1 round (5 questions)"),
        ("Game", "user-oriented pricing, seed 2016"),
        ("Players", "6 homes in 1 process"),
        ("Time", "1.250 s"),
        ("Transport", "memory, no broker; 1,234 messages, 5.6 MB"),
        ("Privacy", "aggregators read the answer of each home; with sensitivities; at most 100 questions a session"),
        ("Energy", "240.0 → 288.0 kWh (+20.0 %)"),
        ("Peak load", "40.00 → 30.00 kW (−25.0 %)"),
        ("Peak-to-average ratio", "1.250 → 1.500 (+20.0 %)"),
        ("Mean price", "1.500 cents/kWh over time"),
        ("Leader utility", "−1,234 cents"),
        ("System utility", "0 cents"),
        ("Revenue", "9,000,000 cents"),
        ("Chosen to match", "peak 1 kW; PAR 2. That the run comes close to these proves nothing"),
    ]


def test_summary_of_a_case_that_was_not_calibrated_claims_no_fit(found: dict[str, Any]) -> None:
    assert "calibrated" not in found
    assert "Chosen to match" not in dict(summary(parse(found)))


def test_summary_writes_a_gap_below_zero_with_the_minus_of_every_other_number(found: dict[str, Any]) -> None:
    rows = dict(summary(parse(found | {"certificate": CERTIFICATE})))
    assert rows["Certificate"] == "all 7 checks passed; gap −3.0e-11; largest regret 2.0e-09"


def test_change_from_zero_has_no_percentage() -> None:
    assert change(0.0, 2.0, "kW") == "0 → 2.000 kW"


# --- broken folders ---


def rewrite(name: str, edit: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(edit(path.read_text()))

    return apply


def edit_result(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(text: str) -> str:
        content = json.loads(text)
        edit(content)
        return json.dumps(content)

    return rewrite("result.json", apply)


def edit_scenario(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(text: str) -> str:
        content = yaml_file.parse(text)
        edit(content)
        return yaml_file.spell(content)

    return rewrite("scenario.yaml", apply)


@pytest.mark.parametrize(
    ("spoil", "file", "what", "mend"),
    [
        (lambda f: (f / "result.json").unlink(), "result.json", "No such file", "name the folder of a finished"),
        (rewrite("result.json", lambda text: text[:-9]), "result.json", "not JSON", "run the scenario again"),
        (rewrite("result.json", lambda text: "[]"), "result.json", "mapping of keys", "run again"),
        (rewrite("result.json", lambda text: "{}"), "result.json", "settled: missing; add it", "run again"),
        (edit_result(lambda c: c.update(game="chess")), "result.json", "'chess' is not a game", "again"),
        (edit_result(lambda c: c["outcome"].pop("par")), "result.json", "outcome.par: missing; add it", "run again"),
        (
            edit_result(lambda c: c["outcome"].update(par=float("nan"))),
            "result.json",
            "NaN is no number of JSON",
            "run the scenario again",
        ),
        (
            edit_result(lambda c: c["outcome"]["load_kw"].pop()),
            "result.json",
            "load_kw has 23 numbers, price has 24",
            "run again",
        ),
        (
            edit_result(lambda c: c.update(certificate={"welfare_price": [1.0]})),
            "result.json",
            "certificate.welfare_price has 1 numbers, outcome.price has 24",
            "run again",
        ),
        (
            edit_result(lambda c: c.update(certificate={"welfare_price": [{}] * 24})),
            "result.json",
            "certificate.welfare_price.0 is {}, not a number",
            "run again",
        ),
        (lambda f: (f / "rounds.jsonl").unlink(), "rounds.jsonl", "No such file", "name the folder of a finished"),
        (rewrite("rounds.jsonl", lambda text: text + "{}\n"), "rounds.jsonl", "result.json counts", "again"),
        (rewrite("rounds.jsonl", lambda text: text[:-9]), "rounds.jsonl, line", "not JSON", "run the scenario again"),
        (lambda f: (f / "scenario.yaml").unlink(), "scenario.yaml", "no such file", "put back the scenario"),
        (rewrite("scenario.yaml", lambda text: "a: [1"), "scenario.yaml", "not YAML", "put back the scenario"),
        (
            edit_scenario(lambda c: c["leader"].update(wholesale_price=[1.0, 2.0])),
            "scenario.yaml",
            "leader.wholesale_price",
            "put back the scenario",
        ),
        (
            edit_scenario(lambda c: c["population"].update(day="2016-13-01")),
            "scenario.yaml",
            "population.day",
            "put back the scenario",
        ),
        (lambda f: (f / "manifest.json").write_text("[1]"), "manifest.json", "not a mapping", "remove the file"),
        (lambda f: (f / "figures").write_text(""), "figures", "cannot be written", "writable"),
    ],
)
def test_broken_folder_is_refused_with_the_mend(
    folder: Path, spoil: Callable[[Path], Any], file: str, what: str, mend: str
) -> None:
    spoil(folder)
    with pytest.raises(ReportError) as refusal:
        write(folder)
    message = str(refusal.value)
    assert str(folder / file) in message
    assert what in message
    assert mend in message
    assert "Traceback" not in message


def test_missing_folder_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="name the folder of a finished"):
        write(tmp_path / "nowhere")
