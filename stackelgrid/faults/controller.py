"""What a plan asks of the desk while nodes live under it, each in its own process.

The nodes meet the faults of their own (`stackelgrid.faults.on_process`) and log them. The desk follows these logs,
fails the broker, disturbs connections and says who comes back. A node waits until what it asked of the desk has begun,
so a fault at a round strikes before the round's question, as exactly as under the virtual clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from broker import RunningBroker
from stackelgrid.faults.on_process import done_file, read_spent
from stackelgrid.faults.plan import BrokerOutage, Crash, FaultPlan, OnConnection
from stackelgrid.faults.proxy import Proxy
from stackelgrid.transport.address import Address

PLAN = "fault.plan.json"
_RECORD = ("fault", "kind", "node", "from", "to", "round", "seconds")

Tell = Callable[[dict[str, Any]], None]


class FaultController(AbstractContextManager["FaultController"]):
    """The desk of one run. `nodes` and `logs` are its folders, `own` is its broker unless that belongs to others.

    `tell` gets a record of each fault, as it is under the virtual clock.
    """

    def __init__(
        self,
        plan: FaultPlan,
        names: Collection[str],
        nodes: Path,
        logs: Path,
        url: str,
        own: RunningBroker | None,
        tell: Tell,
    ) -> None:
        self._plan, self._nodes, self._own, self._tell = plan, nodes, own, tell
        self._logs = {name: _Log(logs / f"{name}.jsonl") for name in names}
        self._killed: dict[str, int] = dict.fromkeys(names, 0)  # how many faults each had met when it was last killed
        disturbed = [fault for fault in plan.faults if isinstance(fault, OnConnection)]
        proxied = [name for name in names if any(fault.concerns(name) for fault in disturbed)]
        self._proxy = Proxy(Address.parse(url), proxied)
        self._due = {
            number: fault.at.seconds
            for number, fault in enumerate(plan.faults)
            if isinstance(fault, BrokerOutage) and fault.at.seconds is not None
        }
        self._began = time.monotonic()
        self._away: tuple[float, bool] | None = None  # until when the broker is, and whether it keeps what it retained
        self._stack = ExitStack()

    def __enter__(self) -> FaultController:
        (self._nodes / PLAN).write_text(self._plan.model_dump_json(by_alias=True, exclude_none=True))
        self._stack.enter_context(self._proxy)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def broker_is_away(self) -> bool:
        """Whether the plan has killed the broker and not yet brought it back."""
        return self._away is not None

    def order(self, name: str) -> dict[str, str]:
        """What the nursery is told besides, to have a node live under the plan."""
        url = self._proxy.url(name)
        return {"faults": str(self._nodes / PLAN)} | ({} if url is None else {"broker": url})

    def look(self) -> None:
        """Take in what has happened since the last look, and do what is due."""
        entries = [(name, entry) for name, log in self._logs.items() for entry in log.read()]
        for name, entry in sorted(entries, key=lambda found: str(found[1]["time"])):
            record = {key: entry[key] for key in _RECORD if key in entry and not (key == "node" and "to" in entry)}
            self._tell(record)
            self._begin(name, record["fault"])
        now = time.monotonic()
        for number, seconds in list(self._due.items()):
            if now - self._began >= seconds and self._away is None:
                del self._due[number]
                self._tell({"fault": number, "kind": "broker", "round": self._round(), "seconds": now - self._began})
                self._fail_broker(self._plan.faults[number])
        if self._away is not None and now >= self._away[0]:
            self._restore_broker()

    def killed(self, name: str) -> tuple[int, Crash] | None:
        """By which fault of the plan a node that SIGKILL ended was killed; None when it was somebody else."""
        met = [entry["fault"] for entry in read_spent(self._nodes / f"{name}.json")]
        known, self._killed[name] = self._killed[name], len(met)
        fault = self._plan.faults[met[-1]] if len(met) > known else None
        return (met[-1], fault) if isinstance(fault, Crash) else None

    def _round(self) -> int:
        """The round that the leader is in: one more than it has finished."""
        journal = self._nodes.parent / "rounds.jsonl"
        return 1 + (journal.read_bytes().count(b"\n") if journal.exists() else 0)

    def _begin(self, name: str, number: int) -> None:
        fault = self._plan.faults[number]
        if isinstance(fault, OnConnection):
            self._proxy.disturb(name, fault)
        elif isinstance(fault, BrokerOutage):
            self._fail_broker(fault)
        else:
            return
        done_file(self._nodes / f"{name}.json", number).touch()

    def _fail_broker(self, fault: Any) -> None:
        assert self._own is not None
        if self._away is None:
            self._own.kill()
        self._away = (time.monotonic() + fault.seconds, fault.keep_retained)

    def _restore_broker(self) -> None:
        assert self._own is not None and self._away is not None
        keep_retained = self._away[1]
        self._away = None
        self._own.restart(keep_retained=keep_retained)


class _Log:
    """A node's log, followed as it grows: the faults in it."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read(self) -> list[dict[str, Any]]:
        """The entries since the last time."""
        if not self._path.exists() or self._path.stat().st_size == self._offset:
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines() if b'"event": "fault"' in line]
