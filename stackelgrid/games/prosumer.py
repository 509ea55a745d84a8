"""A Game Theoretic Approach for Demand Response Allocation among Strategic Prosumers in Regulated Utilities."""

from stackelgrid.games import Game
from stackelgrid.wire.codec import Bodies
from stackelgrid.wire.prosumer import Offer, Prosumption, Provision, PvPrice

GAME = Game(
    title="prosumers",
    upper=Bodies(Offer, Provision, Offer, addressed=True),
    lower=Bodies(PvPrice, Prosumption, PvPrice, addressed=True),
    leader="leader_node.prosumer:UtilitySettings",
    aggregator="aggregator_node.prosumer:ProviderSettings",
    home="emc_node.prosumer:Prosumer",
    homes="emc_node.prosumer:Prosumers",
    scenario="stackelgrid.testbed.prosumer:ProsumerScenario",
    report="stackelgrid.report.prosumer:REPORT",
)
