"""A User-Oriented Pricing Design for Demand Response in Smart Grid."""

from stackelgrid.games import Game
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.user_oriented import LoadResponse, Price

GAME = Game(
    title="user-oriented pricing",
    upper=Bodies(Price, LoadResponse, Price),
    lower=Bodies(Price, LoadResponse, Price),
    leader="leader_node.user_oriented:UtilitySettings",
    aggregator="aggregator_node.user_oriented:AggregatorSettings",
    home="emc_node.home:Home",
    homes="emc_node.user_oriented:UserOrientedHomes",
    scenario="stackelgrid.testbed.user_oriented:UserOrientedScenario",
    report="stackelgrid.report.user_oriented:REPORT",
)
