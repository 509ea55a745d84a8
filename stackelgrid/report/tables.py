"""The numbers of a run in words, for the command line and the page alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from stackelgrid.registry import find
from stackelgrid.report import days
from stackelgrid.report.game import find_report
from stackelgrid.report.parts import EQUILIBRIUM_WITHIN, GAP, REGRET, Row, Rule
from stackelgrid.report.words import number, plural, quantity, tiny, volume
from stackelgrid.run_result import Certificate, PlayedPrivacy, RunResult


def summary(result: RunResult[Any], followed: days.Days | None = None) -> list[Row]:
    """Give a result as rows of label and value: what was played, what came out, how good it is.

    The days of its run tell what was before in a run of several sessions.
    """
    return [*headline(result), *key_figures(result, followed), *verdict(result)]


def judge(result: RunResult[Any]) -> RunResult[Any]:
    """Add the verdict to a result's certificate: `passed`, None when nothing in it is judged, and `failed`."""
    if result.certificate is None:
        return result
    found = [check for check in checks(result) if check.passed is not None]
    failed = [check.key for check in found if not check.passed]
    passed = not failed if found else None
    return result.with_certificate({**result.certificate.root, "passed": passed, "failed": failed})


def verdict(result: RunResult[Any]) -> list[Row]:
    """Give the certificate in a line: the checks that passed, and the two numbers to read first. Empty without one."""
    judged, partly = _list_judged(result), tell_partly_certified(result)
    if result.certificate is None or not judged:
        return [("Certificate", partly)] if partly else []
    first = (("gap", "gap"), ("largest regret", "max_regret"))
    numbers = [
        f"{name} {tiny(value, '')}" for name, key in first if (value := result.certificate.number(key)) is not None
    ]
    return [("Certificate", "; ".join([*_tell_first(judged, partly), *numbers]))]


def tell_certificate(result: RunResult[Any]) -> str:
    """Say which checks passed, and what anybody could gain by acting alone. Empty without a certificate.

    Of a run that is certified in part nothing is claimed beyond how much, and what fails.
    """
    judged, partly = _list_judged(result), tell_partly_certified(result)
    if partly:
        return "; ".join(_tell_first(judged, partly))
    if result.certificate is None or not judged:
        return ""
    regret = result.certificate.number(REGRET.key)
    return "; ".join([_tell_passed(judged), *([] if regret is None else [_tell_regret(regret, result)])])


def tell_partly_certified(result: RunResult[Any]) -> str:
    """Say how many sessions are certified where some are and others are not; empty otherwise."""
    certified = sum(each.certificate is not None for each in result.sessions)
    partly = 0 < certified < len(result.sessions)
    return f"{certified:,} of {len(result.sessions):,} sessions certified" if partly else ""


def _list_judged(result: RunResult[Any]) -> list[Check]:
    return [check for check in checks(result) if check.passed is not None]


def _tell_first(judged: Sequence[Check], partly: str) -> list[str]:
    """Say what fails, and how much is certified; that all checks passed where the whole run is certified only."""
    if not partly:
        return [_tell_passed(judged)]
    return [partly] if all(check.passed for check in judged) else [_tell_passed(judged), partly]


def _tell_passed(judged: Sequence[Check]) -> str:
    failed = [check.label.lower() for check in judged if not check.passed]
    return f"not passed: {', '.join(failed)}" if failed else f"all {len(judged)} checks passed"


def _tell_regret(regret: float, result: RunResult[Any]) -> str:
    if regret > EQUILIBRIUM_WITHIN:
        return f"somebody could gain {100 * regret:.2g} % by acting alone"
    certificates = [each.certificate for each in result.sessions] or [result.certificate]
    numbers = [item for each in certificates if each is not None for item in each.numbers.items()]
    # A regret leaves an appliance that runs in a row at its start.
    others = any(key.startswith("integrality") and value > EQUILIBRIUM_WITHIN for key, value in numbers)
    aside = ", other starts of appliances aside" if others else ""
    return f"nobody was found to gain more than {100 * EQUILIBRIUM_WITHIN:g} % by acting alone{aside}"


def explain_failure(result: RunResult[Any]) -> str:
    """Say in one line which checks of a certificate fail, with number and limit; empty when none does.

    Gap and largest regret repeat one of the other numbers; they are named where nothing else fails.
    """
    failed = [check for check in checks(result) if check.passed is False]
    telling = [check for check in failed if check.key not in (GAP.key, REGRET.key)] or failed
    return "; ".join(f"{check.label.lower()}: {check.value}, limit {check.limit}" for check in telling)


def headline(result: RunResult[Any]) -> list[Row]:
    """Give the scenario, how its run ended, how long it took and what carried it."""
    carried = "memory, no broker" if result.transport == "memory" else f"{result.transport}, broker {result.broker}"
    return [
        ("Scenario", result.scenario or "untitled"),
        ("Settled", _end(result)),
        ("Game", f"{find(result.game).title}, seed {result.seed}"),
        ("Players", f"{plural(result.homes, 'home')} in {plural(result.processes, 'process', 'processes')}"),
        ("Time", f"{number(result.elapsed_s)} s"),
        ("Transport", f"{carried}; {plural(result.messages, 'message')}, {volume(result.bytes)}"),
        *([] if result.privacy is None else [("Privacy", _tell_privacy(result.privacy))]),
    ]


_VOUCHED_BY = {"certificates": ", keys signed by certificates", "unsigned": ", keys not signed", None: ""}


def _tell_privacy(levels: PlayedPrivacy) -> str:
    """Say in a line what homes disclosed."""
    heard = "aggregators read the answer of each home"
    if levels.sums == "committee":
        heard = f"aggregators read sums of {levels.minimum_group} homes or more{_VOUCHED_BY[levels.keys]}"
    limits = []
    if levels.questions_per_session is not None:
        limits.append(f"at most {plural(levels.questions_per_session, 'question')} a session")
    if levels.price_band is not None:
        limits.append(f"prices from {levels.price_band[0]:g} to {levels.price_band[1]:g}")
    sensitivity = "with" if levels.sensitivity == "full" else "without"
    return "; ".join([heard, f"{sensitivity} sensitivities", *limits])


def _end(result: RunResult[Any]) -> str:
    if not result.rounds:
        return "no, not a single round was finished"
    if not result.settled and result.sessions:
        settled = sum(each.settled for each in result.sessions)
        return f"{settled:,} of {plural(len(result.sessions), 'session')}, in {rounds(result)}"
    if not result.settled:
        return f"no, stopped after {rounds(result)}"
    return f"yes, in {rounds(result)}" + ("" if result.complete else ", the last one incomplete")


def rounds(result: RunResult[Any]) -> str:
    """Give the leader's number of rounds, and the aggregators' where they played more, or the questions where more."""
    rounds = plural(result.rounds, "round")
    if result.inner_rounds > result.rounds:
        return f"{rounds} ({result.inner_rounds:,} among the homes)"
    return f"{rounds} ({result.questions:,} questions)" if result.questions > result.rounds else rounds


def key_figures(result: RunResult[Any], followed: days.Days | None = None) -> list[Row]:
    """Give the game's own rows, or those of several sessions, and what they were fitted to.

    Empty when no round was finished.
    """
    if result.sessions:
        return [*days.list_key_figures(result, find_report(result.game).courses, followed), *_fitted(result)]
    if result.outcome is None:
        return []
    return [*find_report(result.game).key_figures(result, result.outcome), *_fitted(result)]


def _fitted(result: RunResult[Any]) -> list[Row]:
    figures = "; ".join(dict.fromkeys(result.calibrated.values()))
    return [("Chosen to match", f"{figures}. That the run comes close to these proves nothing")] if figures else []


@dataclass(frozen=True)
class Check:
    """A line of the certificate: `value` is None when not part of it, `passed` when it is not judged."""

    key: str
    label: str
    meaning: str
    value: str | None
    limit: str = ""
    passed: bool | None = None


def checks(result: RunResult[Any]) -> list[Check]:
    """Give the certificate's numbers in plain words, judged where there is a limit. Empty without a certificate.

    Of several sessions each number is that of the session in which it is worst.
    """
    if result.sessions:
        return _list_worst([result.of_session(number + 1) for number in range(len(result.sessions))])
    certificate, outcome = result.certificate, result.outcome
    if certificate is None or outcome is None:
        return []
    rules = find_report(result.game).rules
    named = {rule.key for rule in rules}
    others = [
        Check(key, key.replace("_", " ").capitalize(), "", f"{value:,}" if isinstance(value, int) else number(value))
        for key, value in certificate.numbers.items()
        if key not in named
    ]
    lines = [_line(rule, certificate, outcome, result.money) for rule in rules]
    return [_feasible(certificate.feasible), *lines, *others]


def _list_worst(sessions: Sequence[RunResult[Any]]) -> list[Check]:
    """Of each number give the check that fails, or else the one of the largest number."""
    worst: dict[str, tuple[tuple[bool, float], Check]] = {}
    for alone in sessions:
        for check in checks(alone):
            assert alone.certificate is not None
            value = None if check.key == "feasible" else alone.certificate.number(check.key)
            rank = (check.passed is False, -inf if value is None else value)
            if check.key not in worst or rank > worst[check.key][0]:
                worst[check.key] = rank, check
    return [check for _, check in worst.values()]


def _feasible(feasible: bool | None) -> Check:
    value = None if feasible is None else "yes" if feasible else "no"
    return Check("feasible", "Feasible", "Whether every limit of every player is kept.", value, "yes", feasible)


def _line(rule: Rule, certificate: Certificate, outcome: Any, money: str) -> Check:
    value, unit = certificate.number(rule.key), rule.unit.format(money=money)
    if value is None:
        return Check(rule.key, rule.label, rule.meaning, None)
    if rule.within is None:
        return Check(rule.key, rule.label, rule.meaning, quantity(value, unit))
    limit = rule.within * rule.of(outcome, certificate)
    # A gap below zero is no fault of the run: the reference is exact to its own tolerance only.
    return Check(rule.key, rule.label, rule.meaning, tiny(value, unit), tiny(limit, unit), value <= limit)
