"""The OpenAPI document, held to by requests that are drawn from it, right ones and wrong ones."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings

import stackelgrid
from stackelgrid.ui import openapi
from stackelgrid.ui.launcher import Launcher
from stackelgrid.ui.server import Interface

TOKEN = {"Authorization": "Bearer secret"}
RUNS = ["a run", "tiny-1"]


class MemoryLauncher(Launcher):
    """Plays a tiny case in memory, whatever is ordered."""

    def __init__(self, runs: Path) -> None:
        super().__init__(runs)
        self._numbers = itertools.count(1)

    async def start(self, order: str) -> str:
        folder = self.root / f"tiny-{next(self._numbers)}"
        stackelgrid.run("load_call", out=folder)
        return folder.name


def document() -> dict[str, Any]:
    """The document, with runs that there are among those that are drawn."""
    described = openapi.describe(Interface(Launcher(Path()), "", "").operations)
    for operation in itertools.chain.from_iterable(path.values() for path in described["paths"].values()):
        for parameter in operation["parameters"]:
            if parameter["name"] == "run":
                parameter["schema"] = {"anyOf": [{"enum": RUNS}, {"type": "string"}]}
    return described


OPERATIONS = [found.ok() for found in schemathesis.openapi.from_dict(document()).get_all_operations()]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    runs = tmp_path_factory.mktemp("runs")
    stackelgrid.run("prosumer", out=runs / RUNS[0])
    app = Interface(MemoryLauncher(runs), "secret", "cookie").build()
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=[[listener]])
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1"
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("mode", [*schemathesis.GenerationMode], ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_answers_are_those_of_the_document(operation: Any, mode: schemathesis.GenerationMode, address: str) -> None:
    @settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
    @given(case=operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        case.call_and_validate(base_url=address, headers=TOKEN)

    call()
