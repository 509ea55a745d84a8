"""A scenario as a Docker Compose file: a service per role with replicas, or one per home."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path

import jinja2

from stackelgrid.deploy.privacy import protect
from stackelgrid.scenarios import list_shipped, load
from stackelgrid.scenarios.topology import RunTopology
from stackelgrid.testbed.enrolment import list_nodes
from stackelgrid.testbed.node_configs import digest_everything
from stackelgrid.wire.names import name_from

_MOUNTED = Path("/scenario")
"""The folder of your own scenario in the containers of the desk."""


def compose(source: str, sets: Sequence[str] = (), *, per_home: bool = True) -> str:
    """Write a Compose file that brings up the scenario `source` with the overrides `sets`.

    Each home is a service with a volume of its own, or without `per_home` a replica, on a volume of all homes. A
    shipped scenario comes with the image; the folder of any other is mounted. Where the scenario chooses no level of
    privacy, `provision` does. Raises `ScenarioError`.
    """
    scenario, _ = protect(load(source, list(sets)))
    processes = list(scenario.topology.aggregator_of)
    own = None if source in list_shipped() else Path(source).resolve()
    options = [*([] if per_home else ["--replicas"]), *(word for value in sets for word in ("--set", value))]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("compose.yaml.jinja").render(
        title=_write_comment(scenario.title or scenario.game),
        command=_write_comment(shlex.join(["stackelgrid", "compose", source, *options])),
        nodes=_digest(scenario.topology),
        run=name_from(Path(source).stem),
        source=source if own is None else str(_MOUNTED / own.name),
        folder=None if own is None else str(own.parent),
        sets=sets,
        homes=scenario.everyone,
        aggregators=scenario.aggregators,
        processes=processes,
        replicas=len(processes),
        per_home=per_home,
        grid=scenario.gates is not None,
        content=digest_everything(scenario)[:16],
    )


def _write_comment(text: str) -> str:
    """Write a text in one line of a comment, whatever is in it."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _digest(topology: RunTopology) -> str:
    """Make a short text that another one has when there are other nodes, or one is below another node."""
    return hashlib.sha256("\n".join(map(str, list_nodes(topology))).encode()).hexdigest()[:16]
