"""The nodes of a run before an authority, and the certificates that it gave them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from broker.access import Node, Role
from broker.authority import Authority
from broker.files import AuthorityError
from stackelgrid.node.config import NodeConfig
from stackelgrid.scenarios.topology import LEADER, RunTopology
from stackelgrid.testbed.node_configs import NodeConfigs
from stackelgrid.transport.tls import Tls

Config = TypeVar("Config", bound=NodeConfig)


def list_nodes(topology: RunTopology) -> list[Node]:
    """List the nodes of a run as an authority knows them, from the leader down."""
    aggregators = [Node(name, Role.aggregator, LEADER) for name in topology.aggregators]
    homes = [Node(name, Role.home, aggregator) for name, aggregator in topology.aggregator_of.items()]
    return [Node(LEADER, Role.leader), *aggregators, *homes]


def find_uncertified(topology: RunTopology, authority: Authority, *, homes_move: bool = False) -> list[Node]:
    """Find the nodes without a certificate.

    Raises `AuthorityError` for one whose certificate has another role or is below another node, but where `homes_move`
    for a home below another aggregator.
    """
    in_force = authority.register.in_force
    nodes = list_nodes(topology)
    for node in nodes:
        known = in_force.get(node.name)
        if known is not None and homes_move and known.role is node.role is Role.home:
            continue
        if known is not None and known.node != node:
            of = f"{known.role} of {known.above}" if known.above else str(known.role)
            raise AuthorityError(
                f"{node.name!r} is the {of} there, and the {node.role}{f' of {node.above}' if node.above else ''} here",
                str(authority.folder),
                f"stackelgrid certs revoke {node.name}, or take another authority for this scenario",
            )
    return [node for node in nodes if node.name not in in_force]


def find_revoked(authority: Authority) -> set[str]:
    """Find the names whose certificates are all revoked."""
    register = authority.register
    return {entry.name for entry in register.certified} - register.in_force.keys()


def with_certificates(configs: NodeConfigs, topology: RunTopology, folder: Path) -> NodeConfigs:
    """Add to each configuration the certificate that the authority in `folder` gave the node, by absolute paths.

    Raises `AuthorityError` when a node has none.
    """
    authority = Authority(folder)
    lacking = find_uncertified(topology, authority)
    if lacking:
        names = ", ".join(node.name for node in lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        raise AuthorityError(
            f"{len(lacking)} nodes of this run have no certificate: {names}",
            str(authority.folder),
            f"stackelgrid provision SCENARIO --broker mqtts://HOST:PORT --out {folder} gives one to all that are not "
            "revoked, stackelgrid certs add to anybody",
        )
    places = {node.name: authority.place(node) for node in list_nodes(topology)}

    def add_certificate(config: Config) -> Config:
        return config.model_copy(update={"tls": certificate_in(places[config.name])})

    return NodeConfigs(
        leader=add_certificate(configs.leader),
        aggregators=[add_certificate(config) for config in configs.aggregators],
        homes=[add_certificate(config) for config in configs.homes],
    )


def certificate_in(folder: Path) -> Tls:
    """Name the files that an authority puts into a node's folder."""
    return Tls(ca=folder / "ca.crt", certificate=folder / "node.crt", key=folder / "node.key")
