"""Marks: which transitions of coordinators and members a run has reached.

A promise about a transition that no run reaches is kept by nobody's merit. So the soak counts them: a mark that few
runs reach shows a fault that is never drawn, or comes too late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from stackelgrid.scenarios.topology import LEADER
from stackelgrid.soak.play import Evidence
from stackelgrid.soak.timeline import CoordinatorLife, Event, SeenRound

Sign = Callable[[CoordinatorLife, SeenRound], object]

_ROUND_MARKS: dict[str, Sign] = {
    "round: all answered": lambda life, seen: not seen.missing,
    "round: asked again": lambda life, seen: any(ask.again and not ask.came for ask in seen.asks),
    "round: asked again who came back": lambda life, seen: any(ask.came.intersection(ask.again) for ask in seen.asks),
    "round: went on without who had left": lambda life, seen: seen.away.keys() & set(seen.missing),
    "round: went on after all tries": lambda life, seen: set(seen.missing) - seen.away.keys() - seen.counted.keys(),
    "round: went on without who was late": lambda life, seen: (
        seen.counted.keys() & set(seen.missing) - seen.quarantined
    ),
    "round: member back in time": lambda life, seen: any(ask.came & seen.counted.keys() for ask in seen.asks),
    "round: member held": lambda life, seen: seen.entry["held"],
    "round: member excluded": lambda life, seen: seen.entry["excluded"],
    "round: member in quarantine": lambda life, seen: seen.quarantined,
    "round: in part held": lambda life, seen: any(_count(body, "held") for body in seen.entry["answers"].values()),
    "round: in part excluded": lambda life, seen: any(
        _count(body, "excluded") for body in seen.entry["answers"].values()
    ),
}
_LIFE_MARKS: dict[str, Callable[[CoordinatorLife], object]] = {
    "gathering: all came": lambda life: life.came.keys() == set(life.members),
    "gathering: began without some": lambda life: (
        life.gathered is not None
        and any(life.came.get(member, life.gathered + 1) > life.gathered for member in life.members)
    ),
    "coordinator: restarted": lambda life: life.number > 0,
    "coordinator: dropped a round": lambda life: any(seen.closed is None for seen in life.rounds[:-1]),
    "message: stale": lambda life: life.stale,
    "message: repeated": lambda life: life.repeated,
    "settlement: sent again": lambda life: any(len(seen.sent) > 1 for seen in life.settlements),
    "settlement: confirmed by all": lambda life: any(
        seen.receipts.keys() == set(life.members) and seen.ended is not None for seen in life.settlements
    ),
    "settlement: ended without a receipt": lambda life: any(seen.waiting for seen in life.settlements),
    "session: begun": lambda life: any(seen.session > 1 for seen in life.rounds),
    "session: begun after a restart": lambda life: life.number > 0 and len({seen.session for seen in life.rounds}) > 1,
    "session: settlement dropped for the next": lambda life: any(seen.dropped for seen in life.settlements),
}


def find_marks(evidence: Evidence) -> set[str]:
    """Name the transitions that a run has reached."""
    return {mark for find in (_of_coordinators, _of_members, _of_run) for mark in find(evidence)}


def list_marks() -> list[str]:
    """Name all marks."""
    return sorted([*_ROUND_MARKS, *_LIFE_MARKS, *_MEMBER_MARKS, *_RUN_MARKS])


def _of_coordinators(evidence: Evidence) -> Iterator[str]:
    for life in evidence.lives:
        yield from (mark for mark, is_reached in _LIFE_MARKS.items() if is_reached(life))
        for seen in life.rounds:
            if seen.closed is not None:
                yield from (mark for mark, is_reached in _ROUND_MARKS.items() if is_reached(life, seen))


_MEMBER_MARKS = (
    "member: answered again",
    "member: settled twice",
    "member: restarted",
    "member: looked for messages",
    "session: a home slept through one",
)


def _of_members(evidence: Evidence) -> Iterator[str]:
    members = evidence.case.scenario.topology.members
    for name, homes in ((name, homes) for processes in members.values() for name, homes in processes.items()):
        events = evidence.events[name]
        sent = [_describe(event) for event in events if event.kind == "send"]
        answered, again, settled, looked = (
            any(purpose == "answer" for purpose, _ in sent),
            len({each for each in sent if each[0] == "answer"}) < sum(purpose == "answer" for purpose, _ in sent),
            len({each for each in sent if each[0] == "receipt"}) < sum(purpose == "receipt" for purpose, _ in sent),
            any(event.kind == "fetch" for event in events),
        )
        taken = [all(home.id in record.homes for home in homes) for record in evidence.sessions]
        slept = any(not each and any(taken[number:]) for number, each in enumerate(taken))
        reached = (answered and again, settled, events[-1].life > 0, looked, slept)
        yield from (mark for mark, is_reached in zip(_MEMBER_MARKS, reached, strict=True) if is_reached)


_RUN_MARKS = ("run: settled", "run: settled incomplete", "run: lost members", "run: lost", "message: refused")


def _of_run(evidence: Evidence) -> Iterator[str]:
    conclusion = evidence.run_record.conclusion
    reached = (
        conclusion.get("settled") and conclusion["complete"],
        conclusion.get("settled") and not conclusion["complete"],
        conclusion.get("lost"),
        LEADER in evidence.errors,
        evidence.run_record.rejected,
    )
    yield from (mark for mark, is_reached in zip(_RUN_MARKS, reached, strict=True) if is_reached)


def _describe(event: Event) -> tuple[str, int | None]:
    return event.about.purpose, event.about.round


def _count(body: object, key: str) -> int:
    return int(body.get(key) or 0) if isinstance(body, dict) else 0
