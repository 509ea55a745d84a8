"""The user's own measurements in a scenario: columns of CSV files wherever it takes a number per slot.

    data:
      meters: {file: meters.csv, time: timestamp, timezone: Europe/Berlin, unit: kWh, interval: 15min, day: 2016-06-14}
    homes:
      - id: bakery
        inelastic: [{load_kw: {from: meters, column: h07}}]

`spell_out` replaces the references by numbers before a game's model checks the scenario, so that every game can use
them and a run's scenario.yaml needs no CSV. No value is guessed, and none is filled in unless `fill` says so: a row
that is missing, twice, out of order or not a number is refused with file, row, column, value and mend. What is found in
the file and not given, as where its table begins, is shown. `with_origins` adds file, row and column to what the model
refuses afterwards. `with_data` completes the JSON Schema for editors.

`declarations` has the models of `data` and of references; `references` replaces them by numbers, from a `csv_file`:
its `table` is found in the text, a `clock` finds the rows by their `times`, and numbers get the `units` of the
scenario's keys.
"""

from stackelgrid.scenarios.measured.origins import with_origins
from stackelgrid.scenarios.measured.references import BadReferenceError, spell_out
from stackelgrid.scenarios.measured.schema import with_data

__all__ = ["BadReferenceError", "spell_out", "with_data", "with_origins"]
