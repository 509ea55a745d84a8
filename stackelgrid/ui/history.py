"""The events of a run that wrote none, from what its folder has: rounds, who missed them, how it ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from stackelgrid.errors import ConfigError
from stackelgrid.node.record import read_whole_lines
from stackelgrid.report.run_folder import read_result
from stackelgrid.scenarios import load
from stackelgrid.ui.events import Event
from stackelgrid.ui.words import MISSING, describe_missing, describe_nodes, describe_round, describe_tree


def recall(folder: Path) -> Iterator[Event]:
    """Give the events of a run but its end. Raises `ConfigError` for a folder that cannot be read."""
    tree = describe_tree(load(str(folder / "scenario.yaml")))
    yield {"seconds": 0.0, **tree}
    names = [node["name"] for node in tree["nodes"]]
    yield {"seconds": 0.0, **describe_nodes("online", names)}
    try:
        yield from _recall_rounds(folder, names)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{folder / 'rounds.jsonl'}: not the rounds of a run of this version ({error}); run it again"
        raise ConfigError(message) from None


def _recall_rounds(folder: Path, names: list[str]) -> Iterator[Event]:
    missing = _find_missing_homes(folder)
    seconds = 0.0
    for record in read_whole_lines(folder / "rounds.jsonl"):
        yield {"seconds": round(seconds, 3), **describe_nodes("asked", names[1:])}
        seconds += record["ms"] / 1000
        absent = _leave_out(missing[record["round"]], _list_missing(record))
        away = {*_list_missing(record), *_list_missing(absent)}
        answered = [name for name in names[1:] if name not in away]
        events = [describe_nodes("answered", answered), *describe_round(record)]
        for event in (*events, *describe_missing(absent)):
            yield {"seconds": round(seconds, 3), **event}


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
