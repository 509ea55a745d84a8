"""An EMC's configuration: whom it answers, and the homes that nobody else sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, Field

from emc_node.node import EmcNode
from stackelgrid.games import Game, find, part
from stackelgrid.node.config import NodeConfig
from stackelgrid.node.record import write_whole
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Name

Home = TypeVar("Home", bound=BaseModel)


class EmcConfig(NodeConfig, Generic[Home]):
    """`homes` behind this process, its `aggregator`, and the file where the settled schedules are written, if any."""

    aggregator: Name
    homes: Annotated[list[Home], Field(min_length=1)]
    schedule_file: Path | None = None


def of_game(game: Game) -> type[EmcConfig[Any]]:
    """The configuration of an EMC in a game."""
    home: Any = part(game.home)
    return EmcConfig[home]


def assemble(config: EmcConfig[Any], act: Callable[[Mapping[str, Any]], None]) -> EmcNode:
    """The node of a configuration; `act` gets the settled schedules. Raises `ValueError` for homes that cannot live."""
    game = find(config.game)
    link = Link(config.run, config.aggregator, game.lower, config.slots)
    return EmcNode(config.name, link, part(game.homes)(config.homes), act)


def build(config: EmcConfig[Any]) -> EmcNode:
    """The node of a configuration, writing its settled schedules where the configuration says."""
    if config.schedule_file is None:
        return assemble(config, lambda homes: None)
    return assemble(config, partial(write_whole, config.schedule_file))
