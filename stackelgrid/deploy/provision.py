"""Provision machines: each node of a scenario gets a folder with what it needs, and nothing of the others.

    authority/, broker/                      see `broker.authority`
    leaders/NAME/, aggregators/NAME/         ca.crt, node.crt, node.key, config.json
    homes/NAME/                              the same; the configuration is private to the home
    observers/observer/                      the same, for `stackelgrid observe`
    registrars/registrar/                    its certificate, for `stackelgrid certs serve`
    scenario/                                the scenario, for certificates and reports on the desk

A node writes its files to a folder named after the run, in its own folder. With a desk that the nodes can write to, the
files that it gathers are in DESK/leaders/RUN, DESK/aggregators/RUN and DESK/homes/RUN.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from broker.access import Node, Role
from broker.authority import ENROLMENT, REGISTRAR, Authority, Grid
from emc_node.config import EmcConfig
from stackelgrid.errors import ConfigError
from stackelgrid.history.tables import ENDING as HISTORY_ENDING
from stackelgrid.node.config import NodeConfig
from stackelgrid.node.ledger import read_terms
from stackelgrid.node.terms import describe_differences
from stackelgrid.scenarios import Scenario
from stackelgrid.testbed.enrolment import find_revoked, find_uncertified, list_nodes
from stackelgrid.testbed.node_configs import NodeConfigs, build_node_configs, digest_everything
from stackelgrid.testbed.run_folder import write_scenario
from stackelgrid.transport.address import Address
from stackelgrid.transport.tls import Tls

OBSERVER = Node("observer", Role.observer)
LEADERS, AGGREGATORS, HOMES = FOLDERS = ("leaders", "aggregators", "homes")
"""Folders of nodes by role, at the authority's and on the desk."""
_TLS = Tls(ca=Path("ca.crt"), certificate=Path("node.crt"), key=Path("node.key"))


@dataclass(frozen=True)
class ProvisionChanges:
    """The changes that `provision` made.

    - `run`: the name of the run, `nodes`: the number of configurations written;
    - `added`: the nodes that were given a certificate, `revoked`: those whose certificate stays revoked;
    - `withdrawn`: the nodes of earlier runs whose configuration was removed;
    - `renewed`: true when the broker has a new certificate, which must be taken to it.
    """

    run: str
    nodes: int
    added: Sequence[str]
    revoked: Sequence[str]
    withdrawn: Sequence[str]
    renewed: bool


def provision(
    scenario: Scenario, folder: Path, broker: str, run: str, desk: Path | None = None, *, rename: bool = False
) -> ProvisionChanges:
    """Make or complete the authority in `folder` and write the configuration of each node for `run` on `broker`.

    A node that has a certificate keeps it; one whose certificate was revoked gets no other. All configurations are
    written anew, and those of nodes that are not in the run are removed, so that no process claims them. In a grid a
    home stays below the aggregator that the register has for it. Raises `ConfigError`, also when a node has a
    certificate for another role or another node above it, and when another game has been played under the name `run`;
    with `rename` this one is then named after its content, too.
    """
    address = _parse_broker(broker)
    try:
        configs = _configure(scenario, folder, broker, run, desk)
    except _PlayedError:
        if not rename:
            raise
        run = f"{run}-{digest_everything(scenario)[:8]}"
        configs = _configure(scenario, folder, broker, run, desk)
    try:
        authority, renewed = _open_authority(folder, [host for host, _ in address.servers])
        revoked = find_revoked(authority)
        lacking = find_uncertified(scenario.topology, authority, homes_move=scenario.gates is not None)
        lacking += [node for node in (OBSERVER, REGISTRAR, ENROLMENT) if node.name not in authority.register.in_force]
        added = [node for node in lacking if node.name not in revoked]
        if added:
            authority.add(*added)
        authority.describe(*_describe_members(configs, authority.register.in_force))
        authority.found_grid(Grid(run=run, broker=broker, terms=_write_terms(configs)))
        participants = [*list_nodes(scenario.topology), OBSERVER]
        withdrawn = _withdraw(authority.folder, {authority.place(node) for node in participants})
        in_force = authority.register.in_force
        for node, config in zip(participants, _adapt_configs(configs, run, desk), strict=True):
            known = in_force.get(node.name) if node.role is Role.home else None
            above = {} if known is None else {"aggregator": known.above}
            _write_config(authority.place(node), config.model_copy(update=above))
        (authority.folder / "scenario").mkdir(mode=0o700, exist_ok=True)
        write_scenario(authority.folder / "scenario", scenario)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; name a folder you may write") from None
    stays_out = [node.name for node in lacking if node.name in revoked]
    return ProvisionChanges(
        run, len(scenario.topology.names), [node.name for node in added], stays_out, withdrawn, renewed
    )


class _PlayedError(ConfigError):
    """Another game has been played under the name of a run."""


def _configure(scenario: Scenario, folder: Path, broker: str, run: str, desk: Path | None) -> NodeConfigs:
    """Build the configurations of a run. Raises `_PlayedError` for the name of another."""
    configs = build_node_configs(scenario, run, broker, gather=True)
    try:
        _require_unplayed(folder, configs, run, desk)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; name a folder you may read") from None
    return configs


def _require_unplayed(folder: Path, configs: NodeConfigs, run: str, desk: Path | None) -> None:
    """Refuse the name of a run that left files, unless all nodes are configured for the same game as then.

    Nodes would go on from these files, and from what the broker retains. Homes of a grid come, change and go, and so
    do its aggregators: there the leader counts, and each aggregator that was in it.
    """
    left = [path for role_folder in FOLDERS for path in sorted(folder.glob(f"{role_folder}/*/{run}/*"))]
    left += [path for role_folder in FOLDERS if desk for path in sorted((desk / role_folder / run).glob("*"))]
    if not left:
        return
    is_grid = configs.leader.gates is not None
    groups: tuple[Sequence[NodeConfig], ...] = ([configs.leader], configs.aggregators, [] if is_grid else configs.homes)
    for role_folder, group in zip(FOLDERS, groups, strict=True):
        for config in group:
            if is_grid and not (folder / role_folder / config.name / "config.json").exists():
                continue
            change = _describe_change(folder / role_folder / config.name, config)
            if change:
                mend = "give this one another name with --run, or remove what the other has left"
                raise _PlayedError(f"{left[0]}: another run {run} was played here, {change}; {mend}")


def _describe_change(place: Path, config: NodeConfig) -> str:
    """Describe how a node is configured otherwise than when its run was played, empty where the game is the same."""
    try:
        before = type(config).model_validate_json((place / "config.json").read_bytes()).terms()
    except (FileNotFoundError, ValidationError):
        return f"{config.name} was not in it as it is now"
    if before["run"] != config.run:  # which has been configured since
        if isinstance(config, EmcConfig):
            return ""  # a home keeps no ledger
        terms = read_terms(place / config.run / f"{config.name}.ledger")
        if terms is None:
            return f"{config.name} has lost its ledger"
        before = terms
    difference = describe_differences(before, config.terms())
    return f"{config.name}'s {difference}" if difference else ""


def _withdraw(folder: Path, participants: Collection[Path]) -> list[str]:
    """Remove the configurations of all other nodes, and keep their certificates."""
    others = [path for role_folder in FOLDERS for path in sorted(folder.glob(f"{role_folder}/*/config.json"))]
    withdrawn = [path for path in others if path.parent not in participants]
    for path in withdrawn:
        path.unlink()
    return [path.parent.name for path in withdrawn]


def _parse_broker(broker: str) -> Address:
    try:
        address = Address.parse(broker)
    except ValueError as error:
        raise ConfigError(f"--broker: {error}") from None
    if address.prefix or address.user is not None:
        raise ConfigError(f"--broker {address}: access rules are for topics without prefix, nodes have certificates")
    if not address.encrypted:
        raise ConfigError(f"--broker {broker}: certificates travel over TLS only; write mqtts://HOST:8883")
    return address


def _open_authority(folder: Path, hosts: Sequence[str]) -> tuple[Authority, bool]:
    """Open the authority in `folder`, or make it; say whether its broker got a new certificate, for new `hosts`."""
    if not (folder / "authority" / "register.json").exists():
        return Authority.init(folder, *hosts), False
    authority = Authority(folder)
    renewed = not set(hosts) <= set(authority.register.hosts)
    if renewed:
        authority.serve_as(*hosts)
    return authority, renewed


def _describe_members(configs: NodeConfigs, known: Collection[str]) -> Iterator[Node]:
    """Describe the nodes that have a certificate by the homes and limits that their coordinators have for them."""
    leader = configs.leader
    members = [(member, Role.aggregator, leader.name) for member in leader.members]
    members += [(member, Role.home, each.name) for each in configs.aggregators for member in each.members]
    for member, role, above in members:
        if member.name in known:
            yield Node(member.name, role, above, member.homes, member.max_kw)


def _write_terms(configs: NodeConfigs) -> dict[str, Any]:
    """Write what the configuration of any home of the grid has in common with the others."""
    home = configs.homes[0]
    own = {"run", "name", "broker", "tls", "reconnect_s", "aggregator", "homes", "devices", "max_kw"}
    files = {key for key, value in home if isinstance(value, Path)}
    return home.model_dump(mode="json", exclude=own | files, exclude_none=True)


def _adapt_configs(configs: NodeConfigs, run: str, desk: Path | None) -> Iterator[NodeConfig]:
    """Name files by their places on the node's machine, from the leader down; add the observer's configuration."""
    own = Path(run)
    leaders, aggregators, homes = (own if desk is None else desk / role_folder / run for role_folder in FOLDERS)
    # A home or a container runs unattended: it waits for its broker without limit.
    common = {"tls": _TLS, "reconnect_s": None}
    leader = configs.leader
    files = {
        "journal_file": leaders / "rounds.jsonl",
        "conclusion_file": leaders / f"{leader.name}.conclusion.json",
        "ledger_file": own / f"{leader.name}.ledger",
        "history_file": own / f"{leader.name}{HISTORY_ENDING}",
    }
    yield leader.model_copy(update={**common, **files})
    for aggregator in configs.aggregators:
        files = {
            "journal_file": aggregators / f"{aggregator.name}.rounds.jsonl",
            "account_file": aggregators / f"{aggregator.name}.account.json",
            "ledger_file": own / f"{aggregator.name}.ledger",
            "history_file": own / f"{aggregator.name}{HISTORY_ENDING}",
        }
        yield aggregator.model_copy(update={**common, **files})
    limits = {member.name: member.max_kw for aggregator in configs.aggregators for member in aggregator.members}
    for home in configs.homes:
        files = {
            "schedule_file": homes / f"{home.name}.schedule.json",
            "ledger_file": homes / f"{home.name}.ledger.json",
            "history_file": homes / f"{home.name}{HISTORY_ENDING}",
        }
        yield home.model_copy(update={**common, **files, "max_kw": limits[home.name]})
    yield NodeConfig(
        run=run,
        name=OBSERVER.name,
        game=leader.game,
        slots=leader.slots,
        calendar=leader.calendar,
        gates=leader.gates,
        scenario=leader.scenario,
        broker=leader.broker,
    ).model_copy(update=common)


def _write_config(place: Path, config: NodeConfig) -> None:
    """Write a node's configuration, readable by its owner only, and make the folders that the node writes to."""
    draft = place / ".config.json.draft"
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(config.model_dump_json())  # with nulls: reconnect_s has a default, and null is no limit
    draft.replace(place / "config.json")
    for file_of_node in (value for _, value in config if isinstance(value, Path)):
        (place / file_of_node).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
