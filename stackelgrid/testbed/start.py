"""The moment at which all that a run needs is there and its nodes are about to start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stackelgrid.faults.controller import FaultController
from stackelgrid.testbed.run_lock import RunLock


@dataclass(frozen=True)
class RunStart:
    """A run that is about to start, in `folder` if it has one.

    Over MQTT, `run` is its name on the broker at `url`, which is of the `kind` that the run has started, None where it
    is another's; `faults` takes faults while the run goes on. `lock` is the one on its folder.
    """

    folder: Path | None
    run: str = ""
    url: str = ""
    kind: str | None = None
    faults: FaultController | None = None
    lock: RunLock | None = None
