"""A power market of demand response aggregators that trade energy stored in residential batteries."""

from stackelgrid.games import Game
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.storage_market import Clearing, DraAnswer, FleetPlan, HomesAnswer, MarketSignal, Tariff

GAME = Game(
    title="storage market",
    upper=Bodies(MarketSignal, DraAnswer, Clearing),
    lower=Bodies(Tariff, HomesAnswer, FleetPlan),
    leader="leader_node.storage_market:UtilitySettings",
    aggregator="aggregator_node.storage_market:DraCosts",
    home="emc_node.storage_market:MarketHome",
    homes="emc_node.storage_market:StorageMarketHomes",
    scenario="stackelgrid.testbed.storage_market:StorageMarketScenario",
    report="stackelgrid.report.storage_market:REPORT",
)
