"""Ray sessions: a private Ray or a running cluster, its free resources, its messages and its token."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

from unrolled.errors import UserError

# Ray reads some of these when it is imported, so they are set when this module is; a user's own value wins.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",  # the log file shows every line
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # silences a FutureWarning of Ray's
    "RAY_NUM_REDIS_GET_RETRIES": "4",  # seconds until a wrong token is reported, instead of 20
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials write their own files
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that diverged may have no score
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less to start
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how late the end and failures of workers are noticed; default 2
}.items():
    os.environ.setdefault(_name, _value)

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
PROBE_SECONDS = 15
RELEASE_SECONDS = 5.0
"""Time for which a shortage of CPUs is measured again, since Ray counts them as free some time after their release."""
RAY_THREADS = "ray_"
"""Prefix of the names of Ray's threads that print worker output and error reports."""


# Sessions -------------------------------------------------------------------------------------------------


@contextmanager
def connect(address: str | None = None, log: Path | None = None) -> Iterator[Resources]:
    """Opens a Ray session and closes it at the end.

    A Ray that this process has initialised already is used and left running. Otherwise `address` or `$RAY_ADDRESS`
    names the cluster to join, and without either a private Ray starts on this machine.

    Args:
        address: ``HOST:PORT`` of a cluster's head as `ray start` prints it, or ``auto`` for the one on this machine.
        log: file for all messages of Ray and its workers; None drops them.

    Raises:
        UserError: there is no such cluster, or it refuses the token.
    """
    with quiet(log) as log_stream:
        import ray

        if ray.is_initialized():
            yield cluster_resources()
            return
        target = address or os.environ.get("RAY_ADDRESS") or "local"
        with _restored_sigterm_handler():
            _start_local() if target == "local" else _join(target)
            _exit_on_sigterm()
            try:
                yield cluster_resources()
            finally:
                with redirect_stdout(log_stream):
                    ray.shutdown()


def _start_local() -> None:
    import ray

    try:
        ray.init(address="local", include_dashboard=False)
    except Exception as error:  # Ray's own, where the machine is too busy to start a node within 30 s
        raise UserError(f"Ray does not start on this machine: {_last_line(str(error))}") from error


def _join(address: str) -> None:
    import ray

    # Ray sets this for the driver of a submitted job, where package and token are in place.
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    options: dict[str, Any] = {}
    if not submitted:
        _check_cluster(address)
        options["runtime_env"] = {"py_modules": [str(PACKAGE_FOLDER)], "excludes": ["__pycache__"]}
    try:
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(f"cannot join the Ray cluster at {address}: {_last_line(str(error))}") from error


def _check_cluster(address: str) -> None:
    """Checks in bounded time that the cluster answers and accepts the token: `ray.init` may try for minutes."""
    if "://" in address:
        raise UserError(
            f"--address {address}: give HOST:PORT of the cluster's head as `ray start` prints it, on one of its nodes; "
            "from elsewhere use `unrolled submit --address http://HOST:8265`."
        )
    place = "on this machine" if address == "auto" else f"at {address}"
    if address != "auto":
        _check_port(address)
    failure = _trial_connection(address)
    if _is_authentication_failure(failure) and "RAY_AUTH_MODE" not in os.environ and find_token():
        use_token()
        failure = _trial_connection(address)
    if _is_authentication_failure(failure):
        raise UserError(authentication_error(f"the Ray cluster {place}"))
    if failure:
        raise UserError(f"cannot join the Ray cluster {place}: {failure}")


def _check_port(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--address {address}: give HOST:PORT, such as 10.0.0.5:6379, or auto.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address} ({error}).") from error


def _trial_connection(address: str) -> str:
    """Joins and leaves the cluster in a separate process; returns an empty string, or the reason of the failure."""
    command = [sys.executable, "-c", "import sys, ray; ray.init(address=sys.argv[1])", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"what listens there does not answer like a Ray head within {PROBE_SECONDS} s."
    if done.returncode == 0:
        return ""
    return done.stderr if _is_authentication_failure(done.stderr) else _last_line(done.stderr)


def _last_line(text: str) -> str:
    """Returns the last line of a traceback or message, which names the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason."


@contextmanager
def _restored_sigterm_handler() -> Iterator[None]:
    """Restores, at the end, the SIGTERM handler that Ray replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _exit_on_sigterm() -> None:
    """Replaces Ray's SIGTERM handlers, one of which prints a stack trace: the process unwinds and Ray ends with it."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, leave)


# Resources ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs of a cluster: in total, free now, and (CPUs, GPUs) per node."""

    cpus: float
    gpus: float
    free_cpus: float
    free_gpus: float
    nodes: tuple[tuple[float, float], ...]

    def capacity(self, cpus: float, gpus: float) -> int:
        """Returns how many workers of that size the empty cluster holds; a worker runs on one node."""
        return sum(_fitting((cpus, gpus), node) for node in self.nodes)

    def require(self, workers: int, cpus_per_worker: float = 1, gpus_per_worker: float = 0) -> Resources:
        """Checks that the workers can start now, since Ray would wait without limit or message; returns the
        measurement, this one or a later one, in which they can.

        Raises:
            UserError: they cannot; says how many could.
        """
        if workers < 1:
            raise UserError(f"--workers {workers}: give 1 or more.")
        size = cpus_per_worker, gpus_per_worker
        capacity, now = self.capacity(*size), self
        deadline = time.monotonic() + RELEASE_SECONDS
        while now._free_capacity(size) < workers <= capacity and time.monotonic() < deadline:
            time.sleep(0.25)
            now = cluster_resources()
        most = min(capacity, now._free_capacity(size))
        if most < workers:
            raise UserError(now._shortage(workers, size, most))
        return now

    def per_worker(self, workers: int) -> tuple[int, bool]:
        """Returns the CPUs per worker, and whether each gets a GPU, which is so where there are as many as workers.

        Raises:
            UserError: the workers cannot start now.
        """
        gpu = 1 <= workers <= min(self.free_gpus, self.capacity(1, 1))
        most = int(self.require(workers, 1, int(gpu)).free_cpus // workers)
        return next((cpus for cpus in range(most, 1, -1) if self.capacity(cpus, int(gpu)) >= workers), 1), gpu

    def workers_between(self, least: int, most: int) -> int:
        """Returns the largest number of workers from `least` to `most` that can start now, or `least`."""
        return next((n for n in range(most, least, -1) if min(self.capacity(1, 0), self.free_cpus) >= n), least)

    def _free_capacity(self, size: tuple[float, float]) -> int:
        return _fitting(size, (self.free_cpus, self.free_gpus))

    def _shortage(self, workers: int, size: tuple[float, float], most: int) -> str:
        kinds = [("CPU", size[0], self.cpus, self.free_cpus), ("GPU", size[1], self.gpus, self.free_gpus)]
        short = [kind for kind in kinds if kind[1] * workers > kind[3]]
        name, per_worker, total, free = (short or kinds)[0]
        plural = "" if per_worker * workers == 1 else "s"
        nodes = f" on {len(self.nodes)} nodes, and a worker sits on one of them" if not short else ""
        advice = f"Use --workers {most} or fewer." if most else "Wait until other work ends, or use a larger cluster."
        return (
            f"--workers {workers} needs {per_worker * workers:g} {name}{plural}; "
            f"the cluster has {total:g} ({free:g} free){nodes}. {advice}"
        )


def _fitting(size: tuple[float, float], space: tuple[float, float]) -> int:
    return int(min((have // need for need, have in zip(size, space, strict=True) if need), default=0))


def cluster_resources() -> Resources:
    """Returns the resources of the connected cluster. Ray must be initialised."""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Resources(
        cpus=total.get("CPU", 0.0),
        gpus=total.get("GPU", 0.0),
        free_cpus=free.get("CPU", 0.0),  # Ray leaves the key out when nothing is free
        free_gpus=free.get("GPU", 0.0),
        nodes=tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes),
    )


# Token authentication, Ray's default since 2.60 -----------------------------------------------------------


def find_token() -> str | None:
    """Returns the token of `$RAY_AUTH_TOKEN`, of the file `$RAY_AUTH_TOKEN_PATH`, or of ~/.ray/auth_token."""
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return given
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def use_token() -> None:
    """Makes Ray in this process and its children present the token, as ``RAY_AUTH_MODE=token`` does from the start."""
    os.environ["RAY_AUTH_MODE"] = "token"
    if "ray" in sys.modules:
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")


def authentication_error(cluster: str) -> str:
    """Returns the sentence for a cluster that requires a token or refuses the given one."""
    if find_token() is None:
        return (
            f"{cluster} asks for a token and there is none here: copy ~/.ray/auth_token from the cluster's head node, "
            "or set RAY_AUTH_TOKEN."
        )
    return f"{cluster} refuses our token: compare RAY_AUTH_TOKEN or ~/.ray/auth_token with the cluster's head node."


def _is_authentication_failure(message: str) -> bool:
    return "InvalidAuthToken" in message or "AuthenticationError" in message


# Ray's messages -------------------------------------------------------------------------------------------


@contextmanager
def quiet(log: Path | None) -> Iterator[DeferredLog]:
    """While open, Ray's messages in this process go to `log` (nowhere if None), which is yielded as a stream.

    Covers Ray's logger, the lines that Ray's threads print for workers on any node, and lines of C++ code on file
    descriptor 2, which arrive when the context closes. Any other `print` still reaches the console.
    """
    log_stream = DeferredLog(log)
    stdout, stderr = sys.stdout, sys.stderr
    with _redirected_logger(log_stream), _redirected_descriptor(log_stream) as console:
        sys.stdout = cast(TextIO, _StreamByThread(stdout, log_stream))
        sys.stderr = cast(TextIO, _StreamByThread(console, log_stream))
        try:
            yield log_stream
        finally:
            sys.stdout, sys.stderr = stdout, stderr


class DeferredLog(io.TextIOBase):
    """Appends to a file once its folder exists: a run folder is made after Ray has started.

    The file is opened for every write, so that a folder which is replaced meanwhile gets a new one.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._buffer: list[str] = []
        self._lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._path is None:
            return len(text)
        with self._lock:
            self._buffer.append(text)
            # If the folder vanishes between the two calls, or the disk is full, the text stays in the buffer.
            with contextlib.suppress(OSError):
                if self._path.parent.is_dir():
                    with self._path.open("a", encoding="utf-8") as file:
                        file.writelines(self._buffer)
                    self._buffer.clear()
        return len(text)


class _StreamByThread:
    """A standard stream that is the log for Ray's threads and the console for all others."""

    def __init__(self, console: TextIO, log: DeferredLog) -> None:
        self._console = console
        self._log = log

    def __getattr__(self, name: str) -> Any:
        ray = threading.current_thread().name.startswith(RAY_THREADS)
        return getattr(self._log if ray else self._console, name)


@contextmanager
def _redirected_logger(log: DeferredLog) -> Iterator[None]:
    import ray  # noqa: F401 - it gives its logger the handlers that are replaced here

    logger = logging.getLogger("ray")
    before = logger.handlers[:]
    logger.handlers[:] = [logging.StreamHandler(log)]
    try:
        yield
    finally:
        logger.handlers[:] = before


@contextmanager
def _redirected_descriptor(log: DeferredLog) -> Iterator[TextIO]:
    """Redirects file descriptor 2 of the process; yields the stream that writes to its previous target."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as caught, os.fdopen(saved, "w", buffering=1, errors="replace") as console:
        os.dup2(caught.fileno(), 2)
        try:
            yield console if _descriptor(sys.stderr) == 2 else sys.stderr
        finally:
            console.flush()
            os.dup2(saved, 2)
            caught.seek(0)
            log.write(caught.read().decode(errors="replace"))


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):  # a notebook's stream has none
        return None
