"""A run told as a story: who said what to whom, which fault did what, how it ended, and what was promised otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stackelgrid.run_record import FaultRecord
from stackelgrid.soak.cases import Case, draw, of_run
from stackelgrid.soak.promises import broken
from stackelgrid.soak.stage import Evidence, Spoken, play


def replay(source: str) -> str:
    """A run as text: what was drawn, every message and fault in order of virtual time, the end.

    `source` is a seed or the folder of a run, of which scenario and fault plan are played again in memory. Raises
    `ConfigError`.
    """
    evidence = play(draw(int(source)) if source.isdigit() else of_run(Path(source)))
    return "\n".join([*_drawn(evidence.case), "", *_told(evidence), "", *_end(evidence)])


def _drawn(case: Case) -> Iterator[str]:
    scenario, rounds = case.scenario, case.scenario.rounds
    yield f"{case.source}: {scenario.game}" + ("" if case.number is None else f", scenario {case.number}")
    for name, processes in scenario.households().items():
        yield f"  {name}: " + ", ".join("+".join(home.id for home in homes) for homes in processes)
    yield "  rounds: " + ", ".join(f"{key} {value}" for key, value in rounds)
    for number, fault in enumerate(case.plan.faults):
        drawn = fault.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        yield f"  fault {number}: " + ", ".join(f"{key} {value}" for key, value in drawn.items())


def _told(evidence: Evidence) -> Iterator[str]:
    story = [(spoken.seconds, _message(spoken)) for spoken in evidence.spoken]
    story += [(record.seconds, _fault(record)) for record in evidence.run_record.faults]
    story += [(seconds, f"{name} leaves") for name, seconds in evidence.ended_s.items()]
    for seconds, what in sorted(story, key=lambda each: each[0]):
        yield f"{seconds:12.6f}  {what}"


def _message(spoken: Spoken) -> str:
    levels = spoken.topic.split("/")[2:-1]
    said = spoken.purpose
    if said in ("signal", "settlement"):
        whom = levels[1] if len(levels) > 1 else "all"
    else:
        whom, speaker = levels
        said += "" if speaker == spoken.sender else f" as {speaker}"
    if spoken.content is None:
        return f"{spoken.sender} -> {whom}: {said} cleared"
    keys = ("round", "again", "state", "complete", "missing")
    details = [f"{key} {spoken.content[key]}" for key in keys if spoken.content.get(key) not in (None, [])]
    return f"{spoken.sender} -> {whom}: {said} " + " ".join(details)


def _fault(record: FaultRecord) -> str:
    of_round = "" if record.round is None else f", round {record.round}"
    return f"    *** {record.kind} (fault {record.fault}) {' -> '.join(record.nodes)}{of_round}"


def _end(evidence: Evidence) -> Iterator[str]:
    run_record = evidence.run_record
    yield "end: " + (", ".join(f"{key} {value}" for key, value in run_record.conclusion.items()) or "none")
    for missing in run_record.missing:
        yield f"  round {missing['round']} went on without {missing['node']}: {missing['action']}"
    for name, error in evidence.crashed.items():
        yield f"  {name} did not come back: {error}"
    for name in evidence.stuck:
        yield f"  {name} waits for ever"
    untold = [home.id for home in evidence.case.scenario.everyone if home.id not in run_record.homes]
    yield f"  the settlement is known to {'all but ' + ', '.join(untold) if untold else 'all homes'}"
    for what in broken(evidence):
        yield f"BROKEN {what}"
