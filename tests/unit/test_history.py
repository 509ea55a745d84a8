"""Histories: what nodes store of a grid adds up, no less and no more than they know, and the file bears what comes."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from unit.test_run_tables import DATED
from unit.test_sessions import two_days

import aggregator_node.config
import emc_node.config
import leader_node.config
import stackelgrid
from emc_node import history as emc_history
from emc_node.metering import SlotMeter
from stackelgrid import cli
from stackelgrid.calendar import Session, list_sessions
from stackelgrid.errors import ConfigError
from stackelgrid.games.user_oriented.messages import Price
from stackelgrid.history import schema
from stackelgrid.history.command import show
from stackelgrid.history.recording import CoordinatorHistory, HomeHistory
from stackelgrid.history.store import Change, HistoryFile, Run, upsert
from stackelgrid.history.summary import _sum, to_rows
from stackelgrid.history.tables import ENDING, TABLES, History, Period
from stackelgrid.node import record
from stackelgrid.node.home_status import HomeStatus
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.memory import MemoryTransport
from stackelgrid.wire.messages import AggregatorRoster, Settlement

DOC = Path(__file__).parents[2] / "docs" / "history.md"
VERSION_1 = Path(__file__).parent / "history_version_1.sql"
EACH = Period()
DAY_S = 24 * 3600
RUN = Run("grid", "", "h1", "home", "user_oriented", None)


def play(scenario: Scenario, folder: Path) -> Path:
    """Play a scenario with a history at each node."""
    configs, nodes = build_node_configs(scenario, "grid"), []
    for package, of_role in (
        (leader_node.config, [configs.leader]),
        (aggregator_node.config, configs.aggregators),
        (emc_node.config, configs.homes),
    ):
        for config in of_role:
            named = config.model_copy(update={"history_file": folder / f"{config.name}{ENDING}"})
            nodes.append(package.build(named))
    assert MemoryTransport(1).run(nodes).crashed == {}
    return folder


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The histories of two days, the second with 23 hours."""
    return play(load(two_days()), tmp_path_factory.mktemp("grid"))


def rows(folder: Path, node: str, table: str, period: Period = EACH) -> list[dict[str, Any]]:
    with History(folder / f"{node}{ENDING}") as history:
        return to_rows(history.tabulate(table, period))


def by_slot(found: list[dict[str, Any]], key: str) -> dict[tuple[int, int], float]:
    sums: dict[tuple[int, int], float] = defaultdict(float)
    for row in found:
        sums[row["session"], row["slot"]] += row[key]
    return dict(sums)


# --- what is stored ---


def check_conservation(folder: Path) -> None:
    """Hold the loads of leader, aggregators and homes against each other, and the bills against the loads."""
    nodes = [path.name.removesuffix(ENDING) for path in folder.glob(f"*{ENDING}")]
    roles = {node: rows(folder, node, "sessions")[0]["role"] for node in nodes}
    aggregators, homes = ([node for node in nodes if roles[node] == role] for role in ("aggregator", "home"))
    total = by_slot(rows(folder, "leader", "slots"), "load_kw")
    assert len(total) == 47
    of_leader = rows(folder, "leader", "members")
    for aggregator in aggregators:
        told = by_slot([row for row in of_leader if row["member"] == aggregator], "load_kw")
        own = by_slot(rows(folder, aggregator, "slots"), "load_kw")
        assert own == pytest.approx(told, abs=1e-9)
        assert by_slot(rows(folder, aggregator, "members"), "load_kw") == pytest.approx(own, abs=1e-9)
    settled = [row for home in homes for row in rows(folder, home, "slots")]
    assert by_slot(settled, "load_kw") == pytest.approx(total, abs=1e-9)
    prices = {(row["session"], row["slot"]): row["price"] for row in rows(folder, "leader", "slots")}
    assert {(row["session"], row["slot"], row["price"]) for row in settled} == {(*key, p) for key, p in prices.items()}
    for session in rows(folder, "leader", "sessions"):
        number = session["session"]
        paid = sum(price * total[key] for key, price in prices.items() if key[0] == number)
        bills = [row["bill"] for home in homes for row in rows(folder, home, "bills") if row["session"] == number]
        assert session["revenue"] == pytest.approx(paid, rel=1e-9)
        assert sum(bills) == pytest.approx(paid, rel=1e-9)
        assert session["energy_kwh"] == pytest.approx(sum(kw for key, kw in total.items() if key[0] == number))


def test_leader_aggregators_and_homes_store_the_same_loads(grid: Path) -> None:
    check_conservation(grid)


def test_loads_of_homes_in_one_process_add_up(tmp_path: Path) -> None:
    check_conservation(play(load(two_days() | {"homes_per_process": 2}), tmp_path))


def test_sessions_are_those_of_the_run(grid: Path) -> None:
    sessions = rows(grid, "leader", "sessions")
    assert [(row["start"].isoformat(), row["slots"], row["settled"], row["complete"]) for row in sessions] == [
        ("2026-03-28T00:00:00+01:00", 24, True, True),
        ("2026-03-29T00:00:00+01:00", 23, True, True),
    ]
    loads = [row["load_kw"] for row in rows(grid, "leader", "slots") if row["session"] == 2]
    assert sessions[1]["peak_kw"] == max(loads)
    assert sessions[1]["par"] == pytest.approx(max(loads) * 23 / sum(loads))
    assert [row["ended"] for row in sessions] == ["settled", "settled"]
    assert len(rows(grid, "leader", "rounds")) == sum(row["rounds"] for row in sessions)


def test_histories_hold_nothing_private(grid: Path) -> None:
    known = {
        key for node in ("leader", "a1", "h1") for table in TABLES for row in rows(grid, node, table) for key in row
    }
    with closing(sqlite3.connect(grid / f"a1{ENDING}")) as file:
        stored = file.execute("SELECT group_concat(sql) FROM sqlite_schema").fetchone()[0]
    for word in ("valuation", "satisfaction", "storage", "utility", "max_kw", "elastic"):
        assert word not in stored and word not in known


def test_slot_has_the_plan_of_the_last_session_that_settled_it(tmp_path: Path) -> None:
    folder = play(load(two_days(3, days=1, horizon="24h", every="12h")), tmp_path)
    for node in ("leader", "a1", "h1"):
        slots = rows(folder, node, "slots")
        assert [(row["session"], row["slot"]) for row in slots] == [(n, t) for n in (1, 2) for t in range(1, 13)]
        assert all(row["binding"] for row in slots)
        first = rows(folder, node, "sessions")[0]
        assert (first["slots"], first["binding"]) == (24, 12)
        assert first["energy_kwh"] == pytest.approx(sum(row["load_kw"] for row in slots[:12]))
    assert len(rows(folder, "leader", "members")) == 2 * 24


def test_bill_of_a_home_that_feeds_in_is_what_it_pays(tmp_path: Path) -> None:
    calendar = {"start": "2026-06-01T00:00", "timezone": "Europe/Berlin", "slot_minutes": 30, "days": 2}
    content = {"schema": 1, "game": "user_oriented", "calendar": calendar, **DATED["user_oriented"]}
    scenario = load({**content, "forecast": {"load": "perfect"}, "aggregators": 1})
    played = stackelgrid.run(scenario).result.sessions
    play(scenario, tmp_path)
    assert min(row["load_kw"] for row in rows(tmp_path, "full", "slots")) < 0
    for name in ("full", "plain"):
        paid = [session.outcome.homes[name].bill for session in played]
        assert [row["bill"] for row in rows(tmp_path, name, "bills")] == pytest.approx(paid, rel=1e-9)


# --- what a home with devices measures ---


def test_meter_counts_slots_that_it_has_measured_whole() -> None:
    counted: list[tuple[datetime, int, float]] = []
    meter = SlotMeter(15, lambda *slot: counted.append(slot))
    noon = datetime(2026, 6, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    for minute, kw in ((-2, 9.0), (1, 4.0), (5, 2.0), (9, 2.0), (13, 8.0), (17, -3.0)):
        meter.read(kw, noon + timedelta(minutes=minute))
    assert counted == [(noon, 15, pytest.approx((9 * 1 + 4 * 4 + 2 * 8 + 8 * 2) / 60))]
    for minute in (21, 30, 33):  # nine minutes without a reading
        meter.read(1.0, noon + timedelta(minutes=minute))
    for minute in range(34, 47):
        meter.read(1.0, noon + timedelta(minutes=minute))
    assert len(counted) == 1, "the slots with the gap are left out"
    for minute in range(47, 62):
        meter.read(1.0, noon + timedelta(minutes=minute))
    assert [start for start, *_ in counted[1:]] == [noon + timedelta(minutes=45)]
    assert counted[1][2] == pytest.approx(0.25)


def test_meter_begins_anew_when_the_clock_is_set_back() -> None:
    counted: list[Any] = []
    meter = SlotMeter(60, lambda *slot: counted.append(slot))
    at = datetime(2026, 6, 1, 12, tzinfo=UTC)
    for minute in [*range(0, 59), *range(30, 90), *range(90, 121)]:
        meter.read(1.0, at + timedelta(minutes=minute))
    assert [(start.hour, kwh) for start, _, kwh in counted] == [(13, pytest.approx(1.0))]


def test_home_pays_what_its_meter_counted(tmp_path: Path) -> None:
    path, start = tmp_path / f"h1{ENDING}", datetime(2026, 6, 1, tzinfo=UTC)
    run = Run("grid", "", "h1", "home", "user_oriented", "UTC")
    history = HomeHistory(HistoryFile(path, run, 36_000), [Session(3, 0.25, start=start)], [])
    history.hear(
        Settlement[Price](
            run="grid", sender="a1", round=2, settled=True, complete=True, body=Price(price=[10.0, 20.0, 30.0])
        )
    )
    history.wrap_act(lambda settled: None)({"h1": {"load_kw": [4.0, 0.0, 8.0]}})
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE sessions SET homes = 1")
    for slot, kwh in ((0, 1.5), (2, 1.0)):
        history.note_energy(start + timedelta(minutes=15 * slot), 15, kwh)
    history.note_energy(start + timedelta(minutes=15), 60, 9.0)  # when slots were of another length
    (bill,) = rows(tmp_path, "h1", "bills")
    assert (bill["energy_kwh"], bill["bill"]) == (3.0, 70.0)
    assert (bill["metered_kwh"], bill["metered_bill"], bill["metered_slots"]) == (2.5, 45.0, 2)
    assert [row["metered_kwh"] for row in rows(tmp_path, "h1", "slots")] == [1.5, None, 1.0]
    assert [row["energy_kwh"] for row in rows(tmp_path, "h1", "meter")] == [1.5, 9.0, 1.0]
    with History(path) as found:
        assert "metered kWh" in show([found], EACH)


def test_mode_is_stored_when_it_changes(tmp_path: Path) -> None:
    now = [1.0e9]
    file = HistoryFile(tmp_path / f"h1{ENDING}", RUN, 400, lambda: now[0])
    history = HomeHistory(file, [Session(1)], [])
    for status in (
        *(HomeStatus("clock"), HomeStatus("plan"), HomeStatus("plan", problems=("a",))),
        *(HomeStatus("plan", limit={"draw_kw": 4}), HomeStatus("fail_safe", override={"setpoint_kw": 1})),
    ):
        now[0] += 60
        history.note_status(status)
    found = [(row["mode"], row["override"], row["limited"]) for row in rows(tmp_path, "h1", "modes")]
    assert found == [
        *(("clock", False, False), ("plan", False, False), ("plan", False, True)),
        ("fail_safe", True, False),
    ]
    with History(tmp_path / f"h1{ENDING}") as stored:
        assert "storage: fail_safe, overridden, since 2001-09-09" in show([stored], EACH)


# --- what a coordinator meets ---


def entry(number: int, price: float, **answers: float) -> dict[str, Any]:
    """A finished round of a session of one slot."""
    bodies = {name: {"homes": 2, "load_kw": [load]} for name, load in answers.items()}
    question = {"all": {"price": [price]}}
    return {"session": 1, "number": number, "question": question, "answers": bodies}


def settlement(price: float, *, complete: bool = True) -> Settlement[Price]:
    return Settlement[Price](
        run="grid", sender="a1", round=2, settled=True, complete=complete, body=Price(price=[price])
    )


def coordinator(folder: Path) -> CoordinatorHistory:
    return CoordinatorHistory(HistoryFile(folder / f"a1{ENDING}", RUN, 400), [Session(1)])


def test_coordinator_that_was_killed_before_the_settlement_stores_its_loads(tmp_path: Path) -> None:
    history, roster = coordinator(tmp_path), {"session": 1, "roster": {"number": 7}}
    list(history.wrap_ledger([roster, entry(1, 9.0, h1=5.0), entry(2, 3.0, h1=7.0, h2=1.0)]))
    history.hear(settlement(3.0))
    assert [row["load_kw"] for row in rows(tmp_path, "a1", "members")] == [7.0, 1.0]
    (session,) = rows(tmp_path, "a1", "sessions")
    assert (session["homes"], session["roster"]) == (4, 7)


def test_aggregator_whose_homes_mask_stores_the_loads_of_groups_and_why_one_has_no_sum(tmp_path: Path) -> None:
    history, masked = coordinator(tmp_path), entry(2, 3.0)
    masked["answers"] = {name: {"homes": 1, "words": "AAAA"} for name in ("h1", "h2", "h3")}
    sums = {name: {"homes": 3, "load_kw": [load]} for name, load in (("group-1", 7.0), ("group-2", 1.0))}
    ledger = history.wrap_ledger([])
    ledger.append(masked)
    ledger.append({"session": 1, "sums": {"answers": sums, "held": ["group-2"]}})
    nobody = dict.fromkeys(("held", "excluded", "quarantined"), ())
    history.wrap_journal(lambda account: None)({"round": 2, **nobody, "why": {}, "not_summed": {"group-2": "h3"}})
    history.hear(settlement(3.0))
    found = [(row["member"], row["load_kw"]) for row in rows(tmp_path, "a1", "members")]
    assert found == [("group-1", 7.0), ("group-2", 1.0)]
    assert [row["homes"] for row in rows(tmp_path, "a1", "sessions")] == [6]
    missing = [(row["member"], row["action"], row["why"]) for row in rows(tmp_path, "a1", "missing")]
    assert missing == [("group-2", "not summed", "h3")]


def test_leader_stores_the_roster_that_it_tells_its_aggregators(tmp_path: Path) -> None:
    history = coordinator(tmp_path)
    history.hear(AggregatorRoster(run="grid", sender="leader", session=1, number=3, members=[]))
    history.hear(settlement(3.0))
    assert [row["roster"] for row in rows(tmp_path, "a1", "sessions")] == [3]


def test_coordinator_that_missed_the_last_round_stores_the_price_alone(tmp_path: Path) -> None:
    history = coordinator(tmp_path)
    history.wrap_ledger([]).append(entry(1, 9.0, h1=5.0))
    history.hear(settlement(3.0, complete=False))
    (slot,) = rows(tmp_path, "a1", "slots")
    assert (slot["price"], slot["load_kw"]) == (3.0, None)
    assert rows(tmp_path, "a1", "members") == []
    (session,) = rows(tmp_path, "a1", "sessions")
    assert (session["settled"], session["complete"], session["revenue"]) == (True, False, None)


def test_settlement_that_is_sent_again_does_not_lose_what_is_known(tmp_path: Path) -> None:
    history = coordinator(tmp_path)
    history.wrap_ledger([]).append(entry(1, 3.0, h1=5.0))
    history.hear(settlement(3.0))
    coordinator(tmp_path).hear(settlement(3.0))  # after a restart without its ledger
    assert [row["load_kw"] for row in rows(tmp_path, "a1", "slots")] == [5.0]
    assert [row["load_kw"] for row in rows(tmp_path, "a1", "members")] == [5.0]


def test_row_that_is_written_again_keeps_the_time_of_the_first(tmp_path: Path) -> None:
    now = [1.0e9]
    file = HistoryFile(tmp_path / f"h1{ENDING}", RUN, 400, lambda: now[0])
    file.write(*session_changes(file, 1))
    first = rows(tmp_path, "h1", "sessions")
    now[0] += DAY_S
    file.write(*session_changes(file, 1))
    assert rows(tmp_path, "h1", "sessions") == first


def test_missing_members_are_stored_with_the_reason(tmp_path: Path) -> None:
    history = coordinator(tmp_path)
    kept: list[Any] = []
    account = {"round": 4, "inner": 1, "held": ["h1"], "excluded": [], "quarantined": ["h2"], "why": {"h2": "refused"}}
    history.wrap_journal(kept.append)(account)
    history.hear(settlement(3.0))
    history.wrap_conclude(kept.append)({"settled": False, "complete": False, "lost": ["h2"], "unacknowledged": ["h3"]})
    assert len(kept) == 2
    found = [(row["round"], row["member"], row["action"], row["why"]) for row in rows(tmp_path, "a1", "missing")]
    assert found == [
        *((2, "h2", "lost", ""), (2, "h3", "unacknowledged", "")),
        *((4, "h1", "held", ""), (4, "h2", "quarantined", "refused")),
    ]
    (session,) = rows(tmp_path, "a1", "sessions")
    assert (session["ended"], set(session["missing"].split(","))) == ("lost h2", {"h1", "h2", "h3"})


def test_skipped_session_is_stored_with_the_reason(tmp_path: Path) -> None:
    history = coordinator(tmp_path)
    history.wrap_conclude(lambda conclusion: None)(
        {"session": 1, "settled": False, "complete": False, "skipped": "its gate has passed"}
    )
    (session,) = rows(tmp_path, "a1", "sessions")
    assert (session["ended"], session["settled"]) == ("skipped: its gate has passed", False)
    with History(tmp_path / f"a1{ENDING}") as found:
        assert "skipped: its gate has passed" in show([found], EACH)


# --- the file ---


def session_changes(file: HistoryFile, number: int) -> list[Change]:
    """A session of a day of hours."""
    hours = range(24 * number - 23, 24 * number + 1)
    row = (number, file.now(), 24 * number - 23, 24, 24, 1.0)
    return [
        upsert("sessions", "session", "at first slots binding slot_hours", [row]),
        upsert("slots", "slot", "session price load_kw", [(slot, number, 0.3, 1.5) for slot in hours]),
        upsert("members", "slot member", "session load_kw", [(slot, "h1", number, 1.5) for slot in hours]),
    ]


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as file:
        return int(file.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_old_rows_go_and_the_file_grows_no_more(tmp_path: Path) -> None:
    path, now, sizes = tmp_path / f"h1{ENDING}", [1.0e9], []
    file = HistoryFile(path, RUN, 30, lambda: now[0])
    for number in range(1, 200):
        now[0] += DAY_S
        file.write(*session_changes(file, number))
        sizes.append(path.stat().st_size)
    file.close()
    assert count(path, "sessions") == 31
    assert (count(path, "slots"), count(path, "members")) == (31 * 24, 31 * 24)
    assert path.stat().st_size == max(sizes) < 128 * 1024


def test_history_of_a_node_that_slept_longer_than_it_reaches_back_is_empty(tmp_path: Path) -> None:
    path, now = tmp_path / f"h1{ENDING}", [1.0e9]
    file = HistoryFile(path, RUN, 30, lambda: now[0])
    file.write(*session_changes(file, 1))
    file.close()
    now[0] += 31 * DAY_S
    HistoryFile(path, RUN, 30, lambda: now[0]).close()
    assert [count(path, table) for table in ("sessions", "slots", "members")] == [0, 0, 0]


def test_file_that_is_no_history_is_left_alone_and_the_node_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(record, "RETRY_S", 3600.0)
    path = tmp_path / f"h1{ENDING}"
    path.write_text("somebody's notes\n" * 300)
    file = HistoryFile(path, RUN, 30)
    file.write(*session_changes(file, 1))
    assert path.read_text() == "somebody's notes\n" * 300
    assert caplog.messages == ["a file cannot be written, the node goes on"]
    path.rename(tmp_path / "notes")
    file.write(*session_changes(file, 2))
    assert count(path, "sessions") == 2


def test_rows_that_no_file_can_hold_are_dropped_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / f"h1{ENDING}"
    file = HistoryFile(path, RUN, 30)
    bad = upsert("slots", "slot", "session price", [(1, 1, 0.3), (2**70, 1, 0.3)])
    lone = upsert("missing", "round inner member action", "session why", [(1, 0, "h\ud800", "held", 1, "")])
    file.write(*session_changes(file, 1), bad)
    file.write(lone)
    file.write(*session_changes(file, 2))
    assert count(path, "sessions") == 1, "a transaction is written whole or not at all"
    assert caplog.messages == ["the history does not take some rows"] * 2


def test_rows_that_wait_for_a_disk_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RETRY_S", 3600.0)
    file = HistoryFile(tmp_path / "gone" / f"h1{ENDING}", RUN, 30)
    for number in range(1, 1200):
        file.write(*session_changes(file, number))
    (tmp_path / "gone").mkdir()
    file.write(*session_changes(file, 1200))
    assert count(tmp_path / "gone" / f"h1{ENDING}", "sessions") == 50_000 // 49


def test_history_of_version_1_is_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / f"h1{ENDING}"
    with closing(sqlite3.connect(path)) as file:
        file.executescript(VERSION_1.read_text())
    before = rows(tmp_path, "h1", "slots")
    assert [(row["session"], row["slot"], row["price"], row["load_kw"]) for row in before] == [(1, 1, 0.25, 4.0)]
    file_now = HistoryFile(path, RUN, 36_000)
    file_now.write(*session_changes(file_now, 2))
    file_now.close()
    after = rows(tmp_path, "h1", "slots")
    assert after[0] == before[0]
    assert len(after) == 25
    assert [row["member"] for row in rows(tmp_path, "h1", "bills")] == ["h1", "h1"]


def test_older_history_is_brought_up_to_date_by_its_node_and_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HistoryFile(tmp_path / f"h1{ENDING}", RUN, 30).close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "ALTER TABLE sessions ADD COLUMN weather TEXT;"))
    assert rows(tmp_path, "h1", "sessions") == []
    with closing(sqlite3.connect(tmp_path / f"h1{ENDING}")) as file:
        assert schema.read_version(file) == 1, "a reader changes nothing"
    HistoryFile(tmp_path / f"h1{ENDING}", RUN, 30).close()
    with closing(sqlite3.connect(tmp_path / f"h1{ENDING}")) as file:
        assert schema.read_version(file) == len(schema.MIGRATIONS)
        assert file.execute("SELECT count(weather) FROM sessions").fetchone() == (0,)


def test_history_of_a_later_version_is_neither_read_nor_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(record, "RETRY_S", 3600.0)
    path = tmp_path / f"h1{ENDING}"
    HistoryFile(path, RUN, 30).close()
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match=r"is of version 99, this program knows \d+; install a later one"):
        History(path)
    HistoryFile(path, RUN, 30).write()
    assert caplog.messages == ["a file cannot be written, the node goes on"]


def test_history_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    config = build_node_configs(load(two_days()), "grid").leader
    named = config.model_copy(update={"history_file": tmp_path / "gone" / "leader.history.sqlite"})
    with pytest.raises(ConfigError, match=r"history_file: .*gone is no folder; make it"):
        leader_node.config.build(named)


def test_history_is_not_of_the_terms_of_a_game() -> None:
    config = build_node_configs(load(two_days()), "grid").leader
    named = config.model_copy(update={"history_file": Path("x"), "history_days": 7})
    assert named.terms() == config.terms()


# --- look at it ---


def test_screen_of_a_leader_has_what_sums_allow(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with History(grid / f"leader{ENDING}") as history:
        lines = show([history], EACH).splitlines()
    session = rows(grid, "leader", "sessions")[0]
    assert lines[0] == "leader of grid: 2 sessions, all settled and complete"
    assert lines[3].split() == ["session", "price", "kWh", "peak", "kW", "PAR", "revenue", "rounds", "kB"]
    assert f"{session['peak_kw']:.2f}" in lines[4] and f"{session['revenue']:,.2f}" in lines[4]
    assert max(map(len, lines)) <= 80


def test_many_sessions_are_shown_by_day_and_the_last_of_many_days(tmp_path: Path) -> None:
    now = [1.0e9]
    file = HistoryFile(tmp_path / f"h1{ENDING}", RUN, 400, lambda: now[0])
    for number in range(1, 51):
        now[0] += DAY_S / 2
        file.write(*session_changes(file, number))
    with History(tmp_path / f"h1{ENDING}") as history:
        lines = show([history], EACH).splitlines()
    assert "the last 20 days are shown" in lines[2]
    assert sum("72.0" in line for line in lines) >= 18  # two sessions of 24 hours at 1.5 kW
    assert lines[-1].split()[:3] == ["all", "0.30", "1,800.0"]


def test_period_takes_sessions_by_the_day_on_which_they_begin(grid: Path) -> None:
    first, second = date(2026, 3, 28), date(2026, 3, 29)
    for period, numbers in (
        (Period(until=first), {1}),
        (Period(since=second), {2}),
        (Period(first, second), {1, 2}),
        (Period(since=date(2026, 3, 30)), set()),
    ):
        for table in ("sessions", "slots", "members", "bills", "rounds"):
            assert {row["session"] for row in rows(grid, "leader", table, period)} == numbers


def test_commands_write_the_same_tables(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["stackelgrid", "history", *words])
        assert cli.main() == 0
        return capsys.readouterr().out

    call(str(grid), "--csv", str(tmp_path / "all"), "--parquet", str(tmp_path / "all"))
    with (tmp_path / "all" / "slots.csv").open() as file:
        written = list(csv.DictReader(file))
    assert {row["node"] for row in written} == {"leader", "a1", "a2", *(f"h{n}" for n in range(1, 6))}
    stored = pq.read_table(tmp_path / "all" / "slots.parquet").to_pylist()
    assert [float(row["load_kw"]) for row in written] == [row["load_kw"] for row in stored]
    assert json.loads(call(str(grid), "--json"))[0]["start"] == "2026-03-28T00:00:00+01:00"
    assert call(str(grid), "--table", "bills").startswith("run,node,session,start,member,energy_kwh,bill,")
    assert call(str(grid)).startswith("leader of grid: 2 sessions")
    one = str(grid / f"h1{ENDING}")
    assert emc_history.main([one, "--csv", str(tmp_path / "own")]) == 0
    own = (tmp_path / "own" / "slots.csv").read_text().splitlines()[1:]
    assert own == [line for line in (tmp_path / "all" / "slots.csv").read_text().splitlines() if ",h1," in line]
    capsys.readouterr()
    assert emc_history.main([one]) == 0
    assert capsys.readouterr().out.startswith("home h1 of grid: 2 sessions, all settled")


def test_history_of_a_home_wants_nothing_of_the_desk(grid: Path, tmp_path: Path) -> None:
    heavy = ("cvxpy", "matplotlib", "pandas", "pyarrow", "rich", "ruamel", "scipy", "sqlalchemy", "typer")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({heavy}))
from emc_node.__main__ import main
sys.exit(main(["history", *sys.argv[1:]]))
"""
    words = [str(grid / f"h1{ENDING}"), "--csv", str(tmp_path)]
    shown = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[0] == str(tmp_path / "sessions.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: No such file or directory; name the history_file of a node"),
        (["."], r".: no \*.history.sqlite is in this folder"),
        (["notes"], r"notes: cannot be read as a history \(file is not a database\)"),
        (["empty"], "empty: is no history; name the history_file of a node"),
        (["--since", "yesterday"], "--since yesterday: is no day; write it as 2026-03-28"),
        (["own", "--table", "homes"], "--table homes: there is no such table; choose one of sessions, slots"),
    ],
)
def test_what_is_no_history_is_refused_in_a_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("notes\n" * 300)
    (tmp_path / "empty").touch()
    HistoryFile(tmp_path / "own", RUN, 30).close()
    assert emc_history.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"emc-node history: {message}", line)


def test_documented_tables_and_columns_are_those_that_there_are(grid: Path) -> None:
    tables, columns = DOC.read_text(encoding="utf-8").split("## Tables")[1].split("## Columns")
    every = set(re.findall(r"^[|] `(\w+)` [|]", tables, re.MULTILINE))
    assert every == TABLES.keys()
    documented = set()
    for names, where in re.findall(r"^[|] (`.*?) [|] (.*?) [|]", columns, re.MULTILINE):
        listed = every if where == "all" else set(re.findall(r"`(\w+)`", where))
        documented |= {(column, table) for column in re.findall(r"`(\w+)`", names) for table in listed}
    with History(grid / f"h1{ENDING}") as history:
        assert documented == {(column, table) for table in TABLES for column in history.tabulate(table, EACH)}


def test_sessions_without_a_calendar_are_stored_too(tmp_path: Path) -> None:
    folder = play(load("load_call"), tmp_path)
    assert list_sessions(None, 24)[0].start is None
    (session,) = rows(folder, "leader", "sessions")
    assert (session["start"], session["settled"]) == (None, True)
    assert rows(folder, "leader", "slots") == []
    assert len(rows(folder, "leader", "rounds")) == session["rounds"] > 0


def test_session_without_a_mean_load_has_no_ratio_and_counts_in_that_of_all(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path / f"a1{ENDING}", RUN, 400)
    fed_in = [(slot, 2, 0.3, -1.0 + 0.5 * (slot == 30)) for slot in range(25, 49)]
    changes = [*session_changes(file, 1), *session_changes(file, 2)]
    file.write(*changes, upsert("slots", "slot", "session price load_kw", fed_in))
    with History(tmp_path / f"a1{ENDING}") as history:
        sessions = to_rows(history.tabulate("sessions", EACH))
    assert [row["par"] for row in sessions] == [1.0, None]
    assert _sum(sessions)["par"] == pytest.approx(1.5 * 48 / (24 * 1.5 - 23 - 0.5))
    assert _sum(sessions[1:])["par"] is None
