"""An aggregator's configuration: its leader, its members, its settings in the game it plays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import Field, model_validator

from aggregator_node.masked_rounds import Masks
from aggregator_node.node import AggregatorNode
from stackelgrid.masks.sums import SumSettings
from stackelgrid.node.config import NodeConfig, Rounds, most_homes
from stackelgrid.node.heartbeat import with_heartbeat
from stackelgrid.node.ledger import SqliteLedger
from stackelgrid.node.private_sums import vouch_by
from stackelgrid.node.protocol import RunNode
from stackelgrid.node.record import JsonLines, Recorder, cut_lines, discard, open_record
from stackelgrid.registry import Game, find
from stackelgrid.rounds.ledger import Ledger
from stackelgrid.rounds.settings import AggregatorSettings, PrivacySettings
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import MAX_NAMES, Message, RegisteredMember
from stackelgrid.wire.names import Name

_LOG = logging.getLogger("aggregator_node")

Settings = TypeVar("Settings", bound=AggregatorSettings)


class AggregatorConfig(NodeConfig, Generic[Settings]):
    """Its `leader`, its `members` (EMC processes and the number of homes of each) and the rules of its rounds.

    In a grid members may come by a roster alone. Of `privacy` it has to know whether answers are masked, and in which
    groups they are added.

    The node writes a line per round with its homes to `journal_file`, as it does to the log, and its account of the
    settlement to `account_file`, where a run has several sessions a line for each. After a restart it goes on from
    `ledger_file`; without that file it begins anew.
    """

    leader: Name
    settings: Settings
    members: Annotated[list[RegisteredMember], Field(max_length=MAX_NAMES)]
    rounds: Rounds = Rounds()
    privacy: Annotated[PrivacySettings, Field(exclude_if=lambda privacy: privacy == PrivacySettings())] = (
        PrivacySettings()
    )
    journal_file: Path | None = None
    account_file: Path | None = None
    ledger_file: Path | None = None

    @model_validator(mode="after")
    def _check_members(self) -> Self:
        if not self.members and self.registrar is None:
            raise ValueError("members: nobody, and no roster comes in a run without gates; name its EMC processes")
        return self


@cache
def config_model(game: Game) -> type[AggregatorConfig[Any]]:
    """Give the model of an aggregator's configuration in a game."""
    settings: Any = game.load("aggregator")
    return AggregatorConfig[settings]


def assemble(
    config: AggregatorConfig[Any],
    journal: Recorder,
    conclude: Recorder,
    ledger: Ledger,
    listen: Callable[[Message], None] | None = None,
) -> AggregatorNode:
    """Create the node of a configuration with a journal, an account of the settlement and a ledger of the caller's.

    `listen` hears its messages with the homes.
    """
    game = find(config.game)
    homes, slots = {member.name: member.homes for member in config.members}, config.session_slots
    masked, most, policy = config.privacy.sums == "committee", most_homes(config.members), config.rounds.policy()
    if masked:  # a sum without a home that was in the one before would show what that home has answered
        policy = replace(policy, quarantine_after=0)
    sums = SumSettings(config.privacy.minimum_group, policy.deadline_s, policy.tries)
    if masked and config.tls is not None:
        sums = replace(sums, vouch=vouch_by(config.tls))
    return AggregatorNode(
        config.name,
        Link(config.run, config.leader, game.bodies("upper"), slots, sum(homes.values()) or 1, config.fingerprint),
        Link(config.run, config.name, game.bodies("lower"), slots, most, config.fingerprint, listen, masked),
        config.members,
        policy,
        config.settings,
        config.sessions,
        journal=journal,
        conclude=conclude,
        ledger=ledger,
        registrar=config.registrar,
        of_grid=config.gates is not None,
        masks=Masks(game.load("masked"), sums, game.bodies("lower").answer) if masked else None,
    )


def build(config: AggregatorConfig[Any]) -> RunNode:
    """Create the node of a configuration with the files that the configuration names; it logs its journal too.

    Raises `ConfigError` for a ledger of another game, `FileExistsError` for a journal that belongs to another ledger.
    """
    ledger: Ledger = [] if config.ledger_file is None else SqliteLedger(config.ledger_file, config.terms())
    conclude = discard if config.account_file is None else open_record(config.account_file, len(config.sessions))
    journal: Recorder = discard
    if config.journal_file is not None:
        goes_on = config.gates is not None or any(ledger)
        if goes_on:
            cut_lines(config.journal_file, lambda account: True)
        journal = JsonLines(config.journal_file, goes_on=goes_on)

    def record(account: Mapping[str, Any]) -> None:
        _LOG.info("round", extra={"data": dict(account)})
        journal(account)

    if config.history_file is None:
        return with_heartbeat(assemble(config, record, conclude, ledger), config)
    from stackelgrid.history.recording import CoordinatorHistory, open_file

    history = CoordinatorHistory(open_file(config, AggregatorNode.role), config.sessions)
    recorders = (history.wrap_journal(record), conclude, history.wrap_ledger(ledger))
    return with_heartbeat(assemble(config, *recorders, history.hear), config)
