"""Many seeds played and counted, in processes side by side: each run needs a core and nothing else."""

from __future__ import annotations

import logging
import os
import signal
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import get_context
from statistics import median

from stackelgrid.interrupts import allow_interrupts, defer_interrupts, ignore_signals
from stackelgrid.parent_process import end_with_parent
from stackelgrid.soak.cases import draw_case, games
from stackelgrid.soak.marks import find_marks, list_marks
from stackelgrid.soak.play import play
from stackelgrid.soak.promises import find_violations

_BATCH = 10
"""Seeds that a process is given at a time."""
_ENDINGS = ("settled", "incomplete", "lost", "unsettled")


@dataclass(frozen=True)
class Verdict:
    """The ending of a seed's run, one of settled, incomplete, lost or unsettled, its violations and its marks."""

    seed: int
    game: str
    ending: str
    rounds: int
    violations: tuple[str, ...]
    marks: frozenset[str] = frozenset()


def judge(seed: int) -> Verdict:
    """Play the case of a seed and check the promises. An exception of the harness itself counts as a violation."""
    case = draw_case(seed)
    try:
        evidence = play(case)
        conclusion = evidence.run_record.conclusion
        ending = "lost" if evidence.run_record.lost else "unsettled"
        if conclusion.get("settled"):
            ending = "settled" if conclusion["complete"] else "incomplete"
        violations, marks = tuple(find_violations(evidence)), frozenset(find_marks(evidence))
        return Verdict(seed, case.scenario.game, ending, len(evidence.run_record.rounds), violations, marks)
    except Exception:
        return Verdict(seed, case.scenario.game, "lost", 0, (traceback.format_exc(),))


@dataclass
class Tally:
    """The verdicts so far, by game."""

    began: float = field(default_factory=time.monotonic)
    by_game: dict[str, list[Verdict]] = field(default_factory=lambda: defaultdict(list))

    def add(self, verdict: Verdict) -> None:
        """Add a verdict."""
        self.by_game[verdict.game].append(verdict)

    @property
    def runs(self) -> int:
        """The number of verdicts."""
        return sum(len(verdicts) for verdicts in self.by_game.values())

    @property
    def failures(self) -> list[Verdict]:
        """The verdicts with violations."""
        return [verdict for verdicts in self.by_game.values() for verdict in verdicts if verdict.violations]

    def format_line(self) -> str:
        """Give one line for a log."""
        seconds = time.monotonic() - self.began
        return f"{seconds:5.0f} s: {self.runs} runs, {self.runs / seconds:.1f} a second, {len(self.failures)} broken"

    def format_table(self) -> str:
        """Give for each game the number of runs, their endings and the median of their rounds."""
        lines = [f"{'game':15}{'runs':>8}" + "".join(f"{ending:>12}" for ending in _ENDINGS) + f"{'rounds':>8}"]
        for game in games():
            verdicts = self.by_game[game]
            endings = [verdict.ending for verdict in verdicts]
            counts = "".join(f"{endings.count(ending):12}" for ending in _ENDINGS)
            rounds = median([verdict.rounds for verdict in verdicts] or [0])
            lines.append(f"{game:15}{len(verdicts):8}{counts}{rounds:8g}")
        return "\n".join(lines)

    def format_marks(self) -> str:
        """Give for each mark how many of a thousand runs reached it; what only one run in thousands does is below 1."""
        reached = Counter(mark for verdicts in self.by_game.values() for each in verdicts for mark in each.marks)
        return "\n".join(f"{mark:40}{1000 * reached[mark] / max(self.runs, 1):8.1f}" for mark in list_marks())


def soak(
    first: int, runs: int | None, seconds: float | None, jobs: int, on_batch: Callable[[Tally, list[Verdict]], None]
) -> Tally:
    """Play seeds from `first` on: `runs` of them, or for so many `seconds`, whichever comes first.

    `on_batch` gets the tally after each batch, and the verdicts that are new. On an interrupt, what has not begun is
    given up.
    """
    tally = Tally()
    last = None if runs is None else first + runs
    seeds = count(first, _BATCH)
    with defer_interrupts(), ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_silence) as pool:
        pending: set[Future[list[Verdict]]] = set()
        start = next(seeds)
        while True:
            more = last is None or start < last
            in_time = seconds is None or time.monotonic() < tally.began + seconds
            if more and in_time and len(pending) < 2 * jobs:
                end = start + _BATCH if last is None else min(start + _BATCH, last)
                pending.add(pool.submit(_judge_all, range(start, end)))
                start = next(seeds)
                continue
            if not pending:
                return tally
            try:
                with allow_interrupts():
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                raise
            for verdicts in (future.result() for future in done):
                for verdict in verdicts:
                    tally.add(verdict)
                on_batch(tally, verdicts)


def _judge_all(seeds: range) -> list[Verdict]:
    return [judge(seed) for seed in seeds]


def _silence() -> None:
    """Disable the log: nodes warn of what a plan does to them. Leave Ctrl-C to the process that counts; end with it."""
    logging.disable(logging.CRITICAL)
    ignore_signals()
    end_with_parent(os.getppid(), signal.SIGKILL)
