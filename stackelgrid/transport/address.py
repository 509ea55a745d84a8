"""Parse the address of a broker.

    mqtt://[USER[:PASSWORD]@]HOST[:PORT][,HOST:PORT...][/PATH][?OPTIONS]

The scheme is mqtt, mqtts (over TLS), ws or wss (over WebSockets, at PATH); further servers are those of a cluster.
Options are `prefix`, what all topics begin with there; `ca`, the file of the authority that signed the broker's
certificate, where it is none that this machine trusts; and `password_file`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from stackelgrid.text_file import read_text

PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
"""The schemes, and the port of each where none is given."""
PASSWORD_VARIABLE = "STACKELGRID_BROKER_PASSWORD"
"""The environment variable with the password, where neither the address nor a file has it."""
WS_PATH = "/mqtt"
"""The path at which brokers serve WebSockets by custom."""
Login = tuple[str, str | None]
"""A user and a password."""
_FORM = "mqtt://host:port, or with mqtts, ws or wss, further servers of the same cluster after a comma"
_OPTIONS = ("prefix", "ca", "password_file")


@dataclass(frozen=True)
class Address:
    """A broker's address; `servers` are tried in turn. As text it is without its password."""

    scheme: str
    servers: tuple[tuple[str, int], ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def encrypted(self) -> bool:
        """Tell whether the connection is made over TLS."""
        return self.scheme in ("mqtts", "wss")

    @property
    def over_websockets(self) -> bool:
        """Tell whether MQTT is carried over WebSockets."""
        return self.scheme in ("ws", "wss")

    @property
    def prefix(self) -> str:
        """Give what all topics begin with: nothing, or something with a slash at its end."""
        prefix = self.options.get("prefix", "").strip("/")
        return f"{prefix}/" if prefix else ""

    @property
    def login(self) -> Login | None:
        """Give user and password; the password may be in the address, its file or `PASSWORD_VARIABLE`.

        Raises `ValueError` when the file cannot be read.
        """
        if self.user is None:
            return None
        if self.password is not None:
            return self.user, self.password
        if (file := self.options.get("password_file")) is None:
            return self.user, os.environ.get(PASSWORD_VARIABLE)
        try:
            return self.user, read_text(Path(file), mend="name a file with the password").rstrip("\r\n")
        except ValueError as error:
            raise ValueError(f"password_file: {file} {error}") from None

    def at(self, host: str, port: int) -> Address:
        """Give the address of the same broker reached through another server."""
        return replace(self, servers=((host, port),))

    def __str__(self) -> str:
        user = "" if self.user is None else f"{quote(self.user, safe='')}@"
        servers = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.servers)
        path = "" if self.path in ("", WS_PATH) else self.path
        options = f"?{urlencode(self.options, safe='/')}" if self.options else ""
        return f"{self.scheme}://{user}{servers}{path}{options}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address. Raises `ValueError` for another form, without the password."""
        wrong = f"broker address {hide_password(text)!r} is not of the form {_FORM}: write mqtt://127.0.0.1:1883"
        found = re.fullmatch(r"(\w+)://(?:(.*)@)?([^@/?#]*)(/[^?#]*)?(?:\?([^#]*))?", text, re.DOTALL)
        if found is None or found[1] not in PORTS:
            raise ValueError(wrong)
        scheme, login, servers, path, query = found.groups()
        parsed = [_parse_server(part, PORTS[scheme]) for part in servers.split(",")]
        valid = tuple(server for server in parsed if server is not None)
        if len(valid) < len(parsed) or (path not in (None, "/") and scheme not in ("ws", "wss")):
            raise ValueError(wrong)
        options = dict(parse_qsl(query or "", keep_blank_values=True))
        if unknown := options.keys() - set(_OPTIONS):
            known = ", ".join(_OPTIONS)
            raise ValueError(f"broker address {hide_password(text)!r}: {min(unknown)!r} is unknown; give {known}")
        if re.search(r"[+#\x00]|^/|//", options.get("prefix", "")):
            raise ValueError(f"broker address {hide_password(text)!r}: the prefix of topics has no +, # or empty level")
        for name in ("ca", "password_file"):
            if name in options:
                options[name] = str(Path(options[name]).absolute())
        user, colon, password = (login or "").partition(":")
        if login is not None and not user:
            raise ValueError(wrong)
        path = "" if scheme in ("mqtt", "mqtts") else path or WS_PATH
        login_parts = {"user": unquote(user) or None, "password": unquote(password) if colon else None}
        return cls(scheme, valid, **login_parts, path=path, options=options)


def hide_password(text: str) -> str:
    """Leave the password out of what may be a broker's address, for a message."""
    return re.sub(r"(://[^:@/]*):.*@", r"\1@", text, flags=re.DOTALL)


def _parse_server(text: str, default_port: int) -> tuple[str, int] | None:
    """Parse `HOST` or `HOST:PORT`, or give None."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as the name service does
    except ValueError:  # a port that is no number, a bracket that is not closed, an impossible host name
        return None
    if not host or port == 0 or parts.netloc != text or text.endswith(":"):
        return None
    return host, default_port if port is None else port
