"""Scenarios: the models of their files, the data they draw on, and the case studies that come with the package."""

from stackelgrid.scenarios.base import Between, PopulatedScenario, Scenario
from stackelgrid.scenarios.files import ScenarioError, dump, list_shipped, load, read_template
from stackelgrid.scenarios.foreseen import ForeseenScenario

__all__ = [
    "Between",
    "ForeseenScenario",
    "PopulatedScenario",
    "Scenario",
    "ScenarioError",
    "dump",
    "list_shipped",
    "load",
    "read_template",
]
