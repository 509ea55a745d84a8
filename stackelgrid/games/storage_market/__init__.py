"""A power market of demand response aggregators that trade energy stored in residential batteries."""

from stackelgrid.registry import Game

GAME = Game(
    package=__name__,
    title="storage market",
    upper="messages:UPPER",
    lower="messages:LOWER",
    leader="leader:UtilitySettings",
    aggregator="aggregator:DraCosts",
    home="home:MarketHome",
    homes="home:StorageMarketHomes",
    scenario="scenario:StorageMarketScenario",
    outcome="outcome:StorageMarketOutcome",
    certificate="certificate:certify",
    report="report:REPORT",
    published="published:PAPER",
    small_scenario="samples:small_scenario",
    disagreement="samples:find_disagreement",
    masked="masked_form:FORM",
)
