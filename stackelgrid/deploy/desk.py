"""The desk of a deployed run: folders to which nodes write after `stackelgrid provision --desk`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stackelgrid.deploy.provision import AGGREGATORS, HOMES, LEADERS
from stackelgrid.node.record import GrowingLines, has_last_record, read_conclusion, read_records, read_whole_lines
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios import Scenario
from stackelgrid.scenarios.topology import LEADER


class Desk:
    """What the nodes of `run` have written below `folder`."""

    def __init__(self, folder: Path, run: str, scenario: Scenario) -> None:
        self._folder, self._run = folder, run
        self._sessions, self._is_grid = len(scenario.sessions), scenario.gates is not None
        self._schedules = [self._file(HOMES, f"{name}.schedule.json") for name in scenario.topology.aggregator_of]
        self._journals: dict[Path, GrowingLines] = {}

    @property
    def conclusion_file(self) -> Path:
        """The file with which the leader ends the run."""
        return self._file(LEADERS, f"{LEADER}.conclusion.json")

    def find_conclusion(self) -> dict[str, Any] | None:
        """Find how the run has ended, None as long as it has not."""
        if self._is_grid and not has_last_record(self.conclusion_file, self._sessions):
            return None
        conclusion = read_conclusion(self.conclusion_file, of_grid=self._is_grid)
        return conclusion if conclusion and len(conclusion.get("sessions", [{}])) == self._sessions else None

    def has_all_schedules(self) -> bool:
        """Tell whether every home has written its last schedule."""
        return all(has_last_record(path, self._sessions) for path in self._schedules)

    def read_rounds(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give the rounds that were written since the last time, each with its coordinator, the leader's last."""
        leader = self._file(LEADERS, "rounds.jsonl")
        for path in (*self._list_files(AGGREGATORS, ".rounds.jsonl"), leader):
            for line in self._journals.setdefault(path, GrowingLines(path)).read():
                yield LEADER if path == leader else _node_of(path), json.loads(line)

    def gather(self, run_record: RunRecord) -> set[str]:
        """Add to a record all that was written; give the nodes that have written something."""
        run_record.rounds = read_whole_lines(self._file(LEADERS, "rounds.jsonl"))
        run_record.conclusion = self.find_conclusion() or {}
        for path in self._list_files(AGGREGATORS, ".rounds.jsonl"):
            run_record.aggregator_rounds += [{"aggregator": _node_of(path), **each} for each in read_whole_lines(path)]
        reported = set()
        for path in self._list_files(AGGREGATORS, ".account.json"):
            for account in read_records(path, self._sessions):
                run_record.add_account(_node_of(path), account)
            reported.add(_node_of(path))
        for path in self._list_files(HOMES, ".schedule.json"):
            for settled in read_records(path, self._sessions):
                run_record.add_schedules(settled)
            reported.add(_node_of(path))
        return reported

    def _file(self, folder: str, name: str) -> Path:
        return self._folder / folder / self._run / name

    def _list_files(self, folder: str, ending: str) -> list[Path]:
        return sorted((self._folder / folder / self._run).glob(f"*{ending}"))


def _node_of(path: Path) -> str:
    return path.name.split(".", 1)[0]
