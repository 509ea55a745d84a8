"""The HTTP interface, below /api/v1, and the page that uses it. docs/interface.md has both for users."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from stackelgrid.columns import Cell
from stackelgrid.errors import ConfigError
from stackelgrid.model import list_mistakes
from stackelgrid.registry import UnknownGameError, find
from stackelgrid.scenarios.measured import with_data
from stackelgrid.store.run_store import NoRunError, RunGoesOnError, RunStore
from stackelgrid.store.summary import RunSummary
from stackelgrid.testbed.run_lock import is_played
from stackelgrid.text_file import parse_json
from stackelgrid.ui import openapi, scenario_list
from stackelgrid.ui.access import EscapedResponse, Guard, refuse
from stackelgrid.ui.answers import Added, Checked, PlanEntry, RunDescription, ScenarioEntry, Started
from stackelgrid.ui.check import Check, check
from stackelgrid.ui.launcher import Launcher, LiveRun, OrderRefusedError
from stackelgrid.ui.openapi import Operation
from stackelgrid.ui.play import Order
from stackelgrid.ui.recorder import FaultRefusedError
from stackelgrid.ui.runs import describe, find_file, read_table
from stackelgrid.ui.stream import follow

PAGE = Path(__file__).parent / "page"
_SANDBOX = "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; img-src data:; font-src data:; "
_SANDBOX += "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""A report may have scripts, of its own origin: what is in a run's folder may be anybody's."""
_OF_A_BODY = (400, 413, 415, 422)


class Interface:
    """The interface to the runs in the folder of `launcher`, which starts more of them.

    `is_closing` tells that the server is about to end, and with it the streams that are open.
    """

    def __init__(
        self,
        launcher: Launcher,
        token: str,
        cookie: str,
        is_closing: Callable[[], bool] = lambda: False,
    ) -> None:
        self._runs, self._launcher, self._is_closing = RunStore(launcher.root), launcher, is_closing
        self._token, self._cookie = token, cookie

    def build(self) -> Guard:
        """Build the application."""
        routes = [
            Route("/", self.show_page),
            Mount(
                "/api/v1",
                routes=[Route("/openapi.json", self.show_document), *(each.route for each in self.operations)],
            ),
            Mount("/", StaticFiles(directory=PAGE)),
        ]
        handlers: dict[Any, Any] = {
            HTTPException: _answer_error,
            ConfigError: _answer_config_error,
            NoRunError: _answer_no_run,
            ValidationError: _answer_invalid,
            OrderRefusedError: _answer_order,
            FaultRefusedError: _answer_fault,
        }
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._live)
        self._guard = Guard(app, self._token, self._cookie)
        return self._guard

    @cached_property
    def operations(self) -> Sequence[Operation]:
        """Every operation below /api/v1."""
        found = (404,)
        return (
            Operation("GET", "/scenarios", self.list_scenarios, list[ScenarioEntry]),
            Operation("GET", "/plans", self.list_plans, list[PlanEntry]),
            Operation("GET", "/schema/{game}", self.show_schema, dict[str, Any], refusals=found),
            Operation("POST", "/check", self.check, Checked, body=Check, refusals=_OF_A_BODY),
            Operation("GET", "/runs", self.list_runs, list[RunSummary]),
            Operation("POST", "/runs", self.start_run, Started, 201, body=Order, refusals=_OF_A_BODY),
            Operation(
                "GET",
                "/runs/{run}",
                self.show_run,
                RunDescription,
                refusals=found,
                query={"result": "0 leaves the result out, of which a long run has megabytes."},
            ),
            Operation("DELETE", "/runs/{run}", self.remove_run, None, 204, refusals=(404, 409)),
            Operation("POST", "/runs/{run}/stop", self.stop_run, None, 202, refusals=(404, 409)),
            Operation("GET", "/runs/{run}/faults", self.show_faults, "application/yaml", refusals=found),
            Operation(
                "POST",
                "/runs/{run}/faults",
                self.add_fault,
                Added,
                202,
                body=dict[str, Any],
                refusals=(*_OF_A_BODY, 404, 409),
            ),
            Operation(
                "GET",
                "/runs/{run}/events",
                self.stream_events,
                "text/event-stream",
                refusals=(400, 404, 422),
                query={"after": "The number of the last event that is known."},
                headers={"Last-Event-ID": "The same, as a browser sends it."},
            ),
            Operation("GET", "/runs/{run}/tables/{table}", self.show_table, dict[str, list[Cell]], refusals=(404, 422)),
            Operation(
                "GET",
                "/runs/{run}/files/{name:path}",
                self.send_file,
                "application/octet-stream",
                refusals=found,
                query={"download": "As an attachment."},
            ),
        )

    @asynccontextmanager
    async def _live(self, app: Starlette) -> AsyncIterator[None]:
        yield
        await self._launcher.close()

    async def show_page(self, request: Request) -> Response:
        """Send the page; with the token in the address, give the browser the cookie that stands for it."""
        response = FileResponse(PAGE / "index.html")
        token = request.query_params.get("token")
        if token is not None:
            if not self._guard.accepts(token):
                return refuse(401, "this is not the token; open the address that stackelgrid ui has printed")
            response.set_cookie(self._cookie, token, httponly=True, samesite="strict")
        return response

    async def show_document(self, request: Request) -> Response:
        """Send the OpenAPI document."""
        return EscapedResponse(openapi.describe(self.operations))

    async def list_scenarios(self, request: Request) -> Response:
        """List the scenarios that a run can be started from."""
        return _answer(await run_in_threadpool(scenario_list.list_scenarios))

    async def list_plans(self, request: Request) -> Response:
        """List the fault plans that a run can be played under."""
        return _answer(await run_in_threadpool(scenario_list.list_plans))

    async def show_schema(self, request: Request) -> Response:
        """Send the JSON Schema of a game's scenario."""
        try:
            model = find(request.path_params["game"]).load("scenario")
        except UnknownGameError as error:
            raise HTTPException(404, str(error)) from None
        return EscapedResponse(with_data(await run_in_threadpool(model.model_json_schema)))

    async def check(self, request: Request) -> Response:
        """Check a scenario, and a fault plan against it."""
        wanted = Check.model_validate(await _read_json(request))
        return _answer(await run_in_threadpool(check, wanted))

    async def list_runs(self, request: Request) -> Response:
        """List the runs, the newest first."""
        return _answer(await run_in_threadpool(self._runs.list))

    async def start_run(self, request: Request) -> Response:
        """Start a run."""
        order = Order.model_validate(await _read_json(request))
        run_id = await self._launcher.start(order.model_dump_json(exclude_unset=True))
        return _answer(Started(id=run_id), 201, {"Location": f"/api/v1/runs/{quote(run_id)}"})

    async def show_run(self, request: Request) -> Response:
        """Describe a run."""
        run = await run_in_threadpool(describe, self._runs.find(request.path_params["run"]))
        stoppable = run.state == "running" and run.id in self._launcher.live
        faultable = stoppable and run.transport == "mqtt"
        without = {"result": None} if request.query_params.get("result") == "0" else {}
        return _answer(run.model_copy(update={"stoppable": stoppable, "faultable": faultable, **without}))

    async def remove_run(self, request: Request) -> Response:
        """Remove the folder of a run that has ended."""
        run = request.path_params["run"]
        try:
            await run_in_threadpool(self._runs.remove, run)
        except RunGoesOnError as error:
            return refuse(409, str(error))
        except OSError as error:
            return refuse(409, f"{run} cannot be removed ({error.strerror or error})")
        return Response(status_code=204)

    async def stop_run(self, request: Request) -> Response:
        """Interrupt a run that this server has started."""
        self._find_live(request).stop()
        return Response(status_code=202)

    def _find_live(self, request: Request) -> LiveRun:
        folder = self._runs.find(request.path_params["run"])
        live = self._launcher.live.get(folder.name)
        if live is None or not is_played(folder):
            raise HTTPException(409, f"{folder.name} is not running here")
        return live

    async def show_faults(self, request: Request) -> Response:
        """Send the fault plan of a run, with the faults that it was given while it went on."""
        path = self._runs.find(request.path_params["run"]) / "faults.yaml"
        if not path.is_file():
            return refuse(404, f"{path.parent.name} has no faults")
        return FileResponse(path, media_type="application/yaml")

    async def add_fault(self, request: Request) -> Response:
        """Add a fault to a run that is on."""
        run = self._find_live(request)
        content = await _read_json(request)
        if not isinstance(content, dict):
            return refuse(422, "a fault is a mapping of keys")
        return _answer(Added(fault=await run.add_fault(content)), 202)

    async def show_table(self, request: Request) -> Response:
        """Send a table of a run, column by column."""
        folder, name = self._runs.find(request.path_params["run"]), request.path_params["table"]
        path = await run_in_threadpool(find_file, folder, f"tables/{name}.parquet")
        if path is None:
            return refuse(404, f"{folder.name} has no table {name!r}; stackelgrid report {folder} writes what it has")
        return EscapedResponse(await run_in_threadpool(read_table, path))

    async def send_file(self, request: Request) -> Response:
        """Send a file of a run."""
        folder, name = self._runs.find(request.path_params["run"]), request.path_params["name"]
        path = await run_in_threadpool(find_file, folder, name)
        if path is None:
            return refuse(404, f"{folder.name} has no file {name!r} to give out")
        attached = path.name if "download" in request.query_params else None
        return FileResponse(path, filename=attached, headers={"Content-Security-Policy": _SANDBOX})

    async def stream_events(self, request: Request) -> Response:
        """Send the events of a run, from the first or from the one after `Last-Event-ID`."""
        folder = self._runs.find(request.path_params["run"])
        last = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
        if not last.isascii() or not last.isdecimal() or len(last) > 15:
            return refuse(400, f"Last-Event-ID is {last!r}; it is the number of an event", "Last-Event-ID")
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        events = follow(folder, int(last), self._is_closing)
        try:
            first = await anext(events)
        except StopAsyncIteration:
            return Response(status_code=204)  # upon which a browser does not ask again

        async def send() -> AsyncIterator[str]:
            yield first
            async for each in events:
                yield each

        return StreamingResponse(send(), media_type="text/event-stream")


def _answer(content: BaseModel | Sequence[BaseModel], status: int = 200, headers: Any = None) -> EscapedResponse:
    return EscapedResponse(to_jsonable_python(content), status, headers)


async def _read_json(request: Request) -> Any:
    try:
        return parse_json((await request.body()).decode())
    except ValueError as error:
        raise HTTPException(400, f"the body: {error}") from None


async def _answer_error(request: Request, error: HTTPException) -> Response:
    response = refuse(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def _answer_config_error(request: Request, error: ConfigError) -> Response:
    return refuse(422, str(error))


async def _answer_order(request: Request, error: OrderRefusedError) -> Response:
    return refuse(422, str(error), error.key)


async def _answer_fault(request: Request, error: FaultRefusedError) -> Response:
    return refuse(409 if error.key is None else 422, str(error), error.key)


async def _answer_no_run(request: Request, error: NoRunError) -> Response:
    return refuse(404, str(error))


async def _answer_invalid(request: Request, error: ValidationError) -> Response:
    key, message = list_mistakes(error)[0]
    return refuse(422, message, key or None)
