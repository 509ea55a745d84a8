"""`stackelgrid certs`: a certificate for every node, and a broker with access rules."""

from __future__ import annotations

import getpass
import os
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from broker.access import Node, Role

if TYPE_CHECKING:
    from rich.table import Table

certs = typer.Typer(
    name="certs",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Give nodes certificates, and say who is in a grid.",
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


def _parse_lifetime(text: str) -> timedelta:
    """Read a time such as 30d or 12h."""
    found = re.fullmatch(r"(\d{1,5})([dh])", text)
    time = timedelta(0) if found is None else timedelta(**{{"d": "days", "h": "hours"}[found[2]]: int(found[1])})
    if not timedelta(hours=1) <= time <= timedelta(days=3650):
        raise typer.BadParameter(f"{text!r}: give days or hours, such as 30d or 12h, from 1h to 3650d")
    return time


@certs.command()
def init(
    folder: Folder = CERTS,
    host: Hosts = None,
    lifetime: Annotated[
        timedelta | None,
        typer.Option(
            parser=_parse_lifetime,
            metavar="TIME",
            help="The lifetime of homes' certificates, such as 30d or 12h, for homes that renew theirs; else 5 years.",
        ),
    ] = None,
) -> None:
    """Make an authority, and the certificate of the broker."""
    from broker.authority import Authority

    authority = Authority.init(folder, *(host or []), home_lifetime=lifetime)
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
    stranded = [home.name for home in authority.register.members.get(name, [])]
    authority.revoke(name, _who(), reason)
    print(f"{name} is revoked; {authority.folder / 'broker'} says so")
    if stranded:
        print(f"its homes take no part until they are moved (stackelgrid certs move): {', '.join(stranded)}")


@certs.command()
def renew(
    names: Annotated[list[str], typer.Argument(metavar="NODE...", help="The nodes' names.")], folder: Folder = CERTS
) -> None:
    """Give nodes another key and certificate.

    Those before still hold, so that nothing stops until the folders are on their machines.
    """
    from broker.authority import Authority

    authority = Authority(folder)
    authority.reissue(*names)
    for name in names:
        print(f"{authority.place(authority.register.in_force[name].node)}: take the folder to the machine of {name}")


@certs.command()
def passphrase(folder: Folder = CERTS) -> None:
    """Give the authority's key a passphrase, or another one.

    It is taken from STACKELGRID_CA_PASSPHRASE or the file STACKELGRID_CA_PASSPHRASE_FILE, or asked for.
    """
    from broker.authority import Authority

    authority = Authority(folder)
    authority.protect()
    print(f"{authority.folder / 'authority' / 'ca.key'} has the new passphrase")


@certs.command()
def rotate(
    finish: Annotated[bool, typer.Option("--finish", help="Trust the new key alone.")] = False,
    folder: Folder = CERTS,
) -> None:
    """Replace the authority's key, in two steps: both are trusted in between."""
    from broker.authority import Authority

    authority = Authority(folder)
    broker = authority.folder / "broker"
    if finish:
        authority.finish_rotation()
        print(f"the new key alone is trusted; {broker} has new certificates")
    else:
        authority.rotate()
        print(f"a new key signs from now on, and both are trusted; {broker} says so")


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
    from rich.table import Column, Table

    from broker.authority import Authority

    fingerprint = Column("fingerprint", no_wrap=True)  # it is copied
    table = Table("name", fingerprint, "aggregator", "homes", "max kW", "received", "", box=None, pad_edge=False)
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
            _show_limit(asked.max_kw),
            f"{each.received:%Y-%m-%d %H:%M}",
            state,
        )
    _print_table(table)


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
    from stackelgrid.node.status import Heartbeat, Outlet, Status, StatusFile
    from stackelgrid.node.systemd import Systemd
    from stackelgrid.testbed.enrolment import certificate_in
    from stackelgrid.transport.address import Address
    from stackelgrid.transport.mqtt import MqttTransport

    authority = Authority(folder)
    authority.unlock()
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
    outlets: list[Outlet] = [] if status is None else [StatusFile(status, health)]
    if "NOTIFY_SOCKET" in os.environ:
        outlets.append(Systemd())
    heartbeat = Heartbeat(health, outlets) if outlets else None
    sys.exit(serve_node(node, transport, heartbeat, stay=False))


@certs.command(name="install-service")
def install_service(
    folder: Folder = CERTS,
    passphrase: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file with the passphrase of the authority's key.")
    ] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Show the unit and change nothing.")] = False,
) -> None:
    """Let systemd run the registrar, now and at every start of the machine.

    It runs as the user who owns the authority's folder.
    """
    from stackelgrid import service
    from stackelgrid.deploy.registrar_service import describe

    command = "stackelgrid certs install-service"
    sys.exit(service.install(command, lambda: describe(folder, passphrase), only_print=only_print))


@certs.command(name="list")
def list_(folder: Folder = CERTS) -> None:
    """List all certificates."""
    from rich.table import Table

    from broker.authority import Authority

    ranks = {role: rank for rank, role in enumerate(Role)} | {Role.broker: -1}
    certificates = sorted(
        Authority(folder).register.certified, key=lambda each: (ranks[each.role], each.above or "", each.name)
    )
    table = Table("name", "role", "above", "homes", "max kW", "added", "valid until", "", box=None, pad_edge=False)
    for each in certificates:
        state = "" if each.revoked is None else f"revoked {each.revoked:%Y-%m-%d}"
        state += f" by {each.revoked_by}" if each.revoked_by else ""
        state += f": {each.reason}" if each.reason else ""
        table.add_row(
            each.name,
            each.role,
            each.above or "",
            str(each.homes) if each.role is Role.home else "",
            _show_limit(each.max_kw),
            f"{each.added:%Y-%m-%d}",
            f"{each.expires:%Y-%m-%d}",
            state,
        )
    _print_table(table)


def _show_limit(kw: float | None) -> str:
    return "" if kw is None else f"{kw:g}"


def _print_table(table: Table) -> None:
    """Print a table with a line for each row, however long."""
    from rich.console import Console

    Console(highlight=False, soft_wrap=True, markup=False, width=1000).print(table)


def _who() -> str:
    """Give the user who gives a command, also through sudo."""
    return os.environ.get("SUDO_USER") or getpass.getuser()
