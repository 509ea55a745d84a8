"""A grid that stays, as real processes: hundreds of sessions while nodes are killed, homes come, move and are revoked.

`python tests/deploy/lasting_grid.py FOLDER` plays 200 and prints what came out, as JSON. Its exit code is 1 where a
session did not end, a complete one is not the same as in memory, memory grows or the leader's history has holes.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker import free_port
from stackelgrid.calendar import Session
from stackelgrid.scenarios import load
from stackelgrid.testbed import in_memory

PYTHON = sys.executable
RUN = "grid"
PATIENCE_S = 900.0
"""No event takes longer, on any machine."""
PRECISION, MOST_GROWTH = 1e-9, 1.1
"""kW and cents per kWh between a session and its repetition in memory; resident memory later on over that early on."""


def describe_grid(sessions: int, homes: int = 12) -> dict[str, Any]:
    """Describe the scenario: as many days as sessions, 24 hours each, homes with batteries, cars and none."""
    draw = random.Random(7)
    wholesale = [3 + 2 * (17 <= hour <= 20) + 0.5 * draw.random() for _ in range(sessions) for hour in range(24)]
    return {
        "schema": 1,
        "game": "user_oriented",
        "title": "A street that stays",
        "seed": 3,
        "calendar": {"start": "2026-04-01T00:00", "timezone": "Europe/Brussels", "days": sessions},
        "gates": {"day_ahead": "12:00", "clock": "simulated"},
        "leader": {
            "objective": "welfare",
            "baseline_price": 9,
            "wholesale_price": wholesale,
            "mu": 0.5,
            "price_max": 40,
        },
        "aggregators": 2,
        "privacy": {"sums": "off", "sensitivity": "full"},
        "rounds": {"deadline_s": 2.0, "tries": 3, "return_s": 10.0, "gather_s": 60},
        "homes": [describe_home(number, sessions) for number in range(1, homes + 1)],
    }


def describe_home(number: int, sessions: int) -> dict[str, Any]:
    """Describe a home whose load repeats by the day, drawn by its number."""
    draw = random.Random(number)
    base = 0.3 + 0.3 * draw.random()
    load = [
        base + (0.9 if hour in (7, 18, 19, 20) else 0.1) * draw.random() for _ in range(sessions) for hour in range(24)
    ]
    home: dict[str, Any] = {
        "id": f"h{number:02}",
        "inelastic": [{"load_kw": [round(each, 3) for each in load]}],
        "elastic": [{"name": "pool", "max_kw": 1.0 + draw.random(), "valuation": 10.0 + 8 * draw.random()}],
        "connection": {"draw_kw": 12.0},
    }
    if number % 2:
        home["storage"] = [
            {"capacity_kwh": 6, "initial_kwh": 2, "charge_kw": 2.5, "discharge_kw": 2.5, "wear": {"fast": 0.3}}
        ]
    return home


@dataclass
class Service:
    """A process that is started again whenever it ends, as systemd does; `log` is where it writes."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    stopped: bool = False
    memory_kb: list[tuple[int, int]] = field(default_factory=list)
    """Resident memory, kB, by session."""

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
        self.starts += 1

    def watch(self) -> None:
        """Start it again where it has ended."""
        if not self.stopped and self.process is not None and self.process.poll() is not None:
            self.start()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill it; `watch` starts it again."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait()

    def stop(self) -> None:
        """End it for good."""
        self.stopped = True
        if self.process is not None and self.process.poll() is None:
            self.kill(signal.SIGTERM)

    def measure(self, session: int) -> None:
        """Note its resident memory."""
        assert self.process is not None
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return
        found = [line for line in status.splitlines() if line.startswith("VmRSS")]
        if found:
            self.memory_kb.append((session, int(found[0].split()[1])))


class Grid:
    """The processes of a grid in a folder."""

    def __init__(self, folder: Path, sessions: int, seed: int, arm64: Path | None = None) -> None:
        self.folder, self.sessions, self.arm64 = folder, sessions, arm64
        self.random = random.Random(seed)
        self.port, self.enrolment_port = free_port(), free_port()
        self.url = f"mqtts://localhost:{self.port}"
        self.certs = folder / "certs"
        self.services: dict[str, Service] = {}
        folder.mkdir(parents=True)
        (folder / "logs").mkdir()
        self.scenario = folder / "grid.yaml"
        self.scenario.write_text(json.dumps(describe_grid(sessions)))  # JSON is YAML
        command = ["provision", str(self.scenario), "--broker", self.url, "--out", str(self.certs), "--run", RUN]
        self.call(*command)
        self._first = {
            path.parent.name: [member["name"] for member in json.loads(path.read_text())["members"]]
            for path in self.certs.glob("aggregators/*/config.json")
        }

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call a command of the desk. Raises `RuntimeError` with what it said where it fails."""
        command = [PYTHON, "-m", "stackelgrid", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
        if done.returncode:
            raise RuntimeError(f"{arguments}: {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def add(self, name: str, *command: str) -> Service:
        """Add a service and start it."""
        service = Service(name, [PYTHON, "-m", *command], self.folder / "logs" / f"{name}.log")
        self.services[name] = service
        service.start()
        return service

    def add_node(self, name: str, package: str, config: Path) -> Service:
        """Add a node by its configuration."""
        return self.add(
            name, package, "--config", str(config), "--log", "json", "--status", str(config.with_name("status.json"))
        )

    def start(self) -> None:
        """Start broker, registrar and every node."""
        ports = ["--port", str(self.port), "--enrolment-port", str(self.enrolment_port)]
        self.add("broker", "broker", "--certs", str(self.certs), *ports)
        self.add("registrar", "stackelgrid", "certs", "serve", "--dir", str(self.certs), "--log", "json")
        if self.arm64 is not None:
            self.add_emulated("h03", self.arm64)
        for role, package in (("leaders", "leader_node"), ("aggregators", "aggregator_node"), ("homes", "emc_node")):
            for config in sorted((self.certs / role).glob("*/config.json")):
                if config.parent.name not in self.services:
                    self.add_node(config.parent.name, package, config)

    def add_emulated(self, name: str, root: Path) -> None:
        """Add a home that runs in an arm64 system, with its folder mounted there."""
        place, inside = self.certs / "homes" / name, root / "srv" / name
        inside.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", place, inside], check=True)
        emc = ["chroot", str(root), "/opt/stackelgrid/bin/emc-node", "--config", f"/srv/{name}/config.json"]
        emc += ["--broker", f"mqtts://127.0.0.1:{self.port}", "--log", "json"]  # without a file of hosts
        service = Service(name, emc, self.folder / "logs" / f"{name}.log")
        self.services[name] = service
        service.start()

    def read_places(self, ended: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, str]]:
        """Read the aggregator of each home in each session: by the leader's roster, or else by its own record.

        An aggregator that has missed its roster plays with its members of before.
        """
        rosters = {number: dict(record["roster"]["members"]) for number, record in ended.items() if "roster" in record}
        for path in self.certs.glob(f"aggregators/*/{RUN}/*.account.json"):
            for record in map(json.loads, path.read_text().splitlines()):
                name = path.name.removesuffix(".account.json")
                members = record["roster"]["members"] if "roster" in record else self._first[name]
                rosters.setdefault(record["session"], {})[name] = members
        return {
            number: {home: name for name, members in roster.items() for home in members}
            for number, roster in rosters.items()
        }

    def enrol(self, name: str) -> None:
        """Have a home make its key, ask for a certificate and take part, as its owner and the operator do."""
        file, place = self.folder / f"{name}.json", self.folder / "homes" / name
        home = describe_home(int(name.removeprefix("h")), self.sessions)
        file.write_text(json.dumps(home))
        (place / "state").mkdir(parents=True)
        words = [
            "init",
            "--enrol",
            f"mqtts://localhost:{self.enrolment_port}",
            "--ca",
            str(self.certs / "authority/ca.crt"),
        ]
        words += ["--name", name, "--home", str(file), "--to", str(place), "--state", str(place / "state")]
        asking = subprocess.Popen(
            [PYTHON, "-m", "emc_node", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        while name not in self.call("certs", "requests", "--dir", str(self.certs)).stdout:
            if asking.poll() is not None:
                raise RuntimeError(asking.communicate()[0])
        self.call("certs", "approve", name, "--dir", str(self.certs))
        said = asking.communicate(timeout=PATIENCE_S)[0]
        if asking.returncode:
            raise RuntimeError(said)
        self.add_node(name, "emc_node", place / "config.json")

    def move(self, name: str, aggregator: str) -> None:
        """Move a home to another aggregator."""
        self.call("certs", "move", name, aggregator, "--dir", str(self.certs))

    def revoke(self, name: str) -> None:
        """Revoke a home's certificate; its process stays and may do nothing."""
        self.call("certs", "revoke", name, "--dir", str(self.certs))

    @property
    def journal(self) -> Path:
        """The leader's journal."""
        return self.certs / "leaders" / "leader" / RUN / "rounds.jsonl"

    def find_session(self) -> int:
        """Find the session of the last round."""
        if not self.journal.exists():
            return 0
        lines = self.journal.read_bytes().rstrip(b"\n").rsplit(b"\n", 1)
        try:
            return int(json.loads(lines[-1]).get("session", 1)) if lines[-1] else 0
        except ValueError:
            return 0

    def watch(self) -> Iterator[int]:
        """Give each session as it is reached, and keep all services running, until the leader has ended."""
        reached, until = 0, time.monotonic() + PATIENCE_S
        while True:
            leader = self.services["leader"]
            if leader.process is not None and leader.process.poll() == 0:
                return
            for service in self.services.values():
                if service.name != "leader" or (
                    service.process is not None and service.process.poll() not in (None, 0)
                ):
                    service.watch()
            now = self.find_session()
            if now > reached:
                reached, until = now, time.monotonic() + PATIENCE_S
                yield now
            elif time.monotonic() > until:
                raise TimeoutError(f"no session after {reached}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End every service."""
        for service in self.services.values():
            service.stop()
        if self.arm64 is not None:
            subprocess.run(["umount", self.arm64 / "srv" / "h03"], check=False)


@dataclass(frozen=True)
class Played:
    """A session as its nodes recorded it: how it ended, the last price, and what each home did."""

    number: int
    settled: bool
    complete: bool
    price: list[float]
    states: dict[str, Any]
    accounts: dict[str, dict[str, Any]]
    above: dict[str, str]
    """The aggregator of each home that was in it."""


def read_sessions(grid: Grid) -> list[Played]:
    """Read what the nodes of a grid recorded of each session that has ended."""
    prices = {json.loads(line)["session"]: json.loads(line)["price"] for line in grid.journal.read_text().splitlines()}
    ended = read_conclusions(grid)
    places = grid.read_places(ended)
    states: dict[int, dict[str, Any]] = {}
    accounts: dict[int, dict[str, dict[str, Any]]] = {}
    for path in [*grid.certs.glob(f"homes/*/{RUN}/*.schedule.json"), *grid.folder.glob("homes/*/state/schedule.json")]:
        for line in path.read_text().splitlines():
            record = json.loads(line)
            states.setdefault(record["session"], {}).update(record["states"])
            accounts.setdefault(record["session"], {}).update(record["homes"])
    sessions = []
    for number, record in sorted(ended.items()):
        sessions.append(
            Played(
                number,
                record["settled"],
                record["complete"],
                prices.get(number, []),
                states.get(number, {}),
                accounts.get(number, {}),
                places.get(number, {}),
            )
        )
    return sessions


def read_conclusions(grid: Grid) -> dict[int, dict[str, Any]]:
    """Read how each session ended, by its number."""
    text = grid.journal.with_name("leader.conclusion.json").read_text()
    return {record["session"]: record for record in map(json.loads, text.splitlines())}


def replay(whole: Any, played: Played, before: Sequence[Played]) -> float:
    """Play a session of the `whole` again in memory, from its states and with its homes; give the largest difference.

    Of prices it is in cents per kWh, of loads in kW. A home that has answered and did not hear of the settlement went
    into the session as the last plan of those `before` has left it.
    """
    session = whole.sessions[played.number - 1]
    states = {**played.states}
    for home in whole.everyone:
        if home.id in played.above.keys() - played.accounts.keys():
            states[home.id] = find_state(whole, home, session, before)
    alone = whole.in_session(session, states)
    homes = [home for home in alone.everyone if home.id in played.above]
    alone = alone.with_homes([home.model_copy(update={"aggregator": played.above[home.id]}) for home in homes])
    record = in_memory.play(alone)
    gaps = [abs(a - b) for a, b in zip(record.rounds[-1]["price"], played.price, strict=True)]
    for name, account in played.accounts.items():
        gaps += [abs(a - b) for a, b in zip(record.homes[name]["load_kw"], account["load_kw"], strict=True)]
    return max(gaps)


def find_state(whole: Any, home: Any, session: Session, before: Sequence[Played]) -> dict[str, Any]:
    """Find the state in which a home goes into a session: its last plan has left it."""
    for played in reversed(before):
        if home.id in played.accounts:
            planned = whole.sessions[played.number - 1]
            there = home.in_session(planned, played.states.get(home.id))
            return dict(there.advance(planned.until(session), played.accounts[home.id]))
    return {}


@dataclass(frozen=True)
class Event:
    """What happens to a grid as a session is reached."""

    session: int
    what: str
    act: Callable[[], object]


def plan_changes(grid: Grid) -> list[Event]:
    """Plan that two homes come, one in the middle of the list is revoked and one moves, at quarters of the sessions."""
    quarter = grid.sessions // 5
    return [
        Event(quarter, "enrol h13", lambda: grid.enrol("h13")),
        Event(2 * quarter, "revoke h06", lambda: grid.revoke("h06")),
        Event(3 * quarter, "move h03 to a2", lambda: grid.move("h03", "a2")),
        Event(4 * quarter, "enrol h14", lambda: grid.enrol("h14")),
    ]


def plan_kills(grid: Grid) -> list[Event]:
    """Plan kills: a home in every second session; in 200 the broker ten times, the leader twice, aggregators thrice."""
    every, draw = range(3, grid.sessions - 3), grid.random

    def some_home() -> None:
        homes = [name for name, service in grid.services.items() if name.startswith("h") and not service.stopped]
        grid.services[draw.choice(homes)].kill()

    events = [Event(session, "kill a home", some_home) for session in every if draw.random() < 0.5]
    for name, often in (("broker", 10), ("leader", 2), ("a1", 3), ("a2", 3)):
        for session in sorted(draw.sample(every, min(often * grid.sessions // 200, len(every)))):
            events.append(Event(session, f"kill {name}", grid.services[name].kill))
    return sorted(events, key=lambda event: event.session)


def measure_growth(grid: Grid) -> dict[str, float]:
    """Give by how much the resident memory of each service has grown from a tenth of the sessions on, as a ratio.

    A process that was started again counts from then on as every other does: the largest is compared.
    """
    growth = {}
    for name, service in grid.services.items():
        early = [size for session, size in service.memory_kb if session <= grid.sessions // 10]
        late = [size for session, size in service.memory_kb if session > grid.sessions // 10]
        if early and late:
            growth[name] = max(late) / max(early)
    return growth


def count_stored(grid: Grid) -> dict[str, int]:
    """Count the sessions in the history of each node."""
    counts: dict[str, int] = {}
    for folder in (grid.certs, grid.folder / "homes"):
        rows = json.loads(grid.call("history", str(folder), "--table", "sessions", "--json").stdout)
        for row in rows:
            counts[row["node"]] = counts.get(row["node"], 0) + 1
    return counts


def play(grid: Grid) -> None:
    """Play the grid to its end, with all that happens to it."""
    began = time.monotonic()
    grid.start()
    events = sorted(plan_kills(grid) + plan_changes(grid), key=lambda event: event.session)
    waiting: list[threading.Thread] = []
    for session in grid.watch():
        while events and events[0].session <= session:
            event = events.pop(0)
            print(f"{time.monotonic() - began:7.1f} s, session {session}: {event.what}", file=sys.stderr)
            time.sleep(grid.random.uniform(0, 0.5))  # anywhere in the session
            waiting.append(threading.Thread(target=event.act, daemon=True))
            waiting[-1].start()
            if "enrol" not in event.what:
                waiting[-1].join()
        if session % 10 == 0:
            for service in grid.services.values():
                service.measure(session)
    for thread in waiting:
        thread.join(PATIENCE_S)


def main() -> int:
    """Play a grid, print what came out as JSON; give the exit code, 1 where the grid did not keep what it promises."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("folder", type=Path, help="a new folder")
    arguments.add_argument("--sessions", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument(
        "--arm64", type=Path, metavar="ROOT", help="run h03 in this system of scripts/arm64/make-root"
    )
    given = arguments.parse_args()
    grid = Grid(given.folder, given.sessions, given.seed, given.arm64)
    try:
        play(grid)
    finally:
        grid.stop()
    sessions = read_sessions(grid)
    everybody = grid.folder / "everybody.yaml"
    everybody.write_text(json.dumps(describe_grid(grid.sessions, 14)))
    whole = load(str(everybody), [])
    differences = {
        played.number: replay(whole, played, sessions[:number])
        for number, played in enumerate(sessions)
        if played.complete
    }
    growth, stored = measure_growth(grid), count_stored(grid)
    found = {
        "sessions": len(sessions),
        "settled": sum(played.settled for played in sessions),
        "complete": len(differences),
        "largest_difference": max(differences.values(), default=0.0),
        "largest_growth": max(growth.values(), default=1.0),
        "growth": growth,
        "stored_sessions": stored,
        "starts": {name: service.starts for name, service in grid.services.items()},
    }
    print(json.dumps(found, indent=1))
    kept = {
        "every session ended": len(sessions) == given.sessions,
        "complete ones are as in memory": max(differences.values(), default=0.0) <= PRECISION,
        "memory is flat": max(growth.values(), default=1.0) <= MOST_GROWTH,
        "the leader's history is complete": stored["leader"] == given.sessions,
    }
    for what, holds in kept.items():
        print(what, holds, file=sys.stderr)
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
