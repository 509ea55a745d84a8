"""An EMC's configuration: whom it answers, and the homes that nobody else sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, Field, model_validator

from emc_node.binding import Devices
from emc_node.devices import HomeDevices, SteeredHome, begin
from emc_node.node import EmcNode
from stackelgrid.node.config import NodeConfig
from stackelgrid.node.record import write_whole
from stackelgrid.registry import Game, find
from stackelgrid.rounds.strategy import HomeStrategy
from stackelgrid.wire.codec import Link
from stackelgrid.wire.names import Name

Home = TypeVar("Home", bound=BaseModel)


class EmcConfig(NodeConfig, Generic[Home]):
    """`homes` behind this process, its `aggregator`, and the file where the settled schedules are written, if any.

    `devices` binds a home's storage and meter to what is settled; `plan_file` keeps that over a power cut.
    """

    aggregator: Name
    homes: Annotated[list[Home], Field(min_length=1)]
    schedule_file: Path | None = None
    devices: Devices | None = None
    plan_file: Path | None = None

    @model_validator(mode="after")
    def _devices_fit(self) -> Self:
        if self.devices is not None:
            self.devices.require_fit(self.homes, self.slots, self.broker)
        return self


def config_model(game: Game) -> type[EmcConfig[Any]]:
    """The configuration of an EMC in a game."""
    home: Any = game.load("home")
    return EmcConfig[home]


def assemble(config: EmcConfig[Any], act: Callable[[Mapping[str, Any]], None]) -> EmcNode:
    """The node of a configuration; `act` gets the settled schedules. Raises `ValueError` for homes that cannot live."""
    return _node(config, find(config.game).load("homes")(config.homes), act)


def build(config: EmcConfig[Any]) -> EmcNode:
    """The node of a configuration, writing its settled schedules where the configuration says.

    Its devices, if it has any, are served from now on, as long as the process lives. Raises `ValueError` for homes
    that cannot live and for files in folders that are not there.
    """
    for key in ("schedule_file", "plan_file"):
        file: Path | None = getattr(config, key)
        if file is not None and not file.parent.is_dir():
            raise ValueError(f"{key}: {file.parent} is no folder; make it, or name a file in another")
    homes = find(config.game).load("homes")
    if config.devices is None:
        strategy = homes(config.homes)
    else:
        config.devices.require_fit(config.homes, config.slots, config.broker)  # --broker may name another
        home = config.homes[0]
        devices = HomeDevices(config.name, config.devices, home, config.plan_file)
        strategy = SteeredHome(home, homes, devices, config.run)
        begin(devices, config.devices)
    return _node(config, strategy, _written(config.schedule_file))


def _node(
    config: EmcConfig[Any], strategy: HomeStrategy[Any, Any, Any], act: Callable[[Mapping[str, Any]], None]
) -> EmcNode:
    link = Link(config.run, config.aggregator, find(config.game).bodies("lower"), config.slots)
    return EmcNode(config.name, link, strategy, act)


def _written(file: Path | None) -> Callable[[Mapping[str, Any]], None]:
    return (lambda homes: None) if file is None else partial(write_whole, file)
