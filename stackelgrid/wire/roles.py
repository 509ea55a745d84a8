"""The roles of a node in a run."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """The role of a node in a run: the leader, an aggregator or a home (an EMC process)."""

    LEADER = "leader"
    AGGREGATOR = "aggregator"
    HOME = "home"
