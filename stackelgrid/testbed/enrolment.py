"""Who in a run is who to an authority, and the certificates that its nodes prove themselves with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from broker.access import Node, Role
from broker.authority import Authority, AuthorityError
from stackelgrid.node.config import NodeConfig
from stackelgrid.testbed.topology import RunTopology
from stackelgrid.transport.tls import Tls

Config = TypeVar("Config", bound=NodeConfig)


def nodes(everyone: RunTopology) -> list[Node]:
    """The nodes of a run as an authority knows them, whoever is above another before it."""
    leader = Node(everyone.leader.name, Role.leader)
    aggregators = [Node(config.name, Role.aggregator, config.leader) for config in everyone.aggregators]
    homes = [Node(config.name, Role.home, config.aggregator) for config in everyone.homes]
    return [leader, *aggregators, *homes]


def missing(everyone: RunTopology, authority: Authority) -> list[Node]:
    """Who of the run has no certificate yet. Raises `AuthorityError` for one that is somebody else to the authority."""
    in_force = authority.register.in_force
    for node in nodes(everyone):
        known = in_force.get(node.name)
        if known is not None and known.node != node:
            of = f"{known.role} of {known.above}" if known.above else str(known.role)
            raise AuthorityError(
                f"{node.name!r} is the {of} there, and the {node.role}{f' of {node.above}' if node.above else ''} here",
                str(authority.folder),
                f"stackelgrid certs revoke {node.name}, or take another authority for this scenario",
            )
    return [node for node in nodes(everyone) if node.name not in in_force]


def revoked(authority: Authority) -> set[str]:
    """The names that had a certificate and have none any more."""
    register = authority.register
    return {entry.name for entry in register.certified} - register.in_force.keys()


def with_certificates(everyone: RunTopology, folder: Path) -> RunTopology:
    """The same nodes with the certificates that the authority in `folder` has given them, by absolute paths.

    Raises `AuthorityError` when it has not given them all.
    """
    authority = Authority(folder)
    lacking = missing(everyone, authority)
    if lacking:
        names = ", ".join(node.name for node in lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        raise AuthorityError(
            f"{len(lacking)} nodes of this run have no certificate: {names}",
            str(authority.folder),
            f"stackelgrid provision SCENARIO --broker mqtts://HOST:PORT --out {folder} gives one to all that are not "
            "revoked, stackelgrid certs add to anybody",
        )
    places = {node.name: authority.place(node) for node in nodes(everyone)}

    def with_tls(config: Config) -> Config:
        return config.model_copy(update={"tls": certificate_in(places[config.name])})

    return replace(
        everyone,
        leader=with_tls(everyone.leader),
        aggregators=[with_tls(config) for config in everyone.aggregators],
        homes=[with_tls(config) for config in everyone.homes],
    )


def certificate_in(folder: Path) -> Tls:
    """What an authority has put into a node's folder."""
    return Tls(ca=folder / "ca.crt", certificate=folder / "node.crt", key=folder / "node.key")
