"""From a scenario to machines: for each of its nodes a folder with all that the node needs, and nothing of the others.

    authority/, broker/                      see `broker.authority`
    leaders/NAME/, aggregators/NAME/         ca.crt, node.crt, node.key, config.json
    homes/NAME/                              the same; the configuration is private to the home
    observers/observer/                      the same, for `stackelgrid observe`
    scenario/                                the scenario as dealt out: the desk's, for certificates and reports

What a node writes goes into a folder named for the run, in the node's own folder; what the desk gathers of it goes
to DESK/leaders/RUN, DESK/aggregators/RUN and DESK/homes/RUN where there is a desk that the nodes can write to.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.access import Node, Role
from broker.authority import Authority, AuthorityError
from stackelgrid.errors import ConfigError
from stackelgrid.node.config import NodeConfig
from stackelgrid.scenarios import Scenario
from stackelgrid.testbed.enrolment import find_revoked, find_uncertified, list_nodes
from stackelgrid.testbed.node_configs import NodeConfigs, build_node_configs
from stackelgrid.testbed.run_folder import write_scenario
from stackelgrid.transport.address import Address
from stackelgrid.transport.tls import Tls

OBSERVER = Node("observer", Role.observer)
LEADERS, AGGREGATORS, HOMES = ROOMS = ("leaders", "aggregators", "homes")
"""Folders of nodes by role, at the authority's and on the desk."""
_TLS = Tls(ca=Path("ca.crt"), certificate=Path("node.crt"), key=Path("node.key"))


@dataclass(frozen=True)
class Provisioned:
    """What was done: how many nodes have a configuration, and who of them was `added`, given a certificate now.

    `revoked` are those that stay without one; `withdrawn` those of earlier runs that are not in this one. `renewed`
    says that the broker has another certificate, which has to be taken to it.
    """

    nodes: int
    added: Sequence[str]
    revoked: Sequence[str]
    withdrawn: Sequence[str]
    renewed: bool


def provision(scenario: Scenario, folder: Path, broker: str, run: str, desk: Path | None = None) -> Provisioned:
    """Make or complete the authority in `folder` and write everybody's configuration for `run` on `broker`.

    Who has a certificate keeps it, and whose was revoked stays without; configurations are written anew, and those of
    nodes that are not in the run are taken away, so that nobody claims them. Raises `ConfigError`, also for a
    certificate that somebody has in another role or below somebody else than in the scenario.
    """
    address = _encrypted(broker)
    configs = build_node_configs(scenario, run, broker, gather=True)
    try:
        authority, renewed = _authority(folder, [host for host, _ in address.servers])
        out_of_it = find_revoked(authority)
        lacking = find_uncertified(scenario.topology, authority)
        if OBSERVER.name not in authority.register.in_force:
            lacking.append(OBSERVER)
        added = [node for node in lacking if node.name not in out_of_it]
        if added:
            authority.add(*added)
        taking_part = [*list_nodes(scenario.topology), OBSERVER]
        withdrawn = _withdraw(authority.folder, {authority.place(node) for node in taking_part})
        for node, config in zip(taking_part, _configurations(configs, run, desk), strict=True):
            _hand_over(authority.place(node), config)
        (authority.folder / "scenario").mkdir(mode=0o700, exist_ok=True)
        write_scenario(authority.folder / "scenario", scenario)
    except AuthorityError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; name a folder you may write") from None
    stays_out = [node.name for node in lacking if node.name in out_of_it]
    return Provisioned(len(scenario.topology.names), [node.name for node in added], stays_out, withdrawn, renewed)


def _withdraw(folder: Path, taking_part: Collection[Path]) -> list[str]:
    """Take away the configurations of all others; their certificates stay."""
    others = [path for room in ROOMS for path in sorted(folder.glob(f"{room}/*/config.json"))]
    withdrawn = [path for path in others if path.parent not in taking_part]
    for path in withdrawn:
        path.unlink()
    return [path.parent.name for path in withdrawn]


def _encrypted(broker: str) -> Address:
    try:
        address = Address.parse(broker)
    except ValueError as error:
        raise ConfigError(f"--broker: {error}") from None
    if not address.encrypted:
        raise ConfigError(f"--broker {broker}: certificates travel over TLS only; write mqtts://HOST:8883")
    return address


def _authority(folder: Path, hosts: Sequence[str]) -> tuple[Authority, bool]:
    """The authority in `folder`, made if there is none, and whether its broker is only now also called `hosts`."""
    if not (folder / "authority" / "register.json").exists():
        return Authority.init(folder, *hosts), False
    authority = Authority(folder)
    renewed = not set(hosts) <= set(authority.register.hosts)
    if renewed:
        authority.serve_as(*hosts)
    return authority, renewed


def _configurations(configs: NodeConfigs, run: str, desk: Path | None) -> Iterator[NodeConfig]:
    """What each node is told, from the leader down, and then the observer; files are named for where the node runs."""
    own = Path(run)
    leaders, aggregators, homes = (own if desk is None else desk / room / run for room in ROOMS)
    # Somebody's home, or a container, is not attended to: it waits for its broker as long as it takes.
    common = {"tls": _TLS, "reconnect_s": None}
    leader = configs.leader
    files = {
        "journal_file": leaders / "rounds.jsonl",
        "conclusion_file": leaders / f"{leader.name}.conclusion.json",
        "ledger_file": own / f"{leader.name}.ledger",
    }
    yield leader.model_copy(update={**common, **files})
    for aggregator in configs.aggregators:
        files = {
            "journal_file": aggregators / f"{aggregator.name}.rounds.jsonl",
            "account_file": aggregators / f"{aggregator.name}.account.json",
            "ledger_file": own / f"{aggregator.name}.ledger",
        }
        yield aggregator.model_copy(update={**common, **files})
    for home in configs.homes:
        yield home.model_copy(update={**common, "schedule_file": homes / f"{home.name}.schedule.json"})
    observer = NodeConfig(run=run, name=OBSERVER.name, game=leader.game, slots=leader.slots, broker=leader.broker)
    yield observer.model_copy(update=common)


def _hand_over(place: Path, config: NodeConfig) -> None:
    """Write a node's configuration to its folder, readable by its owner only, and make the folders it writes to."""
    draft = place / ".config.json.draft"
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(config.model_dump_json())  # with its nulls: of reconnect_s null says something
    draft.replace(place / "config.json")
    for file_of_node in (value for _, value in config if isinstance(value, Path)):
        (place / file_of_node).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
