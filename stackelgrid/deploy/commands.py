"""`stackelgrid certs`: a certificate for every node, and a broker that knows whose it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from broker.access import Node, Role
from broker.authority import BROKER, Authority, AuthorityError, CertificateEntry

BAD_INPUT = 2

certs = typer.Typer(no_args_is_help=True, help="Certificates: who is who on a broker with access rules.")

Folder = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The authority's folder.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST", help="A name or address that nodes reach the broker by; may be repeated."),
]
CERTS = Path("certs")


@contextmanager
def _told() -> Iterator[None]:
    """An authority's error becomes one message and exit code 2."""
    try:
        yield
    except AuthorityError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from None


@certs.command()
def init(folder: Folder = CERTS, host: Hosts = None) -> None:
    """Make an authority, and the certificate of the broker."""
    with _told():
        authority = Authority.init(folder, *(host or []))
        print(f"{authority.folder}: an authority; the broker's folder is {authority.folder / 'broker'}")


@certs.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NODE", help="The node's name, as in its configuration.")],
    role: Annotated[Role, typer.Option(help="What it is; broker: a new certificate for the broker.")] = Role.home,
    above: Annotated[
        str | None, typer.Option(metavar="NODE", help="A home's aggregator, an aggregator's leader.")
    ] = None,
    folder: Folder = CERTS,
    host: Hosts = None,
) -> None:
    """Give a node a certificate; a broker that `python -m broker --certs` started knows it within a second."""
    with _told():
        authority = Authority(folder)
        node = Node(name, role, above)
        if node == BROKER:
            authority.serve_as(*(host or []))
        elif host:
            raise AuthorityError(f"{name!r} is a {role}, which nobody connects to", "--host", "leave it out")
        else:
            authority.add(node)
        print(f"{authority.place(node)}: certificate and key of {name}; take the folder to its machine")


@certs.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")],
    folder: Folder = CERTS,
) -> None:
    """Shut a node out, connected or not; a broker that `python -m broker --certs` started does so within a second."""
    with _told():
        authority = Authority(folder)
        authority.revoke(name)
        print(f"{name} is revoked; {authority.folder / 'broker'} says so")


@certs.command(name="list")
def list_(folder: Folder = CERTS) -> None:
    """List every certificate: whose, below whom, until when, and since when it is revoked."""
    with _told():
        register = Authority(folder).register
    table = Table("name", "role", "above", "added", "holds until", "", box=None, pad_edge=False)
    for entry in sorted(register.certified, key=_standing):
        state = "" if entry.revoked is None else f"revoked {entry.revoked:%Y-%m-%d}"
        table.add_row(
            entry.name, entry.role, entry.above or "", f"{entry.added:%Y-%m-%d}", f"{entry.expires:%Y-%m-%d}", state
        )
    Console(highlight=False, soft_wrap=True).print(table)


def _standing(entry: CertificateEntry) -> tuple[int, str, str]:
    """The broker first, then from the leader down."""
    return [Role.broker, *Role].index(entry.role), entry.above or "", entry.name
