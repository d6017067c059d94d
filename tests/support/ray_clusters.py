"""Real Ray clusters of several nodes on this machine, each with a token of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

BINARIES = Path(sys.executable).parent
WORKER = "ray::RayTrainWorker"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], object], what: str, seconds: float = 180) -> None:
    """Waits until `condition` holds; fails after `seconds`, naming `what` was expected."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.1)


def processes() -> Iterator[tuple[int, int, str]]:
    """Number, session and command line of every process that runs."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, _, session = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
                if state != "Z":
                    yield int(folder.name), int(session), (folder / "cmdline").read_text(errors="replace")


def of_session(session: int, word: str = "") -> list[int]:
    """Process ids in a session whose command line contains `word`: those started by the session's leader, not by other
    tests that run at the same time."""
    return [pid for pid, one, line in processes() if one == session and word in line]


class Node:
    """One node: `ray start --block` and the processes that it starts, in a session of their own."""

    def __init__(self, folder: Path, environment: dict[str, str], **options: object) -> None:
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in options.items() if value is not True]
        flags += [f"--{key}" for key, value in options.items() if value is True]
        self._log = folder / f"node-{secrets.token_hex(4)}.txt"
        with self._log.open("w") as output:
            self._process = subprocess.Popen(
                [str(BINARIES / "ray"), "start", "--block", *flags],
                env=environment | {"RAY_AUTH_MODE": "token"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def session(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def processes(self, word: str = "") -> list[int]:
        """Numbers of those of its processes that have `word` in their command line."""
        return of_session(self.session, word)

    def kill(self) -> None:
        """Ends all its processes at once, as when the power fails; `ray stop` would end other clusters' too."""

        def none_left() -> bool:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.poll()
            return not self.processes()

        wait_until(none_left, "the end of a node", 30)


class Cluster:
    """A head, and the nodes that join it.

    Attributes:
        address: for `unrolled train --address`.
        url: of its job server.
        environment: of commands that use it.
    """

    def __init__(self, folder: Path, cpus: int) -> None:
        self._folder = folder
        port, dashboard, client = (free_port() for _ in range(3))
        token = secrets.token_hex(32)
        self.address, self.url = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment |= {
            "PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}",  # jobs run `python`
            "RAY_AUTH_TOKEN": token,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.nodes: list[Node] = []
        ports = {"port": port, "dashboard_port": dashboard, "ray_client_server_port": client}
        head = self._start(cpus, head=True, temp_dir=folder, **ports)
        header = {"Authorization": f"Bearer {token}"}

        def answers() -> bool:
            assert not head.ended, "the head of the test cluster did not start"
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"{self.url}/api/version", headers=header, timeout=5).ok
            return False

        try:
            wait_until(answers, "the head of the test cluster", 90)
        except BaseException:
            self.end()
            raise

    def add(self, cpus: int) -> Node:
        """Starts a node that joins; returns before it has."""
        return self._start(cpus, address=self.address)

    def _start(self, cpus: int, **options: object) -> Node:
        # Worker ports are left to the system, or two nodes of one machine would choose the same.
        free = {"min_worker_port": 0, "max_worker_port": 0, "dashboard_agent_listen_port": free_port()}
        self.nodes.append(Node(self._folder, self.environment, num_cpus=cpus, **free, **options))
        return self.nodes[-1]

    def end(self) -> None:
        """Ends every node."""
        for node in self.nodes:
            node.kill()


@contextmanager
def cluster(cpus: int) -> Iterator[Cluster]:
    """A cluster of a head with so many CPUs; at the end no process of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray puts sockets there, whose paths are limited
    try:
        running = Cluster(folder, cpus)
        try:
            yield running
        finally:
            running.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
