"""The limits of what members say, checked where it enters: their homes, the power of their connections, names."""

from __future__ import annotations

from collections.abc import Sequence

from stackelgrid.node.mailbox import Mailbox
from stackelgrid.wire.messages import Body, Receipt, RegisteredMember
from stackelgrid.wire.roles import Role

_ROUNDING = 1 + 1e-3
"""An answer may exceed the connections by a thousandth: meters and devices round to watts, and solvers stop early."""


class MemberLimits:
    """The limits of what the `members` of a coordinator say, who are all of one `role`.

    Refusals are counted in `mailbox` and logged once.
    """

    def __init__(self, members: Sequence[RegisteredMember], role: Role, mailbox: Mailbox) -> None:
        self._role, self._mailbox = role, mailbox
        self._members = members
        self._registered = {member.name: [member] for member in members}

    def begin_session(self, members: Sequence[RegisteredMember]) -> None:
        """Go on to a session with these members.

        An aggregator that missed its roster plays one session with its homes of before, so that an answer may be what
        either roster allows.
        """
        self._registered = {member.name: [member] for member in members}
        if self._role is Role.AGGREGATOR:
            for before in self._members:
                if before not in self._registered.get(before.name, [before]):
                    self._registered[before.name].append(before)
        self._members = members

    def check_answer(self, name: str, question: Body, body: Body) -> str | None:
        """Give the reason why an answer of member `name` is refused, or None.

        It is for another number of homes than the member was registered with, has more power than their connections
        carry, or the game objects to it for other reasons. An aggregator may leave homes out of its sum or hold the
        answers of some; a home's process answers for each of its homes.
        """
        found = [self._find_objection(member, question, body) for member in self._registered[name]]
        if None in found:
            return None
        self._mailbox.reject("refused", f"{name}/answer", str(found[0]))
        return found[0]

    def _find_objection(
        self, member: RegisteredMember, question: Body, body: Body, *, of_several: bool = False
    ) -> str | None:
        name = member.name
        homes, held, excluded = getattr(body, "homes", member.homes), *_count_absent(body)
        if homes + excluded != member.homes:
            return f"{name} answers for {homes} homes, it has {member.homes}"
        if held > homes:
            return f"{name} holds the answers of {held} homes of {homes}"
        if self._role is Role.HOME and (held or excluded) and not of_several:
            return f"{name} leaves {held + excluded} of its own {member.homes} homes out"
        power = body.peak_kw
        if power is not None and member.max_kw is not None and power > member.max_kw * _ROUNDING:
            return f"{name} answers with {power:g} kW, its connections carry {member.max_kw:g}"
        objection = body.find_objection(question, member.max_kw)
        return None if objection is None else f"{name}: {objection}"

    def check_sum(self, group: str, names: Sequence[str], question: Body, body: Body) -> str | None:
        """Give the reason why the sum of the answers of a group of members is refused, or None.

        It is held against what their connections carry together.
        """
        all_of_them = register_aggregator(group, [member for name in names for member in self._registered[name]])
        objection = self._find_objection(all_of_them, question, body, of_several=True)
        if objection is not None:
            self._mailbox.reject("refused", group, objection)
        return objection

    def add_limits(self, names: Sequence[str]) -> float | None:
        """Add up what the connections of members carry, None where that is not known of each."""
        return _add_limits([member for name in names for member in self._registered[name]])

    def check_receipt(self, receipt: Receipt) -> str | None:
        """Give the reason why the names in a receipt are refused, or None.

        An aggregator may name each of its homes once, and no member of this coordinator. A home has nobody to name.
        """
        name, named = receipt.sender, receipt.missing
        most = 0 if self._role is Role.HOME else max(member.homes for member in self._registered[name])
        others = self._registered.keys() & set(named)
        if len(named) <= most and len(set(named)) == len(named) and not others:
            return None
        found = f"{name} names {len(named)} members without the settlement, {len(others)} of them not its own"
        self._mailbox.reject("refused", f"{name}/receipt", found)
        return found


def register_aggregator(name: str, members: Sequence[RegisteredMember]) -> RegisteredMember:
    """Register an aggregator with its leader: the homes of its `members`, and what their connections carry together.

    That is unknown where one of them is.
    """
    return RegisteredMember(name=name, homes=sum(member.homes for member in members), max_kw=_add_limits(members))


def _add_limits(members: Sequence[RegisteredMember]) -> float | None:
    known = [member.max_kw for member in members if member.max_kw is not None]
    return sum(known) if members and len(known) == len(members) else None


def _count_absent(body: Body) -> tuple[int, int]:
    """Count the homes whose answers are held, and those that are left out of a sum."""
    return getattr(body, "held", 0), getattr(body, "excluded", 0)
