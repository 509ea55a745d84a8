"""The time that an EMC takes to start: its imports, beside Python's own start and numpy's import."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from benchmarks.figures import Figure

TITLE = "a fresh interpreter, from start to end"
PROGRAMS = ["pass", "import numpy", "import emc_node.__main__"]
TIMES = 11


def measure() -> list[Figure]:
    """Milliseconds of each program, run in turn."""
    took: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    for _ in range(TIMES):
        for program in PROGRAMS:
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            took[program].append(1e3 * (time.perf_counter() - began))
    bare, numpy, emc = (median(took[program]) for program in PROGRAMS)
    return [
        Figure("python -c pass", bare, "ms"),
        Figure("import numpy", numpy, "ms"),
        Figure("import all that emc_node imports", emc, "ms"),
        Figure("emc_node beyond python and numpy", emc - numpy, "ms"),
    ]
