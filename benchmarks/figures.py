"""The output of the benchmarks: a line on the machine, then a line per figure with its target."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import broker


@dataclass(frozen=True)
class Figure:
    """One line: `value` in `unit`, and `at_most` where there is a target."""

    what: str
    value: float
    unit: str
    at_most: float | None = None

    def __str__(self) -> str:
        digits = 2 if self.unit == "x" and self.value < 10 else 1 if 0 < self.value < 100 else 0
        line = f"  {self.what:<76}{self.value:>10.{digits}f} {self.unit:<3}"
        if self.at_most is None:
            return line.rstrip()
        return f"{line}  target {self.at_most:g}: {'met' if self.value <= self.at_most else 'missed'}"


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print one benchmark's figures."""
    print(f"\n{title}", *figures, sep="\n", flush=True)


def machine() -> str:
    """Date, cores, how busy they are, Python, broker."""
    busy = os.getloadavg()[0]
    return (
        f"{date.today().isoformat()}, {os.cpu_count()} cores ({_processor()}), load average {busy:.1f} at the start, "
        f"Python {platform.python_version()}, {_mosquitto()}"
    )


def _processor() -> str:
    """The processor's name where Linux tells it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _mosquitto() -> str:
    program = broker.find_mosquitto()
    if program is None:
        return "no Mosquitto"
    told = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout
    return told.splitlines()[0].replace("mosquitto version", "Mosquitto")
