"""The events of a run that writes none, from what its folder has: rounds, who missed them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from stackelgrid.errors import ConfigError
from stackelgrid.node.record import GrowingLines
from stackelgrid.report.run_folder import read_result
from stackelgrid.scenarios import load
from stackelgrid.ui.events import LEAST_ROUND_S, Event
from stackelgrid.ui.words import MISSING, describe_missing, describe_nodes, describe_round, describe_tree


class RecalledEvents:
    """Reads the rounds of a run's folder, as they are written, and gives events for them, as lines of JSON."""

    ended = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rounds = GrowingLines(folder / "rounds.jsonl")
        self._names: list[str] = []
        self._answered: list[str] = []
        self._missing: defaultdict[int, Event]
        self._seconds = 0.0

    def read(self) -> Iterator[str]:
        """Give the events since the last time. Raises `ConfigError` for a folder that cannot be read."""
        try:
            for event in self._tell():
                yield json.dumps({"seconds": round(self._seconds, 3), **event})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            message = (
                f"{self._folder / 'rounds.jsonl'}: not the rounds of a run of this version ({error}); run it again"
            )
            raise ConfigError(message) from None

    def settle(self) -> Event:
        """Give the event of a run that has settled: the leader and who has answered its last round."""
        return describe_nodes("settled", [*self._names[:1], *self._answered])

    def _tell(self) -> Iterator[Event]:
        if not self._names:
            tree = describe_tree(load(str(self._folder / "scenario.yaml")))
            self._names = [node["name"] for node in tree["nodes"]]
            yield tree
            yield describe_nodes("online", self._names)
            self._missing = _find_missing_homes(self._folder)
        for line in self._rounds.read():
            yield from self._tell_round(json.loads(line))

    def _tell_round(self, record: Event) -> Iterator[Event]:
        members = self._names[1:]
        yield describe_nodes("asked", members)
        self._seconds += max(record["ms"] / 1000, LEAST_ROUND_S)
        absent = _leave_out(self._missing[record["round"]], _list_missing(record))
        away = {*_list_missing(record), *_list_missing(absent)}
        self._answered = [name for name in members if name not in away]
        yield describe_nodes("answered", self._answered)
        yield from describe_round(record)
        yield from describe_missing(absent)


def _leave_out(record: Event, names: list[str]) -> Event:
    """Leave out of a record of missing members those in `names`."""
    kept = {action: [name for name in record.get(action, []) if name not in names] for action in MISSING}
    return {**record, **kept}


def _list_missing(record: Event) -> list[str]:
    return [name for action in MISSING for name in record.get(action, [])]


def _find_missing_homes(folder: Path) -> defaultdict[int, Event]:
    """Find the members of aggregators that missed a round, as a journal has them, by round."""
    found: defaultdict[int, Event] = defaultdict(dict)
    if not (folder / "result.json").is_file():
        return found
    for each in read_result(folder / "result.json").missing:
        record = found[each.round]
        record["round"] = each.round
        record.setdefault(each.action, []).append(each.node)
        record.setdefault("why", {})[each.node] = each.why
    return found
