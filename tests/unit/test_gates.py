"""Gates: when the sessions of a grid open, and which of them are skipped."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import aggregator_node.config
import emc_node.config
import leader_node.config
from stackelgrid.calendar import Calendar
from stackelgrid.cli.conclusion import explain_unsettled
from stackelgrid.cli.play import tell_first_gate
from stackelgrid.faults.in_memory import FaultyMemory
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.gates import Gates, Timetable
from stackelgrid.node.ledger import SqliteLedger
from stackelgrid.node.record import discard, has_last_record, open_record, read_whole_lines
from stackelgrid.rounds.ledger import Entry
from stackelgrid.run_record import FaultRecord, RunRecord
from stackelgrid.scenarios import load
from stackelgrid.scenarios.files import ScenarioError
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.base import Compute
from stackelgrid.transport.memory import MemoryTransport


def four_days(gates: dict[str, Any] | None = None, **calendar: Any) -> dict[str, Any]:
    """A scenario over the change of clocks in Berlin, of which a price tells a session from another."""
    days = {"start": "2026-03-27T00:00", "timezone": "Europe/Berlin", "days": 4} | calendar
    slots = Calendar.model_validate(days).slots
    grid = {} if gates is None else {"gates": gates}
    home = {"inelastic": [{"load_kw": slots * [1.0]}], "elastic": [{"max_kw": 5, "valuation": 15, "satisfaction": LOG}]}
    return {
        "schema": 1,
        "game": "user_oriented",
        "calendar": days,
        "leader": {
            "wholesale_price": [3 + slot % 7 / 10 for slot in range(slots)],
            "price_max": 30,
            "baseline_price": 9,
            "mu": 0.5,
        },
        "homes": [{"id": f"h{number}", **home} for number in range(1, 4)],
        **grid,
    }


LOG = {"form": "log", "alpha": 3.0}
NOON = {"day_ahead": "12:00"}
SESSIONS = Calendar.model_validate(
    {"start": "2026-03-27T00:00", "timezone": "Europe/Berlin", "days": 4, "every": "24h"}
).sessions
FIRST_GATE = datetime(2026, 3, 26, 11, tzinfo=UTC)  # noon in Berlin, the day before


def make_gates(**keys: Any) -> Gates:
    return Gates.model_validate(keys)


def timetable(gates: Gates, began: datetime = FIRST_GATE) -> Timetable:
    """A timetable whose wall clock shows `began` at 0."""
    return Timetable(SESSIONS, gates, lambda now: began + timedelta(seconds=now))


def test_gate_day_ahead_is_by_the_clock_of_the_place() -> None:
    gates = make_gates(day_ahead="12:00")
    opened = [gates.open_at(session).isoformat() for session in SESSIONS]
    # Clocks change on the 29th, so that the day before the 30th has its noon an hour earlier.
    assert opened[:2] == ["2026-03-26T12:00:00+01:00", "2026-03-27T12:00:00+01:00"]
    assert opened[2:] == ["2026-03-28T12:00:00+01:00", "2026-03-29T12:00:00+02:00"]


def test_gate_intraday_is_so_many_minutes_before() -> None:
    assert make_gates(intraday_minutes=15).open_at(SESSIONS[0]).isoformat() == "2026-03-26T23:45:00+01:00"


def test_gates_of_the_hour_that_is_there_twice_open_one_after_the_other() -> None:
    autumn = {"start": "2026-10-25T00:00", "timezone": "Europe/Berlin", "horizon": "1h", "days": 1}
    calendar = Calendar.model_validate(autumn)
    gates = make_gates(intraday_minutes=60)
    gates.check(calendar)
    second, third = (gates.open_at(session).isoformat() for session in calendar.sessions[3:5])
    assert (second, third) == ("2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00")
    table = Timetable(calendar.sessions, gates, lambda now: datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
    due, following = table.find_next(4, 0.0), table.find_next(5, 0.0)
    assert due is not None and (due.number, due.at) == (4, 0.0)
    assert following is not None and (following.number, following.at) == (5, 1800.0)


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({}, "gates: give either day_ahead or intraday_minutes"),
        (NOON | {"intraday_minutes": 5}, "gates: give either day_ahead or intraday_minutes"),
        ({"day_ahead": "25:00"}, 'gates.day_ahead: write a time of the day as "12:00"'),
        ({"intraday_minutes": 0}, "gates.intraday_minutes"),
        (NOON | {"clock": "slow"}, "gates.clock: write real"),
        (NOON | {"clock": {"speed": 0}}, "gates.clock: write real, simulated, or {speed: 600}"),
    ],
)
def test_gates_that_say_nothing_clear_are_refused(gates: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=re.escape(said)):
        load(four_days(gates))


@pytest.mark.parametrize(
    ("calendar", "said"),
    [
        ({"days": 1}, "gates: the calendar has one session"),
        ({"every": "6h"}, "gates.day_ahead: sessions 1 and 2 both open at 2026-03-26T12:00:00"),
    ],
)
def test_gates_that_cannot_open_the_sessions_of_a_calendar_are_refused(calendar: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        load(four_days(NOON, **calendar))


def test_gates_without_a_calendar_are_refused() -> None:
    scenario = load(four_days(days=1, horizon="24h"))
    with pytest.raises(ValueError, match="gates: there is no calendar"):
        make_gates(**NOON).check(None)
    with pytest.raises(ScenarioError, match="gates: there is no calendar"):
        load(scenario.change(calendar=None, gates=make_gates(**NOON)).model_dump(by_alias=True, exclude_none=True))


def test_session_waits_for_its_gate() -> None:
    table = timetable(make_gates(day_ahead="12:00"), FIRST_GATE - timedelta(hours=1))
    opening = table.find_next(1, 100.0)
    assert opening is not None and (opening.number, opening.at) == (1, 3600.0)
    due = table.find_next(1, 3600.0)
    assert due is not None and (due.number, due.at) == (1, 3600.0)


def test_session_is_skipped_once_the_next_gate_has_passed() -> None:
    table = timetable(make_gates(day_ahead="12:00"))
    just_before = table.find_next(1, 24 * 3600.0 - 1)
    assert just_before is not None and just_before.number == 1
    after = table.find_next(1, 24 * 3600.0)
    assert after is not None and (after.number, after.at) == (2, 24 * 3600.0)


def test_last_session_is_never_skipped() -> None:
    table = timetable(make_gates(day_ahead="12:00"), FIRST_GATE + timedelta(days=365))
    last = table.find_next(1, 0.0)
    assert last is not None and (last.number, last.at) == (4, 0.0)
    assert table.find_next(5, 0.0) is None


def test_accelerated_clock_begins_at_the_first_gate_and_goes_on_after_a_restart() -> None:
    gates = make_gates(day_ahead="12:00", clock={"speed": 600})
    table = timetable(gates, datetime(2030, 1, 1, tzinfo=UTC))
    first, second = table.find_next(1, 50.0), table.find_next(2, 50.0)
    assert first is not None and (first.number, first.at) == (1, 50.0)
    assert second is not None and second.at == 50.0 + 24 * 3600 / 600
    again = timetable(gates, datetime(2030, 1, 1, 0, 1, 0, tzinfo=UTC))  # its clock begins at 0 a minute later
    again.anchor = table.anchor
    opening = again.find_next(2, 0.0)
    assert opening is not None and opening.at == second.at - 60


def test_grid_on_a_simulated_clock_plays_as_a_run_without_gates() -> None:
    run = in_memory.play(load(four_days(days=2)))
    grid = in_memory.play(load(four_days(NOON | {"clock": "simulated"}, days=2)))
    assert grid.settled and len(grid.sessions) == 2
    assert [each["price"] for each in grid.rounds] == [each["price"] for each in run.rounds]
    assert grid.homes == run.homes


def test_grid_opens_each_session_at_its_gate() -> None:
    scenario = load(four_days({"intraday_minutes": 5}, horizon="24h", every="12h", days=1))
    grid = in_memory.play(scenario)
    assert scenario.gates is not None and len(scenario.sessions) == 2
    opened = [datetime.fromisoformat(session.conclusion["opened"]) for session in grid.sessions.values()]
    late = [at - scenario.gates.open_at(session) for at, session in zip(opened, scenario.sessions, strict=True)]
    assert all(timedelta(0) <= each < timedelta(seconds=1) for each in late), late


class Grid:
    """A grid in memory whose leader, of which the clock shows `began` at 0, is started again and again."""

    def __init__(self, gates: dict[str, Any]) -> None:
        self.scenario = load(four_days(gates))
        self.ledger: list[Entry] = []
        self.conclusions: list[dict[str, Any]] = []

    def start(self, began: datetime) -> leader_node.config.LeaderNode:
        config = build_node_configs(self.scenario, "grid").leader
        return leader_node.config.assemble(
            config,
            lambda account: None,
            lambda conclusion: self.conclusions.append(dict(conclusion)),
            self.ledger,
            lambda now: began + timedelta(seconds=now),
        )


def gather(node: leader_node.config.LeaderNode) -> None:
    """Start a leader to which nobody comes, until it has gathered."""
    actions = list(node.start(0.0))
    while not any(isinstance(action, Compute) for action in actions):
        actions += node.tick(node.next_deadline() or 0.0)


def test_grid_that_was_away_goes_on_with_the_session_that_is_due() -> None:
    grid = Grid(NOON)
    node = grid.start(FIRST_GATE + timedelta(days=2, minutes=1))  # the third gate has passed
    gather(node)
    assert [each["session"] for each in grid.conclusions] == [1, 2]
    assert all("skipped" in each and not each["settled"] for each in grid.conclusions)
    assert [each["session"] for each in grid.ledger] == [2, 3] and "opened" in grid.ledger[-1]


def test_accelerated_clock_goes_on_where_the_leader_was_killed_in_its_first_session() -> None:
    grid = Grid(NOON | {"clock": {"speed": 600}})
    gather(grid.start(datetime(2030, 1, 1, tzinfo=UTC)))
    opened = [entry["opened"] for entry in grid.ledger if "opened" in entry]
    gather(grid.start(datetime(2030, 1, 1, 0, 5, tzinfo=UTC)))  # 300 s later, which are two days and two hours
    assert opened == [FIRST_GATE.isoformat()]
    assert [each["session"] for each in grid.conclusions] == [1, 2]
    (anchor,) = {entry["anchor"] for entry in grid.ledger if entry.get("anchor")}
    assert datetime.fromisoformat(anchor) < datetime(2030, 1, 1, 0, 2, tzinfo=UTC)


@pytest.mark.parametrize("node", ["leader", "a1"])
def test_coordinator_of_a_grid_forgets_past_sessions_and_goes_on_after_a_crash(node: str) -> None:
    scenario = load(four_days({"intraday_minutes": 15, "clock": "simulated"}, days=1, horizon="6h"))
    crash = {"kind": "crash", "node": node, "at": {"session": 3}, "restart_after_s": 1.0}
    run = in_memory.MemoryRun(scenario)
    plan = FaultPlan.model_validate({"seed": 1, "faults": [crash]})
    faults: list[FaultRecord] = []
    transport = FaultyMemory(plan, run.builds, faults.append, scenario.seed)
    crashed = run.finish(transport.run(transport.nodes()))
    undisturbed = in_memory.play(scenario)
    assert faults and crashed.settled
    assert [each["price"] for each in crashed.rounds] == [each["price"] for each in undisturbed.rounds]
    assert crashed.homes == undisturbed.homes
    assert {entry.get("session", entry.get("account", {}).get("session")) for entry in run.ledgers[node]} == {3, 4}


def test_journal_and_conclusion_of_a_grid_have_each_session_once_after_a_restart(tmp_path: Path) -> None:
    grid = Grid(NOON)
    files = {"journal_file": tmp_path / "rounds.jsonl", "conclusion_file": tmp_path / "conclusion.json"}
    config = build_node_configs(grid.scenario, "grid").leader.model_copy(
        update={**files, "ledger_file": tmp_path / "leader.ledger"}
    )
    ledger = SqliteLedger(tmp_path / "leader.ledger", config.terms())
    account = {"round": 3, "session": 2}
    ledger.append({"session": 1, "rounds": 2, "conclusion": {"session": 1}, "state": None})
    files["journal_file"].write_text(
        '{"round": 1, "session": 1}\n{"round": 2, "session": 1}\n{"round": 3, "session": 2}\n{"rou'
    )
    files["conclusion_file"].write_text('{"session": 1}\n{"session": 2}\n')  # the ledger was killed before the second
    question = {"all": {"price": [1.0] * 24}}
    ledger.append(
        {"number": 3, "question": question, "answers": {}, "held": [], "excluded": ["a1"], "account": account}
    )
    leader_node.config.build(config)
    assert read_whole_lines(files["journal_file"]) == [*({"round": each, "session": 1} for each in (1, 2)), account]
    assert read_whole_lines(files["conclusion_file"]) == [{"session": 1}]


@pytest.mark.parametrize("length", [10, 4095, 4096, 30_000])
def test_last_line_of_a_long_file_is_found_from_its_end(tmp_path: Path, length: int) -> None:
    path = tmp_path / "schedule.json"
    record = open_record(path, 9)
    for session in (7, 8):
        record({"session": session, "states": "x" * length})
    assert has_last_record(path, 8) and not has_last_record(path, 7)
    with path.open("a") as file:
        file.write('{"session": 9')  # not whole
    assert has_last_record(path, 8) and not has_last_record(path, 9)
    assert not has_last_record(tmp_path / "none", 9)


def test_run_says_when_the_first_session_opens_where_it_waits_for_that() -> None:
    assert "opens at 2026-03-26T12:00+01:00, by the wall clock" in tell_first_gate(load(four_days(NOON)))
    for gates in (None, NOON | {"clock": "simulated"}, NOON | {"clock": {"speed": 10}}):
        assert tell_first_gate(load(four_days(gates))) == ""


def test_result_of_a_skipped_session_says_why() -> None:
    ended = {"settled": True, "complete": True}
    record = RunRecord("memory", "none", 1)
    record.conclusion["sessions"] = [
        {"session": 1, **ended},
        {"session": 2, "settled": False, "complete": False, "skipped": "too late"},
    ]
    record.divide(2)
    assert (record.sessions[1].stopped, record.sessions[2].stopped) == ("", "too late")
    assert not record.settled and record.stopped == "too late"


@pytest.mark.parametrize(
    ("stopped", "words"), [("too late", "too late"), ("", "raise leader.max_rounds")], ids=["skipped", "played"]
)
def test_run_of_which_a_session_was_not_settled_ends_with_what_became_of_it(stopped: str, words: str) -> None:
    sessions = [SimpleNamespace(settled=settled, stopped=stopped) for settled in (True, False, False)]
    ended: Any = SimpleNamespace(result=SimpleNamespace(sessions=sessions, rounds=7))
    assert explain_unsettled(ended) == f"2 of 3 sessions not settled, the first of them session 2: {words}"


def test_ledger_drops_what_was_before_with_the_next_entry(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger", {})
    ledger.append({"number": 1})
    ledger.clear()
    ledger.save()  # as where a disk was full for a while
    assert list(SqliteLedger(tmp_path / "ledger", {})) == [{"number": 1}]  # as after a kill
    ledger.append({"session": 1})
    ledger.append({"number": 2})
    assert list(SqliteLedger(tmp_path / "ledger", {})) == [{"session": 1}, {"number": 2}]


class Renamed:
    """A node of a grid, under a name of its own beside those of another."""

    def __init__(self, grid: str, node: Any) -> None:
        self.name, self._node = f"{grid}-{node.name}", node

    def __getattr__(self, key: str) -> Any:
        return getattr(self._node, key)


def test_two_grids_on_one_broker_do_not_meet() -> None:
    scenarios = {name: load(four_days(NOON | {"clock": "simulated"}, days=2)) for name in ("north", "south")}
    scenarios["south"] = scenarios["south"].change(seed=7)  # another scenario, of nodes with the same names
    rounds: dict[str, list[dict[str, Any]]] = {"north": [], "south": []}
    nodes: list[Any] = []
    for grid, scenario in scenarios.items():
        configs = build_node_configs(scenario, grid)
        journal = rounds[grid].append
        clock = in_memory.run_clock(scenario)
        nodes.append(leader_node.config.assemble(configs.leader, journal, lambda _: None, [], clock))  # type: ignore[arg-type]
        nodes += [aggregator_node.config.assemble(each, discard, discard, []) for each in configs.aggregators]
        nodes += [emc_node.config.assemble(each, discard) for each in configs.homes]
    together = [Renamed("north" if node in nodes[: len(nodes) // 2] else "south", node) for node in nodes]
    MemoryTransport().run(together)
    assert {sum(node.mailbox.rejected.values()) for node in nodes} == {0}
    alone = in_memory.play(scenarios["north"])
    prices = [each["price"] for each in alone.rounds]
    assert [each["price"] for each in rounds["north"]] == prices == [each["price"] for each in rounds["south"]]
