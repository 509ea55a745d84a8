"""`stackelgrid certs`: a certificate for every node, and a broker with access rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broker.access import Node, Role

certs = typer.Typer(
    name="certs",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Give nodes certificates, and revoke them.",
)

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
    from broker.authority import BROKER, Authority, AuthorityError

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
    folder: Folder = CERTS,
) -> None:
    """Revoke a node's certificate.

    A broker that `python -m broker --certs` started shuts the node out within a second.
    """
    from broker.authority import Authority

    authority = Authority(folder)
    authority.revoke(name)
    print(f"{name} is revoked; {authority.folder / 'broker'} says so")


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
        table.add_row(
            each.name, each.role, each.above or "", f"{each.added:%Y-%m-%d}", f"{each.expires:%Y-%m-%d}", state
        )
    Console(highlight=False, soft_wrap=True).print(table)
