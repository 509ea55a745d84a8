"""`stackelgrid certs`: a certificate for every node, and a broker with access rules."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from broker.access import Node, Role

certs = typer.Typer(
    name="certs",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Give nodes certificates, and revoke them; say who belongs to a grid.",
)

Which = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The name that is asked for, or the beginning of the fingerprint, in quotes."),
]
Folder = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The authority's folder.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST", help="A name or address at which nodes reach the broker; may be repeated."),
]
CERTS = Path("certs")


@certs.command()
def init(folder: Folder = CERTS, host: Hosts = None) -> None:
    """Make an authority, and the certificate of the broker."""
    from broker.authority import Authority

    authority = Authority.init(folder, *(host or []))
    print(f"{authority.folder}: an authority; the broker's folder is {authority.folder / 'broker'}")


@certs.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NODE", help="The node's name, as in its configuration.")],
    role: Annotated[Role, typer.Option(help="Its role; broker: a new certificate for the broker.")] = Role.home,
    above: Annotated[
        str | None, typer.Option(metavar="NODE", help="A home's aggregator, an aggregator's leader.")
    ] = None,
    folder: Folder = CERTS,
    host: Hosts = None,
) -> None:
    """Give a node a certificate.

    A broker that `python -m broker --certs` started accepts it within a second.
    """
    from broker.authority import BROKER, Authority
    from broker.files import AuthorityError

    authority = Authority(folder)
    node = Node(name, role, above)
    if node == BROKER:
        authority.serve_as(*(host or []))
    elif host:
        raise AuthorityError(f"{name!r} is a {role}, to which no node connects", "--host", "leave it out")
    else:
        authority.add(node)
    print(f"{authority.place(node)}: certificate and key of {name}; take the folder to its machine")


@certs.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")],
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="The reason, for the list.")] = None,
    folder: Folder = CERTS,
) -> None:
    """Revoke a node's certificate.

    A broker that `python -m broker --certs` started shuts the node out within a second.
    """
    from broker.authority import Authority

    authority = Authority(folder)
    authority.revoke(name, _who(), reason)
    print(f"{name} is revoked; {authority.folder / 'broker'} says so")


@certs.command()
def move(
    name: Annotated[str, typer.Argument(metavar="HOME", help="The home's name.")],
    aggregator: Annotated[str, typer.Argument(metavar="AGGREGATOR", help="The aggregator that it is to be below.")],
    folder: Folder = CERTS,
) -> None:
    """Move a home to another aggregator.

    It takes part there from the next session on.
    """
    from broker.authority import Authority

    Authority(folder).move(name, aggregator)
    print(f"{name} is below {aggregator} from the next session on")


@certs.command()
def requests(folder: Folder = CERTS) -> None:
    """List the requests for certificates.

    Approve one only if the home shows the same fingerprint.
    """
    from rich.console import Console
    from rich.table import Table

    from broker.authority import Authority

    table = Table("name", "fingerprint", "aggregator", "homes", "max kW", "received", "", box=None, pad_edge=False)
    for each in Authority(folder).requests:
        asked = each.enrolment
        if asked is None:
            continue  # a renewal, granted by itself
        state = each.state if each.reason is None else f"{each.state}: {each.reason}"
        table.add_row(
            each.name,
            each.fingerprint,
            asked.aggregator or "",
            str(asked.homes),
            "" if asked.max_kw is None else f"{asked.max_kw:g}",
            f"{each.received:%Y-%m-%d %H:%M}",
            state,
        )
    Console(highlight=False, soft_wrap=True, markup=False).print(table)


@certs.command()
def approve(which: Which, folder: Folder = CERTS) -> None:
    """Approve a request: give the home a certificate and an aggregator."""
    from broker.authority import Authority

    entry = Authority(folder).approve(which, _who())
    print(f"{entry.name} has a certificate and is below {entry.above}; it fetches both from the registrar")


@certs.command()
def deny(
    which: Which,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="The reason, which the home is told.")] = None,
    folder: Folder = CERTS,
) -> None:
    """Deny a request."""
    from broker.authority import Authority

    denied = Authority(folder).deny(which, _who(), reason)
    print(f"the request for {denied.name} ({denied.fingerprint}) is denied")


@certs.command()
def serve(
    folder: Folder = CERTS,
    broker: Annotated[
        str | None, typer.Option(metavar="mqtts://HOST:PORT", help="The broker's address; by default the grid's.")
    ] = None,
    log: Annotated[Literal["json", "console"], typer.Option(help="The form of the log on stderr.")] = "console",
    status: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep a file with the state of the process.")
    ] = None,
) -> None:
    """Run the registrar: take requests over the broker, and make public who belongs to the grid.

    It runs until it is stopped, and acts on what the other commands change in the folder.
    """
    from broker.authority import REGISTRAR, Authority
    from stackelgrid.deploy.registrar import Registrar
    from stackelgrid.node.log import set_up
    from stackelgrid.node.process import serve as serve_node
    from stackelgrid.node.status import Heartbeat, Status, StatusFile
    from stackelgrid.testbed.enrolment import certificate_in
    from stackelgrid.transport.address import Address
    from stackelgrid.transport.mqtt import MqttTransport

    authority = Authority(folder)
    grid = authority.read_directory().grid
    address = broker or grid.broker
    encrypted = Address.parse(address).encrypted
    transport = MqttTransport(
        address,
        tls=certificate_in(authority.place(REGISTRAR)) if encrypted else None,
        connect_timeout_s=float("inf"),
        reconnect_s=float("inf"),
    )
    node = Registrar(authority, grid.run)
    set_up(log, grid.run, node.name)
    health = Status(grid.run, node.name, node.progress, node.mailbox, transport)
    heartbeat = None if status is None else Heartbeat(health, [StatusFile(status, health)])
    sys.exit(serve_node(node, transport, heartbeat, stay=False))


@certs.command(name="list")
def list_(folder: Folder = CERTS) -> None:
    """List all certificates."""
    from rich.console import Console
    from rich.table import Table

    from broker.authority import Authority

    ranks = {role: rank for rank, role in enumerate(Role)} | {Role.broker: -1}
    certificates = sorted(
        Authority(folder).register.certified, key=lambda each: (ranks[each.role], each.above or "", each.name)
    )
    table = Table("name", "role", "above", "added", "valid until", "", box=None, pad_edge=False)
    for each in certificates:
        state = "" if each.revoked is None else f"revoked {each.revoked:%Y-%m-%d}"
        state += f" by {each.revoked_by}" if each.revoked_by else ""
        state += f": {each.reason}" if each.reason else ""
        table.add_row(
            each.name, each.role, each.above or "", f"{each.added:%Y-%m-%d}", f"{each.expires:%Y-%m-%d}", state
        )
    Console(highlight=False, soft_wrap=True, markup=False).print(table)


def _who() -> str:
    """Give the user who gives a command, also through sudo."""
    return os.environ.get("SUDO_USER") or getpass.getuser()
