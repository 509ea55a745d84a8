"""A coordinator that was killed goes on from its ledger, and the members do not notice."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

import aggregator_node.config
import emc_node.config
import leader_node.config
from emc_node.device_settings import DeviceSettings
from emc_node.devices import HomeDevices, Level
from emc_node.node import EmcNode
from stackelgrid.errors import ConfigError
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.games.storage_market.messages import Tariff, Turn
from stackelgrid.node.ledger import SqliteLedger
from stackelgrid.node.record import JsonLines
from stackelgrid.registry import find, list_games
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.node_configs import NodeConfigs, build_node_configs
from stackelgrid.transport.base import Compute, Publish
from stackelgrid.transport.memory import MemoryTransport
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Signal

TERMS: dict[str, Any] = {
    "run": "run-1",
    "name": "leader",
    "scenario": "0" * 16,
    "utility": {"price": [8.0, 9.0], "mu": 0.3},
}
Ledgers = dict[str, list[dict[str, Any]]]
SMALL = {"user_oriented": ["population.homes=6", "aggregators=2"]}
# Homes are created anew here, without what a home of storage_market saves of its schedule.
GAMES = [game for game in list_games() if game != "storage_market"]


@functools.cache
def scenario(game: str) -> tuple[Scenario, NodeConfigs]:
    chosen = load(game, SMALL.get(game))
    return chosen, build_node_configs(chosen, "memory")


def play(
    game: str, ledgers: Ledgers, transport: MemoryTransport | None = None, *, homes: bool = True
) -> dict[str, Any]:
    """Play with what the coordinators remember; `ledgers` is what they remember in the end."""
    _, configs = scenario(game)
    found: dict[str, Any] = {"rounds": [], "inner": {}, "homes": {}, "conclusion": {}}
    nodes: list[Any] = [
        leader_node.config.assemble(
            configs.leader, found["rounds"].append, found["conclusion"].update, ledgers.setdefault("leader", [])
        ),
        *(
            aggregator_node.config.assemble(
                config,
                found["inner"].setdefault(config.name, []).append,
                lambda record: None,
                ledgers.setdefault(config.name, []),
            )
            for config in configs.aggregators
        ),
        *(emc_node.config.assemble(config, found["homes"].update) for config in configs.homes if homes),
    ]
    (transport or MemoryTransport(1)).run(nodes)
    return found


def through_json(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As they come back from a file."""
    return json.loads(json.dumps(entries))


@functools.cache
def play_whole(game: str) -> tuple[str, str]:
    ledgers: Ledgers = {}
    found = play(game, ledgers)
    return json.dumps(found), json.dumps(ledgers)


def numbers(found: dict[str, Any]) -> Any:
    """A run's journal without how long things took, and what was sent again for it."""
    timing = ("ms", "again", "messages", "bytes")
    return [{key: value for key, value in record.items() if key not in timing} for record in found["rounds"]]


@pytest.mark.parametrize("game", GAMES)
def test_leader_resumes_after_any_round(game: str) -> None:
    whole, remembered = (json.loads(text) for text in play_whole(game))
    for known in range(1, len(remembered["leader"]) + 1):
        ledgers: Ledgers = {
            name: through_json([entry for entry in entries if entry.get("round", entry.get("number")) <= known])
            for name, entries in remembered.items()
        }
        found = play(game, ledgers)
        assert numbers(found) == numbers(whole)[known:]
        assert [entry["number"] for entry in ledgers["leader"]] == list(range(1, len(whole["rounds"]) + 1))
        assert found["homes"] == whole["homes"]
        assert found["conclusion"] == whole["conclusion"]


@pytest.mark.parametrize("game", GAMES)
def test_aggregator_resumes_within_its_inner_game(game: str) -> None:
    whole, remembered = (json.loads(text) for text in play_whole(game))
    entries = remembered["a1"]
    for known in range(1, len(entries) + 1):
        current = entries[known - 1]["round"]
        leader = [entry for entry in remembered["leader"] if entry["number"] < current]
        ledgers: Ledgers = {"leader": through_json(leader), "a1": through_json(entries[:known])}
        found = play(game, ledgers)
        assert numbers(found) == numbers(whole)[current - 1 :]
        assert found["homes"] == whole["homes"]
        assert ledgers["a1"] == entries  # nothing was asked twice
        finished = sum("number" in entry for entry in entries[:known])
        assert [each["inner"] for each in found["inner"]["a1"]] == [
            each["inner"] for each in whole["inner"]["a1"][finished:]
        ]


def test_coordinators_that_start_after_the_run_is_over_end_without_a_wait() -> None:
    """They find the settlement retained; the homes have left, and the aggregators leave again."""
    chosen, _ = scenario("user_oriented")
    broker, ledgers = MemoryTransport(1, horizon_s=chosen.rounds.gather_s), Ledgers()
    play("user_oriented", ledgers, broker)
    again = play("user_oriented", ledgers, broker, homes=False)
    assert again["conclusion"]["settled"] and again["rounds"] == []


def test_ledger_on_disk_returns_its_entries(tmp_path: Path) -> None:
    remembered = json.loads(play_whole("user_oriented")[1])["leader"]
    ledger = SqliteLedger(tmp_path / "leader.ledger", TERMS)
    for entry in remembered:
        ledger.append(entry)
    assert list(SqliteLedger(tmp_path / "leader.ledger", TERMS)) == remembered
    assert (tmp_path / "leader.ledger").stat().st_mode & 0o777 == 0o600


def test_ledger_is_refused_when_it_is_of_another_run(tmp_path: Path) -> None:
    SqliteLedger(tmp_path / "leader.ledger", TERMS)
    with pytest.raises(ConfigError, match='run was "run-1" and is "run-2"; give the new run another name, or move'):
        SqliteLedger(tmp_path / "leader.ledger", TERMS | {"run": "run-2"})


def test_ledger_is_refused_when_it_was_begun_with_other_settings(tmp_path: Path) -> None:
    SqliteLedger(tmp_path / "leader.ledger", TERMS)
    utility = {"price": [8.0, 9.5], "mu": 0.4}
    with pytest.raises(ConfigError, match=r"utility\.price\.1 was 9\.0 and is 9\.5, and 1 more values have changed"):
        SqliteLedger(tmp_path / "leader.ledger", TERMS | {"utility": utility, "scenario": "1" * 16})
    with pytest.raises(ConfigError, match="settings of other nodes have changed"):
        SqliteLedger(tmp_path / "leader.ledger", TERMS | {"scenario": "1" * 16})
    SqliteLedger(tmp_path / "leader.ledger", TERMS)


def test_ledger_is_refused_when_the_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "leader.ledger").write_text("price,load\n" * 100)
    with pytest.raises(ConfigError, match=r"cannot be used as a ledger \(file is not a database\); move it away"):
        SqliteLedger(tmp_path / "leader.ledger", TERMS)


def test_journal_resumes_after_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    JsonLines(path)({"round": 1})
    with path.open("a") as file:
        file.write('{"round": 2, "pri')  # cut off by the kill
    journal = JsonLines(path, [{"round": 1}, {"round": 2}])
    journal({"round": 3})
    assert path.read_text() == '{"round": 1}\n{"round": 2}\n{"round": 3}\n'
    with pytest.raises(FileExistsError):
        JsonLines(path)


@pytest.mark.parametrize("number", [2, 4, 9])
def test_home_keeps_its_schedule_over_a_restart(number: int) -> None:
    market = load("storage_market")
    whole = in_memory.play(market)
    home = market.everyone[0].id
    crash = {"kind": "crash", "node": home, "at": {"round": number}, "restart_after_s": 1}
    run_record = in_memory.play(market, plan=FaultPlan.model_validate({"faults": [crash]}))
    assert [fault.kind for fault in run_record.faults][:2] == ["crash", "restart"]
    assert run_record.homes == whole.homes
    assert market.outcome(run_record) == market.outcome(whole)


@pytest.mark.parametrize("devices", [None, {"meter": {"state_of_charge": "battery/soc"}}])
def test_home_saves_its_schedule_for_the_next_process(
    devices: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = load("storage_market")
    known = next(
        config
        for config in build_node_configs(scenario, "run-1", "mqtt://grid:1883").homes
        if config.homes[0].battery is not None and len(config.homes[0].appliances) > 1
    )
    settings = None if devices is None else DeviceSettings.model_validate(devices)
    config = known.model_copy(update={"ledger_file": tmp_path / "ledger.json", "devices": settings})
    monkeypatch.setattr(HomeDevices, "find_level", lambda self, session: Level(0.25, retained=False))
    monkeypatch.setattr(emc_node.config, "serve", lambda devices, settings: None)
    link = Link("run-1", config.aggregator, find("storage_market").bodies("lower"), config.slots)

    def ask(node: EmcNode, number: int, *, step: float = 0.0) -> bytes:
        price = [50.0 + (7 * hour + 5 * min(number, 2)) % 24 for hour in range(config.slots)]
        tariff = Tariff(price=price, turn=Turn(step=step, starts=step > 0, weight=5.0, groups=1, turn=0, inertia=0.0))
        signal = Signal[Tariff](
            run="run-1", sender=config.aggregator, fingerprint=config.fingerprint, round=number, body=tariff
        )
        (action,) = node.receive(link.topic(signal), link.write(signal), 0.0)
        if isinstance(action, Compute):
            (action,) = action.then(action.job(), 0.0)
        assert isinstance(action, Publish)
        return action.payload

    whole = emc_node.config.build(config)
    first, second, third = ask(whole, 1), ask(whole, 2), ask(whole, 3, step=0.5)
    (tmp_path / "ledger.json").unlink()
    assert ask(emc_node.config.build(config), 1) == first
    assert ask(emc_node.config.build(config), 1) == first, "asked again, it repeats its answer"
    assert ask(emc_node.config.build(config), 2) == second
    assert ask(emc_node.config.build(config), 3, step=0.5) == third
    other = config.model_copy(update={"run": "run-2", "scenario": "1" * 16})
    assert emc_node.config.build(other)._member._round == 0, "of another run it takes nothing"
