"""Ctrl-C, SIGTERM and SIGHUP, at any moment and more than once: code 130, one line, all that was found is written."""

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import psutil
import pytest

import stackelgrid
from stackelgrid.interrupts import allow_interrupts, defer_interrupts

SMALL = ["--set", "population.homes=6", "--set", "aggregators=2"]
RUN = ["stackelgrid", "run", "user_oriented", *SMALL, "--out", "out"]


def start(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], running: subprocess.Popen[str]) -> bool:
    """Wait for a condition; False when the command has ended before."""
    while running.poll() is None:
        if condition():
            return True
        time.sleep(0.002)
    return False


def survivors(folder: Path) -> list[psutil.Process]:
    """The processes of a command in this folder: all have it as working directory, or in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) or str(folder) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def assert_interrupted(running: subprocess.Popen[str], folder: Path, *, written: bool = True) -> None:
    _, err = running.communicate(timeout=300)
    assert running.returncode == 130, err
    *before, last = err.strip().splitlines()
    assert last.startswith("interrupted"), err
    assert not any("interrupted" in line or "Traceback" in line for line in before), err
    assert not psutil.wait_procs(survivors(folder), timeout=60)[1]
    drafts = [path for path in folder.rglob(".*") if path.is_file()]
    assert drafts == []
    if written:
        read = stackelgrid.load(folder / "out")
        assert json.loads((folder / "out" / "manifest.json").read_text())["ended"]
        assert len(read.journal) == read.result.rounds


def has(path: str, content: str = "") -> Callable[[Path], bool]:
    """The moment when a file of the run's folder has that content."""

    def come(folder: Path) -> bool:
        file = folder / "out" / path
        return file.exists() and content in file.read_text(errors="replace")

    return come


MOMENTS = {
    "folder": has("scenario.yaml"),
    "broker": has("logs/broker.log"),
    "nodes": has("nodes/h1.json"),
    "leader": has("logs/leader.jsonl", "started"),
    "first round": has("rounds.jsonl", "\n"),
    "negotiation ended": has("nodes/leader.conclusion.json"),
    "result": has("result.json"),
    "manifest": has("manifest.json"),
    "figures": lambda folder: (folder / "out" / "figures").exists(),
}
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize(("moment", "how"), [*zip(MOMENTS, cycle(SIGNALS), strict=False)])
def test_run_is_interrupted_at_a_moment(moment: str, how: signal.Signals, tmp_path: Path) -> None:
    running = start(tmp_path, RUN)
    assert wait_until(lambda: MOMENTS[moment](tmp_path), running), running.communicate()
    running.send_signal(how)
    assert_interrupted(running, tmp_path)


@pytest.mark.parametrize("moment", ["broker", "leader", "negotiation ended"])
def test_run_is_interrupted_again_and_again(moment: str, tmp_path: Path) -> None:
    running = start(tmp_path, RUN)
    assert wait_until(lambda: MOMENTS[moment](tmp_path), running), running.communicate()
    while running.poll() is None:
        running.send_signal(signal.SIGINT)
        time.sleep(0.01)
    assert_interrupted(running, tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_run_in_memory_is_interrupted_at_any_time(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    running = start(tmp_path, [*RUN, "--transport", "memory", "--set", "population.homes=40"])
    assert wait_until(lambda: MOMENTS["folder"](tmp_path), running)
    time.sleep(draw.uniform(0, 0.5))
    running.send_signal(draw.choice(SIGNALS))
    time.sleep(draw.uniform(0, 0.1))
    running.send_signal(signal.SIGINT)
    assert_interrupted(running, tmp_path)


def test_run_is_written_when_its_terminal_is_closed(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", *RUN])
    while not MOMENTS["first round"](tmp_path):
        os.read(terminal, 65536)  # the progress display
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert stackelgrid.load(tmp_path / "out").journal
    assert not psutil.wait_procs(survivors(tmp_path), timeout=60)[1]


def test_run_ignores_a_hangup_under_nohup(tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = start(tmp_path, [*RUN, "--transport", "memory"])
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert wait_until(lambda: MOMENTS["folder"](tmp_path), running)
    running.send_signal(signal.SIGHUP)
    assert running.wait(300) == 0
    running.communicate()


COMMANDS = {
    "certify": ["stackelgrid", "certify", "out"],
    "report": ["stackelgrid", "report", "out"],
    "replay": ["stackelgrid", "replay", "out"],
    "check": ["stackelgrid", "check", "user_oriented"],
    "sweep": ["stackelgrid", "sweep", "user_oriented", "--over", "population.homes=20:50:1", "--out", "swept"],
    "soak": ["stackelgrid.soak", "--runs", "2000"],
}


@pytest.mark.parametrize(("command", "how"), [*zip(COMMANDS, cycle(SIGNALS), strict=False)])
def test_command_is_interrupted(command: str, how: signal.Signals, tmp_path: Path) -> None:
    stackelgrid.run("user_oriented", {"population.homes": 6}, out=tmp_path / "out")
    before = (tmp_path / "out" / "result.json").read_bytes()
    running = start(tmp_path, COMMANDS[command])
    assert wait_until(lambda: handles(signal.SIGHUP, running.pid), running)
    running.send_signal(how)
    assert_interrupted(running, tmp_path, written=False)
    assert (tmp_path / "out" / "result.json").read_bytes() == before


def handles(number: signal.Signals, pid: int) -> bool:
    """Tell whether a process has a handler for a signal: from then on the command answers for it."""
    with suppress(OSError):
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)
    return False


def test_sweep_keeps_what_is_finished(tmp_path: Path) -> None:
    running = start(tmp_path, COMMANDS["sweep"])
    assert wait_until(lambda: any((tmp_path / "swept" / "points").glob("0*.json")), running)
    while running.poll() is None:
        running.send_signal(signal.SIGHUP)
        time.sleep(0.01)
    assert_interrupted(running, tmp_path, written=False)
    finished = len(list((tmp_path / "swept" / "points").iterdir()))
    assert len((tmp_path / "swept" / "table.csv").read_text().splitlines()) == 1 + finished


def test_two_commands_in_one_second_have_a_folder_each(tmp_path: Path) -> None:
    words = ["run", "user_oriented", *SMALL, "--transport", "memory", "--quiet"]
    both = [start(tmp_path, ["stackelgrid", *words]) for _ in range(2)]
    assert [running.wait(300) for running in both] == [0, 0], [running.communicate() for running in both]
    for running in both:
        running.communicate()
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_interrupt_waits_where_it_is_not_allowed() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), defer_interrupts():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        steps.append("written")
        with pytest.raises(KeyboardInterrupt), allow_interrupts():
            steps.append("begun")  # pragma: no cover
        steps.append("stopped")
    assert steps == ["written", "stopped"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupt_that_is_taken_is_not_raised_again() -> None:
    with defer_interrupts() as interrupts:
        assert not interrupts.take()
        with pytest.raises(KeyboardInterrupt), allow_interrupts():
            with defer_interrupts():
                signal.raise_signal(signal.SIGINT)
                written = True
            pytest.fail("the inner deferral has ended, and the interrupt was allowed around it")
        assert written and interrupts.take()


@pytest.mark.parametrize("wrong", [None, ValueError("from half a result")])
def test_interrupt_that_a_library_hides_is_raised(wrong: Exception | None) -> None:
    with defer_interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), allow_interrupts():
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                hidden = True
            if wrong is not None:
                raise wrong
        assert hidden and interrupts.take()


def test_interrupt_of_code_given_as_a_string_leaves_the_exit_code(tmp_path: Path) -> None:
    """As when a dataclass is being made: Python compiles it from a string, and remembers the interrupt to its end."""
    (tmp_path / "program.py").write_text(
        """
import sys
from stackelgrid.interrupts import ignore_signals
try:
    exec("raise KeyboardInterrupt")
except KeyboardInterrupt:
    ignore_signals()
sys.exit(130)
"""
    )
    running = start(tmp_path, ["program"])
    running.communicate(timeout=300)
    assert running.returncode == 130
