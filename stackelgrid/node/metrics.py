"""Prometheus metrics of a node: its rounds and its connection, nothing that a single home does.

Rounds and computations are counted as they end; everything else is read from the node when it is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from stackelgrid.errors import ConfigError
from stackelgrid.node.progress import MISSING, Account
from stackelgrid.node.status import STATES, Status
from stackelgrid.version import find_version
from stackelgrid.wire.roles import Role

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, start_http_server
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as missing:
    raise ConfigError(
        f"--metrics: {missing.name} is not installed; add the metrics extra, pip install '.[metrics]'"
    ) from None

_LOG = logging.getLogger("stackelgrid.node")

ROUND_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Bounds of the histogram of rounds: from all on one machine to members asked again and again."""
WORK_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Bounds of the histogram of computations."""


OBSERVER = "observer"
"""The label `role` of an observer, which has no part in the run."""


def serve(at: str, role: str, status: Status) -> int:
    """Answer HTTP at `[HOST:]PORT` from a thread of its own; returns the port, a free one for port 0.

    Raises `ConfigError` for another form of address, and for one that cannot be had.
    """
    host, port = _address(at)
    try:
        server, _ = start_http_server(port, host, registry(role, status))
    except OSError as error:
        raise ConfigError(
            f"--metrics: {at}: {error.strerror}; name an address of this machine and a port that is free"
        ) from None
    _LOG.info("metrics", extra={"data": {"host": host, "port": server.server_port}})
    return server.server_port


def _address(at: str) -> tuple[str, int]:
    host, separator, port = at.rpartition(":")
    if not (port.isdecimal() and int(port) < 65536) or (separator and not host):
        raise ConfigError(f"--metrics: {at!r} is not of the form [HOST:]PORT; write 9100 or 0.0.0.0:9100")
    return host.strip("[]") or "127.0.0.1", int(port)


def registry(role: str, status: Status) -> CollectorRegistry:
    """Build the metrics of a node, a `Role` or an `OBSERVER`, each with the labels run, node and role."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    found = CollectorRegistry()
    labels = {"run": status.run, "node": status.node, "role": str(role)}
    status.progress.on_work = (
        Histogram(
            "stackelgrid_work_seconds",
            "Computations of the node; of a home, its answers and its schedule.",
            list(labels),
            registry=found,
            buckets=WORK_S,
        )
        .labels(**labels)
        .observe
    )
    if role in (Role.LEADER, Role.AGGREGATOR):
        status.progress.on_round = _Rounds(found, labels).count
    found.register(_Current(role, status, labels))
    return found


class _Rounds:
    """A coordinator's rounds with its members, counted at the end of each."""

    def __init__(self, registry: CollectorRegistry, labels: dict[str, str]) -> None:
        names = list(labels)
        rounds = Counter("stackelgrid_rounds_finished", "Rounds finished with the members.", names, registry=registry)
        answers = Counter("stackelgrid_answers_received", "Answers that came in time.", names, registry=registry)
        again = Counter("stackelgrid_members_asked_again", "Members asked again.", names, registry=registry)
        missing = Counter(
            "stackelgrid_answers_missing",
            "Answers that did not come, by what was done about the member.",
            [*names, "action"],
            registry=registry,
        )
        seconds = Histogram(
            "stackelgrid_round_seconds",
            "From a question to the end of its round.",
            names,
            registry=registry,
            buckets=ROUND_S,
        )
        self._rounds, self._answers, self._again = (each.labels(**labels) for each in (rounds, answers, again))
        self._missing = {how: missing.labels(**labels, action=how) for how in MISSING}
        self._seconds = seconds.labels(**labels)

    def count(self, account: Account) -> None:
        """Count a round that is finished."""
        self._rounds.inc()
        self._answers.inc(account["answered"])
        self._again.inc(account["again"])
        for action, missing in self._missing.items():
            missing.inc(len(account[action]))
        self._seconds.observe(account["ms"] / 1000)


class _Current(Collector):
    """The state that the node is in now, and the numbers that it counts itself."""

    def __init__(self, role: str, status: Status, labels: dict[str, str]) -> None:
        self._role, self._status, self._labels = role, status, labels

    def collect(self) -> Iterator[Metric]:
        """Give one metric after the other."""
        status, traffic = self._status, self._status.traffic
        now = status.state
        states = {str(state): float(state == now) for state in STATES}
        yield self._metric("gauge", "state", "1 for the state that the node is in.", states, by="state")
        yield self._metric("gauge", "round", "The round that is on, 0 before the first.", status.progress.round)
        yield self._metric("gauge", "connected", "1 while the broker is connected.", traffic.connected)
        yield self._metric("counter", "reconnects", "Connections made again.", status.reconnects)
        yield self._metric("counter", "messages_sent", "Messages published.", traffic.sent)
        yield self._metric("counter", "messages_received", "Messages received.", traffic.received)
        yield self._metric("counter", "sent_bytes", "Bytes published, payloads only.", traffic.sent_bytes)
        yield self._metric("counter", "received_bytes", "Bytes received, payloads only.", traffic.received_bytes)
        rejected = dict(status.mailbox.rejected)
        yield self._metric("counter", "messages_rejected", "Messages ignored, by reason.", rejected, by="reason")
        if self._role in (Role.AGGREGATOR, Role.HOME):
            yield self._metric("counter", "answers_given", "Answers to the coordinator.", status.progress.answers)
        if self._role in (Role.LEADER, Role.AGGREGATOR):
            missing = {action: status.progress.missing.get(action, 0) for action in MISSING}
            yield self._metric("gauge", "members_missing", "Members missed in the last round.", missing, by="action")
        yield self._metric("gauge", "build_info", "1, for the version.", {find_version(): 1.0}, by="version")
        yield from self._collect_times()
        if self._role == OBSERVER and (verdict := status.progress.certificate) is not None:
            yield self._metric("gauge", "certificate_passed", "1 if what was settled was confirmed.", verdict.passed)
            if verdict.gap is not None:
                yield self._metric("gauge", "certificate_gap", "The gap of what was settled.", verdict.gap)

    def _collect_times(self) -> Iterator[Metric]:
        """Give the times that are known, in seconds since 1970."""
        if (settled_at := self._status.progress.settled_at) is not None:
            yield self._metric("gauge", "settled_timestamp_seconds", "Time of the last settlement.", settled_at)
        if (certificate := self._status.certificate) is not None:
            name, words = "tls_certificate_expiry_timestamp_seconds", "End of the node's certificate for the broker."
            yield self._metric("gauge", name, words, certificate.until.timestamp())

    def _metric(self, kind: str, name: str, words: str, value: float | Mapping[str, float], by: str = "") -> Metric:
        """Build a metric of one value, or of one for each value of the label `by`."""
        metric = Metric(f"stackelgrid_{name}", words, kind)
        suffix = "_total" if kind == "counter" else ""
        cases = value if isinstance(value, Mapping) else {"": value}
        for case, number in cases.items():
            labels = {**self._labels, by: case} if by else self._labels
            metric.add_sample(f"{metric.name}{suffix}", labels, float(number))
        return metric
