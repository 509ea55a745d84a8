"""A User-Oriented Pricing Design for Demand Response in Smart Grid."""

from stackelgrid.registry import Game

GAME = Game(
    package=__name__,
    title="user-oriented pricing",
    upper="messages:UPPER",
    lower="messages:LOWER",
    leader="leader:UtilitySettings",
    aggregator="aggregator:UserOrientedSettings",
    home="home:Home",
    homes="home:UserOrientedHomes",
    scenario="scenario:UserOrientedScenario",
    outcome="outcome:UserOrientedOutcome",
    certificate="certificate:certify",
    report="report:REPORT",
    published="published:PAPER",
    small_scenario="samples:small_scenario",
    settled_price="samples:settled_price",
    precision=1e-4,  # the leader ends where its utility gains less than 1e-9, which is flat at its top
    masked="masked_form:FORM",
    algorithms="algorithms:ALGORITHMS",
)
