"""Parse the address of a broker: `mqtt://HOST:PORT`, `mqtts://HOST:PORT` over TLS, servers of a cluster with commas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import urlsplit

_FORM = "mqtt://host:port or mqtts://host:port, further servers of the same cluster after a comma"


@dataclass(frozen=True)
class Address:
    """A broker's address; `servers` are tried in turn."""

    scheme: Literal["mqtt", "mqtts"]
    servers: tuple[tuple[str, int], ...]

    @property
    def encrypted(self) -> bool:
        """Tell whether the connection is made over TLS."""
        return self.scheme == "mqtts"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address. Raises `ValueError` for another form."""
        scheme, separator, rest = text.partition("://")
        servers = [_parse_server(part) for part in rest.split(",")]
        valid = tuple(server for server in servers if server is not None)
        if not separator or scheme not in ("mqtt", "mqtts") or len(valid) < len(servers):
            raise ValueError(f"broker address {text!r} is not of the form {_FORM}: write mqtt://127.0.0.1:1883")
        return cls(cast("Literal['mqtt', 'mqtts']", scheme), valid)


def _parse_server(text: str) -> tuple[str, int] | None:
    """Parse `HOST:PORT`, or give None."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as the name service does
    except ValueError:  # a port that is no number, a bracket that is not closed, an impossible host name
        return None
    if not host or not port or "@" in text or parts.netloc != text:
        return None
    return host, port
