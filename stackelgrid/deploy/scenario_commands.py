"""`stackelgrid provision`, `compose`, `observe`: a scenario dealt out to machines, and its run gathered from them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from stackelgrid.errors import ConfigError
from stackelgrid.node.config import NodeConfig
from stackelgrid.node.config import load as load_config
from stackelgrid.scenarios.scenario import load
from stackelgrid.testbed.run_folder import run_name
from stackelgrid.wire.names import RULE, is_name

Source = Annotated[str, typer.Argument(metavar="SCENARIO", help="A YAML file or the name of a shipped case study.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a value of the scenario; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line `app`."""
    app.command()(provision)
    app.command()(compose)
    app.command()(observe)


def provision(
    scenario: Source,
    broker: Annotated[str, typer.Option(metavar="mqtts://HOST:PORT", help="Where the nodes will find their broker.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The authority's folder, made if it is not there.")] = Path(
        "certs"
    ),
    run: Annotated[str | None, typer.Option(metavar="NAME", help="The run's name; the scenario's by default.")] = None,
    desk: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the nodes leave what the observer gathers; else in their own folders."),
    ] = None,
    sets: Sets = None,
) -> None:
    """Write for every node of a scenario a folder with its certificate and its configuration, to be taken to it."""
    from stackelgrid.deploy.provision import provision as deal_out

    name = run or run_name(scenario)
    if not is_name(name):
        raise ConfigError(f"--run {name}: a run's name is {RULE}")
    done = deal_out(load(scenario, sets), out, broker, name, None if desk is None else desk.resolve())
    print(f"{out}: {done.nodes} nodes of run {name} are configured; {len(done.added)} certificates were given")
    for node in done.revoked:
        print(f"{node} stays revoked; stackelgrid certs add {node} gives it another certificate")
    if done.withdrawn:
        print(f"not in this run, and without a configuration now: {', '.join(done.withdrawn)}")
    if done.renewed:
        print(f"the broker is called something more and has another certificate: take {out / 'broker'} to it again")


def compose(
    scenario: Source,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The file to write; else standard output.")] = None,
    per_home: Annotated[bool, typer.Option(help="A service for each home, in place of one with replicas.")] = False,
    sets: Sets = None,
) -> None:
    """Write a Docker Compose file that brings a scenario up in containers."""
    from stackelgrid.deploy.compose import compose as written

    text = written(scenario, sets or [], per_home=per_home)
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); name a file you may write") from None


def observe(
    scenario: Source,
    config: Annotated[Path, typer.Option(metavar="FILE", help="The observer's configuration.")],
    desk: Annotated[Path, typer.Option(metavar="DIR", help="Where the nodes leave what they will do.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder; by default runs/RUN.")] = None,
    status: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep a file that says how the process is.")
    ] = None,
    stay: Annotated[bool, typer.Option(help="When the run is over, stay until told to stop.")] = False,
) -> None:
    """Watch a deployed run over its broker, gather its folder from the desk, certify it and write the report."""
    from stackelgrid.deploy.observer import Observer
    from stackelgrid.node.log import set_up
    from stackelgrid.node.process import serve
    from stackelgrid.node.status import Heartbeat, Status, StatusFile
    from stackelgrid.transport.mqtt import MqttTransport

    told = load_config(config, lambda game: NodeConfig)
    transport = MqttTransport(told.broker, tls=told.tls, connect_timeout_s=float("inf"), reconnect_s=float("inf"))
    node = Observer(load(scenario), told, desk, out or Path("runs") / told.run)
    set_up("json", told.run, told.name, node.progress)
    shown = Status(told.run, told.name, node.progress, node.mailbox, transport)
    heartbeat = None if status is None else Heartbeat(shown, [StatusFile(status, shown)])
    sys.exit(serve(node, transport, node.progress, heartbeat, stay=stay))
