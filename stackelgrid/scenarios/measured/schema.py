"""The JSON Schema of a game's scenarios with measured data in place of numbers and homes, for editors."""

from __future__ import annotations

from typing import Any

from stackelgrid.scenarios.measured.declarations import OWN, EachColumn, Reference, TimeSeries


def with_data(schema: dict[str, Any]) -> dict[str, Any]:
    """Extend a game's JSON Schema by `data`, references in place of numbers per slot, and homes from columns."""
    numbers_or_column = _admit_columns(schema)
    definitions = dict(numbers_or_column.get("$defs", {}))
    properties = dict(numbers_or_column["properties"])
    definitions["Column"] = {
        **Reference.model_json_schema(),
        "required": ["column"],
        "anyOf": [{"required": ["from"]}, {"properties": {"column": {"const": OWN}}}],
    }
    series = TimeSeries.model_json_schema()
    definitions |= series.pop("$defs")
    # The older name of `file`.
    series["properties"]["csv"] = series["properties"]["file"]
    series["required"].remove("file")
    series["oneOf"] = [{"required": ["file"]}, {"required": ["csv"]}]
    definitions["TimeSeries"] = series
    properties["data"] = {
        "description": "Data files, by the name under which `from` refers to them.",
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/TimeSeries"},
    }
    home = _find_home(properties.get("homes", {}), definitions)
    if home is not None:
        template = {key: value for key, value in home.get("properties", {}).items() if key != "id"}
        required = [key for key in home.get("required", []) if key != "id"]
        each = EachColumn.model_json_schema()
        each["properties"]["home"] = {**home, "properties": template, "required": required}
        definitions["EachColumn"] = each
        listed = properties["homes"]
        if "anyOf" not in listed:
            listed = {"anyOf": [listed]}
        properties["homes"] = {**listed, "anyOf": [*listed["anyOf"], {"$ref": "#/$defs/EachColumn"}]}
    return {**numbers_or_column, "properties": properties, "$defs": definitions}


def _admit_columns(node: Any) -> Any:
    """Let every key that takes a list of numbers take a reference too."""
    if isinstance(node, list):
        return [_admit_columns(value) for value in node]
    if not isinstance(node, dict):
        return node
    inside = {key: _admit_columns(value) for key, value in node.items()}
    of = node.get("items")
    if node.get("type") == "array" and isinstance(of, dict) and of.get("type") == "number":
        return {"anyOf": [inside, {"$ref": "#/$defs/Column"}]}
    return inside


def _find_home(homes: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    """Find the schema of one home, where a scenario lists them."""
    for choice in homes.get("anyOf", [homes]):
        reference = choice.get("items", {}).get("$ref", "")
        if reference:
            home: dict[str, Any] = definitions[reference.rpartition("/")[2]]
            return home
    return None
