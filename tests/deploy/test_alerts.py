"""The alert rules of deploy/monitoring, tried by Prometheus' own tool on made-up values."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from stackelgrid.scenarios.yaml_file import parse

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing: scripts/install-promtool installs it"
)


def promtool(*words: str) -> str:
    """What it says when it finds nothing wrong."""
    assert PROMTOOL is not None
    ended = subprocess.run([PROMTOOL, *words], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@needs_promtool
def test_alerts_are_raised_and_not_raised_as_their_tests_say() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


@needs_promtool
def test_prometheus_accepts_its_configuration_with_the_alerts() -> None:
    assert "1 rule files found" in promtool("check", "config", "prometheus.yml")


def test_every_alert_has_a_test_that_raises_it_and_says_how_to_mend_it() -> None:
    (group,) = parse((FOLDER / "alerts.yml").read_text())["groups"]
    raised = {
        case["alertname"]
        for test in parse((FOLDER / "alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert {rule["alert"] for rule in group["rules"]} == raised
    assert all(re.search(r"\w", rule["annotations"]["mend"]) for rule in group["rules"])
