"""`stackelgrid run`: play a scenario and write its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from stackelgrid.cli.options import Faults, OptionalSource, Quiet, RequireCertificate, Seed, Sets
from stackelgrid.cli.runs import complete_run, find_folder
from stackelgrid.errors import ExitCode
from stackelgrid.interrupts import defer_interrupts

if TYPE_CHECKING:
    from stackelgrid.cli.progress import RunDisplay
    from stackelgrid.runner import Run, UnwrittenError
    from stackelgrid.scenarios import Scenario
    from stackelgrid.ui.watch import Watch


_WITH_RESUME = ("resumed", "certified", "required", "as_json", "quiet")
"""Parameters of `run` that do not change what is played."""


class TransportName(StrEnum):
    """The transports of a run."""

    mqtt = "mqtt"
    memory = "memory"


def run(
    context: typer.Context,
    scenario: OptionalSource = None,
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
    resumed: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="ID",
            help="Go on with a run that was interrupted or killed.",
            autocompletion=complete_run,
        ),
    ] = None,
) -> None:
    """Play a scenario and write its folder.

    The folder has the result, a line per round, logs and a report with figures.
    """
    from stackelgrid import runner
    from stackelgrid.scenarios import load

    if required and not certified:
        raise CommandError(
            ExitCode.BAD_INPUT, "--require-certificate: nothing is certified with --no-certify; drop one"
        )
    if resumed is not None:
        _refuse_others(context, resumed)
        folder = find_folder(resumed)
        display = _open_display(load(str(folder / "scenario.yaml")), quiet=quiet)
        with defer_interrupts(), display:
            ended, unwritten = _await_end(
                lambda: runner.resume(
                    folder,
                    certify=certified,
                    report=True,
                    on_round=display.show_round,
                    on_step=display.show_step,
                ),
                required=required,
            )
        _print_result(ended, unwritten, as_json=as_json)
        conclude(ended, display.seconds, quiet=quiet or as_json, certified=certified, required=required)
        return
    if scenario is None:
        context.fail("Missing argument 'SCENARIO'.")
    _check_broker(broker, certificates)
    if watched and certificates is not None:
        message = "--watch: nobody but the nodes may listen where --certs are needed; leave one of them out"
        raise CommandError(ExitCode.BAD_INPUT, message)
    checked = load(
        scenario, sets, seed, show=lambda sentence: None if quiet else open_stderr().print(sentence, markup=False)
    )
    if not quiet:
        print_doubts(scenario, checked)
    display = _open_display(checked, quiet=quiet)
    with ExitStack() as stack:
        watch = None
        if watched:
            watch = stack.enter_context(_watch(checked, faults, broker, display))
        shown = watch or display
        with defer_interrupts(), display:
            if transport is TransportName.mqtt:
                display.show(f"starting {len(checked.topology.names)} processes")
                if told := tell_first_gate(checked):
                    display.show(told)
            ended, unwritten = _await_end(
                lambda: runner.run(
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
                ),
                required=required,
            )
        if watch is not None:
            watch.end(ended)
        _print_result(ended, unwritten, as_json=as_json)
        if watch is not None and not ended.interrupted:
            stack.callback(watch.wait)
        conclude(ended, display.seconds, quiet=quiet or as_json, certified=certified, required=required)


def _refuse_others(context: typer.Context, resumed: str) -> None:
    """Refuse what is given beside --resume and would change the run."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in _WITH_RESUME and source is not None and source.name == "COMMANDLINE":
            given = parameter.opts[0] if parameter.opts[0].startswith("-") else "SCENARIO"
            message = f"--resume {resumed}: the run goes on as it was begun; leave {given} out"
            raise CommandError(ExitCode.BAD_INPUT, message)


def _open_display(scenario: Scenario, *, quiet: bool) -> RunDisplay:
    from stackelgrid.cli.progress import RunDisplay

    return RunDisplay(open_stderr(), scenario.leader.max_rounds, len(scenario.sessions), quiet=quiet)


def _await_end(play: Callable[[], Run], *, required: bool) -> tuple[Run, UnwrittenError | None]:
    """Play a run to its end, written or not."""
    from stackelgrid.runner import UnwrittenError

    try:
        return play(), None
    except UnwrittenError as error:
        return error.run, error
    except CertificateError as error:
        if not required:
            raise
        raise CommandError(ExitCode.NOT_CERTIFIED, f"the certificate could not be made: {error}") from None


def _print_result(ended: Run, unwritten: UnwrittenError | None, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(ended.result.content(), allow_nan=False), flush=True)
    if unwritten is not None:
        raise unwritten


def _watch(scenario: Scenario, faults: str | None, broker: str, display: RunDisplay) -> Watch:
    """Prepare the page on a run."""
    from stackelgrid.testbed import fault_plans
    from stackelgrid.ui.recorder import Recorder
    from stackelgrid.ui.watch import Watch

    plan = None if faults is None else fault_plans.fit(faults, scenario, broker)
    address = broker if BrokerKind.of(broker) is None else None
    recorder = Recorder(scenario, plan, address)
    return Watch(recorder, display, lambda line: open_stderr().print(line, markup=False))


def tell_first_gate(scenario: Scenario) -> str:
    """Say for when a grid waits, and how to play it without waiting; empty where it does not wait."""
    if scenario.gates is None or scenario.gates.clock != "real":
        return ""
    opens = scenario.gates.open_at(scenario.sessions[0]).isoformat(timespec="minutes")
    return (
        f"the first session opens at {opens}, by the wall clock; --set gates.clock=simulated plays one after the other"
    )


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
