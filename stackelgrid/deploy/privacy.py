"""The level of privacy of a deployed scenario that chooses none."""

from __future__ import annotations

from stackelgrid.errors import ConfigError
from stackelgrid.scenarios import Scenario


def protect(scenario: Scenario) -> tuple[Scenario, list[str]]:
    """Give the scenario at the highest level that it can keep, and in sentences which that is, and why no higher.

    Sums are masked where the game and the groups allow it; else homes keep their sensitivity. A scenario that chooses
    `sums` or `sensitivity` stays as it is. Raises `ConfigError` where homes would refuse the leader's prices.
    """
    privacy = scenario.privacy
    if privacy.model_fields_set & {"sums", "sensitivity"}:
        return scenario, [f"sums {privacy.sums}, sensitivity {privacy.sensitivity}, as the scenario says"]
    masked = scenario.change(privacy=privacy.model_copy(update={"sums": "committee"}))
    try:
        masked.check_privacy()
    except ValueError as error:
        kept, told = scenario.keep_sensitivities()
        reason = str(error)
    else:
        return masked, [f"aggregators read masked sums of {privacy.minimum_group} homes or more (sums committee)"]
    try:
        kept.check_privacy()
    except ValueError as error:
        raise ConfigError(f"{error}, or choose sums and sensitivity of privacy yourself") from None
    return kept, [told, f"sums are not masked: {reason}"]
