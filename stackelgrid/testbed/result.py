"""The result of a run, and its certificate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from stackelgrid.calendar import Session
from stackelgrid.certify import CertificateError
from stackelgrid.registry import find
from stackelgrid.report.tables import judge
from stackelgrid.run_record import RunRecord
from stackelgrid.run_result import RunResult
from stackelgrid.scenarios import Scenario
from stackelgrid.testbed.fault_log import count_repeated_requests, list_faults
from stackelgrid.wire.messages import Body

SAMPLES = 200
"""Deviations that a certificate tries at random, unless another number is given."""


def build_result(scenario: Scenario, run_record: RunRecord) -> RunResult[Any]:
    """Build the content of result.json, without a certificate."""
    traffic = run_record.traffic
    content: dict[str, Any] = {
        "schema": 1,
        "game": scenario.game,
        "scenario": scenario.title,
        "seed": scenario.seed,
        "transport": run_record.transport,
        "broker": run_record.broker,
        "settled": run_record.settled,
        "complete": bool(run_record.conclusion.get("complete", False)),
        "stopped": run_record.stopped,
        "rounds": len(run_record.rounds),
        "inner_rounds": run_record.inner_rounds,
        "questions": sum(each["questions"] for each in traffic),
        "elapsed_s": round(run_record.elapsed_s, 3),
        "messages": run_record.messages,
        "bytes": run_record.bytes,
        "rejected": run_record.rejected,
        "homes": len(scenario.everyone),
        "homes_settled": len(run_record.homes),
        **_find_newcomers(scenario, run_record),
        "processes": run_record.processes,
        "money": scenario.money,
        "privacy": _describe_privacy(scenario, run_record),
        **({"calibrated": scenario.calibrated} if scenario.calibrated else {}),
        "outcome": _build_outcome(scenario, scenario.session, run_record) if len(scenario.sessions) == 1 else None,
        "certificate": None,
        **({"sessions": _build_sessions(scenario, run_record)} if len(scenario.sessions) > 1 else {}),
        "missing": run_record.missing,
        "asked_again": count_repeated_requests(run_record),
        "traffic": traffic,
        "faults": dict(Counter(record.kind for record in run_record.faults)),
        "struck": list_faults(scenario, run_record),
        "failures": run_record.failures,
    }
    return RunResult[Any].model_validate(content)


def _describe_privacy(scenario: Scenario, record: RunRecord) -> dict[str, Any]:
    """Describe what homes disclosed, in terms that hold for the game."""
    question = find(scenario.game).bodies("lower").signal
    levels = scenario.privacy_settings()
    sensitive = question.asks_sensitivity is not Body.asks_sensitivity
    counted = question.questions is not Body.questions
    return {
        "sums": levels.sums,
        "sensitivity": levels.sensitivity if sensitive else "none",
        "minimum_group": levels.minimum_group,
        "price_band": levels.price_band,
        "questions_per_session": levels.questions_per_session if counted else None,
        **({} if levels.sums == "off" else {"keys": "certificates" if record.certified else "unsigned"}),
    }


def _build_outcome(scenario: Scenario, session: Session, record: RunRecord) -> Any:
    """Build the outcome of a session, None where it has not finished a round."""
    if not record.rounds:
        return None
    return scenario.meter(session, record.states, scenario.in_session(session, record.states).outcome(record))


def _find_newcomers(scenario: Scenario, record: RunRecord) -> dict[str, list[str]]:
    """Find the homes that have settled a schedule and are not in the scenario; nothing where there are none."""
    found = sorted(record.homes.keys() - {home.id for home in scenario.everyone})
    return {"newcomers": found} if found else {}


def _build_sessions(scenario: Scenario, run_record: RunRecord) -> list[dict[str, Any]]:
    """Build the results of the sessions of a run that has several, one that was not begun included."""
    return [_build_session(scenario, session, run_record.of_session(session.number)) for session in scenario.sessions]


def _build_session(scenario: Scenario, session: Session, record: RunRecord) -> dict[str, Any]:
    assert session.start is not None
    return {
        "start": session.start.isoformat(),
        "slots": session.slots,
        "binding": session.binding,
        "settled": record.settled,
        "complete": bool(record.conclusion.get("complete", False)),
        "stopped": record.stopped,
        "rounds": len(record.rounds),
        "questions": sum(each["questions"] for each in record.traffic),
        "messages": record.messages,
        "bytes": record.bytes,
        "homes_settled": len(record.homes),
        **_find_newcomers(scenario, record),
        "states": record.states,
        "outcome": _build_outcome(scenario, session, record),
        "certificate": None,
    }


def certify(
    scenario: Scenario,
    result: RunResult[Any],
    samples: int,
    keep: Callable[[RunResult[Any]], None] = lambda result: None,
) -> RunResult[Any]:
    """Add a certificate and its verdict to the result of a run that is `certifiable`, to each session that is.

    `samples` deviations are tried at random. After each of several sessions `keep` is called with what there is. A
    result with certificates of sessions and none of the run is one that was left in the middle: they are taken over.
    Raises `CertificateError`.
    """
    if result.sessions:
        return _certify_sessions(scenario, result, samples, keep)
    if result.outcome is None:
        raise CertificateError("not a single round was finished, so there is nothing to certify")
    alone = scenario.in_session(scenario.session)
    return judge(result.with_certificate(alone.certificate(result.outcome, samples)))


def _certify_sessions(
    scenario: Scenario, result: RunResult[Any], samples: int, keep: Callable[[RunResult[Any]], None]
) -> RunResult[Any]:
    """Certify each session that can be; that of the run has the worst of each number that all of them have."""
    sessions = list(result.sessions)
    if result.certificate is not None:  # that is to be made anew
        sessions = [each.model_copy(update={"certificate": None}) for each in sessions]
    for session in scenario.sessions:
        alone, own = result.of_session(session.number), sessions[session.number - 1]
        if alone.certifiable and own.certificate is None:
            certificate = certify(scenario.in_session(session, own.states), alone, samples).certificate
            sessions[session.number - 1] = own.model_copy(update={"certificate": certificate})
            keep(result.model_copy(update={"sessions": sessions, "certificate": None}))
    found = [each.certificate for each in sessions if each.certificate is not None]
    keys = set.intersection(*(set(each.numbers) for each in found))
    verdicts = [each.passed for each in found if each.passed is not None]
    summary: dict[str, Any] = {
        "method": f"The worst of the certificates of {len(found)} sessions.",
        "sessions": len(found),
        **{key: max(each.numbers[key] for each in found) for key in ("gap", "max_regret") if key in keys},
        "feasible": all(each.feasible is not False for each in found),
        "passed": all(verdicts) if verdicts else None,
        "failed": sorted({key for each in found for key in each.root.get("failed", ())}),
    }
    return result.model_copy(update={"sessions": sessions}).with_certificate(summary)
