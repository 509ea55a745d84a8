"""What a broker with access rules refused to whom, counted from what Mosquitto logs.

Mosquitto says that it refused to pass on a message, and why it closed a connection before it knew whose; the one at
its level for debugging, beside every packet. That it grants a subscription, or a last will, says nothing: it leaves
out later what may not be read or written. Whoever asks for more than its rules is counted here as refused.

`python -m broker.refusals --rules access.acl < LOG` counts what a Mosquitto elsewhere, in a container, has logged.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

from broker import REFUSALS
from broker.access import Rules

UNKNOWN = "?"
"""Whoever did not get as far as showing a certificate that is accepted. No node can have this name."""

_NAME = rb"([A-Za-z0-9_-]{1,64})"
_SAID = re.compile(rb"^[^ ]*: (.*)$")
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
"""What is counted or worth nothing: packets one by one, and what strangers could fill the disk with."""
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
    """Counts by name and kind as it is handed the log, line by line.

    Kinds of a node: `publish`, `subscribe`, `will`, all against the rules; `taken over`, when a second connection with
    its certificate put an end to the first, as a copied certificate would, or one that reconnects before the broker
    knows that it had gone. Kinds of `UNKNOWN`: `certificate` (foreign, expired, revoked, of no authority), `no
    certificate`, `no tls`, `old tls`, `handshake` for anything else.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.counts: dict[str, Counter[str]] = {}
        self._connecting = ""

    def read(self, line: bytes) -> bytes | None:
        """What of a line (without its end) a log should keep: a refusal's first of its kind, None of the chatter."""
        found = _SAID.match(line)
        if found is None:
            return line
        said = found[1]
        refused = self._refused(said)
        if refused is not None:
            name, kind, what = refused
            counts = self.counts.setdefault(name, Counter())
            counts[kind] += 1
            if counts[kind] > 1:
                return None
            when = line[: found.start(1)].decode()
            return f"{when}Refused to {name}: {kind}, {what}; more of the kind in {REFUSALS} only".encode()
        if _CHATTER.match(said) or _SUBSCRIBED.match(said):
            return None
        return line

    def text(self) -> str:
        """The counts as JSON: {name: {kind: count}}."""
        return json.dumps({name: dict(counts) for name, counts in sorted(self.counts.items())}, indent=1)

    def _refused(self, said: bytes) -> tuple[str, str, str] | None:
        """Who was refused what, and the particulars; None when nobody was."""
        if found := _DENIED.match(said):
            return found[1].decode(), "publish", _shown(found[2])
        if found := _SUBSCRIBED.match(said):
            name, topic_filter = found[1].decode(), _shown(found[2])
            return None if self.rules.may_read(name, topic_filter) else (name, "subscribe", topic_filter)
        if found := _CONNECTED.match(said):
            self._connecting = found[1].decode()  # the next lines are about it: Mosquitto does one thing at a time
        elif said.startswith(b"Sending CONNACK"):
            self._connecting = ""
        elif said.startswith(b"\t") and self._connecting:
            name, topic = self._connecting, _shown(said[1:])
            return None if self.rules.may_write(name, topic) else (name, "will", topic)
        elif found := _TAKEN_OVER.match(said):
            return found[1].decode(), "taken over", "a second connection"
        elif found := _HANDSHAKE.match(said):
            why = _shown(found[1])
            return None if why == _NOBODY else (UNKNOWN, _STRANGERS.get(why, "handshake"), why)
        return None


def _shown(text: bytes) -> str:
    return text.decode(errors="replace")


def main() -> None:
    """Count what standard input has, print the counts."""
    arguments = argparse.ArgumentParser(prog="python -m broker.refusals", description="Count refusals in a log.")
    arguments.add_argument("--rules", type=Path, required=True, help="the broker's access.acl")
    given = arguments.parse_args()
    try:
        refusals = Refusals(Rules.parse(given.rules.read_text()))
    except (OSError, ValueError) as error:
        sys.exit(f"{given.rules}: {error}; name the access.acl that the broker has")
    for line in sys.stdin.buffer:
        refusals.read(line.rstrip(b"\n"))
    print(refusals.text())


if __name__ == "__main__":
    main()
