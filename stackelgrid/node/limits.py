"""The limits of what members say, checked where it enters: their homes, the power of their connections, names."""

from __future__ import annotations

from collections.abc import Sequence

from stackelgrid.node.mailbox import Mailbox
from stackelgrid.rounds.coordinator import AnswerCheck, ReceiptCheck
from stackelgrid.wire.messages import Body, Receipt, RegisteredMember
from stackelgrid.wire.roles import Role

_ROUNDING = 1 + 1e-3
"""An answer may exceed the connections by a thousandth: meters and devices round to watts, and solvers stop early."""


def build_answer_check(members: Sequence[RegisteredMember], role: Role, mailbox: Mailbox) -> AnswerCheck:
    """Build the check of a coordinator on answers of `members`, which are all of one `role`.

    It refuses an answer for another number of homes than the member was registered with, with more power than their
    connections carry, or to which the game objects for other reasons. An aggregator may leave homes out of its sum or
    hold the answers of some; a home's process answers for each of its homes. Refusals are counted in `mailbox` and
    logged once.
    """
    registered = {member.name: member for member in members}

    def find_objection(name: str, question: Body, body: Body) -> str | None:
        member = registered[name]
        homes, held, excluded = getattr(body, "homes", member.homes), *_count_absent(body)
        if homes + excluded != member.homes:
            return f"{name} answers for {homes} homes, it has {member.homes}"
        if held > homes:
            return f"{name} holds the answers of {held} homes of {homes}"
        if role is Role.HOME and (held or excluded):
            return f"{name} leaves {held + excluded} of its own {member.homes} homes out"
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


def _count_absent(body: Body) -> tuple[int, int]:
    """Count the homes whose answers are held, and those that are left out of a sum."""
    return getattr(body, "held", 0), getattr(body, "excluded", 0)


def build_receipt_check(members: Sequence[RegisteredMember], role: Role, mailbox: Mailbox) -> ReceiptCheck:
    """Build the check of a coordinator on the names in receipts of `members`, which are all of one `role`.

    An aggregator may name each of its homes once, and no member of this coordinator. A home has nobody to name.
    Refusals are counted in `mailbox` and logged once.
    """
    below = {member.name: 0 if role is Role.HOME else member.homes for member in members}

    def refuse(receipt: Receipt) -> str | None:
        name, named = receipt.sender, receipt.missing
        others = below.keys() & set(named)
        if len(named) <= below[name] and len(set(named)) == len(named) and not others:
            return None
        found = f"{name} names {len(named)} members without the settlement, {len(others)} of them not its own"
        mailbox.reject("refused", f"{name}/receipt", found)
        return found

    return refuse
