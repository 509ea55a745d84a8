"""The leader's configuration: its settings in the game it plays, and its aggregators."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import Field, model_validator

from leader_node.node import Journal, LeaderNode
from stackelgrid.node.config import Members, NodeConfig, Rounds
from stackelgrid.node.ledger import SqliteLedger
from stackelgrid.node.record import JsonLines, write_whole
from stackelgrid.registry import Game, find
from stackelgrid.rounds.ledger import Ledger
from stackelgrid.rounds.settings import LeaderSettings
from stackelgrid.wire.codec import Link

Settings = TypeVar("Settings", bound=LeaderSettings)


class LeaderConfig(NodeConfig, Generic[Settings]):
    """The utility's settings, its `members` (aggregators), how rounds are kept.

    `journal_file` gets a line per round, `conclusion_file` how it ended. From `ledger_file` it goes on after a restart;
    without one it begins anew.
    """

    utility: Settings
    members: Annotated[list[Members], Field(min_length=1)]
    rounds: Rounds = Rounds()
    journal_file: Path | None = None
    conclusion_file: Path | None = None
    ledger_file: Path | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            self.utility.check_slots(self.slots)
        except ValueError as error:
            raise ValueError(f"utility.{error}") from None
        return self


def config_model(game: Game) -> type[LeaderConfig[Any]]:
    """The configuration of a leader in a game."""
    settings: Any = game.load("leader")
    return LeaderConfig[settings]


def assemble(config: LeaderConfig[Any], journal: Journal, conclude: Journal, ledger: Ledger) -> LeaderNode:
    """The node of a configuration, its journal, its conclusion and its ledger kept by the caller."""
    return LeaderNode(
        config.name,
        Link(config.run, config.name, find(config.game).bodies("upper"), config.slots),
        config.members,
        config.rounds.policy(),
        config.utility.strategy(config.slots),
        max_rounds=config.utility.max_rounds,
        journal=journal,
        conclude=conclude,
        ledger=ledger,
    )


def build(config: LeaderConfig[Any]) -> LeaderNode:
    """The node of a configuration, writing where the configuration says.

    Raises `ConfigError` for a ledger of another run, `FileExistsError` for a journal that is not this ledger's.
    """
    ledger: Ledger = [] if config.ledger_file is None else SqliteLedger(config.ledger_file, config.run, config.name)
    journal: Journal = _nowhere
    if config.journal_file is not None:
        journal = JsonLines(config.journal_file, [entry["account"] for entry in ledger])
    conclude = _nowhere if config.conclusion_file is None else partial(write_whole, config.conclusion_file)
    return assemble(config, journal, conclude, ledger)


def _nowhere(record: Mapping[str, Any]) -> None:
    """No file was named: the log has to do."""
