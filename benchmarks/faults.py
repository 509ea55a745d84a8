"""`python -m benchmarks.faults`: what each fault costs a run on real processes, and where the run ends.

Every line is a run of eight homes under two aggregators over a broker: how many rounds and seconds more than without
the fault, how often it struck, and whether the run settled to the same prices. The last line is of a coordinator that
stands still while thousands of answers come in.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import machine
from benchmarks.stalled_coordinator import answers_to_a_stalled_coordinator
from stackelgrid.faults.plan import FaultPlan
from stackelgrid.run_record import RunRecord
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import in_memory, processes

SETTINGS = [
    "population.homes=8",
    "aggregators=2",
    "leader.objective=welfare",
    "rounds.deadline_s=1",
    "rounds.return_s=5",
]
ROUNDS = range(1, 6)
TIMES = 3
SAME = 1e-6
STALLED, STALL_S = 5_000, 5.0

Fault = dict[str, Any]


def cases() -> Iterator[tuple[str, list[Fault]]]:
    """The matrix: a name and the faults of each run."""
    for node in ("leader", "a1", "h1"):
        for number in ROUNDS:
            yield (
                f"kill -9 of {node} in round {number}, back after 0.5 s",
                [{"kind": "crash", "node": node, "at": {"round": number}, "restart_after_s": 0.5}],
            )
    yield "kill -9 of h1 in round 2, for good", [{"kind": "crash", "node": "h1", "at": {"round": 2}}]
    yield "kill -9 of a1 in round 2, for good", [{"kind": "crash", "node": "a1", "at": {"round": 2}}]
    yield "kill -9 of the leader in round 2, for good", [{"kind": "crash", "node": "leader", "at": {"round": 2}}]
    for node, disk in (("a1", "without its disk"), ("leader", "without its disk")):
        crash = {"kind": "crash", "node": node, "at": {"round": 3}, "restart_after_s": 0.5, "lose_state": True}
        yield f"kill -9 of {node} in round 3, back {disk}", [crash]
    for node in ("leader", "a1", "h1"):
        stall = {"kind": "stall", "node": node, "at": {"round": 2}, "seconds": 2}
        yield f"{node} stands still for 2 s in round 2, twice the deadline", [stall]
    for keep_retained, memory in ((True, "with"), (False, "without")):
        outage = {"kind": "broker", "at": {"round": 2}, "seconds": 1, "keep_retained": keep_retained}
        yield f"kill -9 of the broker in round 2, back after 1 s {memory} its memory", [outage]
    answered = {"rounds": [1, 1_000]}
    for percent in (10, 30, 50):
        lost = {"kind": "loss", "probability": percent / 100, "during": answered}
        yield f"{percent} % of signals and answers lost", [lost]
    for late in (0.1, 0.5):
        yield (
            f"all messages {late:g} s late and up to as much more",
            [{"kind": "delay", "seconds": late, "jitter_s": late}],
        )
    parted = {"kind": "partition", "groups": [["leader"], ["a1"]], "during": {"rounds": [2, 2]}}
    yield "leader and a1 parted while round 2 is on", [parted]
    yield "a1's connection cut for 2 s in round 2", [{"kind": "cut", "node": "a1", "at": {"round": 2}, "seconds": 2}]
    yield "a1's connection hangs for 2 s in round 2", [{"kind": "hang", "node": "a1", "at": {"round": 2}, "seconds": 2}]
    narrow = {"kind": "narrow", "node": "a1", "at": {"round": 2}, "seconds": 600, "bytes_per_s": 50_000}
    yield "a1's connection at 50 kB/s from round 2 on", [narrow]
    lie = {"kind": "lie", "node": "h1", "how": "shape", "probability": 0.5}
    yield "h1 sends half of its answers in the wrong shape", [lie]


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    arguments.add_argument("words", nargs="*", metavar="WORD", help="only the cases whose name has all of these")
    arguments.add_argument("--broker", choices=["mosquitto", "embedded"], default="mosquitto")
    options = arguments.parse_args()
    words, broker = options.words, options.broker
    scenario = load("user_oriented", SETTINGS)
    expected = np.array(scenario.outcome(in_memory.play(scenario)).price)
    print(machine())
    usual = sorted((run_record(scenario, [], broker) for _ in range(TIMES)), key=lambda run: run.elapsed_s)
    undisturbed = usual[TIMES // 2]
    took = ", ".join(f"{run.elapsed_s:.1f}" for run in usual)
    print(f"without a fault: {len(undisturbed.rounds)} rounds; {took} s, of which the middle one is compared with\n")
    print(f"{'fault':<68}{'struck':>7}{'rounds':>8}{'s':>8}  result")
    for name, faults in cases():
        if all(word in name for word in words):
            if broker == "embedded" and any(fault.get("keep_retained") for fault in faults):
                continue  # it keeps nothing over a restart
            run = run_record(scenario, faults, broker)
            struck = sum(record.kind != "restart" for record in run.faults)
            rounds, seconds = len(run.rounds) - len(undisturbed.rounds), run.elapsed_s - undisturbed.elapsed_s
            print(
                f"{name:<68}{struck:>7}{rounds:>+8}{seconds:>+8.1f}  {end(scenario, run, expected)}",
                flush=True,
            )
    if broker == "embedded":
        return
    with tempfile.TemporaryDirectory() as folder:
        found = answers_to_a_stalled_coordinator(STALLED, STALL_S, Path(folder))
    whole = "all in the sum" if found.total == STALLED * (STALLED + 1) / 2 else f"sum {found.total:g}"
    print(
        f"\n{STALLED} answers at once, the coordinator stopped for {STALL_S:g} s, stock Mosquitto: "
        f"{found.asked_again} lost and asked again, {whole}"
    )


def run_record(scenario: Scenario, faults: list[Fault], broker: str) -> RunRecord:
    """A run over a broker of our own."""
    plan = FaultPlan.model_validate({"seed": 1, "faults": faults})
    with tempfile.TemporaryDirectory() as folder:
        return processes.play(scenario, Path(folder), broker, "faults", plan=plan)


def end(scenario: Scenario, run: RunRecord, expected: np.ndarray) -> str:
    """Say in words how a run ended."""
    if run.lost:
        return "lost: " + ", ".join(run.conclusion.get("lost", []) or run.failures)
    if not run.settled:
        return "not settled"
    away = float(np.max(np.abs(np.array(scenario.outcome(run).price) / expected - 1)))
    missing = "" if run.conclusion["complete"] else f", without {', '.join(sorted(run.failures)) or 'all answers'}"
    return "settled as without" if away <= SAME else f"settled{missing}, prices off by {100 * away:.1f} %"


if __name__ == "__main__":
    main()
