"""A scenario as a Docker Compose file: a service per role with replicas, or one per home."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import jinja2

from stackelgrid.scenarios import list_shipped, load
from stackelgrid.wire.names import name_from

_MOUNTED = Path("/scenario")
"""The folder of your own scenario in the containers of the desk."""


def compose(source: str, sets: Sequence[str] = (), *, per_home: bool = False) -> str:
    """Write a Compose file that brings up the scenario `source` with the overrides `sets`.

    A shipped scenario comes with the image; the folder of any other is mounted. Raises `ScenarioError`.
    """
    scenario = load(source, list(sets))
    processes = list(scenario.topology.aggregator_of)
    own = None if source in list_shipped() else Path(source).resolve()
    options = [*(["--per-home"] if per_home else []), *(word for value in sets for word in ("--set", value))]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("compose.yaml.jinja").render(
        title=scenario.title or scenario.game,
        command=shlex.join(["stackelgrid", "compose", source, *options]),
        run=name_from(Path(source).stem),
        source=source if own is None else str(_MOUNTED / own.name),
        folder=None if own is None else str(own.parent),
        sets=sets,
        homes=scenario.everyone,
        aggregators=scenario.aggregators,
        processes=processes,
        replicas=len(processes),
        per_home=per_home,
    )
