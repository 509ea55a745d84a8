"""`stackelgrid provision`, `compose`, `observe`, `disturb`: a scenario on machines, its run there, and faults."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from stackelgrid.cli.options import Sets, Source
from stackelgrid.errors import ConfigError


def provision(
    scenario: Source,
    broker: Annotated[
        str, typer.Option(metavar="mqtts://HOST:PORT", help="The broker's address, as the nodes reach it.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The authority's folder, made if it is not there.")] = Path(
        "certs"
    ),
    run: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The run's name; the scenario's by default, once played a digest of it too."),
    ] = None,
    desk: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the nodes write what the observer gathers; else to their own folders."),
    ] = None,
    sets: Sets = None,
) -> None:
    """Write the certificate and configuration of each node.

    Each node of the scenario gets a folder of its own, to be taken to its machine.
    """
    from stackelgrid.deploy import provision as provisioning
    from stackelgrid.deploy.privacy import protect
    from stackelgrid.scenarios import load
    from stackelgrid.wire.names import RULE, is_name, name_from

    name = run or name_from(Path(scenario).stem)
    if not is_name(name):
        raise ConfigError(f"--run {name}: a run's name is {RULE}")
    desk = None if desk is None else desk.resolve()
    protected, told = protect(load(scenario, sets))
    changes = provisioning.provision(protected, out, broker, name, desk, rename=not run)
    if changes.run != name:
        print(f"another run {name} was played here: this one is {changes.run}")
    certificates = f"{len(changes.added)} certificates were given"
    print(f"{out}: {changes.nodes} nodes of run {changes.run} are configured; {certificates}")
    for sentence in told:
        print(f"privacy: {sentence}")
    for node in changes.revoked:
        print(f"{node} stays revoked; stackelgrid certs add {node} gives it another certificate")
    if changes.withdrawn:
        print(f"not in this run, and without a configuration now: {', '.join(changes.withdrawn)}")
        print("a grid's registrar counts them among its members until their certificates are revoked")
    if changes.renewed:
        print(f"the broker has more names and another certificate: take {out / 'broker'} to it again")


def compose(
    scenario: Source,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The file to write; else standard output.")] = None,
    per_home: Annotated[
        bool,
        typer.Option("--per-home/--replicas", help="A service and a volume for each home, or replicas on one volume."),
    ] = True,
    sets: Sets = None,
) -> None:
    """Write a Docker Compose file of a scenario."""
    from stackelgrid.deploy import compose as composing

    text = composing.compose(scenario, sets or [], per_home=per_home)
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); name a file you may write") from None


def observe(
    scenario: Source,
    config: Annotated[Path, typer.Option(metavar="FILE", help="The observer's configuration.")],
    desk: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the nodes write their schedules; else there is no result.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder; by default runs/RUN.")] = None,
    status: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep a file with the state of the process.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="[HOST:]PORT", help="Serve Prometheus metrics, on 127.0.0.1 by default.")
    ] = None,
    stay: Annotated[bool, typer.Option(help="When the run is over, stay until stopped.")] = False,
    watched: Annotated[
        bool, typer.Option("--watch", help="Open a page on the run, and serve it until Ctrl-C.")
    ] = False,
) -> None:
    """Watch a deployed run and write its folder.

    The run is watched over its broker. What the nodes left on the desk is gathered, certified and reported on.
    """
    from stackelgrid.deploy.observer import Observer
    from stackelgrid.node.config import NodeConfig
    from stackelgrid.node.config import load as load_config
    from stackelgrid.node.log import set_up
    from stackelgrid.node.process import serve
    from stackelgrid.node.status import Heartbeat, Status, StatusFile
    from stackelgrid.scenarios import load
    from stackelgrid.transport.mqtt import MqttTransport

    settings = load_config(config, lambda game: NodeConfig)
    transport = MqttTransport(
        settings.broker, tls=settings.tls, connect_timeout_s=float("inf"), reconnect_s=float("inf")
    )
    folder = out or Path("runs") / settings.run
    node = Observer(load(scenario), settings, desk, folder)
    set_up("json", settings.run, settings.name, node.progress)
    health = Status(settings.run, settings.name, node.progress, node.mailbox, transport)
    if metrics is not None:
        from stackelgrid.node.metrics import OBSERVER
        from stackelgrid.node.metrics import serve as serve_metrics

        serve_metrics(metrics, OBSERVER, health)
    heartbeat = None if status is None else Heartbeat(health, [StatusFile(status, health)])
    with _serve_page(folder) if watched else nullcontext():
        sys.exit(serve(node, transport, heartbeat, stay=stay or watched, config_file=config))


def disturb(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A YAML file or the name of a shipped fault plan.")],
    project: Annotated[
        str, typer.Option("--compose", metavar="PROJECT", help="The Compose project; docker compose ls lists them.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print each fault as a line of JSON.")] = False,
) -> None:
    """Play a fault plan on the containers of a deployed run.

    It goes by the rounds that the observer there hears, and ends with the plan or the run. What is then still stopped
    goes on.
    """
    import json

    from stackelgrid.cli.progress import describe_fault
    from stackelgrid.deploy.disturb import ComposeProject
    from stackelgrid.deploy.disturb import disturb as play
    from stackelgrid.run_record import FaultRecord
    from stackelgrid.testbed import fault_plans

    def show(record: FaultRecord) -> None:
        print(json.dumps(record.content()) if as_json else describe_fault(record), flush=True)

    play(fault_plans.load(plan), ComposeProject(project), show)


def _serve_page(folder: Path) -> AbstractContextManager[None]:
    from stackelgrid.ui.watch import serve_run

    return serve_run(folder, lambda line: print(line, file=sys.stderr, flush=True))
