"""Fault plans: seeded, and the same under the virtual clock and on real processes over MQTT."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stackelgrid.node.protocol import ReportingNode, RunNode


def inject_faults(node: RunNode, source: str, wake: Callable[[], None]) -> ReportingNode:
    """Put a node in a process of its own under a fault plan; what that takes is imported only then.

    `wake` has the node's transport call its `tick`, from any thread.
    """
    from stackelgrid.faults.on_process import inject

    return inject(node, source, wake)
