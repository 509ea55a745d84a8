"""Fault plans: seeded, and the same under the virtual clock and on real processes over MQTT."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stackelgrid.node.protocol import ReportingNode, RunNode


def inject_faults(node: RunNode, source: str) -> ReportingNode:
    """Put a node in a process of its own under a fault plan; what that takes is imported only then."""
    from stackelgrid.faults.on_process import inject

    return inject(node, source)
