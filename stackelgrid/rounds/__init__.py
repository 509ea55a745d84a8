"""The round protocol: someone asks, the members answer, someone decides whether to ask again.

`Coordinator` and `Member` are pure state machines: messages and clock readings in, steps out. They open no socket,
read no clock and know no game.
"""

from stackelgrid.rounds.coordinator import Acknowledged, Coordinator, Gathered, Lost, Round, RoundPolicy
from stackelgrid.rounds.member import Asked, Member, Settled

__all__ = [
    "Acknowledged",
    "Asked",
    "Coordinator",
    "Gathered",
    "Lost",
    "Member",
    "Round",
    "RoundPolicy",
    "Settled",
]
