"""Who takes part in the leader's sessions: the members of its configuration, later those of the newest roster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stackelgrid.node.limits import MemberLimits, register_aggregator
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.transport.base import Publish
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import AggregatorRoster, RegisteredMember, Roster
from stackelgrid.wire.roles import Role


class Membership:
    """The aggregators of a run.

    A roster counts from the session after the one in which it came. An aggregator without homes is no member. Where
    members cannot change, `fixed` says why. `link` is the one to the members that there are now, `limits` theirs.
    """

    def __init__(self, link: Link, members: Sequence[RegisteredMember], mailbox: Mailbox, fixed: str) -> None:
        self.link = link
        self.limits = MemberLimits(members, Role.AGGREGATOR, mailbox)
        self._members, self._mailbox, self._fixed = members, mailbox, fixed
        self._roster: Roster | None = None
        self._next: Roster | None = None
        self._told = {member.name for member in members}  # the aggregators that know of members below them

    def note(self, roster: Roster) -> bool:
        """Keep a roster for the next session; tell whether it is newer than what is known."""
        known = self._next or self._roster
        if known is not None and roster.number <= known.number:
            return False
        if self._fixed:
            self._mailbox.reject("refused", "roster", f"roster {roster.number} is not taken up: {self._fixed}")
            return False
        self._next = roster
        return True

    def begin_session(self) -> bool:
        """Take up the newest roster; tell whether there is a new one."""
        roster, self._next = self._next, None
        if roster is None:
            self.limits.begin_session(self._members)
        else:
            self.adopt(roster)
        return roster is not None

    def adopt(self, roster: Roster) -> None:
        """Take up a roster, also one from before a restart."""
        self._roster = roster
        self._members = [register_aggregator(name, members) for name, members in roster.aggregators.items() if members]
        self.limits.begin_session(self._members)
        homes = max((member.homes for member in self._members), default=1)
        link = replace(self.link, homes=max(self.link.homes or 1, homes))
        self._mailbox.replace(self.link, link)
        self.link = link

    @property
    def names(self) -> list[str]:
        """The names of the members."""
        return [member.name for member in self._members]

    def announce(self, session: int) -> list[Publish]:
        """Tell each aggregator its members; one that had some and is in no roster any more, that it has none."""
        if self._roster is None:
            return []
        aggregators = self._roster.aggregators
        self._told |= aggregators.keys()
        return [
            self._announce(session, self._roster.number, name, aggregators.get(name, [])) for name in sorted(self._told)
        ]

    def _announce(self, session: int, number: int, name: str, members: list[RegisteredMember]) -> Publish:
        link = self.link
        roster = AggregatorRoster(
            run=link.run, sender=link.coordinator, session=session, number=number, members=members
        )
        return Publish(link.topic(roster, name), link.write(roster), qos=1, retain=True)

    def leave(self) -> list[Publish]:
        """Clear what aggregators were told, which is of this run alone."""
        told = [] if self._roster is None else sorted(self._told)
        return [Publish(self.link.topic_of_roster(name), b"", qos=1, retain=True) for name in told]

    @property
    def entry(self) -> Mapping[str, Any]:
        """The roster in force for an entry of the ledger; nothing as long as there is none."""
        return {} if self._roster is None else {"roster": self._roster.model_dump(mode="json", by_alias=True)}

    @property
    def record(self) -> Mapping[str, Any]:
        """The roster in force for the record of a session; nothing as long as there is none."""
        if self._roster is None:
            return {}
        homes = {name: [home.name for home in members] for name, members in self._roster.aggregators.items()}
        return {"roster": {"number": self._roster.number, "members": homes}}
