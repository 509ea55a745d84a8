"""Homes whose slots have any length, written as homes whose slots are hours, by a change of units.

With the level in kWh per Δ, beta = b / Δ, the storage of [UO-3] is that of hours, beta_t = beta_0 + sum r, its capacity
and its bounds divided by Δ. The wear [UO-4] is fast r^2 + deep Δ^2 min(beta - depth B / Δ, 0)^2 an hour, and all money
is Δ times that of the hours. So the reference needs no Δ of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from stackelgrid.games.user_oriented.home import Home


def rewrite_as_hourly(homes: Sequence[Home]) -> list[Home]:
    """Give homes with the same loads at the same prices, whose slots are hours; their money is that over Δ.

    Those whose devices are scheduled together stay as they are: their own reference knows Δ.
    """
    return [home if home.slot_hours == 1 or home.flows_together else _rewrite(home) for home in homes]


def _rewrite(home: Home) -> Home:
    hours = home.slot_hours
    storage = [
        each.model_copy(
            update={
                "capacity_kwh": each.capacity_kwh / hours,
                "initial_kwh": each.initial_kwh / hours,
                "final_kwh": each.least_final_kwh / hours,
                "wear": each.wear.model_copy(update={"deep": each.wear.deep * hours**2}),
            }
        )
        for each in home.storage
    ]
    return home.model_copy(update={"storage": storage, "slot_hours": 1.0})
