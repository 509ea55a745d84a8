"""The command line of the testbed. What a command needs is imported when it is called: help appears at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker import BrokerKind
from stackelgrid.certify import CERTIFIED_SESSIONS, CertificateError, SolverMissingError, require_solvers
from stackelgrid.deploy import scenario_commands
from stackelgrid.deploy.commands import certs
from stackelgrid.errors import ConfigError, ExitCode, explain_os_error
from stackelgrid.interrupts import allow_interrupts, defer_interrupts
from stackelgrid.ui.command import ui

if TYPE_CHECKING:
    from rich.console import Console

    from stackelgrid.progress_display import ProgressDisplay
    from stackelgrid.runner import Run
    from stackelgrid.scenarios import Scenario
    from stackelgrid.study.sweep import Study, Sweep
    from stackelgrid.ui.watch import Watch

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # rich takes longer to import than all the rest of help
    help="Demand response games between a utility, aggregators and homes, played by separate processes over MQTT.",
)


class TransportName(StrEnum):
    """The transports of a run."""

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
RequireCertificate = Annotated[
    bool, typer.Option("--require-certificate", help="End with code 5 unless the run has a certificate that passes.")
]


_LONGEST_MESSAGE = 5000
"""Characters of an error that are printed; it quotes what a file or an option has."""
_LINES = 20
"""Troubles of nodes that are printed before the rest is left to result.json."""


class CommandError(Exception):
    """Ends the command with a message and an exit code."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"stackelgrid {version('stackelgrid')}")
        raise typer.Exit


@app.callback()
def stackelgrid(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Read the options that stand before a command."""


@app.command()
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
    quiet: Annotated[bool, typer.Option(help="No progress, no summary; errors only.")] = False,
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
        scenario, sets, seed, show=lambda sentence: None if quiet else _stderr().print(sentence, markup=False)
    )
    if not quiet:
        _print_doubts(scenario, checked)
    console = _stderr()
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
        _conclude(ended, quiet=quiet or as_json, certified=certified, required=required)


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


def _conclude(ended: Run, *, quiet: bool, certified: bool, required: bool) -> None:
    """Print the summary; raise `CommandError` with the exit code of a run that did not settle in good order."""
    stderr, folder = _stderr(), ended.folder
    assert ended.record is not None
    if not quiet:
        _print_summary(ended)
    missing = certified and ended.result.certifiable and ended.certificate is None
    if missing and not required and not ended.interrupted:
        stderr.print(_explain_absence(ended), markup=False)
    _print_troubles(ended, stderr)
    if not quiet and not ended.interrupted:
        print(f"report: {folder}/report.html")
    passes = ended.interrupted or _judge(ended, required=required)
    if ended.interrupted:
        message = f"interrupted; what was found so far is in {folder}, for stackelgrid certify and stackelgrid report"
        raise CommandError(ExitCode.INTERRUPTED, message)
    if ended.record.lost:
        lost = _list_some(ended.record.conclusion.get("lost") or ended.failures or ["leader"])
        raise CommandError(ExitCode.LOST, f"the run ended without {lost}; what was found so far is in {folder}")
    if ended.failures:
        message = f"the run went on without {_list_some(ended.failures)}; what was found is in {folder}"
        raise CommandError(ExitCode.LOST, message)
    if not ended.settled:
        why = ended.record.stopped or "raise leader.max_rounds"
        message = f"not settled within {len(ended.rounds)} rounds; {why}"
        raise CommandError(ExitCode.NOT_SETTLED, message)
    if required and not passes:
        raise typer.Exit(ExitCode.NOT_CERTIFIED)


def _judge(ended: Run, *, required: bool) -> bool:
    """Print a certificate that does not pass in one red line, with the reason; where one is `required`, its absence."""
    from rich.markup import escape

    from stackelgrid.report.tables import explain_failure

    if ended.certificate is None:
        failure = _explain_absence(ended) if required else None
    elif ended.certificate.passed is None:
        failure = "the certificate does not pass: nothing in it is judged" if required else None
    else:
        reason = explain_failure(ended.result)
        failure = None if ended.certificate.passed else f"the certificate does not pass: {reason}"
    if failure is not None:
        _stderr().print(f"[red]{escape(failure)}[/red]")
    return failure is None


def _explain_absence(ended: Run) -> str:
    """Say why a run has no certificate, and what makes one."""
    if not ended.result.certifiable:
        return "not certified: not every home answered the last round, so there is no equilibrium of all to certify"
    try:
        require_solvers()
    except SolverMissingError as error:
        return f"not certified: {error}; then stackelgrid certify {ended.folder}"
    sessions = len(ended.scenario.sessions)
    size = f"{sessions} sessions" if sessions > CERTIFIED_SESSIONS else f"{len(ended.scenario.everyone)} homes"
    return f"not certified, with {size}: stackelgrid certify {ended.folder}"


def _print_troubles(ended: Run, stderr: Console) -> None:
    """Print a line for each node that was lost or left out of every round, and how many homes came late."""
    from rich.markup import escape

    assert ended.record is not None
    record, members = ended.record, ended.scenario.topology.members
    homes = {process: len(each) for processes in members.values() for process, each in processes.items()}
    late = sum(homes[process] for process in record.late)
    if late:
        everybody, gather_s = sum(homes.values()), ended.scenario.rounds.gather_s
        came = f"{everybody - late} of {everybody} homes had come when the first round began"
        stderr.print(f"{came}; raise rounds.gather_s, which is {gather_s:g} s", markup=False)
    troubles: dict[str, list[str]] = {}
    for node, why in ended.failures.items():
        troubles.setdefault(why, []).append(node)
    for node in record.left_out:
        if node not in ended.failures:
            last = record.last_errors.get(node, f"no error, see logs/{node}.jsonl")
            troubles.setdefault(f"was left out of every round; it logged last: {last}", []).append(node)
    for why, nodes in islice(troubles.items(), _LINES):
        stderr.print(f"[red]{_list_some(nodes)}[/red] {escape(why)}")
    if len(troubles) > _LINES:
        stderr.print(f"and {len(troubles) - _LINES} more such lines, see {ended.folder}/result.json", markup=False)


def _list_some(names: Iterable[str]) -> str:
    """List the first names."""
    some = [*names]
    return ", ".join(some[:5]) + (", …" if len(some) > 5 else "")


def _print_summary(ended: Run) -> None:
    from rich.console import Console
    from rich.table import Table

    from stackelgrid.report.tables import summary

    table = Table(box=None, show_header=False, pad_edge=False)
    for label, value in summary(ended.result, ended.days):
        table.add_row(label, value)
    Console(highlight=False).print(table)


@app.command()
def check(
    source: Annotated[str, typer.Argument(metavar="SCENARIO|PLAN", help="A scenario or a fault plan: file or name.")],
    sets: Sets = None,
    seed: Seed = None,
    faults: Faults = None,
) -> None:
    """Validate a scenario or a fault plan.

    Nothing is run. With --faults the plan is also checked against the scenario.
    """
    from stackelgrid.report.words import plural
    from stackelgrid.scenarios import load
    from stackelgrid.testbed import fault_plans

    if fault_plans.is_plan(source):
        plan = fault_plans.load(source)
        print(f"{source}: a fault plan with {plural(len(plan.faults), 'fault')}; no errors")
        return
    checked = load(source, sets, seed, show=print)
    description = (
        f"a {checked.game} game of {plural(len(checked.everyone), 'home')}, "
        f"{plural(checked.aggregators, 'aggregator')} and {plural(checked.slots, 'slot')}"
    )
    if faults is not None:
        count = plural(len(fault_plans.fit(faults, checked).faults), "fault")
        description += f", with {count} of {faults}"
    print(f"{source}: {description}; no errors")
    _print_doubts(source, checked)


def _print_doubts(source: str, checked: Scenario) -> None:
    """Print what can be played and is probably meant otherwise."""
    for doubt in checked.find_doubts():
        _stderr().print(f"{source}: {doubt}", markup=False)


@app.command()
def data(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An export of a meter, a portal or a market.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Read it by this key of `data`; may be repeated."),
    ] = None,
) -> None:
    """Print what is in a data file and the keys that read it.

    Also its columns with totals and average days, and what the file does not tell.
    """
    from stackelgrid.scenarios.files import apply_override
    from stackelgrid.scenarios.measured.overview import describe_file

    keys: dict[str, object] = {}
    for override in sets or []:
        apply_override(keys, override)
    try:
        print(*describe_file(file, keys), sep="\n")
    except ValueError as error:
        raise CommandError(ExitCode.BAD_INPUT, str(error)) from None


@app.command()
def certify(
    source: Annotated[str, typer.Argument(metavar="DIR|SCENARIO", help="A run's folder, or a scenario to play first.")],
    sets: Sets = None,
    seed: Seed = None,
    samples: Annotated[int, typer.Option(help="Random deviations tried in search of a better one.", min=1)] = 200,
    required: RequireCertificate = False,
) -> None:
    """Compare a run with the centralised reference.

    The certificate is printed; that of a folder is also written to its result.json.
    """
    from stackelgrid import runner

    folder = Path(source)
    ended = runner.load(folder) if folder.is_dir() else runner.run(source, sets, seed=seed)
    if ended.folder is not None and not ended.result.certifiable:
        message = "not every home answered the last round, so there is no equilibrium of all to certify"
        raise CommandError(ExitCode.BAD_INPUT, f"{folder / 'result.json'}: {message}")
    print(json.dumps(ended.certify(samples).root, indent=2, allow_nan=False))
    if not _judge(ended, required=required) and required:
        raise typer.Exit(ExitCode.NOT_CERTIFIED)


@app.command()
def sweep(
    scenario: Source,
    over: Annotated[
        list[str],
        typer.Option(metavar="KEY.PATH=A:B:STEP", help="Values of a parameter, A to B inclusive, or V1,V2,V3; repeat."),
    ],
    jobs: Annotated[int | None, typer.Option(help="Processes side by side; as many as there are cores.", min=1)] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The sweep's folder; an existing sweep is continued.")
    ] = None,
    seed: Seed = None,
    sets: Sets = None,
    certified: Annotated[bool, typer.Option("--certify", help="Certify every point.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress, no summary; errors only.")] = False,
) -> None:
    """Play a scenario over a grid of values.

    Runs are played in memory and in parallel. A sweep that was interrupted goes on where it was. The folder has a table
    and a figure.
    """
    from rich.progress import Progress

    from stackelgrid.study import grid, table
    from stackelgrid.study import sweep as study
    from stackelgrid.testbed.result import SAMPLES

    overrides = [*(sets or []), *([f"seed={seed}"] if seed is not None else [])]
    planned = study.Study(scenario, tuple(overrides), grid.parse(over), SAMPLES if certified else 0)
    folder = study.begin(planned, out)
    wanted = len(planned.grid.points)
    with defer_interrupts() as interrupts:
        points = study.Sweep(planned, folder)
        try:
            with Progress(console=_stderr(), disable=quiet, transient=True) as progress:
                task = progress.add_task(f"{wanted} points", total=wanted, completed=len(points.rows))
                for _ in points.play(jobs or len(os.sched_getaffinity(0))):
                    progress.advance(task)
        except KeyboardInterrupt:
            points = study.Sweep(planned, folder)  # some may be finished and not yet reported
        table.write(folder, planned.grid, points.rows)
        with suppress(KeyboardInterrupt), allow_interrupts():
            _draw(folder, planned, points)
        interrupted = interrupts.take()
    if interrupted:
        kept = f"{len(points.rows)} of {wanted} points are kept"
        message = f"interrupted; {kept}, the command with --out {folder} goes on"
        raise CommandError(ExitCode.INTERRUPTED, message)
    if not quiet:
        print(f"table: {folder / 'table.csv'}\nfigure: {folder / 'figure.png'}")
    problems = [row["problem"] for row in points.rows if row["problem"] is not None]
    if problems:
        message = f"{len(problems)} of {wanted} points did not settle without a problem; the first: {problems[0]}"
        raise CommandError(ExitCode.NOT_SETTLED, message)


def _draw(folder: Path, planned: Study, points: Sweep) -> None:
    from stackelgrid.study import drawing

    drawing.write(folder / "figure.png", planned.grid, points.rows)


@app.command("compare-algorithms")
def compare_algorithms(
    scenario: Source,
    algorithms: Annotated[str, typer.Option(metavar="A,B,C", help="Their names, with commas between.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder; a new one under runs/.")] = None,
    seed: Seed = None,
    sets: Sets = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print comparison.json, and nothing else, on stdout.")
    ] = False,
    quiet: Annotated[bool, typer.Option(help="No progress, no summary; errors only.")] = False,
) -> None:
    """Play a scenario by several algorithms of its leader.

    Runs are played in memory, one after the other. The folder has each run, a table, and a figure of how fast each
    comes to the best price found. One that does not settle is a result like another. One that fails is named.
    """
    from rich.progress import Progress

    from stackelgrid.study import comparison, convergence

    console = _stderr()
    hidden = quiet or as_json or not console.is_terminal
    with Progress(console=console, disable=hidden, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        compared, folder = comparison.compare(
            scenario,
            [name.strip() for name in algorithms.split(",")],
            sets or [],
            seed,
            out,
            lambda name, record: progress.update(task, description=f"{name}, round {record['round']}"),
        )
    convergence.write(folder, compared)
    if as_json:
        print(json.dumps(compared.content(), allow_nan=False))
    elif not quiet:
        _print_table(comparison.spell(compared.table))
        print(f"table: {folder / 'table.csv'}\nfigure: {folder / 'figure.png'}")
    if compared.failures:
        raise CommandError(ExitCode.LOST, "; ".join(f"{name} failed: {why}" for name, why in compared.failures.items()))


@app.command("compare-planning")
def compare_planning(
    scenario: Source,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder; a new one under runs/.")] = None,
    seed: Seed = None,
    sets: Sets = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print planning.json, and nothing else, on stdout.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress, no summary; errors only.")] = False,
) -> None:
    """Play a scenario with forecasts as it is, without replanning, and with perfect foresight.

    Runs are played in memory, one after the other. The folder has each run, and a table of what came in the slots that
    bind: energy, imbalance, money, utilities, and what each plan is worth above planning once per horizon.
    """
    from rich.progress import Progress

    from stackelgrid.study import planning

    console = _stderr()
    hidden = quiet or as_json or not console.is_terminal
    with Progress(console=console, disable=hidden, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        compared, folder = planning.compare(
            scenario,
            sets or [],
            seed,
            out,
            lambda plan, record: progress.update(
                task, description=f"{plan}, session {record.get('session', 1)}, round {record['round']}"
            ),
        )
    if as_json:
        print(json.dumps(compared.model_dump(by_alias=True), allow_nan=False))
    elif not quiet:
        _print_table(planning.spell(compared))
        print(f"table: {folder / 'table.csv'}\nreport: {folder / 'replanned' / 'report.html'}")
    if unsettled := [each.plan.replace("_", " ") for each in compared.plans if not each.settled]:
        message = f"not settled: {', '.join(unsettled)}; their numbers are of the last rounds; raise leader.max_rounds"
        raise CommandError(ExitCode.NOT_SETTLED, message)


def _print_table(rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows[1:]:
        table.add_row(*row)
    Console(highlight=False, width=max(Console().width, 110)).print(table)


@app.command()
def replay(
    what: Annotated[str, typer.Argument(metavar="SEED|DIR", help="A seed of the soak test, or a run's folder.")],
) -> None:
    """Play a run again and print its messages.

    The run is played in memory, under its faults; each message and each fault is printed.

    Over MQTT the timing differs from run to run: the replay of such a run is one possible course of it.
    """
    from stackelgrid.soak import replay as soak_replay

    print(soak_replay.replay(what))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder.")],
    formats: Annotated[
        str,
        typer.Option(
            "--figures",
            metavar="png,svg,pdf",
            help="Draw the figures in these formats too, one and two columns of a journal wide.",
        ),
    ] = "",
) -> None:
    """Write report.html, the figures and the tables again."""
    from stackelgrid.report import write

    print(write(folder, formats=[kind.strip() for kind in formats.split(",") if kind.strip()]))


@app.command()
def scenarios() -> None:
    """List the shipped case studies and fault plans."""
    from stackelgrid.scenarios import list_shipped, load
    from stackelgrid.testbed import fault_plans

    games = {name: load(name).title for name in list_shipped()}
    plans = {name: fault_plans.load(name).title for name in fault_plans.list_shipped()}
    width = max(map(len, [*games, *plans]))
    print(*(f"{name:{width}}  {title}" for name, title in games.items()), sep="\n")
    print("\nfault plans, for run --faults:")
    print(*(f"{name:{width}}  {title}" for name, title in plans.items()), sep="\n")


@app.command()
def schema(game: Annotated[str, typer.Argument(metavar="GAME", help="One of `stackelgrid scenarios`.")]) -> None:
    """Print the JSON Schema of a game's scenario."""
    from stackelgrid.registry import UnknownGameError, find
    from stackelgrid.scenarios.measured import with_data

    try:
        model = find(game).load("scenario")
    except UnknownGameError as error:
        raise CommandError(ExitCode.BAD_INPUT, str(error)) from None
    print(json.dumps(with_data(model.model_json_schema()), indent=2))


scenario_commands.register(app)
app.add_typer(certs, name="certs")
app.command()(ui)


def _stderr() -> Console:
    """Open the console for progress and messages."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def main() -> int:
    """Run the command; print each expected error in one line and return its exit code."""
    try:
        app()
    except SystemExit as ended:  # by typer: 0, 2 for bad usage, 130 for an interrupt
        if ended.code != ExitCode.INTERRUPTED:
            return ended.code if isinstance(ended.code, int) else ExitCode.BAD_INPUT
        code, message = ExitCode.INTERRUPTED, "interrupted"
    except CommandError as error:
        code, message = error.code, str(error)
    except ConfigError as error:
        code, message = ExitCode.BAD_INPUT, str(error)
    except Exception as error:
        found = _explain(error)
        if found is None:
            raise
        code, message = found
    else:
        return ExitCode.SETTLED
    shown = message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]}…"
    _stderr().print(shown, markup=False)
    return code


def _explain(error: Exception) -> tuple[ExitCode, str] | None:
    """Find the exit code and the message of an error that is expected; None of a bug."""
    from broker import BrokerStartError
    from stackelgrid.transport.base import BrokerUnreachableError

    match error:
        case BrokerUnreachableError():
            return ExitCode.LOST, str(error)
        case CertificateError():
            return ExitCode.NOT_SETTLED, f"the certificate could not be made: {error}"
        case BrokerStartError():
            return ExitCode.BAD_INPUT, str(error)
        case OSError():
            found = explain_os_error(error)
            return None if found is None else (ExitCode.BAD_INPUT, found)
    return None
