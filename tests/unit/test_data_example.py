"""The first example of docs/your-data.md, as a new user would follow it: from an export to a week's report."""

import json
import re
import zoneinfo
from datetime import UTC, datetime, timedelta
from math import exp
from pathlib import Path

import pytest

from stackelgrid import cli

PAGE = (Path(__file__).parents[2] / "docs/your-data.md").read_text(encoding="utf-8")
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def write_export(path: Path, head: list[str]) -> float:
    """Write the week of the example below its own first lines; gives its energy, kWh."""
    first = datetime(2026, 3, 26, tzinfo=BERLIN).astimezone(UTC)
    lines, watt_hours = head[:2], 0
    for quarter in range(4 * (7 * 24 - 1)):
        at = (first + quarter * timedelta(minutes=15)).astimezone(BERLIN)
        evening = exp(-(((at.hour + at.minute / 60 - 19) / 2) ** 2))
        energy = 87 + quarter % 2 + round(220 * evening)
        watt_hours += energy
        lines.append(f"{at:%d.%m.%Y;%H:%M};0,{energy:03d}")
    assert lines[: len(head)] == head
    path.write_text("\n".join(lines), encoding="utf-8")
    return watt_hours / 1000


def test_first_example_plays_a_week_from_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    blocks = dict(re.findall(r"```(yaml|sh|)\n(.*?)```", PAGE, re.DOTALL)[:3])
    commands = re.findall(r"^stackelgrid (.*)$", PAGE, re.MULTILINE)[:3]
    (tmp_path / "street").mkdir()
    monkeypatch.chdir(tmp_path)
    kwh = write_export(Path("street/lastgang.csv"), blocks[""].splitlines())
    Path("street/street.yaml").write_text(blocks["yaml"], encoding="utf-8")
    for command in commands:
        monkeypatch.setattr("sys.argv", ["stackelgrid", *command.split()])
        assert cli.main() == 0, capfd.readouterr().err
    told = capfd.readouterr()
    assert f"{kwh:.5g} kWh" in told.out and "668 slots; no errors" in told.out
    assert "0,087' was read as 0.087 kWh" in told.err and "report.html" in told.out
    (result,) = Path("runs").glob("*/result.json")
    run = json.loads(result.read_text())
    assert run["settled"] and [session["slots"] for session in run["sessions"]] == [96, 96, 96, 92, 96, 96, 96]
    assert (result.parent / "report.html").stat().st_size > 0
    # At the flat price the home draws what was measured.
    before = [load for session in run["sessions"] for load in session["outcome"]["baseline_load_kw"]]
    assert sum(before) / 4 == pytest.approx(kwh, rel=1e-9)
