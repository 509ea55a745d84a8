"""The time that processes take from start to end: an EMC's imports, the command's help, a run with its report."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure

TITLE = "a fresh interpreter, from start to end"
PROGRAMS = ["pass", "import numpy", "import emc_node.__main__"]
TIMES, RUNS = 11, 3


def measure() -> list[Figure]:
    """Milliseconds of each program, run in turn; seconds of the shipped case over MQTT, from command to report."""
    took: dict[str, list[float]] = {program: [] for program in [*PROGRAMS, "--help"]}
    for _ in range(TIMES):
        for program in PROGRAMS:
            took[program].append(_time(["-c", program]))
        took["--help"].append(_time(["-m", "stackelgrid", "--help"]))
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            _time(["-m", "stackelgrid", "run", "user_oriented", "--quiet", "--out", str(Path(folder) / str(number))])
            for number in range(RUNS)
        ]
    bare, numpy, emc, command_help = (1e3 * median(seconds) for seconds in took.values())
    return [
        Figure("python -c pass", bare, "ms"),
        Figure("import numpy", numpy, "ms"),
        Figure("import all that emc_node imports", emc, "ms"),
        Figure("emc_node beyond python and numpy", emc - numpy, "ms"),
        Figure("stackelgrid --help", command_help, "ms"),
        Figure("stackelgrid run user_oriented, with certificate and report", median(runs), "s"),
    ]


def _time(arguments: Sequence[str]) -> float:
    """Give the seconds that Python takes with these arguments."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began
