"""The leader's configuration: the utility company's own figures and its aggregators."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from leader_node.node import Journal, LeaderNode
from leader_node.user_oriented import UserOrientedLeader, adaptive_balance, fixed_balance
from leader_node.utility_company import UtilityCompany
from stackelgrid.node.config import Members, NodeConfig, Rounds
from stackelgrid.node.record import JsonLines, write_whole
from stackelgrid.wire.arrays import Finite, Vector
from stackelgrid.wire.codec import Link
from stackelgrid.wire.user_oriented import LoadResponse, Price

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel):
    """Base of the leader's settings: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FixedBalance(Part):
    """The same charge on deviation in every slot: `mu` of the leader's settings."""

    kind: Literal["fixed"] = "fixed"


class AdaptiveBalance(Part):
    """`high` times mu in slots whose baseline load is more than `threshold` of the mean away from it, else `low`."""

    kind: Literal["adaptive"]
    high: NonNegative = 2.0
    low: NonNegative = 0.5
    threshold: NonNegative = 0.15


class Capacity(Part):
    """Bounds on the total load, kW."""

    min_kw: NonNegative = 0.0
    max_kw: Positive | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_kw is not None and self.min_kw > self.max_kw:
            raise ValueError(f"min_kw {self.min_kw:g} is above max_kw {self.max_kw:g}")
        return self


class UtilitySettings(Part):
    """The utility company of the user-oriented pricing game.

    `baseline_price` is the flat price before the game, `wholesale_price` c_t a number or one per slot, both in money
    per kWh. `mu` is the charge on deviation in money per kWh per mean kW of the baseline load. `price_min` and
    `price_max` bound the price of a `stackelberg` leader, as a regulator would; a `welfare` price follows cost alone.
    """

    objective: Literal["stackelberg", "welfare"] = "stackelberg"
    baseline_price: Positive
    wholesale_price: Finite | Vector
    mu: NonNegative
    balance: FixedBalance | AdaptiveBalance = Field(default=FixedBalance(), discriminator="kind")
    capacity: Capacity = Capacity()
    price_min: NonNegative = 0.0
    price_max: Positive
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] = 40

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if not self.price_min <= self.baseline_price <= self.price_max:
            raise ValueError(
                f"baseline_price {self.baseline_price:g} is outside price_min {self.price_min:g} .. "
                f"price_max {self.price_max:g}"
            )
        return self

    def company(self, slots: int) -> UtilityCompany:
        """The same as arrays, the charge on deviation still unknown (zero)."""
        return UtilityCompany(
            wholesale_price=np.broadcast_to(np.array(self.wholesale_price, float), (slots,)).copy(),
            mu=np.zeros(slots),
            load_min=np.full(slots, self.capacity.min_kw or -np.inf),
            load_max=np.full(slots, self.capacity.max_kw or np.inf),
            price_min=self.price_min,
            price_max=self.price_max,
        )

    def strategy(self, slots: int) -> UserOrientedLeader:
        """The leader's strategy over a horizon of `slots`."""
        if isinstance(self.balance, AdaptiveBalance):
            kind = self.balance
            balance = partial(adaptive_balance, kind.high * self.mu, kind.low * self.mu, kind.threshold)
        else:
            balance = partial(fixed_balance, self.mu)
        flat = np.full(slots, self.baseline_price)
        return UserOrientedLeader(self.company(slots), self.objective, flat, balance, self.tolerance)


class LeaderConfig(NodeConfig):
    """The utility's settings, its `members` (aggregators), how rounds are kept.

    `journal_file` gets a line per round, `conclusion_file` how it ended.
    """

    utility: UtilitySettings
    members: Annotated[list[Members], Field(min_length=1)]
    rounds: Rounds = Rounds()
    journal_file: Path | None = None
    conclusion_file: Path | None = None

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        price = self.utility.wholesale_price
        if isinstance(price, list) and len(price) != self.slots:
            raise ValueError(f"utility.wholesale_price has {len(price)} numbers, the horizon has {self.slots} slots")
        return self


def assemble(config: LeaderConfig, journal: Journal, conclude: Journal) -> LeaderNode:
    """The node of a configuration, its journal kept by the caller."""
    link = Link(config.run, config.name, Price, LoadResponse, Price, config.slots)
    return LeaderNode(
        config.name,
        link,
        [member.name for member in config.members],
        config.rounds.policy(),
        config.utility.strategy(config.slots),
        max_rounds=config.utility.max_rounds,
        journal=journal,
        conclude=conclude,
    )


def build(config: LeaderConfig) -> LeaderNode:
    """The node of a configuration, writing its journal where the configuration says."""
    journal: Journal = _nowhere if config.journal_file is None else JsonLines(config.journal_file)
    conclude = _nowhere if config.conclusion_file is None else partial(write_whole, config.conclusion_file)
    return assemble(config, journal, conclude)


def _nowhere(record: Mapping[str, Any]) -> None:
    """No file was named: the log has to do."""
