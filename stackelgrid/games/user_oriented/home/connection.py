"""The connection of a home and the inverter behind it."""

from __future__ import annotations

from typing import Annotated

from stackelgrid.model import PER_SLOT, PerSlot, Positive
from stackelgrid.rounds.settings import PrivateModel


class Connection(PrivateModel):
    """The most that the meter draws and feeds in, kW, a number or one per slot [UO-A]; what is fed in is paid [UO-FI].

    Without `draw_kw` nothing limits the draw; without `feed_in_kw` nothing is fed in.
    """

    draw_kw: Annotated[PerSlot | None, PER_SLOT] = None
    feed_in_kw: PerSlot = 0.0


class Inverter(PrivateModel):
    """The inverter that a home's PV and batteries share: at most `max_kw` go through it, either way [UO-INV]."""

    max_kw: Positive
