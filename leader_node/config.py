"""The leader's configuration: its settings in the game it plays, and its aggregators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import Field, model_validator

from leader_node.node import LeaderNode
from stackelgrid.gates import Clock, Timetable, read_wall_clock
from stackelgrid.node.config import NodeConfig, Rounds, most_homes
from stackelgrid.node.ledger import SqliteLedger
from stackelgrid.node.record import JsonLines, Recorder, WholeFile, cut_lines, discard
from stackelgrid.registry import Game, find
from stackelgrid.rounds.ledger import Entry, Ledger
from stackelgrid.rounds.settings import LeaderSettings
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import MAX_NAMES, Message, RegisteredMember

Settings = TypeVar("Settings", bound=LeaderSettings)


class LeaderConfig(NodeConfig, Generic[Settings]):
    """The utility's settings, its `members` (the aggregators) and the rules of its rounds.

    The node writes a line per round to `journal_file` and how its sessions ended to `conclusion_file`, in a grid a line
    per session. After a restart it goes on from `ledger_file`; without that file it begins anew.
    """

    utility: Settings
    members: Annotated[list[RegisteredMember], Field(min_length=1, max_length=MAX_NAMES)]
    rounds: Rounds = Rounds()
    journal_file: Path | None = None
    conclusion_file: Path | None = None
    ledger_file: Path | None = None

    @model_validator(mode="after")
    def _check_slots(self) -> Self:
        try:
            self.utility.check_slots(self.slots)
        except ValueError as error:
            raise ValueError(f"utility.{error}") from None
        return self


@cache
def config_model(game: Game) -> type[LeaderConfig[Any]]:
    """Give the model of a leader's configuration in a game."""
    settings: Any = game.load("leader")
    return LeaderConfig[settings]


def assemble(
    config: LeaderConfig[Any],
    journal: Recorder,
    conclude: Recorder,
    ledger: Ledger,
    clock: Clock = read_wall_clock,
    listen: Callable[[Message], None] | None = None,
) -> LeaderNode:
    """Create the node of a configuration with a journal, a conclusion, a ledger and a clock of the caller's.

    `listen` hears its messages with the aggregators.
    """
    bodies, homes = find(config.game).bodies("upper"), most_homes(config.members)
    return LeaderNode(
        config.name,
        Link(config.run, config.name, bodies, config.session_slots, homes, config.fingerprint, listen),
        config.members,
        config.rounds.policy(),
        config.utility,
        config.sessions,
        Timetable(config.sessions, config.gates, clock),
        journal=journal,
        conclude=conclude,
        ledger=ledger,
        registrar=config.registrar,
    )


def build(config: LeaderConfig[Any]) -> LeaderNode:
    """Create the node of a configuration with the files that the configuration names.

    Raises `ConfigError` for a ledger of another game, `FileExistsError` for a journal that belongs to another ledger.
    """
    ledger: Ledger = [] if config.ledger_file is None else SqliteLedger(config.ledger_file, config.terms())
    journal, conclude = (_open_files if config.gates is None else _open_files_of_grid)(config, list(ledger))
    if config.history_file is None:
        return assemble(config, journal, conclude, ledger)
    from stackelgrid.history.recording import CoordinatorHistory, open_file

    history = CoordinatorHistory(open_file(config, LeaderNode.role), config.sessions)
    recorders = (journal, history.wrap_conclude(conclude), history.wrap_ledger(ledger))
    return assemble(config, *recorders, listen=history.hear)


def _open_files(config: LeaderConfig[Any], ledger: Sequence[Entry]) -> tuple[Recorder, Recorder]:
    """Open journal and conclusion, in which is what the ledger has."""
    journal: Recorder = discard
    if config.journal_file is not None:
        journal = JsonLines(config.journal_file, [entry["account"] for entry in ledger if "number" in entry])
    conclude: Recorder = discard if config.conclusion_file is None else WholeFile(config.conclusion_file)
    if len(config.sessions) > 1:
        conclude = _gather([entry["conclusion"] for entry in ledger if "conclusion" in entry], conclude)
    return journal, conclude


def _gather(conclusions: list[Any], write: Recorder) -> Recorder:
    """Write with each session all that were before it, too."""

    def conclude(conclusion: Mapping[str, Any]) -> None:
        conclusions.append(conclusion)
        write({"sessions": conclusions})

    return conclude


def _open_files_of_grid(config: LeaderConfig[Any], ledger: Sequence[Entry]) -> tuple[Recorder, Recorder]:
    """Open journal and conclusion of a grid: what is in them of sessions that are over stays, the rest is the ledger's.

    A session that the ledger does not know to be over is concluded again.
    """
    over = max((entry["session"] for entry in ledger if "conclusion" in entry), default=0)
    journal: Recorder = discard
    conclude: Recorder = discard
    if config.journal_file is not None:
        cut_lines(config.journal_file, lambda account: account["session"] <= over)
        journal = JsonLines(config.journal_file, goes_on=True)
        for entry in ledger:
            if "number" in entry:
                journal(entry["account"])
    if config.conclusion_file is not None:
        cut_lines(config.conclusion_file, lambda conclusion: conclusion["session"] <= over)
        conclude = JsonLines(config.conclusion_file, goes_on=True)
    return journal, conclude
