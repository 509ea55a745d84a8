"""The result of a run, and its certificate."""

from __future__ import annotations

from collections import Counter
from typing import Any

from stackelgrid.certify import CertificateError
from stackelgrid.report.tables import judge
from stackelgrid.run_record import RunRecord
from stackelgrid.run_result import RunResult
from stackelgrid.scenarios import Scenario
from stackelgrid.testbed.fault_log import count_repeated_requests, list_faults

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
        "processes": run_record.processes,
        "money": scenario.money,
        **({"calibrated": scenario.calibrated} if scenario.calibrated else {}),
        "outcome": scenario.outcome(run_record) if run_record.rounds else None,
        "certificate": None,
        "missing": run_record.missing,
        "asked_again": count_repeated_requests(run_record),
        "traffic": traffic,
        "faults": dict(Counter(record.kind for record in run_record.faults)),
        "struck": list_faults(scenario, run_record),
        "failures": run_record.failures,
    }
    return RunResult[Any].model_validate(content)


def certify(scenario: Scenario, result: RunResult[Any], samples: int) -> RunResult[Any]:
    """Add a certificate and its verdict to the result of a run that is `certifiable`.

    `samples` deviations are tried at random. Raises `CertificateError`.
    """
    if result.outcome is None:
        raise CertificateError("not a single round was finished, so there is nothing to certify")
    return judge(result.with_certificate(scenario.certificate(result.outcome, samples)))
