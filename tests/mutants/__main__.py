"""`make mutants`: change the code by hand's mistakes, one at a time, and see whether soak and tests find each.

Forty mutants of the round protocol, the nodes and the codec are drawn, always the same ones while the code that they
change stays the same. For each the soak plays up to a thousand runs, until one breaks a promise; what it does not find
the unit tests of the same code try. Works on copies of the tree in a temporary folder, a copy for each core.

Exit codes: 0 enough were found and each survivor is explained in `survivors.md`, 1 not, 2 bad usage.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from mutants.hunt import MOST_CPU_S
from mutants.mutate import Mutant, find_mutants

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    "stackelgrid/rounds/coordinator.py",
    "stackelgrid/rounds/member.py",
    "stackelgrid/rounds/ledger.py",
    "stackelgrid/node/limits.py",
    "stackelgrid/node/mailbox.py",
    "stackelgrid/wire/codec.py",
    "leader_node/node.py",
    "aggregator_node/node.py",
    "emc_node/node.py",
)
TESTS = ("rounds", "nodes_in_memory", "wire", "resume", "addressed", "faults")
SURVIVORS = Path(__file__).with_name("survivors.md")
FIRST_SEED = 1_000_000
"""The soak's seeds count from here."""
_BY_SOAK, _BY_BOTH = 28 / 40, 38 / 40
"""The least shares of mutants that soak alone, and soak and tests, have to find."""
_LINE_RUNS = 40
_GIVE_UP_S = 7200.0
"""Seconds after which the soak or the tests of one mutant are ended, which takes a machine that is very busy."""


@dataclass(frozen=True)
class Verdict:
    """How a mutant was found: by `soak`, by `tests` or not at all (`survives`); `what` they said; how long it took."""

    mutant: Mutant
    found_by: str
    what: str
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mutants", type=int, default=40, help="how many")
    parser.add_argument("--runs", type=int, default=1000, help="soak runs for each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants side by side")
    parser.add_argument("--only", default="", help="only those whose name contains this")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stackelgrid-mutants-") as folder:
        trees = _copy_trees(Path(folder), options.jobs)
        drawn = draw(trees[0], options.mutants, options.only)
        free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for tree in trees:
            free.put(tree)

        def try_mutant(mutant: Mutant) -> Verdict:
            tree = free.get()
            original = (tree / mutant.file).read_text()
            try:
                return judge(tree, mutant, options.runs)
            finally:
                (tree / mutant.file).write_text(original)
                free.put(tree)

        with ThreadPoolExecutor(options.jobs) as pool:
            verdicts = []
            for tried in as_completed([pool.submit(try_mutant, mutant) for mutant in drawn]):
                verdicts.append(verdict := tried.result())
                print(f"{verdict.found_by:9}{verdict.seconds:5.0f} s  {verdict.mutant.name}", flush=True)
                print(f"{'':18}{verdict.what}", flush=True)
    return _conclude(verdicts, time.monotonic() - began)


def draw(tree: Path, count: int, only: str = "") -> list[Mutant]:
    """Draw the mutants of lines that soak runs reach."""
    command = ["-m", "mutants.hunt", "--lines", str(FIRST_SEED), str(FIRST_SEED + _LINE_RUNS), *FILES]
    reached = set(_run(tree, command).stdout.split())
    every = [mutant for file in FILES for mutant in find_mutants(tree, file)]
    known = [each for each in every if f"{each.file}:{each.line}" in reached or each.where == "module"]
    return sorted((each for each in known if only in each.name), key=lambda each: each.rank)[:count]


def judge(tree: Path, mutant: Mutant, runs: int) -> Verdict:
    """Try a mutant in a copy of the tree: the soak, then the tests."""
    began = time.monotonic()

    def verdict(found_by: str, what: str) -> Verdict:
        return Verdict(mutant, found_by, what[:150], time.monotonic() - began)

    (tree / mutant.file).write_text(mutant.source)
    try:
        soak = _run(tree, ["-m", "mutants.hunt", str(FIRST_SEED), str(FIRST_SEED + runs)])
        if soak.returncode == -signal.SIGXCPU:
            return verdict("soak", f"it hangs for {MOST_CPU_S} s of a processor")
        if soak.returncode:
            return verdict("soak", _last_line(soak))
        tests = [f"tests/unit/test_{name}.py" for name in TESTS]
        command = ["-m", "pytest", "-qx", "-p", "no:cacheprovider", "-p", "no:xdist", "--timeout", "600", *tests]
        tried = _run(tree, command)
        if tried.returncode:
            failed = [line for line in tried.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            return verdict("tests", failed[0] if failed else _last_line(tried))
    except subprocess.TimeoutExpired:
        return verdict("survives", f"not judged within {_GIVE_UP_S:g} s")
    return verdict("survives", "")


def _copy_trees(folder: Path, count: int) -> list[Path]:
    trees = [folder / str(number) for number in range(count)]
    ignored = shutil.ignore_patterns(".venv", ".git", "runs", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
    for tree in trees:
        shutil.copytree(ROOT, tree, ignore=ignored)
    return trees


def _run(tree: Path, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run Python with the copy's own modules."""
    environment = {**os.environ, "PYTHONPATH": f"{tree}:{tree}/tests", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_GIVE_UP_S,
        check=False,
    )


def _last_line(ended: subprocess.CompletedProcess[str]) -> str:
    return ((ended.stdout + ended.stderr).strip().splitlines() or [f"exit code {ended.returncode}"])[-1]


def _conclude(verdicts: Sequence[Verdict], seconds: float) -> int:
    """Print the counts and the survivors that nobody has explained; returns the exit code."""
    by_soak = sum(verdict.found_by == "soak" for verdict in verdicts)
    by_tests = sum(verdict.found_by == "tests" for verdict in verdicts)
    print(f"{len(verdicts)} mutants in {seconds:.0f} s: {by_soak} found by the soak, {by_tests} more by tests")
    explained = SURVIVORS.read_text() if SURVIVORS.exists() else ""
    unexplained = [
        verdict.mutant.name
        for verdict in verdicts
        if verdict.found_by == "survives" and verdict.mutant.name not in explained
    ]
    for name in unexplained:
        print(f"survives, and {SURVIVORS.name} does not say why: {name}")
    enough = by_soak >= _BY_SOAK * len(verdicts) and by_soak + by_tests >= _BY_BOTH * len(verdicts)
    return 0 if enough and not unexplained else 1


if __name__ == "__main__":
    sys.exit(main())
