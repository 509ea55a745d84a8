"""An EMC's configuration: whom it answers, and the homes that nobody else sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from emc_node.home import Home
from emc_node.node import EmcNode
from emc_node.user_oriented import UserOrientedHomes
from stackelgrid.node.config import NodeConfig
from stackelgrid.node.record import write_whole
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Name
from stackelgrid.wire.user_oriented import LoadResponse, Price


class EmcConfig(NodeConfig):
    """`homes` behind this process, its `aggregator`, and the file where the settled schedules are written, if any."""

    aggregator: Name
    homes: Annotated[list[Home], Field(min_length=1)]
    schedule_file: Path | None = None


def assemble(config: EmcConfig, act: Callable[[Mapping[str, Any]], None]) -> EmcNode:
    """The node of a configuration; `act` gets the settled schedules. Raises `InfeasibleHomeError`."""
    link = Link(config.run, config.aggregator, Price, LoadResponse, Price, config.slots)
    return EmcNode(config.name, link, UserOrientedHomes(config.homes), act)


def build(config: EmcConfig) -> EmcNode:
    """The node of a configuration, writing its settled schedules where the configuration says."""
    if config.schedule_file is None:
        return assemble(config, lambda homes: None)
    return assemble(config, partial(write_whole, config.schedule_file))
