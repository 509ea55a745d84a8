"""Where a broker is: `mqtt://HOST:PORT`, `mqtts://HOST:PORT` over TLS, several servers of one cluster with commas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import urlsplit

_FORM = "mqtt://host:port or mqtts://host:port, further servers of the same cluster after a comma"


@dataclass(frozen=True)
class Address:
    """A broker's address: `servers` are tried in turn."""

    scheme: Literal["mqtt", "mqtts"]
    servers: tuple[tuple[str, int], ...]

    @property
    def encrypted(self) -> bool:
        """Whether the connection is made over TLS."""
        return self.scheme == "mqtts"

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that `text` gives. Raises `ValueError` for another form."""
        scheme, separator, rest = text.partition("://")
        servers = [_server(part) for part in rest.split(",")]
        found = tuple(server for server in servers if server is not None)
        if not separator or scheme not in ("mqtt", "mqtts") or len(found) < len(servers):
            raise ValueError(f"broker address {text!r} is not of the form {_FORM}: write mqtt://127.0.0.1:1883")
        return cls(cast("Literal['mqtt', 'mqtts']", scheme), found)


def _server(text: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as it is on its way to the name service
    except ValueError:  # a port that is no number, a bracket that is not closed, a host that can be nobody's name
        return None
    if not host or not port or "@" in text or parts.netloc != text:
        return None
    return host, port
