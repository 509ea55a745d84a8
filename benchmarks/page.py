"""The frames of the page while a recorded run of 1,000 homes replays in Chromium."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

from benchmarks.figures import Figure

TITLE = "a recorded run replays in headless Chromium"
HOMES = 1000
ROUND_S = 1.0
BATCHES = 20
"""In which the answers of a round come; the server gathers events for 50 ms."""
# Each frame of a replay at the speed of the run, from its first event to its last.
_WATCH_FRAMES = """() => new Promise((resolve) => {
  const times = [];
  const play = document.querySelector(".play");
  const watch = (time) => {
    times.push(time);
    if (play.dataset.playing === "true" || times.length < 10) requestAnimationFrame(watch);
    else resolve(times);
  };
  play.click();
  requestAnimationFrame(watch);
})"""


def measure() -> list[Figure]:
    """Milliseconds between two frames, in the median and in the worst of a hundred; none without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("  Chromium is not installed; scripts/install-chromium does that")
        return []
    with tempfile.TemporaryDirectory() as folder:
        record(Path(folder) / "runs" / "large")
        with _serve(Path(folder)) as address:
            times = _replay(chromium, address)
    frames = [after - before for before, after in pairwise(times)]
    return [
        Figure(f"a frame, {HOMES:,} homes, median of {len(frames):,}", median(frames), "ms", at_most=33),
        Figure("a frame, the worst of a hundred", quantiles(frames, n=100)[-1], "ms"),
    ]


def record(folder: Path) -> None:
    """Record a run in memory, its answers spread over seconds as processes over MQTT would send them."""
    from stackelgrid.ui.history import recall

    command = ["run", "user_oriented", "--set", f"population.homes={HOMES}", "--set", "aggregators=10"]
    options = ["--transport", "memory", "--no-certify", "--quiet", "--out", str(folder)]
    subprocess.run([sys.executable, "-m", "stackelgrid", *command, *options], check=True, stdout=subprocess.DEVNULL)
    events, round_number = [], 0
    for event in recall(folder):
        if event.get("state") == "answered":
            names = event["names"]
            for part in range(BATCHES):
                seconds = ROUND_S * (round_number - 1 + 0.9 * (part + 1) / BATCHES)
                events.append({**event, "seconds": seconds, "names": names[part::BATCHES]})
        else:
            round_number += event.get("state") == "asked"
            past = max(0, round_number - 1) + (event["type"] in ("round", "message"))
            events.append({**event, "seconds": ROUND_S * past})
    events.append({"seconds": ROUND_S * round_number, "type": "end", "state": "settled"})
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events), encoding="utf-8")


@contextmanager
def _serve(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "stackelgrid", "ui", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.send_signal(signal.SIGINT)


def _replay(chromium: str, address: str) -> list[float]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=chromium) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{address}#/runs/large")
        page.get_by_role("slider", name="Slots of the last round").wait_for(timeout=120_000)
        page.get_by_label("Speed").select_option("1 ×")
        times: list[float] = page.evaluate(_WATCH_FRAMES)
        return times
