"""`stackelgrid ui` in a process of its own, a small run to start there, and the events of runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

TOKEN = "secret"
SMALL = {
    "population.homes": 4,
    "aggregators": 2,
    "leader.objective": "welfare",  # six rounds
    "rounds.deadline_s": 0.8,
    "rounds.tries": 2,
    "rounds.return_s": 0.1,
}
ORDER = {"scenario": "user_oriented", "set": SMALL, "pace_s": 0.3, "certify": False, "name": "a run"}

Event = dict[str, Any]


class Server:
    """A server in a process of its own, and the requests to it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stackelgrid", "ui", "--port", "0", "--token", TOKEN, *options],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        address = urlsplit(self.process.stdout.readline())
        self.address = f"http://{address.netloc}/"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.client = httpx2.Client(base_url=f"{self.address}api/v1", headers=headers, timeout=60)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = self.client.request(method, path, json=body)
        return answer.status_code, answer.json() if answer.content else None

    def start(self, **changes: Any) -> str:
        status, answer = self.call("POST", "/runs", {**ORDER, **changes})
        assert status == 201, answer
        return f"/runs/{answer['id']}"

    def watch(self, run: str, after: int = 0) -> Iterator[tuple[int, Event]]:
        """Receive the events of a run as they come, with their numbers."""
        with self.client.stream("GET", f"{run}/events", headers={"Last-Event-ID": str(after)}) as stream:
            for line in stream.iter_lines():
                if line.startswith("id: "):
                    number = int(line[4:])
                elif line.startswith("data: "):
                    yield number, json.loads(line[6:])

    def end(self, how: signal.Signals) -> tuple[int, str, str]:
        """End it; give its exit code and what it has printed."""
        self.client.close()
        self.process.send_signal(how)
        out, errors = self.process.communicate(timeout=60)
        return self.process.returncode, out, errors


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        assert server.end(signal.SIGINT) == (0, "", "")


def await_event(events: Iterator[tuple[int, Event]], wanted: dict[str, Any]) -> tuple[int, Event]:
    """Wait for an event with these keys; a name in `names` is enough."""
    for number, event in events:
        if all(
            wanted["names"] in event.get("names", []) if key == "names" else event.get(key) == value
            for key, value in wanted.items()
        ):
            return number, event
    raise AssertionError(f"the run has ended without {wanted}")
