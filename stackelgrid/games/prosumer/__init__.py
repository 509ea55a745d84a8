"""A Game Theoretic Approach for Demand Response Allocation among Strategic Prosumers in Regulated Utilities."""

from stackelgrid.registry import Game

GAME = Game(
    package=__name__,
    title="prosumers",
    upper="messages:UPPER",
    lower="messages:LOWER",
    leader="leader:UtilitySettings",
    aggregator="aggregator:ProsumerSettings",
    home="home:Prosumer",
    homes="home:ProsumerHomes",
    scenario="scenario:ProsumerScenario",
    outcome="outcome:ProsumerOutcome",
    certificate="certificate:certify",
    report="report:REPORT",
    published="published:PAPER",
    small_scenario="samples:small_scenario",
)
