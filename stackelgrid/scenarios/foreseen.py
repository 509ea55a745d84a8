"""A scenario in which homes or the leader plan by forecasts of what the lists per slot hold."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import Field

from stackelgrid.calendar import Session
from stackelgrid.forecast import ForecastRules
from stackelgrid.model import StrictModel
from stackelgrid.scenarios.base import Home, PopulatedScenario, Population


class ForeseenScenario(PopulatedScenario[Population, Home]):
    """Base of a scenario with the key `forecast`; `rules` is the class of its rules.

    A home of `homes`, and the leader, may have rules of their own. The outcome of such a game has a method `meter` that
    takes a session as it was foreseen and as it came, both scenarios, and how many slots of it bind.
    """

    rules: ClassVar[type[ForecastRules]] = ForecastRules

    forecast: Annotated[ForecastRules | None, Field(exclude_if=lambda forecast: forecast is None)] = None

    @property
    def has_forecasts(self) -> bool:
        """True when somebody plans by a forecast."""
        of_homes = any(_foresees(home) for home in self.homes or [])
        return self.forecast is not None or of_homes or _foresees(self.leader)

    @cached_property
    def everyone(self) -> list[Home]:
        """All homes of the scenario, with their forecasts."""
        homes = super().everyone
        shared = None if self.forecast is None else self.forecast.of_homes
        rules = [home.forecast if _foresees(home) else shared for home in homes]  # type: ignore[attr-defined]
        return [
            home if own is None else home.model_copy(update={"forecast": own.seed(self.seed, home.id)})
            for home, own in zip(homes, rules, strict=True)
        ]

    def in_session(self, session: Session, states: Mapping[str, Mapping[str, Any]] | None = None) -> Self:
        """Give a session as it is foreseen, a scenario of its own."""
        alone = super().in_session(session, states)
        return alone if alone is self else alone.model_copy(update={"forecast": None})

    def with_foresight(self) -> Self:
        """Give the scenario in which everybody knows what comes."""
        homes = self.homes and [_know(home) for home in self.homes]
        return self.change(homes=homes, leader=_know(self.leader), forecast=self.rules())

    def meter(self, session: Session, states: Mapping[str, Mapping[str, Any]], outcome: Any) -> Any:
        """Add what the meters count once the binding slots of a session have come."""
        if not self.has_forecasts:
            return outcome
        foreseen = self.in_session(session, states)
        there = {home.id for home in foreseen.everyone}
        came = [home.in_session(session, states.get(home.id)) for home in self.everyone if home.id in there]
        known = foreseen.with_homes(came).change(leader=self.leader.in_session(session))
        return outcome.meter(foreseen, known, session.binding)

    def verify(self) -> None:
        """Raise `ValueError` also for a forecast that cannot be made."""
        if self.forecast is not None:
            self.forecast.check_slots(self.slots)
        super().verify()
        if self.has_forecasts and self.calendar is None:
            raise ValueError("forecast: a run without a calendar is not dated, so that nothing comes; add one")


Model = TypeVar("Model", bound=StrictModel)


def _foresees(model: StrictModel) -> bool:
    """Tell whether a home or a leader has a forecast, in a game in which it may have one."""
    return "forecast" in type(model).model_fields and model.forecast is not None  # type: ignore[attr-defined]


def _know(model: Model) -> Model:
    """Give the home or leader that knows what comes."""
    return model.model_copy(update={"forecast": None}) if _foresees(model) else model
