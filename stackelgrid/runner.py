"""Play a scenario and keep the result: the runner of the commands, the pytest plugin, sweeps and notebooks."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from broker import BrokerKind, BrokerStartError
from stackelgrid import scenarios
from stackelgrid.certify import CERTIFIED_SESSIONS, CERTIFIED_UP_TO, CertificateError, SolverMissingError
from stackelgrid.errors import ConfigError, explain_os_error
from stackelgrid.interrupts import allow_interrupts, defer_interrupts
from stackelgrid.registry import Game, find
from stackelgrid.run_record import FaultRecord, RunRecord
from stackelgrid.run_result import Certificate, FaultOccurrence, Missing, RunResult
from stackelgrid.scenarios import Scenario
from stackelgrid.testbed import fault_plans, in_memory, run_folder
from stackelgrid.testbed.limits import require_room
from stackelgrid.testbed.recovery import RecoveryLog
from stackelgrid.testbed.result import SAMPLES, build_result
from stackelgrid.testbed.result import certify as add_certificate
from stackelgrid.testbed.run_folder import Place
from stackelgrid.testbed.run_lock import RunLock
from stackelgrid.testbed.start import RunStart
from stackelgrid.transport.address import Address, hide_password
from stackelgrid.transport.base import BrokerUnreachableError
from stackelgrid.wire.names import name_from

if TYPE_CHECKING:
    import pandas as pd

    from stackelgrid.faults.plan import FaultPlan
    from stackelgrid.report.days import Days
    from stackelgrid.report.figures import Figures
    from stackelgrid.report.run_folder import RunFolder


class UnwrittenError(ConfigError):
    """A `run` that was played and could not be written; the message names the file, what is wrong and the mend."""

    def __init__(self, run: Run, error: OSError | ConfigError) -> None:
        super().__init__((explain_os_error(error) if isinstance(error, OSError) else None) or str(error))
        self.run = run


Record = dict[str, Any]
Notify = Callable[[Record], None]


def run(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    overrides: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    transport: Literal["memory", "mqtt"] = "memory",
    broker: str = BrokerKind.AUTO,
    certs: str | Path | None = None,
    faults: str | Path | Mapping[str, Any] | FaultPlan | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    seed: int | None = None,
    certify: bool = False,
    report: bool = False,
    on_round: Notify = lambda record: None,
    on_fault: Callable[[FaultRecord], None] = lambda record: None,
    on_step: Callable[[str], None] = lambda step: None,
    on_start: Callable[[RunStart], None] | None = None,
) -> Run:
    """Play a scenario to its end.

    `scenario` is a shipped name, a YAML file, the content of one, or a scenario that was loaded before. `overrides`
    change its values, as `{"leader.mu": 0.8}` or as `["leader.mu=0.8"]`. On `memory` all nodes share this process and a
    virtual clock; on `mqtt` each is a process of its own, on a `broker` of the run's own (`auto`, `mosquitto`,
    `embedded`) or one at an address, for `mqtts://` with the authority's folder `certs`. `faults` is a shipped fault
    plan, a YAML file, the content of one or a plan. The run's folder is `out`, which must not exist, or a new one under
    runs/ that begins with `name`; without both a run over MQTT has a temporary folder, one in memory has none. With
    `certify` a run that every home took part in is certified, up to 200 homes and 3 sessions, or any number where that
    takes seconds; with `report` the page and its figures are written.

    `on_round` is called with each finished round of the leader, `on_fault` with each fault as it happens, `on_step`
    with what follows the rounds, `on_start` when the nodes are about to start. A run that does not settle or loses
    nodes is returned like any other. On Ctrl-C, at any moment and however often, all nodes are stopped, and the run so
    far is written and returned, `interrupted`; then nothing is certified or drawn. Raises `ConfigError` for what cannot
    be played, `BrokerStartError`, `BrokerUnreachableError`, `CertificateError` when the reference has no solution, and
    `UnwrittenError`, which has the run, when it was played and its folder could not be written.
    """
    if transport not in ("memory", "mqtt"):
        raise ConfigError(f"transport: {transport!r} is none; give memory or mqtt")
    if transport == "mqtt":
        _check_broker(broker)
    loaded = _load_scenario(scenario, overrides, seed)
    plan = None if faults is None else fault_plans.fit(faults, loaded, broker)
    if transport == "mqtt":
        require_room(loaded, under_plan=plan is not None)
    with defer_interrupts() as interrupts:
        began = datetime.now(UTC)
        folder = _make_folder(out, name, needed=report or transport == "mqtt")
        lock = None if folder is None else RunLock(folder)
        with lock or nullcontext(), _note_failure(folder):
            where = _choose_place(folder, broker, certs) if folder is not None and transport == "mqtt" else None
            if folder is not None:
                try:
                    run_folder.write_manifest(folder, loaded, transport, began, where)
                    run_folder.write_scenario(folder, loaded)
                    if plan is not None:
                        run_folder.write_faults(folder, plan)
                except OSError:
                    shutil.rmtree(folder)
                    raise
            log = None
            if folder is None or where is None:
                if on_start is not None:
                    on_start(RunStart(folder, lock=lock))
                log = None if folder is None or plan is not None else RecoveryLog(folder, loaded)
                record = in_memory.play(loaded, on_round, plan, on_fault, log)
            else:
                ahead = partial(_import_ahead, find(loaded.game), certify, report)
                record = _play_over_mqtt(
                    loaded, folder, where, broker, on_round, plan, on_fault, on_start, import_ahead=ahead, lock=lock
                )
            ended = conclude(loaded, record, folder, log, certify=certify, report=report, on_step=on_step)
            ended.interrupted = interrupts.take() or ended.interrupted
    return ended


def resume(
    folder: str | Path,
    *,
    certify: bool = False,
    report: bool = False,
    on_round: Notify = lambda record: None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Run:
    """Go on with a run that was interrupted or killed, from the last rounds that were finished.

    In memory its result is that of a run that was never interrupted, to the last digit but for the seconds that it
    took. Where homes have devices that are scheduled together, powers and prices are the same to 1e-9, and counts of
    bytes differ. Over MQTT the nodes go on from their ledgers, on a broker as before, and `on_round` is called with the
    rounds of before, too. The rest is as for `run`. Raises `ConfigError` for a folder of no such run, one under a fault
    plan included.
    """
    folder = Path(folder)
    run_folder.read_unfinished(folder)
    loaded = scenarios.load(str(folder / "scenario.yaml"))
    with defer_interrupts() as interrupts, RunLock(folder, resumed=True) as lock:
        where = run_folder.read_unfinished(folder)  # it may have ended while this waited for the lock
        log = None if where is not None else RecoveryLog(folder, loaded)
        run_folder.reopen(folder)
        with _note_failure(folder):
            if where is None:
                record = in_memory.play(loaded, on_round, log=log)
            else:
                ahead = partial(_import_ahead, find(loaded.game), certify, report)
                record = _play_over_mqtt(
                    loaded, folder, where, where.broker, on_round, import_ahead=ahead, lock=lock, resumed=True
                )
            ended = conclude(loaded, record, folder, log, certify=certify, report=report, on_step=on_step)
            ended.interrupted = interrupts.take() or ended.interrupted
    return ended


def _check_broker(broker: str) -> None:
    """Raise `ConfigError` for a broker that is neither a kind nor an address."""
    if BrokerKind.of(broker) is None:
        try:
            Address.parse(broker)
        except ValueError as error:
            raise ConfigError(f"broker: give {', '.join(BrokerKind)} or an address ({error})") from None


def _choose_place(folder: Path, broker: str, certs: str | Path | None) -> Place:
    """Choose the place of a run over MQTT: its name is unique, so that runs which share a broker never meet."""
    name = f"{name_from(folder.name, 50)}-{secrets.token_hex(3)}"
    return Place(run=name, broker=hide_password(broker), certs=None if certs is None else str(Path(certs).resolve()))


@contextmanager
def _note_failure(folder: Path | None) -> Iterator[None]:
    """Note in the folder of a run why it has failed."""
    try:
        yield
    except UnwrittenError:
        raise
    except CertificateError as error:
        _note_end(folder, None, f"the certificate could not be made: {error}")
        raise
    except Exception as error:
        explained = explain_os_error(error) if isinstance(error, OSError) else None
        _note_end(folder, "failed", explained or f"{type(error).__name__}: {error}")
        raise


def _note_end(folder: Path | None, state: str | None, message: str) -> None:
    if folder is not None:
        with suppress(OSError):  # it may be removed already
            run_folder.note_end(folder, state, message)


def _play_over_mqtt(
    scenario: Scenario,
    folder: Path,
    where: Place,
    broker: str,
    on_round: Notify,
    plan: FaultPlan | None = None,
    on_fault: Callable[[FaultRecord], None] = lambda record: None,
    on_start: Callable[[RunStart], None] | None = None,
    *,
    import_ahead: Callable[[], None],
    lock: RunLock | None,
    resumed: bool = False,
) -> RunRecord:
    from stackelgrid.testbed import processes

    # This process waits while the nodes work: it can import what certificate and report need.
    importing = threading.Thread(target=import_ahead, daemon=True)
    importing.start()
    certs = None if where.certs is None else Path(where.certs)
    try:
        return processes.play(
            scenario, folder, broker, where.run, on_round, plan, on_fault, certs, on_start, lock, resumed=resumed
        )
    except (BrokerStartError, BrokerUnreachableError, ConfigError):
        if not resumed and not any(log.stat().st_size for log in folder.glob("logs/*")):  # else it has evidence
            shutil.rmtree(folder)
        raise
    finally:
        importing.join()  # two threads that import the same modules may see them half loaded


def conclude(
    scenario: Scenario,
    record: RunRecord,
    folder: Path | None,
    log: RecoveryLog | None = None,
    *,
    certify: bool = False,
    report: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Run:
    """Write the result of a run that was played, certify it and report on it, as `run` does.

    The `log` of one that was not interrupted is removed once the result is written.
    Raises `UnwrittenError` once all that needs no disk is done.
    """
    ended = Run(scenario, build_result(scenario, record), record.rounds, folder, record)
    unwritten: OSError | ConfigError | None = None
    try:
        ended.save()
        if log is not None and not record.interrupted:
            log.remove()
    except OSError as error:
        unwritten, ended.folder = error, None
    try:
        with allow_interrupts():
            few = ended.result.homes <= CERTIFIED_UP_TO and len(scenario.sessions) <= CERTIFIED_SESSIONS
            wanted = certify and (few or scenario.certified_at_any_size)
            if wanted and ended.result.certifiable:
                on_step("certifying")
                with suppress(SolverMissingError):
                    ended.certify(on_step=on_step)
                    ended.save()
            if report and unwritten is None:
                on_step("drawing")
                ended.report()
    except KeyboardInterrupt:
        ended.interrupted = True
    except (OSError, ConfigError) as error:
        unwritten = error
    if unwritten is not None:
        raise UnwrittenError(ended, unwritten)
    return ended


def load(folder: str | Path) -> Run:
    """Read the folder of a run that has ended. Raises `ConfigError` when it is none."""
    from stackelgrid.report.run_folder import read_journal, read_result

    folder = Path(folder)
    result = read_result(folder / "result.json")
    lines = folder / "rounds.jsonl"
    journal = read_journal(lines) if lines.is_file() else []
    return Run(scenarios.load(str(folder / "scenario.yaml")), result, journal, folder)


class Run:
    """A run that has ended.

    `result` is the content of result.json, `journal` that of rounds.jsonl (round 3 is `journal[2]`), `folder` where it
    was written, None where it was not. `record` is all that the testbed knows of it, None of a run that was read from
    its folder. `days` are those of a run of several, beside what would have been without the game; None until `report`
    or a table of them has followed them.
    """

    def __init__(
        self,
        scenario: Scenario,
        result: RunResult[Any],
        journal: list[Record],
        folder: Path | None = None,
        record: RunRecord | None = None,
    ) -> None:
        self.scenario, self.result, self.journal, self.record = scenario, result, journal, record
        self.folder = None if folder is None else folder.absolute()  # stays where it is when the process goes elsewhere
        self.interrupted = record is not None and record.interrupted
        self.days: Days | None = None
        self._figures: tuple[RunResult[Any], Figures] | None = None

    @property
    def settled(self) -> bool:
        """True when the leader's stopping rule was met. A settlement is sent in any case."""
        return self.result.settled

    @property
    def state(self) -> str:
        """How the run ended: failed where a node was lost for good, interrupted, settled or unsettled."""
        if self.record is not None and (self.record.lost or self.record.interrupted):
            return "failed" if self.record.lost else "interrupted"
        return "settled" if self.settled else "unsettled"

    @property
    def complete(self) -> bool:
        """True when every node answered the round on which the run ended."""
        return self.result.complete

    @property
    def outcome(self) -> Any:
        """The outcome by the game's own model; None when no round was finished."""
        return self.result.outcome

    @property
    def certificate(self) -> Certificate | None:
        """The certificate, None until `certify` has made it."""
        return self.result.certificate

    @property
    def missing(self) -> list[Missing]:
        """The members that a round went on without."""
        return self.result.missing

    @property
    def faults(self) -> list[FaultOccurrence]:
        """The faults of the plan that took effect, round by round."""
        return self.result.struck

    @property
    def failures(self) -> dict[str, str]:
        """The nodes that died, each with the reason."""
        return self.result.failures

    @property
    def trouble(self) -> str:
        """The nodes that died, the first of them by name, and the reason of the first; empty when none did."""
        lost = ", ".join([*self.failures][:5])
        return f"without {lost}: {next(iter(self.failures.values()))}" if lost else ""

    @property
    def slots(self) -> pd.DataFrame:
        """The table of prices and loads of all homes together, a row per slot."""
        return self.table("slots")

    @property
    def homes(self) -> pd.DataFrame:
        """The table of what each home uses, pays and is paid, a row per home."""
        return self.table("homes")

    @property
    def schedules(self) -> pd.DataFrame:
        """The table of what each home does, a row per home and slot."""
        return self.table("schedules")

    @property
    def rounds(self) -> pd.DataFrame:
        """The table of the leader's rounds, a row per round."""
        return self.table("rounds")

    @property
    def messages(self) -> pd.DataFrame:
        """The table of messages and bytes that were sent, a row per round above and below the aggregators."""
        return self.table("messages")

    def table(self, name: str) -> pd.DataFrame:
        """Build a table of the run by its name in the folder's tables/, with units in the names of columns.

        Nothing else is built, and nothing is written. Raises `ConfigError` when there is no such table, and names those
        that there are.
        """
        from stackelgrid.report.frame import build_frame
        from stackelgrid.report.run_tables import tabulate

        return build_frame(tabulate(self._read(), name, self._follow))

    @property
    def plot(self) -> Figures:
        """The figures of the report, each a method: `run.plot.load(ax=None)`. repr() and dir() name those there are."""
        from stackelgrid.report.figures import Figures

        if self._figures is None or self._figures[0] is not self.result:
            self._figures = self.result, Figures(self._read(), self._follow)
        return self._figures[1]

    def _read(self) -> RunFolder:
        """Give the run as reports read it from its folder."""
        from stackelgrid.report.run_folder import RunFolder, parse_rounds

        folder = self.folder or Path(os.devnull)  # in which nothing is found
        rounds = parse_rounds(folder / "rounds.jsonl", self.journal, self.result.rounds)
        return RunFolder(folder, self.result, rounds, self.scenario, {})

    def _follow(self) -> Days | None:
        """Follow the days, once."""
        from stackelgrid.report.days import follow
        from stackelgrid.report.game import find_report

        if self.days is None:
            self.days = follow(self._read(), find_report(self.result.game).courses)
        return self.days

    def certify(self, samples: int = SAMPLES, *, on_step: Callable[[str], None] = lambda step: None) -> Certificate:
        """Compare the outcome with the centralised reference, and try `samples` deviations at random.

        The certificate goes into `result` and result.json; of several sessions that of each does as it is made, and a
        certification that was interrupted goes on with those that have none, and `on_step` is called with how many have
        one. Raises `CertificateError` when a home did not answer the last round, or the reference has no solution,
        `ConfigError` for fewer samples than one.
        """

        def keep(result: RunResult[Any]) -> None:
            self._keep(result)
            certified = sum(session.certificate is not None for session in result.sessions)
            on_step(f"certifying, {certified} of {len(result.sessions)} sessions")

        if samples < 1:
            raise ConfigError(f"samples: {samples} deviations cannot be tried; give 1 or more")
        if not self.result.certifiable:
            raise CertificateError(f"not every home answered the last round of {self}: nothing to certify")
        self._keep(add_certificate(self.scenario, self.result, samples, keep))
        assert self.result.certificate is not None
        return self.result.certificate

    def _keep(self, result: RunResult[Any]) -> None:
        """Keep a result with certificates."""
        self.result = result
        if self.folder is not None:
            run_folder.write_result(self.folder, result)

    def report(self, figures: Sequence[str] = ()) -> Path:
        """Write report.html, figures and tables into the run's folder; return the page. Raises `ConfigError`.

        In each of the formats `figures` (png, svg, pdf) the figures are drawn for print, too.
        """
        from stackelgrid.report.page import write_and_follow

        if self.folder is None:
            raise ConfigError(f"{self} has no folder to write a report to; play it with out=FOLDER")
        page, self.days = write_and_follow(self.folder, self.scenario, figures)
        return page

    def save(self) -> None:
        """Write result.json and the end in manifest.json, if the run has a folder.

        Its rounds too, where no leader's process has written them.
        """
        if self.folder is not None:
            if self.record is not None and self.record.transport == "memory":
                run_folder.write_rounds(self.folder, self.record)
            run_folder.write_result(self.folder, self.result)
            run_folder.note_end(self.folder, self.state, self.trouble, broker=self.result.broker)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of a pickle what is drawn again when asked."""
        return self.__dict__ | {"_figures": None}

    def _repr_html_(self) -> str:
        """Write the summary that a notebook shows."""
        from stackelgrid.report.summary import write_html

        return write_html(self.result, self.scenario.leader.max_rounds, self.days)

    def __repr__(self) -> str:
        words = [
            "settled" if self.settled else "not settled",
            "complete" if self.complete else "not complete",
            f"{len(self.journal)} rounds",
            *(["interrupted"] if self.interrupted else []),
        ]
        content = self.result.content()
        for name in ("missing", "failures"):
            entries = content.get(name)
            text = repr(entries)
            words += [f"{name} {text if len(text) <= 200 else text[:200] + '…'}"] if entries else []
        where = "" if self.folder is None else f", in {self.folder}"
        return f"<Run {self.scenario.game} on {self.result.transport}: {', '.join(words)}{where}>"


def _load_scenario(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    overrides: Mapping[str, Any] | Sequence[str] | None,
    seed: int | None,
) -> Scenario:
    """Load a scenario, unless it is one already."""
    if isinstance(overrides, Mapping):
        overrides = [*starmap(_spell_override, overrides.items())]
    if isinstance(scenario, Scenario):
        if overrides or seed is not None:
            raise ConfigError("a scenario that is loaded has its values; give overrides and seed to load()")
        return scenario
    return scenarios.load(scenario if isinstance(scenario, Mapping) else str(scenario), list(overrides or []), seed)


def _spell_override(key: str, value: object) -> str:
    """Write an override as `KEY=VALUE`."""
    try:
        return f"{key}={json.dumps(value, default=_read_number)}"
    except (RecursionError, TypeError, ValueError):
        mend = "give numbers, texts, or lists and mappings of them"
        raise ConfigError(f"overrides: {key}: {type(value).__name__} cannot be written as YAML; {mend}") from None


def _read_number(value: object) -> object:
    """Read the numbers of NumPy."""
    import numpy as np

    if isinstance(value, np.number | np.bool_ | np.ndarray):
        return value.tolist()
    raise TypeError(type(value).__name__)


def _make_folder(out: str | Path | None, name: str | None, *, needed: bool) -> Path | None:
    """Make the run's folder; a temporary one where none is named and one is needed."""
    if out is not None:
        return run_folder.create(Path(out))
    if name is not None:
        return run_folder.create_under_runs(name)
    return Path(tempfile.mkdtemp(prefix="stackelgrid-")) if needed else None


def _import_ahead(game: Game, certify: bool, report: bool) -> None:
    """Import the modules of certificate and report. A missing one is reported where it is used."""
    with suppress(Exception):
        if certify and game.certificate is not None:
            game.load("certificate")
        if report:
            import_module("stackelgrid.report.drawing")
            import_module("pyarrow.parquet")
