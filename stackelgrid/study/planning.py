"""A comparison of plans: what it is worth to plan again, and to know what comes. Its folder holds

scenario.yaml     the scenario as run
PLAN/             the folder of each run: as the scenario says, without replanning, with perfect foresight
planning.json     what came of each, in the slots that bind
table.csv         the same; replanned/report.html shows it too
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stackelgrid import runner
from stackelgrid.columns import encode_csv, stack
from stackelgrid.errors import ConfigError
from stackelgrid.node.record import write_whole
from stackelgrid.report.game import find_report
from stackelgrid.report.plans import FILE, Plan, Planning
from stackelgrid.run_result import RunResult
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import run_folder
from stackelgrid.text_file import replace_file

_NUMBERS = {
    "kWh": "energy_kwh",
    "peak kW": "peak_kw",
    "imbalance": "imbalance_kwh",
    "homes pay": "homes_pay",
    "utility": "homes_utility",
    "earned": "company_earns",
    "worth": "worth",
}
"""The headings of the table for people, and what stands below them."""
_MONEY = ("homes_pay", "homes_utility", "supply_cost")


def compare(
    source: str,
    overrides: Sequence[str],
    seed: int | None,
    out: Path | None,
    on_round: Callable[[str, Mapping[str, Any]], None] = lambda plan, record: None,
) -> tuple[Planning, Path]:
    """Play a scenario by each plan and write the folder of the comparison, `out` or a new one under runs/.

    `on_round` is called with the plan and each finished round. Raises `ConfigError` before anything is played for a
    scenario without forecasts, that plans only once as it is, or of a game that does not say what homes gain.
    """
    scenario = load(source, list(overrides), seed)
    calendar = scenario.calendar
    if calendar is None or not scenario.has_forecasts:
        raise ConfigError(f"{source}: forecast: nobody plans by one, so that replanning changes nothing; give forecast")
    if find_report(scenario.game).carried_out is None:
        raise ConfigError(
            f"{source}: game: what homes gain by a plan is not known in {scenario.game}; compare the reports of runs"
        )
    if calendar.every in (None, calendar.horizon):
        raise ConfigError(f"{source}: calendar.every: a session plans {calendar.horizon} once; give a shorter time")
    once = load(source, [*overrides, f"calendar.every={calendar.horizon}"], seed)
    plans = {"replanned": scenario, "planned_once": once, "perfect_foresight": scenario.with_foresight()}
    name = f"{Path(source).stem[:100]}-planning"
    folder = run_folder.create_under_runs(name) if out is None else run_folder.create(out)
    run_folder.write_scenario(folder, scenario)
    ended, found = {}, {}
    for plan, chosen in plans.items():
        ended[plan] = runner.run(chosen, out=folder / plan, on_round=partial(on_round, plan))
        if ended[plan].interrupted:
            raise KeyboardInterrupt
        found[plan] = measure(chosen, ended[plan].result)
    least = found["planned_once"]["welfare"]
    planning = Planning(
        game=scenario.game,
        scenario=scenario.title,
        seed=scenario.seed,
        money=scenario.money,
        plans=[Plan(plan=plan, **row, worth=row["welfare"] - least) for plan, row in found.items()],
    )
    write_whole(folder / FILE, planning.model_dump(by_alias=True))
    write_whole(folder / "replanned" / FILE, planning.model_dump(by_alias=True))
    _write_table(folder / "table.csv", planning)
    ended["replanned"].report()
    return planning, folder


def measure(scenario: Scenario, result: RunResult[Any]) -> dict[str, Any]:
    """Measure what came in the slots that bind: energy and peak of all meters, money, and utilities.

    Raises `ConfigError` where a session has no outcome.
    """
    outcomes: list[Any] = [each.outcome for each in result.sessions] or [result.outcome]
    if any(outcome is None for outcome in outcomes):
        raise ConfigError(f"{scenario.title or scenario.game}: a session finished no round: nothing to measure")
    carry_out = find_report(scenario.game).carried_out
    assert carry_out is not None
    came = [carry_out(scenario, outcome) for outcome in outcomes]
    load = np.concatenate([each.load_kw for each in came])
    pay, utility, cost = (sum(getattr(each, key) for each in came) for key in _MONEY)
    return {
        "settled": result.settled,
        "sessions": len(outcomes),
        "energy_kwh": scenario.slot_hours * float(load.sum()),
        "peak_kw": float(load.max()),
        "imbalance_kwh": float(sum(np.abs(each.imbalance_kwh).sum() for each in came)),
        "unserved_kwh": sum(each.unserved_kwh for each in came),
        "homes_pay": pay,
        "homes_utility": utility,
        "company_earns": pay - cost,
        "welfare": utility + pay - cost,
    }


def _write_table(path: Path, planning: Planning) -> None:
    replace_file(path, encode_csv(stack(plan.model_dump() for plan in planning.plans)))


def spell(planning: Planning) -> list[list[str]]:
    """Write the table for people, a list of words per row, its heading first."""
    return [
        ["plan", "settled", "sessions", *_NUMBERS],
        *(
            [
                plan.plan.replace("_", " "),
                "yes" if plan.settled else "no",
                str(plan.sessions),
                *(f"{getattr(plan, key):,.1f}" for key in _NUMBERS.values()),
            ]
            for plan in planning.plans
        ),
    ]
