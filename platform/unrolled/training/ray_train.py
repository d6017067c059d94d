"""Training on Ray Train workers."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig

from unrolled.errors import Diverged, RunFailed, UserError
from unrolled.files import write_atomic
from unrolled.training.checkpoint import Progress
from unrolled.training.distributed import ProcessGroup
from unrolled.training.run_dir import RunDir
from unrolled.training.trainer import train_worker

POLL_SECONDS = 0.2


def train_on_ray(
    run: RunDir,
    fingerprint: str,
    show: Callable[[dict[str, Any]], None],
    *,
    workers: tuple[int, int],
    cpus: int,
    gpu: bool,
    restarts: int,
) -> Progress:
    """Trains `run` on Ray Train workers. Ray must be initialised.

    The caller's thread stays free for signals; `run.stop_file` ends the workers.

    Args:
        fingerprint: of the prepared data.
        show: receives rows of metrics.jsonl as they appear.
        workers: the smallest and largest number of workers. Where they differ, Ray restarts the group whenever
            another number fits; it continues from the newest checkpoint.
        cpus: CPUs per worker.
        gpu: whether each worker has a GPU.
        restarts: how often a failed group is restarted.

    Raises:
        UserError: the user's input caused an error in a worker.
        RunFailed: workers failed more often than `restarts`; its subclass `Diverged` if losses are not finite.
    """
    _failure_file(run).unlink(missing_ok=True)
    least, most = workers
    number = least if least == most else workers
    settings = {"run": str(run.path), "fingerprint": fingerprint, "threads": cpus}
    resources = {"CPU": float(cpus)} | ({"GPU": 1.0} if gpu else {})
    with tempfile.TemporaryDirectory(prefix="unrolled-ray-") as scratch:
        trainer = ray.train.torch.TorchTrainer(
            _worker,
            train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=number, use_gpu=gpu, resources_per_worker=resources),
            run_config=RunConfig(
                # Nothing here is needed again: checkpoints are in the run folder.
                name=Path(scratch).name,
                storage_path=scratch,
                # A group that does not fit must not be waited for without limit: CPUs may be lost after they were
                # counted. For an elastic group Ray counts again, but includes a lost node for up to 20 s.
                failure_config=FailureConfig(
                    max_failures=restarts, controller_failure_limit=1 if least == most else restarts + 1
                ),
            ),
        )
        outcome = _run_in_thread(trainer, run, show)
    if _failure_file(run).exists():
        kind, _, message = _failure_file(run).read_text(encoding="utf-8").partition("\n")
        raise {"UserError": UserError, "RunFailed": RunFailed, "Diverged": Diverged}[kind](message)
    for failure in getattr(outcome, "worker_failures", {}).values():
        if isinstance(failure, (UserError, RunFailed)):  # not in the file where the disk is full
            raise failure
    if isinstance(outcome, BaseException):
        reason = str(outcome).strip().splitlines()[-1] if str(outcome).strip() else type(outcome).__name__
        raise RunFailed(f"the workers failed and {restarts} restarts did not help: {reason}. Details: {run.log}")
    return Progress(**outcome.return_value)


def _failure_file(run: RunDir) -> Path:
    return run.path / ".failure"


def _worker(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Runs in each Ray Train worker.

    A failure that a restart cannot repair is written to a file, so that the next attempt returns at once.
    """
    run = RunDir(Path(settings["run"]))
    if _failure_file(run).exists():
        return None
    try:
        device = ray.train.torch.get_device()
        assert isinstance(device, torch.device)
        comm = ProcessGroup()
        progress = train_worker(run, settings["fingerprint"], comm, device=device, threads=settings["threads"])
    except (UserError, RunFailed) as error:
        with suppress(OSError):  # the disk may be the cause
            write_atomic(_failure_file(run), f"{type(error).__name__}\n{error}")
        raise
    return asdict(progress)


def _run_in_thread(trainer: ray.train.torch.TorchTrainer, run: RunDir, show: Callable[[dict[str, Any]], None]) -> Any:
    """Runs the trainer in a thread and shows metrics.jsonl as it grows; returns the result or the exception."""
    outcome: list[Any] = []

    def fit() -> None:
        try:
            outcome.append(trainer.fit())
        except BaseException as error:
            outcome.append(error)

    tail = _MetricsTail(run)
    thread = threading.Thread(target=fit, name="ray_train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        for row in tail.new_rows():
            show(row)
    return outcome[0]


class _MetricsTail:
    """Iterates over new rows of metrics.jsonl, also when restarted workers replace the file."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._inode = self._size = self._read = self._resumed = 0
        self.new_rows()

    def new_rows(self) -> list[dict[str, Any]]:
        if not self._run.metrics.exists():
            return []
        stat, inode = self._run.metrics.stat(), self._inode
        if (stat.st_ino, stat.st_size) == (inode, self._size):
            return []
        self._inode, self._size = stat.st_ino, stat.st_size
        rows = self._run.history()
        resumed = [i for i, row in enumerate(rows) if row["kind"] == "resume"]
        if inode not in (0, self._inode):
            # Restarted workers replace the file by its rows up to their checkpoint and append a `resume` row.
            self._read = resumed[-1] if len(resumed) > self._resumed else len(rows)
        new = rows[self._read :]
        self._read, self._resumed = len(rows), len(resumed)
        return new
