"""The user's own measurements in a scenario: columns of CSV files wherever it takes a number per slot.

    data:
      meters: {csv: meters.csv, time: timestamp, timezone: Europe/Berlin, unit: kWh, interval: 15min, day: 2016-06-14}
    homes:
      - id: bakery
        inelastic: [{load_kw: {from: meters, column: h07}}]

`spell_out` puts the numbers in place of the references before a game's model checks the scenario, so that every game
can use them and a run's scenario.yaml needs no CSV. Nothing is guessed or filled in: unit and time zone are required,
and what is missing, twice, out of order or not a number is refused with file, row, column, value and mend. What the
model refuses afterwards is told with file, row and column by `with_origins`. `with_data` is for editors.

`declared` is what a scenario says; `references` puts numbers in its place, from a `csv_file` whose rows a `clock`
finds, in the `units` that the scenario's keys take.
"""

from stackelgrid.scenarios.measured.origins import with_origins
from stackelgrid.scenarios.measured.references import spell_out
from stackelgrid.scenarios.measured.schema import with_data

__all__ = ["spell_out", "with_data", "with_origins"]
