"""A run as a readable trace: who sent what to whom, which fault did what, how it ended, which promises it broke."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from stackelgrid.errors import ConfigError
from stackelgrid.run_record import FaultRecord
from stackelgrid.soak.cases import Case, draw_case, read_case
from stackelgrid.soak.play import Evidence, SentMessage, play
from stackelgrid.soak.promises import find_violations

_MOST_DIGITS = 18


def replay(source: str) -> str:
    """Play a run again in memory and give it as text: the case, messages and faults in order of virtual time, the end.

    `source` is a seed or the folder of a run. Raises `ConfigError`.
    """
    if os.path.isfile(os.path.join(source, "scenario.yaml")):
        evidence = play(read_case(Path(source)))
    elif re.fullmatch("[0-9]+", source) is None:
        raise ConfigError(f"{source}: neither a seed nor the folder of a run; name one of these")
    elif len(source) <= _MOST_DIGITS:
        evidence = play(draw_case(int(source)))
    else:
        raise ConfigError(f"{source[:20]}…: a seed of {len(source)} digits; name one of at most {_MOST_DIGITS}")
    return "\n".join([*_describe_case(evidence.case), "", *_trace(evidence), "", *_describe_end(evidence)])


def _describe_case(case: Case) -> Iterator[str]:
    scenario, rounds = case.scenario, case.scenario.rounds
    yield f"{case.source}: {scenario.game}" + ("" if case.number is None else f", scenario {case.number}")
    for name, processes in scenario.households().items():
        yield f"  {name}: " + ", ".join("+".join(home.id for home in homes) for homes in processes)
    yield "  rounds: " + ", ".join(f"{key} {value}" for key, value in rounds)
    for number, fault in enumerate(case.plan.faults):
        drawn = fault.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        yield f"  fault {number}: " + ", ".join(f"{key} {value}" for key, value in drawn.items())


def _trace(evidence: Evidence) -> Iterator[str]:
    lines = [(message.seconds, _describe_message(message)) for message in evidence.messages]
    lines += [(record.seconds, _describe_fault(record)) for record in evidence.run_record.faults]
    lines += [(seconds, f"{name} leaves") for name, seconds in evidence.ended_s.items()]
    for seconds, line in sorted(lines, key=lambda each: each[0]):
        yield f"{seconds:12.6f}  {line}"


def _describe_message(message: SentMessage) -> str:
    about, purpose = message.about, message.purpose
    if about.of_coordinator:
        receiver = about.member or "all"
    else:
        receiver = about.coordinator
        purpose += "" if about.sender == message.sender else f" as {about.sender}"
    if message.content is None:
        return f"{message.sender} -> {receiver}: {purpose} cleared"
    keys = ("session", "round", "again", "state", "complete", "missing")
    details = [f"{key} {message.content[key]}" for key in keys if message.content.get(key) not in (None, [])]
    return f"{message.sender} -> {receiver}: {purpose} " + " ".join(details)


def _describe_fault(record: FaultRecord) -> str:
    of_round = "" if record.round is None else f", round {record.round}"
    return f"    *** {record.kind} (fault {record.fault}) {' -> '.join(record.nodes)}{of_round}"


def _describe_end(evidence: Evidence) -> Iterator[str]:
    run_record = evidence.run_record
    yield "end: " + (", ".join(f"{key} {value}" for key, value in run_record.conclusion.items()) or "none")
    for missing in run_record.missing:
        yield f"  round {missing['round']} went on without {missing['node']}: {missing['action']}"
    for name, error in evidence.errors.items():
        yield f"  {name} did not come back: {error}"
    for name in evidence.waiting:
        yield f"  {name} waits for ever"
    without = [home.id for home in evidence.case.scenario.everyone if home.id not in run_record.homes]
    yield f"  the settlement is known to {'all but ' + ', '.join(without) if without else 'all homes'}"
    for violation in find_violations(evidence):
        yield f"BROKEN {violation}"
