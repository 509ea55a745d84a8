"""An aggregator's configuration: whom it answers, its members, its settings in the game it plays."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field

from aggregator_node.node import AggregatorNode, Journal
from stackelgrid.node.config import Members, NodeConfig, Rounds
from stackelgrid.node.ledger import SqliteLedger
from stackelgrid.node.record import JsonLines, write_whole
from stackelgrid.registry import Game, find
from stackelgrid.rounds.ledger import Ledger
from stackelgrid.rounds.settings import AggregatorSettings
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Name

_LOG = logging.getLogger("aggregator_node")

Settings = TypeVar("Settings", bound=AggregatorSettings)


class AggregatorConfig(NodeConfig, Generic[Settings]):
    """Its `leader`, its `members` (EMC processes and the number of homes behind each), how rounds are kept.

    `journal_file` gets a line per round with its homes, as the log does, `account_file` what the aggregator makes of
    the settlement. From `ledger_file` it goes on after a restart; without one it begins anew.
    """

    leader: Name
    settings: Settings
    members: Annotated[list[Members], Field(min_length=1)]
    rounds: Rounds = Rounds()
    journal_file: Path | None = None
    account_file: Path | None = None
    ledger_file: Path | None = None


def config_model(game: Game) -> type[AggregatorConfig[Any]]:
    """The configuration of an aggregator in a game."""
    settings: Any = game.load("aggregator")
    return AggregatorConfig[settings]


def assemble(config: AggregatorConfig[Any], journal: Journal, conclude: Journal, ledger: Ledger) -> AggregatorNode:
    """The node of a configuration, its journal, its account of the settlement and its ledger kept by the caller."""
    game = find(config.game)
    homes = {member.name: member.homes for member in config.members}
    return AggregatorNode(
        config.name,
        Link(config.run, config.leader, game.bodies("upper"), config.slots),
        Link(config.run, config.name, game.bodies("lower"), config.slots),
        config.members,
        config.rounds.policy(),
        config.settings.strategy(config.slots, homes),
        journal=journal,
        conclude=conclude,
        ledger=ledger,
    )


def build(config: AggregatorConfig[Any]) -> AggregatorNode:
    """The node of a configuration: its journal also in the process's log, the rest where the configuration says.

    Raises `ConfigError` for a ledger of another run, `FileExistsError` for a journal that is not this ledger's.
    """
    ledger: Ledger = [] if config.ledger_file is None else SqliteLedger(config.ledger_file, config.run, config.name)
    conclude = _nowhere if config.account_file is None else partial(write_whole, config.account_file)
    journal: Journal = _nowhere
    if config.journal_file is not None:
        journal = JsonLines(config.journal_file, _written(config.journal_file) if any(ledger) else ())

    def tell(record: Mapping[str, Any]) -> None:
        _LOG.info("round", extra={"data": dict(record)})
        journal(record)

    return assemble(config, tell, conclude, ledger)


def _written(journal: Path) -> list[Any]:
    """The whole lines of a journal: the last may be half of one, of before a restart."""
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _nowhere(record: Mapping[str, Any]) -> None:
    """No file was named: the log has to do."""
