"""The OpenAPI document of the HTTP interface, made of the operations that it serves."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stackelgrid import __version__
from stackelgrid.ui.answers import Refusal

_TEMPLATE = "#/components/schemas/{model}"
_WHY = {
    400: "The request cannot be read.",
    404: "There is no such thing.",
    409: "The run's state does not allow it.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "A value is wrong.",
}
_ALWAYS = {401: "No valid token.", 403: "Of a foreign host or origin."}
_PARAMETERS = {
    "game": "The name of a game.",
    "name": "The name of a file, one of `files` of the run.",
    "run": "The id of a run, the name of its folder.",
    "table": "The name of a table of the run, as slots or bills.",
}


@dataclass(frozen=True)
class Operation:
    """A request that is served by `handler`, whose docstring says what it does.

    `answer` is a type, or the media type of what is no JSON, None of an empty answer; `body` is the type of the body.
    `refusals` are the statuses besides those of any request. `query` and `headers` describe what may be added.
    """

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    answer: Any
    status: int = 200
    body: Any = None
    refusals: Sequence[int] = ()
    query: dict[str, str] | None = None
    headers: dict[str, str] | None = None

    @property
    def route(self) -> Route:
        """The route to it."""
        return Route(self.path, self.handler, methods=[self.method])


def describe(operations: Sequence[Operation]) -> dict[str, Any]:
    """Describe the operations in OpenAPI 3.1."""
    types = {id(each): each for op in operations for each in (op.answer, op.body) if each and not isinstance(each, str)}
    adapters = [(key, "validation", TypeAdapter(each)) for key, each in types.items()]
    schemas, shared = TypeAdapter.json_schemas(
        [*adapters, ("refusal", "validation", TypeAdapter(Refusal))],  # type: ignore[list-item]
        ref_template=_TEMPLATE,
    )
    found: dict[Any, Any] = {key: schema for (key, _), schema in schemas.items()}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = re.sub(r":\w+}", "}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _describe(operation, found)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Stackelgrid", "version": __version__},
        "servers": [{"url": "/api/v1"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": shared.get("$defs", {}),
        },
    }


def _describe(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    name = operation.handler.__name__
    named = re.findall(r"{(\w+)", operation.path)
    parameters = [_describe_parameter("path", each, _PARAMETERS[each]) for each in named]
    parameters += [_describe_parameter("query", *each) for each in (operation.query or {}).items()]
    parameters += [_describe_parameter("header", *each) for each in (operation.headers or {}).items()]
    described: dict[str, Any] = {
        "operationId": name,
        "summary": (operation.handler.__doc__ or "").split("\n")[0],
        "parameters": parameters,
        "responses": {
            str(operation.status): {"description": "Done.", **_describe_answer(operation, schemas)},
            **{
                str(status): {"description": why, "content": {"application/json": {"schema": schemas["refusal"]}}}
                for status, why in [*_ALWAYS.items(), *((each, _WHY[each]) for each in operation.refusals)]
            },
        },
    }
    if operation.body is not None:
        content = {"application/json": {"schema": schemas[id(operation.body)]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _describe_parameter(place: str, name: str, what: str) -> dict[str, Any]:
    required = {"required": True} if place == "path" else {}
    return {"in": place, "name": name, "description": what, "schema": {"type": "string"}, **required}


def _describe_answer(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    if operation.answer is None:
        return {}
    if isinstance(operation.answer, str):
        return {"content": {operation.answer: {"schema": {"type": "string"}}}}
    return {"content": {"application/json": {"schema": schemas[id(operation.answer)]}}}
