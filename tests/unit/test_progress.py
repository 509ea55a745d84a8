"""What a command shows of its progress on stderr: a bar on a terminal, elsewhere lines, with --quiet nothing."""

import io
import threading

import pytest
from rich.console import Console

from stackelgrid.cli.progress import ProgressDisplay, RunDisplay

ROUND = {"round": 2, "residual": 0.01, "answered": 3, "held": [], "excluded": ["h4"]}


class Stderr(io.StringIO):
    """A stream that tells when something was printed."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self.terminal, self.printed = terminal, threading.Event()

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        written = super().write(text)
        self.printed.set()
        return written


@pytest.fixture
def stderr() -> Stderr:
    return Stderr()


def test_progress_is_a_line_at_intervals_where_there_is_no_terminal(stderr: Stderr) -> None:
    with RunDisplay(Console(file=stderr, width=200), 9, every_s=0.01) as display:
        assert stderr.printed.wait(60)
        display.show_round(ROUND)
        stderr.printed.clear()
        assert stderr.printed.wait(60)
        display.show_step("certifying")
    first, *_, last = stderr.getvalue().splitlines()
    assert first == "      0 s: starting"
    assert last.partition(": ")[2] in ("round 2, change 1.0e-02, 3 answers, 1 missing", "certifying")
    assert [*display.seconds] == ["rounds", "certificate"]


def test_progress_counts_sessions(stderr: Stderr) -> None:
    display = RunDisplay(Console(file=stderr, width=200), 9, 28, every_s=0.01)
    display.show_round({**ROUND, "session": 8})
    with display:
        assert stderr.printed.wait(60)
        for step in ("certifying", "certifying, 1 of 28 sessions", "certifying, 2 of 28 sessions"):
            display.show_step(step)
        assert [*display.seconds] == ["rounds"]
        while ": certifying, 2 of 28 sessions\n" not in stderr.getvalue():
            stderr.printed.clear()
            assert stderr.printed.wait(60)
    first = stderr.getvalue().splitlines()[0]
    assert first.endswith(": session 8 of 28, round 2, change 1.0e-02, 3 answers, 1 missing")
    assert [*display.seconds] == ["rounds", "certificate"]


def test_progress_in_colour_is_lines_where_there_is_no_terminal(stderr: Stderr) -> None:
    with RunDisplay(Console(file=stderr, force_terminal=True, highlight=False), 9, every_s=0.01):
        assert stderr.printed.wait(60)
    assert {*stderr.getvalue().splitlines()} == {"      0 s: starting"}


def test_progress_ends_with_its_command(stderr: Stderr) -> None:
    before = threading.active_count()
    with ProgressDisplay(Console(file=stderr), every_s=0.01):
        assert stderr.printed.wait(60)
    assert threading.active_count() == before


def test_progress_is_a_bar_on_a_terminal() -> None:
    stderr = Stderr(terminal=True)
    with RunDisplay(Console(file=stderr, width=200, force_terminal=True), 9, every_s=0.01) as display:
        display.show_round(ROUND)
    assert "round 2" in stderr.getvalue() and "change 1.0e-02" in stderr.getvalue()
    assert " s: " not in stderr.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_silent_when_quiet(terminal: bool) -> None:
    stderr = Stderr(terminal)
    before = threading.active_count()
    console = Console(file=stderr, force_terminal=terminal)
    with RunDisplay(console, 9, quiet=True, every_s=0.01) as display:
        display.show_round(ROUND)
        assert threading.active_count() == before
    assert stderr.getvalue() == ""
