"""Kills a home at random moments, on a disk that is in order, full and read-only, and holds it to what it promises.

    PYTHONPATH=tests .venv/bin/python -m support.kill_home [--kills 200] [--seed 1]

Its grid settles sessions of three hours each hour, and in every eight hours is silent for four, so that plans run out.
All that the battery is told has to be of the slot that is under way in a plan that was settled and is not over, of the
fail-safe profile, or the power at which the battery rests; and it has to be told something after each start.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import broker
from emc_node.failsafe import Memory
from emc_node.plan import Plan
from support.lasting_home import (
    BASE,
    SCHEDULE,
    SETPOINT,
    STATE,
    FastClock,
    Grid,
    Heard,
    HomeProcess,
    connect,
    describe_home,
    read_state,
)

SPEED = 120.0
"""A slot takes seven seconds, a session half a minute."""
LATE = timedelta(minutes=20)
"""A message may be heard so late (ten seconds) after the clock was read for it."""
BEGIN = timedelta(hours=5, minutes=30)
"""The clock begins half an hour before the plan is over that is settled at once."""
ALONE_KW = -0.123
RESTS_KW = 0.0
SILENT = {4, 5, 6, 7}
"""The sessions of each eight that nobody settles."""


class Home:
    """The home under test, and what is known of it."""

    def __init__(self, folder: Path, disk: Path, seed: int, resources: ExitStack) -> None:
        self._random, self._disk = random.Random(seed), disk
        grids = resources.enter_context(broker.start("mosquitto", folder / "grid"))
        own = resources.enter_context(broker.start("mosquitto", folder / "own"))
        self.clock = FastClock(SPEED, BASE + BEGIN)
        calendar = {"slot_minutes": 15, "horizon": "3h", "every": "1h", "days": 20}
        devices = {"broker": own.url, "fail_safe": {"profile_kw": [ALONE_KW] * 24}}
        files = {key: disk / name for key, name in (("plan_file", "plan.json"), ("ledger_file", "ledger.json"))}
        files["history_file"] = disk / "history.sqlite"
        config = describe_home(calendar, grids.url, devices, **files)
        self._sessions = config.sessions
        self._grid = Grid(resources.enter_context(connect(grids.url, self.clock)), config.sessions)
        self.heard = resources.enter_context(connect(own.url, self.clock))
        self._process = HomeProcess(config, folder, self.clock)
        resources.callback(self._process.kill)
        self._saved: dict[int, Plan] = {}
        self._over = threading.Event()
        thread = threading.Thread(target=self._play)
        thread.start()
        resources.callback(thread.join)
        resources.callback(self._over.set)

    def kill_often(self, kills: int) -> None:
        """Start and kill the home so many times: while it starts, reads, answers, saves and drives."""
        for _ in range(kills):
            since = len(self.heard.heard)
            self._process.start()
            if self._random.random() < 0.5:
                time.sleep(self._random.uniform(0.0, 2.0))
            else:
                self.wait_until_driven(since)
                time.sleep(self._random.uniform(0.0, 2.0))
            assert self._process.lives, f"it ended by itself; see {self._process.log}"
            self._process.kill()
            self._require_whole_files()

    def drive(self) -> None:
        """Start the home, and see that its battery is driven."""
        since = len(self.heard.heard)
        self._process.start()
        self.wait_until_driven(since)

    def stop(self) -> None:
        self._process.kill()

    def wait_until_driven(self, since: int) -> None:
        """Wait until the battery was told something else than to rest, or that with a plan."""

        def is_driven(heard: Heard) -> bool:
            return heard.topic == SETPOINT and bool(heard.payload) and float(heard.payload) != RESTS_KW

        def plans_to_rest(heard: Heard) -> bool:
            state = read_state(heard)
            return state.get("mode") == "plan" and state.get("setpoint_kw") == RESTS_KW

        self.heard.wait("no setpoint", lambda heard: is_driven(heard) or plans_to_rest(heard), since)

    def judge(self) -> Counter[str]:
        """Hold all that the battery was told against the plans and the clock, and count it by its reason."""
        plans = list(self._saved.values())  # one may be driven by, and the home killed, before it is published
        for plan in plans:
            self._require_settled(plan)
        reasons: Counter[str] = Counter()
        for at, topic, payload in self.heard.heard:
            if topic == SCHEDULE:
                plan = Plan.model_validate_json(payload)
                self._require_settled(plan)
                plans.append(plan)
            elif topic == SETPOINT:
                reasons[self._find_reason(float(payload), at, plans)] += 1
            elif topic == STATE:
                self._require_in_force(json.loads(payload), at)
        return reasons

    def _require_settled(self, plan: Plan) -> None:
        session = self._sessions[plan.session - 1]
        assert plan.price == self._grid.price(plan.session), f"the price of session {plan.session} was another"
        assert (plan.start, len(plan.load_kw)) == (session.start, session.slots)

    def _require_in_force(self, state: dict[str, Any], at: datetime) -> None:
        if state["mode"] == "plan":
            until = datetime.fromisoformat(state["plan_until"])
            assert at < until + LATE, f"a plan until {until} is carried out at {at}"

    def _find_reason(self, kw: float, at: datetime, plans: Sequence[Plan]) -> str:
        if kw == ALONE_KW:
            return "alone"
        for plan in reversed(plans):
            for time_ in (at, at - LATE / 2, at - LATE):
                slot = plan.slot_at(time_)
                if slot is not None and plan.setpoint_kw is not None and abs(plan.setpoint_kw[slot] - kw) < 1e-3:
                    return "plan"
        assert kw == RESTS_KW, f"{kw} kW at {at} is of no plan that was known and not over"
        return "rests"

    def _require_whole_files(self) -> None:
        """Raise where a file that the home would read after a kill is none, or the history is damaged."""
        for name, read in (("plan.json", Memory.model_validate_json), ("ledger.json", json.loads)):
            if (self._disk / name).exists():
                content = read((self._disk / name).read_bytes())
                if isinstance(content, Memory):
                    self._saved.update({plan.session: plan for plan in content.plans})
        history = self._disk / "history.sqlite"
        if history.exists() and history.stat().st_size:
            copy = Path(tempfile.mkdtemp())
            for file in self._disk.glob("history.sqlite*"):
                shutil.copy(file, copy)
            with sqlite3.connect(copy / history.name) as file:
                assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            shutil.rmtree(copy)

    def _play(self) -> None:
        """Ask and settle each session some minutes before it begins, but for those of which nobody hears."""
        for session in self._sessions:
            assert session.start is not None
            for minutes, act in ((20, self._grid.ask), (10, self._grid.settle)):
                while self.clock() < session.start - timedelta(minutes=minutes):
                    if self._over.wait(0.05):
                        return
                if (session.number - 1) % 8 not in SILENT:
                    act(session.number)


def mount_disk(place: Path, resources: ExitStack) -> bool:
    """Mount a small file system; False where that is not allowed."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return False
    resources.callback(subprocess.run, ["umount", "--lazy", str(place)], check=True)
    return True


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "filler").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def play(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill a home so many times, a tenth of them each on a full and on a read-only disk; give what was found.

    Raises `AssertionError` for a promise that was broken.
    """
    with ExitStack() as resources:
        disk = folder / "disk"
        mounted = mount_disk(disk, resources)
        home = Home(folder, disk, seed, resources)
        few = max(kills // 10, 1) if mounted else 0
        home.kill_often(kills - 2 * few)
        if mounted:
            for spoil in (lambda: fill(disk), lambda: remount_read_only(disk)):
                home.drive()
                spoil()
                time.sleep(1.0)
                home.stop()
                home.kill_often(few)
        home.drive()
        home.stop()
        return {"kills": kills, "disk": "full, read-only" if mounted else "in order", "told": dict(home.judge())}


def remount_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a home at random moments.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        print(json.dumps(play(Path(folder), options.kills, options.seed)), f"in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
