"""A Stackelberg Game of Demand Response from the Aggregator's Perspective."""

from stackelgrid.games import Game
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.load_call import Achieved, Call, Mission, Shift

GAME = Game(
    title="load calls",
    upper=Bodies(Mission, Achieved, Mission),
    lower=Bodies(Call, Shift, Call, addressed=True),
    leader="leader_node.load_call:UtilitySettings",
    aggregator="aggregator_node.load_call:AggregatorSettings",
    home="emc_node.load_call:Consumer",
    homes="emc_node.load_call:Consumers",
    scenario="stackelgrid.testbed.load_call:LoadCallScenario",
    report="stackelgrid.report.load_call:REPORT",
)
