"""Many seeds played and counted: in processes side by side, as each run needs a core and nothing else."""

from __future__ import annotations

import logging
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import get_context
from statistics import median

from stackelgrid.soak.cases import GAMES, draw
from stackelgrid.soak.promises import broken
from stackelgrid.soak.stage import play

_BATCH = 10
"""Seeds that a process is given at a time."""
_ENDINGS = ("settled", "incomplete", "lost", "unsettled")


@dataclass(frozen=True)
class Verdict:
    """How the run of a seed ended: one of settled, incomplete, lost or unsettled; `broken` says what should not be."""

    seed: int
    game: str
    ending: str
    rounds: int
    broken: tuple[str, ...]


def judge(seed: int) -> Verdict:
    """Play the case of a seed and hold it against the promises. What the harness itself raises counts as broken."""
    case = draw(seed)
    try:
        evidence = play(case)
        conclusion = evidence.run_record.conclusion
        ending = "lost" if evidence.run_record.lost else "unsettled"
        if conclusion.get("settled"):
            ending = "settled" if conclusion["complete"] else "incomplete"
        return Verdict(seed, case.scenario.game, ending, len(evidence.run_record.rounds), tuple(broken(evidence)))
    except Exception:
        return Verdict(seed, case.scenario.game, "lost", 0, (traceback.format_exc(),))


@dataclass
class Tally:
    """Verdicts so far, by game."""

    began: float = field(default_factory=time.monotonic)
    by_game: dict[str, list[Verdict]] = field(default_factory=lambda: defaultdict(list))

    def add(self, verdict: Verdict) -> None:
        """Count one more."""
        self.by_game[verdict.game].append(verdict)

    @property
    def runs(self) -> int:
        """How many there are."""
        return sum(len(verdicts) for verdicts in self.by_game.values())

    @property
    def broken(self) -> list[Verdict]:
        """Those of runs in which a promise was broken."""
        return [verdict for verdicts in self.by_game.values() for verdict in verdicts if verdict.broken]

    def line(self) -> str:
        """One line for a log."""
        seconds = time.monotonic() - self.began
        return f"{seconds:5.0f} s: {self.runs} runs, {self.runs / seconds:.1f} a second, {len(self.broken)} broken"

    def table(self) -> str:
        """By game: how many runs, how they ended, the median of their rounds."""
        lines = [f"{'game':15}{'runs':>8}" + "".join(f"{ending:>12}" for ending in _ENDINGS) + f"{'rounds':>8}"]
        for game in GAMES:
            verdicts = self.by_game[game]
            endings = [verdict.ending for verdict in verdicts]
            counts = "".join(f"{endings.count(ending):12}" for ending in _ENDINGS)
            rounds = median([verdict.rounds for verdict in verdicts] or [0])
            lines.append(f"{game:15}{len(verdicts):8}{counts}{rounds:8g}")
        return "\n".join(lines)


def soak(
    first: int, runs: int | None, seconds: float | None, jobs: int, tell: Callable[[Tally, list[Verdict]], None]
) -> Tally:
    """Play seeds from `first` on: `runs` of them, or for so many `seconds`, whichever comes first.

    `tell` gets the tally after each batch, and the verdicts that are new.
    """
    tally = Tally()
    last = None if runs is None else first + runs
    seeds = count(first, _BATCH)
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_quietly) as pool:
        under_way: set[Future[list[Verdict]]] = set()
        start = next(seeds)
        while True:
            more = last is None or start < last
            in_time = seconds is None or time.monotonic() < tally.began + seconds
            if more and in_time and len(under_way) < 2 * jobs:
                end = start + _BATCH if last is None else min(start + _BATCH, last)
                under_way.add(pool.submit(_judge_all, range(start, end)))
                start = next(seeds)
                continue
            if not under_way:
                return tally
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for verdicts in (future.result() for future in done):
                for verdict in verdicts:
                    tally.add(verdict)
                tell(tally, verdicts)


def _judge_all(seeds: range) -> list[Verdict]:
    return [judge(seed) for seed in seeds]


def _quietly() -> None:
    """Nodes that complain of what a plan does to them have nothing new to say."""
    logging.disable(logging.CRITICAL)
