"""The round protocol: someone asks, the members answer, someone decides whether to ask again.

`Coordinator` and `Member` are pure state machines: messages and clock readings in, steps out. They open no socket,
read no clock and know no game.
"""

from stackelgrid.rounds.coordinator import (
    Coordinator,
    MembersGathered,
    MembersLost,
    Round,
    RoundPolicy,
    SettlementAcknowledged,
)
from stackelgrid.rounds.member import Member, QuestionReceived, SettlementReceived

__all__ = [
    "Coordinator",
    "Member",
    "MembersGathered",
    "MembersLost",
    "QuestionReceived",
    "Round",
    "RoundPolicy",
    "SettlementAcknowledged",
    "SettlementReceived",
]
