"""The configuration of an EMC: its aggregator, and the private models of its homes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Self, TypeVar

from pydantic import Field, model_validator

from emc_node.device_settings import DeviceSettings
from emc_node.devices import HomeDevices, serve
from emc_node.node import CreateParty, CreateStrategy, EmcNode
from emc_node.own_optimum import OwnOptimum
from emc_node.strategy import DeviceHomeStrategy
from stackelgrid.calendar import Session
from stackelgrid.errors import ConfigError
from stackelgrid.model import refuse_newer
from stackelgrid.node.config import NodeConfig
from stackelgrid.node.heartbeat import with_heartbeat
from stackelgrid.node.protocol import RunNode
from stackelgrid.node.record import Recorder, WholeFile, discard, open_record
from stackelgrid.node.terms import describe_differences
from stackelgrid.registry import Game, UnknownAlgorithmError, find, find_homes
from stackelgrid.rounds.settings import HomeModel, PrivacySettings
from stackelgrid.transport.address import Address
from stackelgrid.transport.diagnosis import find_objection
from stackelgrid.wire.codec import Link
from stackelgrid.wire.messages import Message
from stackelgrid.wire.names import Name

if TYPE_CHECKING:
    from stackelgrid.history.recording import HomeHistory
    from stackelgrid.node.home_status import HomeStatus
    from stackelgrid.node.private_sums import Draw

Home = TypeVar("Home", bound=HomeModel)


class EmcConfig(NodeConfig, Generic[Home]):
    """The configuration file of an EMC, in a game whose private home model is `Home`.

    `homes` are those that this process answers for, to `aggregator`; `privacy` bounds what it answers. `algorithm` is
    the one whose home's half answers, None where homes answer as in the game. Their settled schedules are written to
    `schedule_file`, where a run has several sessions a line for each. `devices` are those that carry out what the home
    settles; `plan_file` keeps it over a power cut. `max_kw` is what their connections carry, as the aggregator has it.
    """

    aggregator: Name
    homes: Annotated[list[Home], Field(min_length=1)]
    algorithm: str | None = None
    privacy: PrivacySettings = PrivacySettings()
    max_kw: Annotated[float | None, Field(gt=0, allow_inf_nan=False, exclude_if=lambda limit: limit is None)] = None
    schedule_file: Path | None = None
    ledger_file: Path | None = None
    devices: DeviceSettings | None = None
    plan_file: Path | None = None

    @model_validator(mode="after")
    def _check_homes(self) -> Self:
        for number, home in enumerate(self.homes):
            try:
                home.check_slots(self.slots)
            except ValueError as error:
                raise ValueError(f"homes.{number}.{error}") from None
        return self

    @model_validator(mode="after")
    def _check_algorithm(self) -> Self:
        try:
            find_homes(self.game, self.algorithm)
        except UnknownAlgorithmError as error:
            raise ValueError(f"algorithm: {error}") from None
        return self

    @model_validator(mode="after")
    def _check_devices(self) -> Self:
        if self.devices is not None:
            self.devices.check(self.homes, self.sessions, self.broker)
        return self


@cache
def config_model(game: Game) -> type[EmcConfig[Any]]:
    """Give the model of an EMC's configuration in a game."""
    home: Any = game.load("home")
    return EmcConfig[home]


def assemble(
    config: EmcConfig[Any],
    act: Recorder,
    remember: Recorder = discard,
    memory: Mapping[str, Any] | None = None,
    draw: Draw | None = None,
    create: CreateStrategy | None = None,
) -> EmcNode:
    """Create the node of a configuration; `act` receives the settled schedules, the rest is as in `EmcNode`.

    Its secrets are drawn from `draw`, where that is given. Its homes play as the game has it, or by the strategy that
    `create` makes. Raise `ValueError` for homes that have no feasible schedule.
    """
    homes = find_homes(config.game, config.algorithm)
    return _node(config, create or (lambda homes_now, _: homes(homes_now)), act, remember, memory, draw=draw)


def build(config: EmcConfig[Any]) -> RunNode:
    """Create the node of a configuration, which writes its settled schedules to `schedule_file`.

    Its devices, if it has any, are served from now on until the process ends. Raise `ValueError` for homes
    that have no feasible schedule and for files in folders that do not exist.
    """
    for key in ("schedule_file", "ledger_file", "plan_file", "history_file"):
        file: Path | None = getattr(config, key)
        if file is not None and not file.parent.is_dir():
            raise ValueError(f"{key}: {file.parent} is no folder; make it, or name a file in another")
    homes = find_homes(config.game, config.algorithm)
    act: Recorder = discard if config.schedule_file is None else open_record(config.schedule_file, len(config.sessions))
    listen: Callable[[Message], None] | None = None
    history: HomeHistory | None = None
    if config.history_file is not None:
        from stackelgrid.history.recording import HomeHistory, open_file

        history = HomeHistory(open_file(config, EmcNode.role), config.sessions, config.homes)
        act, listen = history.wrap_act(act), history.hear
    remember, memory = open_ledger(config)
    if config.devices is None:
        return _complete(_node(config, lambda homes_now, _: homes(homes_now), act, remember, memory, listen), config)
    config.devices.check(config.homes, config.sessions, config.broker)  # --broker may name another
    (home,) = config.homes
    devices = HomeDevices(config.name, config.devices, home, config.plan_file, sessions=config.sessions)
    prices = config.devices.fail_safe.prices

    def remark(line: str) -> None:
        node.note_remark(line)

    def create(homes_now: Sequence[HomeModel], session: Session) -> DeviceHomeStrategy:
        (home_now,) = homes_now
        return DeviceHomeStrategy(home_now, homes, devices, session, config.run, config.scenario, prices, remark)

    node = _node(config, create, act, remember, memory, listen)
    devices.on_status = partial(setattr, node.progress, "home")
    devices.list_grid_problems = node.progress.list_problems
    if history is not None:
        _record_devices(devices, history, 60 if config.calendar is None else config.calendar.slot_minutes)
    if prices is not None:
        devices.solve_alone = OwnOptimum(config, home, homes, node.find_states, prices, devices)
    serve(devices, config.devices)
    return _complete(node, config)


def _record_devices(devices: HomeDevices, history: HomeHistory, slot_minutes: int) -> None:
    """Have the history record what drives the storage, and what the meter counts in each slot."""
    from emc_node.metering import SlotMeter

    meter, show = SlotMeter(slot_minutes, history.note_energy), devices.on_status

    def note_status(status: HomeStatus) -> None:
        show(status)
        history.note_status(status)

    devices.on_status = note_status
    devices.on_load = lambda kw: meter.read(kw, devices.clock())


def _complete(node: EmcNode, config: EmcConfig[Any]) -> RunNode:
    """Have a home of a grid publish its heartbeat, and one that enrolled itself renew its certificate."""
    beating = with_heartbeat(node, config)
    if config.tls is None or config.tls.renewed is None:
        return beating
    from emc_node.renewal import CertifiedNode, RenewedFile  # with all that only these homes need

    file = RenewedFile(config.tls, config.name, partial(find_objection, Address.parse(config.broker)))
    return CertifiedNode(beating, config.run, file, lambda: datetime.now(UTC))


def open_ledger(config: EmcConfig[Any]) -> tuple[Recorder, Mapping[str, Any] | None]:
    """Give the way to save what answers depend on, and what was saved last, None where that is of another game.

    Raise `ConfigError` for what a later version has saved.
    """
    if config.ledger_file is None:
        return discard, None
    write, terms = WholeFile(config.ledger_file), {**config.terms(), "devices": config.devices is not None}
    try:
        saved = json.loads(config.ledger_file.read_bytes())
        same = not describe_differences(saved["terms"], terms)
        schema, memory = saved.get("schema", 1), saved["memory"] if same else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        schema, memory = 1, None
    try:
        refuse_newer(schema)
    except ValueError as error:
        raise ConfigError(f"{config.ledger_file}: schema: {error}") from None
    return (lambda memory: write({"schema": 1, "terms": terms, "memory": memory})), memory


def _node(
    config: EmcConfig[Any],
    create: CreateStrategy,
    act: Recorder,
    remember: Recorder,
    memory: Mapping[str, Any] | None,
    listen: Callable[[Message], None] | None = None,
    draw: Draw | None = None,
) -> EmcNode:
    bodies, homes = find(config.game).bodies("lower"), len(config.homes)
    masked = config.privacy.sums == "committee"
    link = Link(config.run, config.aggregator, bodies, config.session_slots, homes, config.fingerprint, listen, masked)
    return EmcNode(
        config.name,
        link,
        config.homes,
        create,
        config.sessions,
        act,
        remember,
        memory,
        config.privacy,
        config.registrar,
        _make_party(config, draw) if masked else None,
        bodies.answer,
    )


def _make_party(config: EmcConfig[Any], draw: Draw | None) -> CreateParty:
    from emc_node.private_sums import make_party  # with all that only these homes need

    form, least = find(config.game).load("masked"), config.privacy.minimum_group
    return make_party(config.name, len(config.homes), form, least, config.max_kw, config.tls, draw)
