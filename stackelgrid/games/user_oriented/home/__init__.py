"""A home as its owner describes it, and its best schedule at a price. Nothing in this package is ever sent."""

from stackelgrid.games.user_oriented.home.answer import DeviceRates, Schedule
from stackelgrid.games.user_oriented.home.battery import Wear
from stackelgrid.games.user_oriented.home.connection import Connection
from stackelgrid.games.user_oriented.home.deferrable import Deferrable
from stackelgrid.games.user_oriented.home.ev import EV
from stackelgrid.games.user_oriented.home.heat_pump import HeatPump
from stackelgrid.games.user_oriented.home.model import (
    Availability,
    DrawLimit,
    Elastic,
    Home,
    Inelastic,
    Satisfaction,
    Starts,
    Storage,
)
from stackelgrid.games.user_oriented.home.pv import PV
from stackelgrid.games.user_oriented.home.quadratic_program import InfeasibleHomeError
from stackelgrid.games.user_oriented.home.schedule import HomeProblem
from stackelgrid.games.user_oriented.home.start_choice import pose_problem
from stackelgrid.games.user_oriented.home.strategy import UserOrientedHomes

__all__ = [
    "EV",
    "PV",
    "Availability",
    "Connection",
    "Deferrable",
    "DeviceRates",
    "DrawLimit",
    "Elastic",
    "HeatPump",
    "Home",
    "HomeProblem",
    "Inelastic",
    "InfeasibleHomeError",
    "Satisfaction",
    "Schedule",
    "Starts",
    "Storage",
    "UserOrientedHomes",
    "Wear",
    "pose_problem",
]
