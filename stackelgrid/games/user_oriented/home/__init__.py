"""A home as its owner describes it, and its best schedule at a price. Nothing in this package is ever sent."""

from stackelgrid.games.user_oriented.home.model import (
    Availability,
    DrawLimit,
    Elastic,
    Home,
    Inelastic,
    Satisfaction,
    Storage,
    Wear,
)
from stackelgrid.games.user_oriented.home.problem import HomeProblem, Schedule, UserOrientedHomes
from stackelgrid.games.user_oriented.home.program import InfeasibleHomeError

__all__ = [
    "Availability",
    "DrawLimit",
    "Elastic",
    "Home",
    "HomeProblem",
    "Inelastic",
    "InfeasibleHomeError",
    "Satisfaction",
    "Schedule",
    "Storage",
    "UserOrientedHomes",
    "Wear",
]
