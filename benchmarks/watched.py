"""A run that `stackelgrid ui` plays for a client that reads its events and draws nothing.

How long after a node has logged something does the client read it? And what does being watched cost, beside the same
run from the command line? Both kinds of run take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.case import command
from benchmarks.figures import Figure

TITLE = "stackelgrid ui plays user_oriented, 65 processes over Mosquitto, and streams its events"
RUNS = 5
DELAY_MS, COST = 150, 1.05
TOKEN = "token"


class Server:
    """`stackelgrid ui` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        ui = [sys.executable, "-m", "stackelgrid", "ui", "--port", "0", "--token", TOKEN]
        self._process = subprocess.Popen(ui, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._root = self._process.stdout.readline().partition("?")[0] + "api/v1/runs"

    def play(self) -> tuple[Path, list[tuple[float, bytes]]]:
        """Play the case; give its folder, and each line of the stream with the time at which it came."""
        order = {"scenario": "user_oriented", "certify": False}
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        with urlopen(Request(self._root, json.dumps(order).encode(), headers)) as answer:
            run = json.load(answer)["id"]
        with urlopen(Request(f"{self._root}/{run}/events", headers=headers)) as stream:
            return self._folder / "runs" / run, [(time.time(), line) for line in stream]

    def end(self) -> float:
        """End it; give the processor's seconds that it took, those of its runs too."""
        self._process.terminate()
        return _wait(self._process)


def measure() -> list[Figure]:
    """Milliseconds from a node to the client; seconds of a run, of wall time and of the processor."""
    alone: list[float] = []
    watched: list[float] = []
    connecting: list[float] = []
    rounds: list[float] = []
    busy_alone = 0.0
    with tempfile.TemporaryDirectory() as folder:
        idle = Server(Path(folder)).end()
        server = Server(Path(folder))
        for number in range(RUNS):
            began = time.perf_counter()
            alone_command = [*command(Path(folder) / str(number)), "--no-certify"]
            busy_alone += _wait(subprocess.Popen(alone_command, start_new_session=True))  # as the server's runs are
            alone.append(time.perf_counter() - began)
            began = time.perf_counter()
            run, lines = server.play()
            watched.append(time.perf_counter() - began)
            logged = {(each["node"], each["event"], each.get("round")): each["time"] for each in _read_logs(run)}
            for came, event in _read_events(lines):
                if event["type"] == "node" and event["state"] == "online":
                    connecting += [came - _read_time(logged.pop((name, "connected", None))) for name in event["names"]]
                elif event["type"] == "inner":
                    rounds.append(came - _read_time(logged[event["aggregator"], "round", event["round"]]))
        busy_watched = server.end() - idle
    return [
        Figure("from a node's connection to the client, median", 1e3 * median(connecting), "ms", DELAY_MS),
        Figure("from the end of an aggregator's round to the client, median", 1e3 * median(rounds), "ms", DELAY_MS),
        Figure("a run from the command line", median(alone), "s"),
        Figure("a run watched, over one from the command line", median(watched) / median(alone), "x", COST),
        Figure("the same, of the processor's time", busy_watched / busy_alone, "x", COST),
    ]


def _wait(process: subprocess.Popen[Any]) -> float:
    """Wait until a process ends; give the processor's seconds of it and of all that it waited for."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def _read_events(lines: list[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    for came, line in lines:
        if line.startswith(b"data: "):
            yield came, json.loads(line[6:])


def _read_logs(run: Path) -> Iterator[dict[str, Any]]:
    for log in (run / "logs").glob("*.jsonl"):
        yield from map(json.loads, log.read_text(encoding="utf-8").splitlines())


def _read_time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
