"""`stackelgrid run`: play a scenario and write its folder."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker import BrokerKind
from stackelgrid.certify import CertificateError
from stackelgrid.cli.conclusion import conclude
from stackelgrid.cli.console import CommandError, open_stderr
from stackelgrid.cli.inputs import print_doubts
from stackelgrid.cli.options import Faults, Quiet, RequireCertificate, Seed, Sets, Source
from stackelgrid.errors import ExitCode
from stackelgrid.interrupts import defer_interrupts

if TYPE_CHECKING:
    from rich.console import Console

    from stackelgrid.progress_display import ProgressDisplay
    from stackelgrid.scenarios import Scenario
    from stackelgrid.ui.watch import Watch


class TransportName(StrEnum):
    """The transports of a run."""

    mqtt = "mqtt"
    memory = "memory"


def run(
    scenario: Source,
    transport: Annotated[
        TransportName, typer.Option(help="mqtt: a process per node; memory: all in one.")
    ] = TransportName.mqtt,
    broker: Annotated[
        str,
        typer.Option(
            metavar="auto|embedded|mosquitto|mqtt[s]://[USER@]HOST:PORT",
            help="Start a broker of this kind, or use the one at this address; ws[s]:// too.",
        ),
    ] = BrokerKind.AUTO,
    certificates: Annotated[
        Path | None,
        typer.Option("--certs", metavar="DIR", help="For mqtts://: the authority that has certified the nodes."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder; a new one under runs/.")] = None,
    seed: Seed = None,
    sets: Sets = None,
    faults: Faults = None,
    certified: Annotated[
        bool, typer.Option("--certify/--no-certify", help="Certify a run that every home took part in.")
    ] = True,
    required: RequireCertificate = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json, and nothing else, on stdout.")] = False,
    quiet: Quiet = False,
    watched: Annotated[
        bool, typer.Option("--watch", help="Open a page on the run, and serve it until Ctrl-C.")
    ] = False,
) -> None:
    """Play a scenario and write its folder.

    The folder has the result, a line per round, logs and a report with figures.
    """
    from stackelgrid import runner
    from stackelgrid.progress_display import ProgressDisplay
    from stackelgrid.scenarios import load

    _check_broker(broker, certificates)
    if watched and certificates is not None:
        message = "--watch: nobody but the nodes may listen where --certs are needed; leave one of them out"
        raise CommandError(ExitCode.BAD_INPUT, message)
    if required and not certified:
        raise CommandError(
            ExitCode.BAD_INPUT, "--require-certificate: nothing is certified with --no-certify; drop one"
        )
    checked = load(
        scenario, sets, seed, show=lambda sentence: None if quiet else open_stderr().print(sentence, markup=False)
    )
    if not quiet:
        print_doubts(scenario, checked)
    console = open_stderr()
    display = ProgressDisplay(
        console,
        checked.leader.max_rounds,
        bar=not quiet and sys.stderr.isatty(),
        faults=not quiet,
    )
    unwritten: runner.UnwrittenError | None = None
    with ExitStack() as stack:
        watch = None
        if watched:
            watch = stack.enter_context(_watch(checked, faults, broker, display, console))
        shown = watch or display
        with defer_interrupts(), display:
            try:
                ended = runner.run(
                    checked,
                    transport=transport.value,
                    broker=broker,
                    certs=certificates,
                    faults=faults,
                    out=out,
                    name=Path(scenario).stem[:100],
                    certify=certified,
                    report=True,
                    on_round=shown.show_round,
                    on_fault=shown.show_fault,
                    on_step=shown.show_step,
                    on_start=None if watch is None else watch.begin,
                )
            except runner.UnwrittenError as error:
                ended, unwritten = error.run, error
            except CertificateError as error:
                if not required:
                    raise
                raise CommandError(ExitCode.NOT_CERTIFIED, f"the certificate could not be made: {error}") from None
        if watch is not None:
            watch.end(ended)
        if as_json:
            print(json.dumps(ended.result.content(), allow_nan=False), flush=True)
        if unwritten is not None:
            raise unwritten
        if watch is not None and not ended.interrupted:
            stack.callback(watch.wait)
        conclude(ended, quiet=quiet or as_json, certified=certified, required=required)


def _watch(scenario: Scenario, faults: str | None, broker: str, display: ProgressDisplay, console: Console) -> Watch:
    """Prepare the page on a run."""
    from stackelgrid.testbed import fault_plans
    from stackelgrid.ui.recorder import Recorder
    from stackelgrid.ui.watch import Watch

    plan = None if faults is None else fault_plans.fit(faults, scenario, broker)
    address = broker if BrokerKind.of(broker) is None else None
    recorder = Recorder(scenario, plan, address)
    return Watch(recorder, display, lambda line: console.print(line, markup=False))


def _check_broker(broker: str, certificates: Path | None) -> None:
    """Raise `CommandError` when the broker's address cannot be used, or certificates are of no use there."""
    from stackelgrid.transport.address import Address, hide_password
    from stackelgrid.transport.mqtt import MqttTransport

    shown, encrypted = hide_password(broker), False
    if BrokerKind.of(broker) is None:
        try:
            encrypted = Address.parse(broker).encrypted
            if certificates is None:
                MqttTransport(broker)  # reads what the address names
        except ValueError as error:
            message = f"--broker {shown}: give {', '.join(BrokerKind)} or mqtt://HOST:PORT ({error})"
            raise CommandError(ExitCode.BAD_INPUT, message) from None
    if certificates is not None and not encrypted:
        message = f"--certs {certificates}: nothing is encrypted on --broker {shown}; give --broker mqtts://HOST:PORT"
        raise CommandError(ExitCode.BAD_INPUT, message)
