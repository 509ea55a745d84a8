"""Scenario files of the storage market that cannot be played."""

from pathlib import Path

import pytest
from market_cases import scenario_file

from stackelgrid.scenarios import ScenarioError, load


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("leader.peak_mw=60", r"leader.peak_mw: demand is highest in slot 4, 60 MW, 10 MW above"),
        (
            "leader.generators.0.ramp_mw=3",
            r"leader.generators: in slot \d ramps leave [\d.]+ MW left over; raise ramp_mw",
        ),
        ("leader.shape=[1, 0.5]", r"leader.shape has 2 numbers, the horizon has 6 slots"),
        ("leader.shape.3=0.8", r"shape has the maximum 0.9; make it 1"),
        ("leader.lost_load_price=20", r"lost_load_price 20 is not above 60"),
        ("dras.0.homes=2", r"dras: their homes are 3 together, the scenario has 2; make them equal"),
        ("homes.1.appliances.0.last=7", r"appliances.0.last is 7, the horizon has 6 hours"),
        ("homes.1.appliances.0.preferred=6", r"preferred 6 is outside 1..5"),
        ("homes.1.appliances.0.per_hour=1", r"preferred 4 is outside 1..1"),
        ("homes.1.appliances.0.blocks=30", r"it runs 10 hours, its window 1..6 has 6"),
        ("homes.1.appliances.0.block_kwh=90000", r"in slot 5 appliances usually draw 270 MW, demand expected is 36 MW"),
        ("homes.0.battery.power_kw=5e5", r"power_kw 500000 is above 100 times capacity_kwh 4000"),
        ("homes.0.battery.initial_kwh=5000", r"initial_kwh 5000 is above capacity_kwh 4000"),
    ],
)
def test_scenario_is_refused_when_it_cannot_be_played(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        load(scenario_file(tmp_path), [override])


def test_population_is_refused_when_shares_do_not_sum_to_1() -> None:
    with pytest.raises(
        ScenarioError, match=r"population.kinds: the shares of the kinds are 1.55 together; make them 1"
    ):
        load("storage_market", ["population.kinds.0.share=0.9"])
