"""`emc-node leave`: have the registrar strike this home off the grid, and end its service.

Exit codes: 0 the home has left; 2 it may not, or its configuration cannot be used; 4 broker or registrar do not answer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emc_node.config import EmcConfig, config_model
from emc_node.enrolment import AnswerError, read_answer
from emc_node.init import CONFIG, FOLDER
from stackelgrid.errors import ConfigError, ExitCode
from stackelgrid.node.config import load
from stackelgrid.service import UNITS
from stackelgrid.transport.base import Action, BrokerUnreachableError, Finish, Publish
from stackelgrid.transport.mqtt import MqttTransport
from stackelgrid.wire.enrolment import NodeRequest, node_topic

HEAR_S = 1.0
"""The time after which the connection is made anew, to see whether the broker still admits the home."""
PATIENCE_S = 60.0
"""The time in which the registrar has to act."""
REACH_S, AGAIN_S = 20.0, 1.0
"""The time in which the broker has to be reached, at first and then again."""
LEFT = 0


class Leaver:
    """Asks to leave, and hears for a while whether that is denied."""

    last_will: Publish | None = None

    def __init__(self, run: str, name: str) -> None:
        self.name = name
        self.denied: str | None = None
        self.subscriptions: Sequence[str] = (node_topic(run, name, "answer"),)
        self._request = Publish(node_topic(run, name, "request"), NodeRequest(name=name, leave=True).write(), qos=1)
        self._finish_at: float | None = None

    def start(self, now: float) -> Sequence[Action]:
        """Ask."""
        self._finish_at = now + HEAR_S
        return [self._request]

    def receive(self, topic: str, payload: bytes, now: float) -> Sequence[Action]:
        """Take a denial of this request; what is retained is about earlier ones."""
        try:
            answer = read_answer(payload)
        except AnswerError:
            return []
        if answer.state != "denied" or answer.id is not None:
            return []
        self.denied = answer.reason or "no reason is given"
        return [Finish()]

    def tick(self, now: float) -> Sequence[Action]:
        """Leave without an answer."""
        return [Finish()]

    def next_deadline(self) -> float | None:
        """Give the time at which it no longer hears."""
        return self._finish_at


def main(arguments: list[str]) -> int:
    """Leave the grid; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="emc-node leave", description="Leave the grid for good: the home's certificate is revoked."
    )
    parser.add_argument("--config", type=Path, default=FOLDER / CONFIG, help="default: %(default)s")
    file: Path = parser.parse_args(arguments).config
    try:
        config = load(file, config_model)
        _require_certificate(file, config)
        _connect(config, REACH_S)  # it is checked before the service is stopped
    except (ConfigError, ValueError) as error:
        return _report(str(error), ExitCode.BAD_INPUT)
    has_service = (UNITS / "emc-node.service").exists()
    if has_service:
        _control("stop")  # a certificate has one connection
    code = _leave(config)
    if has_service:
        _control("disable" if code == LEFT else "start")
    return code


def _require_certificate(file: Path, config: EmcConfig[Any]) -> None:
    if config.tls is None:
        raise ConfigError(f"{file}: tls: missing; a home without a certificate is in no register")


def _connect(config: EmcConfig[Any], seconds: float) -> MqttTransport:
    return MqttTransport(config.broker, tls=config.tls, connect_timeout_s=seconds, reconnect_s=seconds)


def _leave(config: EmcConfig[Any]) -> int:
    """Ask until the broker refuses the certificate, which is then revoked."""
    give_up_at, transport, denied = time.monotonic() + PATIENCE_S, _connect(config, REACH_S), False
    while time.monotonic() < give_up_at:
        leaver = Leaver(config.run, config.name)
        try:
            transport.run([leaver])
        except BrokerUnreachableError as error:
            if transport.traffic[leaver.name].refused:
                print(f"{config.name} has left run {config.run}: the broker does not admit it any more.")
                return LEFT
            return _report(str(error), ExitCode.LOST)
        if denied and leaver.denied is not None:
            return _report(f"the registrar denies it: {leaver.denied}; ask the operator", ExitCode.BAD_INPUT)
        if leaver.denied is not None:
            time.sleep(HEAR_S)  # perhaps it asked twice, and has left already: the broker refuses it by then
        denied, transport = leaver.denied is not None, _connect(config, AGAIN_S)
    return _report(
        f"the registrar has done nothing for {PATIENCE_S:.0f} seconds; ask the operator whether it runs", ExitCode.LOST
    )


def _control(command: str) -> None:
    subprocess.run(["systemctl", command, "emc-node"], check=False)


def _report(error: str, code: ExitCode) -> int:
    print(f"emc-node leave: {error}", file=sys.stderr)
    return code
