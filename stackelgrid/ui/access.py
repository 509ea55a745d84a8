"""The guard before the HTTP interface: who may ask, from where, and how much.

It listens on loopback, where every page of every site that the browser shows can reach it too. So a request needs the
token, `Host` must be a name of this machine (no name of another site that leads here), and `Origin`, where a browser
sends it, must be the interface itself.
"""

from __future__ import annotations

import json
import re
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 1_000_000
"""The largest body that is read."""
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")
_READING = ("GET", "HEAD")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response that has none of its own of that name."""


class Guard:
    """Refuses what may not reach `app`; below /api/ a request needs `token`, as a bearer or in the cookie `cookie`."""

    def __init__(self, app: ASGIApp, token: str, cookie: str) -> None:
        self._app, self._token, self._cookie = app, token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._find_refusal(scope)
        app = self._app if refusal is None else refusal
        await app(scope, _limit(receive), send_with_headers)

    def accepts(self, token: str) -> bool:
        """Tell whether this is the token."""
        return secrets.compare_digest(token.encode(), self._token.encode())

    def _find_refusal(self, scope: Scope) -> EscapedResponse | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not _LOOPBACK.fullmatch(host):
            return refuse(403, f"Host {host!r} is no name of this machine; open http://127.0.0.1")
        if origin is not None and origin != f"http://{host}":
            return refuse(403, f"a page of {origin} may not use this interface")
        if not scope["path"].startswith("/api/"):
            return None
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if not self.accepts(bearer):
            if not self.accepts(self._read_cookie(headers)):
                return refuse(401, "no valid token; open the address that stackelgrid ui has printed")
            if scope["method"] not in _READING and origin is None:
                return refuse(403, "a browser sends Origin with what it writes; a script sends Authorization: Bearer")
        return _refuse_body(scope, headers)

    def _read_cookie(self, headers: Headers) -> str:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return "" if morsel is None else morsel.value


class EscapedResponse(JSONResponse):
    """A response in ASCII: a name of a file may be text that UTF-8 cannot hold."""

    def render(self, content: Any) -> bytes:
        """Write the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def refuse(status: int, message: str, key: str | None = None) -> EscapedResponse:
    """Make the response to what is refused; `key` is the key of the request that is wrong."""
    return EscapedResponse({"message": message} | ({} if key is None else {"key": key}), status)


def _refuse_body(scope: Scope, headers: Headers) -> EscapedResponse | None:
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > MOST_BYTES:
        return refuse(413, _TOO_LARGE)
    has_body = length != "0" or "transfer-encoding" in headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if scope["method"] not in _READING and has_body and kind != "application/json":
        return refuse(415, f"Content-Type is {kind!r}; send application/json")
    return None


_TOO_LARGE = f"the body has more than {MOST_BYTES:,} bytes; send less"


def _limit(receive: Receive) -> Receive:
    """Receive a body that says nothing of its length as far as it may be long."""
    received = 0

    async def receive_some() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MOST_BYTES:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return receive_some
