"""The report of the load call game: whom the aggregator called, who complied, what that came to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Self

from pydantic import Field, model_validator

from stackelgrid.report.game import GameReport
from stackelgrid.report.parts import (
    BOOKS_WITHIN,
    EQUILIBRIUM_WITHIN,
    REGRET,
    Plot,
    Row,
    Rule,
    Section,
    Table,
    Trace,
    spread,
)
from stackelgrid.report.run_folder import Certificate, Leader, Part, PlayedScenario, Result, RunFolder
from stackelgrid.report.words import change, counted, measured, number, percent
from stackelgrid.wire.arrays import Finite

_FEW = 24
"""Consumers up to which the table lists each."""
_COMPLIES = 1 - 1e-9
"""Of its call: who shifts as much has shifted all of it but for rounding."""


class CallRound(Part):
    """A round of calls as the aggregator's journal has it, energies kWh, `gap` money.

    `shown` is how many consumers have shown what they are willing to shift, `gap` how far the calls may be from the
    best ones.
    """

    called_kwh: Finite
    shifted_kwh: Finite
    gap: Finite
    shown: int


class Outcome(Part):
    """What the game came to, energies kWh and money by consumer; see `stackelgrid.games.load_call.scenario`."""

    target_kwh: Finite
    calls_kwh: dict[str, Finite]
    shifted_kwh: dict[str, Finite]
    achieved_kwh: Finite
    success_rate: Finite
    commission: Finite
    squared_deviation: Finite
    aggregator_utility: Finite
    call_rounds: int
    rewards: dict[str, Finite]
    bills: dict[str, Finite]
    baseline_bills: dict[str, Finite]
    call_journal: list[CallRound] = Field(default=[])

    @model_validator(mode="after")
    def _same_consumers(self) -> Self:
        for key in ("shifted_kwh", "rewards", "bills", "baseline_bills"):
            if getattr(self, key).keys() != self.calls_kwh.keys():
                raise ValueError(f"{key} is of other consumers than calls_kwh")
        return self

    def complied(self, name: str) -> bool:
        """Whether a consumer shifted all that it was called for."""
        return self.shifted_kwh[name] >= _COMPLIES * self.calls_kwh[name]


class Utility(Leader):
    """The utility's settings: prices in money per kWh."""

    peak_price: Finite
    off_peak_price: Finite


class LoadCall(PlayedScenario):
    """The scenario, as far as the page shows it."""

    leader: Utility


def opening(run: RunFolder) -> str:
    """The mission, and the tariff."""
    leader: Utility = run.scenario.leader
    rate = f"{run.result.money}/kWh"
    peak, off_peak = number(leader.peak_price), number(leader.off_peak_price)
    return (
        f"The utility wants load shifted out of the peak hours, at {peak} {rate}, into others, at {off_peak} {rate}. "
        "The aggregator chooses whom to call, and for how much; each consumer chooses how much of its call to shift."
    )


def key_figures(result: Result[Outcome], outcome: Outcome) -> list[Row]:
    """What was achieved, and what it cost whom."""
    money = result.money
    full = sum(map(outcome.complied, outcome.calls_kwh))
    return [
        ("Target", f"{number(outcome.target_kwh)} kWh"),
        ("Shifted", f"{number(outcome.achieved_kwh)} kWh, {percent(outcome.success_rate)} of the target"),
        ("Complied in full", f"{full:,} of {counted(len(outcome.calls_kwh), 'consumer')}"),
        ("Rounds of calls", f"{outcome.call_rounds:,}"),
        ("Commission", measured(outcome.commission, money)),
        ("Squared deviation of calls", f"{number(outcome.squared_deviation)} kWh²"),
        ("Aggregator's utility", measured(outcome.aggregator_utility, money)),
        ("Rewards", measured(sum(outcome.rewards.values()), money)),
        ("Bills", change(sum(outcome.baseline_bills.values()), sum(outcome.bills.values()), money)),
    ]


def sections(run: RunFolder, outcome: Outcome) -> Iterator[Section]:
    """Calls, money, consumers, and what each round of calls taught."""
    from stackelgrid.report import drawing

    money = run.result.money
    if not outcome.calls_kwh:
        yield Section("Calls", ["No consumer reported a shift: consumers act on a settlement, and none reached them."])
        return
    ranked = "" if drawing.named(outcome.calls_kwh) else " Consumers are ranked by what they are called for."
    calls = {"Called": outcome.calls_kwh, "Shifted": outcome.shifted_kwh}
    yield Section(
        "Calls",
        [
            Plot(
                "calls",
                drawing.members(calls, "Energy (kWh)", who="Consumer"),
                "What each consumer is called for, and what it shifts of that; where the two are equal it complies in "
                f"full.{ranked}",
            ),
            *_learnt(outcome, money),
        ],
    )
    saved = {name: outcome.baseline_bills[name] - bill for name, bill in outcome.bills.items()}
    earned = {"Bill saved": saved, "Reward": outcome.rewards}
    ranked = "" if drawing.named(saved) else " Consumers are ranked by what they save."
    yield Section(
        "Consumers",
        [
            Plot(
                "earnings",
                drawing.members(earned, f"Money ({money})", who="Consumer"),
                f"What each consumer saves on its bill by shifting, and the reward it is paid besides.{ranked}",
            ),
            _consumers(run.scenario.leader, outcome, money),
        ],
    )


def _learnt(outcome: Outcome, money: str) -> Iterator[Table]:
    if not outcome.call_journal:
        return
    yield Table(
        "What each round of calls taught. A consumer that shifts less than its call shows what it is willing to shift. "
        "The calls are the best ones when nothing more may be gained.",
        ["Called (kWh)", "Shifted (kWh)", "Consumers that showed it", f"May still be gained ({money})"],
        [
            [
                [
                    f"Round {place}",
                    number(each.called_kwh),
                    number(each.shifted_kwh),
                    f"{each.shown:,}",
                    number(each.gap),
                ]
                for place, each in enumerate(outcome.call_journal, start=1)
            ]
        ],
    )


def _consumers(leader: Utility, outcome: Outcome, money: str) -> Table:
    """Medians of those that complied and of those that did not, then each of a few consumers."""
    everyone = list(outcome.calls_kwh)
    complied = [name for name in everyone if outcome.complied(name)]
    groups = {
        "All consumers": everyone,
        "Complied in full": complied,
        "In part": [name for name in everyone if name not in set(complied)],
    }
    few = everyone if len(everyone) <= _FEW else spread(outcome.calls_kwh)
    which = "each consumer" if len(few) == len(everyone) else "a few consumers from the smallest call to the largest"
    columns = {
        "Called (kWh)": outcome.calls_kwh,
        "Shifted (kWh)": outcome.shifted_kwh,
        f"Reward ({money})": outcome.rewards,
        f"Bill before ({money})": outcome.baseline_bills,
        f"Bill ({money})": outcome.bills,
    }
    if leader.peak_price > 0:
        baseline = {name: bill / leader.peak_price for name, bill in outcome.baseline_bills.items()}
        columns = {"Baseline (kWh)": baseline, **columns}

    def row(label: str, names: Sequence[str]) -> list[str]:
        return [label, *(number(median(column[name] for name in names)) for column in columns.values())]

    return Table(
        f"Medians of each group, then {which}. Rewards are paid besides the bill.",
        list(columns),
        [
            [row(f"{label} ({len(names):,})", names) for label, names in groups.items() if names],
            [row(name, [name]) for name in few],
        ],
    )


def _target(outcome: Outcome, certificate: Certificate) -> float:
    return max(1.0, outcome.target_kwh)


_RULES = (
    REGRET,
    Rule(
        "max_home_regret",
        "Largest regret of a consumer",
        "What the best shift would save a consumer beyond the one it chose, its call given, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "aggregator_regret",
        "Regret of the aggregator",
        "What the best calls would bring the aggregator beyond those it made, the consumers answering them, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "gap",
        "Gap to the planner",
        "How far the aggregator's utility is below that of a planner who knows every consumer's data, relative.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "mpcc.gap",
        "Gap to the paper's program",
        "The same to the program with the consumers' optimality conditions as constraints, solved globally.",
        EQUILIBRIUM_WITHIN,
    ),
    Rule(
        "violation",
        "Broken limits",
        "The worst breach of a limit: calls that add up to the target and are within baselines, shifts within calls.",
        EQUILIBRIUM_WITHIN,
        _target,
        "kWh",
    ),
    Rule(
        "bill_residual",
        "Error of a bill",
        "The largest difference of a bill or a reward from tariff times energy, relative.",
        BOOKS_WITHIN,
    ),
    Rule(
        "balance_residual",
        "Error of the balance",
        "The difference of what the utility was told is shifted from the sum of the shifts.",
        BOOKS_WITHIN,
        _target,
        "kWh",
    ),
    Rule(
        "shift_residual",
        "Distance from the best shifts",
        "The largest difference of a shift from the one a search finds best. Shifts that differ a little cost almost "
        "the same, so this is not judged.",
        unit="kWh",
    ),
    Rule("call_distance", "Distance from the planner's calls", "The largest difference of a call.", unit="kWh"),
    Rule("utility", "Aggregator's utility", "Worked out anew.", unit="{money}"),
    Rule("planner_utility", "Planner's utility", "The most there is to be had.", unit="{money}"),
    Rule("mpcc.utility", "Utility of the paper's program", "", unit="{money}"),
)

REPORT = GameReport(
    outcome=Outcome,
    scenario=LoadCall,
    opening=opening,
    key_figures=key_figures,
    key_note="Bills before → after: without a call, and with what was shifted; rewards are paid besides.",
    sections=sections,
    residual=Trace("residual", "Relative shortfall", "what the calls may fall short of the best ones, relative"),
    rules=_RULES,
)
