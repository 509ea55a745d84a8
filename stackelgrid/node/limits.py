"""The limits of an answer, checked before it enters a sum: the homes of a member and the power of their connections."""

from __future__ import annotations

from collections.abc import Sequence

from stackelgrid.node.config import MemberConfig
from stackelgrid.node.mailbox import Mailbox
from stackelgrid.rounds.coordinator import AnswerCheck
from stackelgrid.wire.messages import Body

_ROUNDING = 1 + 1e-9


def refusals(members: Sequence[MemberConfig], mailbox: Mailbox) -> AnswerCheck:
    """Build the check of a coordinator on answers of `members`.

    It refuses an answer for another number of homes than the member was registered with, with more power than their
    connections carry, or to which the game objects for other reasons. Refusals are counted in `mailbox` and logged
    once.
    """
    registered = {member.name: member for member in members}

    def find_objection(name: str, question: Body, body: Body) -> str | None:
        member = registered[name]
        homes = getattr(body, "homes", member.homes)
        if homes + getattr(body, "excluded", 0) != member.homes:
            return f"{name} answers for {homes} homes, it has {member.homes}"
        power = body.peak_kw
        if power is not None and member.max_kw is not None and power > member.max_kw * _ROUNDING:
            return f"{name} answers with {power:g} kW, its connections carry {member.max_kw:g}"
        objection = body.find_objection(question, member.max_kw)
        return None if objection is None else f"{name}: {objection}"

    def refuse(name: str, question: Body, body: Body) -> str | None:
        found = find_objection(name, question, body)
        if found is not None:
            mailbox.reject("refused", f"{name}/answer", found)
        return found

    return refuse
