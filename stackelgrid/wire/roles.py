"""The roles of a node in a run."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """The role of a node in a run: the leader, an aggregator or a home (an EMC process)."""

    LEADER = "leader"
    AGGREGATOR = "aggregator"
    HOME = "home"


def role_uri(role: str) -> str:
    """Write a role as the URI that stands in the certificates of its owners, among the alternative names."""
    return f"stackelgrid:role:{role}"


REGISTRAR = "registrar"
"""The name of the registrar in every run; its topics have it where those of a conversation have the coordinator."""
ENROLMENT = "enrolment"
"""The level of a stranger's topics that stands in the place of a run."""
