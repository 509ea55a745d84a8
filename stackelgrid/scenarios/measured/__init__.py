"""The user's own measurements in a scenario: columns of files wherever it takes a number per slot.

    data:
      meters: {file: meters.csv, timezone: Europe/Berlin, day: 2016-06-14}
    homes:
      - id: bakery
        inelastic: [{load_kw: {from: meters, column: h07}}]

`spell_out` replaces the references by numbers before a game's model checks the scenario, so that every game can use
them and a run's scenario.yaml needs no file. No value is guessed, and none is filled in unless `fill` says so: a row
that is missing, twice, out of order or not a number is refused with file, row, column, value and mend. What is found in
the file and not given, as where its table begins, is shown. `with_origins` adds file, row and column to what the model
refuses afterwards. `with_data` completes the JSON Schema for editors.

`declarations` has the models of `data` and of references; `references` replaces them by numbers, from a `data_file`:
its `table` is found in the text by `recognition`, or read from a standard format (`nem12`, `xml_documents`,
`home_assistant`), a `clock` finds the rows by their `times`, and their `numbers` get the `units` of the scenario's
keys. `overview` describes a file for `stackelgrid data`.
"""

from stackelgrid.scenarios.measured.origins import with_origins
from stackelgrid.scenarios.measured.references import BadReferenceError, spell_out
from stackelgrid.scenarios.measured.schema import with_data

__all__ = ["BadReferenceError", "spell_out", "with_data", "with_origins"]
