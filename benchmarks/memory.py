"""The memory of an EMC, read from /proc (Linux): forked in a run beside 59 others, and as a process of its own.

The resident set counts every page the process maps, the proportional set its share of those it has in common with
others: the EMCs of a run are forked from one parent and share much, one on its own board shares nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

import broker
from benchmarks.case import command
from benchmarks.figures import Figure
from emc_node.config import EmcConfig
from stackelgrid.games.user_oriented import GAME
from stackelgrid.games.user_oriented.home import Home
from stackelgrid.games.user_oriented.messages import Price
from stackelgrid.scenarios import load
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Signal

TITLE = "what an EMC weighs, and what it must not import"
RESIDENT_MB = 60
HEAVY = ("cvxpy", "matplotlib", "rich", "scipy", "scipy.sparse", "typer", "ruamel.yaml")
LOOK_S = 0.2
PATIENCE_S = 30.0


def measure() -> list[Figure]:
    """Megabytes (10^6 bytes)."""
    forked = in_a_run()
    resident = [size["Rss"] for size in forked]
    proportional = [size["Pss"] for size in forked]
    alone = on_its_own()
    return [
        Figure(f"proportional set of {len(forked)} EMCs in a run, median", median(proportional), "MB"),
        Figure("    largest", max(proportional), "MB"),
        Figure("resident set of the same, median", median(resident), "MB"),
        Figure("    largest", max(resident), "MB", RESIDENT_MB),
        Figure("python -m emc_node started alone: proportional set", alone["Pss"], "MB"),
        Figure("    resident set", alone["Rss"], "MB", RESIDENT_MB),
        Figure(f"imported of {', '.join(HEAVY)}", len(list_heavy_imports()), "", 0),
    ]


def in_a_run() -> list[dict[str, float]]:
    """The largest that each EMC of the shipped case was seen to be."""
    largest: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with subprocess.Popen(command(run)) as process:
            while process.poll() is None:
                for pid in _emcs(run / "logs"):
                    seen = weigh(pid)
                    before = largest.get(pid, seen)
                    largest[pid] = {kind: max(before[kind], seen[kind]) for kind in seen} if seen else before
                time.sleep(LOOK_S)
        if process.returncode != 0:
            raise RuntimeError(f"the run ended with code {process.returncode}")
    return [size for size in largest.values() if size]


def on_its_own() -> dict[str, float]:
    """An EMC started by its command line, once it has answered."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with broker.start("mosquitto", folder) as running:
            scenario = load("user_oriented")
            config = next(
                emc for emc in build_node_configs(scenario, "memory", running.url).homes if emc.homes[0].storage
            )
            settings = folder / "emc.json"
            settings.write_text(config.model_dump_json(exclude_none=True), encoding="utf-8")
            price = Price(price=[scenario.leader.baseline_price] * scenario.slots)
            with subprocess.Popen(
                [sys.executable, "-m", "emc_node", "--config", str(settings), "--log", "json"],
                stderr=subprocess.DEVNULL,
            ) as emc:
                try:
                    _ask(running.url, config, price)
                    return weigh(emc.pid)
                finally:
                    emc.terminate()


def weigh(pid: int) -> dict[str, float]:
    """`Rss` and `Pss` of a process in megabytes; {} when it has ended."""
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {kind: 1024 * int(size) / 1e6 for kind, size in re.findall(r"^(Rss|Pss): +(\d+) kB$", told, re.MULTILINE)}


def list_heavy_imports() -> list[str]:
    """List the packages of `HEAVY` that an EMC imports."""
    program = f"import emc_node.__main__, sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()


def _emcs(logs: Path) -> list[int]:
    """The process ids of a run's EMCs, as their logs tell them."""
    pids = []
    for log in logs.glob("h*.jsonl"):
        first = log.open().readline()
        if first.endswith("\n"):
            entry: dict[str, Any] = json.loads(first)
            pids += [entry["pid"]] if entry["event"] == "started" else []
    return pids


def _ask(url: str, config: EmcConfig[Home], price: Price) -> None:
    """Put a price to the EMC and wait for its answer. Raises `TimeoutError`."""
    link = Link(config.run, config.aggregator, GAME.bodies("lower"), config.slots)
    signal = Signal[Price](
        run=config.run, sender=config.aggregator, fingerprint=config.fingerprint, round=1, body=price
    )
    answered = threading.Event()
    aggregator = paho.Client(CallbackAPIVersion.VERSION2)

    def listen(*_: Any) -> None:
        aggregator.subscribe(f"{link.root}/+/answer")

    def ask(*_: Any) -> None:
        aggregator.publish(link.topic(signal), link.write(signal), retain=True)

    aggregator.on_connect = listen
    aggregator.on_subscribe = ask
    aggregator.on_message = lambda *_: answered.set()
    aggregator.connect("127.0.0.1", int(url.rpartition(":")[2]))
    aggregator.loop_start()
    try:
        if not answered.wait(PATIENCE_S):
            raise TimeoutError(f"the EMC did not answer within {PATIENCE_S:g} s")
    finally:
        aggregator.disconnect()
        aggregator.loop_stop()
