"""Stackelberg demand-response games: the parts that all nodes share, and a testbed that plays whole runs.

`stackelgrid.run` plays a scenario, `stackelgrid.load` reads a run's folder; both return a `stackelgrid.Run`.
`stackelgrid.__version__` is that of the installed package.
"""

import logging
from importlib import import_module
from typing import Any

# Whoever wants a log sets one up (stackelgrid.node.log); nobody else gets warnings on the terminal.
logging.getLogger(__name__).addHandler(logging.NullHandler())


_OF_RUNNER = ("Run", "load", "resume", "run")


def __getattr__(name: str) -> Any:
    """Import the runner when it is used: an EMC imports this package and must stay light."""
    if name in _OF_RUNNER:
        return getattr(import_module("stackelgrid.runner"), name)
    if name == "__version__":
        return import_module("importlib.metadata").version("stackelgrid")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what is imported when it is used, too."""
    return sorted({*globals(), *_OF_RUNNER, "__version__"})
