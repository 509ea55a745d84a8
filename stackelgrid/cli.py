"""The command line of the testbed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from broker import BrokerKind, BrokerStartError
from broker.authority import AuthorityError
from stackelgrid import certify as equilibrium
from stackelgrid.deploy import scenario_commands
from stackelgrid.deploy.commands import certs
from stackelgrid.errors import ConfigError
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.node.record import write_whole
from stackelgrid.registry import UnknownGameError, find
from stackelgrid.report import ReportError, write
from stackelgrid.report.run_folder import read_result
from stackelgrid.report.tables import summary
from stackelgrid.run_record import RunRecord
from stackelgrid.run_result import RunResult
from stackelgrid.scenarios.measured import with_data
from stackelgrid.scenarios.scenario import Scenario, load, shipped
from stackelgrid.study import grid, table
from stackelgrid.study import sweep as study
from stackelgrid.testbed import fault_plans, in_memory, processes
from stackelgrid.testbed import run_folder as store
from stackelgrid.testbed.result import CERTIFIED_UP_TO, SAMPLES, build_result
from stackelgrid.testbed.result import certify as add_certificate
from stackelgrid.transport.address import Address
from stackelgrid.transport.base import BrokerUnreachableError
from stackelgrid.wire.names import name_from

SETTLED, BAD_INPUT, NOT_SETTLED, LOST, INTERRUPTED = 0, 2, 3, 4, 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Demand response games between a utility, aggregators and homes, played by separate processes over MQTT.",
)
say = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
app.add_typer(certs, name="certs")
scenario_commands.register(app)


class TransportName(StrEnum):
    """How messages travel."""

    mqtt = "mqtt"
    memory = "memory"


Source = Annotated[str, typer.Argument(metavar="SCENARIO", help="A YAML file or the name of a shipped case study.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a value of the scenario; may be repeated."),
]
Faults = Annotated[
    str | None, typer.Option(metavar="PLAN", help="What goes wrong: a YAML file or the name of a shipped fault plan.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything drawn at random.", min=0)]


class CommandError(Exception):
    """Ends the command with one message and a code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@app.command()
def run(
    scenario: Source,
    transport: Annotated[
        TransportName, typer.Option(help="mqtt: a process per node; memory: all in one.")
    ] = TransportName.mqtt,
    broker: Annotated[
        str,
        typer.Option(metavar="auto|embedded|mosquitto|mqtt[s]://HOST:PORT", help="Our own broker, or one there is."),
    ] = BrokerKind.AUTO,
    certificates: Annotated[
        Path | None,
        typer.Option("--certs", metavar="DIR", help="For mqtts://: the authority that has certified the nodes."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder; a new one under runs/.")] = None,
    seed: Seed = None,
    sets: Sets = None,
    faults: Faults = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json, and nothing else, on stdout.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress, no summary; errors only.")] = False,
) -> None:
    """Play a scenario to its end and write its folder: result, rounds, logs, report."""
    checked = load(scenario, sets, seed)
    _check_broker(broker, certificates)
    plan = None if faults is None else fault_plans.fitted(faults, checked, broker)
    began = datetime.now(UTC)
    folder = store.create(out, Path(scenario).stem)
    # Unique, so that runs which share a broker never hear each other, nor what an earlier one left retained.
    name = f"{name_from(folder.name, 50)}-{secrets.token_hex(3)}"
    with _Show(checked, quiet, quiet or (as_json and not sys.stderr.isatty())) as show:
        try:
            store.write_scenario(folder, checked)
            if plan is not None:
                store.write_faults(folder, plan)
            if transport is TransportName.memory:
                run_record = in_memory.play(checked, show.round, plan, show.fault)
                store.write_rounds(folder, run_record)
            else:
                run_record = processes.play(checked, folder, broker, name, show.round, plan, show.fault, certificates)
        except (BrokerStartError, BrokerUnreachableError, AuthorityError) as error:
            shutil.rmtree(folder)
            raise CommandError(LOST if isinstance(error, BrokerUnreachableError) else BAD_INPUT, str(error)) from None
        finished = build_result(checked, run_record)
        store.write_result(folder, finished, began)
        try:
            if finished.certifiable and finished.homes <= CERTIFIED_UP_TO:
                show.doing("certifying")
                finished = add_certificate(checked, finished, SAMPLES)
                store.write_result(folder, finished, began)
            show.doing("drawing")
            write(folder)
        except KeyboardInterrupt:
            message = (
                f"interrupted after the last round; the result is in {folder}, stackelgrid certify and report go on"
            )
            raise CommandError(INTERRUPTED, message) from None
    if as_json:
        print(json.dumps(finished.content(), allow_nan=False))
    _conclude(folder, finished, run_record, quiet or as_json)


def _check_broker(broker: str, certificates: Path | None) -> None:
    encrypted = False
    if BrokerKind.of(broker) is None:
        try:
            encrypted = Address.parse(broker).encrypted
        except ValueError as error:
            message = f"--broker {broker}: give {', '.join(BrokerKind)} or mqtt://HOST:PORT ({error})"
            raise CommandError(BAD_INPUT, message) from None
    if encrypted and certificates is None:
        message = f"--broker {broker}: nodes prove themselves there; give --certs DIR, what stackelgrid provision wrote"
        raise CommandError(BAD_INPUT, message)
    if certificates is not None and not encrypted:
        message = f"--certs {certificates}: nothing is encrypted on --broker {broker}; give --broker mqtts://HOST:PORT"
        raise CommandError(BAD_INPUT, message)


def _conclude(folder: Path, finished: RunResult[Any], run_record: RunRecord, quiet: bool) -> None:
    """The summary, and the exit code."""
    if not quiet:
        _print_summary(finished)
    if finished.certifiable and finished.certificate is None:
        say.print(f"not certified, with more than {CERTIFIED_UP_TO} homes: stackelgrid certify {folder}", markup=False)
    for node, why in run_record.failures.items():
        say.print(f"[red]{node}[/red] {why}")
    if not quiet:
        print(f"report: {folder / 'report.html'}")
    if run_record.interrupted:
        raise CommandError(INTERRUPTED, f"interrupted; what was found so far is in {folder}")
    if run_record.lost:
        lost = ", ".join(run_record.conclusion.get("lost", [])) or "the leader"
        raise CommandError(LOST, f"the run ended without {lost}; what was found so far is in {folder}")
    if not run_record.settled:
        raise CommandError(NOT_SETTLED, f"not settled within {finished.rounds} rounds; raise leader.max_rounds")


def _print_summary(finished: RunResult[Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for label, value in summary(finished):
        table.add_row(label, value)
    Console(highlight=False).print(table)


class _Show:
    """Progress on stderr: rounds, the residual, who answered; and what of a fault plan happens."""

    def __init__(self, scenario: Scenario, quiet: bool, still: bool) -> None:
        self._scenario = scenario
        self._quiet = quiet
        self._told: set[tuple[Any, ...]] = set()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=say,
            disable=still,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=scenario.leader.max_rounds, state="")

    def __enter__(self) -> _Show:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def round(self, record: dict[str, Any]) -> None:
        """A round is finished."""
        missing = len(record["held"]) + len(record["excluded"])
        wanted = "unknown" if record["residual"] is None else f"{record['residual']:.1e}"
        state = f"change {wanted}, {record['answered']} answers" + (f", {missing} missing" if missing else "")
        self._progress.update(
            self._task, completed=record["round"], description=f"round {record['round']}", state=state
        )

    def fault(self, record: dict[str, Any]) -> None:
        """A fault has happened: a line, of faults on messages one per fault, link and round."""
        where = f"{record['from']} to {record['to']}" if "to" in record else record.get("node", "")
        told = (record["fault"], record["kind"], where, record["round"])
        if self._quiet or told in self._told:
            return
        self._told.add(told)
        when = f"{record['seconds']:7.2f} s" + (f", round {record['round']}" if record["round"] is not None else "")
        of_whom = f" {where}" if record["kind"] != "broker" and where else ""
        say.print(f"{when}: {record['kind']}{of_whom}", markup=False)

    def doing(self, what: str) -> None:
        """Something other than rounds."""
        self._progress.update(self._task, description=what)


@app.command()
def check(
    source: Annotated[str, typer.Argument(metavar="SCENARIO|PLAN", help="A scenario or a fault plan: file or name.")],
    sets: Sets = None,
    seed: Seed = None,
    faults: Faults = None,
) -> None:
    """Validate a scenario, a fault plan, or (with --faults) the one with the other; run nothing."""
    if fault_plans.is_plan(source):
        plan = fault_plans.load(source)
        print(f"{source}: a fault plan with {_counted(plan)}; nothing to object to")
        return
    checked = load(source, sets, seed)
    told = f"{source}: a {checked.game} game of {len(checked.everyone)} homes, {checked.aggregators} aggregators and "
    told += f"{checked.slots} slots"
    if faults is not None:
        told += f", with {_counted(fault_plans.fitted(faults, checked))} of {faults}"
    print(f"{told}; nothing to object to")


def _counted(plan: FaultPlan) -> str:
    return f"{len(plan.faults)} fault{'' if len(plan.faults) == 1 else 's'}"


@app.command()
def certify(
    source: Annotated[str, typer.Argument(metavar="DIR|SCENARIO", help="A run's folder, or a scenario to play first.")],
    sets: Sets = None,
    seed: Seed = None,
    samples: Annotated[
        int, typer.Option(help="Deviations tried at random in search of a better one.", min=1)
    ] = SAMPLES,
) -> None:
    """Compare with the centralised reference and print the certificate; of a folder, also written to result.json."""
    folder = Path(source)
    if folder.is_dir():
        checked = load(str(folder / "scenario.yaml"))
        finished = read_result(folder / "result.json")
        if not finished.certifiable:
            message = "not every home answered the last round, so there is no equilibrium of all to certify"
            raise CommandError(BAD_INPUT, f"{folder / 'result.json'}: {message}")
        finished = add_certificate(checked, finished, samples)
        write_whole(folder / "result.json", finished.content())
    else:
        checked = load(source, sets, seed)
        finished = add_certificate(checked, build_result(checked, in_memory.play(checked)), samples)
    print(json.dumps(finished.content()["certificate"], indent=2, allow_nan=False))


@app.command()
def sweep(
    scenario: Source,
    over: Annotated[
        list[str],
        typer.Option(metavar="KEY.PATH=A:B:STEP", help="Values of a parameter, A to B inclusive, or V1,V2,V3; repeat."),
    ],
    jobs: Annotated[int | None, typer.Option(help="Processes side by side; as many as there are cores.", min=1)] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The sweep's folder; one begun before is gone on with.")
    ] = None,
    seed: Seed = None,
    sets: Sets = None,
    certified: Annotated[bool, typer.Option("--certify", help="Certify every point.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress, no summary; errors only.")] = False,
) -> None:
    """Play a scenario over a grid, in memory and in parallel; write a table and a figure. Resumable."""
    overrides = [*(sets or []), *([f"seed={seed}"] if seed is not None else [])]
    planned = study.Study(scenario, tuple(overrides), grid.parse(over), SAMPLES if certified else 0)
    folder = study.begin(planned, out)
    points = study.Sweep(planned, folder)
    wanted = len(planned.grid.points)
    try:
        with Progress(console=say, disable=quiet, transient=True) as progress:
            task = progress.add_task(f"{wanted} points", total=wanted, completed=len(points.rows))
            for _ in points.play(jobs or len(os.sched_getaffinity(0))):
                progress.advance(task)
        table.write(folder, planned.grid, points.rows)
        _draw(folder, planned, points)
    except KeyboardInterrupt:
        kept = study.Sweep(planned, folder).rows  # some may have been finished and not yet heard of
        table.write(folder, planned.grid, kept)
        message = f"interrupted; {len(kept)} of {wanted} points are kept, the command with --out {folder} goes on"
        raise CommandError(INTERRUPTED, message) from None
    if not quiet:
        print(f"table: {folder / 'table.csv'}\nfigure: {folder / 'figure.png'}")
    problems = [row["problem"] for row in points.rows if row["problem"] is not None]
    if problems:
        message = f"{len(problems)} of {wanted} points did not settle without a problem; the first: {problems[0]}"
        raise CommandError(NOT_SETTLED, message)


def _draw(folder: Path, planned: study.Study, points: study.Sweep) -> None:
    from stackelgrid.study import drawing

    drawing.write(folder / "figure.png", planned.grid, points.rows)


@app.command()
def replay(
    what: Annotated[str, typer.Argument(metavar="SEED|DIR", help="A seed of the soak test, or a run's folder.")],
) -> None:
    """Tell a run under faults message by message, played again in memory: who said what to whom, which fault did what.

    Over MQTT the same plan meets other timings; the replay of such a run is one that could have been.
    """
    from stackelgrid.soak.replay import replay as told

    print(told(what))


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder.")]) -> None:
    """Write report.html and the figures again."""
    print(write(folder))


@app.command()
def scenarios() -> None:
    """List the shipped case studies, and the fault plans for `run --faults`."""
    for name in shipped():
        print(f"{name:16} {load(name).title}")
    print("\nfault plans, for run --faults:")
    for name in fault_plans.shipped():
        print(f"{name:16} {fault_plans.load(name).title}")


@app.command()
def schema(game: Annotated[str, typer.Argument(metavar="GAME", help="One of `stackelgrid scenarios`.")]) -> None:
    """Print the JSON Schema of a scenario of a game."""
    try:
        model: type[Scenario] = find(game).load("scenario")
    except UnknownGameError as error:
        raise CommandError(BAD_INPUT, str(error)) from None
    print(json.dumps(with_data(model.model_json_schema()), indent=2))


def main() -> int:
    """Entry point: every expected failure becomes one message and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite stop is an interrupt
    try:
        app()
    except SystemExit as ended:  # typer's own way out: 0, 2 for bad usage, 130 for Ctrl-C
        return ended.code if isinstance(ended.code, int) else BAD_INPUT
    except CommandError as failure:
        say.print(str(failure), markup=False)
        return failure.code
    except (ConfigError, ReportError) as error:
        say.print(str(error), markup=False)
        return BAD_INPUT
    except equilibrium.CertificateError as error:
        say.print(f"the certificate could not be made: {error}", markup=False)
        return NOT_SETTLED
    except KeyboardInterrupt:
        return INTERRUPTED
    return SETTLED


if __name__ == "__main__":
    sys.exit(main())
