"""`stackelgrid ui`: serve the page and the HTTP interface on this machine."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stackelgrid.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

    from stackelgrid.ui.launcher import Launcher

PORT = 8765


def ui(
    port: Annotated[
        int, typer.Option(metavar="N", help="The port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)
    ] = PORT,
    token: Annotated[str | None, typer.Option(help="What who uses it has to know; a new one is drawn.")] = None,
    opened: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Watch runs in a browser, start them and disturb them.

    The page shows the runs of runs/. It and its HTTP interface are on 127.0.0.1 only, and want the token.
    """
    if token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]+", token):
        raise ConfigError("--token: give letters, digits and . _ ~ -, or leave it out for a new one")
    with listen(port) as listener:
        serve(listener, Path("runs"), token or secrets.token_urlsafe(), opened=opened)


def listen(port: int) -> socket.socket:
    """Listen on a port of the loopback interface. Raises `ConfigError`."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        why = "in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise ConfigError(f"--port {port}: {why}; name another, or 0 for a free one") from None
    return listener


def serve(listener: socket.socket, runs: Path, token: str, *, opened: bool) -> None:
    """Serve until an interrupt."""
    from stackelgrid.ui.launcher import Launcher

    server = build_server(listener, Launcher(runs), token)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/?token={token}"

    async def announce_and_serve() -> None:
        print(address, flush=True)
        if opened:
            open_page(address, lambda line: print(line, file=sys.stderr))
        await server.serve([listener])

    with suppress(KeyboardInterrupt):  # that is how it ends
        asyncio.run(announce_and_serve())


def build_server(listener: socket.socket, launcher: Launcher, token: str) -> uvicorn.Server:
    """Build the server of the runs in the launcher's folder."""
    import uvicorn

    from stackelgrid.ui.server import Interface

    cookie = f"stackelgrid-{listener.getsockname()[1]}"  # a browser has one jar for all ports of a machine
    interface = Interface(launcher, token, cookie, lambda: server.should_exit)
    settings = uvicorn.Config(
        interface.build(), log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(settings)
    return server


def open_page(address: str, say: Callable[[str], None]) -> None:
    """Open the page in the browser of a desktop; where there is none, `say` so."""
    import webbrowser

    desktop = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if not desktop or not webbrowser.open(address):
        say("no desktop with a browser is here; open the address yourself")
