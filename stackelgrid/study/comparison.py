"""A comparison of a leader's algorithms: one scenario, played in memory by each. Its folder holds

scenario.yaml     the scenario as run, but for the algorithm
ALGORITHM/        the folder of each run
comparison.json   how each ended and how it came there, round by round
table.csv, figure.png, figure.svg
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stackelgrid import runner
from stackelgrid.columns import encode_csv
from stackelgrid.errors import ConfigError
from stackelgrid.node.record import write_whole
from stackelgrid.registry import UnknownAlgorithmError, find, find_algorithm
from stackelgrid.report.words import volume
from stackelgrid.run_result import RunResult
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import in_memory, run_folder
from stackelgrid.text_file import replace_file

COSTS = ("rounds", "questions", "messages", "bytes", "seconds")
"""What convergence is drawn against."""
COLUMNS = ("algorithm", "settled", *COSTS, "distance", "loss")
"""Columns of the table."""
_WORTH = {"stackelberg": "leader_utility", "welfare": "system_utility"}
"""The number of an outcome that each objective maximises."""
_VIOLATION = 1e-6
"""A load that is beyond capacity by so much of its peak does not keep it."""

Row = dict[str, Any]


@dataclass
class Played:
    """A run by an algorithm: its result, the leader's journal, and the seconds after which each round was finished."""

    algorithm: str
    result: RunResult[Any]
    rounds: list[dict[str, Any]]
    seconds: list[float] = field(default_factory=list)

    @property
    def outcome(self) -> Any:
        """The outcome by the game's own model."""
        return self.result.outcome


class Comparison:
    """The runs of one scenario by several algorithms, measured against the best price that one of them settled.

    Of an objective the best price is the one that is worth most to it, among those whose load keeps the capacity, if
    there are any. `failures` say why an algorithm failed, by its name; if it had finished a round, it has a run too.
    """

    def __init__(self, scenario: Any, runs: Sequence[Played], failures: Mapping[str, str]) -> None:
        self.scenario, self.runs, self.failures = scenario, runs, failures
        self.objective: str = scenario.leader.objective
        self.best = max(runs, key=lambda run: (self._keeps_capacity(run), self._worth(run)))

    @property
    def table(self) -> list[Row]:
        """A row per algorithm.

        `distance` is that of the settled price from the best, relative to its largest; `loss` what the settled price is
        worth less than the best one to the objective, relative to that.
        """
        return [
            {
                "algorithm": run.algorithm,
                "settled": run.result.settled,
                **{name: getattr(run.result, name) for name in COSTS[:-1]},
                "seconds": round(run.seconds[-1], 3),
                "distance": self._distance(run.outcome.price),
                "loss": self._loss(self._worth(run), self._worth(self.best)),
            }
            for run in self.runs
        ]

    def trace(self, run: Played) -> list[Row]:
        """List the rounds of a run: what they have taken together, and how far the round's price is from the best.

        `loss` is that of the leader's utility; None for `welfare`, whose worth no leader knows.
        """
        traffic = {each.round: each for each in run.result.traffic}
        total, rows = dict.fromkeys(COSTS[1:-1], 0), []
        for record, seconds in zip(run.rounds, run.seconds, strict=True):
            for name in total:
                total[name] += getattr(traffic[record["round"]], name)
            is_leaders = self.objective == "stackelberg"
            loss = self._loss(record["leader_utility"], self._worth(self.best)) if is_leaders else None
            costs = {"rounds": record["round"], **total, "seconds": round(seconds, 3)}
            rows.append({**costs, "distance": self._distance(record["price"]), "loss": loss})
        return rows

    def content(self) -> dict[str, Any]:
        """Give what comparison.json holds."""
        titles = {run.algorithm: find_algorithm(self.scenario.game, run.algorithm).title for run in self.runs}
        rows = zip(self.table, self.runs, strict=True)
        return {
            "schema": 1,
            "game": self.scenario.game,
            "scenario": self.scenario.title,
            "seed": self.scenario.seed,
            "objective": self.objective,
            "best": {"algorithm": self.best.algorithm, "price": self.best.outcome.price},
            "failures": self.failures,
            "algorithms": [{**row, "title": titles[run.algorithm], "trace": self.trace(run)} for row, run in rows],
        }

    def _worth(self, run: Played) -> float:
        return float(getattr(run.result.outcome, _WORTH[self.objective]))

    def _keeps_capacity(self, run: Played) -> bool:
        load, capacity = np.array(run.outcome.load_kw), self.scenario.leader.capacity
        allowed = _VIOLATION * float(np.max(np.abs(load)))
        most = np.inf if capacity.max_kw is None else capacity.max_kw
        return bool(np.all(load <= most + allowed) and np.all(load >= capacity.min_kw - allowed))

    def _distance(self, price: Sequence[float]) -> float:
        best = np.array(self.best.outcome.price)
        return float(np.max(np.abs(np.array(price) - best)) / np.max(np.abs(best)))

    def _loss(self, worth: float, best: float) -> float:
        return (best - worth) / max(abs(best), 1.0)


def compare(
    source: str,
    algorithms: Sequence[str],
    overrides: Sequence[str],
    seed: int | None,
    out: Path | None,
    on_round: Callable[[str, Mapping[str, Any]], None] = lambda algorithm, record: None,
) -> tuple[Comparison, Path]:
    """Play a scenario by each of the algorithms and write the folder of the comparison, `out` or a new one under runs/.

    `on_round` is called with the algorithm and each finished round. An algorithm that fails does not keep the others
    from playing. Raises `ConfigError` before anything is played for an algorithm that there is not, a game that has
    none, and a scenario that is refused, and in the end if no algorithm finished a round.
    """
    scenario = load(source, list(overrides), seed)
    if find(scenario.game).algorithms is None:
        raise ConfigError(f"{source}: the game {scenario.game} has no algorithms to choose from; name another scenario")
    if len(set(algorithms)) < max(len(algorithms), 1):
        raise ConfigError(f"--algorithms {','.join(algorithms)}: name each once")
    scenarios, failures = dict[str, Scenario](), dict[str, str]()
    for algorithm in algorithms:
        with _note_failure(algorithm, failures):
            try:
                find_algorithm(scenario.game, algorithm)
            except UnknownAlgorithmError as error:
                raise ConfigError(f"--algorithms {','.join(algorithms)}: {error}") from None
            scenarios[algorithm] = load(source, [*overrides, f"leader.algorithm={json.dumps(algorithm)}"], seed)
    name = f"{Path(source).stem[:100]}-algorithms"
    folder = run_folder.create_under_runs(name) if out is None else run_folder.create(out)
    run_folder.write_scenario(folder, scenario)
    runs: list[Played] = []
    for algorithm, chosen in scenarios.items():
        with _note_failure(algorithm, failures):
            run = _play(algorithm, chosen, folder, on_round)
            for node, why in run.result.failures.items():
                failures.setdefault(algorithm, f"{node} ended: {why}")
            if run.result.outcome is None:
                failures.setdefault(algorithm, "no round was finished")
            else:
                runs.append(run)
    if not runs:
        raise ConfigError(f"{source}: by {', by '.join(': '.join(each) for each in failures.items())}")
    comparison = Comparison(scenario, runs, failures)
    write_whole(folder / "comparison.json", comparison.content())
    _write_table(folder / "table.csv", comparison.table)
    return comparison, folder


@contextmanager
def _note_failure(algorithm: str, failures: dict[str, str]) -> Iterator[None]:
    """Note what an algorithm raises, of another package perhaps, instead of passing it on."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        failures[algorithm] = in_memory.describe(error)


def _play(
    algorithm: str, scenario: Scenario, folder: Path, on_round: Callable[[str, Mapping[str, Any]], None]
) -> Played:
    began, seconds = time.perf_counter(), list[float]()

    def note(record: Mapping[str, Any]) -> None:
        seconds.append(time.perf_counter() - began)
        on_round(algorithm, record)

    ended = runner.run(scenario, out=folder / algorithm, on_round=note)
    if ended.interrupted:
        raise KeyboardInterrupt
    return Played(algorithm, ended.result, ended.journal, seconds)


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    replace_file(path, encode_csv({name: [row[name] for row in rows] for name in COLUMNS}))


def spell(rows: Sequence[Row]) -> list[list[str]]:
    """Write the table for people, a list of words per row, its heading first."""
    heading = ["algorithm", "settled", *COSTS, "distance", "loss"]
    words = [
        [
            row["algorithm"],
            "yes" if row["settled"] else "no",
            *(f"{row[name]:,}" for name in COSTS[:-2]),
            volume(row["bytes"]),
            f"{row['seconds']:.2f}",
            f"{row['distance']:.1e}",
            f"{row['loss']:.1e}",
        ]
        for row in rows
    ]
    return [heading, *words]
