"""The shipped case from command to report, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure

TITLE = "stackelgrid run user_oriented, 65 processes over Mosquitto, from command to report"
RUNS = 3
TARGET_S = 20


def command(folder: Path) -> list[str]:
    """The command that plays the case into `folder`."""
    options = ["run", "user_oriented", "--broker", "mosquitto", "--out", str(folder), "--quiet"]
    return [sys.executable, "-m", "stackelgrid", *options]


def measure() -> list[Figure]:
    """Seconds of wall time."""
    took = []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            subprocess.run(command(Path(folder) / "run"), check=True)
            took.append(time.perf_counter() - began)
    return [
        Figure(f"median of {RUNS} runs", median(took), "s", TARGET_S),
        Figure("slowest", max(took), "s"),
    ]
