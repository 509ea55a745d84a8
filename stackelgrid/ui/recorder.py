"""Record a run that is on as events, and add faults to it."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from typing import Any, get_args

from pydantic import ValidationError

from stackelgrid.errors import ConfigError, explain_os_error
from stackelgrid.faults.plan import BrokerOutage, ConnectionFault, Fault, FaultPlan, MessageFault, NodeFault
from stackelgrid.model import list_mistakes
from stackelgrid.node.record import GrowingLines
from stackelgrid.run_record import FaultRecord
from stackelgrid.runner import Run
from stackelgrid.scenarios import Scenario
from stackelgrid.testbed import fault_plans, run_folder
from stackelgrid.testbed.start import RunStart
from stackelgrid.transport.base import BrokerUnreachableError
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.ui.events import LEAST_ROUND_S, EventLog
from stackelgrid.ui.observer import NodeObserver
from stackelgrid.ui.words import (
    describe_end,
    describe_fault,
    describe_inner_round,
    describe_nodes,
    describe_round,
    describe_tree,
    describe_trouble,
)

_GATHER_S = 0.05
"""The time for which changes of nodes are gathered into one event."""
_MOST_FAULTS = 200
"""Faults that a run may be given while it goes on."""
_MOST_ROUNDS = 1000
"""Rounds for which a fault may last."""
_MODELS = {
    get_args(model.model_fields["kind"].annotation)[0]: model
    for model in get_args(MessageFault | NodeFault | ConnectionFault | BrokerOutage)
}
"""The model of each kind of fault."""
_STRUCK = {"crash": "crashed", "stall": "stalled"}
"""The state of a node that a fault of that kind has struck."""


class FaultRefusedError(ConfigError):
    """A fault that a run cannot be given; `key` is the key that is wrong, None where the run is."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class Recorder:
    """Records a run of `scenario` under `plan`: its methods are for the callbacks of `stackelgrid.runner.run`.

    `broker` is the address of one that is there already, with its password; else the run's own is listened to.
    """

    def __init__(self, scenario: Scenario, plan: FaultPlan | None, broker: str | None = None) -> None:
        self._scenario, self._broker = scenario, broker
        self._faults = [] if plan is None else [*plan.faults]
        self._plan = plan or FaultPlan()
        self._added = 0
        self._adding = threading.Lock()
        self._seconds = 0.0  # of a run in memory
        self._round = 1  # the one that the leader asks, or will ask next
        self._shown: set[tuple[Any, ...]] = set()
        self._start: RunStart | None = None
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._transport: MqttTransport | None = None

    @property
    def has_begun(self) -> bool:
        """True once the run has a folder with events."""
        return self._start is not None

    @property
    def _in_memory(self) -> bool:
        return self._start is not None and not self._start.url

    def begin(self, start: RunStart) -> None:
        """Begin to write events into the run's folder: its nodes are about to start."""
        assert start.folder is not None
        self._start, self.folder = start, start.folder
        self._log = EventLog(start.folder, start.lock, time.monotonic if start.url else lambda: self._seconds)
        began = datetime.now(UTC).isoformat(timespec="milliseconds")
        transport = "mqtt" if start.url else "memory"
        tree = {**describe_tree(self._scenario), "transport": transport, "started": began}
        self._log.write(tree, describe_nodes("starting", self._scenario.topology.names))
        if start.url:
            self._transport = MqttTransport(self._broker or start.url)
            self._threads = [threading.Thread(target=work, daemon=True) for work in (self._observe, self._gather)]
            for thread in self._threads:
                thread.start()

    def note_round(self, record: dict[str, Any]) -> None:
        """Write a finished round of the leader."""
        self._round = record["round"] + 1
        if self._in_memory:  # nobody has seen question and answers
            self._seconds += max(record["ms"] / 1000, LEAST_ROUND_S)
            leader, *members = self._scenario.topology.names
            self._log.write(describe_nodes("online", [leader]), describe_nodes("answered", members))
        self._log.write(*describe_round(record))

    def note_fault(self, record: FaultRecord) -> None:
        """Write a fault that has struck; one on messages once a round, with the first link that it struck."""
        if record.occasion in self._shown:
            return
        self._shown.add(record.occasion)
        event = describe_fault(record)
        self._log.write(event)
        if record.kind in _STRUCK:
            self._log.write(describe_nodes(_STRUCK[record.kind], event["nodes"]))

    def note_step(self, text: str) -> None:
        """Write what follows the rounds."""
        self._log.write({"type": "step", "text": text})

    def end(self, run: Run | None, message: str = "") -> None:
        """Write how the run has ended; None is one that failed, by `message`."""
        if self._start is None or self._ended.is_set():
            return
        if self._transport is not None:
            self._transport.stop()
        self._ended.set()
        for thread in self._threads:
            thread.join()
        if run is not None:
            message = message or run.trouble
        if self._in_memory and run is not None and run.settled:
            self._log.write(describe_nodes("settled", self._scenario.topology.names))
        self._log.write(describe_end("failed" if run is None else run.state, message))
        self._log.close()

    def add_fault(self, content: dict[str, Any]) -> int:
        """Add a fault to the run, as in a plan but without its time: it strikes in the round that is on.

        One on messages lasts for `rounds` rounds. Returns its number in the plan. Raises `FaultRefusedError`.
        """
        start = self._start
        if start is None or start.faults is None or self._ended.is_set():
            raise FaultRefusedError("faults are added to runs over MQTT while they go on; this is none")
        if self._added == _MOST_FAULTS:
            raise FaultRefusedError(f"this run has been given {_MOST_FAULTS} faults; it is given no more")
        fault = self._read_fault(content, start.kind)
        with self._adding:  # the number is the fault's place in the plan
            self._added += 1
            self._faults.append(fault)
            number = start.faults.add(fault)
            try:
                run_folder.write_faults(self.folder, self._plan.model_copy(update={"faults": self._faults}))
            except OSError as error:
                self._log.write(describe_trouble(f"the plan lacks this fault: {explain_os_error(error) or error}"))
        return number

    def _read_fault(self, content: dict[str, Any], broker: str | None) -> Fault:
        for key in ("at", "during"):
            if key in content:
                raise FaultRefusedError(f"{key}: a fault of a run that is on strikes now; leave it out", key)
        if content.get("kind") == "broker":
            # What the run's own broker retains is not on disk, which costs time.
            content.setdefault("keep_retained", False)
        model = _MODELS.get(str(content.get("kind")))
        if model is None:
            raise FaultRefusedError(f"kind: give one of {', '.join(_MODELS)}", "kind")
        timed = self._set_time(content, once="at" in model.model_fields)
        try:
            fault = model.model_validate(timed)
        except ValidationError as error:
            key, message = list_mistakes(error, content, model)[0]
            raise FaultRefusedError(f"{key}: {message}", key) from None
        if isinstance(fault, BrokerOutage) and fault.keep_retained:
            raise FaultRefusedError(
                "keep_retained: a broker that is watched keeps nothing; give false", "keep_retained"
            )
        try:
            fitted = fault_plans.fit(FaultPlan(faults=[fault]), self._scenario, broker or "mqtt://another")
        except fault_plans.FaultPlanError as error:
            where, _, message = str(error).removeprefix("fault_plan: faults.0").partition(": ")
            raise FaultRefusedError(message, where.removeprefix(".") or None) from None
        return fitted.faults[0]

    def _set_time(self, content: dict[str, Any], *, once: bool) -> dict[str, Any]:
        """Set the time of a fault that happens `once`, or lasts for the `rounds` that it asks for."""
        if once:
            return {**content, "at": {"round": self._round}}
        rounds = content.get("rounds", 1)
        if not isinstance(rounds, int) or isinstance(rounds, bool) or not 1 <= rounds <= _MOST_ROUNDS:
            raise FaultRefusedError(f"rounds: give a whole number from 1 to {_MOST_ROUNDS}", "rounds")
        others = {key: value for key, value in content.items() if key != "rounds"}
        return {**others, "during": {"rounds": [self._round, self._round + rounds - 1]}}

    def _observe(self) -> None:
        """Listen to the broker until the run has ended."""
        assert self._start is not None
        assert self._transport is not None
        members: dict[str, list[str]] = {}
        for name, above in self._scenario.topology.above.items():
            members.setdefault(above, []).append(name)
        try:
            self._transport.run([NodeObserver(self._start.run, members, self._log.note)])
        except BrokerUnreachableError as error:
            self._log.write(describe_trouble(f"answers are not shown as they come: {error}"))

    def _gather(self) -> None:
        """Write the changes of nodes, and the rounds of aggregators, until the run has ended."""
        names = self._scenario.topology.aggregators
        logs = {name: GrowingLines(self.folder / "logs" / f"{name}.jsonl") for name in names}
        interval = max(_GATHER_S, 0.002 * len(logs))
        goes_on = True
        while goes_on:
            goes_on = not self._ended.wait(interval)
            for name, log in logs.items():
                for line in log.read():
                    if b'"event": "round"' in line:
                        self._log.write(*describe_inner_round(name, json.loads(line)))
            self._log.flush()
