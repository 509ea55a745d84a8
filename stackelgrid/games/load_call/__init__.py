"""A Stackelberg Game of Demand Response from the Aggregator's Perspective."""

from stackelgrid.registry import Game

GAME = Game(
    package=__name__,
    title="load calls",
    upper="messages:UPPER",
    lower="messages:LOWER",
    leader="leader:UtilitySettings",
    aggregator="aggregator:LoadCallSettings",
    home="home:Consumer",
    homes="home:LoadCallHomes",
    scenario="scenario:LoadCallScenario",
    outcome="outcome:LoadCallOutcome",
    certificate="certificate:certify",
    report="report:REPORT",
    published="published:PAPER",
    small_scenario="samples:small_scenario",
)
