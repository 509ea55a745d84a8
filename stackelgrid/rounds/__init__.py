"""The round protocol: a coordinator asks, its members answer, the coordinator asks again or settles.

`Coordinator` and `Member` are pure state machines: they take messages and clock readings and return steps. They open no
socket, read no clock and know no game.
"""

from stackelgrid.rounds.coordinator import (
    Coordinator,
    MembersGathered,
    MembersLost,
    Offence,
    Round,
    RoundPolicy,
    SettlementAcknowledged,
)
from stackelgrid.rounds.member import Member, QuestionReceived, RefusalReceived, SettlementReceived

__all__ = [
    "Coordinator",
    "Member",
    "MembersGathered",
    "MembersLost",
    "Offence",
    "QuestionReceived",
    "RefusalReceived",
    "Round",
    "RoundPolicy",
    "SettlementAcknowledged",
    "SettlementReceived",
]
