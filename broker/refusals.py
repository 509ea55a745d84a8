"""Refusals of a broker with access rules, counted by client from what Mosquitto logs.

Mosquitto logs that it refused to pass on a message (at its level for debugging, beside every packet), and why it closed
a connection before it knew the client. It grants every subscription and every last will, and leaves out later what may
not be read or written; so a client that asks for more than its rules is counted here as refused.

`python -m broker.refusals --rules access.acl < LOG` counts what a Mosquitto elsewhere, in a container, has logged.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

from broker import REFUSALS
from broker.access import Rules
from stackelgrid.wire.names import NAME

UNKNOWN = "?"
"""The name for clients that showed no certificate that is accepted. No node can have this name."""

_NAME = f"({NAME})".encode()
_LINE = re.compile(rb"^[^ ]*: (.*)$")
"""A line without its time."""
_DENIED = re.compile(rb"^Denied PUBLISH from " + _NAME + rb" \(.*?, '(.*)', \.\.\. \(")
_SUBSCRIBED = re.compile(rb"^" + _NAME + rb" [0-2] (.+)$")
_CONNECTED = re.compile(rb"^New client connected from .* as " + _NAME + rb" \(")
_TAKEN_OVER = re.compile(rb"^Client " + _NAME + rb" already connected, closing old connection\.$")
_HANDSHAKE = re.compile(rb"^(?:OpenSSL Error|Client connection from ).*SSL routines::?:(.*?)\.?$")
_CHATTER = re.compile(
    rb"^(\t|Received |Sending |No will message |Will message |New connection from |OpenSSL Error.*SSL routines"
    rb"|Client connection from |Client <unknown> |Saving in-memory database|$)"
)
"""Lines that are counted, or of no use: packets one by one, and lines with which strangers could fill the disk."""
_STRANGERS = {
    "certificate verify failed": "certificate",
    "peer did not return a certificate": "no certificate",
    "wrong version number": "no tls",
    "http request": "no tls",
    "unsupported protocol": "old tls",
}
_NOBODY = "unexpected eof while reading"
"""A connection that broke: nothing was refused."""


class Refusals:
    """Counts by name and kind, of a log read line by line.

    Kinds of a node: `publish`, `subscribe`, `will`, all against the rules; `taken over`, when a second connection with
    its certificate ended the first, because the certificate was copied, or because the node reconnected before the
    broker knew that the first was lost. Kinds of `UNKNOWN`: `certificate` (foreign, expired, revoked, of no authority),
    `no certificate`, `no tls`, `old tls`, `handshake` for anything else.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.counts: dict[str, Counter[str]] = {}
        self._connecting = ""

    def read(self, line: bytes) -> bytes | None:
        """Count a line (without its end); returns what a log should keep of it: the first refusal of each kind."""
        found = _LINE.match(line)
        if found is None:
            return line
        text = found[1]
        refusal = self._find_refusal(text)
        if refusal is not None:
            name, kind, what = refusal
            counts = self.counts.setdefault(name, Counter())
            counts[kind] += 1
            if counts[kind] > 1:
                return None
            when = line[: found.start(1)].decode()
            return f"{when}Refused to {name}: {kind}, {what}; more of the kind in {REFUSALS} only".encode()
        if _CHATTER.match(text) or _SUBSCRIBED.match(text):
            return None
        return line

    def text(self) -> str:
        """Write the counts as JSON: {name: {kind: count}}."""
        return json.dumps({name: dict(counts) for name, counts in sorted(self.counts.items())}, indent=1)

    def _find_refusal(self, text: bytes) -> tuple[str, str, str] | None:
        """Find the name of the refused client, the kind and the particulars; None when nothing was refused."""
        if found := _DENIED.match(text):
            return found[1].decode(), "publish", _decode(found[2])
        if found := _SUBSCRIBED.match(text):
            name, topic_filter = found[1].decode(), _decode(found[2])
            return None if self.rules.may_read(name, topic_filter) else (name, "subscribe", topic_filter)
        if found := _CONNECTED.match(text):
            self._connecting = found[1].decode()  # the next lines are about it: Mosquitto does one thing at a time
        elif text.startswith(b"Sending CONNACK"):
            self._connecting = ""
        elif text.startswith(b"\t") and self._connecting:
            name, topic = self._connecting, _decode(text[1:])
            return None if self.rules.may_write(name, topic) else (name, "will", topic)
        elif found := _TAKEN_OVER.match(text):
            return found[1].decode(), "taken over", "a second connection"
        elif found := _HANDSHAKE.match(text):
            why = _decode(found[1])
            return None if why == _NOBODY else (UNKNOWN, _STRANGERS.get(why, "handshake"), why)
        return None


_STRANGER_DENIED = re.compile(rb"^Denied PUBLISH from .* \(.*?, '(.*)', \.\.\. \(")
_STRANGER_SUBSCRIBED = re.compile(rb"^(.*) [0-2] ([^ ]+)$")
_STRANGER_TAKEN_OVER = re.compile(rb"^Client .* already connected, closing old connection\.$")
_TOO_MANY = re.compile(rb"^Client connection from .* denied: max_connections exceeded\.$")
_OWN = re.compile(rb"^(mosquitto version |Error|Warning|Config loaded)")
"""Lines that no stranger can cause."""


class StrangerRefusals:
    """Counts of what the broker for strangers (`broker.enrolment`) refused, by kind; a stranger has no name.

    `path` is the file that `write` writes them to. Kinds besides those of `UNKNOWN` above: `publish`, `subscribe`,
    `taken over`, and `too many` connections. `runs` once Mosquitto listens.
    """

    def __init__(self, path: Path) -> None:
        self.runs = False
        self._path = path
        self._counts: Counter[str] = Counter()
        self._written: Counter[str] | None = None

    def read(self, line: bytes) -> bytes | None:
        """Count a line (without its end); returns what a log should keep of it: the first refusal of each kind."""
        found = _LINE.match(line)
        text = line if found is None else found[1]
        refusal = self._find_refusal(text)
        if refusal is not None:
            kind, what = refusal
            self._counts[kind] += 1
            if self._counts[kind] > 1:
                return None
            return f"Refused to a stranger: {kind}, {what[:200]}; more of the kind in {REFUSALS} only".encode()
        self.runs = self.runs or (text.startswith(b"mosquitto version ") and text.endswith(b" running"))
        return line if _OWN.match(text) else None

    def write(self) -> None:
        """Write the counts if they have changed; when the disk is full, with the next ones."""
        if self._counts == self._written:
            return
        draft = self._path.with_name(f".{self._path.name}.draft")
        with suppress(OSError):
            draft.write_text(json.dumps({UNKNOWN: self._counts}, indent=1), encoding="utf-8")
            draft.replace(self._path)
            self._written = self._counts.copy()

    def _find_refusal(self, text: bytes) -> tuple[str, str] | None:
        if found := _STRANGER_DENIED.match(text):
            return "publish", _decode(found[1])
        if found := _HANDSHAKE.match(text):
            why = _decode(found[1])
            return None if why == _NOBODY else (_STRANGERS.get(why, "handshake"), why)
        if _STRANGER_TAKEN_OVER.match(text):
            return "taken over", "a second connection"
        if _TOO_MANY.match(text):
            return "too many", "connections"
        if (found := _STRANGER_SUBSCRIBED.match(text)) and not text.startswith((b"\t", *_VERBS)):
            own = found[2] == f"stackelgrid/enrolment/{_decode(found[1])}/answer".encode()
            return None if own else ("subscribe", _decode(found[2]))
        return None


_VERBS = (b"Received ", b"Sending ", b"New ", b"Client ", b"Bridge ", b"Connecting ", b"Opening ")


def _decode(text: bytes) -> str:
    return text.decode(errors="replace")


def main() -> None:
    """Count the refusals in a log on standard input, print the counts."""
    arguments = argparse.ArgumentParser(prog="python -m broker.refusals", description="Count refusals in a log.")
    arguments.add_argument("--rules", type=Path, required=True, help="the broker's access.acl")
    given = arguments.parse_args()
    try:
        refusals = Refusals(Rules.parse(given.rules.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        sys.exit(f"{given.rules}: {error}; name the access.acl that the broker has")
    for line in sys.stdin.buffer:
        refusals.read(line.rstrip(b"\n"))
    print(refusals.text())


if __name__ == "__main__":
    main()
