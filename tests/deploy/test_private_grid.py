"""Private sums where certificates vouch for keys: whose are believed, and a grid whose homes come, move and go."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.signing import SigningAuthority
from support.visitor import until

import broker
import stackelgrid
from broker import enrolment
from broker.access import Node, Role
from broker.authority import Authority
from broker.signer import Signer, read_request, write_pem
from emc_node import openssl
from stackelgrid.deploy.provision import provision
from stackelgrid.node.record import read_whole_lines
from stackelgrid.rounds.settings import PrivacySettings
from stackelgrid.scenarios import Scenario, load
from stackelgrid.testbed import in_memory
from stackelgrid.testbed.enrolment import certificate_in, list_nodes, with_certificates
from stackelgrid.testbed.in_memory import MemoryRun
from stackelgrid.testbed.node_configs import build_node_configs
from stackelgrid.transport.tls import Tls

RUN = "street"
DAYS = 90
"""Far more than are played."""


def street(count: int, *, aggregators: int = 1, **changes: Any) -> Scenario:
    """Homes of one day that masks its answers, without a state from one to the next."""
    return load(
        {
            "schema": 1,
            "game": "user_oriented",
            "seed": 1,
            "aggregators": aggregators,
            "slots": 2,
            "privacy": {"sums": "committee", "minimum_group": 5},
            "leader": {
                "objective": "welfare",
                "baseline_price": 9,
                "wholesale_price": [3, 5],
                "mu": 0.5,
                "price_max": 30,
                "tolerance": 1e-9,
            },
            "homes": [describe_home(number) for number in range(1, count + 1)],
            **changes,
        }
    )


def describe_home(number: int, slots: int = 2) -> dict[str, Any]:
    return {
        "id": f"h{number}",
        "inelastic": [{"load_kw": slots * [0.5 + number / 8]}],
        "elastic": [{"max_kw": 3.0 + number / 4, "valuation": 12 + number / 2}],
        "connection": {"draw_kw": 14.0},
    }


def without_masks(scenario: Scenario) -> Any:
    return in_memory.play(scenario.change(privacy=PrivacySettings()))


# --- whose keys are believed ---


class Forger:
    """Makes certificates for the home h1 that no roster may have."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._folder, self._authority = folder, authority
        self._signer = Signer.load(authority.folder / "authority", lambda file: "")

    def certify(self, name: str, kind: str) -> Tls | None:
        """Give the files of a home that has no certificate, or one of another kind."""
        if kind == "none":
            return None
        place = self._folder / name
        place.mkdir()
        openssl.make_key(place / "node.key")
        csr = openssl.make_request(place / "node.key", name)
        if kind == "foreign":
            certificate = SigningAuthority(place, "Stackelgrid authority").sign(csr)
        else:
            role = Role.observer if kind == "observer" else Role.home
            lifetime = timedelta(hours=-1 if kind == "expired" else 1)
            certificate = write_pem(self._signer.certify(Node(name, role), read_request(csr, name), lifetime)).decode()
        (place / "node.crt").write_text(certificate)
        (place / "ca.crt").write_bytes((self._authority.folder / "authority" / "ca.crt").read_bytes())
        return certificate_in(place)


FORGED = {
    "h1": ("observer", "its certificate is for stackelgrid:role:observer"),
    "h2": ("foreign", "its certificate is not by the authority of the run"),
    "h3": ("expired", "its certificate holds from"),
    "h4": ("none", "no certificate vouches for them"),
}


def test_keys_that_no_certificate_of_a_home_vouches_for_are_in_no_roster(tmp_path: Path) -> None:
    scenario = street(10)
    authority = Authority.init(tmp_path / "certs")
    authority.add(*list_nodes(scenario.topology))
    forger = Forger(tmp_path, authority)
    run = MemoryRun(scenario)
    configs = with_certificates(build_node_configs(scenario, run="memory"), scenario.topology, authority.folder)
    (aggregator,) = configs.aggregators
    run.builds["a1"] = partial(run._aggregator, aggregator)
    for config in configs.homes:
        forged = FORGED.get(config.name)
        changed = (
            config if forged is None else config.model_copy(update={"tls": forger.certify(config.name, forged[0])})
        )
        run.builds[config.name] = partial(run._home, changed)
    record = run.finish(run.transport.run([build(False) for build in run.builds.values()]))
    assert record.failures == {} and record.settled and not record.conclusion["complete"]
    for entry in record.aggregator_rounds:
        assert entry["excluded"] == list(FORGED)
        for name, (_, reason) in FORGED.items():
            assert entry["why"][name].startswith(f"its keys are not believed: {reason}")
    honest = scenario.with_homes([home for home in scenario.everyone if home.id not in FORGED])
    assert np.allclose(record.rounds[-1]["price"], without_masks(honest).rounds[-1]["price"], rtol=0, atol=1e-9)


def test_result_says_that_certificates_vouch_for_the_keys(tmp_path: Path) -> None:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    scenario = street(6)
    authority = Authority.init(tmp_path / "certs")
    authority.add(*list_nodes(scenario.topology))
    with broker.start("mosquitto", tmp_path / "broker", certificates=authority.folder / "broker") as running:
        run = stackelgrid.run(
            scenario, transport="mqtt", broker=running.url, certs=authority.folder, out=tmp_path / "run"
        )
    unsigned = stackelgrid.run(scenario)
    assert run.complete and unsigned.complete
    assert [each.result.privacy.keys for each in (run, unsigned)] == ["certificates", "unsigned"]
    assert run.outcome.price == pytest.approx(without_masks(scenario).rounds[-1]["price"], abs=1e-9)


# --- a grid of processes ---


class Grid:
    """A grid with its broker, its registrar and its nodes, each a process; those of the run are forked from one."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, port = folder, broker.free_port()
        provision(self.describe(12), folder / "certs", f"mqtts://localhost:{port}", RUN)
        self.authority = Authority(folder / "certs")
        self.certs = self.authority.folder
        self.ca = self.certs / "authority" / "ca.crt"
        files = self.certs / "broker"
        running = broker.start(broker.BrokerKind.MOSQUITTO, folder / "state", port, certificates=files)
        stack.enter_context(running)
        self.counter = stack.enter_context(enrolment.start(running, files, None, "127.0.0.1"))
        stack.enter_context(self.process("stackelgrid", "certs", "serve", "--dir", str(self.certs)))
        forkserver = self.process(
            "stackelgrid.node.forkserver", "user_oriented", "leader_node,aggregator_node,emc_node"
        )
        self._nodes = stack.enter_context(forkserver)
        for role, package in (("homes", "emc"), ("aggregators", "aggregator"), ("leaders", "leader")):
            for config in sorted((self.certs / role).glob("*/config.json")):
                self.start(config, f"{package}_node")

    @staticmethod
    def describe(homes: int) -> Scenario:
        slots = 24 * DAYS
        return street(
            homes,
            aggregators=2,
            slots=slots,
            calendar={"start": "2026-04-01T00:00", "timezone": "UTC", "days": DAYS},
            gates={"day_ahead": "12:00", "clock": {"speed": 40_000}},
            rounds={"deadline_s": 2.0, "return_s": 2.0},
            leader={
                "objective": "welfare",
                "baseline_price": 9,
                "wholesale_price": [3 + hour % 24 / 12 for hour in range(slots)],
                "mu": 0.5,
                "price_max": 30,
            },
            homes=[describe_home(number, slots) for number in range(1, homes + 1)],
        )

    @contextmanager
    def process(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """One of our programs, which is stopped in the end."""
        with (self.folder / f"{words[0]}.log").open("w") as log:
            process = subprocess.Popen([sys.executable, "-m", *words], stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()  # which ends a forkserver and its nodes
            if words[0] == "stackelgrid":
                process.terminate()
            process.wait()

    def start(self, config: Path, package: str) -> None:
        order = {"package": package, "config": str(config), "log": str(config.with_name("node.log"))}
        assert self._nodes.stdin is not None
        self._nodes.stdin.write(json.dumps(order).encode() + b"\n")
        self._nodes.stdin.flush()

    def enrol(self, number: int) -> Path:
        """Have a home make its key and ask for a certificate, which the operator gives; give its folder."""
        name, place = f"h{number}", self.folder / f"h{number}"
        (place / "state").mkdir(parents=True)
        (place / "home.json").write_text(json.dumps(describe_home(number, 24)))
        words = ["emc_node", "init", "--enrol", f"mqtts://localhost:{self.counter.port}", "--ca", str(self.ca)]
        words += ["--name", name, "--home", str(place / "home.json"), "--to", str(place / "etc")]
        asking = subprocess.Popen(
            [sys.executable, "-m", *words, "--state", str(place / "state")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: any(each.name == name for each in self.authority.requests))
        self.authority.approve(name, "operator")
        assert asking.wait() == 0
        self.start(place / "etc" / "config.json", "emc_node")
        return place / "etc"

    def ended(self) -> dict[int, Mapping[str, Any]]:
        """How each session ended that was played, by its number."""
        path = self.certs / "leaders" / "leader" / RUN / "leader.conclusion.json"
        found = read_whole_lines(path) if path.exists() else []
        return {each["session"]: each for each in found if "skipped" not in each}

    def await_members(self, tree: Mapping[str, set[str]], after: int = 0) -> int:
        """Wait for a session after that number that all of `tree`, and nobody else, have played; give its number."""
        played: list[int] = []

        def is_played() -> bool:
            for number, record in self.ended().items():
                members = {name: set(homes) for name, homes in record.get("roster", {}).get("members", {}).items()}
                if number > after and record["complete"] and members == tree:
                    played.append(number)
            return bool(played)

        until(is_played)
        return played[-1]

    def find_price(self, session: int) -> list[float]:
        """Find the last price of a session."""
        lines = read_whole_lines(self.certs / "leaders" / "leader" / RUN / "rounds.jsonl")
        return [line["price"] for line in lines if line["session"] == session][-1]

    def events(self, folder: Path) -> list[dict[str, Any]]:
        lines = (folder / "node.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def test_homes_of_a_grid_come_move_renew_and_go_and_its_sums_stay_private(tmp_path: Path) -> None:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    a1, a2 = ({f"h{number}" for number in range(first, 13, 2)} for first in (1, 2))
    with ExitStack() as stack:
        grid = Grid(tmp_path, stack)
        grid.await_members({"a1": a1, "a2": a2})
        newcomer = grid.enrol(13)
        grid.authority.move("h2", "a1")
        grid.authority.revoke("h1")
        tree = {"a1": a1 - {"h1"} | {"h2", "h13"}, "a2": a2 - {"h2"}}
        grid.await_members(tree)
        grid.authority.rotate()  # upon which the registrar asks those that enrolled to renew
        until(lambda: any(event["event"] == "certificate renewed" for event in grid.events(newcomer)))
        number = grid.await_members(tree, after=max(grid.ended()))
        price = grid.find_price(number)
    scenario = Grid.describe(13)
    day = scenario.in_session(scenario.sessions[number - 1])
    exact = without_masks(day.with_homes([home for home in day.everyone if home.id != "h1"]))
    assert price == pytest.approx(exact.rounds[-1]["price"], abs=1e-9)
