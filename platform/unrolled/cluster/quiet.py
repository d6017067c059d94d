"""Keeps what Ray says in this process off the console: it goes to a log file instead."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

# Ray reads some of these when it is imported, so they are set when this module is; a user's own value wins.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",  # the log file shows every line
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray's FutureWarning asks for
    "RAY_NUM_REDIS_GET_RETRIES": "4",  # seconds until a wrong token is reported, instead of 20
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials write their own files
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that diverged may have no score
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process less to start
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how late the end and failures of workers are seen; default 2
}.items():
    os.environ.setdefault(_name, _value)

RAY_THREADS = "ray_"
"""Ray names the threads that print worker output and error reports so."""


class LateFile(io.TextIOBase):
    """Appends to a file, but waits with it until its folder exists: a run folder is made after Ray has started.

    The file is opened for every write, so that a folder which is replaced meanwhile gets a new one.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._waiting: list[str] = []
        self._lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._path is None:
            return len(text)
        with self._lock:
            self._waiting.append(text)
            # A folder that vanishes between the two calls only means waiting longer, and so does a disk that is full.
            with contextlib.suppress(OSError):
                if self._path.parent.is_dir():
                    with self._path.open("a", encoding="utf-8") as file:
                        file.writelines(self._waiting)
                    self._waiting.clear()
        return len(text)


class _ByThread:
    """A standard stream for everybody but Ray's own threads, who get the log."""

    def __init__(self, visible: TextIO, chatter: LateFile) -> None:
        self._visible = visible
        self._chatter = chatter

    def __getattr__(self, name: str) -> Any:
        ray = threading.current_thread().name.startswith(RAY_THREADS)
        return getattr(self._chatter if ray else self._visible, name)


@contextmanager
def quiet(log: Path | None) -> Iterator[LateFile]:
    """While open, Ray's messages in this process go to `log` (nowhere if None), yielded as a stream.

    Covers Ray's logger, what Ray's threads print for workers on any node, and C++ lines on file descriptor 2, which
    arrive when the context closes. Everybody else's `print` still reaches the console.
    """
    chatter = LateFile(log)
    stdout, stderr = sys.stdout, sys.stderr
    with _logger_to(chatter), _descriptor_to(chatter) as visible:
        sys.stdout = cast(TextIO, _ByThread(stdout, chatter))
        sys.stderr = cast(TextIO, _ByThread(visible, chatter))
        try:
            yield chatter
        finally:
            sys.stdout, sys.stderr = stdout, stderr


@contextmanager
def _logger_to(chatter: LateFile) -> Iterator[None]:
    import ray  # noqa: F401 - it gives its logger the handlers that are replaced here

    logger = logging.getLogger("ray")
    before = logger.handlers[:]
    logger.handlers[:] = [logging.StreamHandler(chatter)]
    try:
        yield
    finally:
        logger.handlers[:] = before


@contextmanager
def _descriptor_to(chatter: LateFile) -> Iterator[TextIO]:
    """Takes file descriptor 2 from the process; yields the stream that writes where it used to lead."""
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
            chatter.write(caught.read().decode(errors="replace"))


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):  # a notebook's stream has none
        return None
