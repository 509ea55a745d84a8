"""The report of the load call game: calls, shifts and money by consumer, and the rounds of calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from stackelgrid.columns import Cell, Columns, spell_unit, stack
from stackelgrid.games.load_call.leader import UtilitySettings
from stackelgrid.games.load_call.outcome import LoadCallOutcome
from stackelgrid.games.load_call.scenario import LoadCallScenario
from stackelgrid.report.game import GameReport
from stackelgrid.report.parts import (
    BOOKS_WITHIN,
    EQUILIBRIUM_WITHIN,
    REGRET,
    Highlight,
    Plot,
    Row,
    Rule,
    Section,
    Table,
    Trace,
    drop_rounding,
    highlight_change,
    spread,
)
from stackelgrid.report.run_folder import RunFolder
from stackelgrid.report.words import change, number, percent, plural, quantity, tell_change
from stackelgrid.run_result import Certificate, RunResult

_FEW = 24
"""Consumers up to which the table lists each."""


def opening(run: RunFolder) -> str:
    """Describe the game and its tariff."""
    scenario: LoadCallScenario = run.scenario
    leader = scenario.leader
    rate = f"{run.result.money}/kWh"
    peak, off_peak = number(leader.peak_price), number(leader.off_peak_price)
    return (
        f"The utility wants load shifted out of the peak hours, at {peak} {rate}, into others, at {off_peak} {rate}. "
        "The aggregator chooses whom to call, and for how much; each consumer chooses how much of its call to shift."
    )


def story(result: RunResult[LoadCallOutcome], outcome: LoadCallOutcome) -> str:
    """Say what came out in a sentence: what was shifted of the target, rewards and bills."""
    money, who = result.money, plural(len(outcome.calls_kwh), "consumer")
    bills = sum(outcome.baseline_bills.values()), sum(outcome.bills.values())
    rewards = sum(outcome.rewards.values())
    ended = "" if result.settled else "The calls were not settled; by the last round, "
    sentence = (
        f"{ended}of the {quantity(outcome.target_kwh, 'kWh')} that the utility wanted shifted, {who} shifted "
        f"{quantity(outcome.achieved_kwh, 'kWh')} ({percent(outcome.success_rate)}) for rewards of "
        f"{quantity(rewards, money)}{_tell_rate(outcome, money)}; these not counted, "
        f"{tell_change('their bills', *bills, money)}."
    )
    return sentence[0].upper() + sentence[1:]


def _tell_rate(outcome: LoadCallOutcome, money: str) -> str:
    """Say what a kWh shifted is rewarded with; nothing where none was shifted."""
    shifted = sum(outcome.shifted_kwh.values())
    return f" at {quantity(sum(outcome.rewards.values()) / shifted, f'{money}/kWh')}" if shifted > 0 else ""


def highlights(result: RunResult[LoadCallOutcome], outcome: LoadCallOutcome) -> list[Highlight]:
    """Give the shift, who complied, rewards and bills."""
    full = sum(map(outcome.complies, outcome.calls_kwh))
    bills = sum(outcome.baseline_bills.values()), sum(outcome.bills.values())
    target = f"{percent(outcome.success_rate)} of {quantity(outcome.target_kwh, 'kWh')} wanted"
    return [
        ("Shifted", quantity(outcome.achieved_kwh, "kWh"), target),
        ("Complied in full", f"{full:,}", f"of {plural(len(outcome.calls_kwh), 'consumer')}"),
        ("Rewards", quantity(sum(outcome.rewards.values()), result.money), "paid besides the bills"),
        highlight_change("Bills", *bills, result.money),
    ]


def overview(run: RunFolder, outcome: LoadCallOutcome) -> Plot | None:
    """Draw what each consumer is called for, and what it shifts of that."""
    from stackelgrid.report import drawing

    if not outcome.calls_kwh:
        return None
    ranked = "" if drawing.shows_each_bar(outcome.calls_kwh) else " Consumers are ranked by what they are called for."
    calls = {"Called for": outcome.calls_kwh, "Shifted": outcome.shifted_kwh}
    return Plot(
        "calls",
        drawing.members(calls, "Energy (kWh)", who="Consumer", colors=(drawing.GREY, drawing.BLUE)),
        "What each consumer is called for, and what it shifts of that; where the two are equal it complies in "
        f"full.{ranked}",
    )


def key_figures(result: RunResult[LoadCallOutcome], outcome: LoadCallOutcome) -> list[Row]:
    """List what was achieved, and the money."""
    money = result.money
    full = sum(map(outcome.complies, outcome.calls_kwh))
    return [
        ("Target", f"{number(outcome.target_kwh)} kWh"),
        ("Shifted", f"{number(outcome.achieved_kwh)} kWh, {percent(outcome.success_rate)} of the target"),
        ("Complied in full", f"{full:,} of {plural(len(outcome.calls_kwh), 'consumer')}"),
        ("Rounds of calls", f"{outcome.call_rounds:,}"),
        ("Commission", quantity(outcome.commission, money)),
        ("Squared deviation of calls", f"{number(outcome.squared_deviation)} kWh²"),
        ("Aggregator's utility", quantity(outcome.aggregator_utility, money)),
        ("Rewards", quantity(sum(outcome.rewards.values()), money)),
        ("Bills", change(sum(outcome.baseline_bills.values()), sum(outcome.bills.values()), money)),
        *_list_metered(outcome, money),
    ]


def _list_metered(outcome: LoadCallOutcome, money: str) -> Iterator[Row]:
    """List what meters counted, and the imbalance, where baselines were foreseen."""
    if outcome.metered_kwh is None or outcome.settled_kwh is None or outcome.imbalance_kwh is None:
        return
    settled, metered = sum(outcome.settled_kwh.values()), sum(outcome.metered_kwh.values())
    imbalance = drop_rounding(outcome.imbalance_kwh, settled)
    rate = quantity(outcome.imbalance_price or 0.0, f"{money}/kWh")
    yield ("Metered on-peak", f"{quantity(metered, 'kWh')}, {quantity(settled, 'kWh')} were settled")
    yield ("Imbalance", f"{quantity(imbalance, 'kWh')} at {rate}: metered less settled")


def sections(run: RunFolder, outcome: LoadCallOutcome) -> Iterator[Section]:
    """Show the calls, the rounds of calls, the money and the consumers."""
    from stackelgrid.report import drawing

    money = run.result.money
    if not outcome.calls_kwh:
        yield Section("Calls", ["No consumer reported a shift: consumers act on a settlement, and none reached them."])
        return
    if rounds := list(_tabulate_rounds(outcome, money)):
        yield Section("Calls", rounds)
    saved = {name: outcome.baseline_bills[name] - bill for name, bill in outcome.bills.items()}
    earned = {"Bill saved": saved, "Reward": outcome.rewards}
    ranked = "" if drawing.shows_each_bar(saved) else " Consumers are ranked by what they save."
    yield Section(
        "Consumers",
        [
            Plot(
                "earnings",
                drawing.members(earned, f"Money ({money})", who="Consumer"),
                f"What each consumer saves on its bill by shifting, and the reward it is paid besides.{ranked}",
            ),
            _tabulate_consumers(run.scenario.leader, outcome, money),
        ],
    )


def _tabulate_rounds(outcome: LoadCallOutcome, money: str) -> Iterator[Table]:
    if not outcome.call_journal:
        return
    yield Table(
        "The rounds of calls. A consumer that shifts less than its call shows what it is willing to shift. The calls "
        "are the best ones when nothing more may be gained.",
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


def _tabulate_consumers(leader: UtilitySettings, outcome: LoadCallOutcome, money: str) -> Table:
    """Tabulate medians of those that comply in full and of the others, then each of a few consumers."""
    everyone = list(outcome.calls_kwh)
    complying = [name for name in everyone if outcome.complies(name)]
    groups = {
        "All consumers": everyone,
        "Complied in full": complying,
        "In part": [name for name in everyone if name not in set(complying)],
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


# --- tables ---


def tabulate_homes(scenario: LoadCallScenario, outcome: LoadCallOutcome) -> Columns:
    """Tabulate call, shift, reward and bill, before without a call and after, a row per consumer."""
    money, names = spell_unit(scenario.money), list(outcome.calls_kwh)
    columns = {
        "called_kwh": outcome.calls_kwh,
        "shifted_kwh": outcome.shifted_kwh,
        f"reward_{money}": outcome.rewards,
        f"baseline_bill_{money}": outcome.baseline_bills,
        f"bill_{money}": outcome.bills,
    }
    if outcome.performance is not None:
        columns["performance"] = outcome.performance
    for column, metered in (
        ("settled_kwh", outcome.settled_kwh),
        ("metered_kwh", outcome.metered_kwh),
        ("metered_shifted_kwh", outcome.metered_shifted_kwh),
        (f"metered_reward_{money}", outcome.metered_rewards),
        (f"metered_bill_{money}", outcome.metered_bills),
    ):
        if metered is not None:
            columns[column] = metered
    return {"home": names, **{column: [by_name[name] for name in names] for column, by_name in columns.items()}}


def tabulate_calls(scenario: LoadCallScenario, outcome: LoadCallOutcome) -> Columns:
    """Tabulate the rounds of calls, a row each."""
    money = spell_unit(scenario.money)
    return stack(
        {
            "call_round": number,
            "called_kwh": each.called_kwh,
            "shifted_kwh": each.shifted_kwh,
            "shown": each.shown,
            f"gap_{money}": each.gap,
        }
        for number, each in enumerate(outcome.call_journal, start=1)
    )


def compute_totals(scenario: LoadCallScenario, outcome: LoadCallOutcome) -> dict[str, Cell]:
    """Give the energies and sums of money of a session."""
    money = spell_unit(scenario.money)
    metered: dict[str, Cell] = {}
    if outcome.metered_kwh is not None and outcome.settled_kwh is not None:
        metered = {
            "settled_kwh": sum(outcome.settled_kwh.values()),
            "metered_kwh": sum(outcome.metered_kwh.values()),
            "imbalance_kwh": outcome.imbalance_kwh,
            f"imbalance_cost_{money}": outcome.imbalance_cost,
        }
    return {
        "target_kwh": outcome.target_kwh,
        "shifted_kwh": outcome.achieved_kwh,
        "success_rate": outcome.success_rate,
        f"commission_{money}": outcome.commission,
        f"aggregator_utility_{money}": outcome.aggregator_utility,
        f"rewards_{money}": sum(outcome.rewards.values()),
        f"baseline_bills_{money}": sum(outcome.baseline_bills.values()),
        f"bills_{money}": sum(outcome.bills.values()),
        **metered,
    }


# --- the certificate ---


def _scale_by_target(outcome: LoadCallOutcome, certificate: Certificate) -> float:
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
        _scale_by_target,
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
        "The difference of the total reported to the utility from the sum of the shifts.",
        BOOKS_WITHIN,
        _scale_by_target,
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
    Rule("utility", "Aggregator's utility", "Computed anew.", unit="{money}"),
    Rule("planner_utility", "Planner's utility", "The optimum of the planner.", unit="{money}"),
    Rule("mpcc.utility", "Utility of the paper's program", "", unit="{money}"),
)

_LABELS = {
    "target_kwh": "Target (kWh)",
    "achieved_kwh": "Shifted (kWh)",
    "success_rate": "Shifted, of the target",
    "commission": "Commission ({money})",
    "squared_deviation": "Squared deviation of calls (kWh²)",
    "aggregator_utility": "Aggregator's utility ({money})",
    "calls_kwh": "Called for (kWh)",
    "shifted_kwh": "Shifted (kWh)",
    "rewards": "Reward ({money})",
    "bills": "Bill ({money})",
    "leader.target_kwh": "Target (kWh)",
    "leader.peak_price": "Price in peak hours ({money}/kWh)",
    "leader.off_peak_price": "Price in other hours ({money}/kWh)",
    "leader.commission": "Commission ({money}/kWh)",
}

REPORT = GameReport(
    story=story,
    highlights=highlights,
    overview=overview,
    opening=opening,
    key_figures=key_figures,
    key_note="Bills before → after: without a call, and with what was shifted; rewards are paid besides.",
    sections=sections,
    tables={"homes": tabulate_homes, "calls": tabulate_calls},
    totals=compute_totals,
    labels=_LABELS,
    residual=Trace("residual", "Relative shortfall", "what the calls may fall short of the best ones, relative"),
    rules=_RULES,
)
